//! `tauten demo`: the whole way on a simulated log.

use super::evaluate::{checkpoint, trained};
use crate::config::Loaded;
use crate::data::batch::RowSource;
use crate::data::dataset::{Dataset, Split};
use crate::data::input::{Block, Reader};
use crate::data::simulate::{Truth, simulate};
use crate::data::write::Format;
use crate::device::Choice;
use crate::device::gpu::{Adapter, HOW_TO_GET_ONE};
use crate::error::io;
use crate::metrics::{Evaluation, spearman};
use crate::report::progress::Progress;
use crate::train::evaluate::{evaluate, score};
use crate::train::run::Run;
use crate::train::session::Session;
use crate::train::trainer::{End, first_steps, train};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Show the whole way without data or GPU: simulates a log, prepares, trains, evaluates, predicts; then takes the same first steps on
/// every adapter there is and compares their losses with the CPU's.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder to write, new or empty [default: tauten-demo, or the first of tauten-demo-2, ... that is free].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Rows to simulate.
    #[arg(long, value_name = "N", default_value_t = ROWS)]
    pub rows: u64,
    /// The seed of the simulation.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// `auto`, `gpu`, `cpu`, or part of an adapter's name.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// No progress.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Enough rows to come within 0.01 of the best possible AUC, few enough for a minute on two cores.
const ROWS: u64 = 200_000;
/// Steps that every adapter takes.
const STEPS: u64 = 5;

/// Runs the subcommand; exit code 130 after an interrupt.
///
/// # Errors
///
/// Those of its steps.
pub fn run(args: &Args) -> Result<u8> {
    let progress = Progress::new(args.quiet);
    let start = Instant::now();
    let choice = super::choose(&args.device, &progress)?;
    let out = args.out.clone().unwrap_or_else(free_folder);
    // Simulating looks at the log's folder alone.
    if out.exists() && std::fs::read_dir(&out).map_err(io(&out))?.next().is_some() {
        return Err(Error::user(format!("{}: the folder is not empty; name a new one with --out", out.display())));
    }
    let log = out.join("log");

    let interrupt = super::train::on_interrupt()?;
    let task = progress.task("simulating", args.rows, "rows");
    let mut done = 0;
    let truth = simulate(args.rows, args.seed, &log, Format::Parquet, &mut |rows| {
        task.advance(rows - done);
        done = rows;
    })?;
    drop(task);
    let loaded = Loaded::read(&log.join("config.toml"), &[])?;
    let (mut run, dataset) = Run::create(&loaded, &out.join("run"), None, None, &progress)?;
    let outcome = train(&mut run, dataset, choice.clone(), None, interrupt, &progress)?;
    // What follows is not stopped in its middle: an interrupt ends the process, as a second one does.
    if outcome.end != End::Finished || interrupt.swap(true, Ordering::Relaxed) {
        let go_on = super::command(&["train", "--resume", &run.folder().to_string_lossy()], &args.device);
        super::print(&format!("interrupted; go on: {go_on}\n"))?;
        return Ok(super::INTERRUPTED);
    }

    let dataset = run.dataset(None)?;
    let mut session = trained(&run, &checkpoint(&run, None)?, choice, &progress)?;
    let source = dataset.split(Split::Test);
    let test = evaluate(&mut session, source.clone(), "test", |_| ())?;
    let correlation = tau_correlation(&mut session, source, &log.join("truth_test.parquet"))?;
    drop(session);
    let predictions = out.join("predictions.csv");
    super::predict::predict(&super::predict::Args {
        run: run.folder().to_path_buf(),
        inputs: vec![log.join("test.parquet")],
        out: predictions.clone(),
        keep: vec!["click".into(), "conversion".into()],
        checkpoint: None,
        device: args.device.clone(),
        quiet: true,
    })?;
    super::print(&summary(&truth, &test, correlation, start.elapsed().as_secs_f64()))?;
    super::print(&adapters(run.config(), &dataset, &progress)?)?;
    super::print(&format!(
        "\nwhere it lies\n  log, its truth and config.toml  {}\n  run, checkpoints, metrics       {}\n  predictions                     {}\n",
        log.display(),
        run.folder().display(),
        predictions.display()
    ))?;
    Ok(0)
}

fn free_folder() -> PathBuf {
    let first = PathBuf::from("tauten-demo");
    let later = (2u64..).map(|n| PathBuf::from(format!("tauten-demo-{n}")));
    std::iter::once(first).chain(later).find(|p| !p.exists()).unwrap_or_default()
}

/// The rank correlation of the learned tau with the true unrelatedness over the rows of `source`, whose truth is in `path`.
fn tau_correlation(session: &mut Session, source: Arc<dyn RowSource>, path: &Path) -> Result<Option<f64>> {
    let mut tau = Vec::new();
    let layout = session.batch_layout();
    score(session, source, layout, |_, scores| {
        tau.extend_from_slice(scores.tau.unwrap_or_default());
        Ok(())
    })?;
    let mut unrelatedness = Vec::new();
    let mut reader = Reader::open(path, &["relatedness".to_string()])?;
    let mut block = Block::default();
    while reader.next(&mut block)? {
        for row in 0..block.rows {
            let relatedness: f32 = block.columns[0]
                .cell(row)
                .parse()
                .map_err(|_| Error::system(format!("{}: relatedness is no number", block.place(row))))?;
            unrelatedness.push(1.0 - relatedness);
        }
    }
    if tau.is_empty() { Ok(None) } else { spearman(&tau, &unrelatedness) }
}

fn summary(truth: &Truth, test: &Evaluation, correlation: Option<f64>, seconds: f64) -> String {
    let best = &truth.best_test_auc;
    let number = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.4}"));
    let gap = |x: Option<f64>, best: Option<f64>| number(best.zip(x).map(|(best, x)| best - x));
    let row = |name: &str, x: Option<f64>, best: Option<f64>| {
        format!("{name:<22} {:>8} {:>8} {:>8}\n", number(x), number(best), gap(x, best))
    };
    format!(
        "\ntest AUC               learned     best  short by\n{}{}{}\
         tau against true unrelatedness, rank correlation: {}\n\
         simulated, prepared, trained, evaluated and predicted in {seconds:.1} s\n",
        row("CTR, all rows", test.ctr.auc, best.ctr),
        row("CVR, clicked rows", test.cvr.auc, best.cvr),
        row("CTCVR, all rows", test.ctcvr.auc, best.ctcvr),
        correlation.map_or("-".into(), |c| format!("{c:+.3}")),
    )
}

/// The same first steps on every adapter, and how far their losses are from the CPU's.
fn adapters(config: &crate::config::Config, dataset: &Dataset, progress: &Progress) -> Result<String> {
    let adapters = Adapter::all();
    if adapters.is_empty() {
        return Ok(format!("\nno adapter: {}\n", HOW_TO_GET_ONE));
    }
    let task = progress.task("first steps", 1 + adapters.len() as u64, "devices");
    let wanted = first_steps(config, dataset, Choice::Cpu, STEPS)?;
    task.advance(1);
    let mut text = format!("\nthe first {STEPS} steps through the shaders, against the CPU's losses\n");
    for adapter in adapters {
        let name = adapter.describe();
        let line = match first_steps(config, dataset, Choice::Gpu(Box::new(adapter)), STEPS) {
            Ok(losses) => {
                let far = losses.iter().zip(&wanted).map(|(a, b)| ((a - b) / b).abs()).fold(0.0, f32::max);
                format!("at most {far:.1e} apart (relative)")
            }
            // An adapter that cannot run this is told of, and the others still have their turn.
            Err(e) => format!("failed: {e}"),
        };
        text += &format!("  {name}: {line}\n");
        task.advance(1);
    }
    Ok(text)
}
