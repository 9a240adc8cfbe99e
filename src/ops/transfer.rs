//! Attention over two items of a row: AITM's transfer (Xi et al., KDD 2021).

use super::check::{Case, normals};
use super::vector::dot;
use super::{Access, Args, Dispatch, Kernel, Shader, cost, fold, params, shader};
use crate::graph::{Arg, Block, Graph, TensorId};
use rayon::prelude::*;

params! {
    struct Params {
        rows: u32,
        width: u32,
        accumulate: u32,
        scale: f32,
    }
}

const SOURCE: Shader = shader!("transfer");
static FORWARD: Kernel = Params::kernel("transfer", SOURCE, "forward", &[(1, Access::Read), (2, Access::Write)]);
static BACKWARD: Kernel =
    Params::kernel("transfer backward", SOURCE, "backward", &[(1, Access::Read), (3, Access::Read), (4, Access::Update)]);

fn op(
    kernel: &'static Kernel,
    block: Block,
    width: usize,
    add: bool,
    (words, flops): (usize, usize),
    twin: fn(&Params, &mut Args),
) -> Dispatch<Params> {
    let scale = (1.0 / (width as f64).sqrt()) as f32;
    Dispatch {
        kernel,
        params: Params { rows: block.rows as u32, width: width as u32, accumulate: add.into(), scale },
        workgroups: fold(block.rows.div_ceil(16)),
        cost: cost(block.rows * width * words, block.rows * width * flops),
        twin,
    }
}

/// z [B, D] of h [B, 2, 3, D], which holds h1, h2, h3 of each of two items: z = sum_u softmax_u(<h2, h3> / sqrt(D)) h1.
pub fn transfer(g: &mut Graph, h: TensorId, rows: usize, width: usize) -> TensorId {
    assert_eq!(g.get(h).len, rows * 6 * width, "transfer: {} is not [{rows}, 2, 3, {width}]", g.get(h).name);
    let z = g.transient("z", rows * width);
    g.push_rows(rows, &[Arg::Rows(h), Arg::Rows(z)], |block| op(&FORWARD, block, width, false, (7, 8), forward));
    g.on_backward(move |g| {
        let Some(dz) = g.gradient(z) else { return };
        let (dh, add) = g.gradient_target(h);
        g.push_rows(rows, &[Arg::Rows(h), Arg::Rows(dz), Arg::Rows(dh)], |block| {
            op(&BACKWARD, block, width, add, (if add { 19 } else { 13 }, 14), backward)
        });
    });
    z
}

/// An item's h1, h2, h3.
fn item(h: &[f32], width: usize, u: usize) -> [&[f32]; 3] {
    [0, 1, 2].map(|i| &h[(3 * u + i) * width..][..width])
}

/// The softmax of the two items' scores.
fn weights(h: &[f32], width: usize, scale: f32) -> [f32; 2] {
    let s = [0, 1].map(|u| {
        let [_, h2, h3] = item(h, width, u);
        dot(h2, h3) * scale
    });
    let e = s.map(|x| (x - s[0].max(s[1])).exp());
    e.map(|x| x / (e[0] + e[1]))
}

fn forward(p: &Params, args: &mut Args) {
    let width = p.width as usize;
    let (h, z) = (args.read::<f32>(0), args.write::<f32>(1));
    z.par_chunks_exact_mut(width).with_min_len(64).zip(h.par_chunks_exact(6 * width)).for_each(|(z, h)| {
        let w = weights(h, width, p.scale);
        for (c, z) in z.iter_mut().enumerate() {
            *z = w[0] * h[c] + w[1] * h[3 * width + c];
        }
    });
}

fn backward(p: &Params, args: &mut Args) {
    let width = p.width as usize;
    let (h, dz, dh) = (args.read::<f32>(0), args.read::<f32>(1), args.write::<f32>(2));
    let rows = dh.par_chunks_exact_mut(6 * width).with_min_len(64);
    rows.zip(h.par_chunks_exact(6 * width)).zip(dz.par_chunks_exact(width)).for_each(|((dh, h), dz)| {
        let w = weights(h, width, p.scale);
        let dw = [0, 1].map(|u| dot(dz, item(h, width, u)[0]));
        let mean = w[0] * dw[0] + w[1] * dw[1];
        for (u, dh) in dh.chunks_exact_mut(3 * width).enumerate() {
            let [_, h2, h3] = item(h, width, u);
            let g = w[u] * (dw[u] - mean) * p.scale;
            for c in 0..width {
                for (i, value) in [w[u] * dz[c], g * h3[c], g * h2[c]].into_iter().enumerate() {
                    let dh = &mut dh[i * width + c];
                    *dh = if p.accumulate != 0 { *dh + value } else { value };
                }
            }
        }
    });
}

/// Ragged shapes, scores far apart, accumulation.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, width, scale) in [(1, 1, 1.0), (17, 5, 1.0), (65, 16, 3.0), (130, 33, 1.0), (33, 64, 0.3)] {
        for twice in [false, true] {
            let mut case =
                Case::new(format!("transfer {rows} rows of {width}, times {scale}, twice {twice}"), width, move |s| {
                    let h = s.state_tensor("h", &normals(1, rows * 6 * width, scale));
                    for i in 0..1 + u64::from(twice) {
                        let z = transfer(&mut s.graph, h, rows, width);
                        let dz = s.input(&normals(2 + i, rows * width, 1.0));
                        s.graph.seed(z, dz);
                        s.graph.output(z);
                    }
                    s.graph.backward();
                    let dh = s.graph.gradient_target(h).0;
                    s.graph.output(dh);
                });
            // exp of an argument of size x carries x ULP of it.
            case.rel *= f32::max(1.0, scale * scale * 3.0);
            cases.push(case);
        }
    }
    cases
}
