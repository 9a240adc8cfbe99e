//! The contrast with sampled candidates: anchor i's are i and (i + c_k) mod rows, by the same K offsets c_k for all anchors.
//!
//! The twins go over a row's pairs in blocks: scores first, then the exponentials of all of them side by side.

use super::{Anchor, LEFT_OUT, Online, Params};
use crate::graph::Step;
use crate::ops::vector::{dot, exp2, larger, multiply_add};
use crate::ops::{Access, Args, Dispatch, Kernel, Shader, Variant, fold, shader, unit};
use crate::processor::vectorised;
use Access::{Read, Uniform, Update, Write};
use rayon::prelude::*;
use std::f32::consts::LOG2_E;

const BY_ONE: Shader = shader!(stored "by_one", "step", "contrast_sampled");
const BY_FOUR: Shader = shader!(stored "by_four", "step", "contrast_sampled");
static STATS: Kernel = Params::kernel(
    "contrast, sampled",
    BY_ONE,
    "stats",
    &[(1, Read), (2, Read), (3, Read), (6, Read), (4, Write), (9, Write), (10, Write)],
);
static GRADIENT: Kernel = Params::kernel(
    "contrast backward, sampled",
    BY_ONE,
    "gradient",
    &[(1, Read), (2, Read), (3, Read), (5, Read), (8, Uniform), (6, Read), (7, Update)],
);

/// Pairs of a block.
const PAIRS: usize = 16;
/// Rows that one task of a twin handles, at least.
const ROWS: usize = 16;

/// What the twins read.
struct Rows<'a> {
    p: &'a Params,
    z: &'a [f32],
    tau: &'a [f32],
    keys: &'a [u32],
    offsets: &'a [u32],
}

impl Rows<'_> {
    #[inline(always)]
    fn row(&self, i: usize, side: usize) -> &[f32] {
        &self.z[self.p.offset(i, side)..][..self.p.width as usize]
    }

    /// The row so many places on.
    #[inline(always)]
    fn after(&self, i: usize, places: usize) -> usize {
        let (rows, j) = (self.p.rows as usize, i + places);
        if j < rows { j } else { j - rows }
    }
}

pub(super) fn stats_op(params: Params) -> Variant<Params> {
    let workgroups = fold((params.rows.div_ceil(16) * params.directions) as usize);
    let dispatch = Dispatch { kernel: &STATS, params, workgroups, cost: params.stats_cost(), twin: stats };
    Variant::by(unit(&[params.width as usize]), BY_FOUR, dispatch)
}

fn stats(p: &Params, args: &mut Args) {
    let rows = p.rows as usize;
    let (z, tau, keys, offsets) = (args.read::<f32>(0), args.read::<f32>(1), args.read::<u32>(2), args.read::<u32>(3));
    let (sums, positives, counts) = (args.write::<[f32; 4]>(4), args.write::<f32>(5), args.write::<f32>(6));
    let of = Rows { p, z, tau, keys, offsets };
    positives
        .par_iter_mut()
        .enumerate()
        .with_min_len(ROWS)
        .for_each(|(i, positive)| *positive = dot(of.row(i, 0), of.row(i, 1)));
    if p.masked != 0 {
        let others = |i: usize| offsets.iter().filter(|&&c| p.allowed(keys, i, of.after(i, c as usize))).count();
        counts.par_iter_mut().enumerate().with_min_len(ROWS).for_each(|(i, count)| *count = 1.0 + others(i) as f32);
    }
    let positives = &*positives;
    sums.par_iter_mut().enumerate().with_min_len(ROWS).for_each(|(at, sums)| {
        *sums = sums_of_anchor(&of, at % rows, p.first as usize + at / rows, positives[at % rows]).parts();
    });
}

vectorised! {
    /// The sums of anchor `i` of `side`.
    fn sums_of_anchor(of: &Rows, i: usize, side: usize, positive: f32) -> Online {
        let (own, inverse) = (of.row(i, side), LOG2_E / of.tau[i]);
        let mut online = Online { highest: positive * inverse, sum: 1.0, product: positive, rival: LEFT_OUT };
        for offsets in of.offsets.chunks(PAIRS) {
            let mut s = [LEFT_OUT; PAIRS];
            for (s, &c) in s.iter_mut().zip(offsets) {
                let j = of.after(i, c as usize);
                if of.p.allowed(of.keys, i, j) {
                    *s = dot(own, of.row(j, 1 - side));
                }
            }
            online.rival = s.into_iter().fold(online.rival, larger);
            let highest = larger(online.highest, online.rival * inverse);
            let keep = exp2::<FUSED>(online.highest - highest);
            let e = s.map(|s| exp2::<FUSED>(multiply_add::<FUSED>(s, inverse, -highest)));
            online.sum = online.sum * keep + e.iter().sum::<f32>();
            online.product = online.product * keep + dot(&e, &s);
            online.highest = highest;
        }
        online
    }
}

pub(super) fn gradient_op(params: Params) -> Variant<Params> {
    let workgroups = fold(2 * (params.rows.div_ceil(16) * params.width.div_ceil(64)) as usize);
    let dispatch = Dispatch { kernel: &GRADIENT, params, workgroups, cost: params.gradient_cost(), twin: gradient };
    Variant::by(unit(&[params.width as usize]), BY_FOUR, dispatch)
}

fn gradient(p: &Params, args: &mut Args) {
    let (z, tau, keys, stats) = (args.read::<f32>(0), args.read::<f32>(1), args.read::<u32>(2), args.read::<[f32; 4]>(3));
    let (factor, offsets, dz) = (args.uniform::<Step>(4).contrast, args.read::<u32>(5), args.write::<f32>(6));
    let of = Rows { p, z, tau, keys, offsets };
    dz.par_chunks_mut(p.width as usize).enumerate().with_min_len(ROWS).for_each(|(at, dz)| {
        if p.accumulate == 0 {
            dz.fill(0.0);
        }
        add_gradient(&of, stats, factor, at / 2, at % 2, dz);
    });
}

vectorised! {
    /// Adds the gradient of row `i` of `side` to `dz`: what it gets as an anchor, and what it gets as others' candidate.
    fn add_gradient(of: &Rows, stats: &[[f32; 4]], factor: f32, i: usize, side: usize, dz: &mut [f32]) {
        let (own, rows) = (of.row(i, side), of.p.rows as usize);
        let anchor = |row, direction| of.p.anchor(of.tau, stats, factor, row, direction);
        let (mine, other) = (anchor(i, side), of.row(i, 1 - side));
        let s = dot(own, other);
        add_multiple::<FUSED>(dz, mine.positive(s) + anchor(i, 1 - side).positive(s), other);
        for anchored in [true, false] {
            for offsets in of.offsets.chunks(PAIRS) {
                let mut others = [i; PAIRS];
                let mut s = [LEFT_OUT; PAIRS];
                let mut anchors = [Anchor::OFF; PAIRS];
                for (n, &c) in offsets.iter().enumerate() {
                    let j = of.after(i, if anchored { c as usize } else { rows - c as usize });
                    let anchor = if anchored { mine } else { anchor(j, 1 - side) };
                    if anchor.weight != 0.0 && of.p.allowed(of.keys, i, j) {
                        (others[n], s[n], anchors[n]) = (j, dot(own, of.row(j, 1 - side)), anchor);
                    }
                }
                let mut g = [0.0; PAIRS];
                for n in 0..PAIRS {
                    g[n] = anchors[n].weight * exp2::<FUSED>(multiply_add::<FUSED>(s[n], anchors[n].inverse, -anchors[n].lse));
                }
                for (&j, &g) in others.iter().zip(&g).filter(|(_, g)| **g != 0.0) {
                    add_multiple::<FUSED>(dz, g, of.row(j, 1 - side));
                }
            }
        }
    }
}

/// to += factor x.
#[inline(always)]
fn add_multiple<const FUSED: bool>(to: &mut [f32], factor: f32, x: &[f32]) {
    let x = &x[..to.len()];
    for c in 0..to.len() {
        to[c] = multiply_add::<FUSED>(factor, x[c], to[c]);
    }
}
