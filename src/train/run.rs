//! A run's folder: everything that evaluating, predicting and resuming need.
//!
//! ```text
//! config.toml       the resolved configuration
//! run.json          the dataset's folder and fingerprint, the file of the first parameters
//! encoding/         vocabularies and transforms
//! dataset/          the encoded dataset, where none was named
//! metrics.jsonl     one line an evaluation
//! best.safetensors  the checkpoint with the best evaluation
//! last.safetensors  the newest checkpoint
//! lock              empty; locked by the process that trains
//! ```

use super::checkpoint::{ASIDE, Checkpoint, Progress as Position};
use crate::config::{Config, Loaded};
use crate::data::dataset::Dataset;
use crate::data::encode::Encoding;
use crate::data::prepare::prepare;
use crate::error::io;
use crate::files::aside::Aside;
use crate::files::{lock_folder, no_text, replace, replace_json};
use crate::model::Schema;
use crate::report::progress::Progress;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};

const RECORD: &str = "run.json";

/// A run's folder.
pub struct Run {
    folder: PathBuf,
    config: Config,
    record: Record,
    /// Where its files lie until [`Run::keep`]; they go with it if that never comes.
    aside: Option<Aside>,
    /// Keeps others from training it until this is closed, by the system if need be.
    lock: Option<File>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// The dataset's folder, absolute, or relative to the run's folder if it lies inside.
    dataset: PathBuf,
    fingerprint: String,
    /// The file whose parameters training started from.
    init: Option<PathBuf>,
}

impl Run {
    /// Makes what will be the folder `out`, which must not exist; prepares the dataset inside unless `data` names one. The folder has its
    /// name from [`Run::keep`] on: before that all may still turn out not to fit.
    ///
    /// # Errors
    ///
    /// A folder that exists; a dataset that does not fit the configuration; those of [`prepare`].
    pub fn create(
        loaded: &Loaded,
        out: &Path,
        data: Option<&Path>,
        init: Option<&Path>,
        progress: &Progress,
    ) -> Result<(Run, Dataset)> {
        refuse_existing(out)?;
        let absolute = |path: &Path| {
            let absolute = std::path::absolute(path).map_err(io(path))?;
            // The record has it as text.
            if absolute.to_str().is_some() { Ok(absolute) } else { Err(no_text(&absolute)) }
        };
        let init = init.map(absolute).transpose()?;
        if let Some(path) = &init {
            // A wrong name should not wait for the data.
            Checkpoint::open(path)?;
        }
        let named = match data {
            None => None,
            Some(path) => Some((absolute(path)?, Dataset::open_for(path, &loaded.config)?)),
        };
        let aside = Aside::new(out)?;
        let fresh = aside.path();
        std::fs::create_dir(fresh).map_err(io(out))?;
        let (path, dataset) = match named {
            Some(named) => named,
            None => (PathBuf::from("dataset"), prepare(loaded, &fresh.join("dataset"), progress).map_err(|e| aside.named(e))?),
        };
        let record = Record { dataset: path, fingerprint: dataset.manifest().fingerprint.clone(), init };
        let encoding = fresh.join("encoding");
        std::fs::create_dir(&encoding).map_err(io(&encoding))?;
        dataset.encoding().save(&encoding)?;
        for (name, text) in [("config.toml", loaded.config.to_toml()?), ("metrics.jsonl", String::new())] {
            replace(&fresh.join(name), ASIDE, text.as_bytes())?;
        }
        replace_json(&fresh.join(RECORD), ASIDE, &record)?;
        let (folder, config) = (out.to_path_buf(), loaded.config.clone());
        Ok((Run { folder, config, record, aside: Some(aside), lock: None }, dataset))
    }

    /// Gives a new run's folder its name, so that a folder under it is complete whenever the process ends, and locks it. Takes the
    /// run's dataset and gives it back: one that lies in the folder is opened anew, since Windows renames none whose files are mapped.
    ///
    /// # Errors
    ///
    /// A folder that has come to exist; those of [`Run::lock`] and [`Run::dataset`].
    pub fn keep(&mut self, dataset: Dataset) -> Result<Dataset> {
        let Some(aside) = self.aside.take() else { return Ok(dataset) };
        refuse_existing(&self.folder)?;
        let elsewhere = Some(dataset).filter(|_| self.record.dataset.is_absolute());
        aside.finish()?;
        self.lock()?;
        elsewhere.map_or_else(|| self.dataset(None), Ok)
    }

    /// Whether it has no folder yet.
    pub fn is_new(&self) -> bool {
        self.aside.is_some()
    }

    /// Keeps other processes from training the run for as long as this one has it open. A new run, which has no folder yet, is locked when
    /// it is kept.
    ///
    /// # Errors
    ///
    /// Another process that trains it.
    pub fn lock(&mut self) -> Result<()> {
        if self.is_new() || self.lock.is_some() {
            return Ok(());
        }
        self.lock = Some(lock_folder(&self.folder, "is training this run")?);
        Ok(())
    }

    /// Opens a run's folder.
    ///
    /// # Errors
    ///
    /// A folder that is no run's.
    pub fn open(folder: &Path) -> Result<Run> {
        let path = folder.join(RECORD);
        if !path.is_file() {
            return Err(Error::user(format!(
                "{}: no run's folder (it has no {RECORD}); `tauten train` makes one",
                folder.display()
            )));
        }
        let text = std::fs::read_to_string(&path).map_err(io(&path))?;
        let record = serde_json::from_str(&text).map_err(|e| Error::user(format!("{}: damaged: {e}", path.display())))?;
        let config = Loaded::read(&folder.join("config.toml"), &[])?.config;
        Ok(Run { folder: folder.to_path_buf(), config, record, aside: None, lock: None })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The resolved configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The file whose parameters training started from.
    pub fn init(&self) -> Option<&Path> {
        self.record.init.as_deref()
    }

    /// Opens the dataset that was trained on, or `other` in its place, which must have the same fingerprint.
    ///
    /// # Errors
    ///
    /// A dataset that is gone or is not the one that was trained on.
    pub fn dataset(&self, other: Option<&Path>) -> Result<Dataset> {
        let path = other.map_or_else(|| self.folder.join(&self.record.dataset), Path::to_path_buf);
        if other.is_none() && !path.exists() {
            let (path, run) = (path.display(), self.folder.display());
            return Err(Error::user(format!("{path}: the dataset of {run} is not there; name where it lies now with --data")));
        }
        let dataset = Dataset::open(&path)?;
        if dataset.manifest().fingerprint != self.record.fingerprint {
            return Err(Error::user(format!(
                "{}: not the dataset that {} was trained on (its fingerprint differs); name that one with --data",
                path.display(),
                self.folder.display()
            )));
        }
        Ok(dataset)
    }

    /// The vocabularies and transforms.
    ///
    /// # Errors
    ///
    /// A file that is gone or damaged.
    pub fn encoding(&self) -> Result<Encoding> {
        Encoding::load(&self.folder.join("encoding"))
    }

    /// The checkpoint with the best evaluation.
    pub fn best(&self) -> PathBuf {
        self.folder.join("best.safetensors")
    }

    /// The newest checkpoint.
    pub fn last(&self) -> PathBuf {
        self.folder.join("last.safetensors")
    }

    /// One line an evaluation.
    pub fn metrics(&self) -> PathBuf {
        self.folder.join("metrics.jsonl")
    }

    /// The checkpoint to evaluate and predict with: the best, or the newest where there was no evaluation yet.
    ///
    /// # Errors
    ///
    /// A run that has no checkpoint yet.
    pub fn checkpoint(&self) -> Result<(PathBuf, Position)> {
        for path in [self.best(), self.last()] {
            if path.exists() {
                let position = Checkpoint::open(&path)?.progress()?;
                return Ok((path, position));
            }
        }
        Err(Error::user(format!(
            "{}: has no checkpoint yet; go on with `tauten train --resume {}`",
            self.folder.display(),
            self.folder.display()
        )))
    }
}

fn refuse_existing(out: &Path) -> Result<()> {
    if !out.exists() {
        return Ok(());
    }
    Err(Error::user(format!(
        "{}: exists; name another folder with --out, or go on with that run by --resume {}",
        out.display(),
        out.display()
    )))
}

/// What a model must know of `encoding`.
pub fn schema(encoding: &Encoding) -> Schema {
    Schema {
        categorical: encoding.categorical.iter().map(|c| (c.name.clone(), c.vocabulary.size())).collect(),
        numeric: encoding.numeric.len(),
    }
}
