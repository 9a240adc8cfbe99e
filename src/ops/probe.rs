//! Probes of a device: the rate of copies and of multiply-adds. No part of a model; `tauten doctor` and
//! `tauten profile` measure with them.

use super::check::{Case, normals};
use super::{Access, Args, Dispatch, Kernel, Shader, cost, fold, params, shader};
use crate::graph::{Graph, TensorId};
use rayon::prelude::*;

params! {
    struct Params {
        count: u32,
        rounds: u32,
        a: f32,
        b: f32,
    }
}

const SOURCE: Shader = shader!("probe");
const BINDINGS: &[(u32, Access)] = &[(1, Access::Read), (2, Access::Write)];
static COPY: Kernel = Params::kernel("probe_copy", SOURCE, "copy", BINDINGS);
static MULTIPLY_ADD: Kernel = Params::kernel("probe_fma", SOURCE, "multiply_add", BINDINGS);

/// Words of a vector.
const LANES: usize = 4;
/// Chains of an invocation, four lanes each.
const CHAINS: usize = 8;
/// Vectors that one task of a twin handles.
const BLOCK: usize = 4096;

/// to = from; both of a multiple of four words.
pub fn copy(g: &mut Graph, from: TensorId, to: TensorId) {
    let count = vectors(g, from, to);
    let op = Dispatch {
        kernel: &COPY,
        params: Params { count: count as u32, rounds: 0, a: 0.0, b: 0.0 },
        workgroups: fold(count.div_ceil(256)),
        cost: cost(2 * LANES * count, 0),
        twin: run_copy,
    };
    g.push(op, &[from, to]);
}

/// to = the sums of chains x = 0.99 x + 0.01 that start at from + 0, ..., from + 7, `rounds` long; both of a multiple of four words.
/// 64 operations a round and vector.
pub fn multiply_add(g: &mut Graph, from: TensorId, to: TensorId, rounds: usize) {
    let count = vectors(g, from, to);
    let op = Dispatch {
        kernel: &MULTIPLY_ADD,
        params: Params { count: count as u32, rounds: rounds as u32, a: 0.99, b: 0.01 },
        workgroups: fold(count.div_ceil(256)),
        cost: cost(2 * LANES * count, 2 * LANES * CHAINS * count * rounds),
        twin: run_multiply_add,
    };
    g.push(op, &[from, to]);
}

fn vectors(g: &Graph, from: TensorId, to: TensorId) -> usize {
    let len = g.get(from).len;
    assert!(len == g.get(to).len && len.is_multiple_of(LANES), "probes take as many words as they give, a multiple of four");
    len / LANES
}

fn run_copy(_: &Params, args: &mut Args) {
    let (from, to) = (args.read::<f32>(0), args.write::<f32>(1));
    to.par_chunks_mut(BLOCK * LANES).zip(from.par_chunks(BLOCK * LANES)).for_each(|(to, from)| to.copy_from_slice(from));
}

fn run_multiply_add(p: &Params, args: &mut Args) {
    let (from, to) = (args.read::<f32>(0), args.write::<f32>(1));
    let arch = pulp::Arch::new();
    to.par_chunks_mut(BLOCK * LANES)
        .zip(from.par_chunks(BLOCK * LANES))
        .for_each(|(to, from)| arch.dispatch(Chains { p, to, from }));
}

/// The chains of some words, by the widest multiply-adds that the processor has: what the matrix products use too.
struct Chains<'a> {
    p: &'a Params,
    to: &'a mut [f32],
    from: &'a [f32],
}

impl pulp::WithSimd for Chains<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        let ((from, from_rest), (to, to_rest)) = (S::as_simd_f32s(self.from), S::as_mut_simd_f32s(self.to));
        for (to, &from) in to.iter_mut().zip(from) {
            *to = chains(simd, self.p, from);
        }
        simd.partial_store_f32s(to_rest, chains(simd, self.p, simd.partial_load_f32s(from_rest)));
    }
}

/// Inlined into what has the processor's instructions: without them a multiply-add is a call.
#[inline(always)]
fn chains<S: pulp::Simd>(simd: S, p: &Params, from: S::f32s) -> S::f32s {
    let (a, b) = (simd.splat_f32s(p.a), simd.splat_f32s(p.b));
    let mut x = [from; CHAINS];
    for (c, x) in x.iter_mut().enumerate() {
        *x = simd.add_f32s(*x, simd.splat_f32s(c as f32));
    }
    for _ in 0..p.rounds {
        for x in &mut x {
            *x = simd.mul_add_f32s(*x, a, b);
        }
    }
    let mut half = CHAINS / 2;
    while half > 0 {
        for i in 0..half {
            // (0 + 1) + (2 + 3), ..., as the shader does.
            x[i] = simd.add_f32s(x[2 * i], x[2 * i + 1]);
        }
        half /= 2;
    }
    x[0]
}

/// One vector, more than a workgroup, a part of a workgroup.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for vectors in [1, 257, 70_001] {
        cases.push(Case::new(format!("probe copy of {vectors} vectors"), 1, move |s| {
            let from = s.input(&normals(1, LANES * vectors, 1.0));
            let to = s.graph.transient("to", LANES * vectors);
            copy(&mut s.graph, from, to);
            s.graph.output(to);
        }));
    }
    for (vectors, rounds) in [(1, 1), (300, 100), (70_001, 3)] {
        cases.push(Case::new(format!("probe fma of {vectors} vectors, {rounds} rounds"), CHAINS, move |s| {
            let from = s.input(&normals(1, LANES * vectors, 1.0));
            let to = s.graph.transient("to", LANES * vectors);
            multiply_add(&mut s.graph, from, to, rounds);
            s.graph.output(to);
        }));
    }
    cases
}
