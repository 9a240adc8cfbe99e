//! `tauten evaluate`: the metrics of a trained model.

use crate::Result;
use crate::data::batch::RowSource;
use crate::data::dataset::Split;
use crate::device::Choice;
use crate::report::progress::Progress;
use crate::train::checkpoint::Checkpoint;
use crate::train::run::{Run, schema};
use crate::train::session::{Role, Session};
use std::path::{Path, PathBuf};

/// Measure a trained model on a split of its dataset: AUC, log loss and calibration of CTR (all rows), CVR (clicked rows) and CTCVR
/// (all rows), and the temperatures.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's folder.
    pub run: PathBuf,
    /// `train`, `valid` or `test`.
    #[arg(long, default_value = "test", value_parser = split)]
    pub split: Split,
    /// The dataset, where it is no longer where training found it.
    #[arg(long, value_name = "DATASET")]
    pub data: Option<PathBuf>,
    /// A checkpoint of the run [default: the best one, or the newest where there was no evaluation yet].
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
    /// `auto`, `gpu`, `cpu`, or part of an adapter's name.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// No progress.
    #[arg(short, long)]
    pub quiet: bool,
}

fn split(text: &str) -> std::result::Result<Split, String> {
    Split::ALL.into_iter().find(|s| s.name() == text).ok_or_else(|| "expected `train`, `valid` or `test`".into())
}

/// Runs the subcommand.
///
/// # Errors
///
/// Those of the run's folder, the dataset and the device; a split without rows.
pub fn run(args: &Args) -> Result<()> {
    let progress = Progress::new(args.quiet);
    let run = Run::open(&args.run)?;
    let source = run.dataset(args.data.as_deref())?.split(args.split);
    let checkpoint = checkpoint(&run, args.checkpoint.as_deref())?;
    let choice = super::choose(&args.device, &progress)?;
    let mut session = trained(&run, &checkpoint, choice, &progress)?;
    let task = progress.task(args.split.name(), source.len() as u64, "rows");
    let evaluation = crate::train::evaluate::evaluate(&mut session, source, args.split.name(), |rows| task.advance(rows))?;
    drop(task);
    if args.json { super::print_json(&evaluation) } else { super::print(&evaluation.to_string()) }
}

/// The checkpoint that was named, or the run's own.
pub(super) fn checkpoint(run: &Run, named: Option<&Path>) -> Result<Checkpoint> {
    match named {
        Some(path) => Checkpoint::open(path),
        None => Checkpoint::open(&run.checkpoint()?.0),
    }
}

/// A session with the trained parameters of a run, for inference.
pub(super) fn trained(run: &Run, checkpoint: &Checkpoint, choice: Choice, progress: &Progress) -> Result<Session> {
    let mut config = run.config().clone();
    // Nothing is updated, so no room is made for an optimizer's state.
    config.optimizer.embedding.kind = crate::config::EmbeddingRule::Sgd;
    config.optimizer.dense.kind = crate::config::DenseRule::Sgd;
    let roles = [Role::Infer(config.train.evaluate_batch_size)];
    let schema = schema(&run.encoding()?);
    let mut session = Session::open(&config, &schema, choice, &roles, &mut |line| progress.line(line))?;
    checkpoint.load(&mut session, false)?;
    progress.line(format!("parameters: {}", checkpoint.name()));
    Ok(session)
}
