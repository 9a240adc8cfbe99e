//! CSV and gzipped CSV: a header row, commas, quotes as in RFC 4180; empty lines are skipped.

use super::input::{BLOCK_BYTES, BLOCK_ROWS, Block, no_column, place};
use crate::error::io;
use crate::{Error, Result};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A CSV file that is being read.
pub(super) struct Csv {
    reader: ::csv::Reader<Box<dyn Read + Send>>,
    record: ::csv::ByteRecord,
    names: Vec<String>,
    /// Position of each wanted column in a record.
    wanted: Vec<usize>,
    /// Whether lines end in LF alone, as the header does.
    lf: bool,
    /// Bytes read of the file on disk.
    position: Arc<AtomicU64>,
}

/// Counts the bytes that pass.
struct Counted<R> {
    inner: R,
    position: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.position.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

impl Csv {
    /// Opens the file and finds the wanted columns in its header.
    pub(super) fn open(path: &Path, wanted: &[String], gzip: bool) -> Result<Csv> {
        let position = Arc::new(AtomicU64::new(0));
        let file = Counted { inner: File::open(path).map_err(io(path))?, position: position.clone() };
        let bytes: Box<dyn Read + Send> =
            if gzip { Box::new(MultiGzDecoder::new(std::io::BufReader::with_capacity(1 << 16, file))) } else { Box::new(file) };
        let mut reader = ::csv::ReaderBuilder::new().buffer_capacity(1 << 18).from_reader(bytes);
        let header = reader.byte_headers().map_err(|e| damaged(path, e, 0, None))?.clone();
        let mut names = Vec::with_capacity(header.len());
        for (i, name) in header.iter().enumerate() {
            let name = std::str::from_utf8(name).map_err(|_| {
                Error::user(format!("{}: the name of column {} is not UTF-8; convert the file to UTF-8", path.display(), i + 1))
            })?;
            names.push(name.to_string());
        }
        if names.is_empty() {
            return Err(Error::user(format!("{}: no header row; the first line must name the columns", path.display())));
        }
        let wanted = wanted
            .iter()
            .map(|name| {
                let mut at = (0..names.len()).filter(|&i| names[i] == *name);
                let first = at.next().ok_or_else(|| no_column(path, name, &names))?;
                match at.next() {
                    Some(second) => Err(Error::user(format!(
                        "{}: columns {} and {} are both named `{name}`; rename one",
                        path.display(),
                        first + 1,
                        second + 1
                    ))),
                    None => Ok(first),
                }
            })
            .collect::<Result<_>>()?;
        // The reader has passed the header's LF, but of a CRLF only the CR.
        let lf = reader.position().line() > 1 + newlines(&header);
        Ok(Csv { reader, record: ::csv::ByteRecord::new(), names, wanted, lf, position })
    }

    /// The header.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Bytes read of the file on disk.
    pub(super) fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// The line at which the last record starts, from 1.
    ///
    /// The record's own position is where the one before ended: ahead of empty lines and of the LF of a CRLF. So count back from
    /// where the reader stands now. (Only a last row without a line end, behind empty lines, still counts from the empty lines.)
    fn line(&self) -> u64 {
        let back = newlines(&self.record) + u64::from(self.lf);
        let before = self.record.position().map_or(1, ::csv::Position::line);
        before.max(self.reader.position().line().saturating_sub(back))
    }

    /// Appends the next rows to an empty block.
    pub(super) fn fill(&mut self, path: &Path, block: &mut Block) -> Result<()> {
        let mut bytes = 0;
        while block.rows < BLOCK_ROWS && bytes < BLOCK_BYTES {
            let row = block.first_row + block.rows as u64 + 1;
            let read = self.reader.read_byte_record(&mut self.record);
            let line = self.line();
            if !read.map_err(|e| damaged(path, e, row, Some(line)))? {
                break;
            }
            for (column, &at) in block.columns.iter_mut().zip(&self.wanted) {
                // Every record is as long as the header: the reader refuses others.
                let cell = self.record.get(at).unwrap_or_default();
                let text = std::str::from_utf8(cell).map_err(|_| {
                    Error::user(format!(
                        "{}: column `{}` is not UTF-8; convert the file to UTF-8",
                        place(path, row, Some(line)),
                        self.names[at]
                    ))
                })?;
                column.text.push_str(text);
                column.end_cell();
                bytes += cell.len();
            }
            block.lines.push(line);
            block.rows += 1;
        }
        Ok(())
    }
}

/// Line ends within the cells of a record.
fn newlines(record: &::csv::ByteRecord) -> u64 {
    record.as_slice().iter().filter(|&&b| b == b'\n').count() as u64
}

/// One line for an error of the CSV reader at data row `row` (0: the header), which starts at `line`.
fn damaged(path: &Path, error: ::csv::Error, row: u64, line: Option<u64>) -> Error {
    let at = |line| if row == 0 { format!("{}: header", path.display()) } else { place(path, row, line) };
    match error.into_kind() {
        ::csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            let cells = if len == 1 { "cell" } else { "cells" };
            Error::user(format!(
                "{}: {len} {cells}, but the header has {expected_len}; mend the row (a cell with a comma needs quotes)",
                at(line)
            ))
        }
        ::csv::ErrorKind::Io(e) => match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Error::user(format!("{}: the gzip data ends here before its end; the file is cut off", at(None)))
            }
            std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData => {
                Error::user(format!("{}: the gzip data is damaged here: {e}", at(None)))
            }
            _ => io(path)(e),
        },
        kind => Error::user(format!("{}: {kind:?}", at(line))),
    }
}
