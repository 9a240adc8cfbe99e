//! `tauten tune`: which tiles of matrix products are fastest on an adapter.

use crate::config::Loaded;
use crate::device::Choice;
use crate::device::gpu::tuned::{self, Choices};
use crate::profile::tune::{COMMON, Finding, tune, work};
use crate::report::columns::columns;
use crate::report::progress::Progress;
use crate::{Error, Result};
use std::path::PathBuf;

/// Measure which tiles of matrix products are fastest on an adapter, check that it computes by them what the CPU does, and keep the choice: every
/// command takes it from then on where it runs on that adapter. Delete the file that is named to go back to the fixed table.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration whose layers and contrast are measured; without it those of common sizes. Others get the choice of the nearest one.
    pub config: Option<PathBuf>,
    /// `auto`, `gpu`, or part of an adapter's name.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// Times that each tile is measured at each size.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub steps: u64,
    /// The file of the choice in place of the adapter's own, which alone is found again.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Override a key of the configuration; a bare word is a string. May be repeated.
    #[arg(long, value_name = "KEY.PATH=VALUE", requires = "config")]
    pub set: Vec<String>,
    /// Print JSON, with the time of every tile.
    #[arg(long)]
    pub json: bool,
    /// No progress.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Runs the subcommand.
///
/// # Errors
///
/// Those of the configuration and the device; a device without tiles or timestamps; a file that cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let progress = Progress::new(args.quiet);
    let loaded = args.config.as_ref().map(|config| Loaded::read(config, &args.set)).transpose()?;
    let (choice, line) = Choice::untuned(&args.device)?;
    progress.line(line);
    let Choice::Gpu(adapter) = &choice else {
        return Err(Error::user("the CPU has no tiles to choose; name an adapter with --device"));
    };
    let nowhere = || Error::user("neither XDG_CONFIG_HOME nor HOME names a folder for settings; name a file with --out");
    let file = args.out.clone().or_else(|| adapter.tuned_file()).ok_or_else(nowhere)?;
    tuned::make_room(&file)?;
    let work = match &loaded {
        Some(loaded) => work(&loaded.config, choice.limits())?,
        None => COMMON.to_vec(),
    };
    let findings = tune(adapter, &work, args.steps as usize, &progress)?;
    let tiles = findings.iter().map(|f| f.tuned).collect();
    tuned::write(&file, &Choices { driver: adapter.driver(), tiles })?;
    progress.line(format!("tiles: {}", file.display()));
    if args.json { super::print_json(&findings) } else { super::print(&table(&findings)) }
}

fn table(findings: &[Finding]) -> String {
    let head = [
        "product",
        "rows",
        "groups",
        "inputs",
        "outputs",
        "tile",
        "slices",
        "us",
        "fixed table",
        "slices",
        "us",
        "times as fast",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    for Finding { tuned, best_us, fixed, fixed_us, .. } in findings {
        let product = serde_json::to_value(tuned.shape.product).unwrap_or_default();
        let sizes = [tuned.shape.rows, tuned.shape.groups, tuned.shape.inputs, tuned.shape.outputs];
        let mut row = vec![product.as_str().unwrap_or_default().to_string()];
        row.extend(sizes.map(|n| n.to_string()));
        for (chosen, us) in [(&tuned.chosen, best_us), (fixed, fixed_us)] {
            row.extend([chosen.tile.describe(), chosen.slices.to_string(), format!("{us:.1}")]);
        }
        row.push(format!("{:.2}", fixed_us / best_us));
        rows.push(row);
    }
    let last = rows[0].len() - 1;
    columns(&rows, "  ", |c| c == 0 || c == last)
}
