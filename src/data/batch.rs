//! A minibatch as the device takes it: ids, labels, and each table's unique rows with their occurrence lists.

/// Occurrences of one row that are summed in one go; a row with more is hot and summed in chunks of this many first.
pub const CHUNK: usize = 64;

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

/// One table's part of a minibatch of B rows; F features share the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableBatch {
    /// Table rows, [B, F]: a feature's offset plus its id.
    pub ids: Vec<u32>,
    /// `[U, C, 0, 0]`, then for each of U unique rows, ascending: `[row, start, end, first_chunk]`, a range of `occurrences`
    /// and the first of the row's chunks, or `u32::MAX` for a row of at most [`CHUNK`] occurrences.
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
    /// Id of the mask feature of each row, [B]; empty without one.
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
