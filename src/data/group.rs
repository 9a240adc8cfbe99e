//! Groups a minibatch's ids by table row: the unique rows, ascending, each with its occurrences in order.
//!
//! Nothing is sorted. A bit for each table row says which rows occur, so that the unique ones come out ascending, and counting the bits
//! below a row's gives its number among them. No branch depends on an id; where one number would be read, changed and read again
//! at once, as those of frequent ids are, it is kept in parts or taken apart from the reading. Of a table that is large
//! beside the minibatch only those rows are looked at that lie near one that occurs, so the work goes by the minibatch.

use super::batch::{CHUNK, PIECE, TableBatch, TableLayout};
use crate::processor::vectorised;

/// Parts of a word of bits: ids take turns.
const PARTS: usize = 4;
/// Words that share a mark.
const MARKED: usize = 8;
/// Columns start so many ids apart beyond their length: at a power of two they would all share a few lines of the cache.
const PAD: usize = 48;

/// A minibatch's ids as its source gives them, one feature after the other.
#[derive(Debug)]
pub struct Columns {
    ids: Vec<u32>,
    features: usize,
    rows: usize,
}

impl Columns {
    /// Columns of `features` features.
    pub fn new(features: usize) -> Columns {
        Columns { ids: Vec::new(), features, rows: 0 }
    }

    /// Number of features.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Makes room for a minibatch of `rows` rows.
    pub fn resize(&mut self, rows: usize) {
        self.rows = rows;
        self.ids.resize(self.features * (rows + PAD), 0);
    }

    /// The ids of a feature.
    pub fn of(&self, feature: usize) -> &[u32] {
        &self.ids[feature * (self.rows + PAD)..][..self.rows]
    }

    /// Where the ids of `N` features from `feature` on go.
    pub fn of_mut<const N: usize>(&mut self, feature: usize) -> [&mut [u32]; N] {
        let mut rest = &mut self.ids[feature * (self.rows + PAD)..];
        std::array::from_fn(|_| {
            let (column, after) = std::mem::take(&mut rest).split_at_mut(self.rows + PAD);
            rest = after;
            &mut column[..self.rows]
        })
    }
}

/// Groups ids; keeps its memory.
#[derive(Debug, Default)]
pub struct Grouper {
    scratch: Scratch,
}

/// What grouping one feature's ids takes.
#[derive(Debug, Default)]
struct Scratch {
    /// For each 64 ids which of them occur; all 0 between features.
    bits: Vec<[u64; PARTS]>,
    /// For each [`MARKED`] words of bits: 1 where one of them may be other than 0.
    marks: Vec<u8>,
    words: Vec<Word>,
    /// For each id its number among the unique ones, and how many times it occurs before.
    numbers: Vec<[u32; 2]>,
    /// Each unique id, and how often it occurs, then where its occurrences start.
    unique: Vec<[u32; 2]>,
}

/// Which of 64 ids occur.
#[derive(Debug, Default, Clone, Copy)]
struct Word {
    bits: u64,
    /// Unique ids below these.
    before: u32,
}

impl Grouper {
    /// Fills segments, occurrences and chunks of `part`, whose features' ids lie in `columns`, each within its feature's range.
    pub fn group(&mut self, table: &TableLayout, columns: &Columns, part: &mut TableBatch) {
        let TableBatch { ids, segments, occurrences, chunks } = part;
        occurrences.resize(ids.len(), 0);
        segments.clear();
        segments.push([0; 4]);
        chunks.clear();
        let features = table.features.len();
        for (first, ((&feature, &offset), size)) in table.features.iter().zip(&table.offsets).zip(table.sizes()).enumerate() {
            let step = Step { offset, size, first, features };
            group_feature(columns.of(feature), step, &mut self.scratch, segments, occurrences, chunks);
        }
        segments[0] = [segments.len() as u32 - 1, chunks.len() as u32, 0, 0];
    }
}

/// A feature of a table.
struct Step {
    /// Its first table row.
    offset: u32,
    /// Its table rows.
    size: usize,
    /// Its place among the table's features.
    first: usize,
    /// Features of the table.
    features: usize,
}

vectorised! {
    /// The segments, occurrences and chunks of one feature's ids, each below `step.size`, after those of the features before it.
    fn group_feature(
        ids: &[u32],
        step: Step,
        scratch: &mut Scratch,
        segments: &mut Vec<[u32; 4]>,
        occurrences: &mut [u32],
        chunks: &mut Vec<[u32; 2]>,
    ) {
        let marks = step.size.div_ceil(64 * MARKED);
        if scratch.marks.len() < marks {
            scratch.marks.resize(marks, 0);
            scratch.bits.resize(marks * MARKED, [0; PARTS]);
            scratch.words.resize(marks * MARKED, Word::default());
        }
        let (bits, words, marks) = (&mut scratch.bits[..marks * MARKED], &mut scratch.words[..marks * MARKED], &mut scratch.marks[..marks]);
        let (quads, rest) = ids.as_chunks::<PARTS>();
        for quad in quads {
            for part in 0..PARTS {
                let id = quad[part] as usize;
                bits[id / 64][part] |= 1 << (id % 64);
            }
        }
        for &id in rest {
            bits[id as usize / 64][0] |= 1 << (id % 64);
        }
        // Where there are as many ids as words, looking at all words costs less than marking.
        if step.size > 64 * ids.len() {
            ids.iter().for_each(|&id| marks[id as usize / (64 * MARKED)] = 1);
        } else {
            marks.fill(1);
        }

        let mut unique = 0;
        for (i, mark) in marks.iter_mut().enumerate() {
            if std::mem::take(mark) == 0 {
                continue;
            }
            let range = i * MARKED..(i + 1) * MARKED;
            for (word, bits) in words[range.clone()].iter_mut().zip(&mut bits[range]) {
                let all = bits.iter().fold(0, |all, part| all | part);
                *bits = [0; PARTS];
                *word = Word { bits: all, before: unique };
                unique += all.count_ones();
            }
        }

        let unique = unique as usize;
        scratch.unique.clear();
        scratch.unique.resize(unique, [0; 2]);
        scratch.numbers.resize(ids.len(), [0; 2]);
        for (to, &id) in scratch.numbers.iter_mut().zip(ids) {
            let word = words[id as usize / 64];
            let number = word.before + (word.bits & ((1 << (id % 64)) - 1)).count_ones();
            let [unique, count] = &mut scratch.unique[number as usize];
            *to = [number, *count];
            *count += 1;
            *unique = id;
        }

        let mut start = (step.first * ids.len()) as u32;
        let first = segments.len();
        segments.resize(first + unique, [0; 4]);
        for (segment, [id, at]) in segments[first..].iter_mut().zip(&mut scratch.unique) {
            let end = start + *at;
            *segment = [step.offset + *id, start, end, u32::MAX];
            if *at > PIECE as u32 {
                segment[3] = chunks.len() as u32;
                chunks.extend((start..end).step_by(CHUNK).map(|s| [s, end.min(s + CHUNK as u32)]));
            }
            *at = start;
            start = end;
        }

        let mut position = step.first as u32;
        for &[number, nth] in &scratch.numbers {
            occurrences[(scratch.unique[number as usize][1] + nth) as usize] = position;
            position += step.features as u32;
        }
    }
}
