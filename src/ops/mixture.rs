//! Mixtures of experts by softmax gates (MMoE, Ma et al., KDD 2018).

use super::check::{Case, normals};
use super::{Access, Args, Dispatch, Kernel, cost, fold, params};
use crate::graph::{Arg, Block, Graph, TensorId};
use rayon::prelude::*;

/// Shape of a mixture.
#[derive(Debug, Clone, Copy)]
pub struct Mixture {
    /// Rows of the minibatch, B.
    pub rows: usize,
    /// Mixtures of the same experts, T.
    pub tasks: usize,
    /// Experts, E.
    pub experts: usize,
    /// Columns of an expert, H.
    pub width: usize,
}

params! {
    struct Params {
        rows: u32,
        tasks: u32,
        experts: u32,
        width: u32,
        accumulate: u32,
        pad0: u32,
        pad1: u32,
        pad2: u32,
    }
}

const SOURCE: &str = include_str!("../../shaders/mixture.wgsl");
static SOFTMAX: Kernel = Params::kernel("softmax", SOURCE, "softmax", &[(1, Access::Read), (2, Access::Write)]);
static MIX: Kernel = Params::kernel("mix", SOURCE, "mix", &[(3, Access::Read), (4, Access::Read), (5, Access::Write)]);
static EXPERT_GRADIENT: Kernel = Params::kernel(
    "mix_expert_gradient",
    SOURCE,
    "expert_gradient",
    &[(3, Access::Read), (6, Access::Read), (7, Access::Update)],
);
static WEIGHT_GRADIENT: Kernel = Params::kernel(
    "mix_weight_gradient",
    SOURCE,
    "weight_gradient",
    &[(6, Access::Read), (4, Access::Read), (8, Access::Write)],
);
static SOFTMAX_GRADIENT: Kernel = Params::kernel(
    "softmax_gradient",
    SOURCE,
    "softmax_gradient",
    &[(3, Access::Read), (9, Access::Read), (10, Access::Update)],
);

/// out[b, t] = sum_e softmax(logits[b, t])_e f[b, e]: logits [B, T * E], f [B, E * H], out [B, T * H].
pub fn mixture(g: &mut Graph, logits: TensorId, f: TensorId, shape: Mixture) -> TensorId {
    let Mixture { rows, tasks, experts, width } = shape;
    let params = Params {
        rows: rows as u32,
        tasks: tasks as u32,
        experts: experts as u32,
        width: width as u32,
        accumulate: 0,
        pad0: 0,
        pad1: 0,
        pad2: 0,
    };
    // `invocations`: a row's.
    let op = move |kernel, block: Block, invocations: usize, (words, flops), twin| Dispatch {
        kernel,
        params: Params { rows: block.rows as u32, ..params },
        workgroups: fold((block.rows * invocations).div_ceil(256)),
        cost: cost(block.rows * words, block.rows * flops),
        twin,
    };
    let (gates, values) = (tasks * experts, experts * width);
    let (softmax_cost, mix_cost) = ((2 * gates, 4 * gates), (gates + values + tasks * width, 2 * tasks * values));
    let p = g.transient("gates", rows * gates);
    let out = g.transient("mixture", rows * tasks * width);
    g.push_rows(rows, &[Arg::Rows(logits), Arg::Rows(p)], |block| op(&SOFTMAX, block, tasks, softmax_cost, softmax));
    g.push_rows(rows, &[Arg::Rows(p), Arg::Rows(f), Arg::Rows(out)], |block| op(&MIX, block, tasks * width, mix_cost, mix));
    g.on_backward(move |g| {
        let Some(dout) = g.gradient(out) else { return };
        let dp = g.transient("gradient of gates", rows * gates);
        let adding = |dispatch: Dispatch<Params>, add: bool| {
            let params = Params { accumulate: add.into(), ..dispatch.params };
            Dispatch { params, ..dispatch }
        };
        g.push_rows(rows, &[Arg::Rows(dout), Arg::Rows(f), Arg::Rows(dp)], |block| {
            op(&WEIGHT_GRADIENT, block, gates, mix_cost, weight_gradient)
        });
        let (dlogits, add) = g.gradient_target(logits);
        g.push_rows(rows, &[Arg::Rows(p), Arg::Rows(dp), Arg::Rows(dlogits)], |block| {
            adding(op(&SOFTMAX_GRADIENT, block, tasks, softmax_cost, softmax_gradient), add)
        });
        let (df, add) = g.gradient_target(f);
        g.push_rows(rows, &[Arg::Rows(p), Arg::Rows(dout), Arg::Rows(df)], |block| {
            adding(op(&EXPERT_GRADIENT, block, values, mix_cost, expert_gradient), add)
        });
    });
    out
}

impl Params {
    fn usizes(&self) -> (usize, usize, usize) {
        (self.tasks as usize, self.experts as usize, self.width as usize)
    }
}

fn softmax(params: &Params, args: &mut Args) {
    let (_, experts, _) = params.usizes();
    let (logits, p) = (args.read::<f32>(0), args.write::<f32>(1));
    p.par_chunks_exact_mut(experts).with_min_len(256).zip(logits.par_chunks_exact(experts)).for_each(|(p, logits)| {
        let largest = logits.iter().fold(f32::MIN, |a, &b| a.max(b));
        p.iter_mut().zip(logits).for_each(|(p, l)| *p = (l - largest).exp());
        let sum: f32 = p.iter().sum();
        p.iter_mut().for_each(|p| *p /= sum);
    });
}

fn mix(params: &Params, args: &mut Args) {
    let (tasks, experts, width) = params.usizes();
    let (p, f, out) = (args.read::<f32>(0), args.read::<f32>(1), args.write::<f32>(2));
    out.par_chunks_exact_mut(tasks * width)
        .with_min_len(32)
        .zip(p.par_chunks_exact(tasks * experts))
        .zip(f.par_chunks_exact(experts * width))
        .for_each(|((out, p), f)| {
            out.fill(0.0);
            for (out, p) in out.chunks_exact_mut(width).zip(p.chunks_exact(experts)) {
                for (p, f) in p.iter().zip(f.chunks_exact(width)) {
                    out.iter_mut().zip(f).for_each(|(out, f)| *out += p * f);
                }
            }
        });
}

fn expert_gradient(params: &Params, args: &mut Args) {
    let (tasks, experts, width) = params.usizes();
    let (p, dout, df) = (args.read::<f32>(0), args.read::<f32>(1), args.write::<f32>(2));
    df.par_chunks_exact_mut(experts * width)
        .with_min_len(32)
        .zip(p.par_chunks_exact(tasks * experts))
        .zip(dout.par_chunks_exact(tasks * width))
        .for_each(|((df, p), dout)| {
            if params.accumulate == 0 {
                df.fill(0.0);
            }
            for (p, dout) in p.chunks_exact(experts).zip(dout.chunks_exact(width)) {
                for (p, df) in p.iter().zip(df.chunks_exact_mut(width)) {
                    df.iter_mut().zip(dout).for_each(|(df, dout)| *df += p * dout);
                }
            }
        });
}

fn weight_gradient(params: &Params, args: &mut Args) {
    let (tasks, experts, width) = params.usizes();
    let (dout, f, dp) = (args.read::<f32>(0), args.read::<f32>(1), args.write::<f32>(2));
    dp.par_chunks_exact_mut(tasks * experts)
        .with_min_len(32)
        .zip(dout.par_chunks_exact(tasks * width))
        .zip(f.par_chunks_exact(experts * width))
        .for_each(|((dp, dout), f)| {
            for (dp, dout) in dp.chunks_exact_mut(experts).zip(dout.chunks_exact(width)) {
                for (dp, f) in dp.iter_mut().zip(f.chunks_exact(width)) {
                    *dp = dout.iter().zip(f).map(|(d, f)| d * f).sum();
                }
            }
        });
}

fn softmax_gradient(params: &Params, args: &mut Args) {
    let (_, experts, _) = params.usizes();
    let (p, dp, dlogits) = (args.read::<f32>(0), args.read::<f32>(1), args.write::<f32>(2));
    for ((d, p), dp) in dlogits.chunks_exact_mut(experts).zip(p.chunks_exact(experts)).zip(dp.chunks_exact(experts)) {
        let mean: f32 = p.iter().zip(dp).map(|(p, dp)| p * dp).sum();
        for ((d, p), dp) in d.iter_mut().zip(p).zip(dp) {
            let value = p * (dp - mean);
            *d = if params.accumulate != 0 { *d + value } else { value };
        }
    }
}

/// Forward and backward with several tasks and experts, large logits and accumulation.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, tasks, experts, width) in [(1, 1, 1, 1), (3, 2, 5, 7), (130, 2, 4, 33), (65, 3, 2, 64)] {
        for (scale, twice) in [(1.0, false), (20.0, true)] {
            let name = format!("mixture {rows} rows, {tasks} x {experts} x {width}, logits times {scale}, twice {twice}");
            cases.push(Case::new(name, width.max(experts), move |s| {
                let logits = s.state_tensor("logits", &normals(1, rows * tasks * experts, scale));
                let f = s.state_tensor("f", &normals(2, rows * experts * width, 1.0));
                let dout = s.input(&normals(3, rows * tasks * width, 1.0));
                let g = &mut s.graph;
                for _ in 0..1 + usize::from(twice) {
                    let out = mixture(g, logits, f, Mixture { rows, tasks, experts, width });
                    g.seed(out, dout);
                    g.output(out);
                }
                g.backward();
                for t in [logits, f] {
                    let d = g.gradient_target(t).0;
                    g.output(d);
                }
            }));
        }
    }
    cases
}
