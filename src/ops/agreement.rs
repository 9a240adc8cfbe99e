//! Supervision of the relatedness network: s(r) is trained to predict that a row's two labels disagree, so that tau, which rises
//! with r, is low where the tasks go together.

use super::check::{Case, integers, normals};
use super::losses::{logistic, softplus};
use super::{Access, Args, Dispatch, Kernel, Shader, cost, fold, params, shader};
use crate::graph::{Graph, Input, TensorId};
use rayon::prelude::*;

const SOURCE: Shader = shader!("log1p", "agreement");

params! {
    struct Params {
        rows: u32,
        scale: f32,
        accumulate: u32,
        pad0: u32,
    }
}

static FORWARD: Kernel =
    Params::kernel("agreement", SOURCE, "forward", &[(1, Access::Read), (2, Access::Read), (3, Access::Write)]);
static BACKWARD: Kernel =
    Params::kernel("agreement backward", SOURCE, "backward", &[(1, Access::Read), (2, Access::Read), (4, Access::Update)]);

/// Losses `[rows]` of each row, the cross-entropy of s(r) against \[click != conversion\] over all rows, from `r` `[rows]` and
/// [`Input::Labels`].
///
/// It is a loss: its backward pass starts from nothing and gives `r` the gradient of `weight` * mean over rows. Where conversions
/// follow clicks alone, the labels disagree on clicked rows without a conversion.
pub fn agreement(g: &mut Graph, r: TensorId, rows: usize, weight: f32) -> TensorId {
    assert_eq!(g.get(r).len, rows, "agreement: {} is not [{rows}]", g.get(r).name);
    let params = Params { rows: rows as u32, scale: (f64::from(weight) / rows as f64) as f32, accumulate: 0, pad0: 0 };
    let workgroups = fold(rows.div_ceil(64));
    let labels = g.input(Input::Labels, 2 * rows);
    let losses = g.transient("agreement losses", rows);
    let op = Dispatch { kernel: &FORWARD, params, workgroups, cost: cost(4 * rows, 8 * rows), twin: forward };
    g.push(op, &[r, labels, losses]);
    g.on_backward(move |g| {
        let (dr, accumulate) = g.gradient_target(r);
        let params = Params { accumulate: accumulate.into(), ..params };
        let op = Dispatch { kernel: &BACKWARD, params, workgroups, cost: cost(4 * rows, 6 * rows), twin: backward };
        g.push(op, &[r, labels, dr]);
    });
    losses
}

fn forward(_: &Params, args: &mut Args) {
    let (r, labels, losses) = (args.read::<f32>(0), args.read::<[f32; 2]>(1), args.write::<f32>(2));
    losses.par_iter_mut().zip(r).zip(labels).with_min_len(4096).for_each(|((loss, &r), [click, conversion])| {
        *loss = softplus(if click != conversion { -r } else { r });
    });
}

fn backward(p: &Params, args: &mut Args) {
    let (r, labels, dr) = (args.read::<f32>(0), args.read::<[f32; 2]>(1), args.write::<f32>(2));
    dr.par_iter_mut().zip(r).zip(labels).with_min_len(4096).for_each(|((dr, &r), [click, conversion])| {
        let gradient = p.scale * (logistic(r) - if click != conversion { 1.0 } else { 0.0 });
        *dr = if p.accumulate != 0 { *dr + gradient } else { gradient };
    });
}

/// Ragged shapes, r far out on both sides, labels of all four kinds, a gradient that is there already.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, scale, again) in [(1, 1.0, false), (63, 20.0, true), (65, 80.0, false), (257, 1.0, true), (1025, 3.0, false)] {
        let name = format!("agreement {rows} r~{scale}{}", if again { " accumulated" } else { "" });
        let mut case = Case::new(name, 1, move |s| {
            let r = s.input(&normals(1, rows, scale).iter().map(|x| x.clamp(-80.0, 80.0)).collect::<Vec<f32>>());
            let labels: Vec<[f32; 2]> = integers(2, rows, 4).iter().map(|&l| [(l & 1) as f32, (l >> 1) as f32]).collect();
            s.input_as(Input::Labels, &labels);
            let losses = agreement(&mut s.graph, r, rows, 0.7);
            s.graph.output(losses);
            if again {
                let more = agreement(&mut s.graph, r, rows, 30.0);
                s.graph.output(more);
            }
            s.graph.backward();
            let dr = s.graph.gradient_target(r).0;
            s.graph.output(dr);
        });
        // exp of an argument of size x carries x ULP of it.
        case.rel = 2e-6 * f32::max(1.0, scale);
        cases.push(case);
    }
    cases
}
