//! Streaming writer of a table of named columns to CSV or Parquet, by the file's ending.

use crate::error::io;
use crate::files::aside::Listed;
use crate::files::folder_of;
use crate::{Error, Result};
use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::NamedTempFile;

/// Rows in a Parquet row group; what a writer holds in memory at most.
const ROW_GROUP: usize = 1 << 16;

/// The format of a table's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Parquet, compressed with Snappy.
    #[default]
    Parquet,
    /// Comma-separated values in UTF-8 with a header line, quoted where needed; a null is an empty field.
    Csv,
}

impl Format {
    /// The format that a file's ending names.
    pub fn of(path: &Path) -> Result<Format> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("parquet") => Ok(Format::Parquet),
            Some("csv") => Ok(Format::Csv),
            _ => Err(Error::user(format!("{}: unknown ending; the file's name must end in .parquet or .csv", path.display()))),
        }
    }

    /// The ending, without its dot.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Parquet => "parquet",
            Format::Csv => "csv",
        }
    }
}

/// The values of a column, a null as None. As part of a header, the type of a column: its values do not matter.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// UTF-8 text.
    Text(Vec<Option<String>>),
    /// Truth values.
    Bool(Vec<Option<bool>>),
    /// 64-bit integers.
    Int(Vec<Option<i64>>),
    /// 64-bit integers without a sign.
    Unsigned(Vec<Option<u64>>),
    /// Double precision numbers.
    F64(Vec<Option<f64>>),
    /// Single precision numbers.
    F32(Vec<Option<f32>>),
}

impl Column {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Column::Text(v) => v.len(),
            Column::Bool(v) => v.len(),
            Column::Int(v) => v.len(),
            Column::Unsigned(v) => v.len(),
            Column::F64(v) => v.len(),
            Column::F32(v) => v.len(),
        }
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes all values out, keeping type and memory.
    pub fn clear(&mut self) {
        match self {
            Column::Text(v) => v.clear(),
            Column::Bool(v) => v.clear(),
            Column::Int(v) => v.clear(),
            Column::Unsigned(v) => v.clear(),
            Column::F64(v) => v.clear(),
            Column::F32(v) => v.clear(),
        }
    }

    /// A column of the same type without values.
    fn empty(&self) -> Column {
        match self {
            Column::Text(_) => Column::Text(Vec::new()),
            Column::Bool(_) => Column::Bool(Vec::new()),
            Column::Int(_) => Column::Int(Vec::new()),
            Column::Unsigned(_) => Column::Unsigned(Vec::new()),
            Column::F64(_) => Column::F64(Vec::new()),
            Column::F32(_) => Column::F32(Vec::new()),
        }
    }

    /// Appends the values of `other`; false if its type is another.
    fn append(&mut self, other: &Column) -> bool {
        match (self, other) {
            (Column::Text(v), Column::Text(w)) => v.extend_from_slice(w),
            (Column::Bool(v), Column::Bool(w)) => v.extend_from_slice(w),
            (Column::Int(v), Column::Int(w)) => v.extend_from_slice(w),
            (Column::Unsigned(v), Column::Unsigned(w)) => v.extend_from_slice(w),
            (Column::F64(v), Column::F64(w)) => v.extend_from_slice(w),
            (Column::F32(v), Column::F32(w)) => v.extend_from_slice(w),
            _ => return false,
        }
        true
    }

    fn parquet_type(&self, name: &str) -> parquet::errors::Result<Type> {
        let (physical, logical) = match self {
            Column::Text(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Column::Bool(_) => (Physical::BOOLEAN, None),
            Column::Int(_) => (Physical::INT64, None),
            Column::Unsigned(_) => (Physical::INT64, Some(LogicalType::integer(64, false))),
            Column::F64(_) => (Physical::DOUBLE, None),
            Column::F32(_) => (Physical::FLOAT, None),
        };
        Type::primitive_type_builder(name, physical).with_logical_type(logical).with_repetition(Repetition::OPTIONAL).build()
    }

    /// Writes value `row` as a CSV field into `field`; numbers in the shortest form that reads back as the same number.
    fn csv_field(&self, row: usize, field: &mut Vec<u8>) -> std::io::Result<()> {
        fn put<T>(
            value: Option<&T>,
            field: &mut Vec<u8>,
            form: impl Fn(&mut Vec<u8>, &T) -> std::io::Result<()>,
        ) -> std::io::Result<()> {
            value.map_or(Ok(()), |value| form(field, value))
        }
        field.clear();
        match self {
            Column::Text(v) => put(v[row].as_ref(), field, |f, x| f.write_all(x.as_bytes())),
            Column::Bool(v) => put(v[row].as_ref(), field, |f, x| write!(f, "{x}")),
            Column::Int(v) => put(v[row].as_ref(), field, |f, x| write!(f, "{x}")),
            Column::Unsigned(v) => put(v[row].as_ref(), field, |f, x| write!(f, "{x}")),
            // Debug's form takes an exponent for very small and very large numbers.
            Column::F64(v) => put(v[row].as_ref(), field, |f, x| write!(f, "{x:?}")),
            Column::F32(v) => put(v[row].as_ref(), field, |f, x| write!(f, "{x:?}")),
        }
    }
}

/// Writes a table block by block. The file appears under its name at [`TableWriter::finish`], whole: until then the rows go to
/// a temporary file in the same folder, so that an error neither leaves half a file nor costs one that was there.
pub struct TableWriter {
    path: PathBuf,
    aside: NamedTempFile,
    _listed: Listed,
    columns: usize,
    sink: Sink,
    rows: u64,
}

enum Sink {
    Csv { writer: csv::Writer<BufWriter<File>>, field: Vec<u8> },
    Parquet { writer: SerializedFileWriter<File>, group: Vec<Column> },
}

impl TableWriter {
    /// Begins the table at `path` with these columns: a name and a [`Column`] that stands for its type.
    ///
    /// Fails if the path's ending names no format, a column's name comes twice, or its folder cannot be written to.
    pub fn create(path: &Path, columns: &[(&str, Column)]) -> Result<TableWriter> {
        let format = Format::of(path)?;
        for (i, (name, _)) in columns.iter().enumerate() {
            if columns[..i].iter().any(|(other, _)| other == name) {
                return Err(Error::user(format!("{}: the column `{name}` comes twice; name each column once", path.display())));
            }
        }
        let folder = folder_of(path);
        if path.is_dir() {
            return Err(Error::user(format!("{}: is a folder; name a file", path.display())));
        }
        if !folder.is_dir() {
            return Err(Error::user(format!("{}: there is no folder {}; make it first", path.display(), folder.display())));
        }
        let (aside, listed) = Listed::temporary(folder, ".tauten-").map_err(io(path))?;
        let file = aside.reopen().map_err(io(path))?;
        let sink = match format {
            Format::Csv => {
                let mut writer = csv::Writer::from_writer(BufWriter::with_capacity(1 << 16, file));
                writer.write_record(columns.iter().map(|(name, _)| name)).map_err(|e| csv_error(path, e))?;
                Sink::Csv { writer, field: Vec::new() }
            }
            Format::Parquet => {
                let start = || {
                    let fields = columns.iter().map(|(name, column)| Ok(Arc::new(column.parquet_type(name)?)));
                    let fields = fields.collect::<parquet::errors::Result<Vec<_>>>()?;
                    let schema = Type::group_type_builder("schema").with_fields(fields).build()?;
                    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                    SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties))
                };
                let group = columns.iter().map(|(_, column)| column.empty()).collect();
                Sink::Parquet { writer: start().map_err(|e| parquet_error(path, e))?, group }
            }
        };
        Ok(TableWriter { path: path.to_owned(), aside, _listed: listed, columns: columns.len(), sink, rows: 0 })
    }

    /// Appends rows: a column for each of the header's, in its order and of its type, all of one length.
    pub fn write<'c>(&mut self, columns: impl IntoIterator<Item = &'c Column>) -> Result<()> {
        let block: Vec<&Column> = columns.into_iter().collect();
        let rows = block.first().map_or(0, |c| c.len());
        let path = &self.path;
        let misfit = || Error::system(format!("{}: the rows to write do not fit the table's columns", path.display()));
        if block.len() != self.columns || block.iter().any(|c| c.len() != rows) {
            return Err(misfit());
        }
        match &mut self.sink {
            Sink::Csv { writer, field } => {
                for row in 0..rows {
                    for column in &block {
                        column.csv_field(row, field).map_err(io(path))?;
                        writer.write_field(&field).map_err(|e| csv_error(path, e))?;
                    }
                    writer.write_record(None::<&[u8]>).map_err(|e| csv_error(path, e))?;
                }
            }
            Sink::Parquet { writer, group } => {
                for (column, more) in group.iter_mut().zip(&block) {
                    if !column.append(more) {
                        return Err(misfit());
                    }
                }
                if group.first().map_or(0, Column::len) >= ROW_GROUP {
                    write_group(writer, group).map_err(|e| parquet_error(path, e))?;
                }
            }
        }
        self.rows += rows as u64;
        Ok(())
    }

    /// Ends the table: flushes and syncs it, and gives it its name. Returns its number of rows.
    pub fn finish(self) -> Result<u64> {
        let path = &self.path;
        match self.sink {
            Sink::Csv { mut writer, .. } => writer.flush().map_err(io(path))?,
            Sink::Parquet { mut writer, mut group } => {
                if group.iter().any(|c| !c.is_empty()) {
                    write_group(&mut writer, &mut group).map_err(|e| parquet_error(path, e))?;
                }
                writer.close().map_err(|e| parquet_error(path, e))?;
            }
        }
        self.aside.as_file().sync_all().map_err(io(path))?;
        self.aside.persist(path).map_err(|e| io(path)(e.error))?;
        Ok(self.rows)
    }
}

/// Writes the columns as a row group and empties them.
fn write_group(writer: &mut SerializedFileWriter<File>, group: &mut [Column]) -> parquet::errors::Result<()> {
    let mut out = writer.next_row_group()?;
    for column in group {
        match column {
            Column::Text(v) => {
                write_column::<ByteArrayType, _>(&mut out, v, |t| ByteArray::from(std::mem::take(t).into_bytes()))?;
            }
            Column::Bool(v) => write_column::<BoolType, _>(&mut out, v, |x| *x)?,
            Column::Int(v) => write_column::<Int64Type, _>(&mut out, v, |x| *x)?,
            Column::Unsigned(v) => write_column::<Int64Type, _>(&mut out, v, |x| x.cast_signed())?,
            Column::F64(v) => write_column::<DoubleType, _>(&mut out, v, |x| *x)?,
            Column::F32(v) => write_column::<FloatType, _>(&mut out, v, |x| *x)?,
        }
        column.clear();
    }
    out.close()?;
    Ok(())
}

fn write_column<T: DataType, V>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: &mut [Option<V>],
    convert: impl Fn(&mut V) -> T::T,
) -> parquet::errors::Result<()> {
    let present: Vec<i16> = values.iter().map(|v| i16::from(v.is_some())).collect();
    let values: Vec<T::T> = values.iter_mut().filter_map(|v| v.as_mut().map(&convert)).collect();
    if let Some(mut column) = group.next_column()? {
        column.typed::<T>().write_batch(&values, Some(&present), None)?;
        column.close()?;
    }
    Ok(())
}

/// The error of writing CSV to `path`.
fn csv_error(path: &Path, e: csv::Error) -> Error {
    match e.into_kind() {
        csv::ErrorKind::Io(e) => io(path)(e),
        kind => Error::system(format!("{}: {kind:?}", path.display())),
    }
}

/// The error of writing Parquet to `path`.
pub(super) fn parquet_error(path: &Path, e: ParquetError) -> Error {
    let other = |e: &dyn std::fmt::Display| Error::system(format!("{}: cannot write Parquet: {e}", path.display()));
    match e {
        ParquetError::External(e) => e.downcast().map_or_else(|e| other(&e), |e| io(path)(*e)),
        e => other(&e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::reader::{FileReader, SerializedFileReader};

    fn header() -> [(&'static str, Column); 4] {
        [
            ("name", Column::Text(vec![])),
            ("count", Column::Int(vec![])),
            ("p", Column::F64(vec![])),
            ("tau", Column::F32(vec![])),
        ]
    }

    fn block(rows: usize) -> Vec<Column> {
        let some = |i: usize| i % 3 != 1;
        vec![
            Column::Text((0..rows).map(|i| some(i).then(|| format!("a,\"{i}"))).collect()),
            Column::Int((0..rows).map(|i| some(i + 1).then_some(i as i64 - 5)).collect()),
            Column::F64((0..rows).map(|i| some(i).then_some(0.1 * i as f64)).collect()),
            Column::F32((0..rows).map(|i| some(i + 1).then_some(1e-9 * i as f32)).collect()),
        ]
    }

    #[test]
    fn csv_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.csv");
        let mut writer = TableWriter::create(&path, &header()).unwrap();
        writer.write(&block(3)).unwrap();
        writer.write(&block(1)).unwrap();
        assert!(!path.exists());
        assert_eq!(writer.finish().unwrap(), 4);
        let text = std::fs::read_to_string(&path).unwrap();
        let second = "\"a,\"\"2\",-3,0.2,2e-9\n";
        assert_eq!(text, format!("name,count,p,tau\n\"a,\"\"0\",,0.0,\n,-4,,1e-9\n{second}\"a,\"\"0\",,0.0,\n"));
    }

    #[test]
    fn parquet_reads_back_over_row_groups() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let mut writer = TableWriter::create(&path, &header()).unwrap();
        for _ in 0..3 {
            writer.write(&block(ROW_GROUP / 2 + 1)).unwrap();
        }
        let rows = writer.finish().unwrap();
        let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        assert_eq!(reader.num_row_groups(), 2);
        assert_eq!(reader.metadata().file_metadata().num_rows() as u64, rows);
        let third = reader.get_row_iter(None).unwrap().nth(2).unwrap().unwrap();
        assert_eq!(third.to_string(), "{name: \"a,\"2\", count: -3, p: 0.2, tau: 0.000000002}");
        let second = reader.get_row_iter(None).unwrap().nth(1).unwrap().unwrap();
        assert!(second.to_string().starts_with("{name: null, count: -4, p: null"), "{second}");
    }

    #[test]
    fn an_error_costs_no_file() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["t.csv", "t.parquet"] {
            let path = folder.path().join(name);
            std::fs::write(&path, "before").unwrap();
            let mut writer = TableWriter::create(&path, &header()).unwrap();
            writer.write(&block(10)).unwrap();
            assert!(writer.write(&block(10)[1..]).is_err());
            drop(writer);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "before");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        let e = TableWriter::create(&folder.path().join("t.txt"), &header()).err().unwrap();
        assert!(e.to_string().contains(".parquet or .csv"));
        let twice = [("x", Column::Int(vec![])), ("x", Column::Int(vec![]))];
        assert!(TableWriter::create(&folder.path().join("t.csv"), &twice).is_err());
        assert!(matches!(TableWriter::create(&folder.path().join("no/t.csv"), &header()), Err(Error::User(_))));
    }

    #[test]
    fn a_table_without_rows_is_a_table() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["t.csv", "t.parquet"] {
            assert_eq!(TableWriter::create(&folder.path().join(name), &header()).unwrap().finish().unwrap(), 0);
        }
        let file = File::open(folder.path().join("t.parquet")).unwrap();
        assert_eq!(SerializedFileReader::new(file).unwrap().metadata().file_metadata().num_rows(), 0);
    }
}
