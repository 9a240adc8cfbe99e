//! `tauten compare`: variants of a configuration under several seeds, side by side.

use super::evaluate::{checkpoint, trained};
use super::train::{free_folder, on_interrupt};
use crate::Result;
use crate::compare::folder::{Comparison, Measured};
use crate::compare::suite::{Suite, Variant};
use crate::compare::table::{Ended, Table};
use crate::data::batch::RowSource;
use crate::data::dataset::Split;
use crate::data::prefetch::batches_per_epoch;
use crate::device::Choice;
use crate::graph::ParameterKind;
use crate::report::progress::Progress;
use crate::train::evaluate::evaluate;
use crate::train::run::Run;
use crate::train::session::can_train;
use crate::train::trainer::{End, train};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Compare models: trains every variant of a suite under every seed on one dataset, measures each, and puts means, spreads and paired
/// t tests against the baseline into a table.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The suite: a configuration, seeds, and models with the keys that each sets or goes through.
    pub suite: PathBuf,
    /// The comparison's folder, which must not exist but for --resume [default: compare/NAME-N, NAME the suite's, N the first that is
    /// free].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on with the comparison in the folder of --out: finished runs are kept, others go on from their newest checkpoint.
    #[arg(long, requires = "out")]
    pub resume: bool,
    /// `auto` (a hardware GPU, discrete ones first, else the CPU), `gpu`, `cpu`, or part of an adapter's name.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// Override a key of every variant's configuration; a bare word is a string. May be repeated.
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    pub set: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// No progress.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Runs the subcommand; exit code 1 if a run failed, 130 after an interrupt.
///
/// # Errors
///
/// Those of the suite, of its folder and of preparing. A run that fails is none: it is told of in the table.
pub fn run(args: &Args) -> Result<u8> {
    let progress = Progress::new(args.quiet);
    let suite = Suite::read(&args.suite, &args.set)?;
    let choice = super::choose(&args.device, &progress)?;
    suite.variants.iter().try_for_each(|variant| can_train(&variant.loaded.config, &choice))?;
    let interrupt = on_interrupt()?;
    let out = args.out.clone().unwrap_or_else(|| free_folder("compare", &args.suite));
    let comparison = if args.resume { Comparison::open(&suite, &out)? } else { Comparison::create(&suite, &out, &progress)? };

    let total = suite.variants.len() * suite.seeds.len();
    let inner = progress.bars();
    let task = inner.task("runs", total as u64, "runs");
    let mut ended: Vec<Vec<Ended>> = vec![Vec::new(); suite.variants.len()];
    // Seed by seed, so that what an interrupt leaves is pairs of runs.
    let runs =
        suite.seeds.iter().flat_map(|&seed| suite.variants.iter().enumerate().map(move |(v, variant)| (seed, v, variant)));
    for (i, (seed, v, variant)) in runs.enumerate() {
        let outcome = Job { comparison: &comparison, variant, seed, split: suite.split, choice: &choice }
            .measured(interrupt, &inner)
            .transpose();
        let Some(outcome) = outcome else {
            drop(task);
            let line = format!("{}: interrupted after {i} of {total} runs\ngo on: {}\n", out.display(), go_on(args, &out));
            // What reads JSON gets none from an interrupted comparison.
            if args.json {
                progress.line(line.trim_end())
            } else {
                super::print(&line)?
            }
            return Ok(super::INTERRUPTED);
        };
        let what = match &outcome {
            Ok(measured) => describe(measured),
            Err(e) => format!("failed: {e}"),
        };
        progress.line(format!("{} of {total}: {}, seed {seed}: {what}", i + 1, variant.name));
        ended[v].push(outcome.map_err(|e| e.to_string()));
        task.advance(1);
    }
    drop(task);

    let table = Table::new(&suite, &ended);
    comparison.write(&table)?;
    if args.json {
        super::print_json(&table)?;
    } else {
        super::print(&format!("{}\nruns, table.md, table.csv, table.json: {}\n", table.to_text(), out.display()))?;
    }
    Ok(u8::from(table.has_failures()))
}

/// One run of a comparison.
struct Job<'a> {
    comparison: &'a Comparison,
    variant: &'a Variant,
    seed: u64,
    split: Split,
    choice: &'a Choice,
}

impl Job<'_> {
    /// What came out of it, now or before; none after an interrupt.
    fn measured(&self, interrupt: &AtomicBool, progress: &Progress) -> Result<Option<Measured>> {
        let folder = self.comparison.run(&self.variant.name, self.seed)?;
        if let Some(measured) = Comparison::result(&folder)? {
            return Ok(Some(measured));
        }
        if interrupt.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let data = self.comparison.dataset();
        let (mut run, dataset) = if folder.exists() {
            let run = Run::open(&folder)?;
            let dataset = run.dataset(Some(&data))?;
            (run, dataset)
        } else {
            let mut loaded = self.variant.loaded.clone();
            loaded.config.seed = self.seed;
            Run::create(&loaded, &folder, Some(&data), None, progress)?
        };
        let resumed = run.last().exists() || run.best().exists();
        let batches = batches_per_epoch(dataset.split(Split::Train).len(), run.config().train.batch_size);
        let start = Instant::now();
        let outcome = train(&mut run, dataset, self.choice.clone(), None, interrupt, progress)?;
        let seconds = start.elapsed().as_secs_f64();
        if outcome.end != End::Finished {
            return Ok(None);
        }

        let source = run.dataset(Some(&data))?.split(self.split);
        let mut session = trained(&run, &checkpoint(&run, None)?, self.choice.clone(), progress)?;
        let parameters = session.model().parameters();
        let count = |kind| parameters.iter().filter(|p| p.kind == kind).map(|p| p.len() as u64).sum::<u64>();
        let dense = count(ParameterKind::Dense);
        let all = dense + count(ParameterKind::Embedding);
        let task = progress.task(self.split.name(), source.len() as u64, "rows");
        let evaluation = evaluate(&mut session, source, self.split.name(), |rows| task.advance(rows))?;
        let state = outcome.state;
        let measured = Measured {
            evaluation,
            parameters: all,
            dense_parameters: dense,
            steps: state.step,
            best_step: state.best.map(|best| best.step),
            epochs: state.step as f64 / batches as f64,
            seconds: (!resumed).then_some(seconds),
        };
        Comparison::keep(&folder, &measured)?;
        Ok(Some(measured))
    }
}

fn describe(measured: &Measured) -> String {
    let e = &measured.evaluation;
    let number = |x: Option<f64>| x.map_or("-".to_string(), |x| format!("{x:.4}"));
    let seconds = measured.seconds.map_or(String::new(), |seconds| format!("; trained in {seconds:.1} s"));
    format!("{} AUC ctr {}, cvr {}, ctcvr {}{seconds}", e.split, number(e.ctr.auc), number(e.cvr.auc), number(e.ctcvr.auc))
}

/// The command that goes on with the comparison in `out`.
fn go_on(args: &Args, out: &Path) -> String {
    let (suite, out) = (args.suite.to_string_lossy(), out.to_string_lossy());
    let sets = args.set.iter().flat_map(|set| ["--set", set]);
    super::command(&["compare", &suite, "--resume", "--out", &out].into_iter().chain(sets).collect::<Vec<_>>(), &args.device)
}
