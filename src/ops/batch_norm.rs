//! Batch norm of each column over the rows of a minibatch, with a learned gain and offset a column (Ioffe and Szegedy, ICML 2015), as
//! `torch.nn.BatchNorm1d` has it.

use super::check::{Case, normals};
use super::norm_sums::{CHUNK, norm_sums};
use super::{Access, Args, Dispatch, Kernel, Shader, cost, fold, params, shader};
use crate::graph::{Arg, Block, Graph, TensorId};
use rayon::prelude::*;

/// What is added to the variance before its root.
pub const EPS: f32 = 1e-5;
/// Part of the way that a step moves the running moments towards the minibatch's.
pub const MOMENTUM: f32 = 0.1;

/// Columns that one task of a twin handles at a time.
const BLOCK: usize = 64;

/// Mean and variance of each column, `[C]` both.
#[derive(Debug, Clone, Copy)]
pub struct Moments {
    /// The mean.
    pub mean: TensorId,
    /// The variance.
    pub variance: TensorId,
}

params! {
    struct Params {
        rows: u32,
        width: u32,
        chunk: u32,
        accumulate: u32,
        batch: u32,
        eps: f32,
        momentum: f32,
        pad: u32,
    }
}

const SOURCE: Shader = shader!("batch_norm");
// Blocks of rows write some chunks of the parts each.
static MOMENTS: Kernel = Params::kernel("batch_norm_moments", SOURCE, "moments", &[(1, Access::Read), (2, Access::Update)]);
static MERGE_MOMENTS: Kernel = Params::kernel(
    "batch_norm_merge_moments",
    SOURCE,
    "merge_moments",
    &[(3, Access::Read), (4, Access::Write), (5, Access::Write)],
);
static FORWARD: Kernel = Params::kernel(
    "batch_norm",
    SOURCE,
    "forward",
    &[(1, Access::Read), (8, Access::Read), (9, Access::Read), (6, Access::Read), (7, Access::Read), (10, Access::Write)],
);
static RUNNING: Kernel = Params::kernel(
    "batch_norm_running",
    SOURCE,
    "running",
    &[(6, Access::Read), (7, Access::Read), (11, Access::Read), (12, Access::Update), (13, Access::Update)],
);
static SUMS: Kernel = Params::kernel(
    "batch_norm_sums",
    SOURCE,
    "sums",
    &[(1, Access::Read), (6, Access::Read), (7, Access::Read), (14, Access::Read), (2, Access::Update)],
);
static INPUT_GRADIENT: Kernel = Params::kernel(
    "batch_norm_input_gradient",
    SOURCE,
    "input_gradient",
    &[
        (1, Access::Read),
        (8, Access::Read),
        (6, Access::Read),
        (7, Access::Read),
        (15, Access::Read),
        (14, Access::Read),
        (16, Access::Update),
    ],
);

impl Params {
    fn new(g: &Graph, gain: TensorId, rows: usize) -> Params {
        Params {
            rows: rows as u32,
            width: g.get(gain).len as u32,
            chunk: 0,
            accumulate: 0,
            batch: rows as u32,
            eps: EPS,
            momentum: MOMENTUM,
            pad: 0,
        }
    }

    /// These parameters for some rows.
    fn on(self, block: Block) -> Params {
        Params { rows: block.rows as u32, chunk: (block.first / CHUNK) as u32, ..self }
    }

    /// Workgroups of the kernels that have 32 columns and 8 lanes in one.
    fn tiles(&self) -> usize {
        (self.width as usize).div_ceil(32)
    }

    fn chunks(&self) -> usize {
        (self.rows as usize).div_ceil(CHUNK)
    }

    /// Elements of an activation.
    fn words(&self) -> usize {
        self.rows as usize * self.width as usize
    }

    /// The op over these rows; `words` are read or written for each column.
    fn op(self, kernel: &'static Kernel, workgroups: usize, words: usize, twin: fn(&Params, &mut Args)) -> Dispatch<Params> {
        let words = words * self.width as usize;
        Dispatch { kernel, params: self, workgroups: fold(workgroups), cost: cost(words, 2 * words), twin }
    }
}

/// y = gain (x - mean) / sqrt(variance + [`EPS`]) + offset by the minibatch's mean and (biased) variance of each column: x and y
/// [B, C], gain and offset `[C]`. For training.
///
/// With the updates, `running` moves by [`MOMENTUM`] towards the mean and the unbiased variance, unless `health` `[1]` is not 0. One
/// row has no variance: it gives the offset, passes no gradient to x and leaves `running` alone.
pub fn batch_norm(
    g: &mut Graph,
    x: TensorId,
    gain: TensorId,
    offset: TensorId,
    rows: usize,
    running: Moments,
    health: TensorId,
) -> TensorId {
    let params = Params::new(g, gain, rows);
    let columns = params.width as usize;
    let parts_len = params.chunks() * columns * 2;
    let parts = g.transient("moments of chunks", parts_len);
    let moments = Moments { mean: g.transient("mean", columns), variance: g.transient("variance", columns) };
    g.push_rows(rows, &[Arg::Rows(x), Arg::Whole(parts)], |block| {
        let params = params.on(block);
        params.op(&MOMENTS, params.chunks() * params.tiles(), params.rows as usize + 2 * params.chunks(), chunk_moments)
    });
    g.push(
        params.op(&MERGE_MOMENTS, params.tiles(), 2 * params.chunks() + 2, merge_moments),
        &[parts, moments.mean, moments.variance],
    );
    let y = normalized(g, x, gain, offset, rows, moments);
    if rows > 1 {
        let op = params.op(&RUNNING, columns.div_ceil(256), 6, move_running);
        g.push_update(op, &[moments.mean, moments.variance, health, running.mean, running.variance]);
    }
    g.on_backward(move |g| {
        let Some(dy) = g.gradient(y) else { return };
        let parts = g.transient("sums of chunks", parts_len);
        let args = [Arg::Rows(x), Arg::Whole(moments.mean), Arg::Whole(moments.variance), Arg::Rows(dy), Arg::Whole(parts)];
        g.push_rows(rows, &args, |block| {
            let params = params.on(block);
            params.op(&SUMS, params.chunks() * params.tiles(), 2 * (params.rows as usize + params.chunks()), chunk_sums)
        });
        let sums = norm_sums(g, parts, gain, offset);
        let (dx, accumulate) = g.gradient_target(x);
        let params = Params { accumulate: accumulate.into(), ..params };
        let (mean, variance) = (Arg::Whole(moments.mean), Arg::Whole(moments.variance));
        let args = [Arg::Rows(x), Arg::Whole(gain), mean, variance, Arg::Whole(sums), Arg::Rows(dy), Arg::Rows(dx)];
        g.push_rows(rows, &args, |block| {
            let params = params.on(block);
            params.op(&INPUT_GRADIENT, params.words().div_ceil(256), 3 * params.rows as usize, input_gradient)
        });
    });
    y
}

/// As [`batch_norm`] by moments that are there, for evaluation: what a row gives does not depend on the others. Without a backward
/// pass.
pub fn normalized(
    g: &mut Graph,
    x: TensorId,
    gain: TensorId,
    offset: TensorId,
    rows: usize,
    Moments { mean, variance }: Moments,
) -> TensorId {
    let params = Params::new(g, gain, rows);
    let y = g.transient("normed", params.words());
    let args = [Arg::Rows(x), Arg::Whole(gain), Arg::Whole(offset), Arg::Whole(mean), Arg::Whole(variance), Arg::Rows(y)];
    g.push_rows(rows, &args, |block| {
        let params = params.on(block);
        params.op(&FORWARD, params.words().div_ceil(256), 2 * params.rows as usize, forward)
    });
    y
}

fn chunk_moments(p: &Params, args: &mut Args) {
    let columns = p.width as usize;
    let (x, parts) = (args.read::<f32>(0), args.write::<[f32; 2]>(1));
    let parts = parts[p.chunk as usize * columns..].par_chunks_mut(columns);
    parts.zip(x.par_chunks(CHUNK * columns)).for_each(|(parts, x)| {
        let n = (x.len() / columns) as f32;
        for (block, parts) in parts.chunks_mut(BLOCK).enumerate() {
            let rows = || x.chunks_exact(columns).map(|row| &row[block * BLOCK..][..parts.len()]);
            let (mut mean, mut squares) = ([0f32; BLOCK], [0f32; BLOCK]);
            for row in rows() {
                mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x);
            }
            mean.iter_mut().for_each(|mean| *mean /= n);
            for row in rows() {
                for ((square, mean), x) in squares.iter_mut().zip(&mean).zip(row) {
                    *square += (x - mean) * (x - mean);
                }
            }
            for ((part, mean), square) in parts.iter_mut().zip(mean).zip(squares) {
                *part = [mean, square];
            }
        }
    });
}

fn merge_moments(p: &Params, args: &mut Args) {
    let (rows, columns) = (p.rows as usize, p.width as usize);
    let (parts, mean, variance) = (args.read::<[f32; 2]>(0), args.write::<f32>(1), args.write::<f32>(2));
    mean.fill(0.0);
    variance.fill(0.0);
    for (chunk, parts) in parts.chunks_exact(columns).enumerate() {
        let (before, n) = ((chunk * CHUNK) as f32, CHUNK.min(rows - chunk * CHUNK) as f32);
        let share = n / (before + n);
        for ((mean, variance), [m, squares]) in mean.iter_mut().zip(variance.iter_mut()).zip(parts) {
            let d = m - *mean;
            *variance += squares + d * (d * before * share);
            *mean += d * share;
        }
    }
    variance.iter_mut().for_each(|variance| *variance /= rows as f32);
}

/// 1 / sqrt(variance + eps) of each column.
fn inverse_deviations(p: &Params, variance: &[f32], inverse: &mut [f32]) {
    inverse.iter_mut().zip(variance).for_each(|(inverse, variance)| *inverse = 1.0 / (variance + p.eps).sqrt());
}

fn forward(p: &Params, args: &mut Args) {
    let columns = p.width as usize;
    let (x, gain, offset) = (args.read::<f32>(0), args.read::<f32>(1), args.read::<f32>(2));
    let (mean, variance, y) = (args.read::<f32>(3), args.read::<f32>(4), args.write::<f32>(5));
    let inverse = args.scratch(columns);
    inverse_deviations(p, variance, inverse);
    let inverse = &*inverse;
    y.par_chunks_mut(columns).zip(x.par_chunks(columns)).with_min_len(BLOCK).for_each(|(y, x)| {
        for (((((y, x), mean), inverse), gain), offset) in y.iter_mut().zip(x).zip(mean).zip(inverse).zip(gain).zip(offset) {
            *y = gain * ((x - mean) * inverse) + offset;
        }
    });
}

fn move_running(p: &Params, args: &mut Args) {
    let (mean, variance, health) = (args.read::<f32>(0), args.read::<f32>(1), args.read::<u32>(2));
    if health[0] != 0 {
        return;
    }
    let unbiased = p.rows as f32 / (p.rows - 1) as f32;
    args.write::<f32>(3).iter_mut().zip(mean).for_each(|(running, mean)| *running += p.momentum * (mean - *running));
    for (running, variance) in args.write::<f32>(4).iter_mut().zip(variance) {
        *running += p.momentum * (variance * unbiased - *running);
    }
}

fn chunk_sums(p: &Params, args: &mut Args) {
    let columns = p.width as usize;
    let (x, mean, variance, dy) = (args.read::<f32>(0), args.read::<f32>(1), args.read::<f32>(2), args.read::<f32>(3));
    let parts = args.write::<[f32; 2]>(4);
    let inverse = args.scratch(columns);
    inverse_deviations(p, variance, inverse);
    let inverse = &*inverse;
    let parts = parts[p.chunk as usize * columns..].par_chunks_mut(columns);
    parts.zip(x.par_chunks(CHUNK * columns)).zip(dy.par_chunks(CHUNK * columns)).for_each(|((parts, x), dy)| {
        for (block, parts) in parts.chunks_mut(BLOCK).enumerate() {
            let here = block * BLOCK..block * BLOCK + parts.len();
            let (mean, inverse) = (&mean[here.clone()], &inverse[here.clone()]);
            let (mut along, mut sum) = ([0f32; BLOCK], [0f32; BLOCK]);
            for (x, dy) in x.chunks_exact(columns).zip(dy.chunks_exact(columns)) {
                let (x, dy) = (&x[here.clone()], &dy[here.clone()]);
                let both = along.iter_mut().zip(&mut sum).zip(x).zip(dy).zip(mean).zip(inverse);
                for (((((along, sum), x), dy), mean), inverse) in both {
                    *along += dy * ((x - mean) * inverse);
                    *sum += dy;
                }
            }
            for ((part, along), sum) in parts.iter_mut().zip(along).zip(sum) {
                *part = [along, sum];
            }
        }
    });
}

fn input_gradient(p: &Params, args: &mut Args) {
    let columns = p.width as usize;
    let (x, gain, mean, variance) = (args.read::<f32>(0), args.read::<f32>(1), args.read::<f32>(2), args.read::<f32>(3));
    let (sums, dy, dx) = (args.read::<[f32; 2]>(4), args.read::<f32>(5), args.write::<f32>(6));
    // For each column: dx = factor (dy - level - (x - mean) slope).
    let (factor, rest) = args.scratch(3 * columns).split_at_mut(columns);
    let (level, slope) = rest.split_at_mut(columns);
    inverse_deviations(p, variance, slope);
    for (c, [along, sum]) in sums.iter().enumerate() {
        let inverse = slope[c];
        (factor[c], level[c], slope[c]) = (gain[c] * inverse, sum / p.batch as f32, inverse * (along / p.batch as f32));
    }
    let (factor, level, slope) = (&*factor, &*level, &*slope);
    let rows = dx.par_chunks_mut(columns).zip(x.par_chunks(columns)).zip(dy.par_chunks(columns));
    rows.with_min_len(BLOCK).for_each(|((dx, x), dy)| {
        let of_columns = mean.iter().zip(factor).zip(level).zip(slope);
        for (((dx, x), dy), (((mean, factor), level), slope)) in dx.iter_mut().zip(x).zip(dy).zip(of_columns) {
            let gradient = factor * (dy - level - (x - mean) * slope);
            *dx = if p.accumulate != 0 { *dx + gradient } else { gradient };
        }
    });
}

/// Rows of one chunk and of several, ragged; few columns and more than a workgroup's; a second use of input, parameters and running
/// moments; columns of several magnitudes, constant, and far from 0; the latch; running moments in the minibatch's place.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, columns, scale, shift) in [
        (1, 1, 1.0, 0.0),
        (1, 33, 1.0, 5.0),
        // The variance of two rows is next to EPS here: far above it their gradients cancel to nothing.
        (2, 5, 3e-3, 0.0),
        (63, 5, 1.0, 0.0),
        (64, 33, 1.0, 0.0),
        (65, 1, 1.0, 0.0),
        (65, 130, 1.0, 0.0),
        (257, 33, 1.0, 0.0),
        (1000, 5, 1.0, 0.0),
        (70, 9, 1e-4, 0.0),
        (70, 9, 1e6, 0.0),
        (70, 9, 0.0, 0.5),
        (257, 7, 1.0, 1e3),
    ] {
        for twice in [false, true] {
            let name = format!("batch_norm {rows}x{columns}, times {scale:e} and {shift:e} on, twice {twice}");
            let mut case = Case::new(name, rows, move |s| {
                let x: Vec<f32> = normals(1, rows * columns, scale).iter().map(|x| x + shift).collect();
                let x = s.state_tensor("x", &x);
                let gain: Vec<f32> = normals(2, columns, 0.5).iter().map(|x| 1.0 + x).collect();
                let (gain, offset) = (s.state_tensor("gain", &gain), s.state_tensor("offset", &normals(3, columns, 0.5)));
                let (mean, variance) = (vec![0f32; columns], vec![1f32; columns]);
                let (mean, variance) = (s.state_tensor("running mean", &mean), s.state_tensor("running variance", &variance));
                let running = Moments { mean, variance };
                let health = s.state_tensor("health", &[u32::from(columns == 1 && twice)]);
                for i in 0..if twice { 2 } else { 1 } {
                    let dy = s.input(&normals(4 + i, rows * columns, 1.0));
                    let y = batch_norm(&mut s.graph, x, gain, offset, rows, running, health);
                    s.graph.seed(y, dy);
                    s.graph.output(y);
                }
                s.graph.backward();
                for t in [x, gain, offset] {
                    let d = s.graph.gradient(t);
                    d.into_iter().for_each(|d| s.graph.output(d));
                }
            });
            case.steps = 2;
            if shift > scale * 100.0 {
                // Digits of the mean that f32 has not.
                case.rel *= shift / scale.max(0.1) / 50.0;
            }
            cases.push(case);
        }
    }
    for (rows, columns) in [(1, 1), (66, 33), (130, 5)] {
        cases.push(Case::new(format!("batch_norm {rows}x{columns} by running moments"), 1, move |s| {
            let x = s.input(&normals(1, rows * columns, 2.0));
            let gain = s.state_tensor("gain", &normals(2, columns, 1.0));
            let offset = s.state_tensor("offset", &normals(3, columns, 0.5));
            let mean = s.state_tensor("running mean", &normals(4, columns, 1.0));
            let variance: Vec<f32> = normals(5, columns, 1.0).iter().map(|x| x * x).collect();
            let variance = s.state_tensor("running variance", &variance);
            let y = normalized(&mut s.graph, x, gain, offset, rows, Moments { mean, variance });
            s.graph.output(y);
        }));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and unbiased variance, f64.
    fn exact(x: impl Iterator<Item = f32> + Clone) -> (f64, f64) {
        let n = x.clone().count() as f64;
        let mean = x.clone().map(f64::from).sum::<f64>() / n;
        (mean, x.map(|x| (f64::from(x) - mean).powi(2)).sum::<f64>() / (n - 1.0))
    }

    /// The running moments after one step from 0 and 1, on the twin; `sick`: with the latch set.
    #[allow(clippy::unwrap_used, reason = "a test that fails says where")]
    fn moved(x: Vec<f32>, columns: usize, sick: bool) -> (Vec<f32>, Vec<f32>) {
        let case = Case::new("batch_norm", 1, move |s| {
            let rows = x.len() / columns;
            let x = s.input(&x);
            let (gain, offset) = (s.input(&vec![1f32; columns]), s.input(&vec![0f32; columns]));
            let mean = s.state_tensor("running mean", &vec![0f32; columns]);
            let variance = s.state_tensor("running variance", &vec![1f32; columns]);
            let health = s.state_tensor("health", &[u32::from(sick)]);
            let y = batch_norm(&mut s.graph, x, gain, offset, rows, Moments { mean, variance }, health);
            s.graph.output(y);
        });
        let results = case.on_cpu().unwrap();
        let of = |name: &str| results.iter().find(|(n, _)| n == name).unwrap().1.iter().map(|&w| f32::from_bits(w)).collect();
        (of("running mean"), of("running variance"))
    }

    #[test]
    fn running_moments_move_towards_the_exact_ones_far_from_zero_too() {
        let (rows, columns) = (5000, 3);
        for shift in [0.0, 1e3, -3e4] {
            let x: Vec<f32> = normals(1, rows * columns, 1.0).iter().map(|x| x + shift).collect();
            let (mean, variance) = moved(x.clone(), columns, false);
            for c in 0..columns {
                let (m, v) = exact(x.iter().skip(c).step_by(columns).copied());
                assert!(
                    (f64::from(mean[c]) - 0.1 * m).abs() <= 1e-6 * (1.0 + m.abs()),
                    "{shift}: {} is not 0.1 * {m}",
                    mean[c]
                );
                let wanted = 0.9 + 0.1 * v;
                assert!((f64::from(variance[c]) - wanted).abs() <= 1e-5, "{shift}: {} is not {wanted}", variance[c]);
            }
        }
    }

    #[test]
    fn one_row_and_the_latch_leave_running_moments_alone() {
        let before = (vec![0.0; 4], vec![1.0; 4]);
        assert_eq!(moved(normals(1, 4, 1.0), 4, false), before);
        assert_eq!(moved(normals(1, 400, 1.0), 4, true), before);
        assert_ne!(moved(normals(1, 400, 1.0), 4, false), before);
    }
}
