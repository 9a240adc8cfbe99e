//! CSV and gzipped CSV: a header row, commas, quotes as in RFC 4180; empty lines are skipped.

use super::input::{BLOCK_BYTES, BLOCK_ROWS, Block, no_column, only, place};
use crate::error::io;
use crate::{Error, Result};
use flate2::bufread::GzDecoder;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

type Input = ::csv::Reader<Ended<Box<dyn Read + Send>>>;

/// A CSV file that is being read.
pub(super) struct Csv {
    reader: Input,
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

/// Ends the last line, whether the file does or not.
///
/// A row that is read on beyond this line end is within quotes: the reader itself takes the end of the file for their end. A CR, since it is not counted
/// as a line of its own.
struct Ended<R> {
    inner: R,
    /// Reads at the end of `inner` so far: the first gives the line end.
    reads: u8,
}

impl<R: Read> Read for Ended<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = if self.reads == 0 { self.inner.read(buffer)? } else { 0 };
        if n > 0 {
            return Ok(n);
        }
        self.reads = self.reads.saturating_add(1);
        match buffer.first_mut() {
            Some(byte) if self.reads == 1 => {
                *byte = b'\r';
                Ok(1)
            }
            _ => Ok(0),
        }
    }
}

/// The members of a gzip file, one after the other.
///
/// The decoder of several that flate2 has takes whatever follows a member for the next one, and calls it cut off or damaged.
struct Members<R> {
    /// None only while one gives way to the next.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while let Some(member) = &mut self.member {
            let n = member.read(buffer)?;
            if n > 0 || buffer.is_empty() {
                return Ok(n);
            }
            match member.get_mut().fill_buf()?.first() {
                None => break,
                // Every member begins with it.
                Some(0x1f) => self.member = self.member.take().map(|member| GzDecoder::new(member.into_inner())),
                Some(_) => {
                    let text = "its end is followed by bytes that are no gzip data; remove them";
                    return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text));
                }
            }
        }
        Ok(0)
    }
}

impl Csv {
    /// Opens the file and finds the wanted columns in its header.
    pub(super) fn open(path: &Path, wanted: &[String], gzip: bool) -> Result<Csv> {
        let position = Arc::new(AtomicU64::new(0));
        let file = Counted { inner: File::open(path).map_err(io(path))?, position: position.clone() };
        let bytes: Box<dyn Read + Send> = if gzip {
            Box::new(Members { member: Some(GzDecoder::new(BufReader::with_capacity(1 << 16, file))) })
        } else {
            Box::new(file)
        };
        let mut reader = ::csv::ReaderBuilder::new().buffer_capacity(1 << 18).from_reader(Ended { inner: bytes, reads: 0 });
        let header = reader.byte_headers().map_err(|e| damaged(path, e, 0, None))?.clone();
        closed(&reader, &header, || format!("{}: header", path.display()))?;
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
                let found = (0..names.len()).filter(|&i| names[i] == *name);
                only(path, name, found)?.ok_or_else(|| no_column(path, name, &names))
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
    /// where the reader stands now.
    fn line(&self) -> u64 {
        let back = newlines(&self.record) + u64::from(self.lf && self.reader.get_ref().reads == 0);
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
            closed(&self.reader, &self.record, || place(path, row, Some(line)))?;
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

/// Refuses a record that ends with the file, within quotes; `at` says where it begins.
fn closed(reader: &Input, record: &::csv::ByteRecord, at: impl FnOnce() -> String) -> Result<()> {
    if reader.get_ref().reads < 2 || record.is_empty() {
        return Ok(());
    }
    Err(Error::user(format!(
        "{}: the quote that opens cell {} is not closed by the end of the file; close it (a quote as text is written twice, within quotes)",
        at(),
        record.len()
    )))
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
