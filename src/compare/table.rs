//! The table: every variant's metrics over the seeds, and how far they are from the baseline's.

use super::folder::Measured;
use super::statistics::{Gap, SIGNIFICANT_BELOW, Spread};
use super::suite::Suite;
use crate::data::dataset::Split;
use crate::metrics::{Evaluation, TaskMetrics};
use crate::report::columns::columns;
use crate::{Error, Result};
use serde::Serialize;
use std::fmt::Write as _;

/// The tasks: name in the table, name in files, on which rows.
const TASKS: [(&str, &str, &str); 3] = [("CTR", "ctr", ""), ("CVR", "cvr", " (clicked rows)"), ("CTCVR", "ctcvr", "")];

/// What came out of a suite.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    /// The split that was measured.
    pub split: Split,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// The name of the variant that the others are compared with.
    pub baseline: String,
    /// A row a variant.
    pub variants: Vec<Row>,
}

/// A variant over its seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Runs that were measured.
    pub runs: usize,
    /// Click, over all rows.
    pub ctr: Task,
    /// Conversion, over the clicked rows.
    pub cvr: Task,
    /// Click and conversion, over all rows.
    pub ctcvr: Task,
    /// Learned parameters, embeddings included; none without a run.
    pub parameters: Option<u64>,
    /// Learned parameters without the embeddings; none without a run.
    pub dense_parameters: Option<u64>,
    /// Mean over runs of the seconds of training, with opening the device and evaluating on valid, by its epochs; resumed runs left
    /// out, none without any other.
    pub seconds_per_epoch: Option<f64>,
    /// Runs that failed.
    pub failed: Vec<Failure>,
}

/// A task's metrics over the runs; each none where no run has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Task {
    /// Area under the ROC curve.
    pub auc: Option<Spread>,
    /// Mean negative log likelihood.
    pub log_loss: Option<Spread>,
    /// Mean prediction / mean label.
    pub pcoc: Option<Spread>,
    /// AUC less that of the baseline under the same seed; none for the baseline itself.
    pub auc_gap: Option<Gap>,
}

/// A run that failed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What went wrong.
    pub error: String,
}

impl Row {
    fn tasks(&self) -> [&Task; 3] {
        [&self.ctr, &self.cvr, &self.ctcvr]
    }
}

/// What a run came to: what was measured, or why nothing was.
pub type Ended = std::result::Result<Measured, String>;

impl Table {
    /// That of `suite`, of whose variant v and seed s `ended[v][s]` came out.
    pub fn new(suite: &Suite, ended: &[Vec<Ended>]) -> Table {
        let row = |v: usize| {
            let runs: Vec<&Measured> = ended[v].iter().flatten().collect();
            let task = |of: fn(&Evaluation) -> &TaskMetrics| {
                let spread = |metric: fn(&TaskMetrics) -> Option<f64>| {
                    Spread::of(&runs.iter().filter_map(|run| metric(of(&run.evaluation))).collect::<Vec<_>>())
                };
                let auc = |run: &Ended| of(&run.as_ref().ok()?.evaluation).auc;
                let pairs = ended[v].iter().zip(&ended[suite.baseline]);
                let differences: Vec<f64> = pairs.filter_map(|(run, base)| Some(auc(run)? - auc(base)?)).collect();
                Task {
                    auc: spread(|m| m.auc),
                    log_loss: spread(|m| m.log_loss),
                    pcoc: spread(|m| m.pcoc),
                    auc_gap: if v == suite.baseline { None } else { Gap::of(&differences) },
                }
            };
            let seconds: Vec<f64> =
                runs.iter().filter(|run| run.epochs > 0.0).filter_map(|run| Some(run.seconds? / run.epochs)).collect();
            let failed = suite.seeds.iter().zip(&ended[v]);
            Row {
                name: suite.variants[v].name.clone(),
                runs: runs.len(),
                ctr: task(|e| &e.ctr),
                cvr: task(|e| &e.cvr),
                ctcvr: task(|e| &e.ctcvr),
                parameters: runs.first().map(|run| run.parameters),
                dense_parameters: runs.first().map(|run| run.dense_parameters),
                seconds_per_epoch: Spread::of(&seconds).map(|s| s.mean),
                failed: failed.filter_map(|(&seed, run)| Some(Failure { seed, error: run.as_ref().err()?.clone() })).collect(),
            }
        };
        Table {
            split: suite.split,
            seeds: suite.seeds.clone(),
            baseline: suite.variants[suite.baseline].name.clone(),
            variants: (0..suite.variants.len()).map(row).collect(),
        }
    }

    /// Whether a run failed.
    pub fn has_failures(&self) -> bool {
        self.variants.iter().any(|row| !row.failed.is_empty())
    }

    /// For a terminal; the best of a column has a `*`.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for block in self.blocks() {
            let mut rows = vec![block.head.clone()];
            let cell = |cell: &Cell| if cell.best { format!("{}*", cell.text) } else { format!("{} ", cell.text) };
            rows.extend(block.rows.iter().map(|row| row.iter().map(cell).collect()));
            rows[0].iter_mut().for_each(|head| head.push(' '));
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}", block.title);
            text += &columns(&rows, " ", |c| c == 0);
            text.push('\n');
        }
        for note in self.notes("*") {
            let _ = writeln!(text, "{note}");
        }
        text
    }

    /// Markdown; the best of a column is bold.
    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        for block in self.blocks() {
            let escaped = |text: &str| text.replace('|', "\\|");
            let cell = |cell: &Cell| if cell.best { format!("**{}**", cell.text) } else { escaped(&cell.text) };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}\n", block.title);
            text += &line(&block.head);
            text += &line(
                &block.head.iter().enumerate().map(|(c, _)| if c == 0 { "---" } else { "--:" }.into()).collect::<Vec<_>>(),
            );
            for row in &block.rows {
                text += &line(&row.iter().map(cell).collect::<Vec<_>>());
            }
            text.push('\n');
        }
        for note in self.notes("bold") {
            let _ = writeln!(text, "- {note}");
        }
        text
    }

    /// CSV: a line a variant, numbers with all digits; an empty cell where there is none.
    ///
    /// # Errors
    ///
    /// None in practice: memory is written to.
    pub fn to_csv(&self) -> Result<Vec<u8>> {
        let failed = |e: &dyn std::fmt::Display| Error::system(format!("table.csv: {e}"));
        let mut writer = csv::Writer::from_writer(Vec::new());
        let mut head = vec!["variant".to_string(), "runs".into()];
        for (_, task, _) in TASKS {
            for metric in ["auc", "log_loss", "pcoc"] {
                head.extend([format!("{task}_{metric}"), format!("{task}_{metric}_std")]);
            }
            head.extend([format!("{task}_auc_gap"), format!("{task}_auc_gap_p")]);
        }
        head.extend(["parameters", "dense_parameters", "seconds_per_epoch", "failed"].map(String::from));
        writer.write_record(&head).map_err(|e| failed(&e))?;
        let number = |x: Option<f64>| x.map_or_else(String::new, |x| x.to_string());
        let whole = |x: Option<u64>| x.map_or_else(String::new, |x| x.to_string());
        for row in &self.variants {
            let mut cells = vec![row.name.clone(), row.runs.to_string()];
            for task in row.tasks() {
                for spread in [task.auc, task.log_loss, task.pcoc] {
                    cells.extend([number(spread.map(|s| s.mean)), number(spread.and_then(|s| s.std))]);
                }
                cells.extend([number(task.auc_gap.map(|g| g.mean)), number(task.auc_gap.and_then(|g| g.p))]);
            }
            cells.extend([whole(row.parameters), whole(row.dense_parameters), number(row.seconds_per_epoch)]);
            cells.push(row.failed.len().to_string());
            writer.write_record(&cells).map_err(|e| failed(&e))?;
        }
        writer.into_inner().map_err(|e| failed(&e))
    }

    fn blocks(&self) -> Vec<Block> {
        let seeds: Vec<String> = self.seeds.iter().map(u64::to_string).collect();
        let titled = |title: String, columns: Vec<Column>| {
            let mut block = Block { title, head: vec!["variant".into()], rows: Vec::new() };
            block.head.extend(columns.iter().map(|column| column.head.clone()));
            for (r, row) in self.variants.iter().enumerate() {
                block.rows.push(vec![Cell { text: row.name.clone(), best: false }]);
                block.rows[r].extend(columns.iter().map(|column| column.cells[r].clone()));
            }
            block
        };
        let on = format!("on {}, mean +- standard deviation over seeds {}", self.split.name(), seeds.join(", "));
        let per_task = |f: &dyn Fn(usize, &str, &str) -> Column| -> Vec<Column> {
            TASKS.iter().enumerate().map(|(t, (name, _, rows))| f(t, name, rows)).collect()
        };
        let mut quality = per_task(&|t, name, rows| self.spread(format!("{name}{rows}"), 4, |row| row.tasks()[t].auc, |x| -x));
        let plain = |head: &str, text: &dyn Fn(&Row) -> String| Column {
            head: head.into(),
            cells: self.variants.iter().map(|row| Cell { text: text(row), best: false }).collect(),
        };
        let or_none = |text: Option<String>| text.unwrap_or("-".into());
        quality.push(plain("parameters", &|row| or_none(row.parameters.map(|n| n.to_string()))));
        quality.push(plain("dense", &|row| or_none(row.dense_parameters.map(|n| n.to_string()))));
        quality.push(plain("s/epoch", &|row| or_none(row.seconds_per_epoch.map(seconds))));
        let mut blocks = vec![titled(format!("AUC {on}"), quality)];
        if self.variants.len() > 1 {
            let gaps =
                per_task(&|t, name, rows| plain(&format!("{name}{rows}"), &|row| or_none(row.tasks()[t].auc_gap.map(gap))));
            let title = format!("AUC less that of `{}` under the same seed, p of a two-sided paired t test", self.baseline);
            blocks.push(titled(title, gaps));
        }
        let mut others =
            per_task(&|t, name, _| self.spread(format!("{name} log loss"), 4, |row| row.tasks()[t].log_loss, |x| x));
        others.extend(per_task(&|t, name, _| {
            // Log-wise, as predictions twice too high are as wrong as ones half as high.
            self.spread(format!("{name} PCOC"), 3, |row| row.tasks()[t].pcoc, |x| x.ln().abs())
        }));
        blocks.push(titled(format!("Log loss and PCOC {on}"), others));
        blocks
    }

    /// A column of means; the one with the lowest `badness` is the best, if there is more than one.
    fn spread(&self, head: String, digits: usize, of: impl Fn(&Row) -> Option<Spread>, badness: impl Fn(f64) -> f64) -> Column {
        let badness = |row: &Row| of(row).map(|s| badness(s.mean));
        let known: Vec<f64> = self.variants.iter().filter_map(badness).collect();
        let least = known.iter().copied().reduce(f64::min).filter(|_| known.len() > 1);
        let text = |row: &Row| match of(row) {
            None => "-".to_string(),
            Some(Spread { mean, std: None, .. }) => format!("{mean:.digits$}"),
            Some(Spread { mean, std: Some(std), .. }) => format!("{mean:.digits$} +- {std:.digits$}"),
        };
        let cell = |row: &Row| Cell { text: text(row), best: least.is_some() && badness(row) == least };
        Column { head, cells: self.variants.iter().map(cell).collect() }
    }

    fn notes(&self, best: &str) -> Vec<String> {
        let mut notes = vec![
            format!("{best}: the best mean of its column (PCOC: nearest to 1)"),
            "parameters: embeddings included; dense: without them; s/epoch: training with opening the device and evaluating on \
             valid, runs that were resumed left out"
                .to_string(),
        ];
        if self.variants.len() > 1 {
            notes.push(format!("n.s.: not significant, p >= {SIGNIFICANT_BELOW}"));
        }
        for row in &self.variants {
            if row.runs < self.seeds.len() {
                notes.push(format!("{}: over {} of {} seeds", row.name, row.runs, self.seeds.len()));
            }
            notes.extend(row.failed.iter().map(|f| format!("{}, seed {}: failed: {}", row.name, f.seed, f.error)));
        }
        notes
    }
}

/// A part of the table that fits a page's width.
struct Block {
    title: String,
    head: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

struct Column {
    head: String,
    cells: Vec<Cell>,
}

#[derive(Clone)]
struct Cell {
    text: String,
    best: bool,
}

fn seconds(seconds: f64) -> String {
    if seconds < 10.0 { format!("{seconds:.2}") } else { format!("{seconds:.0}") }
}

fn gap(gap: Gap) -> String {
    let mean = format!("{:+.4}", gap.mean);
    match gap.p {
        None => mean,
        Some(p) if p < 0.0001 => format!("{mean} (p < 0.0001)"),
        Some(p) if gap.significant() => format!("{mean} (p = {p:.4})"),
        Some(p) => format!("{mean} (p = {p:.2}, n.s.)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::suite::Variant;
    use crate::config::Loaded;
    use crate::metrics::Scored;

    /// A suite of three variants, its seeds 1 to 3; the second is a little better, the third fails under seed 2.
    fn table() -> Table {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        let config = "[data]\ntrain = [\"t\"]\nvalid = [\"v\"]\n[features]\ncategorical = [\"user\"]";
        std::fs::write(&path, config).unwrap();
        let loaded = Loaded::read(&path, &[]).unwrap();
        let variants = ["base", "better", "worse|x=1"].map(|name| Variant { name: name.into(), loaded: loaded.clone() });
        let suite = Suite { split: Split::Valid, seeds: vec![1, 2, 3], baseline: 0, variants: variants.into() };
        let blank = Evaluation::new("valid", &Scored::default()).unwrap();
        let run = |ctr: f64, cvr: f64, seconds: Option<f64>| -> Ended {
            let mut evaluation = blank.clone();
            (evaluation.ctr.auc, evaluation.cvr.auc, evaluation.ctr.log_loss) = (Some(ctr), Some(cvr), Some(1.0 - ctr));
            evaluation.ctr.pcoc = Some(2.0 * ctr);
            let (parameters, dense_parameters, steps, best_step) = (1000, 10, 30, Some(20));
            Ok(Measured { evaluation, parameters, dense_parameters, steps, best_step, epochs: 2.0, seconds })
        };
        let ended = [
            vec![run(0.7, 0.6, Some(4.0)), run(0.71, 0.61, Some(6.0)), run(0.72, 0.6, None)],
            vec![run(0.71, 0.6, Some(4.0)), run(0.7201, 0.61, Some(4.0)), run(0.7302, 0.6, Some(4.0))],
            vec![run(0.69, 0.6, None), Err("step 2: a | b".into()), run(0.73, 0.59, None)],
        ];
        Table::new(&suite, &ended)
    }

    #[test]
    fn numbers() {
        let table = table();
        let [base, better, worse] = &table.variants[..] else { panic!("{table:?}") };
        assert_eq!((base.ctr.auc_gap, base.seconds_per_epoch, base.ctcvr.auc), (None, Some(2.5), None));
        let gap = better.ctr.auc_gap.unwrap();
        assert!(gap.pairs == 3 && (gap.mean - 0.0101).abs() < 1e-12 && gap.significant(), "{gap:?}");
        assert_eq!(better.cvr.auc_gap, Some(Gap { mean: 0.0, p: None, pairs: 3 }));
        assert_eq!((worse.runs, worse.ctr.auc_gap.unwrap().pairs, worse.seconds_per_epoch), (2, 2, None));
        assert_eq!(worse.failed, [Failure { seed: 2, error: "step 2: a | b".into() }]);
        assert!(table.has_failures());
        let json = serde_json::to_value(&table).unwrap();
        assert_eq!((&json["split"], &json["baseline"]), (&"valid".into(), &"base".into()));
        assert_eq!(json["variants"][2]["failed"][0]["seed"], 2);
        assert_eq!(json["variants"][0]["ctr"]["auc"]["runs"], 3);
        assert!(json["variants"][0]["ctr"]["auc_gap"].is_null());
    }

    #[test]
    fn text() {
        insta::assert_snapshot!(table().to_text(), @r"
        AUC on valid, mean +- standard deviation over seeds 1, 2, 3
        variant                 CTR  CVR (clicked rows)  CTCVR  parameters  dense  s/epoch
        base       0.7100 +- 0.0100    0.6033 +- 0.0058*     -        1000     10     2.50
        better     0.7201 +- 0.0101*   0.6033 +- 0.0058*     -        1000     10     2.00
        worse|x=1  0.7100 +- 0.0283    0.5950 +- 0.0071      -        1000     10        -

        AUC less that of `base` under the same seed, p of a two-sided paired t test
        variant                         CTR        CVR (clicked rows)  CTCVR
        base                              -                         -      -
        better         +0.0101 (p < 0.0001)                   +0.0000      -
        worse|x=1  +0.0000 (p = 1.00, n.s.)  -0.0050 (p = 0.50, n.s.)      -

        Log loss and PCOC on valid, mean +- standard deviation over seeds 1, 2, 3
        variant        CTR log loss  CVR log loss  CTCVR log loss        CTR PCOC  CVR PCOC  CTCVR PCOC
        base       0.2900 +- 0.0100             -               -  1.420 +- 0.020*        -           -
        better     0.2799 +- 0.0101*            -               -  1.440 +- 0.020         -           -
        worse|x=1  0.2900 +- 0.0283             -               -  1.420 +- 0.057*        -           -

        *: the best mean of its column (PCOC: nearest to 1)
        parameters: embeddings included; dense: without them; s/epoch: training with opening the device and evaluating on valid, runs that were resumed left out
        n.s.: not significant, p >= 0.05
        worse|x=1: over 2 of 3 seeds
        worse|x=1, seed 2: failed: step 2: a | b
        ");
    }

    #[test]
    fn markdown() {
        insta::assert_snapshot!(table().to_markdown(), @r"
        AUC on valid, mean +- standard deviation over seeds 1, 2, 3

        | variant | CTR | CVR (clicked rows) | CTCVR | parameters | dense | s/epoch |
        | --- | --: | --: | --: | --: | --: | --: |
        | base | 0.7100 +- 0.0100 | **0.6033 +- 0.0058** | - | 1000 | 10 | 2.50 |
        | better | **0.7201 +- 0.0101** | **0.6033 +- 0.0058** | - | 1000 | 10 | 2.00 |
        | worse\|x=1 | 0.7100 +- 0.0283 | 0.5950 +- 0.0071 | - | 1000 | 10 | - |

        AUC less that of `base` under the same seed, p of a two-sided paired t test

        | variant | CTR | CVR (clicked rows) | CTCVR |
        | --- | --: | --: | --: |
        | base | - | - | - |
        | better | +0.0101 (p < 0.0001) | +0.0000 | - |
        | worse\|x=1 | +0.0000 (p = 1.00, n.s.) | -0.0050 (p = 0.50, n.s.) | - |

        Log loss and PCOC on valid, mean +- standard deviation over seeds 1, 2, 3

        | variant | CTR log loss | CVR log loss | CTCVR log loss | CTR PCOC | CVR PCOC | CTCVR PCOC |
        | --- | --: | --: | --: | --: | --: | --: |
        | base | 0.2900 +- 0.0100 | - | - | **1.420 +- 0.020** | - | - |
        | better | **0.2799 +- 0.0101** | - | - | 1.440 +- 0.020 | - | - |
        | worse\|x=1 | 0.2900 +- 0.0283 | - | - | **1.420 +- 0.057** | - | - |

        - bold: the best mean of its column (PCOC: nearest to 1)
        - parameters: embeddings included; dense: without them; s/epoch: training with opening the device and evaluating on valid, runs that were resumed left out
        - n.s.: not significant, p >= 0.05
        - worse|x=1: over 2 of 3 seeds
        - worse|x=1, seed 2: failed: step 2: a | b
        ");
    }

    #[test]
    fn csv() {
        let bytes = table().to_csv().unwrap();
        let mut reader = csv::Reader::from_reader(&bytes[..]);
        let head = reader.headers().unwrap().clone();
        let rows: Vec<_> = reader.records().map(std::result::Result::unwrap).collect();
        let cell = |row: usize, name: &str| rows[row].get(head.iter().position(|h| h == name).unwrap()).unwrap().to_string();
        assert_eq!(
            (rows.len(), cell(1, "variant"), cell(2, "runs"), cell(2, "failed")),
            (3, "better".into(), "2".into(), "1".into())
        );
        let mean: f64 = cell(0, "ctr_auc").parse().unwrap();
        assert_eq!(Some(mean), table().variants[0].ctr.auc.map(|s| s.mean));
        assert_eq!(
            (cell(0, "ctr_auc_gap_p"), cell(0, "ctcvr_auc"), cell(0, "dense_parameters")),
            ("".into(), "".into(), "10".into())
        );
    }
}
