//! Input files as a stream of record blocks: one interface over CSV, gzipped CSV and Parquet.
//!
//! A cell is text, whatever the file: Parquet numbers and booleans are written out (integers in decimal, floats as the
//! shortest text that reads back to the same value, `true` and `false`), null and NaN are missing. A missing cell and an
//! empty one are the same.

use super::csv::Csv;
use super::parquet::Parquet;
use crate::error::{io, one_line};
use crate::files::no_text;
use crate::report::progress::Task;
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{channel, sync_channel};

/// Rows in a block, at most.
pub const BLOCK_ROWS: usize = 4096;

/// Text in a block after which it takes no further CSV row, so that long cells do not make a block large.
pub(super) const BLOCK_BYTES: usize = 16 << 20;

/// What a column of a file holds; its cells are text in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// Whole numbers within i64.
    Integer,
    /// Whole numbers within u64.
    Unsigned,
    /// Numbers within f64.
    Float,
    /// Text; every column of a CSV file.
    Text,
}

/// The cells of one column of a block.
#[derive(Debug, Clone, Default)]
pub struct Column {
    pub(super) text: String,
    pub(super) ends: Vec<usize>,
}

impl Column {
    /// The cell of `row`; empty if missing.
    #[inline]
    pub fn cell(&self, row: usize) -> &str {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.text[start..self.ends[row]]
    }

    /// Ends the cell that was written to `text`.
    #[inline]
    pub(super) fn end_cell(&mut self) {
        self.ends.push(self.text.len());
    }

    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }
}

/// Consecutive rows of one file, the wanted columns of them.
#[derive(Debug, Clone)]
pub struct Block {
    path: Arc<Path>,
    /// The file's rows before this block.
    pub first_row: u64,
    /// Rows in the block.
    pub rows: usize,
    /// The wanted columns, in the order in which they were wanted.
    pub columns: Vec<Column>,
    /// Line of the file at which each row starts; empty for Parquet.
    pub(super) lines: Vec<u64>,
}

impl Default for Block {
    fn default() -> Self {
        Block { path: Arc::from(Path::new("")), first_row: 0, rows: 0, columns: Vec::new(), lines: Vec::new() }
    }
}

impl Block {
    /// Where `row` of the block stands, for errors: `FILE: row N (line L)`, N counting data rows from 1.
    pub fn place(&self, row: usize) -> String {
        place(&self.path, self.first_row + row as u64 + 1, self.lines.get(row).copied())
    }
}

/// `FILE: row N (line L)`, the line only where there is one.
pub(super) fn place(path: &Path, row: u64, line: Option<u64>) -> String {
    match line {
        Some(line) => format!("{}: row {row} (line {line})", path.display()),
        None => format!("{}: row {row}", path.display()),
    }
}

/// A file's wanted columns, read block after block in bounded memory.
pub struct Reader {
    path: Arc<Path>,
    kinds: Vec<Kind>,
    rows: u64,
    size: u64,
    source: Source,
}

enum Source {
    Csv(Csv),
    Parquet(Parquet),
}

impl Reader {
    /// Opens `path` (`.csv`, `.csv.gz` or `.parquet`) for the columns named in `wanted`.
    ///
    /// # Errors
    /// The file cannot be read, has another ending, or lacks a column (the error lists those there are).
    pub fn open(path: &Path, wanted: &[String]) -> Result<Reader> {
        let name = path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        let (source, kinds) = if name.ends_with(".csv") || name.ends_with(".csv.gz") {
            let csv = Csv::open(path, wanted, name.ends_with(".gz"))?;
            (Source::Csv(csv), vec![Kind::Text; wanted.len()])
        } else if name.ends_with(".parquet") {
            let (parquet, kinds) = Parquet::open(path, wanted)?;
            (Source::Parquet(parquet), kinds)
        } else {
            return Err(Error::user(format!(
                "{}: no known kind of file; its name must end in .csv, .csv.gz or .parquet",
                path.display()
            )));
        };
        let size = std::fs::metadata(path).map_err(io(path))?.len();
        Ok(Reader { path: Arc::from(path), kinds, rows: 0, size, source })
    }

    /// The names of the columns of `path`, in the file's order, without nested ones.
    pub fn columns(path: &Path) -> Result<Vec<String>> {
        // Opening for no column reads the header alone.
        match Reader::open(path, &[])?.source {
            Source::Csv(csv) => Ok(csv.names().to_vec()),
            Source::Parquet(parquet) => Ok(parquet.names()),
        }
    }

    /// What the wanted columns hold, in the order in which they were wanted.
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// Bytes of the file that have been read, at most its size.
    pub fn position(&self) -> u64 {
        match &self.source {
            Source::Csv(csv) => csv.position(),
            Source::Parquet(parquet) => parquet.share_read(self.size),
        }
        .min(self.size)
    }

    /// Replaces `block` by the next rows; false, and no rows, at the end of the file.
    ///
    /// # Errors
    /// A ragged row, a cell that is not UTF-8, a file that is cut off or damaged; each with its row.
    pub fn next(&mut self, block: &mut Block) -> Result<bool> {
        block.path = self.path.clone();
        block.first_row = self.rows;
        block.rows = 0;
        block.lines.clear();
        block.columns.resize_with(self.kinds.len(), Column::default);
        block.columns.iter_mut().for_each(Column::clear);
        match &mut self.source {
            Source::Csv(csv) => csv.fill(&self.path, block)?,
            Source::Parquet(parquet) => parquet.fill(&self.path, block)?,
        }
        self.rows += block.rows as u64;
        Ok(block.rows > 0)
    }
}

/// The files that `patterns` (globs relative to `root`) match: each pattern's sorted by name, in the order of the patterns, a
/// file only once.
///
/// # Errors
/// A pattern that is malformed or matches nothing. `what` names the key that holds them, for the error.
pub fn expand(root: &Path, patterns: &[String], what: &str) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = Vec::new();
    let escaped = glob::Pattern::escape(root.to_str().ok_or_else(|| no_text(root))?);
    for pattern in patterns {
        // The root is a folder's name, not a pattern: brackets in it stand for themselves.
        let full = Path::new(&escaped).join(pattern);
        let full = full.to_string_lossy();
        let paths = glob::glob(&full).map_err(|e| Error::user(format!("{what}: bad glob `{pattern}`: {}", e.msg)))?;
        let mut found = Vec::new();
        for path in paths {
            let path = path.map_err(|e| Error::user(format!("{what}: {}: {}", e.path().display(), e.error())))?;
            if path.is_file() {
                found.push(path);
            }
        }
        if found.is_empty() {
            return Err(Error::user(format!(
                "{what}: `{pattern}` matches no file in {}; check the pattern and data.root",
                root.display()
            )));
        }
        found.sort();
        for path in found {
            if !files.contains(&path) {
                files.push(path);
            }
        }
    }
    Ok(files)
}

/// Reads `files` one after the other on a thread of its own and hands each block to `f` in order; `task` advances by bytes. A block that `f` gives back,
/// this one or one of before, is filled anew.
///
/// # Errors
/// The first error of a file or of `f`; nothing is read on after it.
pub fn for_each_block(
    files: &[PathBuf],
    wanted: &[String],
    task: &Task,
    mut f: impl FnMut(Block) -> Result<Option<Block>>,
) -> Result<()> {
    std::thread::scope(|scope| {
        // At most two blocks wait and one is read while one is worked on: besides those that `f` keeps, memory stays bounded.
        let (full_sender, full) = sync_channel::<Result<(Block, u64)>>(2);
        let (used, used_receiver) = channel::<Block>();
        let read_all = move || {
            for file in files {
                let mut position = 0;
                let mut reader = match Reader::open(file, wanted) {
                    Ok(reader) => reader,
                    // A closed channel means that the other side has an error of its own.
                    Err(e) => return drop(full_sender.send(Err(e))),
                };
                loop {
                    let mut block = used_receiver.try_recv().unwrap_or_default();
                    let message = match reader.next(&mut block) {
                        Ok(false) => break,
                        Ok(true) => {
                            let before = std::mem::replace(&mut position, reader.position());
                            Ok((block, position - before))
                        }
                        Err(e) => Err(e),
                    };
                    let failed = message.is_err();
                    if full_sender.send(message).is_err() || failed {
                        return;
                    }
                }
            }
        };
        std::thread::Builder::new()
            .name("reader".into())
            .spawn_scoped(scope, read_all)
            .map_err(|e| Error::system(format!("cannot start the reader thread: {e}")))?;
        for message in full {
            let (block, bytes) = message?;
            let done = f(block)?;
            task.advance(bytes);
            if let Some(block) = done {
                // The reader is gone after its last block.
                let _ = used.send(block);
            }
        }
        Ok(())
    })
}

/// The one column of `found`, those of `path` that are called `name`; none if there is none.
///
/// # Errors
/// There are two.
pub(super) fn only(path: &Path, name: &str, mut found: impl Iterator<Item = usize>) -> Result<Option<usize>> {
    match (found.next(), found.next()) {
        (Some(first), Some(second)) => Err(Error::user(format!(
            "{}: columns {} and {} are both named `{}`; rename one",
            path.display(),
            first + 1,
            second + 1,
            one_line(name)
        ))),
        (first, _) => Ok(first),
    }
}

/// The error of a column that is not there.
pub(super) fn no_column(path: &Path, name: &str, names: &[String]) -> Error {
    // Where spaces or commas are a name's own.
    let quote = |name: &String| if name.trim() != name || name.contains(',') { format!("`{name}`") } else { name.clone() };
    let quoted: Vec<String> = names.iter().map(quote).collect();
    let other = match names {
        [one] if one.contains([';', '\t']) => "; write it with commas between the columns",
        _ => "",
    };
    let (name, names) = (one_line(name), one_line(&quoted.join(", ")));
    Error::user(format!("{}: no column `{name}`; the columns are {names}{other}", path.display()))
}
