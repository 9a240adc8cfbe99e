//! The values of a categorical feature and their ids.
//!
//! Id 0 is "missing or unseen". Values get ids from 1 by falling count in train, equal counts by byte order, so that the same
//! rows in any order and any file format give the same ids.
//!
//! Values are compared in a canonical form ([`canonical`]), because one table often comes as CSV here and as Parquet there:
//! `5`, `5.0`, an integer 5 and a float 5 are the same value, and so are `true` and `True`.

use super::input::{Block, Reader};
use super::write::parquet_error;
use crate::{Error, Result, error::io};
use ::parquet::data_type::{ByteArray, ByteArrayType};
use ::parquet::file::{properties::WriterProperties, writer::SerializedFileWriter};
use rustc_hash::FxHasher;
use std::fs::File;
use std::hash::Hasher;
use std::path::Path;
use std::sync::Arc;

/// Distinct strings numbered in order of first insertion: the text in one buffer, found by open addressing, so that a value
/// costs its text and about 16 bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Interner {
    text: String,
    ends: Vec<usize>,
    /// Number + 1 of the string in each slot, 0 where free; a power of two, at most half full.
    slots: Vec<u32>,
}

impl Interner {
    #[inline]
    fn len(&self) -> usize {
        self.ends.len()
    }

    #[inline]
    fn get(&self, number: usize) -> &str {
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        &self.text[start..self.ends[number]]
    }

    /// The number of `value`, or the free slot where it belongs. The table must not be empty.
    #[inline]
    fn find(&self, value: &str) -> std::result::Result<u32, usize> {
        let mask = self.slots.len() - 1;
        let mut slot = hash(value) & mask;
        loop {
            match self.slots[slot] {
                0 => return Err(slot),
                number if self.get(number as usize - 1) == value => return Ok(number - 1),
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    /// The number of `value`, new or not; `None` when u32 has no more numbers.
    #[inline]
    fn insert(&mut self, value: &str) -> Option<u32> {
        if self.len() * 2 >= self.slots.len() {
            self.grow();
        }
        match self.find(value) {
            Ok(number) => Some(number),
            Err(slot) => {
                let number = u32::try_from(self.len()).ok().filter(|&n| n < u32::MAX - 1)?;
                self.text.push_str(value);
                self.ends.push(self.text.len());
                self.slots[slot] = number + 1;
                Some(number)
            }
        }
    }

    fn grow(&mut self) {
        let size = (self.slots.len() * 2).max(16);
        self.slots.clear();
        self.slots.resize(size, 0);
        for number in 0..self.len() {
            let mut slot = hash(self.get(number)) & (size - 1);
            while self.slots[slot] != 0 {
                slot = (slot + 1) & (size - 1);
            }
            self.slots[slot] = number as u32 + 1;
        }
    }
}

#[inline]
fn hash(value: &str) -> usize {
    let mut hasher = FxHasher::default();
    hasher.write(value.as_bytes());
    hasher.finish() as usize
}

/// The form in which a cell is a value: a whole number loses a fraction of zeros (`5.0` is `5`, as CSV writers put whole
/// numbers of float columns), `True`, `TRUE`, `False`, `FALSE` become lower case. Anything else stands for itself.
#[inline]
pub fn canonical(cell: &str) -> &str {
    match cell {
        "True" | "TRUE" => return "true",
        "False" | "FALSE" => return "false",
        _ => {}
    }
    // Most cells end in neither a zero nor a point and cost one comparison.
    if let Some((whole, fraction)) = cell.ends_with('0').then(|| cell.split_once('.')).flatten() {
        let digits = whole.strip_prefix('-').unwrap_or(whole);
        if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && fraction.bytes().all(|b| b == b'0') {
            return whole;
        }
    }
    cell
}

/// Counts the values of a column of train.
#[derive(Debug, Clone, Default)]
pub struct Counter {
    values: Interner,
    counts: Vec<u64>,
}

impl Counter {
    /// One more cell; a missing one (empty) is not counted.
    ///
    /// # Errors
    /// More distinct values than ids.
    #[inline]
    pub fn add(&mut self, cell: &str) -> Result<()> {
        if cell.is_empty() {
            return Ok(());
        }
        let number = self.values.insert(canonical(cell)).ok_or_else(|| {
            Error::user(format!("more than {} distinct values; leave the column out or hash it", u32::MAX - 1))
        })? as usize;
        if number == self.counts.len() {
            self.counts.push(0);
        }
        self.counts[number] += 1;
        Ok(())
    }

    /// The vocabulary of the values seen at least `min_count` times.
    pub fn finish(self, min_count: u64) -> Vocabulary {
        let mut kept: Vec<usize> = (0..self.counts.len()).filter(|&i| self.counts[i] >= min_count).collect();
        kept.sort_unstable_by(|&a, &b| {
            self.counts[b].cmp(&self.counts[a]).then_with(|| self.values.get(a).cmp(self.values.get(b)))
        });
        let mut values = Interner::default();
        for i in kept {
            // No more values than the counter held, so there is a number for each.
            values.insert(self.values.get(i));
        }
        Vocabulary { values }
    }
}

/// The values of a categorical feature; see the module for their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vocabulary {
    values: Interner,
}

impl Vocabulary {
    /// Ids there are: the values and id 0.
    pub fn size(&self) -> usize {
        self.values.len() + 1
    }

    /// The id of a cell.
    #[inline]
    pub fn id(&self, cell: &str) -> u32 {
        if cell.is_empty() || self.values.len() == 0 {
            return 0;
        }
        self.values.find(canonical(cell)).map_or(0, |number| number + 1)
    }

    /// The value of an id; `None` for 0 and beyond the last.
    pub fn value(&self, id: u32) -> Option<&str> {
        let number = (id as usize).checked_sub(1)?;
        (number < self.values.len()).then(|| self.values.get(number))
    }

    /// Writes the values in the order of their ids to a Parquet file with the single column `value`.
    pub fn save(&self, path: &Path) -> Result<()> {
        const GROUP: usize = 1 << 16;
        let failed = |e| parquet_error(path, e);
        let schema = ::parquet::schema::parser::parse_message_type("message vocabulary { required binary value (STRING); }");
        // Values are distinct: a dictionary would hold each of them once more.
        let properties = WriterProperties::builder()
            .set_compression(::parquet::basic::Compression::ZSTD(Default::default()))
            .set_dictionary_enabled(false)
            .build();
        let file = File::create(path).map_err(io(path))?;
        let mut writer =
            SerializedFileWriter::new(file, Arc::new(schema.map_err(failed)?), Arc::new(properties)).map_err(failed)?;
        for start in (0..self.values.len()).step_by(GROUP) {
            let end = (start + GROUP).min(self.values.len());
            let values: Vec<ByteArray> = (start..end).map(|i| ByteArray::from(self.values.get(i))).collect();
            let mut group = writer.next_row_group().map_err(failed)?;
            if let Some(mut column) = group.next_column().map_err(failed)? {
                column.typed::<ByteArrayType>().write_batch(&values, None, None).map_err(failed)?;
                column.close().map_err(failed)?;
            }
            group.close().map_err(failed)?;
        }
        writer.into_inner().map_err(failed)?.sync_all().map_err(io(path))
    }

    /// Reads what [`save`](Self::save) wrote.
    pub fn load(path: &Path) -> Result<Vocabulary> {
        let mut reader = Reader::open(path, &["value".to_string()])?;
        let mut block = Block::default();
        let mut values = Interner::default();
        while reader.next(&mut block)? {
            for row in 0..block.rows {
                let before = values.len();
                if values.insert(block.columns[0].cell(row)) != u32::try_from(before).ok() {
                    return Err(Error::user(format!("{}: a value that was there before; prepare again", block.place(row))));
                }
            }
        }
        Ok(Vocabulary { values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_by_falling_count_then_bytes() {
        let mut counter = Counter::default();
        for cell in ["b", "a", "c", "c", "", "B", "rare", "b", "a", "B"] {
            counter.add(cell).unwrap();
        }
        let all = counter.clone().finish(1);
        let values: Vec<_> = (0..=6).map(|id| all.value(id)).collect();
        assert_eq!(values, [None, Some("B"), Some("a"), Some("b"), Some("c"), Some("rare"), None]);
        let often = counter.finish(2);
        assert_eq!((often.size(), often.id("rare"), often.id(""), often.id("c"), often.id("new")), (5, 0, 0, 4, 0));
    }

    #[test]
    fn canonical_forms() {
        for (cell, value) in [
            ("5.0", "5"),
            ("-12.00", "-12"),
            ("5", "5"),
            ("50", "50"),
            ("5.", "5."),
            (".0", ".0"),
            ("-.0", "-.0"),
            ("5.10", "5.10"),
            ("1.0.0", "1.0.0"),
            ("v1.0", "v1.0"),
            ("True", "true"),
            ("FALSE", "false"),
            ("tRue", "tRue"),
        ] {
            assert_eq!(canonical(cell), value, "{cell}");
        }
    }

    #[test]
    fn many_values_survive_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut counter = Counter::default();
        for i in 0..70_000u32 {
            counter.add(&format!("v{}", i.wrapping_mul(2_654_435_761))).unwrap();
        }
        let vocabulary = counter.finish(1);
        vocabulary.save(&folder.path().join("v.parquet")).unwrap();
        assert_eq!(Vocabulary::load(&folder.path().join("v.parquet")).unwrap(), vocabulary);
        assert!((1..=70_000).all(|id| vocabulary.id(vocabulary.value(id).unwrap()) == id));
        Vocabulary::default().save(&folder.path().join("empty.parquet")).unwrap();
        assert_eq!(Vocabulary::load(&folder.path().join("empty.parquet")).unwrap().size(), 1);
    }
}
