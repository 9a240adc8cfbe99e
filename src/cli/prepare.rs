//! `tauten prepare`: input files to an encoded dataset.

use crate::Result;
use crate::config::Loaded;
use crate::data::dataset::{Dataset, Split};
use crate::data::prepare::prepare;
use crate::report::progress::Progress;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

/// Read CSV and Parquet files and write an encoded dataset for `tauten train`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's configuration.
    pub config: PathBuf,
    /// Folder to write the dataset to; a dataset that is there is replaced.
    #[arg(long, value_name = "DATASET")]
    pub out: PathBuf,
    /// Override a key of the configuration; a bare word is a string. May be repeated.
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    pub set: Vec<String>,
    /// Print the dataset's manifest as JSON.
    #[arg(long)]
    pub json: bool,
    /// No progress.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// Those of reading the configuration and of [`prepare`].
pub fn run(args: &Args) -> Result<()> {
    let loaded = Loaded::read(&args.config, &args.set)?;
    super::abandon_on_interrupt()?;
    let progress = Progress::new(args.quiet);
    let start = Instant::now();
    let dataset = prepare(&loaded, &args.out, &progress)?;
    let seconds = start.elapsed().as_secs_f64();
    let manifest = dataset.manifest();
    let rows: u64 = Split::ALL.iter().filter_map(|&s| manifest.split(s)).map(|s| s.rows).sum();
    progress.line(format!("{rows} rows in {seconds:.2} s, {:.0} rows/s", rows as f64 / seconds));
    if args.json { super::print_json(manifest) } else { super::print(&summary(&dataset, &args.out.display().to_string())) }
}

/// What a person wants to know of a dataset.
fn summary(dataset: &Dataset, name: &str) -> String {
    let manifest = dataset.manifest();
    let mut text = format!("{:<6} {:>12} {:>8} {:>12} {:>16}\n", "split", "rows", "click", "conversion", "of clicked rows");
    for split in Split::ALL {
        if let Some(s) = manifest.split(split) {
            let clicked = s.clicked_conversion_rate.map_or("-".to_string(), |r| format!("{r:.4}"));
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{:<6} {:>12} {:>8.4} {:>12.4} {clicked:>16}",
                split.name(),
                s.rows,
                s.click_rate,
                s.conversion_rate
            );
            if s.invalid_labels > 0 {
                let _ = writeln!(text, "       {} rows had a conversion without a click", s.invalid_labels);
            }
        }
    }
    let _ = writeln!(
        text,
        "{} categorical features with {} values, {} numeric; fingerprint {}\n{name}",
        manifest.vocabulary_sizes.len(),
        manifest.vocabulary_sizes.iter().map(|n| n - 1).sum::<usize>(),
        manifest.settings.numeric.len(),
        manifest.fingerprint
    );
    text
}
