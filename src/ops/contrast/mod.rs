//! The contrastive loss between the two task representations, with a temperature of its own for every anchor row.
//!
//! S_ij = <z_ctr_i, z_cvr_j>. For anchor i with candidates N(i), which always hold i itself, and p the softmax over N(i):
//!
//! - InfoNCE: L_i = log sum_{N(i)} exp(S_ij / tau_i) - S_ii / tau_i, dL_i/dS_ij = (p_ij - \[i=j\]) / tau_i,
//!   dL_i/dtau_i = (S_ii - sum_j p_ij S_ij) / tau_i^2;
//! - robust: L_i = tau_i log mean_{N(i)} exp((S_ij - S_ii) / tau_i) + rho tau_i, dL_i/dS_ij = p_ij - \[i=j\],
//!   dL_i/dtau_i = log mean_j exp((S_ij - S_ii) / tau_i) - (sum_j p_ij S_ij - S_ii) / tau_i + rho.
//!
//! The B x B matrix is never stored: `stats` goes over its tiles once, and keeps four numbers a row and slice of the columns and, for the other direction, a
//! column and band of rows; `finish` makes four an anchor of them, and the gradient computes tiles of S anew.

mod sampled;
mod tiles;

use super::check::{Case, integers, normals};
use super::product::{Matrix, Threads, product};
use super::tile::{CONTRAST_TILES, Chosen, Shape, Tile, Tiles};
use super::vector::{exp2, multiply_add};
use super::{Access, Args, Cost, Dispatch, Kernel, Shader, Shaders, Variant, add_parts, cost, fold, params, shader, unit};
use crate::config::{Direction, Objective};
use crate::graph::{Graph, Input, Step, TensorId};
use crate::processor::vectorised;
use bytemuck::Zeroable;
use rayon::prelude::*;
use std::f32::consts::{LN_2, LOG2_E};
use std::ops::Range;

const TILED: Shader = shader!("tile", "sums", "multiply", "chunk", "step", "contrast_by_one", "contrast");
static SHADERS: Shaders = [
    &[TILED, shader!("tile", "sums", "multiply_subgroup", "chunk", "step", "contrast_by_one", "contrast")],
    &[
        shader!("tile", "sums", "multiply", "chunk", "step", "contrast_by_four", "contrast"),
        shader!("tile", "sums", "multiply_subgroup", "chunk", "step", "contrast_by_four", "contrast"),
    ],
];

/// The gradient's twin computes S in tiles of so many rows and columns.
const STRIPE: usize = 128;
const PANEL: usize = 256;
/// Groups of rows that the twins work on side by side, at most. Fixed, so that results do not depend on the number of threads.
const GROUPS: usize = 16;
/// Words that dz may take in all slices of the candidates together: where more would be asked for, there is one slice.
const SLICED_WORDS: usize = 6 << 20;
/// In the place of an S that is left out, or not known yet: its e^ is 0.
const LEFT_OUT: f32 = -1e30;
/// What the highest exponent starts from: below that of any pair, above that of one that is left out, at any of [`TEMPERATURES`](crate::config::TEMPERATURES).
const LEAST: f32 = -1e20;

params! {
    struct Params {
        rows: u32,
        width: u32,
        masked: u32,
        clicked: u32,
        robust: u32,
        first: u32,
        directions: u32,
        accumulate: u32,
        scale: f32,
        rho: f32,
        offsets: u32,
        slice: u32,
        slices: u32,
        band: u32,
        bands: u32,
        pad0: u32,
    }
}

/// What [`contrast`] computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contrast {
    /// Rows of the minibatch, B.
    pub rows: usize,
    /// Width of each of the two representations, D.
    pub width: usize,
    /// Weight of the mean loss in the total loss, lambda; it scales the gradients alone.
    pub weight: f32,
    /// Which representation is the anchor.
    pub direction: Direction,
    /// The objective.
    pub objective: Objective,
    /// Weight of tau in the robust objective.
    pub rho: f32,
    /// 0: all rows are candidates; else the number K of sampled ones beside the anchor itself, below `rows`.
    pub negatives: usize,
    /// Whether rows without a click are no anchors.
    pub clicked_anchors: bool,
    /// Whether rows with the anchor's non-zero key ([`Input::MaskKey`]) are no candidates.
    pub masked: bool,
    /// Whether tau receives a gradient.
    pub tau_gradient: bool,
}

impl Contrast {
    fn params(&self) -> Params {
        let (first, directions) = match self.direction {
            Direction::CtrToCvr => (0, 1),
            Direction::CvrToCtr => (1, 1),
            Direction::Both => (0, 2),
        };
        Params {
            rows: self.rows as u32,
            width: self.width as u32,
            masked: self.masked.into(),
            clicked: self.clicked_anchors.into(),
            robust: (self.objective == Objective::Robust).into(),
            first,
            directions,
            accumulate: 0,
            scale: (f64::from(self.weight) / (self.rows as f64 * f64::from(directions))) as f32,
            rho: self.rho,
            offsets: self.negatives as u32,
            slice: self.rows as u32,
            slices: 1,
            band: 1,
            bands: 1,
            pad0: 0,
        }
    }
}

use Access::{Read, Uniform, Update, Write};
static STATS: Kernel =
    Params::kernel("contrast", TILED, "stats", &[(1, Read), (2, Read), (3, Read), (4, Update), (5, Write), (17, Write)]);
static FINISH: Kernel = Params::kernel(
    "contrast losses",
    TILED,
    "finish",
    &[(2, Read), (6, Read), (7, Read), (18, Read), (8, Read), (9, Write), (10, Write), (11, Write)],
);
static SLOPES: Kernel =
    Params::kernel("contrast backward to tau", TILED, "slopes", &[(2, Read), (12, Read), (13, Uniform), (16, Update)]);
static GRADIENT: Kernel = Params::kernel(
    "contrast backward",
    TILED,
    "gradient",
    &[(1, Read), (2, Read), (3, Read), (12, Read), (13, Uniform), (14, Update)],
);
static MERGE: Kernel = Params::kernel("contrast merge", TILED, "merge", &[(15, Read), (14, Update)]);

impl Params {
    fn sampled(&self) -> bool {
        self.offsets > 0
    }

    /// The same with what `stats` cuts S into: slices of whole tiles of its columns, bands of whole tiles of its rows. A workgroup goes over one slice of one
    /// band.
    fn of_stats(self, tiles: &Tiles, chosen: Chosen) -> Params {
        let rows = self.rows as usize;
        let [height, width] = chosen.tile.size();
        let [band, slices] = tiles.bands_and_slices(chosen, Shape::contrast(rows, self.width as usize), self.directions > 1);
        let slice = rows.div_ceil(slices).next_multiple_of(width);
        let [slice, slices, band, bands] =
            [slice, rows.div_ceil(slice), band, rows.div_ceil(height).div_ceil(band)].map(|n| n as u32);
        Params { slice, slices, band, bands, ..self }
    }

    /// Numbers in z.
    fn numbers(&self) -> f64 {
        2.0 * f64::from(self.rows) * f64::from(self.width)
    }

    /// Pairs of rows whose S is looked at in one direction.
    fn pairs(&self) -> f64 {
        f64::from(self.rows) * if self.sampled() { f64::from(self.offsets) + 1.0 } else { f64::from(self.rows) }
    }

    /// Words of tau, key and sums or statistics of a row.
    fn words_of_row(&self) -> f64 {
        1.0 + f64::from(self.masked) + 4.0 * f64::from(self.directions)
    }

    /// With one part of each sum, however many a device makes of it.
    fn stats_cost(&self) -> Cost {
        let directions = f64::from(self.directions);
        let of_row = self.words_of_row() + 1.0 + f64::from(self.masked);
        let bytes = 4.0 * (self.numbers() + f64::from(self.rows) * of_row);
        // A pair's S serves both directions; sampled pairs are others in each.
        let products = if self.sampled() { directions } else { 1.0 };
        let flops = self.pairs() * (2.0 * products * f64::from(self.width) + 8.0 * directions);
        Cost { bytes, flops, ..Cost::default() }
    }

    fn gradient_cost(&self) -> Cost {
        // S of a pair, and what both its rows get of the other; sampled pairs are others in each direction.
        let directions = f64::from(self.directions);
        let products = if self.sampled() { directions } else { 1.0 };
        let flops = self.pairs() * (6.0 * products * f64::from(self.width) + 10.0 * directions);
        let bytes = 4.0 * (self.numbers() * (2.0 + f64::from(self.accumulate)) + f64::from(self.rows) * self.words_of_row());
        Cost { bytes, flops, ..Cost::default() }
    }

    /// The row range of side `side` of z, from its first number on; rows are `2 * width` apart.
    #[inline(always)]
    fn offset(&self, row: usize, side: usize) -> usize {
        (row * 2 + side) * self.width as usize
    }

    /// Whether j is a candidate of i as far as keys go.
    #[inline(always)]
    fn allowed(&self, keys: &[u32], i: usize, j: usize) -> bool {
        self.masked == 0 || i == j || keys[i] == 0 || keys[i] != keys[j]
    }

    /// Rows of the blocks that the gradient's twin goes over, whole panels, since narrower tiles are slower; and its words of scratch memory.
    fn gradient_blocks(&self) -> (usize, usize) {
        let (rows, width) = (self.rows as usize, self.width as usize);
        let block = rows.div_ceil(PANEL).div_ceil(GROUPS) * PANEL;
        (block, 3 * rows + rows.div_ceil(block) * STRIPE * PANEL + 2 * rows * width)
    }

    /// The rows of `side` from row `from` on, as a matrix inside z.
    fn side(&self, from: usize, side: usize) -> Matrix {
        Matrix { at: self.offset(from, side), row: 2 * self.width as usize, column: 1 }
    }

    /// Puts [`LEFT_OUT`] where a mask leaves a pair of the rows `own` and the columns `others` out of the tile `s`, whose rows are `across` apart; in
    /// columns behind `others` as well.
    fn leave_out(&self, keys: &[u32], own: Range<usize>, others: Range<usize>, s: &mut [f32], across: usize) {
        for (i, s) in own.zip(s.chunks_mut(across)) {
            let (s, behind) = s.split_at_mut(others.len());
            behind.fill(LEFT_OUT);
            if self.masked == 0 || keys[i] == 0 {
                continue;
            }
            let itself = others.contains(&i).then(|| s[i - others.start]);
            s.iter_mut().zip(&keys[others.clone()]).for_each(|(s, &k)| *s = if k == keys[i] { LEFT_OUT } else { *s });
            if let Some(itself) = itself {
                s[i - others.start] = itself;
            }
        }
    }

    /// What the gradient needs of anchor `row`: log2(e) / tau, lse log2(e), w k (0 where the direction is off or N(i) is i alone).
    #[inline(always)]
    fn anchor(&self, tau: &[f32], stats: &[[f32; 4]], factor: f32, row: usize, direction: usize) -> Anchor {
        let Some(d) = direction.checked_sub(self.first as usize).filter(|&d| d < self.directions as usize) else {
            return Anchor::OFF;
        };
        let stat = stats[d * self.rows as usize + row];
        let inverse = 1.0 / tau[row];
        let weight = self.scale * factor * if self.robust != 0 { 1.0 } else { inverse };
        Anchor { inverse: inverse * LOG2_E, lse: stat[0] * LOG2_E, weight: if stat[2] < 1.5 { 0.0 } else { weight } }
    }
}

#[derive(Clone, Copy)]
struct Anchor {
    inverse: f32,
    lse: f32,
    weight: f32,
}

impl Anchor {
    /// One whose pairs have no gradient, whatever their scores.
    const OFF: Anchor = Anchor { inverse: 1.0, lse: 1e20, weight: 0.0 };

    /// G of the positive pair, whose score is `s`.
    fn positive(self, s: f32) -> f32 {
        if self.weight == 0.0 { 0.0 } else { self.weight * ((s * self.inverse - self.lse).exp2() - 1.0) }
    }
}

/// A running log-sum-exp with the sum of p S. Its exponents are of 2, as those of all loops here, in which a power of 2 takes fewer operations than one of e.
#[derive(Clone, Copy)]
struct Online {
    /// The highest S log2(e) / tau.
    highest: f32,
    sum: f32,
    product: f32,
    /// The highest S of another candidate.
    rival: f32,
}

impl Online {
    const EMPTY: Online = Online { highest: LEAST, sum: 0.0, product: 0.0, rival: LEFT_OUT };

    /// Joins another's.
    fn join(&mut self, other: Online) {
        let highest = self.highest.max(other.highest);
        let [mine, theirs] = [self.highest, other.highest].map(|x| (x - highest).exp2());
        self.sum = self.sum * mine + other.sum * theirs;
        self.product = self.product * mine + other.product * theirs;
        (self.highest, self.rival) = (highest, self.rival.max(other.rival));
    }

    /// What `stats` writes of it.
    fn parts(&self) -> [f32; 4] {
        [self.highest * LN_2, self.sum, self.product, self.rival]
    }
}

fn stats_op(params: Params, tile: Tile) -> Variant<Params> {
    let workgroups = fold((params.slices * params.bands) as usize);
    let dispatch = Dispatch { kernel: &STATS, params, workgroups, cost: params.stats_cost(), twin: tiles::stats };
    Variant::tiled(dispatch, tile, unit(&[params.width as usize]), &SHADERS)
}

fn finish_op(params: Params) -> Dispatch<Params> {
    let (rows, anchors) = (params.rows as usize, (params.rows * params.directions) as usize);
    let of_row = 5 + params.masked as usize + 2 * params.clicked as usize;
    Dispatch {
        kernel: &FINISH,
        params,
        workgroups: fold(rows.div_ceil(64)),
        cost: cost(rows * of_row + anchors * 8, anchors * 18),
        twin: finish,
    }
}

fn finish(p: &Params, args: &mut Args) {
    let (tau, sums, positives) = (args.read::<f32>(0), args.read::<[f32; 4]>(1), args.read::<f32>(2));
    let counts = if p.masked != 0 { args.read::<f32>(3) } else { &[] };
    let labels = if p.clicked != 0 { args.read::<[f32; 2]>(4) } else { &[] };
    let (stats, losses, pairing) = (args.write::<[f32; 4]>(5), args.write::<f32>(6), args.write::<[f32; 2]>(7));
    let (rows, slices) = (p.rows as usize, p.slices as usize);
    let of = |[lse, _, n, positive]: [f32; 4], tau: f32| {
        let alone = n < 1.5;
        if n == 0.0 {
            0.0
        } else if p.robust != 0 {
            let spread = if alone { 0.0 } else { tau * (lse - positive / tau - n.ln()) };
            spread + p.rho * tau
        } else if alone {
            0.0
        } else {
            lse - positive / tau
        }
    };
    // Parts of row i in the first direction that is on, or in the other.
    let parts = |i: usize, second: bool| {
        let (first, n) = if second { (slices, p.bands as usize) } else { (0, slices) };
        (first..first + n).map(move |part| sums[part * rows + i])
    };
    stats.par_iter_mut().enumerate().with_min_len(1024).for_each(|(at, stat)| {
        let (i, second) = (at % rows, at >= rows);
        let top = parts(i, second).fold(LEAST, |top, part| top.max(part[0]));
        let (mut sum, mut product) = (0.0, 0.0);
        for part in parts(i, second) {
            // Most parts of a twin are empty.
            let keep = if part[1] == 0.0 { 0.0 } else { (part[0] - top).exp() };
            (sum, product) = (sum + part[1] * keep, product + part[2] * keep);
        }
        let mut count = match p.masked {
            0 if p.sampled() => p.offsets as f32 + 1.0,
            0 => rows as f32,
            _ => (0..slices).map(|slice| counts[slice * rows + i]).sum(),
        };
        if labels.get(i).is_some_and(|label| label[0] == 0.0) {
            count = 0.0;
        }
        *stat = [top + sum.ln(), product / sum, count, positives[i]];
    });
    losses.par_iter_mut().zip(pairing).enumerate().with_min_len(4096).for_each(|(i, (loss, pairing))| {
        *loss = of(stats[i], tau[i]);
        if p.directions > 1 {
            *loss = 0.5 * (*loss + of(stats[rows + i], tau[i]));
        }
        let rival = |second| parts(i, second).fold(LEFT_OUT, |rival, part| rival.max(part[3]));
        let anchors = [false, true].into_iter().zip(stats[i..].iter().step_by(rows)).filter(|(_, stat)| stat[2] > 1.5);
        *pairing = anchors
            .fold([0.0; 2], |[hits, n], (second, stat)| [hits + if stat[3] > rival(second) { 1.0 } else { 0.0 }, n + 1.0]);
    });
}

fn slopes_op(params: Params) -> Dispatch<Params> {
    Dispatch {
        kernel: &SLOPES,
        params,
        workgroups: fold(params.rows.div_ceil(64) as usize),
        cost: {
            let (rows, directions) = (f64::from(params.rows), f64::from(params.directions));
            Cost {
                bytes: 4.0 * rows * (2.0 + f64::from(params.accumulate) + 4.0 * directions),
                flops: 9.0 * rows * directions,
                ..Cost::default()
            }
        },
        twin: slopes,
    }
}

fn slopes(p: &Params, args: &mut Args) {
    let (tau, stats) = (args.read::<f32>(0), args.read::<[f32; 4]>(1));
    let (factor, dtau) = (args.uniform::<Step>(2).contrast, args.write::<f32>(3));
    let of = |[lse, mean, n, positive]: [f32; 4], tau: f32| {
        let alone = n < 1.5;
        if n == 0.0 {
            0.0
        } else if p.robust != 0 {
            let spread = if alone { 0.0 } else { lse - positive / tau - n.ln() - (mean - positive) / tau };
            spread + p.rho
        } else if alone {
            0.0
        } else {
            (positive - mean) / tau / tau
        }
    };
    let rows = p.rows as usize;
    dtau.par_iter_mut().enumerate().with_min_len(4096).for_each(|(i, dtau)| {
        let mut slope = of(stats[i], tau[i]);
        if p.directions > 1 {
            slope += of(stats[rows + i], tau[i]);
        }
        let gradient = p.scale * factor * slope;
        *dtau = if p.accumulate != 0 { *dtau + gradient } else { gradient };
    });
}

fn gradient_op(params: Params, tile: Tile) -> Variant<Params> {
    let [rows, columns] = tile.workgroups(params.rows as usize, params.width as usize);
    let workgroups = fold(2 * params.slices as usize * rows * columns);
    let dispatch = Dispatch { kernel: &GRADIENT, params, workgroups, cost: params.gradient_cost(), twin: gradient_tiled };
    Variant::tiled(dispatch, tile, unit(&[params.width as usize]), &SHADERS)
}

fn gradient_tiled(p: &Params, args: &mut Args) {
    let (rows, width) = (p.rows as usize, p.width as usize);
    let (z, tau, keys, stats) = (args.read::<f32>(0), args.read::<f32>(1), args.read::<u32>(2), args.read::<[f32; 4]>(3));
    let (factor, dz) = (args.uniform::<Step>(4).contrast, args.write::<f32>(5));
    let (dz, empty) = dz.split_at_mut(2 * rows * width);
    empty.fill(0.0);
    let (block, words) = p.gradient_blocks();
    let groups = rows.div_ceil(block);
    let (anchors, scratch) = args.scratch(words).split_at_mut(3 * rows);
    let (inverses, others) = anchors.split_at_mut(rows);
    let (lses, weights) = others.split_at_mut(rows);
    for j in 0..rows {
        let anchor = p.anchor(tau, stats, factor, j, 1);
        (inverses[j], lses[j], weights[j]) = (anchor.inverse, anchor.lse, anchor.weight);
    }
    let (inverses, lses, weights) = (&*inverses, &*lses, &*weights);
    let (tiles, sums) = scratch.split_at_mut(groups * STRIPE * PANEL);
    let (of_ctr, of_cvr) = sums.split_at_mut(rows * width);
    // CTR rows are those of the tiles. In each round a group has CVR rows that no other has, so every sum has one owner and one order.
    for round in 0..groups {
        let (before, after) = of_cvr.split_at_mut(round * block * width);
        let of_others = after.par_chunks_mut(block * width).chain(before.par_chunks_mut(block * width));
        let tasks = of_ctr.par_chunks_mut(block * width).zip(of_others).zip(tiles.par_chunks_mut(STRIPE * PANEL));
        tasks.enumerate().for_each(|(group, ((of_own, of_others), s))| {
            let g = Matrix { at: 0, row: PANEL, column: 1 };
            let theirs = (group + round) % groups * block;
            for (stripe, of_own) in of_own.chunks_mut(STRIPE * width).enumerate() {
                let start = group * block + stripe * STRIPE;
                let own = start..start + of_own.len() / width;
                for (panel, of_others) in of_others.chunks_mut(PANEL * width).enumerate() {
                    let from = theirs + panel * PANEL;
                    let others = from..from + of_others.len() / width;
                    let shape = [own.len(), others.len(), width];
                    let (a, b) = (p.side(start, 0), p.side(from, 1).transposed());
                    product(shape, (z, a), (z, b), (&mut *s, g), false, Threads::One);
                    p.leave_out(keys, own.clone(), others.clone(), &mut s[..own.len() * PANEL], PANEL);
                    for (i, s) in own.clone().zip(s.chunks_mut(PANEL)) {
                        let mine = p.anchor(tau, stats, factor, i, 0);
                        let theirs = [inverses, lses, weights].map(|of| &of[others.clone()]);
                        slopes_of_row(&mut s[..others.len()], mine, theirs);
                        if others.contains(&i) {
                            s[i - from] -= mine.weight + weights[i];
                        }
                    }
                    let to = Matrix { at: 0, row: width, column: 1 };
                    let shape = [own.len(), width, others.len()];
                    product(shape, (s, g), (z, p.side(from, 1)), (&mut *of_own, to), round + panel > 0, Threads::One);
                    let shape = [others.len(), width, own.len()];
                    product(
                        shape,
                        (s, g.transposed()),
                        (z, p.side(start, 0)),
                        (of_others, to),
                        round + stripe > 0,
                        Threads::One,
                    );
                }
            }
        });
    }
    let sums = of_ctr.par_chunks(width).zip(of_cvr.par_chunks(width));
    dz.par_chunks_mut(2 * width).zip(sums).with_min_len(64).for_each(|(dz, (of_ctr, of_cvr))| {
        for (dz, sum) in dz.iter_mut().zip(of_ctr.iter().chain(of_cvr)) {
            *dz = if p.accumulate != 0 { *dz + sum } else { *sum };
        }
    });
}

fn merge_op(params: Params) -> Dispatch<Params> {
    let elements = 2 * (params.rows * params.width) as usize;
    let slices = params.slices as usize;
    Dispatch {
        kernel: &MERGE,
        params,
        workgroups: fold(elements.div_ceil(256)),
        cost: cost(elements * (slices + 1 + params.accumulate as usize), elements * slices),
        twin: merge,
    }
}

fn merge(p: &Params, args: &mut Args) {
    let (parts, dz) = (args.read::<f32>(0), args.write::<f32>(1));
    add_parts(dz, parts, p.accumulate != 0);
}

vectorised! {
    /// Replaces the scores `s` of a row by the slopes of both losses that they stand in, positive pairs aside.
    #[allow(clippy::needless_range_loop, reason = "chains of zips are not inlined, which costs the vectors")]
    fn slopes_of_row(s: &mut [f32], mine: Anchor, theirs: [&[f32]; 3]) {
        let Anchor { inverse, lse, weight } = mine;
        let n = s.len();
        let [inverses, lses, weights] = theirs.map(|of| &of[..n]);
        // A row that is no anchor saves its half of the work.
        if weight == 0.0 {
            for c in 0..n {
                s[c] = weights[c] * exp2::<FUSED>(multiply_add::<FUSED>(s[c], inverses[c], -lses[c]));
            }
        } else {
            for c in 0..n {
                let mine = weight * exp2::<FUSED>(multiply_add::<FUSED>(s[c], inverse, -lse));
                let theirs = exp2::<FUSED>(multiply_add::<FUSED>(s[c], inverses[c], -lses[c]));
                s[c] = multiply_add::<FUSED>(weights[c], theirs, mine);
            }
        }
    }
}

/// What [`contrast`] gives of each row.
#[derive(Debug, Clone, Copy)]
pub struct Contrasted {
    /// Losses `[rows]`: with both directions the mean of the two, not weighted by lambda.
    pub losses: TensorId,
    /// [rows, 2]: in how many directions the row's own other representation is nearer to it than that of every other candidate
    /// (a tie is none), and in how many the row is an anchor with another candidate at all.
    pub pairing: TensorId,
}

/// The contrastive loss from `z` [rows, 2 * width], unit rows of z_ctr and z_cvr, and `tau` `[rows]`.
///
/// It is a loss: its backward pass starts from nothing and gives `z`, and `tau` with `tau_gradient`, the gradient of
/// `weight` * mean over rows. Reads [`Input::MaskKey`] `[rows]` with `masked` and [`Input::Offsets`] `[K]` with `negatives` = K;
/// offsets are distinct and lie in [1, rows). The gradients are scaled by [`Step::contrast`] as well.
pub fn contrast(g: &mut Graph, z: TensorId, tau: TensorId, spec: Contrast) -> Contrasted {
    let Contrast { rows, width, negatives, .. } = spec;
    assert_eq!(g.get(z).len, rows * 2 * width, "contrast: {} is not [{rows}, 2 * {width}]", g.get(z).name);
    assert_eq!(g.get(tau).len, rows, "contrast: {} is not [{rows}]", g.get(tau).name);
    assert!(negatives == 0 || negatives < rows, "contrast: {negatives} other rows of {rows} cannot be drawn");
    let params = spec.params();
    // Without a mask the kernels never touch keys and counts, nor labels unless clicks matter, but something must be bound in their places.
    let keys = if spec.masked { g.input(Input::MaskKey, rows) } else { tau };
    let offsets = (negatives > 0).then(|| g.input(Input::Offsets, negatives));
    let anchors = params.directions as usize * rows;
    let numbers = 2 * rows * width;
    let chosen = g.limits().tiles.choose(Shape::contrast(rows, width));
    let tile = chosen.tile;
    let (slice, slices) = match chosen.slices(rows) {
        (slice, slices) if offsets.is_none() && slices * numbers <= SLICED_WORDS && !g.exceeds_binding(slices * numbers) => {
            (slice, slices)
        }
        _ => (rows, 1),
    };
    let of_stats = match offsets {
        Some(_) => params,
        None => params.of_stats(&g.limits().tiles, chosen),
    };
    let parts = of_stats.slices + of_stats.bands * (params.directions - 1);
    let sums = g.transient("contrast sums", parts as usize * rows * 4);
    let positives = g.transient("contrast positives", rows);
    let counts = g.transient("contrast counts", if spec.masked { of_stats.slices as usize * rows } else { 1 });
    let params = Params { slice: slice as u32, slices: slices as u32, ..params };
    let labels = if spec.clicked_anchors { g.input(Input::Labels, 2 * rows) } else { sums };
    let stats = g.transient("contrast statistics", anchors * 4);
    let (losses, pairing) = (g.transient("contrast losses", rows), g.transient("contrast pairing", 2 * rows));
    match offsets {
        Some(offsets) => g.push(sampled::stats_op(of_stats), &[z, tau, keys, offsets, sums, positives, counts]),
        None => g.push(stats_op(of_stats, tile), &[z, tau, keys, sums, positives, counts]),
    }
    g.push(finish_op(of_stats), &[tau, sums, positives, counts, labels, stats, losses, pairing]);
    g.on_backward(move |g| {
        let step = g.step();
        let (dz, accumulate) = g.gradient_target(z);
        let adding = Params { accumulate: accumulate.into(), ..params };
        match offsets {
            Some(offsets) => g.push(sampled::gradient_op(adding), &[z, tau, keys, stats, step, offsets, dz]),
            None if slices > 1 => {
                let parts = g.transient("contrast gradients of slices", slices * numbers);
                g.push(gradient_op(params, tile), &[z, tau, keys, stats, step, parts]);
                g.push(merge_op(adding), &[parts, dz]);
            }
            None => g.push(gradient_op(adding, tile), &[z, tau, keys, stats, step, dz]),
        }
        if spec.tau_gradient {
            let (dtau, accumulate) = g.gradient_target(tau);
            g.push(slopes_op(Params { accumulate: accumulate.into(), ..params }), &[tau, stats, step, dtau]);
        }
    });
    Contrasted { losses, pairing }
}

/// Rows of unit length, `2 * rows` of them.
fn units(seed: u64, rows: usize, width: usize) -> Vec<f32> {
    let mut z = normals(seed, rows * 2 * width, 1.0);
    for row in z.chunks_mut(width) {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-6);
        row.iter_mut().for_each(|x| *x /= length);
    }
    z
}

/// `k` distinct offsets in [1, rows).
fn offsets(rows: usize, k: usize) -> Vec<u32> {
    let mut all: Vec<u32> = (1..rows as u32).collect();
    let draws = integers(9, k, u32::MAX);
    for (i, &draw) in draws.iter().enumerate() {
        let other = i + draw as usize % (all.len() - i);
        all.swap(i, other);
    }
    all.truncate(k);
    all
}

struct Try {
    spec: Contrast,
    /// tau is `tau.0` times up to `tau.1`.
    tau: (f32, f32),
    /// Distinct keys, 0 among them; 1: all rows have the same.
    keys: u32,
    equal: bool,
    accumulate: bool,
    tiles: Tiles,
}

fn case(name: String, t: Try) -> Case {
    let Contrast { rows, width, negatives, masked, .. } = t.spec;
    let tiles = t.tiles.clone();
    let mut case = Case::new(name, rows.max(width), move |s| {
        let mut z = units(1, rows, width);
        if t.equal {
            let first = z[..width].to_vec();
            z.chunks_mut(width).for_each(|row| row.copy_from_slice(&first));
        }
        let tau: Vec<f32> = integers(2, rows, 1000).iter().map(|&x| t.tau.0 * t.tau.1.powf(x as f32 / 999.0)).collect();
        let (z, tau) = (s.input(&z), s.input(&tau));
        if masked {
            let keys = match t.keys {
                1 => vec![7; rows],
                n => integers(3, rows, n),
            };
            s.input_as(Input::MaskKey, &keys);
        }
        if negatives > 0 {
            s.input_as(Input::Offsets, &offsets(rows, negatives));
        }
        s.input_as(Input::Step, &[Step { contrast: 0.75, ..Step::zeroed() }]);
        if t.spec.clicked_anchors {
            let labels: Vec<[f32; 2]> = integers(6, rows, 3).iter().map(|&l| [f32::from(l > 0), f32::from(l > 1)]).collect();
            s.input_as(Input::Labels, &labels);
        }
        let Contrasted { losses, pairing } = contrast(&mut s.graph, z, tau, t.spec);
        if t.accumulate {
            let (dz, dtau) = (normals(4, rows * 2 * width, 0.01), normals(5, rows, 0.1));
            let (dz, dtau) = (s.state_tensor("dz", &dz), s.state_tensor("dtau", &dtau));
            s.graph.seed(z, dz);
            s.graph.seed(tau, dtau);
        }
        s.graph.backward();
        s.graph.output(losses);
        if !t.equal {
            // Where all rows are equal, nothing but roundings would tell them apart.
            s.graph.output(pairing);
        }
        for tensor in [z, tau] {
            if let Some(gradient) = s.graph.gradient(tensor) {
                s.graph.output(gradient);
            }
        }
    });
    case.limits.tiles = tiles;
    // A rounding of S, some 2^-23, is multiplied by 1 / tau in the exponent.
    case.rel = super::check::REL.max(3e-7 / t.tau.0);
    case
}

/// Ragged shapes under all variants; masks that leave some or all candidates out; temperatures from 1e-3 to 100; equal rows.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let usual = Contrast {
        rows: 0,
        width: 0,
        weight: 0.7,
        direction: Direction::Both,
        objective: Objective::Robust,
        rho: 0.9,
        negatives: 0,
        clicked_anchors: false,
        masked: false,
        tau_gradient: true,
    };
    let shapes = [(1, 3), (2, 1), (63, 32), (64, 33), (65, 64), (130, 3), (257, 16), (70, 130)];
    let mut number = 0;
    for (rows, width) in shapes {
        for negatives in [0, 1, 5, 20] {
            if negatives >= rows.max(1) {
                continue;
            }
            for (direction, objective) in [
                (Direction::Both, Objective::Robust),
                (Direction::Both, Objective::Infonce),
                (Direction::CtrToCvr, Objective::Infonce),
                (Direction::CvrToCtr, Objective::Robust),
            ] {
                number += 1;
                // Masks and gradients that are there already fall on every variant and shape in turn.
                let (masked, accumulate) = (number % 3 == 0, number % 4 < 2);
                let spec = Contrast { rows, width, negatives, direction, objective, masked, ..usual };
                let (on, to) = (if masked { " masked" } else { "" }, if accumulate { " accumulated" } else { "" });
                let name = format!("contrast {rows}x{width} K={negatives} {direction:?} {objective:?}{on}{to}");
                let usual = Try { spec, tau: (0.05, 20.0), keys: 9, equal: false, accumulate, tiles: Tiles::SOFTWARE };
                cases.push(case(name, usual));
            }
        }
    }
    // Every tile, the candidates in slices that are longer than a tile, own rows in bands of two: away from the diagonal and without a mask, a tile's pairs are all alike.
    let sizes = [(600, 70, 2), (1100, 16, 4), (1100, 36, 2), (600, 12, 2), (1100, 16, 2), (1100, 33, 2)];
    for (i, (tile, (rows, width, slices))) in CONTRAST_TILES.into_iter().zip(sizes).enumerate() {
        let accumulate = i % 2 == 0;
        let chosen = Chosen { tile, slices };
        let tiles = Tiles::always(chosen);
        let [band, of_sums] = tiles.bands_and_slices(chosen, Shape::contrast(rows, width), true);
        assert!(band > 1 && rows / of_sums > tile.size()[1] && chosen.slices(rows).0 > tile.size()[1], "{tile:?}");
        let name = |what: &str| format!("contrast by tiles of {}, {slices} slices{what}", tile.describe());
        let tried = |spec| Try { spec, tau: (0.05, 20.0), keys: 9, equal: false, accumulate, tiles: tiles.clone() };
        cases.push(case(name(""), tried(Contrast { rows, width, masked: i % 3 == 0, ..usual })));
        if i % 3 == 2 {
            for direction in [Direction::CtrToCvr, Direction::CvrToCtr] {
                let spec = Contrast { rows: 300, width, direction, masked: true, ..usual };
                cases.push(case(name(&format!(", {direction:?} masked")), tried(spec)));
            }
        }
    }
    // All that a tile has of a row or a column is left out, where an exponent is above or below what it is left out by.
    for (rows, keys) in [(65, 2), (66, 3), (129, 3)] {
        let spec = Contrast { rows, width: 12, masked: true, ..usual };
        let tried = Try { spec, tau: (0.05, 2e4), keys, equal: false, accumulate: false, tiles: Tiles::SOFTWARE };
        cases.push(case(format!("contrast {rows} rows of {keys} keys, tau to 1000"), tried));
    }
    for negatives in [0, 7] {
        for objective in [Objective::Robust, Objective::Infonce] {
            let spec = Contrast { rows: 66, width: 32, negatives, objective, ..usual };
            let name = |what: &str| format!("contrast K={negatives} {objective:?} {what}");
            // Equal rows have a gradient of nothing but roundings, so theirs is added to numbers of a known size.
            let tried = |spec, tau, keys, equal| Try { spec, tau, keys, equal, accumulate: equal, tiles: Tiles::SOFTWARE };
            cases.push(case(name("tau 1e-3"), tried(spec, (1e-3, 1.0), 0, false)));
            cases.push(case(name("tau 1e-3 to 100"), tried(spec, (1e-3, 1e5), 0, false)));
            cases.push(case(name("tau 100"), tried(spec, (100.0, 1.0), 0, false)));
            cases.push(case(name("equal rows"), tried(spec, (0.05, 20.0), 0, true)));
            let masked = Contrast { masked: true, ..spec };
            cases.push(case(name("two keys, 0 and another"), tried(masked, (0.05, 20.0), 2, false)));
            cases.push(case(name("one key for all"), tried(masked, (1e-3, 1e5), 1, false)));
            let clicked = Contrast { clicked_anchors: true, ..spec };
            cases.push(case(name("clicked anchors"), tried(clicked, (0.05, 20.0), 0, false)));
            let fixed = Contrast { tau_gradient: false, ..spec };
            cases.push(case(name("fixed tau"), tried(fixed, (0.1, 1.0), 0, false)));
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TEMPERATURES;
    use crate::device::Limits;
    use crate::graph::Plan;
    use crate::ops::tile::{Kind, SLICES};

    #[test]
    fn a_row_without_negatives_has_no_loss_and_no_gradient() {
        for negatives in [0, 7] {
            for objective in [Objective::Robust, Objective::Infonce] {
                let name = format!("contrast K={negatives} {objective:?} one key for all");
                let case = cases().into_iter().find(|c| c.name == name).expect("the case is there");
                let results = case.on_cpu().expect("the CPU runs it");
                let rho = if objective == Objective::Robust { 0.9 } else { 0.0 };
                let tau = integers(2, 66, 1000);
                for (i, &loss) in results[0].1.iter().enumerate() {
                    assert_eq!(f32::from_bits(loss), rho * (1e-3 * 1e5f32.powf(tau[i] as f32 / 999.0)));
                }
                assert!(results[1].1.iter().all(|&n| f32::from_bits(n) == 0.0), "{name}: pairs");
                assert!(results[2].1.iter().all(|&g| f32::from_bits(g) == 0.0), "{name}: gradient to z");
                assert!(results[3].1.iter().all(|&g| (f32::from_bits(g) - 0.75 * 0.7 / 66.0 * rho).abs() < 1e-8));
            }
        }
    }

    #[test]
    fn memory_grows_with_the_rows_alone() {
        let (rows, width) = (8192, 64);
        let spec = Contrast {
            rows,
            width,
            weight: 1.0,
            direction: Direction::Both,
            objective: Objective::Infonce,
            rho: 0.0,
            negatives: 0,
            clicked_anchors: false,
            masked: false,
            tau_gradient: true,
        };
        for slices in SLICES {
            let mut s = crate::ops::check::Setup::default();
            let kind = if slices == 1 { Kind::Software } else { Kind::Discrete };
            let tiles = Tiles { kind, ..Tiles::always(Chosen { tile: CONTRAST_TILES[0], slices }) };
            s.graph = Graph::new(Limits { tiles, ..Limits::NONE });
            let (z, tau) = (s.input(&vec![0f32; rows * 2 * width]), s.input(&vec![0f32; rows]));
            contrast(&mut s.graph, z, tau, spec);
            s.graph.backward();
            // Beyond dz, all that the kernels hand on to each other and what the twin takes besides.
            let handed_on = Plan::new(s.graph).transient_words - rows * 2 * width;
            let scratch = tiles::words(rows, width).max(spec.params().gradient_blocks().1);
            let bytes = 4 * (handed_on + scratch);
            assert!(bytes < 32 << 20, "{slices} slices: {bytes} bytes");
        }
    }

    /// L_i, hits and pairs by their definitions, in f64.
    fn defined(spec: Contrast, z: &[f32], tau: &[f32], keys: &[u32], offsets: &[u32]) -> Vec<[f64; 3]> {
        let Contrast { rows, width, .. } = spec;
        let z = |row: usize, side: usize| &z[(row * 2 + side) * width..][..width];
        let of = |i: usize, side: usize| {
            let s =
                |j: usize| -> f64 { z(i, side).iter().zip(z(j, 1 - side)).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
            let all: Vec<usize> = match spec.negatives {
                0 => (0..rows).collect(),
                _ => std::iter::once(i).chain(offsets.iter().map(|&c| (i + c as usize) % rows)).collect(),
            };
            let in_n = |&j: &usize| j == i || !spec.masked || keys[i] == 0 || keys[i] != keys[j];
            let n: Vec<usize> = all.into_iter().filter(in_n).collect();
            let tau = f64::from(tau[i]);
            let exponents: Vec<f64> = n.iter().map(|&j| (s(j) - s(i)) / tau).collect();
            let top = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let log_sum = top + exponents.iter().map(|x| (x - top).exp()).sum::<f64>().ln();
            let loss = match spec.objective {
                Objective::Infonce => log_sum,
                Objective::Robust => tau * (log_sum - (n.len() as f64).ln()) + f64::from(spec.rho) * tau,
            };
            let hit = n.len() > 1 && n.iter().all(|&j| j == i || s(j) < s(i));
            [loss, f64::from(u8::from(hit)), f64::from(u8::from(n.len() > 1))]
        };
        let both = |i| match spec.direction {
            Direction::CtrToCvr => of(i, 0),
            Direction::CvrToCtr => of(i, 1),
            Direction::Both => {
                let (a, b) = (of(i, 0), of(i, 1));
                [0.5 * (a[0] + b[0]), a[1] + b[1], a[2] + b[2]]
            }
        };
        (0..rows).map(both).collect()
    }

    #[test]
    fn losses_and_pairing_are_as_defined() {
        // Groups of several stripes, of which the last group's last is not whole, nor the last panel.
        let (rows, width) = ((12 * 4 + 1) * tiles::STRIPE + 2, 5);
        let [_, own, _] = tiles::cut(rows);
        assert!(own > tiles::STRIPE && rows % own == tiles::STRIPE + 2 && !rows.is_multiple_of(tiles::PANEL));
        let (mut z, mut keys) = (units(1, rows, width), integers(3, rows, 4));
        // All of a tile is left out for some row, and for some column, before any of their candidates is seen.
        keys[..2 * tiles::PANEL].fill(2);
        keys[rows - 3..].fill(1);
        // The sides of the first rows are near each other, so that some pairs are hits.
        for row in z.chunks_mut(2 * width).take(rows / 2) {
            let (ctr, cvr) = row.split_at_mut(width);
            cvr.copy_from_slice(ctr);
        }
        let [least, most] = TEMPERATURES;
        let some: Vec<f32> = integers(2, rows, 1000).iter().map(|&x| 0.05 + x as f32 * 3e-3).collect();
        let extreme: Vec<f32> =
            integers(2, rows, 1000).iter().map(|&x| least * (most / least).powf(x as f32 / 999.0)).collect();
        for direction in [Direction::CtrToCvr, Direction::CvrToCtr, Direction::Both] {
            for objective in [Objective::Infonce, Objective::Robust] {
                for (negatives, masked, tau, rounding) in [
                    (0, false, &some, 0.0),
                    (0, true, &some, 0.0),
                    (4, false, &some, 0.0),
                    (4, true, &some, 0.0),
                    (0, true, &extreme, 3e-7),
                ] {
                    let spec = Contrast {
                        rows,
                        width,
                        weight: 0.3,
                        direction,
                        objective,
                        rho: 0.8,
                        negatives,
                        clicked_anchors: false,
                        masked,
                        tau_gradient: false,
                    };
                    let offsets = offsets(rows, negatives);
                    let mut s = crate::ops::check::Setup::default();
                    let (z_id, tau_id) = (s.input(&z), s.input(tau));
                    if masked {
                        s.input_as(Input::MaskKey, &keys);
                    }
                    if negatives > 0 {
                        s.input_as(Input::Offsets, &offsets);
                    }
                    let output = contrast(&mut s.graph, z_id, tau_id, spec);
                    s.graph.output(output.losses);
                    s.graph.output(output.pairing);
                    let open = |state: &crate::graph::StateLayout, plans| {
                        Ok(Box::new(crate::device::cpu::Cpu::new(&state.buffers, plans)?) as Box<dyn crate::device::Device>)
                    };
                    let results = s.run(open, 1).expect("the CPU runs it");
                    let wanted = defined(spec, &z, tau, &keys, &offsets);
                    let pairs = results[1].1.chunks_exact(2);
                    for (i, ((&got, pair), [wanted, hits, n])) in results[0].1.iter().zip(pairs).zip(wanted).enumerate() {
                        let got = f64::from(f32::from_bits(got));
                        // A rounding of S is multiplied by 1 / tau in the exponent, a sum's by tau in the robust loss.
                        let tau = f64::from(tau[i]);
                        let limit = 2e-5 * (1.0 + wanted.abs()) + rounding * (1.0 / tau + tau);
                        assert!((got - wanted).abs() < limit, "{spec:?}: row {i}, tau {tau}: {got}, not {wanted}");
                        assert_eq!([pair[0], pair[1]].map(|x| f64::from(f32::from_bits(x))), [hits, n], "{spec:?}: row {i}");
                    }
                }
            }
        }
    }
}
