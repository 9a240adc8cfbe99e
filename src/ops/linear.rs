//! Linear layers with bias and activation, for groups side by side: experts, towers, heads.

use super::check::{Case, normals};
use super::{Access, Args, Cost, Dispatch, Kernel, cost, params};
use crate::config::Activation;
use crate::graph::{Arg, Block, Graph, TensorId};
use rayon::prelude::*;

/// Shape of a linear layer.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// Rows of the minibatch, B.
    pub rows: usize,
    /// Groups, G.
    pub groups: usize,
    /// Inputs of a group, K.
    pub inputs: usize,
    /// Outputs of a group, N.
    pub outputs: usize,
    /// The activation after the bias.
    pub activation: Activation,
    /// Whether a gradient is passed to the input.
    pub input_gradient: bool,
}

params! {
    struct Params {
        rows: u32,
        inputs: u32,
        outputs: u32,
        groups: u32,
        activation: u32,
        flags: u32,
        pad0: u32,
        pad1: u32,
    }
}

const BIAS: u32 = 1;
const ACCUMULATE: u32 = 2;
const TILE: usize = 64;
/// Rows and columns that one task of a twin handles; fixed, so that sums don't depend on the number of threads.
const BLOCK: usize = 64;

const SOURCE: &str = include_str!("../../shaders/linear.wgsl");
static FORWARD: Kernel =
    Params::kernel("linear", SOURCE, "forward", &[(1, Access::Read), (2, Access::Read), (3, Access::Read), (4, Access::Write)]);
static INPUT_GRADIENT: Kernel = Params::kernel(
    "linear_input_gradient",
    SOURCE,
    "input_gradient",
    &[(6, Access::Read), (5, Access::Read), (2, Access::Read), (7, Access::Update)],
);
static WEIGHT_GRADIENT: Kernel = Params::kernel(
    "linear_weight_gradient",
    SOURCE,
    "weight_gradient",
    &[(1, Access::Read), (6, Access::Read), (5, Access::Read), (8, Access::Update), (9, Access::Update)],
);

/// y = activation(x W + bias): x [B, G * K], w [G, K, N], bias [G * N], y [B, G * N]. Layers that read one input are one
/// layer of one group with their outputs side by side.
pub fn linear(g: &mut Graph, x: TensorId, w: TensorId, bias: Option<TensorId>, shape: Linear) -> TensorId {
    let Linear { rows, groups, inputs, outputs, .. } = shape;
    let y = g.transient("y", rows * groups * outputs);
    let params = Params {
        rows: rows as u32,
        inputs: inputs as u32,
        outputs: outputs as u32,
        groups: groups as u32,
        activation: match shape.activation {
            Activation::Identity => 0,
            Activation::Relu => 1,
        },
        flags: if bias.is_some() { BIAS } else { 0 },
        pad0: 0,
        pad1: 0,
    };
    let op = move |kernel, params: Params, tiles: [usize; 2], twin| Dispatch {
        kernel,
        params,
        workgroups: [tiles[0].div_ceil(TILE) as u32, tiles[1].div_ceil(TILE) as u32, groups as u32],
        cost: params.cost(),
        twin,
    };
    let of = move |block: Block, params: Params| Params { rows: block.rows as u32, ..params };
    // Without a bias, something must be bound in its place; it is not read.
    let args = [Arg::Rows(x), Arg::Whole(w), Arg::Whole(bias.unwrap_or(w)), Arg::Rows(y)];
    g.push_rows(rows, &args, |block| op(&FORWARD, of(block, params), [outputs, block.rows], forward));
    g.on_backward(move |g| {
        let Some(dy) = g.gradient(y) else { return };
        let (dw, accumulate) = g.gradient_target(w);
        let dbias = match bias {
            Some(bias) => g.gradient_target(bias).0,
            None => g.transient("unused", groups * outputs),
        };
        let args = [Arg::Rows(x), Arg::Rows(dy), Arg::Rows(y), Arg::Whole(dw), Arg::Whole(dbias)];
        g.push_rows(rows, &args, |block| {
            let params = of(block, params.adding(accumulate || block.first > 0));
            op(&WEIGHT_GRADIENT, params, [outputs, inputs], weight_gradient)
        });
        if shape.input_gradient {
            let (dx, accumulate) = g.gradient_target(x);
            let args = [Arg::Rows(dy), Arg::Rows(y), Arg::Whole(w), Arg::Rows(dx)];
            let params = params.adding(accumulate);
            g.push_rows(rows, &args, |block| op(&INPUT_GRADIENT, of(block, params), [inputs, block.rows], input_gradient));
        }
    });
    y
}

/// A row-major matrix inside a slice: first element, and elements from one row and one column to the next.
#[derive(Clone, Copy)]
struct Matrix {
    at: usize,
    row: usize,
    column: usize,
}

/// c (+)= a b with a [m, k], b [k, n], c [m, n].
#[expect(unsafe_code, reason = "`gemm` takes pointers")]
fn product(m: usize, n: usize, k: usize, a: (&[f32], Matrix), b: (&[f32], Matrix), c: (&mut [f32], Matrix), add: bool) {
    let inside =
        |len: usize, x: Matrix, rows: usize, columns: usize| x.at + x.row * (rows - 1) + x.column * (columns - 1) < len;
    assert!(inside(a.0.len(), a.1, m, k) && inside(b.0.len(), b.1, k, n) && inside(c.0.len(), c.1, m, n));
    let threads = rayon::current_num_threads();
    // Small products are not worth waking the pool for.
    let parallel = if threads > 1 && m * n * k > 1 << 18 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
    // SAFETY: the assertion above keeps every element that the product touches inside the three slices, and `c` is borrowed
    // mutably, so it overlaps neither of the others.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.0.as_mut_ptr().add(c.1.at),
            c.1.column as isize,
            c.1.row as isize,
            add,
            a.0.as_ptr().add(a.1.at),
            a.1.column as isize,
            a.1.row as isize,
            b.0.as_ptr().add(b.1.at),
            b.1.column as isize,
            b.1.row as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            parallel,
        );
    }
}

impl Params {
    /// The same, with the result added to what stands there.
    fn adding(self, accumulate: bool) -> Params {
        Params { flags: self.flags | if accumulate { ACCUMULATE } else { 0 }, ..self }
    }

    fn cost(&self) -> Cost {
        let (rows, inputs, outputs, groups) = self.usizes();
        cost(groups * (rows * inputs + outputs * (inputs + 1 + rows)), 2 * rows * groups * inputs * outputs)
    }

    fn usizes(&self) -> (usize, usize, usize, usize) {
        (self.rows as usize, self.inputs as usize, self.outputs as usize, self.groups as usize)
    }
    /// x of group g, [B, K].
    fn x(&self, g: usize) -> Matrix {
        Matrix { at: g * self.inputs as usize, row: (self.groups * self.inputs) as usize, column: 1 }
    }
    /// y of group g, [B, N].
    fn y(&self, g: usize) -> Matrix {
        Matrix { at: g * self.outputs as usize, row: (self.groups * self.outputs) as usize, column: 1 }
    }
    /// w of group g, [K, N].
    fn w(&self, g: usize) -> Matrix {
        Matrix { at: g * (self.inputs * self.outputs) as usize, row: self.outputs as usize, column: 1 }
    }
}

fn transposed(x: Matrix) -> Matrix {
    Matrix { row: x.column, column: x.row, ..x }
}

fn forward(p: &Params, args: &mut Args) {
    let (rows, inputs, outputs, groups) = p.usizes();
    let (x, w, bias) = (args.read::<f32>(0), args.read::<f32>(1), args.read::<f32>(2));
    let y = args.write::<f32>(3);
    let columns = groups * outputs;
    let has_bias = p.flags & BIAS != 0;
    if has_bias {
        y.par_chunks_mut(columns * BLOCK).for_each(|rows| rows.chunks_exact_mut(columns).for_each(|r| r.copy_from_slice(bias)));
    }
    for g in 0..groups {
        product(rows, outputs, inputs, (x, p.x(g)), (w, p.w(g)), (&mut *y, p.y(g)), has_bias);
    }
    if p.activation == 1 {
        y.par_chunks_mut(columns * BLOCK).for_each(|y| y.iter_mut().for_each(|y| *y = y.max(0.0)));
    }
}

/// The gradient before the activation, in `scratch` if it differs from `dy`.
fn before_activation<'a>(p: &Params, dy: &'a [f32], y: &[f32], scratch: &'a mut [f32]) -> &'a [f32] {
    if p.activation == 0 {
        return dy;
    }
    let block = BLOCK * BLOCK;
    scratch.par_chunks_mut(block).zip(dy.par_chunks(block)).zip(y.par_chunks(block)).for_each(|((d, dy), y)| {
        for ((d, &dy), &y) in d.iter_mut().zip(dy).zip(y) {
            *d = if y > 0.0 { dy } else { 0.0 };
        }
    });
    scratch
}

fn input_gradient(p: &Params, args: &mut Args) {
    let (rows, inputs, outputs, groups) = p.usizes();
    let (dy, y, w) = (args.read::<f32>(0), args.read::<f32>(1), args.read::<f32>(2));
    let dx = args.write::<f32>(3);
    let d = before_activation(p, dy, y, args.scratch(dy.len()));
    for g in 0..groups {
        let add = p.flags & ACCUMULATE != 0;
        product(rows, inputs, outputs, (d, p.y(g)), (w, transposed(p.w(g))), (&mut *dx, p.x(g)), add);
    }
}

fn weight_gradient(p: &Params, args: &mut Args) {
    let (rows, inputs, outputs, groups) = p.usizes();
    let (x, dy, y) = (args.read::<f32>(0), args.read::<f32>(1), args.read::<f32>(2));
    let (dw, dbias) = (args.write::<f32>(3), args.write::<f32>(4));
    let add = p.flags & ACCUMULATE != 0;
    let d = before_activation(p, dy, y, args.scratch(dy.len()));
    for g in 0..groups {
        product(inputs, outputs, rows, (x, transposed(p.x(g))), (d, p.y(g)), (&mut *dw, p.w(g)), add);
    }
    let columns = groups * outputs;
    dbias.par_chunks_mut(BLOCK).enumerate().for_each(|(block, sums)| {
        if !add {
            sums.fill(0.0);
        }
        for row in d.chunks_exact(columns) {
            let row = &row[block * BLOCK..][..sums.len()];
            sums.iter_mut().zip(row).for_each(|(sum, d)| *sum += d);
        }
    });
}

/// Forward and both gradients at awkward shapes.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, groups, inputs, outputs, relu, bias) in [
        (1, 1, 1, 1, false, true),
        (7, 1, 3, 5, true, true),
        (64, 1, 64, 64, true, true),
        (65, 1, 67, 129, false, false),
        (130, 4, 33, 17, true, true),
        (33, 2, 70, 1, false, true),
        (300, 2, 16, 66, true, false),
    ] {
        for twice in [false, true] {
            let name = format!("linear {rows} rows, {groups} x {inputs} x {outputs}, relu {relu}, bias {bias}, twice {twice}");
            let terms = rows.max(inputs).max(outputs);
            cases.push(Case::new(name, terms, move |s| {
                let x = s.state_tensor("x", &normals(1, rows * groups * inputs, 1.0));
                let w = s.state_tensor("w", &normals(2, groups * inputs * outputs, 0.5));
                let b = bias.then(|| s.state_tensor("bias", &normals(3, groups * outputs, 0.5)));
                let dy = s.input(&normals(4, rows * groups * outputs, 1.0));
                let g = &mut s.graph;
                let shape = Linear {
                    rows,
                    groups,
                    inputs,
                    outputs,
                    activation: if relu { Activation::Relu } else { Activation::Identity },
                    input_gradient: true,
                };
                let y = linear(g, x, w, b, shape);
                g.seed(y, dy);
                if twice {
                    // The input is read by a second layer, so its gradient accumulates.
                    let w2 = s.state_tensor("w2", &normals(5, groups * inputs * outputs, 0.5));
                    let z = linear(&mut s.graph, x, w2, None, shape);
                    s.graph.seed(z, dy);
                    s.graph.output(z);
                }
                let g = &mut s.graph;
                g.backward();
                for t in [Some(x), Some(w), b].into_iter().flatten() {
                    if let Some(d) = g.gradient(t) {
                        g.output(d);
                    }
                }
                g.output(y);
            }));
        }
    }
    cases
}
