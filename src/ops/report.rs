//! What the host reads after a step: mean losses and their total; and the latch that holds back updates.

use super::check::{Case, integers, normals};
use super::{Access, Args, Dispatch, Kernel, Shader, cost, params, shader, tree};
use crate::config::{CvrLoss, Loss};
use crate::graph::{Graph, Input, Step, TensorId};
use bytemuck::{Pod, Zeroable};

/// The report's elements.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
pub struct Report {
    /// Mean CTR loss.
    pub ctr: f32,
    /// Mean CTCVR loss.
    pub ctcvr: f32,
    /// Mean CVR loss: over clicked rows (0 without any) for the kind `clicked`, else over all.
    pub cvr: f32,
    /// Mean contrastive loss; 0 without contrast.
    pub contrast: f32,
    /// The weighted sum that is minimised.
    pub total: f32,
    /// Mean temperature; 0 without contrast.
    pub tau: f32,
    /// Mean of what supervises the relatedness network; 0 without that.
    pub relatedness: f32,
    /// The pairing's top-1: the share of anchors, over all directions, to which their own other representation is nearer than that
    /// of every other candidate; 0 without contrast, and where no anchor has another candidate.
    pub pairing_top1: f32,
}

/// Words of a report.
pub const WORDS: usize = size_of::<Report>() / 4;

params! {
    struct Params {
        rows: u32,
        ctr: f32,
        ctcvr: f32,
        cvr: f32,
        contrast: f32,
        cvr_over_rows: u32,
        uncertain: u32,
        accumulate: u32,
        relatedness: f32,
        pad0: u32,
        pad1: u32,
        pad2: u32,
    }
}

const SOURCE: Shader = shader!("step", "report");
static SUPERVISED: Kernel = Params::kernel(
    "report",
    SOURCE,
    "supervised",
    &[(1, Access::Read), (2, Access::Uniform), (3, Access::Write), (4, Access::Update), (5, Access::Read)],
);
static WITH_CONTRAST: Kernel = Params::kernel(
    "report_with_contrast",
    SOURCE,
    "with_contrast",
    &[
        (1, Access::Read),
        (2, Access::Uniform),
        (3, Access::Write),
        (4, Access::Update),
        (5, Access::Read),
        (6, Access::Read),
        (7, Access::Read),
        (10, Access::Read),
        (11, Access::Read),
    ],
);
static UNCERTAINTY_GRADIENT: Kernel = Params::kernel(
    "uncertainty_gradient",
    SOURCE,
    "uncertainty_gradient",
    &[(8, Access::Read), (5, Access::Read), (9, Access::Update)],
);

/// The contrastive part of a report.
#[derive(Debug, Clone, Copy)]
pub struct ContrastPart {
    /// Losses of each row, `[B]`.
    pub losses: TensorId,
    /// Temperatures, `[B]`.
    pub tau: TensorId,
    /// Weight of the mean loss.
    pub weight: f32,
    /// Hits and pairs of each row, [B, 2].
    pub pairing: TensorId,
    /// Where the relatedness network is supervised: losses of each row, `[B]`, and the weight of their mean.
    pub relatedness: Option<(TensorId, f32)>,
}

/// Reduces losses [B, 3] and the contrastive part to a [`Report`]; sets `health` `[1]` once the total is not finite.
///
/// The total is the sum of each weight times its mean loss L; with `uncertainty` `[3]`, s of CTR, CTCVR and CVR, that of each weight
/// times e^-s L + s / 2 for these three (Kendall et al., CVPR 2018). [`Step::contrast`] is a factor of the contrastive loss's weight
/// alone. The gradient of s is computed in the backward pass.
pub fn report(
    g: &mut Graph,
    losses: TensorId,
    contrast: Option<ContrastPart>,
    health: TensorId,
    rows: usize,
    weights: &Loss,
    uncertainty: Option<TensorId>,
) -> TensorId {
    let step = g.step();
    let report = g.transient("report", WORDS);
    let params = Params {
        rows: rows as u32,
        ctr: weights.ctr,
        ctcvr: weights.ctcvr,
        cvr: weights.cvr,
        contrast: contrast.map_or(0.0, |c| c.weight),
        cvr_over_rows: (weights.cvr_kind != CvrLoss::Clicked).into(),
        uncertain: uncertainty.is_some().into(),
        accumulate: 0,
        relatedness: contrast.and_then(|c| c.relatedness).map_or(0.0, |(_, weight)| weight),
        pad0: 0,
        pad1: 0,
        pad2: 0,
    };
    let kernel = if contrast.is_some() { &WITH_CONTRAST } else { &SUPERVISED };
    let words = rows * contrast.map_or(3, |c| if c.relatedness.is_some() { 8 } else { 7 });
    let op = Dispatch { kernel, params, workgroups: [1, 1, 1], cost: cost(words, words), twin: reduce };
    // Without uncertainties or supervised relatedness, something must be bound in their place; it is not read.
    let mut args = vec![losses, step, report, health, uncertainty.unwrap_or(losses)];
    args.extend(
        contrast.iter().flat_map(|c| [c.losses, c.tau, c.pairing, c.relatedness.map_or(c.losses, |(losses, _)| losses)]),
    );
    g.push(op, &args);
    if let Some(s) = uncertainty {
        g.on_backward(move |g| {
            let (ds, accumulate) = g.gradient_target(s);
            let params = Params { accumulate: accumulate.into(), ..params };
            let kernel = &UNCERTAINTY_GRADIENT;
            g.push(Dispatch { kernel, params, workgroups: [1, 1, 1], cost: cost(9, 12), twin: gradient }, &[report, s, ds]);
        });
    }
    report
}

fn reduce(p: &Params, args: &mut Args) {
    let losses = args.read::<[f32; 3]>(0);
    let Step { inverse_clicks, contrast: factor, .. } = args.uniform(1);
    let (report, health) = (args.write::<Report>(2), args.write::<u32>(3));
    let rows = losses.len() as f32;
    let [mut contrast, mut tau, mut relatedness, mut pairing_top1] = [0.0; 4];
    if args.len() > 5 {
        let (losses, taus, pairing) = (args.read::<f32>(5), args.read::<f32>(6), args.read::<[f32; 2]>(7));
        contrast = tree(losses.len(), |i| losses[i]) / rows;
        tau = tree(taus.len(), |i| taus[i]) / rows;
        let [hits, pairs] = [0, 1].map(|k| tree(pairing.len(), |i| pairing[i][k]));
        pairing_top1 = hits / pairs.max(1.0);
        if p.relatedness != 0.0 {
            let losses = args.read::<f32>(8);
            relatedness = tree(losses.len(), |i| losses[i]) / rows;
        }
    }
    let mean = |k: usize| tree(losses.len(), |i| losses[i][k]) / rows;
    let cvr = if p.cvr_over_rows != 0 { mean(2) } else { tree(losses.len(), |i| losses[i][2]) * inverse_clicks };
    let (ctr, ctcvr) = (mean(0), mean(1));
    let supervised = if p.uncertain != 0 {
        let s = args.read::<f32>(4);
        p.weights().iter().zip([ctr, ctcvr, cvr]).zip(s).map(|((w, mean), s)| w * ((-s).exp() * mean + 0.5 * s)).sum()
    } else {
        ctr * p.ctr + ctcvr * p.ctcvr + cvr * p.cvr
    };
    let total: f32 = supervised + contrast * (p.contrast * factor) + relatedness * p.relatedness;
    report[0] = Report { ctr, ctcvr, cvr, contrast, total, tau, relatedness, pairing_top1 };
    if !total.is_finite() {
        health[0] = 1;
    }
}

impl Params {
    /// Of CTR, CTCVR and CVR.
    fn weights(&self) -> [f32; 3] {
        [self.ctr, self.ctcvr, self.cvr]
    }
}

fn gradient(p: &Params, args: &mut Args) {
    let (report, s, ds) = (args.read::<f32>(0), args.read::<f32>(1), args.write::<f32>(2));
    for (((ds, s), mean), weight) in ds.iter_mut().zip(s).zip(report).zip(p.weights()) {
        let gradient = weight * (0.5 - (-s).exp() * mean);
        *ds = if p.accumulate != 0 { *ds + gradient } else { gradient };
    }
}

/// With and without contrast, supervised relatedness and uncertainties, these once and twice; the latch.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, with_contrast, bad, uncertain) in [
        (1, false, false, 0),
        (255, true, false, 0),
        (257, false, true, 0),
        (1000, true, true, 0),
        (1000, false, false, 0),
        (1, false, false, 1),
        (255, true, false, 2),
        (257, false, true, 1),
    ] {
        let name = format!("report {rows} rows, contrast {with_contrast}, infinite {bad}, uncertain {uncertain}");
        cases.push(Case::new(name, rows, move |s| {
            let mut values = normals(1, 3 * rows, 1.0);
            if bad {
                // The sum overflows; an infinity as an input is not what a driver must keep.
                values.iter_mut().for_each(|v| *v = 3e38);
            }
            let losses = s.input(&values);
            s.input_as(Input::Step, &[Step { inverse_clicks: 0.25, contrast: 0.5, ..Step::zeroed() }]);
            let health = s.state_tensor("health", &[0u32]);
            let contrast = with_contrast.then(|| ContrastPart {
                losses: s.input(&normals(2, rows, 1.0)),
                tau: s.input(&normals(3, rows, 1.0)),
                weight: 0.05,
                pairing: s.input(&integers(4, rows, 3).iter().flat_map(|&n| [(n / 2) as f32, n as f32]).collect::<Vec<f32>>()),
                relatedness: (rows == 255).then(|| (s.input(&normals(5, rows, 1.0)), 0.3)),
            });
            let cvr_kind = if rows == 1000 { CvrLoss::Dr } else { CvrLoss::Clicked };
            let weights = Loss { ctr: 1.0, ctcvr: 0.5, cvr: 2.0, cvr_kind, ..Loss::default() };
            let uncertainty = (uncertain > 0).then(|| s.state_tensor("uncertainty", &[0.5f32, -1.0, 2.0]));
            for _ in 0..uncertain.max(1) {
                let report = report(&mut s.graph, losses, contrast, health, rows, &weights, uncertainty);
                if !bad {
                    s.graph.output(report);
                }
            }
            s.graph.backward();
            let ds = uncertainty.filter(|_| !bad).and_then(|u| s.graph.gradient(u));
            ds.into_iter().for_each(|ds| s.graph.output(ds));
        }));
    }
    cases
}
