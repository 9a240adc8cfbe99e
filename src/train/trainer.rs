//! The training loop: minibatches to the device, losses back, evaluation, early stopping, checkpoints.

use super::checkpoint::{self, Best, Checkpoint, Progress as State, Sequence};
use super::evaluate::evaluate;
use super::run::{Run, schema};
use super::session::{Memory, Role, Session, mib};
use crate::config::{Config, Monitor, ScheduleKind, Temperature};
use crate::data::batch::{Minibatch, RowSource};
use crate::data::dataset::{Dataset, Rows, Split, SplitInfo};
use crate::data::prefetch::{Position, Prefetch, batches_per_epoch};
use crate::device::{Choice, RING};
use crate::error::io;
use crate::files::replace;
use crate::metrics::Evaluation;
use crate::ops::report::{Report, WORDS};
use crate::report::progress::{Progress, Task};
use crate::{Error, Result};
use serde::Serialize;
use std::collections::VecDeque;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Training steps on whole minibatches alone, from a run's first parameters on: for comparing devices, and for profiles.
pub struct Steps {
    session: Session,
    prefetch: Prefetch,
    program: usize,
    rows: usize,
    started: u64,
    under_way: VecDeque<Minibatch>,
    outputs: Vec<Vec<f32>>,
}

impl Steps {
    /// Opens a session that trains with `config`; `line` receives the plan in words.
    ///
    /// # Errors
    ///
    /// Those of [`Session::open`]; a warm-up that is longer than the training.
    pub fn open(config: &Config, dataset: &Dataset, choice: Choice, line: &mut dyn FnMut(String)) -> Result<Steps> {
        let source = dataset.split(Split::Train);
        let rows = config.train.batch_size.min(source.len());
        let mut session = Session::open(config, &schema(dataset.encoding()), choice, &[Role::Train(rows)], line)?;
        session.set_training_steps(training_steps(config, source.len())?);
        session.initialize()?;
        let (layout, builders) = (session.batch_layout(), session.builders());
        let prefetch = Prefetch::train(source, layout, rows, config.seed, Position::default(), builders)?;
        let program = session.program(Role::Train(rows))?;
        Ok(Steps { session, prefetch, program, rows, started: 0, under_way: VecDeque::new(), outputs: Vec::new() })
    }

    /// The session.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Rows of a minibatch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of the next step, from 0.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// Steps whose losses have not been received.
    pub fn in_flight(&self) -> usize {
        self.under_way.len()
    }

    /// Takes the next minibatch; also from when to when it was built.
    ///
    /// # Errors
    ///
    /// What the data reports.
    pub fn minibatch(&mut self) -> Result<(Minibatch, Range<Instant>)> {
        loop {
            let batch = self.prefetch.next()?.ok_or_else(ended_early)?;
            // The short minibatch at an epoch's end has no program here.
            if batch.rows == self.rows {
                return Ok((batch, self.prefetch.built()));
            }
            self.prefetch.recycle(batch);
        }
    }

    /// Starts a step on `batch`; at most [`RING`] may be under way.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn start(&mut self, batch: Minibatch) -> Result<()> {
        self.session.train(self.program, self.started, &batch)?;
        self.started += 1;
        self.under_way.push_back(batch);
        Ok(())
    }

    /// Waits for the losses of the oldest step under way.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn receive(&mut self) -> Result<Report> {
        self.session.receive(self.program, &mut self.outputs)?;
        self.under_way.pop_front().into_iter().for_each(|batch| self.prefetch.recycle(batch));
        Ok(bytemuck::pod_read_unaligned(bytemuck::cast_slice(&self.outputs[0])))
    }
}

/// The total loss of each of the first `steps` steps of a run of `config`, from its first parameters; for comparing devices.
///
/// # Errors
///
/// What data and device report.
pub fn first_steps(config: &Config, dataset: &Dataset, choice: Choice, steps: u64) -> Result<Vec<f32>> {
    let mut trained = Steps::open(config, dataset, choice, &mut |_| ())?;
    let loss = |_| {
        let (batch, _) = trained.minibatch()?;
        trained.start(batch)?;
        Ok(trained.receive()?.total)
    };
    (0..steps).map(loss).collect()
}

fn ended_early() -> Error {
    Error::system("the thread that builds minibatches ended early")
}

/// How training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Early stopping, or all epochs.
    Finished,
    /// The most steps that were asked for.
    MaxSteps,
    /// An interrupt.
    Interrupted,
}

/// What came out of training.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// How far it came.
    pub state: State,
    /// Training rows a second, evaluations and checkpoints left out.
    pub rows_per_second: f64,
}

/// A line of `metrics.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    step: u64,
    epoch: u64,
    /// Means since the line before.
    train: Losses,
    valid: &'a Evaluation,
    monitor: f64,
    best: bool,
    rows_per_second: f64,
    seconds: Seconds,
    /// Device memory of the plan.
    memory: Memory,
}

/// Seconds of training in this process, evaluations and checkpoints left out, and what the host did in them.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Seconds {
    all: f64,
    /// Waiting for minibatches.
    data: f64,
    /// Starting steps: uploading, encoding and submitting; on the CPU the steps themselves.
    start: f64,
    /// Waiting for steps to end.
    wait: f64,
}

impl Seconds {
    /// The parts in percent.
    fn describe(&self) -> String {
        let [data, start, wait] = [self.data, self.start, self.wait].map(|s| 100.0 * s / self.all.max(f64::MIN_POSITIVE));
        format!("data {data:.0} %, start {start:.0} %, wait {wait:.0} %")
    }
}

/// Runs `f` and adds the seconds that it takes.
fn timed<T>(seconds: &mut f64, f: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = f();
    *seconds += start.elapsed().as_secs_f64();
    result
}

/// Mean losses over training steps.
#[derive(Debug, Clone, Copy, Serialize)]
struct Losses {
    ctr: f64,
    ctcvr: f64,
    /// None where the second logit is not that of CVR.
    cvr: Option<f64>,
    contrast: f64,
    total: f64,
    tau: f64,
    relatedness: f64,
    pairing_top1: f64,
}

/// The roles that training over `rows` rows needs: whole minibatches, the short one at an epoch's end, evaluation.
pub fn roles(config: &Config, rows: usize) -> Vec<Role> {
    let (batch, tail) = (config.train.batch_size, rows % config.train.batch_size);
    let mut roles = Vec::new();
    if rows >= batch {
        roles.push(Role::Train(batch));
    }
    if tail > 0 {
        roles.push(Role::Train(tail));
    }
    roles.push(Role::Infer(config.train.evaluate_batch_size));
    roles
}

/// Steps of all epochs over `rows` rows.
///
/// # Errors
///
/// Fewer of them than the warm-up has, where the schedule ends with them.
fn training_steps(config: &Config, rows: usize) -> Result<u64> {
    let batches = batches_per_epoch(rows, config.train.batch_size);
    let steps = batches.saturating_mul(config.train.epochs);
    let schedule = &config.optimizer.schedule;
    if schedule.kind == ScheduleKind::Cosine && schedule.total_steps == 0 && steps <= schedule.warmup_steps {
        return Err(Error::user(format!(
            "optimizer.schedule.warmup_steps is {}, but all {} epochs (train.epochs) of {batches} steps have no more; lower it, or name \
             optimizer.schedule.total_steps",
            schedule.warmup_steps, config.train.epochs
        )));
    }
    Ok(steps)
}

/// Opens the session of a run: model, device, programs.
///
/// # Errors
///
/// Those of [`Session::open`]; a warm-up that is longer than the training.
pub fn open(config: &Config, dataset: &Dataset, choice: Choice, progress: &Progress) -> Result<Session> {
    let rows = dataset.split(Split::Train).len();
    let steps = training_steps(config, rows)?;
    let start = Instant::now();
    let mut session = Session::open(config, &schema(dataset.encoding()), choice, &roles(config, rows), &mut |line| {
        progress.line(line);
    })?;
    session.set_training_steps(steps);
    if start.elapsed().as_secs_f64() > 1.0 {
        progress.line(format!("opened the device in {:.1} s", start.elapsed().as_secs_f64()));
    }
    Ok(session)
}

/// Trains until the configured end, `max_steps`, or `interrupt`. With checkpoints in the run's folder it goes on from the newest; a new
/// run gets its folder once nothing is between it and the first step.
///
/// # Errors
///
/// A run that another process trains; a metric to monitor that is not defined on valid; a newest checkpoint that is gone, or of another
/// seed, batch size or number of rows. A loss that is not finite: the step, the op where it first appeared and the last good checkpoint.
/// What data, device and files report.
pub fn train(
    run: &mut Run,
    dataset: Dataset,
    choice: Choice,
    max_steps: Option<u64>,
    interrupt: &AtomicBool,
    progress: &Progress,
) -> Result<Outcome> {
    run.lock()?;
    let config = run.config().clone();
    can_monitor(config.train.monitor, &dataset.manifest().valid)?;
    let rows = dataset.split(Split::Train).len();
    let sequence = Sequence { seed: config.seed, batch_size: config.train.batch_size, rows };
    let newest = if run.is_new() { None } else { newest(run, &sequence)? };
    let mut session = open(&config, &dataset, choice, progress)?;
    let mut state = if let Some((checkpoint, state)) = newest {
        checkpoint.load(&mut session, true)?;
        state
    } else {
        session.initialize()?;
        if let Some(init) = run.init() {
            Checkpoint::open(init)?.load(&mut session, false)?;
        }
        State::default()
    };
    state.sequence = Some(sequence);
    // A run that cannot begin gets no folder.
    let dataset = run.keep(dataset)?;
    checkpoint::remove_leftovers(run.folder())?;
    keep_metrics(run, state.step)?;
    if state.finished {
        progress.line(format!("{}: has finished at step {}", run.folder().display(), state.step));
        return Ok(Outcome { end: End::Finished, state, rows_per_second: 0.0 });
    }
    let (layout, builders) = (session.batch_layout(), session.builders());
    let source = dataset.split(Split::Train);
    let prefetch = Prefetch::train(source, layout, config.train.batch_size, config.seed, state.position, builders)?;
    let mut trainer = Trainer {
        run,
        batches: batches_per_epoch(rows, config.train.batch_size),
        rows,
        config,
        valid: dataset.split(Split::Valid),
        session,
        state,
        prefetch,
        under_way: VecDeque::new(),
        outputs: Vec::new(),
        progress,
        task: None,
        trained: 0,
        seconds: Seconds::default(),
    };
    trainer.run(max_steps, interrupt)
}

struct Trainer<'a> {
    run: &'a Run,
    config: Config,
    valid: Arc<Rows>,
    rows: usize,
    batches: u64,
    session: Session,
    state: State,
    prefetch: Prefetch,
    /// Steps whose losses have not been read: number, program, minibatch.
    under_way: VecDeque<(u64, usize, Minibatch)>,
    outputs: Vec<Vec<f32>>,
    progress: &'a Progress,
    task: Option<Task>,
    /// Rows and seconds of training in this process.
    trained: u64,
    seconds: Seconds,
}

impl Trainer<'_> {
    fn run(&mut self, max_steps: Option<u64>, interrupt: &AtomicBool) -> Result<Outcome> {
        let end = loop {
            if self.state.finished {
                break End::Finished;
            }
            if max_steps.is_some_and(|most| self.state.step >= most) {
                break End::MaxSteps;
            }
            if interrupt.load(Ordering::Relaxed) {
                break End::Interrupted;
            }
            let start = Instant::now();
            let epoch_ends = self.step()?;
            self.seconds.all += start.elapsed().as_secs_f64();
            let every = |n: u64| n > 0 && self.state.step.is_multiple_of(n);
            if epoch_ends || every(self.config.train.evaluate_every) {
                self.drain()?;
                self.evaluate(epoch_ends)?;
            } else if every(self.config.train.checkpoint_every) {
                self.drain()?;
                self.save()?;
            }
        };
        if end != End::Finished {
            self.drain()?;
            self.save()?;
        }
        let rows_per_second = self.rows_per_second();
        Ok(Outcome { end, state: self.state.clone(), rows_per_second })
    }

    fn rows_per_second(&self) -> f64 {
        if self.seconds.all > 0.0 { self.trained as f64 / self.seconds.all } else { 0.0 }
    }

    /// Starts the next step; whether it was the last of its epoch.
    fn step(&mut self) -> Result<bool> {
        let batch = timed(&mut self.seconds.data, || self.prefetch.next())?.ok_or_else(ended_early)?;
        if self.task.is_none() {
            let name = format!("epoch {}", batch.epoch + 1);
            let task = self.progress.task(&name, self.rows as u64, "rows");
            task.advance(batch.index * self.config.train.batch_size as u64);
            self.task = Some(task);
        }
        let program = self.session.program(Role::Train(batch.rows))?;
        // Steps of the other program come first: losses are read in the order of the steps.
        while self.under_way.front().is_some_and(|&(_, other, _)| other != program) || self.session.in_flight(program) == RING {
            self.receive()?;
        }
        timed(&mut self.seconds.start, || self.session.train(program, self.state.step, &batch))?;
        let (epoch, index, rows) = (batch.epoch, batch.index, batch.rows);
        self.under_way.push_back((self.state.step, program, batch));
        self.state.step += 1;
        let epoch_ends = index + 1 == self.batches;
        self.state.position =
            if epoch_ends { Position { epoch: epoch + 1, batch: 0 } } else { Position { epoch, batch: index + 1 } };
        self.trained += rows as u64;
        if let Some(task) = &self.task {
            task.advance(rows as u64);
        }
        Ok(epoch_ends)
    }

    /// Reads the losses of the oldest step under way.
    fn receive(&mut self) -> Result<()> {
        let Some((step, program, batch)) = self.under_way.pop_front() else { return Ok(()) };
        timed(&mut self.seconds.wait, || self.session.receive(program, &mut self.outputs))?;
        let report: Report = bytemuck::pod_read_unaligned(bytemuck::cast_slice(&self.outputs[0]));
        if !report.total.is_finite() {
            return Err(self.not_finite(step, program, &batch));
        }
        let values: [f32; WORDS] = bytemuck::cast(report);
        self.state.sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(value));
        self.state.summed += 1;
        self.prefetch.recycle(batch);
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        let start = Instant::now();
        while !self.under_way.is_empty() {
            self.receive()?;
        }
        self.seconds.all += start.elapsed().as_secs_f64();
        Ok(())
    }

    /// The error for a loss that is not finite. Updates have been held back since, so the step can be run again to find the op.
    fn not_finite(&mut self, step: u64, program: usize, batch: &Minibatch) -> Error {
        while let Some((_, program, _)) = self.under_way.pop_front() {
            if let Err(e) = self.session.receive(program, &mut self.outputs) {
                return e;
            }
        }
        let found = match self.session.first_nonfinite(program, step, batch) {
            Ok(Some(op)) => format!("first in {op}"),
            Ok(None) => "it did not appear again when the step was run anew".into(),
            Err(e) => return e,
        };
        let of = |path: &Path| Some((path.display().to_string(), Checkpoint::open(path).ok()?.progress().ok()?.step));
        // The newest first. One of this step gave the loss.
        let all: Vec<(String, u64)> = [self.run.last(), self.run.best()].iter().filter_map(|path| of(path)).collect();
        let checkpoint = match (all.iter().find(|(_, of)| *of < step), all.first()) {
            (Some((path, step)), _) => format!("the last good checkpoint is {path} of step {step}"),
            (None, Some((path, _))) => format!("{path} already holds the parameters that give it"),
            (None, None) => "there is no checkpoint yet".into(),
        };
        Error::user(format!(
            "step {} (epoch {}): the loss is NaN or infinite, {found}; {checkpoint}; {}",
            step + 1,
            batch.epoch + 1,
            checkpoint::CALMER
        ))
    }

    fn evaluate(&mut self, epoch_ends: bool) -> Result<()> {
        self.task = None;
        let source = Arc::clone(&self.valid);
        let task = self.progress.task("valid", source.len() as u64, "rows");
        let step = self.state.step;
        let valid = evaluate(&mut self.session, source, "valid", |rows| task.advance(rows))
            .map_err(|e| e.context(format_args!("step {step}: valid")))?;
        drop(task);
        let value = monitor(self.config.train.monitor, &valid).ok_or_else(|| {
            Error::user(format!(
                "step {step}: valid has no train.monitor, against what its manifest says; prepare the data again"
            ))
        })?;
        let best = self.state.best.is_none_or(|best| value > best.value);
        if best {
            self.state.best = Some(Best { value, step: self.state.step });
            self.state.without_improvement = 0;
        } else {
            self.state.without_improvement += 1;
        }
        let losses = self.losses();
        let line = Line {
            step: self.state.step,
            epoch: self.state.position.epoch + u64::from(!epoch_ends),
            train: losses,
            valid: &valid,
            monitor: value,
            best,
            rows_per_second: self.rows_per_second(),
            seconds: self.seconds,
            memory: self.session.memory(),
        };
        let number = |x: Option<f64>| x.map_or("-".to_string(), |x| format!("{x:.4}"));
        let contrast = &self.config.contrast;
        let relatedness = match contrast.relatedness_supervision {
            0.0 => String::new(),
            _ => format!(", relatedness {:.4}", losses.relatedness),
        };
        let pairing = match contrast.temperature {
            Temperature::Off => String::new(),
            _ => format!(" tau {:.4}, pairing top-1 {:.4};", losses.tau, losses.pairing_top1),
        };
        self.progress.line(format!(
            "epoch {} step {}: loss {:.4} (ctr {:.4}, ctcvr {:.4}, cvr {}, contrast {:.4}{relatedness});{pairing} valid AUC ctr {}, cvr {}, ctcvr {}{}; {:.0} rows/s ({}), {}",
            line.epoch,
            line.step,
            losses.total,
            losses.ctr,
            losses.ctcvr,
            number(losses.cvr),
            losses.contrast,
            number(valid.ctr.auc),
            number(valid.cvr.auc),
            number(valid.ctcvr.auc),
            if best { ", the best so far" } else { "" },
            line.rows_per_second,
            self.seconds.describe(),
            mib(self.session.memory().total())
        ));
        let json = serde_json::to_string(&line).map_err(|e| Error::system(format!("metrics.jsonl: {e}")))?;
        (self.state.sums, self.state.summed) = ([0.0; WORDS], 0);
        let train = &self.config.train;
        self.state.finished =
            self.state.without_improvement >= train.patience || (epoch_ends && self.state.position.epoch >= train.epochs);
        // In this order: a process that ends in between goes on from the checkpoint before and writes the same again.
        if best {
            checkpoint::save(&mut self.session, &self.state, &self.run.best())?;
        }
        let path = self.run.metrics();
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&path).map_err(io(&path))?;
        file.write_all((json + "\n").as_bytes()).and_then(|()| file.sync_all()).map_err(io(&path))?;
        self.save()
    }

    fn losses(&self) -> Losses {
        let n = self.state.summed.max(1) as f64;
        let [ctr, ctcvr, cvr, contrast, total, tau, relatedness, pairing_top1] = self.state.sums.map(|sum| sum / n);
        let cvr = (!self.session.model().predicts_ctcvr()).then_some(cvr);
        Losses { ctr, ctcvr, cvr, contrast, total, tau, relatedness, pairing_top1 }
    }

    fn save(&mut self) -> Result<()> {
        checkpoint::save(&mut self.session, &self.state, &self.run.last())
    }
}

/// The monitored metric, higher is better; none where valid has rows of one class alone.
fn monitor(monitor: Monitor, valid: &Evaluation) -> Option<f64> {
    match monitor {
        Monitor::MeanAuc => Some((valid.ctr.auc? + valid.ctcvr.auc?) / 2.0),
        Monitor::CtrAuc => valid.ctr.auc,
        Monitor::CvrAuc => valid.cvr.auc,
        Monitor::CtcvrAuc => valid.ctcvr.auc,
        Monitor::LogLoss => Some(-(valid.ctr.log_loss? + valid.ctcvr.log_loss?)),
    }
}

/// Whether the monitored metric is defined on a valid split with these labels.
fn can_monitor(monitor: Monitor, valid: &SplitInfo) -> Result<()> {
    let &SplitInfo { rows, clicks, conversions, .. } = valid;
    let both = |positives: u64, rows: u64| 0 < positives && positives < rows;
    let (ctr, cvr, ctcvr) = (both(clicks, rows), both(conversions, clicks), both(conversions, rows));
    let defined = match monitor {
        Monitor::MeanAuc => ctr && ctcvr,
        Monitor::CtrAuc => ctr,
        Monitor::CvrAuc => cvr,
        Monitor::CtcvrAuc => ctcvr,
        Monitor::LogLoss => true,
    };
    if defined {
        return Ok(());
    }
    let name = serde_json::to_value(monitor).unwrap_or_default();
    Err(Error::user(format!(
        "data.valid: its {rows} rows, {clicks} with a click and {conversions} with a conversion, have no {} (train.monitor), which takes rows \
         of both classes; give valid other rows, or set train.monitor to another metric (log-loss takes any)",
        name.as_str().unwrap_or_default()
    )))
}

/// The newest checkpoint of a run, which must belong to `sequence`; none before the first. A process that ends within the first evaluation leaves
/// the best alone: it is the newest once its line is written.
fn newest(run: &Run, sequence: &Sequence) -> Result<Option<(Checkpoint, State)>> {
    let open = |path: &Path| {
        let checkpoint = Checkpoint::open(path)?;
        let state = checkpoint.progress()?;
        state.sequence.map_or(Ok(()), |was| was.require(sequence)).map_err(|e| e.context(path.display()))?;
        Ok((checkpoint, state))
    };
    let (last, best, metrics) = (run.last(), run.best(), run.metrics());
    if last.exists() {
        return open(&last).map(Some);
    }
    let best = best.exists().then(|| open(&best)).transpose()?;
    // A file that cannot be read is refused when its lines are kept.
    let text = std::fs::read_to_string(&metrics).unwrap_or_default();
    match text.lines().filter_map(step_of).next_back() {
        None => Ok(None),
        Some(step) if best.as_ref().is_some_and(|(_, state)| state.step >= step) => Ok(best),
        Some(step) => Err(Error::user(format!(
            "{}: is gone, but {} knows of step {step}; put it back, or train anew into another folder",
            last.display(),
            metrics.display()
        ))),
    }
}

/// The step of a line of `metrics.jsonl`; none of one that is cut off.
fn step_of(line: &str) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(line).ok()?["step"].as_u64()
}

/// Drops the lines of `metrics.jsonl` that lie after the checkpoint: they will be written again.
fn keep_metrics(run: &Run, step: u64) -> Result<()> {
    let path = run.metrics();
    let text = std::fs::read_to_string(&path).map_err(io(&path))?;
    let kept = |line: &&str| step_of(line).is_some_and(|s| s <= step);
    let lines: String = text.lines().filter(kept).flat_map(|line| [line, "\n"]).collect();
    if lines != text {
        replace(&path, checkpoint::ASIDE, lines.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_one_class_cannot_be_monitored() {
        let defined = |monitor, [rows, clicks, conversions]: [u64; 3]| {
            let (click_rate, conversion_rate) = (clicks as f64 / rows as f64, conversions as f64 / rows as f64);
            let xxh3 = String::new();
            let info = SplitInfo {
                rows,
                clicks,
                conversions,
                click_rate,
                conversion_rate,
                clicked_conversion_rate: None,
                invalid_labels: 0,
                xxh3,
            };
            can_monitor(monitor, &info).is_ok()
        };
        let all = [Monitor::MeanAuc, Monitor::CtrAuc, Monitor::CvrAuc, Monitor::CtcvrAuc, Monitor::LogLoss];
        for (labels, wanted) in [
            ([9, 5, 2], [true, true, true, true, true]),
            ([9, 5, 0], [false, true, false, false, true]),
            ([9, 5, 5], [true, true, false, true, true]),
            ([9, 9, 2], [false, false, true, true, true]),
            ([9, 0, 0], [false, false, false, false, true]),
            ([1, 1, 1], [false, false, false, false, true]),
        ] {
            assert_eq!(all.map(|monitor| defined(monitor, labels)), wanted, "{labels:?}");
        }
    }

    #[test]
    #[allow(clippy::unwrap_used, reason = "a test that fails says where")]
    fn a_cosine_ends_with_the_last_epoch_and_not_within_the_warm_up() {
        let text = "[data]\ntrain = [\"t\"]\nvalid = [\"v\"]\n[features]\ncategorical = [\"user\"]\n[train]\nbatch_size = 10\nepochs = 3\n\
                    [optimizer.schedule]\nkind = \"cosine\"\nwarmup_steps = 11";
        let mut config: Config = toml::from_str(text).unwrap();
        assert_eq!(training_steps(&config, 40).unwrap(), 12);
        config.optimizer.schedule.warmup_steps = 12;
        insta::assert_snapshot!(training_steps(&config, 31).unwrap_err(), @"optimizer.schedule.warmup_steps is 12, but all 3 epochs (train.epochs) of 4 steps have no more; lower it, or name optimizer.schedule.total_steps");
        config.optimizer.schedule.total_steps = 20;
        assert_eq!(training_steps(&config, 31).unwrap(), 12);
    }
}
