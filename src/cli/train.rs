//! `tauten train`: a configuration to a trained model.

use crate::config::Loaded;
use crate::data::dataset::Dataset;
use crate::files::aside::abandon;
use crate::report::progress::{Progress, write_line};
use crate::train::run::Run;
use crate::train::session::can_train;
use crate::train::trainer::{End, Outcome, train};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Train a model. Prepares the data by itself where no dataset is named.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's configuration; may be left out with --resume.
    #[arg(required_unless_present = "resume")]
    pub config: Option<PathBuf>,
    /// The encoded dataset of `tauten prepare`; without it the data is prepared into the run's folder. With --resume: where the run's dataset lies now.
    #[arg(long, value_name = "DATASET")]
    pub data: Option<PathBuf>,
    /// The run's folder, which must not exist [default: runs/NAME-N, NAME the configuration's, N the first that is free].
    #[arg(long, value_name = "RUN", conflicts_with = "resume")]
    pub out: Option<PathBuf>,
    /// `auto` (a hardware GPU, discrete ones first, else the CPU), `gpu`, `cpu`, or part of an adapter's name.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// Override a key of the configuration; a bare word is a string. May be repeated.
    #[arg(long, value_name = "KEY.PATH=VALUE", conflicts_with = "resume")]
    pub set: Vec<String>,
    /// The seed of everything random; the same as --set seed=N.
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    pub seed: Option<u64>,
    /// Stop after this many steps in all, with a checkpoint to go on from.
    #[arg(long, value_name = "N")]
    pub max_steps: Option<u64>,
    /// Start from the parameters and running statistics in this safetensors file.
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub init: Option<PathBuf>,
    /// Go on with this run from its newest checkpoint, bit for bit as if it had never stopped.
    #[arg(long, value_name = "RUN")]
    pub resume: Option<PathBuf>,
    /// No progress.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Runs the subcommand; exit code 130 after an interrupt.
///
/// # Errors
///
/// Those of reading the configuration, preparing, and training.
pub fn run(args: &Args) -> Result<u8> {
    let progress = Progress::new(args.quiet);
    // The configuration comes first: a mistake in it should not wait for a device or for data.
    let loaded = args.config.as_ref().map(|path| load(path, args)).transpose()?;
    let resumed = args.resume.as_ref().map(|folder| resumed(folder, args.data.as_deref(), loaded.as_ref())).transpose()?;
    let choice = super::choose(&args.device, &progress)?;
    let interrupt = on_interrupt()?;
    let (mut run, dataset) = match (resumed, loaded) {
        (Some(resumed), _) => resumed,
        (None, Some(loaded)) => {
            // Before anything is written.
            can_train(&loaded.config, &choice)?;
            let out = args.out.clone().unwrap_or_else(|| free_folder("runs", &loaded.path));
            Run::create(&loaded, &out, args.data.as_deref(), args.init.as_deref(), &progress)?
        }
        (None, None) => return Err(Error::user("train: name a configuration, or a run with --resume")),
    };
    let outcome = train(&mut run, dataset, choice, args.max_steps, interrupt, &progress)?;
    super::print(&summary(&run, &outcome, args))?;
    Ok(if outcome.end == End::Interrupted { super::INTERRUPTED } else { 0 })
}

/// The run to go on with and its dataset; a configuration that is named as well must be the run's.
fn resumed(folder: &Path, data: Option<&Path>, loaded: Option<&Loaded>) -> Result<(Run, Dataset)> {
    let run = Run::open(folder)?;
    if let Some(loaded) = loaded.filter(|l| l.config != *run.config()) {
        return Err(Error::user(format!(
            "{} differs from {}: a resumed run keeps its configuration; leave the first out",
            loaded.path.display(),
            folder.join("config.toml").display()
        )));
    }
    let dataset = run.dataset(data)?;
    Ok((run, dataset))
}

fn load(path: &Path, args: &Args) -> Result<Loaded> {
    let mut overrides = args.set.clone();
    overrides.extend(args.seed.map(|seed| format!("seed={seed}")));
    Loaded::read(path, &overrides)
}

/// `PARENT/NAME-N`, NAME that of `file`, with the first N whose folder does not exist.
pub(super) fn free_folder(parent: &str, file: &Path) -> PathBuf {
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    (1u64..).map(|n| Path::new(parent).join(format!("{name}-{n}"))).find(|p| !p.exists()).unwrap_or_default()
}

/// The flag that the first interrupt raises; the second ends the process at once.
pub(super) fn on_interrupt() -> Result<&'static AtomicBool> {
    static INTERRUPT: AtomicBool = AtomicBool::new(false);
    static SET: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let set = SET.get_or_init(|| {
        ctrlc::set_handler(|| {
            if INTERRUPT.swap(true, Ordering::Relaxed) {
                abandon();
                std::process::exit(super::INTERRUPTED.into());
            }
            write_line("interrupted: stopping after the step, or the preparation, that is under way; again to stop at once");
        })
        .map_err(|e| e.to_string())
    });
    set.as_ref().map(|()| &INTERRUPT).map_err(|e| Error::system(format!("cannot listen for interrupts: {e}")))
}

fn summary(run: &Run, outcome: &Outcome, args: &Args) -> String {
    let folder = run.folder().to_string_lossy();
    // The run knows where its dataset was, not where it has been moved.
    let moved = args.data.as_ref().filter(|_| args.resume.is_some()).map(|data| data.to_string_lossy());
    let command = |words: &[&str]| {
        let data = moved.iter().flat_map(|data| ["--data", data]);
        super::command(&words.iter().copied().chain([&*folder]).chain(data).collect::<Vec<_>>(), &args.device)
    };
    let go_on = command(&["train", "--resume"]);
    let state = &outcome.state;
    let best = match state.best {
        Some(best) => format!("best {:.4} at step {}", best.value, best.step),
        None => "not evaluated yet".into(),
    };
    let end = match outcome.end {
        End::Finished => format!("finished at step {}: {best}\nevaluate: {}", state.step, command(&["evaluate"])),
        End::MaxSteps => format!("stopped at step {}: {best}\ngo on: {go_on}", state.step),
        End::Interrupted => format!("interrupted after step {}: {best}\ngo on: {go_on}", state.step),
    };
    format!("{folder}: {end}\n")
}
