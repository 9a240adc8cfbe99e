//! z = y / max(||y||_2, 1e-6): rows of unit length for the contrastive loss, with the gradient through the norm. The same as
//! `torch.nn.functional.normalize(eps=1e-6)`.

use super::check::{Case, normals};
use super::vector::dot;
use super::{Access, Args, Cost, Dispatch, Kernel, Shader, fold, params, shader};
use crate::graph::{Graph, TensorId};
use rayon::prelude::*;

/// Norms are at least this; below it z is linear in y.
pub const FLOOR: f32 = 1e-6;

const SOURCE: Shader = shader!("normalize");

params! {
    struct Params {
        vectors: u32,
        width: u32,
        accumulate: u32,
        pad: u32,
    }
}

static FORWARD: Kernel =
    Params::kernel("normalize", SOURCE, "forward", &[(1, Access::Read), (2, Access::Write), (3, Access::Write)]);

static BACKWARD: Kernel = Params::kernel(
    "normalize backward",
    SOURCE,
    "backward",
    &[(4, Access::Read), (5, Access::Read), (6, Access::Read), (7, Access::Update)],
);

fn forward_op(params: Params) -> Dispatch<Params> {
    Dispatch {
        kernel: &FORWARD,
        params,
        workgroups: fold(params.vectors.div_ceil(16) as usize),
        cost: {
            let (n, vectors) = (f64::from(params.vectors) * f64::from(params.width), f64::from(params.vectors));
            Cost { bytes: 4.0 * (2.0 * n + vectors), flops: 5.0 * n, ..Cost::default() }
        },
        twin: forward,
    }
}

fn forward(p: &Params, args: &mut Args) {
    let width = p.width as usize;
    let y = args.read::<f32>(0);
    let z = args.write::<f32>(1);
    let norm = args.write::<f32>(2);
    y.par_chunks(width).zip(z.par_chunks_mut(width)).zip(norm).for_each(|((y, z), norm)| {
        let scale = y.iter().fold(FLOOR, |m, x| m.max(x.abs()));
        let length = y.iter().map(|x| (x / scale) * (x / scale)).sum::<f32>().sqrt();
        let floor = FLOOR / scale;
        let above = length > floor;
        let divisor = length.max(floor);
        for (z, y) in z.iter_mut().zip(y) {
            *z = (y / scale) / divisor;
        }
        *norm = if above { (length.min(3.0e38 / scale) * scale).max(FLOOR * 1.000_001) } else { FLOOR };
    });
}

fn backward_op(params: Params) -> Dispatch<Params> {
    Dispatch {
        kernel: &BACKWARD,
        params,
        workgroups: fold(params.vectors.div_ceil(16) as usize),
        cost: {
            let (n, vectors) = (f64::from(params.vectors) * f64::from(params.width), f64::from(params.vectors));
            let passes = 3.0 + f64::from(params.accumulate);
            Cost { bytes: 4.0 * (passes * n + vectors), flops: 5.0 * n, ..Cost::default() }
        },
        twin: backward,
    }
}

fn backward(p: &Params, args: &mut Args) {
    let width = p.width as usize;
    let (z, norm, dz) = (args.read::<f32>(0), args.read::<f32>(1), args.read::<f32>(2));
    let dy = args.write::<f32>(3);
    let accumulate = p.accumulate != 0;
    let rows = z.par_chunks(width).zip(dz.par_chunks(width)).zip(dy.par_chunks_mut(width)).zip(norm);
    rows.for_each(|(((z, dz), dy), &norm)| {
        let product = dot(z, dz);
        let along = if norm > FLOOR { product } else { 0.0 };
        for ((dy, dz), z) in dy.iter_mut().zip(dz).zip(z) {
            let gradient = (dz - z * along) / norm;
            *dy = if accumulate { *dy + gradient } else { gradient };
        }
    });
}

/// z [rows, groups * width]: each of the `groups` vectors of `width` columns of a row of `y` (same shape) divided by
/// max(its L2 norm, 1e-6).
pub fn normalize(g: &mut Graph, y: TensorId, rows: usize, groups: usize, width: usize) -> TensorId {
    assert_eq!(g.get(y).len, rows * groups * width, "normalize: {} is not [{rows}, {groups} * {width}]", g.get(y).name);
    let vectors = rows * groups;
    let params = Params { vectors: vectors as u32, width: width as u32, accumulate: 0, pad: 0 };
    let z = g.transient("unit", vectors * width);
    let norm = g.transient("norm", vectors);
    g.push(forward_op(params), &[y, z, norm]);
    g.on_backward(move |g| {
        let Some(dz) = g.gradient(z) else { return };
        let (dy, accumulate) = g.gradient_target(y);
        g.push(backward_op(Params { accumulate: accumulate.into(), ..params }), &[z, norm, dz, dy]);
    });
    z
}

/// Ragged shapes; rows of zeros, of 1e-20 and of 1e20.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, groups, width) in [(1, 1, 1), (2, 2, 3), (63, 2, 32), (64, 1, 33), (65, 2, 64), (130, 2, 16), (257, 2, 130)] {
        for accumulate in [false, true] {
            let name = format!("normalize {rows}x{groups}x{width}{}", if accumulate { " accumulated" } else { "" });
            cases.push(Case::new(name, width, move |s| {
                let n = rows * groups * width;
                let y = s.input(&normals(1, n, 1.0));
                let dz = s.input(&normals(2, n, 1.0));
                let z = normalize(&mut s.graph, y, rows, groups, width);
                s.graph.seed(z, dz);
                if accumulate {
                    // The gradient of a second use of y is there first.
                    let again = normalize(&mut s.graph, y, rows, groups, width);
                    let d_again = s.input(&normals(3, n, 1.0));
                    s.graph.seed(again, d_again);
                }
                if width == 1 {
                    // Its gradient is nothing but roundings, so it is added to numbers of a known size.
                    let there = s.state_tensor("dy", &normals(4, n, 10.0));
                    s.graph.seed(y, there);
                }
                s.graph.backward();
                let dy = s.graph.gradient(y).expect("y has a gradient");
                s.graph.output(z);
                s.graph.output(dy);
            }));
        }
    }
    // One case a magnitude, since the tolerance goes by a tensor's largest value.
    for scale in [0.0f32, 1e-20, 1e-9, 1e-5, 1e20, 1e37] {
        cases.push(Case::new(format!("normalize rows times {scale:e}"), 33, move |s| {
            let (rows, width) = (37, 33);
            let y = s.input(&normals(1, rows * width, scale));
            let dz = s.input(&normals(2, rows * width, 1.0));
            let z = normalize(&mut s.graph, y, rows, 1, width);
            s.graph.seed(z, dz);
            s.graph.backward();
            let dy = s.graph.gradient(y).expect("y has a gradient");
            s.graph.output(z);
            // At 1e37 the gradient lies where adapters may flush to zero.
            if scale < 1e30 {
                s.graph.output(dy);
            }
        }));
    }
    cases.push(Case::new("normalize rows of all magnitudes", 8, |s| {
        let (rows, width) = (64, 8);
        let mut values = normals(4, rows * width, 1.0);
        for (i, row) in values.chunks_mut(width).enumerate() {
            let scale = [0.0, 1e-20, 1e-7, 1e-5, 1.0, 1e5, 1e20, 1e30][i % 8];
            row.iter_mut().for_each(|x| *x *= scale);
        }
        let y = s.input(&values);
        let z = normalize(&mut s.graph, y, rows, 1, width);
        s.graph.output(z);
    }));
    cases
}
