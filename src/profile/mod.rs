//! Profiles: where a training step's time goes, on the device and on the host, against what the device can do.
//!
//! [`train`] profiles the steps of a configuration, [`sweep`] one kernel over sizes, [`tune`] the tiles of matrix products. A device measures itself ([`timeline`]); what is
//! here puts its intervals side by side: as lines ([`lines`]), a table for people ([`table`]), a trace for Perfetto ([`trace`]) and a
//! picture of the roofline ([`roofline`]).
//!
//! [`timeline`]: crate::device::timeline

pub mod lines;
pub mod roofline;
pub mod roofs;
pub mod sweep;
pub mod table;
pub mod trace;
pub mod tune;

use crate::config::Config;
use crate::data::batch::Minibatch;
use crate::data::dataset::{Dataset, Split};
use crate::device::gpu::Adapter;
use crate::device::timeline::{Activity, Clock, Mode, Span, Timeline};
use crate::device::{Choice, RING};
use crate::ops::Ids;
use crate::report::progress::Progress;
use crate::train::session::Memory;
use crate::train::trainer::Steps;
use crate::{Error, Result};
use lines::{Line, Node, Times};
use roofs::{Bound, Roofs};
use serde::Serialize;
use std::time::Instant;

/// Steps before a turn's measured ones: they take what was built and submitted ahead, so that the measured ones wait as in a long run.
const LEAD: usize = RING;
/// Turns into which the measured steps are cut: plain and recorded ones alternate, so that whatever else the machine does meets both.
const TURNS: usize = 4;
/// Part of a step that the device must be busy for, to be what holds it back.
const BUSY: f64 = 0.8;
/// Part of the time that a kernel near its roof needs at the most, in percent.
const NEAR: f64 = 60.0;
/// Microseconds of work below which a dispatch is mostly its beginning and end.
const LITTLE_US: f64 = 10.0;

/// A profile: everything that is printed and written.
#[derive(Debug, Serialize)]
pub struct Profile {
    /// The device in words.
    pub device: String,
    /// The adapter; none on the CPU.
    pub adapter: Option<serde_json::Value>,
    /// How finely the device's own time was recorded.
    pub mode: Mode,
    /// Why the device has no time of its own, where it has none.
    pub missing: Option<String>,
    /// Most that the device's intervals may be misplaced on the host's clock, in microseconds; 0 where it is the host's.
    pub clock_error_us: Option<f64>,
    /// Intervals left out since their timestamps make no sense.
    pub unusable_timestamps: usize,
    /// The roofs.
    pub roofs: Roofs,
    /// The lines, the longest share first.
    pub kernels: Vec<Line>,
    /// The whole step; none for a kernel alone.
    pub step: Option<Step>,
    /// What was recorded.
    #[serde(skip)]
    pub recorded: Recorded,
}

/// A whole step, and what the host did in it.
#[derive(Debug, Serialize)]
pub struct Step {
    /// Rows of a minibatch.
    pub rows: usize,
    /// Measured steps, and as many plain ones.
    pub steps: usize,
    /// Dispatches of a step.
    pub dispatches: usize,
    /// Threads that build minibatches.
    pub builders: usize,
    /// Of a recorded step, from one to the next.
    pub recorded: Times,
    /// Of a plain step, in the same run.
    pub plain: Times,
    /// How much longer a recorded step takes than a plain one, as a part of it: the median over turns.
    pub overhead: f64,
    /// The same, of the turn with the least and that with the most.
    pub overhead_range: [f64; 2],
    /// Rows a second of plain steps, by the median.
    pub rows_per_second: f64,
    /// Part of a recorded step in which the device works; none where it gave no time.
    pub device_busy: Option<f64>,
    /// The host's activities.
    pub host: Vec<HostLine>,
    /// Bytes that the process had read from disks during recorded steps, a step; none where the system does not say.
    pub disk_bytes: Option<f64>,
    /// Device memory.
    pub memory: Memory,
    /// What holds the step back, and what to do.
    pub advice: String,
}

/// What the host does in a step.
#[derive(Debug, Clone, Serialize)]
pub struct HostLine {
    /// What it does.
    pub name: &'static str,
    /// Time of a step.
    #[serde(flatten)]
    pub times: Times,
    /// Part of a recorded step; threads that build minibatches work beside it, together more than all of it where there are several.
    pub share: f64,
    #[serde(skip)]
    activity: Activity,
}

/// The names of the host's activities.
pub fn name(activity: Activity) -> Option<&'static str> {
    match activity {
        Activity::Build => Some("build a minibatch (its own thread)"),
        Activity::Data => Some("wait for a minibatch"),
        Activity::Upload => Some("upload"),
        Activity::Encode => Some("encode"),
        Activity::Submit => Some("submit"),
        Activity::Wait => Some("wait for the device"),
        Activity::Readback => Some("read back"),
        Activity::Phase(_) | Activity::Node(_) => None,
    }
}

/// The host's activities in the order of a step.
const HOST: [Activity; 7] =
    [Activity::Build, Activity::Data, Activity::Upload, Activity::Encode, Activity::Submit, Activity::Wait, Activity::Readback];

/// Intervals of recorded steps, and the nodes that they speak of.
#[derive(Debug, Default)]
pub struct Recorded {
    /// The plan's nodes.
    pub nodes: Vec<Node>,
    /// All intervals, those of steps before the measured ones too.
    pub spans: Vec<Span>,
    /// The intervals within measured steps.
    measured: Vec<Span>,
    /// Seconds in which the device worked while measured steps ran, whichever step it was at.
    busy: f64,
    /// Ids of all minibatches, by table.
    ids: Vec<Ids>,
    /// How many minibatches these are of.
    minibatches: usize,
    missing: Option<String>,
    error_us: Option<f64>,
    unusable: usize,
}

impl Recorded {
    /// Counts the ids of a minibatch.
    fn count(&mut self, batch: &Minibatch) {
        self.minibatches += 1;
        self.ids.resize(batch.tables.len(), Ids::default());
        for (ids, table) in self.ids.iter_mut().zip(&batch.tables) {
            ids.all += table.ids.len() as f64;
            ids.distinct += (table.segments.len() - 1) as f64;
            ids.chunked += table.chunks.iter().map(|[start, end]| f64::from(end - start)).sum::<f64>();
            ids.chunks += table.chunks.len() as f64;
        }
    }

    /// The ids of a minibatch on average, by table.
    fn ids(&self) -> Vec<Ids> {
        let mean = |n: f64| n / self.minibatches.max(1) as f64;
        let of = |ids: &Ids| Ids {
            all: mean(ids.all),
            distinct: mean(ids.distinct),
            chunked: mean(ids.chunked),
            chunks: mean(ids.chunks),
        };
        self.ids.iter().map(of).collect()
    }

    /// Takes a timeline in; `is_measured` says of each interval whether it counts.
    fn add(&mut self, timeline: Timeline, is_measured: impl Fn(&Span) -> bool) {
        match timeline.clock {
            Clock::Host => self.error_us = Some(0.0),
            Clock::Device { error, unusable } => {
                self.error_us = Some(self.error_us.unwrap_or(0.0).max(error.as_secs_f64() * 1e6));
                self.unusable += unusable;
            }
            Clock::Missing(why) => self.missing = Some(why),
        }
        self.measured.extend(timeline.spans.iter().filter(|s| is_measured(s)));
        self.spans.extend(timeline.spans);
    }

    fn profile(self, choice: &Choice, mode: Mode, roofs: Roofs, kernels: Vec<Line>, step: Option<Step>) -> Profile {
        Profile {
            device: choice.describe(),
            adapter: match choice {
                Choice::Cpu => None,
                Choice::Gpu(adapter) => Some(Adapter::to_json(adapter)),
            },
            mode,
            missing: self.missing.clone(),
            clock_error_us: self.error_us,
            unusable_timestamps: self.unusable,
            roofs,
            kernels,
            step,
            recorded: self,
        }
    }
}

/// Profiles training steps of `config`: `steps` recorded ones and as many plain ones.
///
/// # Errors
///
/// Those of [`Steps::open`]; what data and device report.
pub fn train(
    config: &Config,
    dataset: &Dataset,
    choice: Choice,
    steps: usize,
    mode: Mode,
    progress: &Progress,
) -> Result<Profile> {
    let choice = choice.with_timestamps();
    let task = progress.task("measuring", 2, "roofs");
    let roofs = Roofs::measure(&choice, &task)?;
    drop(task);
    let mut trained = Steps::open(config, dataset, choice.clone(), &mut |line| progress.line(line))?;
    let turns = TURNS.min(steps);
    let sizes: Vec<usize> = (0..turns).map(|i| steps * (i + 1) / turns - steps * i / turns).collect();
    let task = progress.task("profiling", (2 * (steps + turns * LEAD) + LEAD + 1) as u64, "steps");
    // The first step is the device's own measuring of its nodes, the others touch everything once more.
    turn(&mut trained, 1, None, &mut Recorded::default())?;
    task.advance(LEAD as u64 + 1);
    let rows = trained.rows();
    let nodes = Node::all(&trained.session().model().training_plan(rows));
    let mut recorded = Recorded { nodes, ..Recorded::default() };
    let (mut plain, mut timed, mut ratios, mut disk) = (Vec::new(), Vec::new(), Vec::new(), Some(0));
    for size in sizes {
        let before = turn(&mut trained, size, None, &mut recorded)?;
        let read = disk_bytes();
        let with = turn(&mut trained, size, Some(mode), &mut recorded)?;
        disk = disk.zip(disk_bytes().zip(read)).map(|(all, (now, then))| all + (now - then));
        ratios.push(with.iter().sum::<f64>() / before.iter().sum::<f64>() - 1.0);
        plain.extend(before);
        timed.extend(with);
        task.advance(2 * (size + LEAD) as u64);
    }
    drop(task);
    ratios.sort_by(f64::total_cmp);
    let ids = recorded.ids();
    Node::count_ids(&mut recorded.nodes, &ids);
    let kernels = lines::lines(&recorded.nodes, &recorded.measured, mode, &roofs);
    let seconds: f64 = timed.iter().sum();
    let none = || Error::system("no step was measured");
    let (recorded_times, plain) = (Times::of(timed).ok_or_else(none)?, Times::of(plain).ok_or_else(none)?);
    let mut step = Step {
        rows,
        steps,
        dispatches: recorded.nodes.len(),
        builders: trained.session().builders(),
        recorded: recorded_times,
        plain,
        overhead: f64::midpoint(ratios[(turns - 1) / 2], ratios[turns / 2]),
        overhead_range: [ratios[0], ratios[ratios.len() - 1]],
        rows_per_second: rows as f64 / plain.median_us * 1e6,
        device_busy: recorded.missing.is_none().then_some(recorded.busy / seconds),
        host: host(&recorded.measured, seconds),
        disk_bytes: disk.map(|bytes| bytes as f64 / (steps + turns * LEAD) as f64),
        memory: trained.session().memory(),
        advice: String::new(),
    };
    let stored = (rows * dataset.split(Split::Train).row_bytes()) as f64;
    step.advice = advice(&step, &kernels, mode, stored, &choice.argument());
    Ok(recorded.profile(&choice, mode, roofs, kernels, Some(step)))
}

/// `n` steps in a row, after some that do not count: the seconds of each from its beginning to that of the next, when as many steps
/// are under way as may be.
fn turn(steps: &mut Steps, n: usize, mode: Option<Mode>, recorded: &mut Recorded) -> Result<Vec<f64>> {
    mode.map(|mode| steps.session().record(mode)).transpose()?;
    let first = steps.started() as usize;
    let (mut spans, mut starts) = (Vec::new(), Vec::new());
    for i in 0..LEAD + n {
        if i >= LEAD {
            starts.push(Instant::now());
        }
        if steps.in_flight() == RING {
            steps.receive()?;
        }
        let (step, start) = (first + i, Instant::now());
        let (batch, built) = steps.minibatch()?;
        spans.push(Span { step, activity: Activity::Build, start: built.start, end: built.end });
        spans.push(Span { step, activity: Activity::Data, start, end: Instant::now() });
        recorded.count(&batch);
        steps.start(batch)?;
    }
    let end = Instant::now();
    while steps.in_flight() > 0 {
        steps.receive()?;
    }
    if mode.is_some() {
        let mut timeline = steps.session().timeline()?;
        timeline.spans.extend(spans);
        let within = |span: &Span| span.end.min(end).saturating_duration_since(span.start.max(starts[0])).as_secs_f64();
        recorded.busy += timeline.spans.iter().filter(|s| name(s.activity).is_none()).map(within).sum::<f64>();
        // A host's interval counts where it lies, a device's or the builder's by its step: they are ahead or behind.
        recorded.add(timeline, |span| match span.activity {
            Activity::Build | Activity::Phase(_) | Activity::Node(_) => span.step >= first + LEAD,
            _ => span.start >= starts[0] && span.end <= end,
        });
    }
    starts.push(end);
    Ok(starts.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect())
}

/// The host's lines, `seconds` the sum of all recorded steps.
fn host(spans: &[Span], seconds: f64) -> Vec<HostLine> {
    let line = |activity: Activity| {
        let mut steps: std::collections::BTreeMap<usize, f64> = Default::default();
        for span in spans.iter().filter(|s| s.activity == activity) {
            *steps.entry(span.step).or_default() += span.seconds();
        }
        let share = steps.values().sum::<f64>() / seconds;
        Some(HostLine { name: name(activity)?, times: Times::of(steps.into_values().collect())?, share, activity })
    };
    HOST.into_iter().filter_map(line).collect()
}

/// Bytes that this process has had read from disks, page faults of mapped files included; where the system says it (Linux).
fn disk_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("read_bytes: ")?.parse().ok())
}

/// One line: what holds the step back, and what to do. `stored` bytes of a minibatch lie in the dataset; `--device` takes `device_name`.
fn advice(step: &Step, kernels: &[Line], mode: Mode, stored: f64, device_name: &str) -> String {
    let share = |wanted: &[Activity]| step.host.iter().filter(|l| wanted.contains(&l.activity)).map(|l| l.share).sum::<f64>();
    let data = share(&[Activity::Data]);
    let submit = share(&[Activity::Submit]);
    // Where the device gives no time, the host's waiting for it is the least that it works; some drivers work while they are handed what to do.
    let device = step.device_busy.unwrap_or_else(|| share(&[Activity::Wait]) + submit);
    let (submits, submitting) =
        if step.device_busy.is_some() { (submit, ", encoding and submitting") } else { (0.0, " and encoding") };
    let host = share(&[Activity::Upload, Activity::Encode, Activity::Readback]) + submits;
    let percent = |x: f64| format!("{:.0} %", 100.0 * x);
    if device >= BUSY || device >= data + host {
        let busy = match step.device_busy {
            Some(busy) => format!("the device holds the step back, it works {} of it", percent(busy.min(1.0))),
            None => {
                format!(
                    "the device or its driver holds the step back: submitting and waiting take {} of the step",
                    percent(device)
                )
            }
        };
        let Some((top, share)) = kernels.first().and_then(|top| Some((top, top.share?))) else {
            return format!("{busy}; a smaller model, or a faster device, makes it shorter");
        };
        if mode == Mode::Cheap {
            return format!(
                "{busy}, {} of that in the {} phase; --mode detailed says in which kernels",
                percent(share),
                top.name
            );
        }
        let (name, shape, roof) = (&top.name, &top.shape, top.roof_percent.unwrap_or(0.0));
        let bound = match top.bound {
            Bound::Memory => "copy",
            Bound::Compute => "multiply-add",
        };
        let most = format!("{busy}, {} of that in {name} {shape} at {roof:.1} % of the {bound} roof", percent(share));
        let floor = top.times.map_or(f64::INFINITY, |times| times.median_us * roof / 100.0);
        return if roof >= NEAR {
            format!("{most}, which is near it: less work (a smaller model) or a faster device makes it shorter")
        } else if floor < LITTLE_US {
            format!(
                "{most}, and needs {floor:.1} µs at the least: so little work does not fill a device; a larger train.batch_size gives each of \
                 the {} dispatches more to do",
                step.dispatches
            )
        } else {
            // Some kernels alone are of sizes that the table does not have.
            let alone = sweep::check(name, std::slice::from_ref(shape)).map_or(String::new(), |()| format!(" --shape {shape}"));
            format!("{most}: there is room, look at it alone with --kernel \"{name}\"{alone} --device \"{device_name}\"")
        };
    }
    if data >= host {
        let waits = format!("the step waits {} of its time for minibatches", percent(data));
        return match step.disk_bytes {
            Some(bytes) if bytes >= stored / 2.0 => format!(
                "the disk holds the step back: {waits}, and {:.1} MiB of each are read from it; put the dataset on a faster disk or \
                 leave it more memory to stay in",
                bytes / f64::from(1 << 20)
            ),
            _ if share(&[Activity::Build]) / (step.builders as f64) < data / 2.0 => format!(
                "the host holds the step back: {waits}, which take less to build than to hand over; a larger train.batch_size makes \
                 fewer of them"
            ),
            known => {
                let who = if known.is_some() { "the host holds" } else { "the host or the disk holds" };
                let builders = match step.builders {
                    1 => "one thread builds; leave a core to it".to_string(),
                    n => format!("{n} threads build; leave them cores"),
                };
                format!("{who} the step back: {waits}, which {builders}")
            }
        };
    }
    format!(
        "the host holds the step back: {} of it goes into uploading{submitting} {} dispatches; a larger train.batch_size gives the \
         device more to do in each",
        percent(host),
        step.dispatches
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use roofs::Rate;
    use std::time::Duration;

    fn step(busy: Option<f64>, host: &[(Activity, f64)], disk_bytes: Option<f64>) -> Step {
        let times = Times { min_us: 1.0, median_us: 1.0, p95_us: 1.0 };
        let line = |&(activity, share)| HostLine { name: name(activity).unwrap_or_default(), times, share, activity };
        Step {
            rows: 1,
            steps: 1,
            dispatches: 42,
            builders: 1,
            recorded: times,
            plain: times,
            overhead: 0.0,
            overhead_range: [0.0; 2],
            rows_per_second: 1.0,
            device_busy: busy,
            host: host.iter().map(line).collect(),
            disk_bytes,
            memory: Memory { tables: 0, dense: 0, inputs: 0, activations: 0, unshared: 0, ops: 0 },
            advice: String::new(),
        }
    }

    /// The line of a kernel that takes 1 ms for `flops` operations at a multiply-add rate of 1 GFLOP/s.
    fn top(flops: f64, mode: Mode) -> Vec<Line> {
        let rate = || Rate { best: 1.0, median: 1.0, how: String::new() };
        let cost = crate::ops::Cost { bytes: 1.0, flops, ..Default::default() };
        let node = Node {
            kernel: "linear",
            shape: vec![("rows", 7)],
            module: "linear".into(),
            constants: Vec::new(),
            label: String::new(),
            phase: crate::graph::Phase::Forward,
            cost,
        };
        let start = Instant::now();
        let activity = if mode == Mode::Cheap { Activity::Phase(node.phase) } else { Activity::Node(0) };
        let span = Span { step: 0, activity, start, end: start + Duration::from_millis(1) };
        lines::lines(&[node], &[span], mode, &Roofs { copy: rate(), multiply_add: rate() })
    }

    #[test]
    fn advice_names_what_holds_the_step_back() {
        let (detailed, cheap) = (Mode::Detailed, Mode::Cheap);
        let of = |step: Step, flops: f64, mode| advice(&step, &top(flops, mode), mode, 1000.0, "cpu");
        let busy = || step(Some(0.9), &[(Activity::Data, 0.2)], None);
        insta::assert_snapshot!(of(busy(), 9e5, detailed), @"the device holds the step back, it works 90 % of it, 100 % of that in linear 7 at 90.0 % of the multiply-add roof, which is near it: less work (a smaller model) or a faster device makes it shorter");
        insta::assert_snapshot!(of(busy(), 1e5, detailed), @r#"the device holds the step back, it works 90 % of it, 100 % of that in linear 7 at 10.0 % of the multiply-add roof: there is room, look at it alone with --kernel "linear" --device "cpu""#);
        insta::assert_snapshot!(of(busy(), 1e5, cheap), @"the device holds the step back, it works 90 % of it, 100 % of that in the forward phase; --mode detailed says in which kernels");
        let unknown = step(None, &[(Activity::Wait, 0.95), (Activity::Encode, 0.04)], None);
        insta::assert_snapshot!(advice(&unknown, &[], detailed, 1000.0, "cpu"), @"the device or its driver holds the step back: submitting and waiting take 95 % of the step; a smaller model, or a faster device, makes it shorter");
        let driver = step(None, &[(Activity::Wait, 0.01), (Activity::Submit, 0.94), (Activity::Encode, 0.04)], None);
        insta::assert_snapshot!(advice(&driver, &[], detailed, 1000.0, "cpu"), @"the device or its driver holds the step back: submitting and waiting take 95 % of the step; a smaller model, or a faster device, makes it shorter");
        insta::assert_snapshot!(of(busy(), 1e3, detailed), @"the device holds the step back, it works 90 % of it, 100 % of that in linear 7 at 0.1 % of the multiply-add roof, and needs 1.0 µs at the least: so little work does not fill a device; a larger train.batch_size gives each of the 42 dispatches more to do");
        let handed = step(Some(0.2), &[(Activity::Build, 0.03), (Activity::Data, 0.6), (Activity::Encode, 0.1)], Some(0.0));
        insta::assert_snapshot!(of(handed, 1e5, detailed), @"the host holds the step back: the step waits 60 % of its time for minibatches, which take less to build than to hand over; a larger train.batch_size makes fewer of them");
        let waits = |disk| {
            step(
                Some(0.2),
                &[(Activity::Build, 0.6), (Activity::Data, 0.6), (Activity::Encode, 0.1), (Activity::Submit, 0.1)],
                disk,
            )
        };
        insta::assert_snapshot!(of(waits(Some(0.0)), 1e5, detailed), @"the host holds the step back: the step waits 60 % of its time for minibatches, which one thread builds; leave a core to it");
        insta::assert_snapshot!(of(waits(None), 1e5, detailed), @"the host or the disk holds the step back: the step waits 60 % of its time for minibatches, which one thread builds; leave a core to it");
        insta::assert_snapshot!(of(Step { builders: 2, ..waits(Some(0.0)) }, 1e5, detailed), @"the host holds the step back: the step waits 60 % of its time for minibatches, which 2 threads build; leave them cores");
        insta::assert_snapshot!(of(waits(Some(3e6)), 1e5, detailed), @"the disk holds the step back: the step waits 60 % of its time for minibatches, and 2.9 MiB of each are read from it; put the dataset on a faster disk or leave it more memory to stay in");
        let encodes = step(Some(0.2), &[(Activity::Data, 0.1), (Activity::Encode, 0.4), (Activity::Submit, 0.3)], Some(3e6));
        insta::assert_snapshot!(of(encodes, 1e5, detailed), @"the host holds the step back: 70 % of it goes into uploading, encoding and submitting 42 dispatches; a larger train.batch_size gives the device more to do in each");
    }
}
