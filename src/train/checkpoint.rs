//! Checkpoints: safetensors files with parameters, running statistics, optimizer state and the position in the data.
//!
//! Written aside, synced and renamed, so a file under its name is always whole.

use super::session::Session;
use crate::data::prefetch::Position;
use crate::error::io;
use crate::files::{folder_of, map, sync_folder, temporary};
use crate::graph::{Parameter, Words};
use crate::ops::report::WORDS;
use crate::{Error, Result};
use memmap2::Mmap;
use safetensors::tensor::{Metadata, View};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

/// The metadata key that holds a [`Progress`] as JSON.
const KEY: &str = "tauten";

/// How far a run has come: what a checkpoint holds beside its arrays, enough to go on bit for bit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Training steps done.
    pub step: u64,
    /// The minibatch to go on with.
    pub position: Position,
    /// The best evaluation so far.
    pub best: Option<Best>,
    /// Evaluations since the best one.
    pub without_improvement: u64,
    /// Whether training has come to its end.
    pub finished: bool,
    /// Sums of each step's [`Report`](crate::ops::report::Report), field by field, since the last evaluation.
    pub sums: [f64; WORDS],
    /// Steps in the sums.
    pub summed: u64,
    /// What the minibatches come from; none in files of versions that did not keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<Sequence>,
}

/// What the sequence of minibatches comes from, without which a position in it means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sequence {
    /// `seed`.
    pub seed: u64,
    /// `train.batch_size`.
    pub batch_size: usize,
    /// Rows of data.train.
    pub rows: usize,
}

impl Sequence {
    /// Refuses to go on with `other` in its place.
    ///
    /// # Errors
    ///
    /// What differs, by its key.
    pub fn require(&self, other: &Sequence) -> Result<()> {
        for (key, was, is) in [
            ("seed", self.seed, other.seed),
            ("train.batch_size", self.batch_size as u64, other.batch_size as u64),
            ("the number of rows of data.train", self.rows as u64, other.rows as u64),
        ] {
            if was != is {
                return Err(Error::user(format!(
                    "{key} was {was} when it was written and is {is}; set it back, or train anew"
                )));
            }
        }
        Ok(())
    }
}

/// An evaluation that was the best.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// The monitored metric.
    pub value: f64,
    /// Training steps before it.
    pub step: u64,
}

/// An array of a session, read from the device when the file's writer asks for it.
struct Lazy<'a> {
    session: &'a RefCell<&'a mut Session>,
    failure: &'a RefCell<Option<Error>>,
    array: &'a Parameter,
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        match self.array.words {
            Words::Float => Dtype::F32,
            Words::Unsigned => Dtype::U32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.array.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = Vec::with_capacity(self.data_len());
        let read = self.session.borrow_mut().read_array(self.array, |words| {
            bytes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
            finite(self.array, words).map_err(|e| e.map(|message| format!("{message}; {CALMER}")))
        });
        if let Err(e) = read {
            // The trait has no way to fail: the writer gets zeros, and the file is thrown away for this.
            self.failure.borrow_mut().get_or_insert(e);
        }
        bytes.resize(self.data_len(), 0);
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.array.len() * 4
    }
}

/// Refuses `words` of `array` that no training can go on with: a moment may overflow where no loss does.
fn finite(array: &Parameter, words: &[u32]) -> Result<()> {
    if array.words == Words::Unsigned || words.iter().all(|&word| f32::from_bits(word).is_finite()) {
        return Ok(());
    }
    Err(Error::user(format!("`{}` holds a NaN or an infinity", array.name)))
}

/// What to do about numbers that grow beyond all bounds.
pub(super) const CALMER: &str =
    "lower optimizer.dense.lr, optimizer.embedding.lr or contrast.weight, or look for extreme numeric features";

/// How the names of files and folders begin that are being written.
pub(crate) const ASIDE: &str = ".checkpoint-";

/// Removes what a process that was killed while it wrote a checkpoint has left in `folder`.
///
/// # Errors
///
/// A file that cannot be removed.
pub fn remove_leftovers(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(io(folder))? {
        let entry = entry.map_err(io(folder))?;
        if entry.file_name().to_string_lossy().starts_with(ASIDE) {
            let path = entry.path();
            let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(io(&path))?;
        }
    }
    Ok(())
}

/// Writes a checkpoint of `session` to `path`; what is there stays until it is whole.
///
/// # Errors
///
/// What the device reports; an array with a number that is not finite; a file that cannot be written.
pub fn save(session: &mut Session, progress: &Progress, path: &Path) -> Result<()> {
    let folder = folder_of(path);
    let arrays: Vec<Parameter> =
        session.model().parameters().iter().chain(session.model().optimizer_state()).cloned().collect();
    let json = serde_json::to_string(progress).map_err(|e| Error::system(format!("{}: {e}", path.display())))?;
    let metadata = HashMap::from([(KEY.to_string(), json)]);
    // In a folder of its own: the safetensors writer makes further temporary files beside the one that it is given.
    let own = tempfile::Builder::new().prefix(ASIDE).tempdir_in(folder).map_err(io(folder))?;
    let aside = temporary(own.path(), "new-").map_err(io(folder))?;
    let permissions = aside.as_file().metadata().map_err(io(path))?.permissions();
    // Closed: Windows replaces no file that is open.
    let aside = aside.into_temp_path();
    let failure = RefCell::new(None);
    let session = RefCell::new(session);
    let views = arrays.iter().map(|array| (array.name.as_str(), Lazy { session: &session, failure: &failure, array }));
    let written = safetensors::serialize_to_file(views, Some(metadata), &aside);
    if let Some(e) = failure.into_inner() {
        return Err(e.context(format_args!("{}: cannot be written at step {}", path.display(), progress.step)));
    }
    written.map_err(|e| match e {
        SafeTensorError::IoError(e) => io(path)(e),
        e => Error::system(format!("{}: cannot be written: {e}", path.display())),
    })?;
    // The writer has replaced the file under the name by one for the owner's eyes alone.
    std::fs::set_permissions(&aside, permissions).map_err(io(path))?;
    // Windows syncs what is open to be written.
    File::options().write(true).open(&aside).and_then(|f| f.sync_all()).map_err(io(path))?;
    aside.persist(path).map_err(|e| io(path)(e.error))?;
    sync_folder(folder)
}

/// A checkpoint that is open for reading.
pub struct Checkpoint {
    name: String,
    file: Mmap,
}

impl Checkpoint {
    /// Opens a safetensors file.
    ///
    /// # Errors
    ///
    /// A file that is not there or is damaged.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        if path.is_dir() {
            return Err(Error::user(format!("{}: is a folder; name a safetensors file", path.display())));
        }
        let file = map(path, &File::open(path).map_err(io(path))?)?;
        let checkpoint = Checkpoint { name: path.display().to_string(), file };
        checkpoint.tensors()?;
        Ok(checkpoint)
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn tensors(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.file)
            .map_err(|e| Error::user(format!("{}: no safetensors file, or a damaged one: {e}", self.name)))
    }

    fn header(&self) -> Result<Metadata> {
        SafeTensors::read_metadata(&self.file)
            .map(|(_, header)| header)
            .map_err(|e| Error::user(format!("{}: no safetensors file, or a damaged one: {e}", self.name)))
    }

    /// How far the run had come.
    ///
    /// # Errors
    ///
    /// A file that was not written by training.
    pub fn progress(&self) -> Result<Progress> {
        let header = self.header()?;
        let json = header.metadata().as_ref().and_then(|m| m.get(KEY)).ok_or_else(|| {
            Error::user(format!("{}: holds parameters but no position in the data; it can only be used by --init", self.name))
        })?;
        serde_json::from_str(json).map_err(|e| Error::user(format!("{}: its position in the data is damaged: {e}", self.name)))
    }

    /// Loads parameters and running statistics into `session`, and with `optimizer` the optimizer's state too.
    ///
    /// # Errors
    ///
    /// An array that is missing or has another shape or type, by its name; what the device reports.
    pub fn load(&self, session: &mut Session, optimizer: bool) -> Result<()> {
        let tensors = self.tensors()?;
        let mut arrays = session.model().parameters().to_vec();
        if optimizer {
            arrays.extend(session.model().optimizer_state().iter().cloned());
        }
        // All are checked before any is written.
        for array in &arrays {
            let view = tensors
                .tensor(&array.name)
                .map_err(|_| Error::user(format!("{}: has no `{}`; it is of another model", self.name, array.name)))?;
            let dtype = if array.words == Words::Float { Dtype::F32 } else { Dtype::U32 };
            if view.shape() != array.shape || view.dtype() != dtype {
                return Err(Error::user(format!(
                    "{}: `{}` is {:?} {:?}, the model has {dtype:?} {:?}; it is of another model or another dataset",
                    self.name,
                    array.name,
                    view.dtype(),
                    view.shape(),
                    array.shape
                )));
            }
        }
        for array in &arrays {
            let view = tensors.tensor(&array.name).map_err(|e| Error::system(format!("{}: {e}", self.name)))?;
            let data = view.data();
            session.write_array(array, |from, words| {
                for (word, bytes) in words.iter_mut().zip(data[from * 4..].chunks_exact(4)) {
                    *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                }
                finite(array, words).map_err(|e| e.context(&self.name))
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::unwrap_used, reason = "a test that fails says where")]
    fn progress_of_before_and_other_sequences() {
        let json = |more| {
            format!(
                "{{\"step\":3,\"position\":{{\"epoch\":0,\"batch\":3}},\"best\":null,\"without_improvement\":0,\"finished\":false,\"sums\":[0,0,0,0,0,0,0,0],\"summed\":3{more}}}"
            )
        };
        let before: Progress = serde_json::from_str(&json("")).unwrap();
        assert_eq!(before.sequence, None);
        let now: Progress = serde_json::from_str(&json(",\"sequence\":{\"seed\":1,\"batch_size\":2,\"rows\":3}")).unwrap();
        let was = now.sequence.unwrap();
        was.require(&was).unwrap();
        let refused = |other: Sequence| was.require(&other).unwrap_err().to_string();
        insta::assert_snapshot!(refused(Sequence { seed: 9, ..was }), @"seed was 1 when it was written and is 9; set it back, or train anew");
        insta::assert_snapshot!(refused(Sequence { batch_size: 9, ..was }), @"train.batch_size was 2 when it was written and is 9; set it back, or train anew");
        insta::assert_snapshot!(refused(Sequence { rows: 9, ..was }), @"the number of rows of data.train was 3 when it was written and is 9; set it back, or train anew");
    }
}
