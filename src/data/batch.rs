//! A minibatch as the device takes it: ids, labels, and each table's unique rows with their occurrence lists.

use super::group::{Columns, Grouper};
use crate::{Error, Result};
use std::ops::Range;

/// Occurrences of one row that are summed in one go; a row with more is hot and summed in chunks first.
pub const PIECE: usize = 16;
/// Most occurrences of a chunk, which is summed by its pieces of [`PIECE`].
pub const CHUNK: usize = 256;

/// One embedding table: the categorical features of one width, their rows stacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableLayout {
    /// Width of a row.
    pub dim: usize,
    /// Indices of the features among the dataset's categorical ones, in order.
    pub features: Vec<usize>,
    /// First table row of each feature.
    pub offsets: Vec<u32>,
    /// Rows of all features together.
    pub rows: usize,
}

impl TableLayout {
    /// Table rows of each feature.
    pub fn sizes(&self) -> impl Iterator<Item = usize> {
        let ends = self.offsets.iter().skip(1).map(|&o| o as usize).chain([self.rows]);
        self.offsets.iter().zip(ends).map(|(&offset, end)| end - offset as usize)
    }
}

/// One table's part of a minibatch of B rows; F features share the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableBatch {
    /// Table rows, [B, F]: a feature's offset plus its id.
    pub ids: Vec<u32>,
    /// `[U, C, 0, 0]`, then for each of U unique rows, ascending: `[row, start, end, first_chunk]`, a range of `occurrences`
    /// and the first of the row's chunks, or `u32::MAX` for a row of at most [`PIECE`] occurrences.
    pub segments: Vec<[u32; 4]>,
    /// Positions in `ids`, [B * F], grouped by table row, ascending within a row.
    pub occurrences: Vec<u32>,
    /// `[start, end]` ranges of `occurrences`, at most [`CHUNK`] long each, of the C chunks of hot rows.
    pub chunks: Vec<[u32; 2]>,
}

/// A minibatch of B rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Minibatch {
    /// Epoch that the minibatch belongs to.
    pub epoch: u64,
    /// Its place in the epoch.
    pub index: u64,
    /// B.
    pub rows: usize,
    /// Click and conversion, [B, 2].
    pub labels: Vec<f32>,
    /// Transformed numeric features, [B, N].
    pub numeric: Vec<f32>,
    /// Id of the mask feature of each row, `[B]`; empty without one.
    pub mask_key: Vec<u32>,
    /// The tables' parts, in the order of their layouts.
    pub tables: Vec<TableBatch>,
}

impl Minibatch {
    /// Rows with a click.
    pub fn clicks(&self) -> usize {
        self.labels.chunks_exact(2).filter(|l| l[0] != 0.0).count()
    }
}

/// Rows that minibatches are made of: labels, categorical ids and numeric features by row number.
pub trait RowSource: Send + Sync {
    /// Number of rows.
    fn len(&self) -> usize;

    /// Whether there is no row.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What messages call it.
    fn name(&self) -> String {
        "the rows".into()
    }

    /// Writes `rows`, at most [`BLOCK`] row numbers below [`len`](Self::len) in any order, to `to`, all of it.
    ///
    /// # Panics
    /// May, for a row beyond the last and for a block of other features.
    fn read(&self, rows: &[usize], to: &mut RowBlock);
}

/// Rows that a source reads at once, so that it can have them fetched side by side: few enough to stay in the nearest cache.
pub const BLOCK: usize = 32;

/// Features whose ids are transposed at once, between rows and columns.
pub(super) const TOGETHER: usize = 4;

/// Where a source writes rows: a stretch of a minibatch.
#[derive(Debug)]
pub struct RowBlock<'a> {
    ids: &'a mut Columns,
    rows: Range<usize>,
    /// Each row's transformed numeric features, [rows, N].
    pub numeric: &'a mut [f32],
    /// Click and conversion, each 0 or 1, [rows, 2].
    pub labels: &'a mut [f32],
}

impl RowBlock<'_> {
    /// Number of categorical features.
    pub fn features(&self) -> usize {
        self.ids.features()
    }

    /// Each row's ids of `N` categorical features from `feature` on (0: missing or unseen), `[rows]` each.
    pub fn ids<const N: usize>(&mut self, feature: usize) -> [&mut [u32]; N] {
        self.ids.of_mut(feature).map(|ids| &mut ids[self.rows.clone()])
    }
}

/// What a minibatch holds beside its labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchLayout {
    /// The embedding tables, as [`table_layouts`] makes them.
    pub tables: Vec<TableLayout>,
    /// Number of numeric features.
    pub numeric: usize,
    /// Index, among the categorical features, of the one that fills [`Minibatch::mask_key`].
    pub mask: Option<usize>,
}

/// Words that a segment takes: a row of a table in a minibatch with its list of occurrences.
pub const SEGMENT: usize = 4;

/// Stacks categorical features into tables: in order of first appearance one for each distinct width, and a further one where
/// its features would together have more than `most_columns` columns (counting [`SEGMENT`] for a narrower one).
///
/// `dims` and `vocabulary_sizes` have an entry a feature; a vocabulary's size counts id 0. Fails if a table has more rows than
/// 32-bit row numbers reach.
pub fn table_layouts(dims: &[usize], vocabulary_sizes: &[usize], most_columns: usize) -> Result<Vec<TableLayout>> {
    if dims.len() != vocabulary_sizes.len() {
        return Err(Error::system(format!("{} feature widths for {} vocabularies", dims.len(), vocabulary_sizes.len())));
    }
    let mut tables: Vec<TableLayout> = Vec::new();
    for (feature, (&dim, &size)) in dims.iter().zip(vocabulary_sizes).enumerate() {
        let has_room = |t: &TableLayout| (t.features.len() + 1).saturating_mul(dim.max(SEGMENT)) <= most_columns;
        let at = match tables.iter().rposition(|t| t.dim == dim) {
            Some(at) if has_room(&tables[at]) => at,
            // Behind the tables of its width, so that the columns of a model do not depend on where its tables end.
            found => {
                let at = found.map_or(tables.len(), |last| last + 1);
                tables.insert(at, TableLayout { dim, features: Vec::new(), offsets: Vec::new(), rows: 0 });
                at
            }
        };
        let table = &mut tables[at];
        let end = table.rows.checked_add(size).filter(|&rows| rows <= u32::MAX as usize).ok_or_else(|| {
            Error::user(format!(
                "the embedding table of width {dim} has more than {} rows; raise min_count of its largest features",
                u32::MAX
            ))
        })?;
        table.features.push(feature);
        table.offsets.push(table.rows as u32);
        table.rows = end;
    }
    Ok(tables)
}

/// Fills reused [`Minibatch`]es from a [`RowSource`]; allocates only while buffers still grow.
#[derive(Debug)]
pub struct BatchBuilder {
    layout: BatchLayout,
    with_segments: bool,
    /// The ids of the minibatch by feature.
    columns: Columns,
    grouper: Grouper,
}

impl BatchBuilder {
    /// A builder of minibatches of this layout. Without segments (evaluation), [`TableBatch`]es hold their ids alone.
    pub fn new(layout: BatchLayout, with_segments: bool) -> Self {
        let features: usize = layout.tables.iter().map(|t| t.features.len()).sum();
        BatchBuilder { layout, with_segments, columns: Columns::new(features), grouper: Grouper::default() }
    }

    /// Makes `batch` the minibatch of `rows` in their order, whatever it held before. Epoch and index are left alone.
    ///
    /// Fails if the source gives an id beyond its feature's vocabulary or a label that is neither 0 nor 1, and if a table's ids are more than 32 bits can number.
    pub fn fill(&mut self, source: &dyn RowSource, rows: &[usize], batch: &mut Minibatch) -> Result<()> {
        let layout = &self.layout;
        batch.rows = rows.len();
        batch.mask_key.clear();
        batch.labels.resize(rows.len() * 2, 0.0);
        batch.numeric.resize(rows.len() * layout.numeric, 0.0);
        batch.tables.resize_with(layout.tables.len(), TableBatch::default);
        for (table, part) in layout.tables.iter().zip(&mut batch.tables) {
            let ids = rows.len() * table.features.len();
            if ids > u32::MAX as usize {
                return Err(Error::user(format!("{} rows in a minibatch are too many; lower train.batch_size", rows.len())));
            }
            part.ids.resize(ids, 0);
        }
        self.columns.resize(rows.len());
        for (first, rows) in (0..).step_by(BLOCK).zip(rows.chunks(BLOCK)) {
            source.read(
                rows,
                &mut RowBlock {
                    ids: &mut self.columns,
                    rows: first..first + rows.len(),
                    numeric: &mut batch.numeric[first * layout.numeric..][..rows.len() * layout.numeric],
                    labels: &mut batch.labels[first * 2..][..rows.len() * 2],
                },
            );
            for (table, part) in layout.tables.iter().zip(&mut batch.tables) {
                let width = table.features.len();
                let to = &mut part.ids[first * width..][..rows.len() * width];
                let ids = |feature| &self.columns.of(feature)[first..][..rows.len()];
                let (features, rest) = table.features.as_chunks::<TOGETHER>();
                let (offsets, rest_offsets) = table.offsets.as_chunks();
                for ((at, features), &offsets) in (0..).step_by(TOGETHER).zip(features).zip(offsets) {
                    put_ids(features.map(ids), offsets, to, width, at);
                }
                for ((at, &feature), &offset) in (width - rest.len()..).zip(rest).zip(rest_offsets) {
                    put_ids([ids(feature)], [offset], to, width, at);
                }
            }
        }
        if batch.labels.iter().any(|&label| label != 0.0 && label != 1.0) {
            let name = source.name();
            return Err(Error::user(format!("{name}: a label is neither 0 nor 1; the dataset is damaged, prepare it again")));
        }
        if let Some(feature) = layout.mask {
            batch.mask_key.extend(self.columns.of(feature));
        }
        for (table, part) in layout.tables.iter().zip(&mut batch.tables) {
            for (&feature, size) in table.features.iter().zip(table.sizes()) {
                // The largest id, since one test a feature costs less than one an id.
                if self.columns.of(feature).iter().fold(0, |most, &id| id.max(most)) as usize >= size {
                    return Err(Error::user(format!(
                        "{}: categorical feature {feature} holds an id beyond its vocabulary; the dataset is damaged, prepare it again",
                        source.name()
                    )));
                }
            }
            if self.with_segments {
                self.grouper.group(table, &self.columns, part);
            } else {
                part.segments.clear();
                part.occurrences.clear();
                part.chunks.clear();
            }
        }
        Ok(())
    }
}

/// Writes the ids of `N` features, beyond their offsets, to rows of `width` ids, from place `at` of each row on.
#[inline(always)]
fn put_ids<const N: usize>(ids: [&[u32]; N], offsets: [u32; N], to: &mut [u32], width: usize, at: usize) {
    for (i, row) in to.chunks_exact_mut(width).enumerate() {
        for ((to, ids), offset) in row[at..at + N].iter_mut().zip(ids).zip(offsets) {
            // Wrapping for a wrong id, which is found later.
            *to = ids[i].wrapping_add(offset);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::random::{Purpose, Stream};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Rows made up from a seed; row `r` carries `r` as its first numeric feature and as its mask feature's id.
    pub(crate) struct Made {
        pub rows: usize,
        pub vocabulary_sizes: Vec<usize>,
        pub seed: u64,
    }

    impl RowSource for Made {
        fn len(&self) -> usize {
            self.rows
        }

        fn read(&self, rows: &[usize], to: &mut RowBlock) {
            let (mut ids, mut numeric) = (vec![0; self.vocabulary_sizes.len()], vec![0.0; to.numeric.len() / rows.len()]);
            for (i, &row) in rows.iter().enumerate() {
                let (click, conversion) = self.row(row, &mut ids, &mut numeric);
                to.labels[2 * i..][..2].copy_from_slice(&[f32::from(click), f32::from(conversion)]);
                to.numeric[numeric.len() * i..][..numeric.len()].copy_from_slice(&numeric);
                ids.iter().enumerate().for_each(|(feature, &id)| to.ids::<1>(feature)[0][i] = id);
            }
        }
    }

    impl Made {
        /// Ids, numeric features, click and conversion of a row.
        fn row(&self, row: usize, ids: &mut [u32], numeric: &mut [f32]) -> (u8, u8) {
            let stream = Stream::new(self.seed, Purpose::Check, row as u64);
            for (f, (id, &size)) in ids.iter_mut().zip(&self.vocabulary_sizes).enumerate() {
                // size^u is log-uniform: Zipf's law with exponent 1.
                let zipf = (size as f32).powf(stream.uniform(f as u64)) - 1.0;
                *id = (zipf as u32).min(size as u32 - 1);
            }
            for (i, x) in numeric.iter_mut().enumerate() {
                *x = row as f32 + i as f32;
            }
            let click = u8::from(stream.uniform(1000) < 0.4);
            (click, click & u8::from(stream.uniform(1001) < 0.5))
        }
    }

    /// The definition of a table's part, from its ids.
    fn by_definition(ids: &[u32]) -> TableBatch {
        let mut lists: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (position, &id) in ids.iter().enumerate() {
            lists.entry(id).or_default().push(position as u32);
        }
        let mut part = TableBatch { ids: ids.to_vec(), ..TableBatch::default() };
        let mut segments = Vec::new();
        for (row, positions) in lists {
            let start = part.occurrences.len() as u32;
            let first_chunk = if positions.len() > PIECE { part.chunks.len() as u32 } else { u32::MAX };
            if positions.len() > PIECE {
                let mut at = start;
                for chunk in positions.chunks(CHUNK) {
                    part.chunks.push([at, at + chunk.len() as u32]);
                    at += chunk.len() as u32;
                }
            }
            part.occurrences.extend(&positions);
            segments.push([row, start, part.occurrences.len() as u32, first_chunk]);
        }
        part.segments = vec![[segments.len() as u32, part.chunks.len() as u32, 0, 0]];
        part.segments.extend(segments);
        part
    }

    fn layout(dims: &[usize], sizes: &[usize]) -> BatchLayout {
        BatchLayout { tables: table_layouts(dims, sizes, usize::MAX).unwrap(), numeric: 2, mask: Some(0) }
    }

    #[test]
    fn tables_end_where_a_binding_would() {
        let features = |tables: &[TableLayout]| tables.iter().map(|t| t.features.clone()).collect::<Vec<_>>();
        let tables = table_layouts(&[8, 2, 8, 2, 8], &[10, 20, 30, 1, 5], 16).unwrap();
        assert_eq!(features(&tables), [vec![0, 2], vec![4], vec![1, 3]]);
        assert_eq!((tables[1].offsets.as_slice(), tables[1].rows), ([0].as_slice(), 5));
        // Narrow features count as a segment; one that is too wide by itself has a table of its own.
        let tables = table_layouts(&[8, 2, 8, 2], &[10, 20, 30, 1], 7).unwrap();
        assert_eq!(features(&tables), [[0], [2], [1], [3]]);
    }

    #[test]
    fn features_of_one_width_share_a_table() {
        let tables = table_layouts(&[8, 16, 8, 16], &[10, 20, 30, 1], usize::MAX).unwrap();
        assert_eq!(
            tables,
            [
                TableLayout { dim: 8, features: vec![0, 2], offsets: vec![0, 10], rows: 40 },
                TableLayout { dim: 16, features: vec![1, 3], offsets: vec![0, 20], rows: 21 },
            ]
        );
        assert_eq!(table_layouts(&[], &[], usize::MAX).unwrap(), []);
        assert!(table_layouts(&[4, 4], &[u32::MAX as usize, 1], usize::MAX).is_err());
        assert!(table_layouts(&[4, 8], &[u32::MAX as usize, 1], usize::MAX).is_ok());
    }

    #[test]
    fn chunks_begin_above_the_length_of_a_piece() {
        for rows in [1, 15, 16, 17, 255, 256, 257, 512, 513] {
            let source = Made { rows, vocabulary_sizes: vec![1, 1], seed: 0 };
            let mut batch = Minibatch::default();
            let mut builder = BatchBuilder::new(layout(&[4, 4], &[1, 1]), true);
            builder.fill(&source, &(0..rows).collect::<Vec<_>>(), &mut batch).unwrap();
            let part = &batch.tables[0];
            assert_eq!(*part, by_definition(&part.ids), "{rows} rows");
            assert_eq!(part.chunks.len(), if rows > PIECE { 2 * rows.div_ceil(CHUNK) } else { 0 });
        }
    }

    #[test]
    fn words_are_marked_or_all_looked_at() {
        // 4096 ids are 64 words: minibatches of fewer rows have them marked.
        let source = Made { rows: 400, vocabulary_sizes: vec![4096, 70], seed: 2 };
        let (mut batch, mut builder) = (Minibatch::default(), BatchBuilder::new(layout(&[4, 4], &[4096, 70]), true));
        for rows in [63, 64, 400, 1, 65, 63] {
            builder.fill(&source, &(0..rows).collect::<Vec<_>>(), &mut batch).unwrap();
            assert_eq!(batch.tables[0], by_definition(&batch.tables[0].ids), "{rows} rows");
        }
    }

    #[test]
    fn an_id_beyond_its_vocabulary_is_refused() {
        let source = Made { rows: 400, vocabulary_sizes: vec![300, 5], seed: 1 };
        let mut builder = BatchBuilder::new(layout(&[4, 4], &[3, 5]), true);
        let e = builder.fill(&source, &(0..400).collect::<Vec<_>>(), &mut Minibatch::default()).unwrap_err();
        assert!(e.to_string().starts_with("the rows: categorical feature 0 holds an id beyond"), "{e}");
    }

    proptest! {
        #[test]
        fn a_minibatch_is_what_its_rows_say(
            shape in prop::collection::vec((prop::sample::select(vec![4usize, 8, 16]), 1usize..5000), 0..6),
            batches in prop::collection::vec(0usize..400, 1..4),
            seed in 0u64..1000,
            with_segments in any::<bool>(),
        ) {
            let (dims, sizes): (Vec<_>, Vec<_>) = shape.into_iter().unzip();
            let source = Made { rows: 1000, vocabulary_sizes: sizes.clone(), seed };
            let mut layout = layout(&dims, &sizes);
            layout.mask = layout.mask.filter(|_| !dims.is_empty());
            let mut builder = BatchBuilder::new(layout.clone(), with_segments);
            let mut batch = Minibatch::default();
            for rows in batches {
                let rows: Vec<usize> = (0..rows).map(|i| (i * 389 + seed as usize) % 1000).collect();
                builder.fill(&source, &rows, &mut batch).unwrap();
                prop_assert_eq!(batch.rows, rows.len());
                let (mut ids, mut numeric) = (vec![0; dims.len()], [0.0; 2]);
                for (b, &row) in rows.iter().enumerate() {
                    let (click, conversion) = source.row(row, &mut ids, &mut numeric);
                    prop_assert_eq!(&batch.labels[2 * b..2 * b + 2], [f32::from(click), f32::from(conversion)]);
                    prop_assert_eq!(&batch.numeric[2 * b..2 * b + 2], numeric);
                    if layout.mask.is_some() {
                        prop_assert_eq!(batch.mask_key[b], ids[0]);
                    }
                    for (table, part) in layout.tables.iter().zip(&batch.tables) {
                        for (j, &f) in table.features.iter().enumerate() {
                            prop_assert_eq!(part.ids[b * table.features.len() + j], table.offsets[j] + ids[f]);
                        }
                    }
                }
                prop_assert_eq!(batch.mask_key.len(), if layout.mask.is_some() { rows.len() } else { 0 });
                for part in &batch.tables {
                    let bare = TableBatch { ids: part.ids.clone(), ..TableBatch::default() };
                    prop_assert_eq!(part, &if with_segments { by_definition(&part.ids) } else { bare });
                }
            }
        }
    }
}
