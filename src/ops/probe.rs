//! Probes of a device: the rate of copies and of multiply-adds. No part of a model; `tauten doctor` measures with them.

use super::check::{Case, normals};
use super::{Access, Args, Dispatch, Kernel, cost, fold, params};
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

const SOURCE: &str = include_str!("../../shaders/probe.wgsl");
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
    let chunk = |to: &mut [f32], from: &[f32]| {
        for (to, from) in to.chunks_exact_mut(LANES).zip(from.chunks_exact(LANES)) {
            let mut x = [[0f32; LANES]; CHAINS];
            for (c, x) in x.iter_mut().enumerate() {
                x.iter_mut().zip(from).for_each(|(x, from)| *x = from + c as f32);
            }
            for _ in 0..p.rounds {
                // Two roundings where the shader may have one: the targets of a plain build have no such instruction.
                x.iter_mut().for_each(|x| x.iter_mut().for_each(|x| *x = *x * p.a + p.b));
            }
            for (i, to) in to.iter_mut().enumerate() {
                *to = ((x[0][i] + x[1][i]) + (x[2][i] + x[3][i])) + ((x[4][i] + x[5][i]) + (x[6][i] + x[7][i]));
            }
        }
    };
    to.par_chunks_mut(BLOCK * LANES).zip(from.par_chunks(BLOCK * LANES)).for_each(|(to, from)| chunk(to, from));
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
