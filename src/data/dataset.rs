//! The encoded dataset: a folder that training reads by memory map.
//!
//! ```text
//! manifest.json      what is in it (Manifest)
//! encoding/          vocabularies and transforms (Encoding)
//! train.bin, valid.bin, test.bin   the rows; no test.bin without a test split
//! ```
//!
//! A `.bin` file is a row of records, without a head: an id for each categorical feature, in as few bytes (1 to 4) as its
//! vocabulary takes, a value (f32) for each numeric one, click and conversion (u8). Everything is little-endian, nothing aligned.
//! A row's bytes lie together, since a shuffled epoch reads whole rows in no order: it touches a cache line or a few of each, and one
//! page.

use super::batch::{BLOCK, RowBlock, RowSource, TOGETHER};
use super::encode::{Encoded, Encoding, read_json};
use crate::config::{Config, InvalidLabels, Transform};
use crate::files::map;
use crate::{Error, Result, error::io};
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// Name of the manifest.
pub(super) const MANIFEST: &str = "manifest.json";
/// Name of the encoding's folder.
pub(super) const ENCODING: &str = "encoding";
/// What a manifest says it is.
const FORMAT: &str = "tauten-dataset";
/// Version of the folder's layout.
const VERSION: u32 = 3;

/// A part of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Trained on; vocabularies and statistics come from it.
    Train,
    /// Decides when to stop.
    Valid,
    /// Held back.
    Test,
}

impl Split {
    /// All splits, in order.
    pub const ALL: [Split; 3] = [Split::Train, Split::Valid, Split::Test];

    /// `train`, `valid` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Valid => "valid",
            Split::Test => "test",
        }
    }

    /// The split's file in the folder.
    pub(super) fn file(self) -> String {
        format!("{}.bin", self.name())
    }
}

/// The part of a configuration that decides what a dataset holds, the input files aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Column of the click label.
    pub click: String,
    /// Column of the conversion label.
    pub conversion: String,
    /// What a conversion without a click did.
    pub invalid_labels: InvalidLabels,
    /// Categorical columns and the least count of a value in train.
    pub categorical: Vec<(String, u64)>,
    /// Numeric columns and their transforms.
    pub numeric: Vec<(String, Transform)>,
}

impl Settings {
    /// Those of a configuration.
    pub fn of(config: &Config) -> Settings {
        let (data, features) = (&config.data, &config.features);
        let min_count = |c: &crate::config::Categorical| c.min_count.unwrap_or(features.min_count);
        let transform = |n: &crate::config::Numeric| n.transform.unwrap_or(features.transform);
        Settings {
            click: data.click.clone(),
            conversion: data.conversion.clone(),
            invalid_labels: data.invalid_labels,
            categorical: features.categorical.iter().map(|c| (c.name.clone(), min_count(c))).collect(),
            numeric: features.numeric.iter().map(|n| (n.name.clone(), transform(n))).collect(),
        }
    }

    /// The first setting in which `other` differs from these.
    pub fn difference(&self, other: &Settings) -> Option<Difference> {
        fn differs(key: impl Into<String>, one: &impl Debug, other: &impl Debug) -> Option<Difference> {
            Some(Difference { key: key.into(), one: format!("{one:?}"), other: format!("{other:?}") })
        }
        if self.click != other.click {
            return differs("data.click", &self.click, &other.click);
        }
        if self.conversion != other.conversion {
            return differs("data.conversion", &self.conversion, &other.conversion);
        }
        if self.invalid_labels != other.invalid_labels {
            return differs("data.invalid_labels", &self.invalid_labels, &other.invalid_labels);
        }
        for i in 0..self.categorical.len().max(other.categorical.len()) {
            let (a, b) = (self.categorical.get(i), other.categorical.get(i));
            if a.map(|c| &c.0) != b.map(|c| &c.0) {
                return differs(format!("features.categorical[{i}]"), &a.map(|c| &c.0), &b.map(|c| &c.0));
            } else if let (Some((name, a)), Some((_, b))) = (a, b)
                && a != b
            {
                return differs(format!("min_count of feature `{name}`"), a, b);
            }
        }
        for i in 0..self.numeric.len().max(other.numeric.len()) {
            let (a, b) = (self.numeric.get(i), other.numeric.get(i));
            if a.map(|n| &n.0) != b.map(|n| &n.0) {
                return differs(format!("features.numeric[{i}]"), &a.map(|n| &n.0), &b.map(|n| &n.0));
            } else if let (Some((name, a)), Some((_, b))) = (a, b)
                && a != b
            {
                return differs(format!("transform of feature `{name}`"), a, b);
            }
        }
        None
    }

    /// xxh3-128 of the settings, in hex.
    pub fn fingerprint(&self) -> String {
        hex(xxh3_128(&serde_json::to_vec(self).expect("names and numbers have a form in JSON")))
    }
}

/// A setting that is not the same in two configurations, and what it is in each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The setting.
    pub key: String,
    /// Its value in one.
    pub one: String,
    /// Its value in the other.
    pub other: String,
}

/// Rows and labels of a split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitInfo {
    /// Rows.
    pub rows: u64,
    /// Rows with a click.
    pub clicks: u64,
    /// Rows with a conversion.
    pub conversions: u64,
    /// Clicks / rows.
    pub click_rate: f64,
    /// Conversions / rows.
    pub conversion_rate: f64,
    /// Conversions / clicks; none without a click.
    pub clicked_conversion_rate: Option<f64>,
    /// Rows of the input with a conversion but no click, that were left out or counted as clicked.
    pub invalid_labels: u64,
    /// xxh3-128 of the split's file, in hex.
    pub xxh3: String,
}

/// What a dataset holds. Nothing in it depends on the kind or names of the input files: the same rows from CSV and from Parquet
/// give the same dataset, byte for byte.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    version: u32,
    /// What it was made with.
    pub settings: Settings,
    /// [`Settings::fingerprint`].
    pub settings_fingerprint: String,
    /// Fingerprint of the content: settings, vocabularies, statistics and the rows of all splits, so of all that matters of the
    /// inputs.
    pub fingerprint: String,
    /// Ids of each categorical feature, id 0 among them.
    pub vocabulary_sizes: Vec<usize>,
    /// The training split.
    pub train: SplitInfo,
    /// The validation split.
    pub valid: SplitInfo,
    /// The test split; none if the configuration names no test files.
    pub test: Option<SplitInfo>,
}

impl Manifest {
    pub(super) fn new(
        settings: Settings,
        encoding: &Encoding,
        train: SplitInfo,
        valid: SplitInfo,
        test: Option<SplitInfo>,
    ) -> Self {
        let settings_fingerprint = settings.fingerprint();
        let mut hash = Xxh3::new();
        hash.update(settings_fingerprint.as_bytes());
        for feature in &encoding.categorical {
            for id in 1..feature.vocabulary.size() as u32 {
                // 0xFF is in no UTF-8 text, so that values cannot run into each other.
                hash.update(feature.vocabulary.value(id).unwrap_or_default().as_bytes());
                hash.update(&[0xFF]);
            }
            hash.update(&[0xFF, 0xFF]);
        }
        for feature in &encoding.numeric {
            hash.update(&feature.mean.to_le_bytes());
            hash.update(&feature.std.to_le_bytes());
        }
        for split in [Some(&train), Some(&valid), test.as_ref()].into_iter().flatten() {
            hash.update(&split.rows.to_le_bytes());
            hash.update(split.xxh3.as_bytes());
        }
        Manifest {
            format: FORMAT.into(),
            version: VERSION,
            settings,
            settings_fingerprint,
            fingerprint: hex(hash.digest128()),
            vocabulary_sizes: encoding.categorical.iter().map(|c| c.vocabulary.size()).collect(),
            train,
            valid,
            test,
        }
    }

    /// Reads and checks the manifest of the dataset folder `dir`.
    fn read(dir: &Path) -> Result<Manifest> {
        let path = dir.join(MANIFEST);
        if !path.is_file() {
            return Err(Error::user(format!(
                "{}: no Tauten dataset (it has no {MANIFEST}); run `tauten prepare`",
                dir.display()
            )));
        }
        let json: serde_json::Value = read_json(&path)?;
        let version = json["version"].as_u64();
        if json["format"] != FORMAT || version != Some(VERSION.into()) {
            let format = json["format"].as_str().unwrap_or("no format");
            let version = version.map_or("unknown".to_string(), |v| v.to_string());
            return Err(Error::user(format!(
                "{}: {format} version {version}, but this program reads {FORMAT} version {VERSION}; prepare again",
                path.display()
            )));
        }
        Manifest::deserialize(json).map_err(|e| Error::user(format!("{}: {e}; prepare again", path.display())))
    }

    /// The part on a split; none for a test split that is not there.
    pub fn split(&self, split: Split) -> Option<&SplitInfo> {
        match split {
            Split::Train => Some(&self.train),
            Split::Valid => Some(&self.valid),
            Split::Test => self.test.as_ref(),
        }
    }

    /// Whether a dataset with this manifest is what `config` asks for, the input files aside.
    ///
    /// # Errors
    /// It is not; the error names the first setting that differs.
    pub fn fits(&self, config: &Config) -> Result<()> {
        match self.settings.difference(&Settings::of(config)) {
            None => Ok(()),
            Some(Difference { key, one, other }) => Err(Error::user(format!(
                "the dataset was prepared with {key} {one}, but the configuration has {other}; prepare again"
            ))),
        }
    }
}

/// Where in a record what lies.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Layout {
    /// Bytes of each categorical feature's id.
    ids: Vec<usize>,
    /// Byte at which the numeric features begin.
    numeric_at: usize,
    /// Byte at which the labels begin.
    labels_at: usize,
    /// Bytes of a record.
    bytes: usize,
}

impl Layout {
    /// Records of categorical features with so many ids each and of `numeric` numeric features.
    fn new(vocabulary_sizes: impl Iterator<Item = usize>, numeric: usize) -> Layout {
        let ids: Vec<usize> = vocabulary_sizes.map(|size| ((size.max(2) - 1).ilog2() / 8 + 1) as usize).collect();
        let numeric_at = ids.iter().sum();
        let labels_at = numeric_at + numeric * size_of::<f32>();
        Layout { ids, numeric_at, labels_at, bytes: labels_at + 2 }
    }

    /// Records of the rows that `encoding` encodes.
    fn of(encoding: &Encoding) -> Layout {
        Layout::new(encoding.categorical.iter().map(|c| c.vocabulary.size()), encoding.numeric.len())
    }
}

/// Writes the file of a split.
pub(super) struct SplitWriter {
    out: BufWriter<File>,
    hash: Xxh3,
    layout: Layout,
    record: Vec<u8>,
    rows: u64,
    clicks: u64,
    conversions: u64,
}

impl SplitWriter {
    /// Creates the file.
    pub(super) fn create(path: &Path, encoding: &Encoding) -> Result<SplitWriter> {
        SplitWriter::with_layout(path, Layout::of(encoding))
    }

    fn with_layout(path: &Path, layout: Layout) -> Result<SplitWriter> {
        Ok(SplitWriter {
            out: BufWriter::with_capacity(1 << 20, File::create(path).map_err(io(path))?),
            hash: Xxh3::new(),
            record: Vec::with_capacity(layout.bytes),
            layout,
            rows: 0,
            clicks: 0,
            conversions: 0,
        })
    }

    /// Appends row `row` of `encoded` with its click and conversion.
    pub(super) fn push(&mut self, encoded: &Encoded, row: usize, labels: [u8; 2]) -> std::io::Result<()> {
        self.record.clear();
        for (ids, &width) in encoded.ids.iter().zip(&self.layout.ids) {
            self.record.extend(&ids[row].to_le_bytes()[..width]);
        }
        self.record.extend(encoded.numeric.iter().flat_map(|values| values[row].to_le_bytes()));
        self.record.extend(labels);
        self.rows += 1;
        self.clicks += u64::from(labels[0]);
        self.conversions += u64::from(labels[1]);
        self.hash.update(&self.record);
        self.out.write_all(&self.record)
    }

    /// Ends and syncs the file.
    pub(super) fn finish(self, invalid_labels: u64) -> std::io::Result<SplitInfo> {
        self.out.into_inner()?.sync_all()?;
        let share = |part: u64, whole: u64| part as f64 / whole as f64;
        Ok(SplitInfo {
            rows: self.rows,
            clicks: self.clicks,
            conversions: self.conversions,
            click_rate: share(self.clicks, self.rows.max(1)),
            conversion_rate: share(self.conversions, self.rows.max(1)),
            clicked_conversion_rate: (self.clicks > 0).then(|| share(self.conversions, self.clicks)),
            invalid_labels,
            xxh3: hex(self.hash.digest128()),
        })
    }
}

/// Bytes of a line of a processor's cache.
const LINE: usize = 64;

/// The rows of a split, in memory only as far as they are touched.
#[derive(Debug)]
pub struct Rows {
    path: PathBuf,
    /// None if there are no rows.
    map: Option<Mmap>,
    rows: usize,
    layout: Layout,
}

impl Rows {
    fn open(dir: &Path, split: Split, rows: u64, layout: Layout) -> Result<Rows> {
        let path = dir.join(split.file());
        let rows =
            usize::try_from(rows).map_err(|_| Error::user(format!("{}: too many rows for this machine", path.display())))?;
        if rows == 0 {
            return Ok(Rows { path, map: None, rows, layout });
        }
        let file = File::open(&path).map_err(io(&path))?;
        let (have, want) = (file.metadata().map_err(io(&path))?.len(), rows as u128 * layout.bytes as u128);
        if u128::from(have) != want {
            return Err(Error::user(format!("{}: {have} bytes instead of {want}; prepare again", path.display())));
        }
        let map = map(&path, &file)?;
        // Training reads rows in a shuffled order: reading ahead of each would fetch many times what is used, from a file that
        // may be larger than memory. A system that does not take the advice is only slower.
        #[cfg(unix)]
        if split == Split::Train {
            let _ = map.advise(memmap2::Advice::Random);
        }
        Ok(Rows { path, map: Some(map), rows, layout })
    }

    /// Bytes of a row on disk.
    pub fn row_bytes(&self) -> usize {
        self.layout.bytes
    }
}

impl RowSource for Rows {
    fn len(&self) -> usize {
        self.rows
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn read(&self, rows: &[usize], to: &mut RowBlock) {
        let Layout { ids, numeric_at, labels_at, bytes } = &self.layout;
        let numbers = (labels_at - numeric_at) / size_of::<f32>();
        assert!(ids.len() == to.features() && rows.len() * numbers == to.numeric.len(), "rows of other features");
        let map = self.map.as_deref().unwrap_or_default();
        let mut records: [&[u8]; BLOCK] = [&[]; BLOCK];
        let records = &mut records[..rows.len()];
        records.iter_mut().zip(rows).for_each(|(record, &row)| *record = &map[row * bytes..][..*bytes]);
        fetch(records);
        let (mut feature, mut at) = (0, 0);
        for run in ids.chunk_by(|a, b| a == b) {
            let features = feature..feature + run.len();
            match run[0] {
                1 => read_ids::<1>(records, at, features, to),
                2 => read_ids::<2>(records, at, features, to),
                3 => read_ids::<3>(records, at, features, to),
                _ => read_ids::<4>(records, at, features, to),
            }
            feature += run.len();
            at += run.iter().sum::<usize>();
        }
        for (i, record) in records.iter().enumerate() {
            let cells = record[*numeric_at..].as_chunks().0;
            to.numeric[i * numbers..][..numbers].iter_mut().zip(cells).for_each(|(to, &cell)| *to = f32::from_le_bytes(cell));
            to.labels[i * 2..][..2].iter_mut().zip(&record[*labels_at..]).for_each(|(to, &label)| *to = f32::from(label));
        }
    }
}

/// Has the memory of records fetched: each is a page and a line or some of its own, and the reads of many overlap, while reading one record
/// after the other waits for each.
fn fetch(records: &[&[u8]]) {
    let mut all = 0;
    for record in records {
        record.chunks(LINE).for_each(|line| all ^= line[0]);
        all ^= record[record.len() - 1];
    }
    std::hint::black_box(all);
}

/// Reads the ids of features with `WIDTH` bytes each, which lie from byte `at` of records on.
fn read_ids<const WIDTH: usize>(records: &[&[u8]], mut at: usize, features: Range<usize>, to: &mut RowBlock) {
    let mut feature = features.start;
    while feature + TOGETHER <= features.end {
        read_columns::<WIDTH, TOGETHER>(records, at, to.ids(feature));
        feature += TOGETHER;
        at += TOGETHER * WIDTH;
    }
    for (i, feature) in (feature..features.end).enumerate() {
        read_columns::<WIDTH, 1>(records, at + i * WIDTH, to.ids(feature));
    }
}

/// Reads `N` ids of `WIDTH` bytes from byte `at` of records on, each to a column of its own.
#[inline(always)]
fn read_columns<const WIDTH: usize, const N: usize>(records: &[&[u8]], at: usize, to: [&mut [u32]; N]) {
    let to = to.map(|to| &mut to[..records.len()]);
    for (i, record) in records.iter().enumerate() {
        let cells = record[at..at + WIDTH * N].as_chunks::<WIDTH>().0;
        for f in 0..N {
            let mut id = [0; 4];
            id[..WIDTH].copy_from_slice(&cells[f]);
            to[f][i] = u32::from_le_bytes(id);
        }
    }
}

/// An encoded dataset that is open for reading.
#[derive(Debug)]
pub struct Dataset {
    manifest: Manifest,
    encoding: Encoding,
    splits: [Arc<Rows>; 3],
}

impl Dataset {
    /// Opens the dataset in the folder `dir`, which must be what `config` asks for, the input files aside.
    ///
    /// # Errors
    /// As [`Dataset::open`]; a setting that differs.
    pub fn open_for(dir: &Path, config: &Config) -> Result<Dataset> {
        let dataset = Dataset::open(dir)?;
        dataset.manifest().fits(config).map_err(|e| e.context(dir.display()))?;
        Ok(dataset)
    }

    /// Opens the dataset in the folder `dir` and checks its manifest, encoding and sizes.
    ///
    /// # Errors
    /// No dataset, one of another version, or a damaged one.
    pub fn open(dir: &Path) -> Result<Dataset> {
        let manifest = Manifest::read(dir)?;
        let encoding = Encoding::load(&dir.join(ENCODING))?;
        let categorical = encoding.categorical.iter().map(|c| (&c.name, c.vocabulary.size()));
        let expected = manifest.settings.categorical.iter().map(|c| &c.0).zip(manifest.vocabulary_sizes.iter().copied());
        let numeric = encoding.numeric.iter().map(|n| (&n.name, n.transform));
        if !categorical.eq(expected) || !numeric.eq(manifest.settings.numeric.iter().map(|n| (&n.0, n.1))) {
            return Err(Error::user(format!(
                "{}: {ENCODING} and {MANIFEST} do not belong together; prepare again",
                dir.display()
            )));
        }
        let rows =
            |split| Rows::open(dir, split, manifest.split(split).map_or(0, |s| s.rows), Layout::of(&encoding)).map(Arc::new);
        let splits = [rows(Split::Train)?, rows(Split::Valid)?, rows(Split::Test)?];
        Ok(Dataset { manifest, encoding, splits })
    }

    /// Whether `dir` is a dataset's folder, of any version, complete or not.
    pub(super) fn is_at(dir: &Path) -> bool {
        read_json::<serde_json::Value>(&dir.join(MANIFEST)).is_ok_and(|m| m["format"] == FORMAT)
    }

    /// What the dataset's folder `dir` holds besides a dataset: the first of it, by name.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub(super) fn foreign(dir: &Path) -> Result<Option<PathBuf>> {
        let files = Split::ALL.map(Split::file);
        let own = |name: &str| [MANIFEST, ENCODING].contains(&name) || files.iter().any(|file| file == name);
        match first_other(dir, own)? {
            None if dir.join(ENCODING).is_dir() => first_other(&dir.join(ENCODING), Encoding::is_file),
            found => Ok(found),
        }
    }

    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its vocabularies and transforms.
    pub fn encoding(&self) -> &Encoding {
        &self.encoding
    }

    /// A split's rows; a test split that is not there has none.
    pub fn split(&self, split: Split) -> Arc<Rows> {
        Arc::clone(&self.splits[split as usize])
    }
}

/// The first entry of `dir`, by name, that is not `own`.
fn first_other(dir: &Path, own: impl Fn(&str) -> bool) -> Result<Option<PathBuf>> {
    let mut first: Option<PathBuf> = None;
    for entry in std::fs::read_dir(dir).map_err(io(dir))? {
        let entry = entry.map_err(io(dir))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // File managers put these wherever someone looks.
        let own = own(&name) || [".DS_Store", "Thumbs.db", "desktop.ini"].contains(&&*name);
        if !own && first.as_ref().is_none_or(|first| entry.path() < *first) {
            first = Some(entry.path());
        }
    }
    Ok(first)
}

fn hex(hash: u128) -> String {
    format!("{hash:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batch::{BatchBuilder, BatchLayout, Minibatch, table_layouts};

    #[test]
    fn ids_take_as_few_bytes_as_their_vocabularies() {
        let bounds = [1, 2, 256, 257, 65_536, 65_537, 1 << 24, (1 << 24) + 1, u32::MAX as usize];
        let layout = Layout::new(bounds.into_iter(), 2);
        assert_eq!(layout.ids, [1, 1, 1, 2, 2, 3, 3, 4, 4]);
        assert_eq!((layout.numeric_at, layout.labels_at, layout.bytes), (21, 29, 31));
        // Runs of features as wide that are moved one by one, together, and both.
        let runs = bounds.into_iter().flat_map(|size| std::iter::repeat_n(size, 3));
        let sizes: Vec<usize> = runs.chain(bounds).chain([2, 300, 2]).collect();
        for numeric in [0, 2] {
            written_rows_read_back(&sizes, numeric);
        }
    }

    fn written_rows_read_back(sizes: &[usize], numeric: usize) {
        let layout = Layout::new(sizes.iter().copied(), numeric);
        // The first, the last and some id between of each feature, over more than a block.
        let rows = 2 * BLOCK + 1;
        let id = |row: usize, size: usize, feature: usize| ((size - 1) as u64 * ((row * 7 + feature) as u64 % 65) / 64) as u32;
        let ids: Vec<Vec<u32>> =
            sizes.iter().enumerate().map(|(f, &size)| (0..rows).map(|row| id(row, size, f)).collect()).collect();
        let values: Vec<Vec<f32>> = (0..numeric).map(|f| (0..rows).map(|row| (row * 3 + f) as f32 - 0.25).collect()).collect();
        let encoded = Encoded { ids, numeric: values };
        let folder = tempfile::tempdir().unwrap();
        let mut writer = SplitWriter::with_layout(&folder.path().join(Split::Valid.file()), layout.clone()).unwrap();
        for row in 0..rows {
            writer.push(&encoded, row, [(row % 2) as u8, (row % 4 / 3) as u8]).unwrap();
        }
        let info = writer.finish(0).unwrap();
        assert_eq!((info.rows, info.clicks, info.conversions), (65, 32, 16));

        let source = Rows::open(folder.path(), Split::Valid, info.rows, layout.clone()).unwrap();
        // A table each, since ids of all of them are more than 32 bits number.
        let dims: Vec<usize> = (1..=sizes.len()).collect();
        let tables = table_layouts(&dims, sizes, usize::MAX).unwrap();
        let mut builder = BatchBuilder::new(BatchLayout { tables, numeric, mask: None }, false);
        let mut batch = Minibatch::default();
        let order: Vec<usize> = (0..rows).map(|i| i * 23 % rows).collect();
        builder.fill(&source, &order, &mut batch).unwrap();
        for (b, &row) in order.iter().enumerate() {
            for (f, (table, ids)) in batch.tables.iter().zip(&encoded.ids).enumerate() {
                assert_eq!(table.ids[b], ids[row], "row {row}, feature {f}");
            }
            for (f, values) in encoded.numeric.iter().enumerate() {
                assert_eq!(batch.numeric[numeric * b + f], values[row], "row {row}");
            }
            assert_eq!(batch.labels[2 * b..][..2], [(row % 2) as f32, (row % 4 / 3) as f32], "row {row}");
        }

        drop(source);
        let file = folder.path().join(Split::Valid.file());
        let mut bytes = std::fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() = 2;
        std::fs::write(&file, bytes).unwrap();
        let source = Rows::open(folder.path(), Split::Valid, info.rows, layout).unwrap();
        let error = builder.fill(&source, &[rows - 1], &mut batch).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: a label is neither 0 nor 1; ", file.display())), "{error}");
    }
}
