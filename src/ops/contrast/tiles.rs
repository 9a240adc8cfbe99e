//! The twin of `stats`: log-sum-exps of the rows and the columns of S, from tiles that stay in a core's caches.
//!
//! S_ij is looked at twice: for the maxima of its row and column, and then for their sums. Rows keep [`LANES`] sums each until their last
//! tile, so that none is summed up between.

use super::{GROUPS, LEAST, LEFT_OUT, Online, Params};
use crate::ops::Args;
use crate::ops::product::{Matrix, Threads, product};
use crate::ops::vector::{exp2, larger, multiply_add};
use crate::processor::vectorised;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;
use std::f32::consts::LOG2_E;

/// Rows of a tile: no more than the matrix product takes without copying the other side first (on x86-64 with FMA).
pub(super) const STRIPE: usize = 48;
/// Columns of a tile.
pub(super) const PANEL: usize = 128;
/// From a row to the next of the other side's transposed panels: a line of the cache more than a panel has, since at distances of a power of two all of a
/// product's rows would compete for the same few places in the cache.
const ACROSS: usize = PANEL + 16;
/// Sums that a row has side by side.
const LANES: usize = 8;

/// The rows of a tile. Sums are of 2^(S log2(e) / tau - `highest`), and of that times S.
struct Rows {
    inverses: [f32; STRIPE],
    positives: [f32; STRIPE],
    rivals: [f32; STRIPE],
    highest: [f32; STRIPE],
    /// What sums from before the tile are multiplied by.
    keep: [f32; STRIPE],
    sums: [[f32; LANES]; STRIPE],
    products: [[f32; LANES]; STRIPE],
}

impl Rows {
    /// With log2(e) / tau of each, no more of them than a stripe has.
    fn new(inverses: &[f32]) -> Rows {
        let mut rows = Rows {
            inverses: [1.0; STRIPE],
            positives: [LEFT_OUT; STRIPE],
            rivals: [LEFT_OUT; STRIPE],
            highest: [LEAST; STRIPE],
            keep: [1.0; STRIPE],
            sums: [[0.0; LANES]; STRIPE],
            products: [[0.0; LANES]; STRIPE],
        };
        rows.inverses[..inverses.len()].copy_from_slice(inverses);
        rows
    }

    fn online(&self, row: usize) -> Online {
        let [sum, product] = [&self.sums, &self.products].map(|lanes| lanes[row].iter().sum());
        Online { highest: self.highest[row], sum, product, rival: self.rivals[row] }
    }
}

/// The columns of a tile, as [`Rows`].
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Columns {
    rivals: [f32; PANEL],
    highest: [f32; PANEL],
    sums: [f32; PANEL],
    products: [f32; PANEL],
}

impl Columns {
    const EMPTY: Columns =
        Columns { rivals: [LEFT_OUT; PANEL], highest: [LEAST; PANEL], sums: [0.0; PANEL], products: [0.0; PANEL] };

    fn online(&self, column: usize) -> Online {
        let Columns { rivals, highest, sums, products } = self;
        Online { highest: highest[column], sum: sums[column], product: products[column], rival: rivals[column] }
    }
}

/// Groups of rows that sum over columns side by side, rows of each, and panels.
pub(super) fn cut(rows: usize) -> [usize; 3] {
    let own = rows.div_ceil(STRIPE).div_ceil(GROUPS) * STRIPE;
    [rows.div_ceil(own), own, rows.div_ceil(PANEL)]
}

/// Words of scratch memory: log2(e) / tau, the transposed panels, and each group's columns and tile.
pub(super) fn words(rows: usize, width: usize) -> usize {
    let [groups, _, panels] = cut(rows);
    panels * (PANEL + width * ACROSS) + groups * (panels * size_of::<Columns>() / size_of::<f32>() + STRIPE * PANEL)
}

/// Rows of S are those of one side; where both directions are on, the other's sums are those of the columns. The first slice and the first band get
/// all sums.
pub(super) fn stats(p: &Params, args: &mut Args) {
    let (rows, width, both) = (p.rows as usize, p.width as usize, p.directions > 1);
    let (z, tau, keys) = (args.read::<f32>(0), args.read::<f32>(1), args.read::<u32>(2));
    let (sums, positives, counts) = (args.write::<[f32; 4]>(3), args.write::<f32>(4), args.write::<f32>(5));
    let (sums, of_bands) = sums.split_at_mut(p.slices as usize * rows);
    let (of_rows, empty) = sums.split_at_mut(rows);
    empty.fill(Online::EMPTY.parts());
    let [groups, own, panels] = cut(rows);
    let (inverses, scratch) = args.scratch(words(rows, width)).split_at_mut(panels * PANEL);
    let (others, scratch) = scratch.split_at_mut(panels * width * ACROSS);
    let (tiles, columns) = scratch.split_at_mut(groups * STRIPE * PANEL);
    let columns = bytemuck::cast_slice_mut::<f32, Columns>(columns);
    for (i, inverse) in inverses.iter_mut().enumerate() {
        *inverse = LOG2_E / tau.get(i).copied().unwrap_or(1.0);
    }
    let side = p.first as usize;
    others.par_chunks_mut(width * ACROSS).enumerate().for_each(|(panel, others)| {
        for (c, j) in (panel * PANEL..rows).take(PANEL).enumerate() {
            let z = &z[p.offset(j, 1 - side)..][..width];
            others[c..].iter_mut().step_by(ACROSS).zip(z).for_each(|(to, &z)| *to = z);
        }
    });
    let (inverses, others) = (&*inverses, &*others);
    let of_groups = of_rows.par_chunks_mut(own).zip(positives.par_chunks_mut(own));
    let tasks = of_groups.zip(tiles.par_chunks_mut(STRIPE * PANEL)).zip(columns.par_chunks_mut(panels));
    tasks.enumerate().for_each(|(group, (((sums, positives), s), columns))| {
        columns.fill(Columns::EMPTY);
        for (stripe, (sums, positives)) in sums.chunks_mut(STRIPE).zip(positives.chunks_mut(STRIPE)).enumerate() {
            let start = group * own + stripe * STRIPE;
            let own = start..start + sums.len();
            let mut of_rows = Rows::new(&inverses[own.clone()]);
            let s = &mut s[..own.len() * PANEL];
            for (panel, columns) in columns.iter_mut().enumerate() {
                let from = panel * PANEL;
                let b = Matrix { at: panel * width * ACROSS, row: ACROSS, column: 1 };
                let tile = Matrix { at: 0, row: PANEL, column: 1 };
                let shape = [own.len(), PANEL, width];
                product(shape, (z, p.side(start, side)), (others, b), (&mut *s, tile), false, Threads::One);
                p.leave_out(keys, own.clone(), from..(from + PANEL).min(rows), s, PANEL);
                // Positive pairs are no rivals.
                let pairs = own.start.max(from)..own.end.min(from + PANEL);
                for i in pairs.clone() {
                    of_rows.positives[i - start] = std::mem::replace(&mut s[(i - start) * PANEL + i - from], LEFT_OUT);
                }
                raise_rivals(s, &mut of_rows, columns);
                let mut most = columns.rivals;
                for i in pairs {
                    let positive = of_rows.positives[i - start];
                    s[(i - start) * PANEL + i - from] = positive;
                    most[i - from] = larger(most[i - from], positive);
                }
                let inverses = inverses[from..].first_chunk().expect("there are as many as all panels have");
                raise_highest(&mut of_rows, columns, &most, inverses);
                add(s, &mut of_rows, columns, inverses, both);
            }
            for (r, (sums, positive)) in sums.iter_mut().zip(positives).enumerate() {
                (*sums, *positive) = (of_rows.online(r).parts(), of_rows.positives[r]);
            }
        }
    });
    counts.fill(0.0);
    if p.masked != 0 {
        counts[..rows].par_iter_mut().zip(keys).for_each(|(count, &key)| {
            let others = keys.iter().map(|&k| u32::from(k != key)).sum::<u32>();
            *count = if key == 0 { rows as f32 } else { 1.0 + others as f32 };
        });
    }
    if both {
        let (of_columns, empty) = of_bands.split_at_mut(rows);
        empty.fill(Online::EMPTY.parts());
        of_columns.par_iter_mut().enumerate().with_min_len(512).for_each(|(j, sums)| {
            let mut online = Online::EMPTY;
            columns[j / PANEL..].iter().step_by(panels).for_each(|columns| online.join(columns.online(j % PANEL)));
            *sums = online.parts();
        });
    }
}

vectorised! {
    /// Raises the rivals of a tile's rows and columns to the highest of its scores `s`. (Columns' as well where rows alone count: next to their product that is nothing.)
    fn raise_rivals(s: &[f32], rows: &mut Rows, columns: &mut Columns) {
        let (of_columns, _) = columns.rivals.as_chunks_mut::<LANES>();
        for (s, rival) in s.chunks_exact(PANEL).zip(&mut rows.rivals) {
            let (s, _) = s.as_chunks::<LANES>();
            let s = &s[..PANEL / LANES];
            let mut most = [*rival; LANES];
            for c in 0..PANEL / LANES {
                for l in 0..LANES {
                    most[l] = larger(most[l], s[c][l]);
                }
                for l in 0..LANES {
                    // In this order, or it would be stored where it rises only, by an instruction that is slow.
                    of_columns[c][l] = larger(s[c][l], of_columns[c][l]);
                }
            }
            *rival = most.into_iter().fold(*rival, larger);
        }
    }
}

vectorised! {
    /// Raises the highest exponents to those of a tile, none of whose scores is above its row's rival and positive, nor above `most` of its column.
    fn raise_highest(rows: &mut Rows, columns: &mut Columns, most: &[f32; PANEL], inverses: &[f32; PANEL]) {
        for r in 0..STRIPE {
            let x = larger(rows.highest[r], larger(rows.rivals[r], rows.positives[r]) * rows.inverses[r]);
            rows.keep[r] = exp2::<FUSED>(rows.highest[r] - x);
            rows.highest[r] = x;
        }
        for c in 0..PANEL {
            let x = larger(columns.highest[c], most[c] * inverses[c]);
            let keep = exp2::<FUSED>(columns.highest[c] - x);
            columns.sums[c] *= keep;
            columns.products[c] *= keep;
            columns.highest[c] = x;
        }
    }
}

vectorised! {
    /// Adds a tile, none of whose scores has a higher exponent than its row and column, to their sums; to those of columns with `both` alone.
    fn add(s: &[f32], rows: &mut Rows, columns: &mut Columns, inverses: &[f32; PANEL], both: bool) {
        if both {
            add_tile::<FUSED, true>(s, rows, columns, inverses);
        } else {
            add_tile::<FUSED, false>(s, rows, columns, inverses);
        }
    }
}

#[inline(always)]
fn add_tile<const FUSED: bool, const BOTH: bool>(s: &[f32], rows: &mut Rows, columns: &mut Columns, inverses: &[f32; PANEL]) {
    let (of_columns, _) = columns.sums.as_chunks_mut::<LANES>();
    let (products, _) = columns.products.as_chunks_mut::<LANES>();
    let (highest, _) = columns.highest.as_chunks::<LANES>();
    let (inverses, _) = inverses.as_chunks::<LANES>();
    for (r, s) in s.chunks_exact(PANEL).take(STRIPE).enumerate() {
        let (s, _) = s.as_chunks::<LANES>();
        let s = &s[..PANEL / LANES];
        let (most, inverse, keep) = (rows.highest[r], rows.inverses[r], rows.keep[r]);
        let [mut sum, mut product] = [rows.sums[r], rows.products[r]].map(|lanes| lanes.map(|x| x * keep));
        for c in 0..PANEL / LANES {
            for l in 0..LANES {
                let e = exp2::<FUSED>(multiply_add::<FUSED>(s[c][l], inverse, -most));
                sum[l] += e;
                product[l] = multiply_add::<FUSED>(e, s[c][l], product[l]);
            }
            if BOTH {
                for l in 0..LANES {
                    let e = exp2::<FUSED>(multiply_add::<FUSED>(s[c][l], inverses[c][l], -highest[c][l]));
                    of_columns[c][l] += e;
                    products[c][l] = multiply_add::<FUSED>(e, s[c][l], products[c][l]);
                }
            }
        }
        (rows.sums[r], rows.products[r]) = (sum, product);
    }
}
