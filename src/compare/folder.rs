//! A comparison's folder: everything that going on with it needs, and what came out.
//!
//! ```text
//! suite.json                the split that is measured; the dataset's fingerprint; name, folder and configuration of every variant
//! dataset/                  the encoded dataset of all runs
//! lock                      held by the process that works in the folder
//! runs/VARIANT/seed-N/      a run's folder; with result.json once it has been trained and measured
//! table.md, .csv, .json     the table
//! ```

use super::suite::{Suite, other_dataset};
use super::table::Table;
use crate::config::Config;
use crate::data::dataset::{Dataset, Difference, Split};
use crate::data::prepare::prepare;
use crate::error::io;
use crate::files::aside::Aside;
use crate::files::{lock_folder, replace, replace_json};
use crate::metrics::Evaluation;
use crate::report::progress::Progress;
use crate::train::checkpoint::ASIDE;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};

const RECORD: &str = "suite.json";
const RESULT: &str = "result.json";
const DATASET: &str = "dataset";
const RUNS: &str = "runs";
/// How the name of a run's folder begins.
const SEED: &str = "seed-";
/// What another process does that holds the folder.
const BUSY: &str = "is working on this comparison";
/// Longest part of a variant's name in its folder's.
const LONGEST: usize = 100;

/// A comparison's folder.
pub struct Comparison {
    folder: PathBuf,
    record: Record,
    /// Keeps others from working in the folder until this is closed.
    _lock: File,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    split: Split,
    /// The dataset's; none yet where an earlier version made the folder.
    fingerprint: Option<String>,
    /// Those of every suite that was run here; of suites before the last one those of which a run has begun.
    variants: Vec<Kept>,
}

impl Record {
    /// What is kept of the variant `name`.
    fn kept(&self, name: &str) -> Option<&Kept> {
        self.variants.iter().find(|kept| kept.name == name)
    }

    /// Notes the variants of `suite` that are not known yet.
    fn add(&mut self, suite: &Suite) {
        let variants = &mut self.variants;
        for variant in &suite.variants {
            if !variants.iter().any(|kept| kept.name == variant.name) {
                let folder = slug(&variant.name, |slug| variants.iter().any(|kept| kept.folder.eq_ignore_ascii_case(slug)));
                variants.push(Kept { name: variant.name.clone(), folder, config: variant.loaded.config.clone() });
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    name: String,
    folder: String,
    config: Config,
}

/// What came out of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Metrics of the best checkpoint.
    pub evaluation: Evaluation,
    /// Learned parameters, embeddings included.
    pub parameters: u64,
    /// Learned parameters without the embeddings.
    pub dense_parameters: u64,
    /// Training steps.
    pub steps: u64,
    /// Training steps before the best checkpoint; none if no evaluation was the best.
    pub best_step: Option<u64>,
    /// Epochs, a part of one included.
    pub epochs: f64,
    /// Seconds of training, with opening the device and the evaluations on valid; none if it was resumed.
    pub seconds: Option<f64>,
}

impl Comparison {
    /// Makes the folder `out`, which must not exist, with the suite's dataset.
    ///
    /// # Errors
    ///
    /// A folder that exists; those of [`prepare`].
    pub fn create(suite: &Suite, out: &Path, progress: &Progress) -> Result<Comparison> {
        if out.exists() {
            let out = out.display();
            return Err(Error::user(format!(
                "{out}: exists; name another folder with --out, or go on with that one by --resume"
            )));
        }
        // Made aside, so that a folder under the comparison's name is complete whenever the process ends.
        let aside = Aside::new(out)?;
        std::fs::create_dir(aside.path()).map_err(io(out))?;
        let dataset = prepare(&suite.variants[0].loaded, &aside.path().join(DATASET), progress).map_err(|e| aside.named(e))?;
        let fingerprint = dataset.manifest().fingerprint.clone();
        // Windows renames no folder whose files are mapped.
        drop(dataset);
        let mut record = Record { split: suite.split, fingerprint: Some(fingerprint), variants: Vec::new() };
        record.add(suite);
        replace_json(&aside.path().join(RECORD), ASIDE, &record)?;
        aside.finish()?;
        Ok(Comparison { folder: out.to_path_buf(), record, _lock: lock_folder(out, BUSY)? })
    }

    /// Opens the folder `folder` to go on with `suite`, which may have further variants and seeds, or leave some out.
    ///
    /// # Errors
    ///
    /// A folder that is no comparison's; a variant whose configuration is not what it was; another split or dataset.
    pub fn open(suite: &Suite, folder: &Path) -> Result<Comparison> {
        let path = folder.join(RECORD);
        if !path.is_file() {
            return Err(Error::user(format!(
                "{}: no comparison's folder (it has no {RECORD}); `tauten compare` without --resume makes one",
                folder.display()
            )));
        }
        let lock = lock_folder(folder, BUSY)?;
        let mut record: Record = read(&path, "name another folder with --out")?;
        let refuse = |why: String| Err(Error::user(format!("{}: {why} name another folder with --out", path.display())));
        if record.split != suite.split {
            let (was, is) = (record.split.name(), suite.split.name());
            return refuse(format!("made to measure on {was}, but the suite says {is};"));
        }
        for variant in &suite.variants {
            let (name, config) = (&variant.name, &variant.loaded.config);
            let dataset = record.variants.first().and_then(|kept| other_dataset(&kept.config, config));
            if let Some(Difference { key, one, other }) = dataset {
                return refuse(format!("made with {key} {one}, but the suite has {other} for the variant `{name}`;"));
            }
        }
        if !suite.variants.iter().any(|variant| record.kept(&variant.name).is_some()) {
            return refuse("made for a suite with none of this one's variants;".into());
        }
        // Where no run has begun, the configuration may still be mended.
        let mut begun = Vec::new();
        for kept in record.variants {
            let runs = folder.join(RUNS).join(&kept.folder);
            match std::fs::read_dir(&runs) {
                Ok(mut runs) => {
                    if runs.any(|run| run.is_ok_and(|run| run.file_name().to_string_lossy().starts_with(SEED))) {
                        begun.push(kept);
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(io(&runs)(e)),
            }
        }
        record.variants = begun;
        for variant in &suite.variants {
            let (name, config) = (&variant.name, &variant.loaded.config);
            let Some(kept) = record.kept(name) else { continue };
            if let Some(Difference { key, one, other }) = difference(&kept.config, config)? {
                return refuse(format!(
                    "made with {key} {one} for the variant `{name}`, but the suite has {other}; give the variant another name, or"
                ));
            }
        }
        let dataset = folder.join(DATASET);
        let fingerprint = Dataset::open(&dataset)?.manifest().fingerprint.clone();
        if *record.fingerprint.get_or_insert_with(|| fingerprint.clone()) != fingerprint {
            return refuse(format!("made with another dataset than {} (its fingerprint differs);", dataset.display()));
        }
        record.add(suite);
        replace_json(&path, ASIDE, &record)?;
        Ok(Comparison { folder: folder.to_path_buf(), record, _lock: lock })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The dataset's folder.
    pub fn dataset(&self) -> PathBuf {
        self.folder.join(DATASET)
    }

    /// The folder of the run of the variant `name` under `seed`.
    ///
    /// # Errors
    ///
    /// A variant that is none of the suite's.
    pub fn run(&self, name: &str, seed: u64) -> Result<PathBuf> {
        let kept = self.record.kept(name).ok_or_else(|| Error::system(format!("{RECORD}: has no variant `{name}`")))?;
        Ok(self.folder.join(RUNS).join(&kept.folder).join(format!("{SEED}{seed}")))
    }

    /// What came out of the run in the folder `run`, if it has been measured.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or is damaged.
    pub fn result(run: &Path) -> Result<Option<Measured>> {
        let path = run.join(RESULT);
        if path.exists() { read(&path, "remove it to have it made again").map(Some) } else { Ok(None) }
    }

    /// Keeps what came out of the run in the folder `run`, so that it is not run again.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn keep(run: &Path, measured: &Measured) -> Result<()> {
        replace_json(&run.join(RESULT), ASIDE, measured)
    }

    /// Writes the table as Markdown, CSV and JSON.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn write(&self, table: &Table) -> Result<()> {
        replace(&self.folder.join("table.md"), ASIDE, table.to_markdown().as_bytes())?;
        replace(&self.folder.join("table.csv"), ASIDE, &table.to_csv()?)?;
        replace_json(&self.folder.join("table.json"), ASIDE, table)
    }
}

/// Reads a file of the folder; `remedy` is what to do about a damaged one.
fn read<T: for<'de> Deserialize<'de>>(path: &Path, remedy: &str) -> Result<T> {
    let text = std::fs::read(path).map_err(io(path))?;
    serde_json::from_slice(&text).map_err(|e| Error::user(format!("{}: damaged: {e}; {remedy}", path.display())))
}

/// The first key in which two configurations differ.
fn difference(one: &Config, other: &Config) -> Result<Option<Difference>> {
    fn first(key: &str, one: &Value, other: &Value) -> Option<Difference> {
        if let (Value::Object(a), Value::Object(b)) = (one, other) {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            let below = |name: &String| if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            // A key that has no value is left out.
            let value = |of: &serde_json::Map<String, Value>, name| of.get(name).cloned().unwrap_or_default();
            return keys.filter_map(|name| first(&below(name), &value(a, name), &value(b, name))).next();
        }
        let show = |value: &Value| match value {
            Value::Null => "unset".to_string(),
            // Numbers are 32-bit ones widened, of more digits than anybody wrote.
            Value::Number(x) if x.is_f64() => x.as_f64().map_or(String::new(), |x| (x as f32).to_string()),
            _ => value.to_string(),
        };
        let differs = || Difference { key: key.to_string(), one: show(one), other: show(other) };
        (one != other).then(differs)
    }
    let json = |config: &Config| serde_json::to_value(config).map_err(|e| Error::system(format!("{RECORD}: {e}")));
    if one == other { Ok(None) } else { Ok(first("", &json(one)?, &json(other)?)) }
}

/// A folder's name for the variant `name` that is not `taken` yet: letters, digits, `.`, `_` and `-`, which every system can have.
fn slug(name: &str, taken: impl Fn(&str) -> bool) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._".contains(c) { c } else { '-' };
    let slug: String = name.chars().take(LONGEST).map(safe).collect();
    // A name of dots alone would be another folder, one that ends in a dot is none on Windows.
    let slug = slug.trim_matches('.').to_string();
    let first = if slug.is_empty() { "-".to_string() } else { slug };
    let later = (2..).map(|n| format!("{first}-{n}"));
    std::iter::once(first.clone()).chain(later).find(|slug| !taken(slug)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_variants() {
        assert_eq!(slug("mmoe contrast.temperature=0.1", |_| false), "mmoe-contrast.temperature-0.1");
        assert_eq!(slug("a b", |slug| slug == "a-b"), "a-b-2");
        for (name, wanted) in [("..", "-"), (".a.", "a"), ("a/../b", "a-..-b"), ("é", "-"), ("x_[1, 2]", "x_-1--2-")] {
            assert_eq!(slug(name, |_| false), wanted);
        }
        assert_eq!(slug(&"x".repeat(300), |_| false).len(), LONGEST);
    }
}
