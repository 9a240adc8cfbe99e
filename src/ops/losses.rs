//! The supervised losses from logits: CTR, entire-space CTCVR, CVR on clicked rows.

use super::check::{Case, integers, normals};
use super::{Access, Args, Dispatch, Kernel, cost, fold, params};
use crate::config::Loss;
use crate::graph::{Graph, Input, Step, TensorId};
use bytemuck::Zeroable;
use rayon::prelude::*;

params! {
    struct Params {
        rows: u32,
        ctr: f32,
        ctcvr: f32,
        cvr: f32,
    }
}

static SUPERVISED: Kernel = Params::kernel(
    "losses",
    include_str!("../../shaders/losses.wgsl"),
    "supervised",
    &[(1, Access::Read), (2, Access::Read), (3, Access::Uniform), (4, Access::Write), (5, Access::Write)],
);

/// Losses of each row [B, 3] (CTR, CTCVR, CVR: 0 without a click) from logits [B, 2]; seeds the gradient of the logits with that of
/// the weighted sum of means, the CVR loss's mean being over clicked rows.
pub fn losses(g: &mut Graph, logits: TensorId, rows: usize, weights: &Loss) -> TensorId {
    let labels = g.input(Input::Labels, 2 * rows);
    let step = g.step();
    let losses = g.transient("losses", 3 * rows);
    let dlogits = g.transient("gradient of logits", 2 * rows);
    let op = Dispatch {
        kernel: &SUPERVISED,
        params: Params { rows: rows as u32, ctr: weights.ctr, ctcvr: weights.ctcvr, cvr: weights.cvr },
        workgroups: fold(rows.div_ceil(256)),
        cost: cost(9 * rows, 60 * rows),
        twin: supervised,
    };
    g.push(op, &[logits, labels, step, losses, dlogits]);
    g.seed(logits, dlogits);
    losses
}

fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn logistic(x: f32) -> f32 {
    let e = (-x.abs()).exp();
    (if x >= 0.0 { 1.0 } else { e }) / (1.0 + e)
}

fn supervised(p: &Params, args: &mut Args) {
    let (logits, labels) = (args.read::<[f32; 2]>(0), args.read::<[f32; 2]>(1));
    let inverse_clicks = args.uniform::<Step>(2).inverse_clicks;
    let (losses, dlogits) = (args.write::<[f32; 3]>(3), args.write::<[f32; 2]>(4));
    let (ctr, ctcvr, cvr) = (p.ctr / p.rows as f32, p.ctcvr / p.rows as f32, p.cvr * inverse_clicks);
    losses.par_iter_mut().zip(dlogits).zip(logits).zip(labels).with_min_len(256).for_each(
        |(((loss, gradient), &[a, b]), &[click, conversion])| {
            loss[0] = softplus(if click != 0.0 { -a } else { a });
            *gradient = [ctr * (logistic(a) - click), 0.0];
            if click * conversion != 0.0 {
                loss[1] = softplus(-a) + softplus(-b);
                gradient[0] -= ctcvr * logistic(-a);
                gradient[1] -= ctcvr * logistic(-b);
            } else {
                let largest = (-a).max(-b).max(-a - b);
                let q = largest + ((-a - largest).exp() + (-b - largest).exp() + (-a - b - largest).exp()).ln();
                loss[1] = softplus(-q);
                gradient[0] += ctcvr * (-softplus(a) - q).exp();
                gradient[1] += ctcvr * (-softplus(b) - q).exp();
            }
            loss[2] = click * softplus(if conversion != 0.0 { -b } else { b });
            gradient[1] += cvr * click * (logistic(b) - conversion);
        },
    );
}

/// Logits of all sizes, labels of all kinds, no click at all.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, scale, clicked) in [(1, 1.0, true), (257, 1.0, true), (300, 20.0, true), (64, 80.0, true), (65, 3.0, false)] {
        let mut case = Case::new(format!("losses {rows} rows, logits times {scale}, clicks {clicked}"), 1, move |s| {
            let values: Vec<f32> = normals(1, 2 * rows, scale).iter().map(|x| x.clamp(-80.0, 80.0)).collect();
            let logits = s.state_tensor("logits", &values);
            let labels: Vec<f32> = integers(2, rows, 3)
                .iter()
                .flat_map(|&l| if clicked { [f32::from(l > 0), f32::from(l > 1)] } else { [0.0, 0.0] })
                .collect();
            let clicks: f32 = labels.iter().step_by(2).sum();
            s.input_as(Input::Labels, &labels);
            let step = Step { inverse_clicks: if clicks > 0.0 { 1.0 / clicks } else { 0.0 }, ..Step::zeroed() };
            s.input_as(Input::Step, &[step]);
            let weights = Loss { ctr: 1.0, ctcvr: 0.7, cvr: 0.5 };
            let losses = losses(&mut s.graph, logits, rows, &weights);
            s.graph.output(losses);
            let d = s.graph.gradient_target(logits).0;
            s.graph.output(d);
        });
        // exp of an argument of size x carries x ULP of it.
        case.rel = 2e-6 * f32::max(1.0, scale);
        cases.push(case);
    }
    cases
}
