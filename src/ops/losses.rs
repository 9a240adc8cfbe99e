//! The supervised losses from logits: CTR, entire-space CTCVR or CTCVR itself, CVR in three kinds.

use super::check::{Case, integers, normals};
use super::{Access, Args, Dispatch, Kernel, Shader, cost, fold, params, shader};
use crate::config::{CvrLoss, Loss};
use crate::graph::{Graph, Input, Step, TensorId};
use bytemuck::Zeroable;
use rayon::prelude::*;

params! {
    struct Params {
        rows: u32,
        ctr: f32,
        ctcvr: f32,
        cvr: f32,
        kind: u32,
        direct: u32,
        floor: f32,
        calibrator: f32,
        uncertain: u32,
        pad0: u32,
        pad1: u32,
        pad2: u32,
    }
}

const SOURCE: Shader = shader!("step", "log1p", "losses");
static SUPERVISED: Kernel = Params::kernel(
    "losses",
    SOURCE,
    "supervised",
    &[(1, Access::Read), (2, Access::Read), (3, Access::Uniform), (4, Access::Write), (5, Access::Write), (6, Access::Read)],
);
static WITH_IMPUTATION: Kernel = Params::kernel(
    "losses with imputation",
    SOURCE,
    "with_imputation",
    &[
        (1, Access::Read),
        (2, Access::Read),
        (3, Access::Uniform),
        (4, Access::Write),
        (5, Access::Write),
        (6, Access::Read),
        (7, Access::Read),
        (8, Access::Write),
    ],
);

/// The logits that losses are computed from.
#[derive(Debug, Clone, Copy)]
pub struct Logits {
    /// CTR and CVR, [B, 2].
    pub tasks: TensorId,
    /// Whether the second of `tasks` is the logit of CTCVR, not of CVR.
    pub direct: bool,
    /// The imputation's, `[B]`: needed by the doubly robust CVR loss alone.
    pub imputation: Option<TensorId>,
}

/// Losses of each row [B, 3] (CTR, CTCVR, CVR) from logits; seeds the gradients of the logits with that of the weighted sum of means.
/// The mean of the CVR loss over `clicked` is over clicked rows. `uncertainty` `[3]`: what scales the weights, if they are learned, as
/// [`report`](super::report::report) says.
pub fn losses(g: &mut Graph, logits: Logits, rows: usize, loss: &Loss, uncertainty: Option<TensorId>) -> TensorId {
    let labels = g.input(Input::Labels, 2 * rows);
    let step = g.step();
    let losses = g.transient("losses", 3 * rows);
    let dlogits = g.transient("gradient of logits", 2 * rows);
    let op = Dispatch {
        kernel: if logits.imputation.is_some() { &WITH_IMPUTATION } else { &SUPERVISED },
        params: Params {
            rows: rows as u32,
            ctr: loss.ctr,
            ctcvr: loss.ctcvr,
            cvr: loss.cvr,
            kind: match loss.cvr_kind {
                CvrLoss::Clicked => 0,
                CvrLoss::Ipw => 1,
                CvrLoss::Dr => 2,
            },
            direct: logits.direct.into(),
            floor: loss.propensity_floor,
            calibrator: loss.calibrator,
            uncertain: uncertainty.is_some().into(),
            pad0: 0,
            pad1: 0,
            pad2: 0,
        },
        workgroups: fold(rows.div_ceil(256)),
        cost: cost(9 * rows, 60 * rows),
        twin: supervised,
    };
    // Without uncertainties, something must be bound in their place; it is not read.
    let mut args = vec![logits.tasks, labels, step, losses, dlogits, uncertainty.unwrap_or(logits.tasks)];
    if let Some(imputation) = logits.imputation {
        let dimputation = g.transient("gradient of imputation", rows);
        args.extend([imputation, dimputation]);
        g.seed(imputation, dimputation);
    }
    g.push(op, &args);
    g.seed(logits.tasks, dlogits);
    losses
}

/// log(1 + e^x).
pub(super) fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// 1 / (1 + e^-x).
pub(super) fn logistic(x: f32) -> f32 {
    let e = (-x.abs()).exp();
    (if x >= 0.0 { 1.0 } else { e }) / (1.0 + e)
}

fn supervised(p: &Params, args: &mut Args) {
    let (logits, labels) = (args.read::<[f32; 2]>(0), args.read::<[f32; 2]>(1));
    let inverse_clicks = args.uniform::<Step>(2).inverse_clicks;
    let (losses, dlogits) = (args.write::<[f32; 3]>(3), args.write::<[f32; 2]>(4));
    let p = &p.scaled(args.read::<f32>(5));
    let (imputation, dimputation) =
        if args.len() > 6 { (args.read::<f32>(6), args.write::<f32>(7)) } else { (&[][..], &mut [][..]) };
    let rows = losses.par_iter_mut().zip(dlogits).zip(logits).zip(labels).with_min_len(256);
    if imputation.is_empty() {
        rows.for_each(|(((loss, gradient), logits), labels)| {
            (*loss, *gradient, _) = p.row(inverse_clicks, *logits, *labels, 0.0)
        });
    } else {
        rows.zip(imputation).zip(dimputation).for_each(|(((((loss, gradient), logits), labels), m), dm)| {
            (*loss, *gradient, *dm) = p.row(inverse_clicks, *logits, *labels, *m);
        });
    }
}

impl Params {
    /// The same with the weights that uncertainties `s` give.
    fn scaled(&self, s: &[f32]) -> Params {
        if self.uncertain == 0 {
            return *self;
        }
        let [ctr, ctcvr, cvr] = [(self.ctr, s[0]), (self.ctcvr, s[1]), (self.cvr, s[2])].map(|(w, s)| w * (-s).exp());
        Params { ctr, ctcvr, cvr, ..*self }
    }

    /// Losses, gradient of logits and of the imputation's logit of one row.
    fn row(&self, inverse_clicks: f32, [a, b]: [f32; 2], [click, conversion]: [f32; 2], m: f32) -> ([f32; 3], [f32; 2], f32) {
        let rows = self.rows as f32;
        let mut loss = [softplus(if click != 0.0 { -a } else { a }), 0.0, 0.0];
        let mut gradient = [self.ctr / rows * (logistic(a) - click), 0.0];

        let share = self.ctcvr / rows;
        let both = click * conversion;
        if self.direct != 0 {
            let (p, q) = (logistic(b), logistic(a));
            let excess = (p - q).max(0.0);
            loss[1] = softplus(if both != 0.0 { -b } else { b }) + self.calibrator * excess;
            gradient[1] += share * (p - both);
            if excess > 0.0 {
                gradient[0] -= share * self.calibrator * q * logistic(-a);
                gradient[1] += share * self.calibrator * p * logistic(-b);
            }
        } else if both != 0.0 {
            loss[1] = softplus(-a) + softplus(-b);
            gradient[0] -= share * logistic(-a);
            gradient[1] -= share * logistic(-b);
        } else {
            let largest = (-a).max(-b).max(-a - b);
            let q = largest + ((-a - largest).exp() + (-b - largest).exp() + (-a - b - largest).exp()).ln();
            loss[1] = softplus(-q);
            gradient[0] += share * (-softplus(a) - q).exp();
            gradient[1] += share * (-softplus(b) - q).exp();
        }

        let error = softplus(if conversion != 0.0 { -b } else { b });
        let slope = logistic(b) - conversion;
        let inverse = click / logistic(a).max(self.floor);
        let share = self.cvr / rows;
        let (factor, dm);
        (loss[2], factor, dm) = match self.kind {
            0 => (click * error, self.cvr * inverse_clicks * click, 0.0),
            1 => (inverse * error, share * inverse, 0.0),
            _ => {
                let guess = softplus(m);
                let miss = error - guess;
                let push = inverse * (1.0 + 2.0 * miss);
                (guess + inverse * (miss + miss * miss), share * push, share * (1.0 - push) * logistic(m))
            }
        };
        gradient[1] += factor * slope;
        (loss, gradient, dm)
    }
}

/// Logits of all sizes, labels of all kinds, no click at all; every kind of CVR loss; a second logit of CTCVR; uncertainties.
pub fn cases() -> Vec<Case> {
    use CvrLoss::{Clicked, Dr, Ipw};
    let mut cases = Vec::new();
    for (rows, scale, clicked, cvr_kind, direct, uncertain) in [
        (1, 1.0, true, Clicked, false, false),
        (257, 1.0, true, Clicked, false, false),
        (300, 20.0, true, Clicked, false, false),
        (64, 80.0, true, Clicked, false, false),
        (65, 3.0, false, Clicked, false, false),
        (257, 1.0, true, Clicked, true, false),
        (64, 60.0, true, Clicked, true, false),
        (257, 2.0, true, Ipw, false, false),
        (65, 3.0, false, Ipw, false, false),
        (257, 2.0, true, Dr, false, false),
        (64, 30.0, true, Dr, false, false),
        (65, 3.0, false, Dr, false, false),
        (1, 1.0, true, Clicked, false, true),
        (257, 1.0, true, Clicked, true, true),
        (257, 2.0, true, Dr, false, true),
    ] {
        let name = format!(
            "losses {rows} rows, logits times {scale}, clicks {clicked}, {cvr_kind:?}, direct {direct}, uncertain {uncertain}"
        );
        let mut case = Case::new(name, 1, move |s| {
            let logits = |seed, n| normals(seed, n, scale).iter().map(|x| x.clamp(-80.0, 80.0)).collect::<Vec<f32>>();
            let tasks = s.state_tensor("logits", &logits(1, 2 * rows));
            let imputation = (cvr_kind == Dr).then(|| s.state_tensor("imputation", &logits(3, rows)));
            let labels: Vec<f32> = integers(2, rows, 3)
                .iter()
                .flat_map(|&l| if clicked { [f32::from(l > 0), f32::from(l > 1)] } else { [0.0, 0.0] })
                .collect();
            let clicks: f32 = labels.iter().step_by(2).sum();
            s.input_as(Input::Labels, &labels);
            let step = Step { inverse_clicks: if clicks > 0.0 { 1.0 / clicks } else { 0.0 }, ..Step::zeroed() };
            s.input_as(Input::Step, &[step]);
            let loss = Loss { ctr: 1.0, ctcvr: 0.7, cvr: if direct { 0.0 } else { 0.5 }, cvr_kind, ..Loss::default() };
            let uncertainty = uncertain.then(|| s.state_tensor("uncertainty", &[0.5f32, -1.0, 2.0]));
            let losses = losses(&mut s.graph, Logits { tasks, direct, imputation }, rows, &loss, uncertainty);
            s.graph.output(losses);
            for t in [Some(tasks), imputation].into_iter().flatten() {
                let d = s.graph.gradient_target(t).0;
                s.graph.output(d);
            }
        });
        // exp of an argument of size x carries x ULP of it.
        case.rel = 2e-6 * f32::max(1.0, scale);
        cases.push(case);
    }
    cases
}
