//! Layer norm of each group's columns, with a learned gain and offset a column (Ba et al. 2016), as `torch.nn.LayerNorm` has it.

use super::check::{Case, normals};
use super::norm_sums::{CHUNK, norm_sums};
use super::{Access, Args, Dispatch, Kernel, Shader, cost, fold, params, shader};
use crate::graph::{Arg, Block, Graph, TensorId};
use rayon::prelude::*;

/// What is added to the variance before its root.
pub const EPS: f32 = 1e-5;

/// Shape of a layer norm.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm {
    /// Rows of the minibatch, B.
    pub rows: usize,
    /// Groups, G.
    pub groups: usize,
    /// Columns of a group, N: mean and variance are over these.
    pub width: usize,
}

params! {
    struct Params {
        rows: u32,
        groups: u32,
        width: u32,
        accumulate: u32,
        eps: f32,
        chunk: u32,
        pad1: u32,
        pad2: u32,
    }
}

const SOURCE: Shader = shader!("layer_norm");
static FORWARD: Kernel = Params::kernel(
    "layer_norm",
    SOURCE,
    "forward",
    &[(1, Access::Read), (2, Access::Read), (3, Access::Read), (4, Access::Write), (5, Access::Write)],
);
static INPUT_GRADIENT: Kernel = Params::kernel(
    "layer_norm_input_gradient",
    SOURCE,
    "input_gradient",
    &[(1, Access::Read), (2, Access::Read), (6, Access::Read), (7, Access::Read), (8, Access::Update)],
);
// Blocks of rows write some chunks of the parts each.
static PARAMETER_SUMS: Kernel = Params::kernel(
    "layer_norm_parameter_sums",
    SOURCE,
    "parameter_sums",
    &[(1, Access::Read), (6, Access::Read), (7, Access::Read), (9, Access::Update)],
);
/// Vectors that one task of a twin handles, at least.
const VECTORS: usize = 64;

/// y = gain (x - mean) / sqrt(variance + [`EPS`]) + offset, mean and variance of each group's columns: x and y [B, G * N], gain and
/// offset [G * N].
pub fn layer_norm(g: &mut Graph, x: TensorId, gain: TensorId, offset: TensorId, shape: LayerNorm) -> TensorId {
    let LayerNorm { rows, groups, width } = shape;
    let columns = groups * width;
    let y = g.transient("normed", rows * columns);
    let moments = g.transient("moments", rows * groups * 2);
    let op = move |kernel, block: Block, accumulate: bool, workgroups: usize, [words, flops]: [usize; 2], twin| Dispatch {
        kernel,
        params: Params {
            rows: block.rows as u32,
            groups: groups as u32,
            width: width as u32,
            accumulate: accumulate.into(),
            eps: EPS,
            chunk: (block.first / CHUNK) as u32,
            pad1: 0,
            pad2: 0,
        },
        workgroups: fold(workgroups),
        cost: cost(words * columns, flops * columns),
        twin,
    };
    let vectors = move |block: Block| (block.rows * groups).div_ceil(16);
    let args = [Arg::Rows(x), Arg::Whole(gain), Arg::Whole(offset), Arg::Rows(y), Arg::Rows(moments)];
    g.push_rows(rows, &args, |block| op(&FORWARD, block, false, vectors(block), [2 * block.rows, 8 * block.rows], forward));
    g.on_backward(move |g| {
        let Some(dy) = g.gradient(y) else { return };
        let (chunks, tiles) = (rows.div_ceil(CHUNK), columns.div_ceil(16));
        let parts = g.transient("sums of chunks", chunks * columns * 2);
        let args = [Arg::Rows(x), Arg::Rows(moments), Arg::Rows(dy), Arg::Whole(parts)];
        g.push_rows(rows, &args, |block| {
            op(
                &PARAMETER_SUMS,
                block,
                false,
                block.rows.div_ceil(CHUNK) * tiles,
                [2 * block.rows, 5 * block.rows],
                parameter_sums,
            )
        });
        norm_sums(g, parts, gain, offset);
        let (dx, accumulate) = g.gradient_target(x);
        let args = [Arg::Rows(x), Arg::Whole(gain), Arg::Rows(moments), Arg::Rows(dy), Arg::Rows(dx)];
        g.push_rows(rows, &args, |block| {
            op(&INPUT_GRADIENT, block, accumulate, vectors(block), [3 * block.rows, 14 * block.rows], input_gradient)
        });
    });
    y
}

fn forward(p: &Params, args: &mut Args) {
    let (groups, width) = (p.groups as usize, p.width as usize);
    let (x, gain, offset) = (args.read::<f32>(0), args.read::<f32>(1), args.read::<f32>(2));
    let (y, moments) = (args.write::<f32>(3), args.write::<[f32; 2]>(4));
    let vectors = y.par_chunks_mut(width).zip(x.par_chunks(width)).zip(moments).enumerate();
    vectors.with_min_len(VECTORS).for_each(|(vector, ((y, x), moments))| {
        let mean = x.iter().sum::<f32>() / width as f32;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / width as f32;
        let inverse = 1.0 / (variance + p.eps).sqrt();
        let first = vector % groups * width;
        for (((y, x), gain), offset) in y.iter_mut().zip(x).zip(&gain[first..]).zip(&offset[first..]) {
            *y = gain * ((x - mean) * inverse) + offset;
        }
        *moments = [mean, inverse];
    });
}

fn input_gradient(p: &Params, args: &mut Args) {
    let (groups, width) = (p.groups as usize, p.width as usize);
    let (x, gain, moments, dy) = (args.read::<f32>(0), args.read::<f32>(1), args.read::<[f32; 2]>(2), args.read::<f32>(3));
    let dx = args.write::<f32>(4);
    let vectors = dx.par_chunks_mut(width).zip(x.par_chunks(width)).zip(dy.par_chunks(width)).zip(moments).enumerate();
    vectors.with_min_len(VECTORS).for_each(|(vector, (((dx, x), dy), &[mean, inverse]))| {
        let gain = &gain[vector % groups * width..][..width];
        let (mut sum, mut along) = (0.0, 0.0);
        for ((x, dy), gain) in x.iter().zip(dy).zip(gain) {
            sum += gain * dy;
            along += gain * dy * ((x - mean) * inverse);
        }
        let (sum, along) = (sum / width as f32, along / width as f32);
        for (((dx, x), dy), gain) in dx.iter_mut().zip(x).zip(dy).zip(gain) {
            let gradient = inverse * (gain * dy - sum - (x - mean) * inverse * along);
            *dx = if p.accumulate != 0 { *dx + gradient } else { gradient };
        }
    });
}

fn parameter_sums(p: &Params, args: &mut Args) {
    let (groups, width) = (p.groups as usize, p.width as usize);
    let columns = groups * width;
    let (x, moments, dy) = (args.read::<f32>(0), args.read::<[f32; 2]>(1), args.read::<f32>(2));
    let parts = args.write::<[f32; 2]>(3)[p.chunk as usize * columns..].par_chunks_mut(columns);
    let rows = x.par_chunks(CHUNK * columns).zip(dy.par_chunks(CHUNK * columns)).zip(moments.par_chunks(CHUNK * groups));
    parts.zip(rows).for_each(|(parts, ((x, dy), moments))| {
        parts.fill([0.0; 2]);
        for ((x, dy), moments) in x.chunks_exact(columns).zip(dy.chunks_exact(columns)).zip(moments.chunks_exact(groups)) {
            let vectors = parts.chunks_mut(width).zip(x.chunks(width)).zip(dy.chunks(width)).zip(moments);
            for (((parts, x), dy), [mean, inverse]) in vectors {
                for (([along, sum], x), dy) in parts.iter_mut().zip(x).zip(dy) {
                    *along += dy * ((x - mean) * inverse);
                    *sum += dy;
                }
            }
        }
    });
}

/// Ragged shapes, one column, a second use of input and parameters; rows of equal numbers and of several magnitudes.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, groups, width, scale) in [
        (1, 1, 1, 1.0),
        (3, 2, 5, 1.0),
        (65, 3, 7, 1.0),
        (130, 4, 33, 1.0),
        (257, 1, 64, 1.0),
        (70, 2, 130, 1.0),
        (67, 1, 1, 1.0),
        (33, 2, 9, 1e-4),
        (33, 2, 9, 1e6),
        (20, 2, 9, 0.0),
    ] {
        for twice in [false, true] {
            let name = format!("layer_norm {rows}x{groups}x{width}, times {scale:e}, twice {twice}");
            cases.push(Case::new(name, rows.max(width), move |s| {
                let columns = groups * width;
                let x = s.state_tensor("x", &normals(1, rows * columns, scale));
                let gain: Vec<f32> = normals(2, columns, 0.5).iter().map(|x| 1.0 + x).collect();
                let (gain, offset) = (s.state_tensor("gain", &gain), s.state_tensor("offset", &normals(3, columns, 0.5)));
                for i in 0..if twice { 2 } else { 1 } {
                    let dy = s.input(&normals(4 + i, rows * columns, 1.0));
                    let y = layer_norm(&mut s.graph, x, gain, offset, LayerNorm { rows, groups, width });
                    s.graph.seed(y, dy);
                    s.graph.output(y);
                }
                if width == 1 {
                    // Its gradient is nothing but roundings over sqrt(eps), so it is added to numbers of a known size.
                    let there = s.state_tensor("dx", &normals(6, rows * columns, 300.0));
                    s.graph.seed(x, there);
                }
                s.graph.backward();
                for t in [x, gain, offset] {
                    let d = s.graph.gradient(t);
                    d.into_iter().for_each(|d| s.graph.output(d));
                }
            }));
        }
    }
    cases
}
