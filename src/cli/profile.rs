//! `tauten profile`: where a step's time goes.

use crate::config::Loaded;
use crate::data::dataset::Dataset;
use crate::data::prepare::prepare;
use crate::device::timeline::Mode;
use crate::files::aside::Aside;
use crate::files::replace;
use crate::profile::{Profile, sweep, train};
use crate::report::progress::Progress;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Measure where a training step's time goes: each kernel and shape against the device's measured roofs, and the host. Or one kernel
/// alone, over sizes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration whose training steps are profiled.
    #[arg(required_unless_present = "kernel", conflicts_with = "kernel")]
    pub config: Option<PathBuf>,
    /// The encoded dataset of `tauten prepare`; without it the data is prepared into a temporary folder.
    #[arg(long, value_name = "DATASET", conflicts_with = "kernel")]
    pub data: Option<PathBuf>,
    /// `auto`, `gpu`, `cpu`, or part of an adapter's name.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// Steps that are recorded; as many are run without, to tell the overhead.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub steps: u64,
    /// One interval a phase, which costs next to nothing, or one a dispatch.
    #[arg(long, value_enum, default_value_t = Mode::Detailed, conflicts_with = "kernel")]
    pub mode: Mode,
    /// Write profile.json, trace.json (for ui.perfetto.dev), roofline.svg and table.txt into this folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Profile this kernel alone instead; `list` prints which there are.
    #[arg(long, value_name = "NAME")]
    pub kernel: Option<String>,
    /// The kernel's sizes, like 2048x1x320x512; may be repeated.
    #[arg(long, value_name = "SIZES", requires = "kernel", conflicts_with = "config")]
    pub shape: Vec<String>,
    /// Override a key of the configuration; a bare word is a string. May be repeated.
    #[arg(long, value_name = "KEY.PATH=VALUE", conflicts_with = "kernel")]
    pub set: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// No progress.
    #[arg(short, long)]
    pub quiet: bool,
}

/// What is written into a folder.
const FILES: [&str; 4] = ["profile.json", "trace.json", "roofline.svg", "table.txt"];
/// Names of files that are being written begin with this.
const ASIDE: &str = ".tauten-profile-";

/// Runs the subcommand.
///
/// # Errors
///
/// Those of the configuration, the data and the device; a kernel or a shape that there is none of.
pub fn run(args: &Args) -> Result<()> {
    if args.kernel.as_deref() == Some("list") {
        if args.out.is_some() || !args.shape.is_empty() {
            return Err(Error::user("--kernel list measures nothing: leave --shape and --out away"));
        }
        return if args.json { super::print_json(&sweep::kernels()) } else { super::print(&sweep::list()) };
    }
    let progress = Progress::new(args.quiet);
    let ready = || args.out.as_deref().map_or(Ok(()), make);
    let profile = match (&args.kernel, &args.config) {
        (Some(kernel), _) => {
            sweep::check(kernel, &args.shape)?;
            ready()?;
            sweep::sweep(&[(kernel, &args.shape)], super::choose(&args.device, &progress)?, args.steps as usize, &progress)?
        }
        (None, Some(config)) => {
            // The configuration comes first: a mistake in it should not wait for a device or for data.
            let loaded = Loaded::read(config, &args.set)?;
            let choice = super::choose(&args.device, &progress)?;
            ready()?;
            super::abandon_on_interrupt()?;
            let aside;
            let dataset = match &args.data {
                Some(path) => Dataset::open_for(path, &loaded.config)?,
                None => {
                    aside = Aside::new(&std::env::temp_dir().join("dataset"))?;
                    prepare(&loaded, &aside.path().join("dataset"), &progress).map_err(|e| aside.named(e))?
                }
            };
            train(&loaded.config, &dataset, choice, args.steps as usize, args.mode, &progress)?
        }
        (None, None) => return Err(Error::user("profile: name a configuration, or a kernel with --kernel")),
    };
    if args.json {
        super::print_json(&profile)?
    } else {
        super::print(&profile.to_text())?
    }
    if let Some(out) = &args.out {
        write(&profile, out)?;
        progress.line(format!("{}: {}", FILES.join(", "), out.display()));
    }
    Ok(())
}

/// Makes the folder, before anything is measured, and refuses one that a file or folder is in the way of.
fn make(out: &Path) -> Result<()> {
    let refuse = |why: String| Error::user(format!("--out {}: {why}; name another folder", out.display()));
    std::fs::create_dir_all(out).map_err(|e| refuse(e.to_string()))?;
    tempfile::tempfile_in(out).map_err(|e| refuse(e.to_string()))?;
    match FILES.iter().find(|name| out.join(name).is_dir()) {
        Some(name) => Err(refuse(format!("{name} is a folder there"))),
        None => Ok(()),
    }
}

fn write(profile: &Profile, out: &Path) -> Result<()> {
    let json = |value: serde_json::Result<String>| value.map_err(|e| Error::system(format!("JSON: {e}")));
    let texts = [
        json(serde_json::to_string_pretty(profile))? + "\n",
        json(serde_json::to_string(&profile.to_trace()))? + "\n",
        profile.to_svg(),
        profile.to_text(),
    ];
    for (name, text) in FILES.iter().zip(texts) {
        replace(&out.join(name), ASIDE, text.as_bytes())?;
    }
    Ok(())
}
