//! Parquet, without Arrow: flat columns, read a block of rows at a time.

use super::input::{BLOCK_ROWS, Block, Column, Kind, no_column, only, place};
use crate::error::{io, one_line, without_panic};
use crate::{Error, Result};
use ::parquet::basic::{Compression, ConvertedType, LogicalType, Type};
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::DataType;
use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::schema::types::ColumnDescriptor;
use std::fmt::Write;
use std::fs::File;
use std::path::Path;

/// A Parquet file that is being read.
pub(super) struct Parquet {
    file: SerializedFileReader<File>,
    /// The wanted columns: index among the file's, what they hold, highest definition level (1 where nulls may be).
    wanted: Vec<(usize, Kind, i16)>,
    /// The next row group.
    group: usize,
    /// Readers of the wanted columns of the current row group.
    columns: Vec<ColumnReader>,
    /// Rows of the current row group that are left.
    left: usize,
    done: u64,
    total: u64,
}

impl Parquet {
    /// Opens the file and finds the wanted columns in its schema.
    pub(super) fn open(path: &Path, wanted: &[String]) -> Result<(Parquet, Vec<Kind>)> {
        unless_damaged(path, None, || Parquet::find(path, wanted))
    }

    fn find(path: &Path, wanted: &[String]) -> Result<(Parquet, Vec<Kind>)> {
        let file = SerializedFileReader::new(File::open(path).map_err(io(path))?).map_err(|e| damaged(path, e, None))?;
        let schema = file.metadata().file_metadata().schema_descr();
        let names: Vec<String> = schema.columns().iter().map(|c| c.path().string()).collect();
        let mut found = Vec::with_capacity(wanted.len());
        for name in wanted {
            let flat = |c: &ColumnDescriptor| matches!(c.path().parts(), [part] if part == name) && c.max_rep_level() == 0;
            match only(path, name, (0..names.len()).filter(|&i| flat(&schema.column(i))))? {
                Some(i) => {
                    let column = schema.column(i);
                    found.push((i, kind(path, name, &column)?, column.max_def_level()));
                }
                None if schema.columns().iter().any(|c| c.path().parts().first() == Some(name)) => {
                    return Err(Error::user(format!(
                        "{}: column `{name}` is nested; only flat columns can be read: write its parts as columns of their own",
                        path.display()
                    )));
                }
                None => return Err(no_column(path, name, &names)),
            }
        }
        for group in file.metadata().row_groups() {
            for (name, &(i, ..)) in wanted.iter().zip(&found) {
                codec(path, name, group.column(i).compression())?;
            }
        }
        let total = file.metadata().file_metadata().num_rows().max(0) as u64;
        let kinds = found.iter().map(|f| f.1).collect();
        Ok((Parquet { file, wanted: found, group: 0, columns: Vec::new(), left: 0, done: 0, total }, kinds))
    }

    /// The flat columns' names.
    pub(super) fn names(&self) -> Vec<String> {
        let columns = self.file.metadata().file_metadata().schema_descr().columns();
        columns.iter().filter(|c| c.path().parts().len() == 1).map(|c| c.name().to_string()).collect()
    }

    /// The share of `size` bytes that the rows read so far make up.
    pub(super) fn share_read(&self, size: u64) -> u64 {
        (u128::from(size) * u128::from(self.done) / u128::from(self.total.max(1))) as u64
    }

    /// Appends the next rows to an empty block; a block never spans row groups.
    pub(super) fn fill(&mut self, path: &Path, block: &mut Block) -> Result<()> {
        let row = block.first_row + 1;
        unless_damaged(path, Some(row), || self.read(path, row, block))
    }

    /// Reads the rows from `row` on.
    fn read(&mut self, path: &Path, row: u64, block: &mut Block) -> Result<()> {
        while self.left == 0 {
            if self.group == self.file.num_row_groups() {
                return Ok(());
            }
            let group = self.file.get_row_group(self.group).map_err(|e| damaged(path, e, Some(row)))?;
            self.left = group.metadata().num_rows().max(0) as usize;
            let columns =
                self.wanted.iter().map(|&(i, ..)| group.get_column_reader(i)).collect::<::parquet::errors::Result<_>>();
            self.columns = columns.map_err(|e| damaged(path, e, Some(row)))?;
            self.group += 1;
        }
        let rows = self.left.min(BLOCK_ROWS);
        for ((reader, &(i, kind, max_def)), column) in self.columns.iter_mut().zip(&self.wanted).zip(&mut block.columns) {
            read_column(reader, kind, max_def, rows, column).map_err(|e| match e {
                Failure::Parquet(e) => damaged(path, e, Some(row)),
                Failure::NotUtf8(at) => Error::user(format!(
                    "{}: column `{}` is not UTF-8; write the file with UTF-8 text",
                    place(path, row + at as u64, None),
                    self.file.metadata().file_metadata().schema_descr().column(i).name()
                )),
            })?;
        }
        block.rows = rows;
        self.left -= rows;
        self.done += rows as u64;
        Ok(())
    }
}

/// What `read` gives; the crate's reader panics on some damaged metadata.
fn unless_damaged<R>(path: &Path, row: Option<u64>, read: impl FnOnce() -> Result<R>) -> Result<R> {
    without_panic(read).unwrap_or_else(|panic| Err(damaged(path, panic, row)))
}

/// Refuses a compression that the `parquet` crate is built without here.
fn codec(path: &Path, name: &str, compression: Compression) -> Result<()> {
    let codec = match compression {
        Compression::BROTLI(_) => "Brotli",
        Compression::LZO => "LZO",
        _ => return Ok(()),
    };
    Err(Error::user(format!(
        "{}: column `{name}` is compressed with {codec}, which is not read; write the file with Snappy, gzip, Zstandard or LZ4, or uncompressed",
        path.display()
    )))
}

/// What a column holds, or the error that it cannot be read.
fn kind(path: &Path, name: &str, column: &ColumnDescriptor) -> Result<Kind> {
    use ConvertedType as C;
    let unsigned = match column.logical_type_ref() {
        Some(LogicalType::Integer(int)) => Some(!int.is_signed),
        Some(LogicalType::String | LogicalType::Enum | LogicalType::Json | LogicalType::Unknown) => Some(false),
        Some(_) => None,
        None => match column.converted_type() {
            C::UINT_8 | C::UINT_16 | C::UINT_32 | C::UINT_64 => Some(true),
            C::NONE | C::UTF8 | C::ENUM | C::JSON | C::INT_8 | C::INT_16 | C::INT_32 | C::INT_64 => Some(false),
            _ => None,
        },
    };
    match (column.physical_type(), unsigned) {
        (Type::BOOLEAN, Some(_)) => Ok(Kind::Boolean),
        (Type::INT32 | Type::INT64, Some(unsigned)) => Ok(if unsigned { Kind::Unsigned } else { Kind::Integer }),
        (Type::FLOAT | Type::DOUBLE, Some(_)) => Ok(Kind::Float),
        (Type::BYTE_ARRAY, Some(_)) => Ok(Kind::Text),
        (physical, _) => {
            let logical = match (column.logical_type_ref(), column.converted_type()) {
                (Some(logical), _) => format!(" ({logical:?})"),
                (None, C::NONE) => String::new(),
                (None, converted) => format!(" ({converted})"),
            };
            Err(Error::user(format!(
                "{}: column `{name}` has type {physical}{logical}; use boolean, integer, float, double or string",
                path.display()
            )))
        }
    }
}

/// Why a column's rows could not be read.
enum Failure {
    Parquet(ParquetError),
    /// The row, from the first that was asked for.
    NotUtf8(usize),
}

/// Appends `rows` cells to `column`.
fn read_column(
    reader: &mut ColumnReader,
    kind: Kind,
    max_def: i16,
    rows: usize,
    column: &mut Column,
) -> std::result::Result<(), Failure> {
    let unsigned = kind == Kind::Unsigned;
    // Writing to a String cannot fail.
    match reader {
        ColumnReader::BoolColumnReader(r) => read_cells(r, max_def, rows, column, |text, v| write!(text, "{v}").is_ok()),
        ColumnReader::Int32ColumnReader(r) if unsigned => {
            read_cells(r, max_def, rows, column, |text, v| write!(text, "{}", *v as u32).is_ok())
        }
        ColumnReader::Int32ColumnReader(r) => read_cells(r, max_def, rows, column, |text, v| write!(text, "{v}").is_ok()),
        ColumnReader::Int64ColumnReader(r) if unsigned => {
            read_cells(r, max_def, rows, column, |text, v| write!(text, "{}", *v as u64).is_ok())
        }
        ColumnReader::Int64ColumnReader(r) => read_cells(r, max_def, rows, column, |text, v| write!(text, "{v}").is_ok()),
        ColumnReader::FloatColumnReader(r) => {
            read_cells(r, max_def, rows, column, |text, v| v.is_nan() || write!(text, "{v}").is_ok())
        }
        ColumnReader::DoubleColumnReader(r) => {
            read_cells(r, max_def, rows, column, |text, v| v.is_nan() || write!(text, "{v}").is_ok())
        }
        ColumnReader::ByteArrayColumnReader(r) => {
            read_cells(r, max_def, rows, column, |text, v| std::str::from_utf8(v.data()).map(|s| text.push_str(s)).is_ok())
        }
        ColumnReader::Int96ColumnReader(_) | ColumnReader::FixedLenByteArrayColumnReader(_) => {
            Err(Failure::Parquet(ParquetError::General("the column's type differs from the schema's".into())))
        }
    }
}

/// Appends `rows` cells to `column`: `push` writes a value's text, false if it is no text; a null's cell stays empty.
fn read_cells<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    max_def: i16,
    rows: usize,
    column: &mut Column,
    push: impl Fn(&mut String, &T::T) -> bool,
) -> std::result::Result<(), Failure> {
    let mut levels = Vec::with_capacity(rows);
    let mut values = Vec::with_capacity(rows);
    let mut done = 0;
    while done < rows {
        let (read, ..) = reader.read_records(rows - done, Some(&mut levels), None, &mut values).map_err(Failure::Parquet)?;
        if read == 0 {
            return Err(Failure::Parquet(ParquetError::EOF("the column ends before its row group".into())));
        }
        done += read;
    }
    let mut values = values.iter();
    for row in 0..rows {
        // Without definition levels every value is there.
        if (max_def == 0 || levels.get(row) == Some(&max_def))
            && let Some(value) = values.next()
            && !push(&mut column.text, value)
        {
            return Err(Failure::NotUtf8(row));
        }
        column.end_cell();
    }
    Ok(())
}

/// One line for an error of the Parquet reader, at the first row of the block that was being read.
fn damaged(path: &Path, error: impl std::fmt::Display, row: Option<u64>) -> Error {
    let cause = one_line(&error.to_string());
    let at = row.map_or_else(|| path.display().to_string(), |row| place(path, row, None));
    Error::user(format!("{at}: no readable Parquet; the file is cut off or damaged ({cause})"))
}
