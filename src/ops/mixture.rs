//! Mixtures of experts by softmax gates (MMoE, Ma et al., KDD 2018; PLE, Tang et al., RecSys 2020), or by given weights.

use super::check::{Case, normals};
use super::vector::dot;
use super::{Access, Args, Cost, Dispatch, Kernel, Shader, Variant, cost, fold, params, shader, unit};
use crate::graph::{Arg, Block, Graph, TensorId};
use rayon::prelude::*;
use std::ops::Range;

/// Most mixtures in one op.
pub const MOST: usize = 4;

/// Which experts each of several mixtures is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gates {
    /// Mixtures, T.
    pub tasks: usize,
    first: [usize; MOST],
    count: [usize; MOST],
}

impl Gates {
    /// One mixture a range of experts, four at most.
    pub fn new(ranges: &[Range<usize>]) -> Gates {
        assert!(ranges.len() <= MOST && ranges.iter().all(|r| !r.is_empty()), "mixtures of {ranges:?}");
        let mut gates = Gates { tasks: ranges.len(), first: [0; MOST], count: [0; MOST] };
        for (t, range) in ranges.iter().enumerate() {
            (gates.first[t], gates.count[t]) = (range.start, range.len());
        }
        gates
    }

    /// `tasks` mixtures of all of `experts` experts.
    pub fn all(tasks: usize, experts: usize) -> Gates {
        Gates::new(&vec![0..experts; tasks])
    }

    /// Columns of logits and weights, P: those of the first mixture's experts, then those of the second's.
    pub fn columns(&self) -> usize {
        self.count.iter().sum()
    }
}

/// Shape of a mixture.
#[derive(Debug, Clone, Copy)]
pub struct Mixture {
    /// Rows of the minibatch, B.
    pub rows: usize,
    /// Experts, E.
    pub experts: usize,
    /// Columns of an expert, H.
    pub width: usize,
    /// Which experts are mixed.
    pub gates: Gates,
}

params! {
    struct Params {
        rows: u32,
        tasks: u32,
        experts: u32,
        width: u32,
        gates: u32,
        accumulate: u32,
        pad0: u32,
        pad1: u32,
        first: [u32; 4],
        count: [u32; 4],
        start: [u32; 4],
    }
}

const SOURCE: Shader = shader!(stored "by_one", "mixture");
const BY_FOUR: Shader = shader!(stored "by_four", "mixture");
static SOFTMAX: Kernel = Params::kernel("softmax", SOURCE, "softmax", &[(1, Access::Read), (2, Access::Write)]);
static MIX: Kernel =
    Params::kernel("mix", SOURCE, "mix", &[(3, Access::Read), (4, Access::Read), (5, Access::Write)]).stored(&[4], &[5]);
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
    &[(6, Access::Read), (4, Access::Read), (8, Access::Update)],
)
.stored(&[4], &[]);
static SOFTMAX_GRADIENT: Kernel = Params::kernel(
    "softmax_gradient",
    SOURCE,
    "softmax_gradient",
    &[(3, Access::Read), (9, Access::Read), (10, Access::Update)],
);

impl Mixture {
    /// How many columns of an expert or a mixture an invocation handles at a time.
    fn unit(&self) -> usize {
        unit(&[self.width])
    }

    /// The op over a block of rows; `invocations`, words and operations are a row's.
    fn op(
        &self,
        kernel: &'static Kernel,
        block: Block,
        accumulate: bool,
        invocations: usize,
        of_row: Cost,
        twin: fn(&Params, &mut Args),
    ) -> Variant<Params> {
        let Gates { tasks, first, count } = self.gates;
        let mut start = [0; MOST];
        (1..MOST).for_each(|t| start[t] = start[t - 1] + count[t - 1]);
        let params = Params {
            rows: block.rows as u32,
            tasks: tasks as u32,
            experts: self.experts as u32,
            width: self.width as u32,
            gates: self.gates.columns() as u32,
            accumulate: accumulate.into(),
            pad0: 0,
            pad1: 0,
            first: first.map(|x| x as u32),
            count: count.map(|x| x as u32),
            start: start.map(|x| x as u32),
        };
        let workgroups = fold((block.rows * invocations).div_ceil(256));
        let rows = block.rows as f64;
        let dispatch = Dispatch {
            kernel,
            params,
            workgroups,
            cost: Cost { bytes: rows * of_row.bytes, flops: rows * of_row.flops, ..Cost::default() },
            twin,
        };
        Variant::by(self.unit(), BY_FOUR, dispatch)
    }
}

/// out[b, t] = sum_e softmax(logits[b, t])_e f[b, e]: logits [B, P], f [B, E * H], out [B, T * H].
pub fn mixture(g: &mut Graph, logits: TensorId, f: TensorId, shape: Mixture) -> TensorId {
    let p = softmax(g, logits, shape);
    mix(g, p, f, shape)
}

/// The softmax of each mixture's logits: logits and result [B, P].
fn softmax(g: &mut Graph, logits: TensorId, shape: Mixture) -> TensorId {
    let (rows, tasks, gates) = (shape.rows, shape.gates.tasks, shape.gates.columns());
    let p = g.transient("gates", rows * gates);
    g.push_rows(rows, &[Arg::Rows(logits), Arg::Rows(p)], |block| {
        shape.op(&SOFTMAX, block, false, tasks, cost(2 * gates, 4 * gates), run_softmax)
    });
    g.on_backward(move |g| {
        let Some(dp) = g.gradient(p) else { return };
        let (dlogits, add) = g.gradient_target(logits);
        g.push_rows(rows, &[Arg::Rows(p), Arg::Rows(dp), Arg::Rows(dlogits)], |block| {
            shape.op(&SOFTMAX_GRADIENT, block, add, tasks, cost(3 * gates, 4 * gates), softmax_gradient)
        });
    });
    p
}

/// out[b, t] = sum_e p[b, t, e] f[b, e]: weights p [B, P], f [B, E * H], out [B, T * H].
pub fn mix(g: &mut Graph, p: TensorId, f: TensorId, shape: Mixture) -> TensorId {
    let Mixture { rows, experts, width, gates } = shape;
    let (tasks, gates) = (gates.tasks, gates.columns());
    let out = g.activation("mixture", rows * tasks * width);
    let formats = [f, out].map(|tensor| g.get(tensor).format);
    let all_f32 = cost(gates + experts * width + tasks * width, 2 * gates * width);
    let reading_f = all_f32.stored(experts * width, formats[0]);
    g.push_rows(rows, &[Arg::Rows(p), Arg::Rows(f), Arg::Rows(out)], |block| {
        shape.op(&MIX, block, false, tasks * width / shape.unit(), reading_f.stored(tasks * width, formats[1]), run_mix)
    });
    g.on_backward(move |g| {
        let Some(dout) = g.gradient(out) else { return };
        let (dp, add) = g.gradient_target(p);
        g.push_rows(rows, &[Arg::Rows(dout), Arg::Rows(f), Arg::Rows(dp)], |block| {
            shape.op(&WEIGHT_GRADIENT, block, add, gates, reading_f, weight_gradient)
        });
        let (df, add) = g.gradient_target(f);
        g.push_rows(rows, &[Arg::Rows(p), Arg::Rows(dout), Arg::Rows(df)], |block| {
            shape.op(&EXPERT_GRADIENT, block, add, experts * width / shape.unit(), all_f32, expert_gradient)
        });
    });
    out
}

impl Params {
    /// For each mixture of a row: its weights' columns and its experts' columns.
    fn parts(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + '_ {
        (0..self.tasks as usize).map(|t| {
            let (first, count, start) = (self.first[t] as usize, self.count[t] as usize, self.start[t] as usize);
            let width = self.width as usize;
            (start..start + count, first * width..(first + count) * width)
        })
    }

    /// Columns of weights, of experts, of mixtures.
    fn columns(&self) -> (usize, usize, usize) {
        (self.gates as usize, (self.experts * self.width) as usize, (self.tasks * self.width) as usize)
    }
}

fn run_softmax(params: &Params, args: &mut Args) {
    let (gates, ..) = params.columns();
    let (logits, p) = (args.read::<f32>(0), args.write::<f32>(1));
    p.par_chunks_exact_mut(gates).with_min_len(128).zip(logits.par_chunks_exact(gates)).for_each(|(p, logits)| {
        for (own, _) in params.parts() {
            let (p, logits) = (&mut p[own.clone()], &logits[own]);
            let largest = logits.iter().fold(f32::MIN, |a, &b| a.max(b));
            p.iter_mut().zip(logits).for_each(|(p, l)| *p = (l - largest).exp());
            let sum: f32 = p.iter().sum();
            p.iter_mut().for_each(|p| *p /= sum);
        }
    });
}

fn run_mix(params: &Params, args: &mut Args) {
    let ((gates, values, mixtures), width) = (params.columns(), params.width as usize);
    let (p, f, mut out) = (args.read::<f32>(0), args.numbers(1), args.numbers_mut(2));
    let rows = out.par_chunks_exact_mut(mixtures).with_min_len(32);
    rows.zip(p.par_chunks_exact(gates)).zip(f.par_chunks_exact(values)).for_each(|((out, p), f)| {
        out.fill(0.0);
        for (out, (own, experts)) in out.chunks_exact_mut(width).zip(params.parts()) {
            for (p, f) in p[own].iter().zip(f[experts].chunks_exact(width)) {
                out.iter_mut().zip(f).for_each(|(out, f)| *out += p * f);
            }
        }
    });
}

fn expert_gradient(params: &Params, args: &mut Args) {
    let ((gates, values, mixtures), width) = (params.columns(), params.width as usize);
    let (p, dout, df) = (args.read::<f32>(0), args.read::<f32>(1), args.write::<f32>(2));
    let rows = df.par_chunks_exact_mut(values).with_min_len(32);
    rows.zip(p.par_chunks_exact(gates)).zip(dout.par_chunks_exact(mixtures)).for_each(|((df, p), dout)| {
        if params.accumulate == 0 {
            df.fill(0.0);
        }
        for (dout, (own, experts)) in dout.chunks_exact(width).zip(params.parts()) {
            for (p, df) in p[own].iter().zip(df[experts].chunks_exact_mut(width)) {
                df.iter_mut().zip(dout).for_each(|(df, dout)| *df += p * dout);
            }
        }
    });
}

fn weight_gradient(params: &Params, args: &mut Args) {
    let ((gates, values, mixtures), width) = (params.columns(), params.width as usize);
    let (dout, f, dp) = (args.read::<f32>(0), args.numbers(1), args.write::<f32>(2));
    let rows = dp.par_chunks_exact_mut(gates).with_min_len(32);
    rows.zip(dout.par_chunks_exact(mixtures)).zip(f.par_chunks_exact(values)).for_each(|((dp, dout), f)| {
        for (dout, (own, experts)) in dout.chunks_exact(width).zip(params.parts()) {
            for (dp, f) in dp[own].iter_mut().zip(f[experts].chunks_exact(width)) {
                let sum = dot(dout, f);
                *dp = if params.accumulate != 0 { *dp + sum } else { sum };
            }
        }
    });
}

fn softmax_gradient(params: &Params, args: &mut Args) {
    let (gates, ..) = params.columns();
    let (p, dp, dlogits) = (args.read::<f32>(0), args.read::<f32>(1), args.write::<f32>(2));
    for ((d, p), dp) in dlogits.chunks_exact_mut(gates).zip(p.chunks_exact(gates)).zip(dp.chunks_exact(gates)) {
        for (own, _) in params.parts() {
            let (d, p, dp) = (&mut d[own.clone()], &p[own.clone()], &dp[own]);
            let mean: f32 = p.iter().zip(dp).map(|(p, dp)| p * dp).sum();
            for ((d, p), dp) in d.iter_mut().zip(p).zip(dp) {
                let value = p * (dp - mean);
                *d = if params.accumulate != 0 { *d + value } else { value };
            }
        }
    }
}

/// Forward and backward with several tasks and experts, over all of them and over some, large logits and accumulation.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, experts, width, gates) in [
        (1, 1, 1, Gates::all(1, 1)),
        (3, 5, 7, Gates::all(2, 5)),
        (130, 4, 33, Gates::all(2, 4)),
        (65, 2, 64, Gates::all(3, 2)),
        (70, 5, 9, Gates::new(&[0..3, 0..5, 2..5])),
        (66, 7, 4, Gates::new(&[6..7, 1..3, 3..7, 0..2])),
    ] {
        for (scale, twice) in [(1.0, false), (20.0, true)] {
            let name = format!("mixture {rows} rows, {experts} x {width}, {gates:?}, logits times {scale}, twice {twice}");
            cases.push(Case::new(name, width.max(experts), move |s| {
                let logits = s.state_tensor("logits", &normals(1, rows * gates.columns(), scale));
                let f = s.activation("f", rows, &normals(2, rows * experts * width, 1.0));
                let dout = s.input(&normals(3, rows * gates.tasks * width, 1.0));
                let shape = Mixture { rows, experts, width, gates };
                for _ in 0..1 + usize::from(twice) {
                    let out = mixture(&mut s.graph, logits, f, shape);
                    s.graph.seed(out, dout);
                    s.output_activation(out, rows);
                }
                // Weights that are given, used twice.
                let p = s.state_tensor("p", &normals(4, rows * gates.columns(), 1.0));
                for _ in 0..1 + usize::from(twice) {
                    let out = mix(&mut s.graph, p, f, shape);
                    s.graph.seed(out, dout);
                    s.output_activation(out, rows);
                }
                let g = &mut s.graph;
                g.backward();
                for t in [logits, f, p] {
                    let d = g.gradient_target(t).0;
                    g.output(d);
                }
            }));
        }
    }
    cases
}
