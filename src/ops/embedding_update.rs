//! Embedding backward fused with the sparse optimizer, over the minibatch's unique rows.

use super::check::{Case, Setup, integers, normals};
use super::columns::take;
use super::gather::{Columns, Shard};
use super::memory::{prefetch, turns_ahead, with_floats};
use super::vector::{dot, exp2};
use super::{Access, Args, Cost, CostOfIds, Dispatch, Kernel, Shader, Variant, fold, params, shader};
use crate::config::{EmbeddingOptimizer, EmbeddingRule};
use crate::data::batch::{CHUNK, PIECE, SEGMENT, TableBatch};
use crate::graph::{Graph, Input, Step, TensorId};
use crate::processor::vectorised;
use bytemuck::Zeroable;
use rayon::prelude::*;

/// The buffers of one shard that an update changes.
#[derive(Debug, Clone, Copy)]
pub struct ShardState {
    /// Which rows of the table.
    pub shard: Shard,
    /// The rows, [count, D].
    pub table: TensorId,
    /// `adam`: m and v, [count, 2, D]; `adagrad`: [count, D]; `rowwise-adagrad`: `[count]`; `sgd`: none.
    pub moments: Option<TensorId>,
    /// `adam`: updates of each row so far, u32 `[count]`.
    pub steps: Option<TensorId>,
}

/// Words of moments that `rule` keeps for a row of `dim` columns.
pub fn moment_width(rule: EmbeddingRule, dim: usize) -> usize {
    match rule {
        EmbeddingRule::Adam => 2 * dim,
        EmbeddingRule::Adagrad => dim,
        EmbeddingRule::RowwiseAdagrad => 1,
        EmbeddingRule::Sgd => 0,
    }
}

params! {
    struct Params {
        features: u32,
        dim: u32,
        columns: u32,
        offset: u32,
        first: u32,
        count: u32,
        lanes: u32,
        log_beta1: f32,
        log_beta2: f32,
        beta1: f32,
        beta2: f32,
        eps: f32,
        l2: f32,
        pad0: u32,
        pad1: u32,
        pad2: u32,
    }
}

const SOURCE: Shader = shader!(stored "by_one", "step", "embedding_update");
const BY_FOUR: Shader = shader!(stored "by_four", "step", "embedding_update");
static CHUNK_SUMS: Kernel = Params::kernel(
    "embedding_chunk_sums",
    SOURCE,
    "chunk_sums",
    &[(1, Access::Read), (4, Access::Read), (5, Access::Read), (6, Access::Read), (2, Access::Update)],
);
static ADAM: Kernel = Params::kernel(
    "embedding_adam",
    SOURCE,
    "adam",
    &[
        (1, Access::Read),
        (3, Access::Read),
        (4, Access::Read),
        (5, Access::Read),
        (7, Access::Read),
        (11, Access::Uniform),
        (8, Access::Update),
        (9, Access::Update),
        (10, Access::Update),
    ],
);
static ADAGRAD: Kernel = Params::kernel(
    "embedding_adagrad",
    SOURCE,
    "adagrad",
    &[
        (1, Access::Read),
        (3, Access::Read),
        (4, Access::Read),
        (5, Access::Read),
        (7, Access::Read),
        (11, Access::Uniform),
        (8, Access::Update),
        (9, Access::Update),
    ],
);
static ROWWISE_ADAGRAD: Kernel = Params::kernel("embedding_rowwise_adagrad", SOURCE, "rowwise_adagrad", ADAGRAD.bindings);
static SGD: Kernel = Params::kernel(
    "embedding_sgd",
    SOURCE,
    "sgd",
    &[
        (1, Access::Read),
        (3, Access::Read),
        (4, Access::Read),
        (5, Access::Read),
        (7, Access::Read),
        (11, Access::Uniform),
        (8, Access::Update),
    ],
);

/// Most chunks of hot rows among `occurrences`: a hot row has more than a piece of them for each of its chunks.
pub fn most_chunks(occurrences: usize) -> usize {
    (occurrences / (PIECE + 1)).max(1)
}

/// Puts the update of table number `table` into the graph: the sums of hot rows' chunks, then each shard's rows.
///
/// `dx` is the gradient of x [B, X]; where it is larger than a binding, the table's columns are taken out of it first. `health`
/// `[1]` holds back all updates once it is not 0.
pub fn embedding_update(
    g: &mut Graph,
    table: usize,
    mut dx: TensorId,
    health: TensorId,
    mut shape: Columns,
    shards: &[ShardState],
    optimizer: &EmbeddingOptimizer,
) {
    if g.exceeds_binding(g.get(dx).len) {
        let columns = shape.features * shape.dim;
        dx = take(g, dx, shape.rows, shape.offset, columns);
        shape = Columns { columns, offset: 0, ..shape };
    }
    let occurrences = shape.rows * shape.features;
    let segments = g.input(Input::Segments(table), 4 * (1 + occurrences));
    let listed = g.input(Input::Occurrences(table), occurrences);
    let chunks = g.input(Input::Chunks(table), 2 * most_chunks(occurrences));
    let sums = g.transient("chunk sums", most_chunks(occurrences) * shape.dim);
    let step = g.step();
    let unit = shape.unit();
    let lanes = (shape.dim / unit).min(256);
    let params = |shard: Shard| Params {
        features: shape.features as u32,
        dim: shape.dim as u32,
        columns: shape.columns as u32,
        offset: shape.offset as u32,
        first: shard.first as u32,
        count: shard.count as u32,
        lanes: lanes as u32,
        log_beta1: f64::from(optimizer.beta1).ln().max(-1e30) as f32,
        log_beta2: f64::from(optimizer.beta2).ln().max(-1e30) as f32,
        beta1: optimizer.beta1,
        beta2: optimizer.beta2,
        eps: optimizer.eps,
        l2: optimizer.l2,
        pad0: 0,
        pad1: 0,
        pad2: 0,
    };
    let rows_a_group = 256 / lanes;
    // A chunk's pieces are summed side by side, as many as a workgroup has room for.
    let chunks_a_group = 256 / (lanes * (CHUNK / PIECE).min(256 / lanes));
    // An occurrence is its place in the list and its gradient, a segment and a chunk are what says where theirs lie.
    let sum = [shape.dim + 1, shape.dim];
    let none = CostOfIds { table, share: 1.0, ..CostOfIds::default() };
    let op = Dispatch {
        kernel: &CHUNK_SUMS,
        params: params(Shard { first: 0, count: 0, of: 0 }),
        workgroups: fold(most_chunks(occurrences).div_ceil(chunks_a_group)),
        cost: Cost::default().with_ids(CostOfIds { chunked: sum, chunk: [2 + shape.dim, 0], ..none }),
        twin: chunk_sums,
    };
    g.push_update(Variant::by(unit, BY_FOUR, op), &[dx, segments, listed, chunks, sums]);
    for state in shards {
        let (kernel, twin, words, flops): (_, fn(&Params, &mut Args), _, _) = match optimizer.kind {
            EmbeddingRule::Adam => (&ADAM, adam, 6 * shape.dim + 2, 12 * shape.dim),
            EmbeddingRule::Adagrad => (&ADAGRAD, adagrad, 4 * shape.dim, 6 * shape.dim),
            EmbeddingRule::RowwiseAdagrad => (&ROWWISE_ADAGRAD, rowwise_adagrad, 2 * shape.dim + 2, 4 * shape.dim),
            EmbeddingRule::Sgd => (&SGD, sgd, 2 * shape.dim, 2 * shape.dim),
        };
        let mut args = vec![dx, sums, segments, listed, health, step, state.table];
        args.extend(state.moments);
        args.extend(state.steps);
        let op = Dispatch {
            kernel,
            params: params(state.shard),
            workgroups: fold(occurrences.div_ceil(rows_a_group)),
            cost: state.shard.cost(Cost::default().with_ids(CostOfIds {
                distinct: [SEGMENT + words, flops],
                alone: sum,
                chunk: [shape.dim, shape.dim],
                ..none
            })),
            twin,
        };
        g.push_update(Variant::by(unit, BY_FOUR, op), &args);
    }
}

/// 1 - beta^n without loss of digits, by the series that the shader takes.
#[inline(always)]
fn correction(log_beta: f32, n: u32) -> f32 {
    let x = n as f32 * log_beta;
    if x > -0.3 {
        let series = |rest: f32, k: f32| 1.0 + x / k * rest;
        return -x * [7.0, 6.0, 5.0, 4.0, 3.0, 2.0].into_iter().fold(1.0, series);
    }
    1.0 - exp2::<false>(x * std::f32::consts::LOG2_E)
}

/// What [`quotient`] takes to divide by `d`, at most 2^31.
fn reciprocal(d: u32) -> u64 {
    ((1 << 63) - 1) / u64::from(d) + 1
}

/// n / d for the `reciprocal` of d: 2^63 / d rounded up, which adds less than n / 2^63 to the exact quotient, less than takes it to the next integer. A
/// division takes several times as long.
#[inline(always)]
fn quotient(n: u32, reciprocal: u64) -> u32 {
    ((u128::from(n) * u128::from(reciprocal)) >> 63) as u32
}

struct Sources<'a> {
    dim: usize,
    l2: f32,
    dx: &'a [f32],
    /// Where in dx occurrence 0 begins.
    offset: usize,
    /// The [`reciprocal`] of an instance's features.
    per_feature: u64,
    /// Columns of dx that are not of the table: what lies between the last occurrence of an instance and the first of the next.
    gap: usize,
    sums: &'a [f32],
    occurrences: &'a [u32],
}

impl<'a> Sources<'a> {
    fn new(p: &Params, dx: &'a [f32], sums: &'a [f32], occurrences: &'a [u32]) -> Sources<'a> {
        let (dim, gap) = (p.dim as usize, (p.columns - p.features * p.dim) as usize);
        Sources { dim, l2: p.l2, dx, offset: p.offset as usize, per_feature: reciprocal(p.features), gap, sums, occurrences }
    }

    /// The gradient of occurrence `p`.
    #[inline(always)]
    fn of(&self, p: u32) -> &'a [f32] {
        let row = quotient(p, self.per_feature);
        &self.dx[self.offset + p as usize * self.dim + row as usize * self.gap..][..self.dim]
    }

    #[inline(always)]
    fn prefetch(&self, occurrences: &[u32]) {
        occurrences.iter().for_each(|&p| prefetch(self.of(p)));
    }

    #[inline(always)]
    fn sum(&self, occurrences: &[u32], sum: &mut [f32]) {
        sum.fill(0.0);
        for &p in occurrences {
            add(sum, self.of(p));
        }
    }

    #[inline(always)]
    fn gradient(&self, [_, start, end, chunk]: [u32; 4], g: &mut [f32]) {
        if chunk == u32::MAX {
            return self.sum(&self.occurrences[start as usize..end as usize], g);
        }
        g.fill(0.0);
        let chunks = ((end - start) as usize).div_ceil(CHUNK);
        for sums in self.sums[chunk as usize * g.len()..].chunks_exact(g.len()).take(chunks) {
            add(g, sums);
        }
    }
}

#[inline(always)]
fn add(to: &mut [f32], from: &[f32]) {
    let n = to.len().min(from.len());
    let (to, from) = (&mut to[..n], &from[..n]);
    for i in 0..n {
        to[i] += from[i];
    }
}

/// How a row changes. What it does must be `#[inline(always)]`, as a closure cannot be.
trait Rule: Sync {
    /// Words a row of moments and of step counts.
    fn widths(dim: usize) -> (usize, usize);
    /// Changes a row of the table, its moments and step count by its gradient.
    fn update(&self, w: &mut [f32], moments: &mut [f32], steps: &mut [u32], g: &[f32]);
}

/// Updates each unique row of the shard.
fn for_each_row<R: Rule>(p: &Params, args: &mut Args, rule: &R) {
    let widths = R::widths(p.dim as usize);
    let (dx, sums) = (args.read::<f32>(0), args.read::<f32>(1));
    let (segments, occurrences) = (args.read::<[u32; 4]>(2), args.read::<u32>(3));
    if args.read::<u32>(4)[0] != 0 {
        return;
    }
    let table = args.write::<f32>(6);
    let moments = if widths.0 > 0 { args.write::<f32>(7) } else { &mut [] };
    let steps = if widths.1 > 0 { args.write::<u32>(8) } else { &mut [] };
    let all = &segments[1..1 + segments[0][0] as usize];
    let from = all.partition_point(|s| s[0] < p.first);
    let to = all.partition_point(|s| u64::from(s[0]) < u64::from(p.first) + u64::from(p.count));
    let work = Work { first: p.first as usize, table, moments, steps, widths };
    work.split(&all[from..to], &Sources::new(p, dx, sums, occurrences), rule);
}

/// Rows of a shard from table row `first` on, halved until small enough for one task.
struct Work<'a> {
    first: usize,
    table: &'a mut [f32],
    moments: &'a mut [f32],
    steps: &'a mut [u32],
    widths: (usize, usize),
}

impl Work<'_> {
    fn split(self, segments: &[[u32; 4]], sources: &Sources, rule: &impl Rule) {
        if segments.len() <= 512 {
            return with_floats(sources.dim, |g| update_rows(self, segments, sources, g, rule));
        }
        let (left, right) = segments.split_at(segments.len() / 2);
        let middle = right[0][0] as usize - self.first;
        let (table, table2) = self.table.split_at_mut(middle * sources.dim);
        let (moments, moments2) = self.moments.split_at_mut(middle * self.widths.0);
        let (steps, steps2) = self.steps.split_at_mut(middle * self.widths.1);
        let a = Work { table, moments, steps, ..self };
        let b = Work { first: self.first + middle, table: table2, moments: moments2, steps: steps2, ..self };
        rayon::join(|| a.split(left, sources, rule), || b.split(right, sources, rule));
    }

    /// A row of the table, its moments and its step count.
    #[inline(always)]
    fn row(&mut self, row: u32, dim: usize) -> (&mut [f32], &mut [f32], &mut [u32]) {
        let (row, (moments, steps)) = (row as usize - self.first, self.widths);
        (
            &mut self.table[row * dim..][..dim],
            &mut self.moments[row * moments..][..moments],
            &mut self.steps[row * steps..][..steps],
        )
    }

    /// Asks for what a row is made from: its parts lie in memory in no order.
    #[inline(always)]
    fn prefetch(&mut self, &[row, start, end, chunk]: &[u32; 4], sources: &Sources) {
        let (weights, moments, steps) = self.row(row, sources.dim);
        prefetch(weights);
        prefetch(moments);
        prefetch(steps);
        if chunk == u32::MAX {
            sources.prefetch(&sources.occurrences[start as usize..end as usize]);
        }
    }
}

vectorised! {
    /// Updates the rows of `segments`, with room for a gradient.
    fn update_rows(work: Work, segments: &[[u32; 4]], sources: &Sources, g: &mut [f32], rule: &impl Rule) {
        let mut work = work;
        let ahead = turns_ahead(&[g.len(), g.len(), work.widths.0, work.widths.1]);
        for segment in segments.iter().take(ahead) {
            work.prefetch(segment, sources);
        }
        for (i, &segment) in segments.iter().enumerate() {
            if let Some(segment) = segments.get(i + ahead) {
                work.prefetch(segment, sources);
            }
            sources.gradient(segment, g);
            let (weights, moments, steps) = work.row(segment[0], g.len());
            for d in 0..g.len() {
                g[d] += sources.l2 * weights[d];
            }
            rule.update(weights, moments, steps, g);
        }
    }
}

fn chunk_sums(p: &Params, args: &mut Args) {
    let (dx, segments) = (args.read::<f32>(0), args.read::<[u32; 4]>(1));
    let (occurrences, chunks) = (args.read::<u32>(2), args.read::<[u32; 2]>(3));
    let sums = args.write::<f32>(4);
    let sources = Sources::new(p, dx, &[], occurrences);
    let chunks = &chunks[..segments[0][1] as usize];
    sums.par_chunks_exact_mut(p.dim as usize).with_min_len(16).zip(chunks).for_each(|(sum, &[start, end])| {
        let occurrences = &occurrences[start as usize..end as usize];
        with_floats(sum.len(), |piece| sum_chunk(occurrences, &sources, sum, piece));
    });
}

vectorised! {
    /// Sums a chunk's occurrences, by its pieces, with room for a piece's sum.
    fn sum_chunk(occurrences: &[u32], sources: &Sources, sum: &mut [f32], piece: &mut [f32]) {
        let ahead = turns_ahead(&[sum.len(); PIECE]);
        let pieces = occurrences.chunks(PIECE);
        pieces.clone().take(ahead).for_each(|positions| sources.prefetch(positions));
        sum.fill(0.0);
        let mut next = pieces.clone().skip(ahead);
        for positions in pieces {
            next.next().into_iter().for_each(|positions| sources.prefetch(positions));
            sources.sum(positions, piece);
            add(sum, piece);
        }
    }
}

fn adam(p: &Params, args: &mut Args) {
    let lr = args.uniform::<Step>(5).embedding_lr;
    for_each_row(p, args, &AdamRule { p, lr });
}

fn adagrad(p: &Params, args: &mut Args) {
    let lr = args.uniform::<Step>(5).embedding_lr;
    for_each_row(p, args, &AdagradRule { lr, eps: p.eps });
}

fn rowwise_adagrad(p: &Params, args: &mut Args) {
    let lr = args.uniform::<Step>(5).embedding_lr;
    for_each_row(p, args, &RowwiseAdagradRule { lr, eps: p.eps });
}

fn sgd(p: &Params, args: &mut Args) {
    let lr = args.uniform::<Step>(5).embedding_lr;
    for_each_row(p, args, &SgdRule { lr });
}

struct AdamRule<'a> {
    p: &'a Params,
    lr: f32,
}

impl Rule for AdamRule<'_> {
    fn widths(dim: usize) -> (usize, usize) {
        (moment_width(EmbeddingRule::Adam, dim), 1)
    }

    #[inline(always)]
    fn update(&self, w: &mut [f32], moments: &mut [f32], steps: &mut [u32], g: &[f32]) {
        let (n, p) = (g.len(), self.p);
        steps[0] += 1;
        // Corrected once a row, not once a number: divisions and roots are what takes time.
        let lr = self.lr / correction(p.log_beta1, steps[0]);
        let root = 1.0 / correction(p.log_beta2, steps[0]).sqrt();
        let (m, v) = moments.split_at_mut(n);
        let (w, v) = (&mut w[..n], &mut v[..n]);
        for i in 0..n {
            m[i] = p.beta1 * m[i] + (1.0 - p.beta1) * g[i];
            v[i] = p.beta2 * v[i] + (1.0 - p.beta2) * g[i] * g[i];
            w[i] -= lr * m[i] / (v[i].sqrt() * root + p.eps);
        }
    }
}

struct AdagradRule {
    lr: f32,
    eps: f32,
}

impl Rule for AdagradRule {
    fn widths(dim: usize) -> (usize, usize) {
        (moment_width(EmbeddingRule::Adagrad, dim), 0)
    }

    #[inline(always)]
    fn update(&self, w: &mut [f32], sums: &mut [f32], _: &mut [u32], g: &[f32]) {
        let n = g.len();
        let (w, sums) = (&mut w[..n], &mut sums[..n]);
        for i in 0..n {
            sums[i] += g[i] * g[i];
            w[i] -= self.lr * g[i] / (sums[i].sqrt() + self.eps);
        }
    }
}

struct RowwiseAdagradRule {
    lr: f32,
    eps: f32,
}

impl Rule for RowwiseAdagradRule {
    fn widths(dim: usize) -> (usize, usize) {
        (moment_width(EmbeddingRule::RowwiseAdagrad, dim), 0)
    }

    #[inline(always)]
    fn update(&self, w: &mut [f32], sum: &mut [f32], _: &mut [u32], g: &[f32]) {
        sum[0] += dot(g, g) / g.len() as f32;
        descend(w, self.lr / (sum[0].sqrt() + self.eps), g);
    }
}

struct SgdRule {
    lr: f32,
}

impl Rule for SgdRule {
    fn widths(dim: usize) -> (usize, usize) {
        (moment_width(EmbeddingRule::Sgd, dim), 0)
    }

    #[inline(always)]
    fn update(&self, w: &mut [f32], _: &mut [f32], _: &mut [u32], g: &[f32]) {
        descend(w, self.lr, g);
    }
}

/// w -= scale g.
#[inline(always)]
fn descend(w: &mut [f32], scale: f32, g: &[f32]) {
    let w = &mut w[..g.len()];
    for i in 0..g.len() {
        w[i] -= scale * g[i];
    }
}

/// Unique rows and occurrence lists of ids, by their definition; the loader's own way is fast and tested against another.
fn table_batch(ids: &[u32]) -> TableBatch {
    let mut occurrences: Vec<u32> = (0..ids.len() as u32).collect();
    occurrences.sort_by_key(|&p| (ids[p as usize], p));
    let mut batch = TableBatch { ids: ids.to_vec(), segments: vec![[0; 4]], occurrences, chunks: Vec::new() };
    let mut start = 0;
    while start < ids.len() {
        let row = ids[batch.occurrences[start] as usize];
        let end = start + batch.occurrences[start..].iter().take_while(|&&p| ids[p as usize] == row).count();
        let mut first_chunk = u32::MAX;
        if end - start > PIECE {
            first_chunk = batch.chunks.len() as u32;
            batch.chunks.extend((start..end).step_by(CHUNK).map(|s| [s as u32, (s + CHUNK).min(end) as u32]));
        }
        batch.segments.push([row, start as u32, end as u32, first_chunk]);
        start = end;
    }
    batch.segments[0] = [batch.segments.len() as u32 - 1, batch.chunks.len() as u32, 0, 0];
    batch
}

/// The inputs of table 0 for a minibatch of these ids.
pub(crate) fn put_minibatch(s: &mut Setup, ids: &[u32]) {
    let TableBatch { mut segments, occurrences, mut chunks, .. } = table_batch(ids);
    segments.resize(1 + ids.len(), [0; 4]);
    chunks.resize(most_chunks(ids.len()), [0; 2]);
    s.input_as(Input::Segments(0), &segments);
    s.input_as(Input::Occurrences(0), &occurrences);
    s.input_as(Input::Chunks(0), &chunks);
}

/// Every rule over several steps, with and without a penalty of the rows; hot rows, several shards, wide and narrow rows, by one number and
/// by four.
pub fn cases() -> Vec<Case> {
    use EmbeddingRule::{Adagrad, Adam, RowwiseAdagrad, Sgd};
    let mut cases = Vec::new();
    for kind in [Adam, Adagrad, RowwiseAdagrad, Sgd] {
        for (rows, features, dim, offset, shards) in [
            (1, 1, 1, 1, vec![2]),
            (67, 3, 5, 1, vec![4, 30, 9]),
            (300, 2, 16, 1, vec![3]),
            (9, 2, 300, 1, vec![5, 6]),
            (1, 1, 4, 0, vec![2]),
            (67, 3, 12, 4, vec![4, 30, 9]),
            (300, 2, 16, 0, vec![3]),
            (9, 2, 1028, 8, vec![5, 6]),
            (40, 1, 1028, 0, vec![1]),
            (600, 2, 20, 0, vec![2, 1]),
            (2500, 1, 4, 0, vec![1]),
            // As many pieces of a chunk side by side as there is room for.
            (300, 1, 200, 0, vec![1]),
            (300, 1, 50, 1, vec![1]),
        ] {
            let name = format!("embedding update {kind:?}, {rows} rows, {offset} + {features} x {dim}, shards {shards:?}");
            let mut case = Case::new(name, rows * features, move |s| {
                let total: usize = shards.iter().sum();
                let columns = features * dim + offset;
                let dx = s.input(&normals(2, rows * columns, 0.1));
                let health = s.state_tensor("health", &[0u32]);
                put_minibatch(s, &integers(1, rows * features, total as u32));
                s.input_as(Input::Step, &[Step { embedding_lr: 0.01, ..Step::zeroed() }]);
                let mut first = 0;
                let mut states = Vec::new();
                for (i, &count) in shards.iter().enumerate() {
                    let width = moment_width(kind, dim);
                    states.push(ShardState {
                        shard: Shard { first, count, of: total },
                        table: s.state_tensor("table", &normals(3 + i as u64, count * dim, 1.0)),
                        moments: (width > 0).then(|| s.state_tensor("moments", &vec![0f32; count * width])),
                        steps: (kind == Adam).then(|| s.state_tensor("steps", &vec![0u32; count])),
                    });
                    first += count;
                }
                let l2 = if rows == 67 || rows == 9 { 0.02 } else { 0.0 };
                let optimizer = EmbeddingOptimizer { kind, l2, ..EmbeddingOptimizer::default() };
                let shape = Columns { rows, columns, offset, features, dim };
                embedding_update(&mut s.graph, 0, dx, health, shape, &states, &optimizer);
            });
            case.steps = 3;
            // m / (sqrt(v) + eps) of a gradient that cancels to almost nothing keeps only the gradient's own few digits.
            case.rel = 2e-5;
            cases.push(case);
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_are_exact() {
        for d in (1..2000).chain([65_535, 65_536, u32::MAX / 2, 1 << 31]) {
            let (reciprocal, most) = (reciprocal(d), u32::MAX / d);
            for n in [0, 1, most / 2, most].into_iter().flat_map(|q| [q * d, q * d + (d - 1).min(u32::MAX - q * d)]) {
                assert_eq!(quotient(n, reciprocal), n / d, "{n} / {d}");
            }
        }
    }

    #[test]
    fn corrections_are_those_of_f64() {
        for beta in [0.0f32, 0.5, 0.7, 0.9, 0.95, 0.99, 0.999, 0.99999] {
            let log_beta = f64::from(beta).ln().max(-1e30) as f32;
            for n in (1..2000).chain([1 << 16, 1 << 24, u32::MAX]) {
                let wanted = -(f64::from(log_beta) * f64::from(n)).exp_m1();
                let error = (f64::from(correction(log_beta, n)) - wanted).abs() / wanted;
                assert!(error < 5e-7, "beta {beta}, n {n}: {error:e}");
            }
        }
    }
}
