//! tau = min + (max - min) * sigmoid(r): the InfoNCE temperature of each row, predicted, learned as one number, or fixed.

use super::check::{Case, normals};
use super::{Access, Args, Cost, Dispatch, Kernel, Shader, fold, params, shader, tree};
use crate::graph::{Arg, Graph, TensorId};
use rayon::prelude::*;

const SOURCE: Shader = shader!("temperature");

params! {
    struct Params {
        rows: u32,
        task: u32,
        low: f32,
        span: f32,
        accumulate: u32,
        pad0: u32,
        pad1: u32,
        pad2: u32,
    }
}

impl Params {
    fn new(rows: usize, task: bool, low: f32, span: f32) -> Params {
        Params { rows: rows as u32, task: task.into(), low, span, accumulate: 0, pad0: 0, pad1: 0, pad2: 0 }
    }

    /// sigmoid(r) and its derivative.
    fn sigmoid(r: f32) -> (f32, f32) {
        let e = (-r.abs()).exp();
        (if r >= 0.0 { 1.0 } else { e } / (1.0 + e), e / ((1.0 + e) * (1.0 + e)))
    }
}

static FORWARD: Kernel = Params::kernel("temperature", SOURCE, "forward", &[(1, Access::Read), (2, Access::Write)]);

static CONSTANT: Kernel = Params::kernel("constant", SOURCE, "constant", &[(2, Access::Write)]);

static BACKWARD_INSTANCE: Kernel = Params::kernel(
    "temperature backward",
    SOURCE,
    "backward_instance",
    &[(1, Access::Read), (3, Access::Read), (4, Access::Update)],
);

static BACKWARD_TASK: Kernel = Params::kernel(
    "temperature backward, one for all",
    SOURCE,
    "backward_task",
    &[(1, Access::Read), (3, Access::Read), (4, Access::Update)],
);

fn forward_op(params: Params) -> Dispatch<Params> {
    Dispatch {
        kernel: &FORWARD,
        params,
        workgroups: fold(params.rows.div_ceil(64) as usize),
        cost: {
            let n = f64::from(params.rows);
            Cost { bytes: 4.0 * if params.task != 0 { n + 1.0 } else { 2.0 * n }, flops: 5.0 * n, ..Cost::default() }
        },
        twin: forward,
    }
}

fn forward(p: &Params, args: &mut Args) {
    let Params { task, low, span, .. } = *p;
    let r = args.read::<f32>(0);
    let tau = args.write::<f32>(1);
    tau.par_iter_mut().enumerate().with_min_len(4096).for_each(|(i, tau)| {
        *tau = low + span * Params::sigmoid(r[if task != 0 { 0 } else { i }]).0;
    });
}

fn constant_op(params: Params) -> Dispatch<Params> {
    Dispatch {
        kernel: &CONSTANT,
        params,
        workgroups: fold(params.rows.div_ceil(64) as usize),
        cost: Cost { bytes: 4.0 * f64::from(params.rows), flops: 0.0, ..Cost::default() },
        twin: fill,
    }
}

fn fill(p: &Params, args: &mut Args) {
    args.write::<f32>(0).fill(p.low);
}

fn backward_op(params: Params) -> Dispatch<Params> {
    Dispatch {
        kernel: if params.task != 0 { &BACKWARD_TASK } else { &BACKWARD_INSTANCE },
        params,
        workgroups: if params.task != 0 { [1, 1, 1] } else { fold(params.rows.div_ceil(64) as usize) },
        cost: {
            let n = f64::from(params.rows);
            if params.task != 0 {
                Cost { bytes: 4.0 * (n + 2.0), flops: n, ..Cost::default() }
            } else {
                Cost { bytes: 4.0 * n * (3.0 + f64::from(params.accumulate)), flops: 6.0 * n, ..Cost::default() }
            }
        },
        twin: backward,
    }
}

fn backward(p: &Params, args: &mut Args) {
    let Params { task, span, accumulate, .. } = *p;
    let (r, dtau) = (args.read::<f32>(0), args.read::<f32>(1));
    let dr = args.write::<f32>(2);
    if task != 0 {
        let gradient = tree(dtau.len(), |i| dtau[i]) * (span * Params::sigmoid(r[0]).1);
        dr[0] = if accumulate != 0 { dr[0] + gradient } else { gradient };
        return;
    }
    dr.par_iter_mut().zip(r).zip(dtau).with_min_len(4096).for_each(|((dr, &r), &dtau)| {
        let gradient = dtau * (span * Params::sigmoid(r).1);
        *dr = if accumulate != 0 { *dr + gradient } else { gradient };
    });
}

/// tau `[rows]` = min + (max - min) * sigmoid(r). `r` is `[rows]`, or with `task` `[1]`, one number for all rows whose gradient is
/// the sum over them.
pub fn temperature(g: &mut Graph, r: TensorId, rows: usize, task: bool, min: f32, max: f32) -> TensorId {
    assert_eq!(g.get(r).len, if task { 1 } else { rows }, "temperature: {} has the wrong length", g.get(r).name);
    let params = Params::new(rows, task, min, max - min);
    let tau = g.transient("tau", rows);
    g.push(forward_op(params), &[r, tau]);
    g.on_backward(move |g| {
        let Some(dtau) = g.gradient(tau) else { return };
        let (dr, accumulate) = g.gradient_target(r);
        g.push(backward_op(Params { accumulate: accumulate.into(), ..params }), &[r, dtau, dr]);
    });
    tau
}

/// `value` in each of `rows` rows: a fixed temperature, say.
pub fn constant(g: &mut Graph, rows: usize, value: f32) -> TensorId {
    let filled = g.transient("constant", rows);
    g.push_rows(rows, &[Arg::Rows(filled)], |block| constant_op(Params::new(block.rows, false, value, 0.0)));
    filled
}

/// Ragged shapes, r far out on both sides, one r for all rows, more workgroups than a dimension holds.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, scale) in [(1, 1.0), (2, 1.0), (63, 20.0), (64, 1.0), (65, 1000.0), (257, 1.0), (1025, 3.0)] {
        for task in [false, true] {
            for accumulate in [false, true] {
                let (of, on) = (if task { "task" } else { "instance" }, if accumulate { " accumulated" } else { "" });
                cases.push(Case::new(
                    format!("temperature {of} {rows} r~{scale}{on}"),
                    if task { rows } else { 1 },
                    move |s| {
                        let r = s.input(&normals(1, if task { 1 } else { rows }, scale));
                        let dtau = s.input(&normals(2, rows, 1.0));
                        let tau = temperature(&mut s.graph, r, rows, task, 0.05, 1.0);
                        s.graph.seed(tau, dtau);
                        if accumulate {
                            let again = temperature(&mut s.graph, r, rows, task, 1e-3, 100.0);
                            let d_again = s.input(&normals(3, rows, 1.0));
                            s.graph.seed(again, d_again);
                        }
                        s.graph.backward();
                        let dr = s.graph.gradient(r).expect("r has a gradient");
                        s.graph.output(tau);
                        s.graph.output(dr);
                    },
                ));
            }
        }
    }
    cases.push(Case::new("temperature instance 4194305, folded workgroups", 1, |s| {
        let rows = 64 * 65_536 + 1;
        let r: Vec<f32> = (0..rows).map(|i| (i % 1021) as f32 * 0.01 - 5.0).collect();
        let r = s.input(&r);
        let tau = temperature(&mut s.graph, r, rows, false, 0.05, 1.0);
        s.graph.output(tau);
    }));
    cases.push(Case::new("constant 130", 1, |s| {
        let filled = constant(&mut s.graph, 130, 0.2);
        s.graph.output(filled);
    }));
    cases
}
