//! An activation by itself, where something stands between it and the linear layer. Elsewhere it is part of
//! [`linear`](super::linear).

use super::check::{Case, normals};
use super::linear::{ACCUMULATE, ACTIVATE, ACTIVATE_BACKWARD, Params, activated, number};
use super::{Args, Dispatch, cost, fold};
use crate::config::Activation;
use crate::graph::{Arg, Block, Graph, TensorId};
use bytemuck::Zeroable;
use rayon::prelude::*;

/// Elements that one task of a twin handles.
const BLOCK: usize = 4096;

/// act(x) of the same shape [B, columns]; x itself for the identity.
pub fn activation(g: &mut Graph, x: TensorId, rows: usize, activation: Activation) -> TensorId {
    if activation == Activation::Identity {
        return x;
    }
    let len = g.get(x).len;
    let y = g.activation("activated", len);
    let formats = [x, y].map(|tensor| g.get(tensor).format);
    let op = move |kernel, block: Block, words: usize, accumulate: bool, twin| {
        let count = block.rows * (len / rows);
        let params = Params {
            rows: block.rows as u32,
            outputs: (len / rows) as u32,
            groups: 1,
            activation: number(activation),
            flags: if accumulate { ACCUMULATE } else { 0 },
            ..Params::zeroed()
        };
        Dispatch {
            kernel,
            params,
            workgroups: fold(count.div_ceil(256)),
            cost: cost(words * count, 10 * count).stored(count, formats[0]),
            twin,
        }
    };
    g.push_rows(rows, &[Arg::Rows(x), Arg::Rows(y)], |block| {
        let op = op(&ACTIVATE, block, 2, false, forward);
        Dispatch { cost: op.cost.stored(block.rows * (len / rows), formats[1]), ..op }
    });
    g.on_backward(move |g| {
        let Some(dy) = g.gradient(y) else { return };
        let (dx, accumulate) = g.gradient_target(x);
        g.push_rows(rows, &[Arg::Rows(x), Arg::Rows(dy), Arg::Rows(dx)], |block| {
            op(&ACTIVATE_BACKWARD, block, if accumulate { 4 } else { 3 }, accumulate, backward)
        });
    });
    y
}

fn forward(p: &Params, args: &mut Args) {
    let (x, mut y) = (args.numbers(0), args.numbers_mut(1));
    y.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).for_each(|(y, x)| {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = activated(p.activation, x).0);
    });
}

fn backward(p: &Params, args: &mut Args) {
    let (x, dy, dx) = (args.numbers(0), args.read::<f32>(1), args.write::<f32>(2));
    dx.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).zip(dy.par_chunks(BLOCK)).for_each(|((dx, x), dy)| {
        for ((dx, &x), dy) in dx.iter_mut().zip(x).zip(dy) {
            let gradient = dy * activated(p.activation, x).1;
            *dx = if p.flags & ACCUMULATE != 0 { *dx + gradient } else { gradient };
        }
    });
}

/// Every activation at ragged sizes, far into both tails and close to 0; a gradient that is there already.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [Activation::Relu, Activation::Tanh, Activation::Gelu, Activation::Silu] {
        for (rows, columns, twice) in [(1, 1, false), (66, 5, false), (130, 7, true)] {
            cases.push(Case::new(format!("activation {kind:?}, {rows}x{columns}, twice {twice}"), 1, move |s| {
                let mut values = normals(1, rows * columns, 2.0);
                let ends = [0.0, 20.0, -20.0, 200.0, -200.0, 1e-3, -1e-3];
                values.iter_mut().skip(1).zip(ends).for_each(|(x, end)| *x = end);
                let x = s.activation("x", rows, &values);
                for i in 0..if twice { 2 } else { 1 } {
                    let dy = s.input(&normals(2 + i, rows * columns, 1.0));
                    let y = activation(&mut s.graph, x, rows, kind);
                    s.graph.seed(y, dy);
                    s.output_activation(y, rows);
                }
                s.graph.backward();
                let dx = s.graph.gradient(x);
                dx.into_iter().for_each(|dx| s.graph.output(dx));
            }));
        }
    }
    cases
}
