//! `tauten simulate`: a click log with known truth.

use crate::Result;
use crate::data::simulate::{Truth, simulate};
use crate::data::write::Format;
use crate::report::progress::Progress;
use std::path::PathBuf;

/// Writes a simulated click log with known truth: train, valid and test files, a configuration to train with, and the
/// probabilities and relatedness that the labels were drawn from.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rows of all splits together (80 % train, 10 % valid, 10 % test).
    #[arg(long, value_name = "N")]
    pub rows: u64,
    /// The same rows and seed give the same bytes.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// The folder to write, new or empty.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Format of the files: `parquet` or `csv`.
    #[arg(long, default_value = "parquet", value_parser = format)]
    pub format: Format,
    /// No progress.
    #[arg(short, long)]
    pub quiet: bool,
}

fn format(text: &str) -> std::result::Result<Format, String> {
    match text {
        "parquet" => Ok(Format::Parquet),
        "csv" => Ok(Format::Csv),
        _ => Err("expected `parquet` or `csv`".into()),
    }
}

/// Runs the subcommand.
///
/// # Errors
/// Those of [`simulate`], and a standard output that cannot be written to.
pub fn run(args: &Args) -> Result<()> {
    super::abandon_on_interrupt()?;
    let progress = Progress::new(args.quiet);
    let task = progress.task("simulating", args.rows, "rows");
    let mut done = 0;
    let truth = simulate(args.rows, args.seed, &args.out, args.format, &mut |rows| {
        task.advance(rows - done);
        done = rows;
    })?;
    drop(task);
    super::print(&summary(&truth, args.format))
}

/// What was simulated, for a person.
fn summary(truth: &Truth, format: Format) -> String {
    let number = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.4}"));
    let best = &truth.best_test_auc;
    format!(
        "{} rows of {} users and {} items: {} train, {} valid, {} test; {:.1} % clicked, {:.1} % of the clicked converted\n\
         best possible AUC on test: CTR {}, CVR (clicked rows) {}, CTCVR {}\n\
         configuration: {}\n\
         truth: {} and truth_{{train,valid,test}}.{}\n",
        truth.rows,
        truth.users,
        truth.items,
        truth.train_rows,
        truth.valid_rows,
        truth.test_rows,
        100.0 * truth.click_rate,
        100.0 * truth.conversion_rate,
        number(best.ctr),
        number(best.cvr),
        number(best.ctcvr),
        truth.folder.join("config.toml").display(),
        truth.folder.join("truth.json").display(),
        format.extension(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn simulates_what_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("log");
        let command = ["simulate", "--rows", "500", "--format", "csv", "-q", "--out", &out.to_string_lossy()];
        run(&Command::try_parse_from(command).unwrap().args).unwrap();
        let text = std::fs::read_to_string(out.join("train.csv")).unwrap();
        assert!(text.starts_with("user,item,segment,category,hour,device,slot,price,recency,click,conversion\n"));
        assert_eq!(text.lines().count(), 401);
        let wrong = ["simulate", "--rows", "500", "--format", "json", "--out", "x"];
        assert!(Command::try_parse_from(wrong).err().unwrap().to_string().contains("expected `parquet` or `csv`"));
    }
}
