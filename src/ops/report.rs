//! What the host reads after a step: mean losses and their total; and the latch that holds back updates.

use super::check::{Case, normals};
use super::{Access, Args, Dispatch, Kernel, cost, params, tree};
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
    /// Unused.
    pub pad: [f32; 2],
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
        pad0: u32,
        pad1: u32,
    }
}

const SOURCE: &str = include_str!("../../shaders/report.wgsl");
static SUPERVISED: Kernel = Params::kernel(
    "report",
    SOURCE,
    "supervised",
    &[(1, Access::Read), (2, Access::Uniform), (3, Access::Write), (4, Access::Update)],
);
static WITH_CONTRAST: Kernel = Params::kernel(
    "report_with_contrast",
    SOURCE,
    "with_contrast",
    &[(1, Access::Read), (2, Access::Uniform), (3, Access::Write), (4, Access::Update), (5, Access::Read), (6, Access::Read)],
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
}

/// Reduces losses [B, 3] and the contrastive part to a [`Report`]; sets `health` `[1]` once the total is not finite.
pub fn report(
    g: &mut Graph,
    losses: TensorId,
    contrast: Option<ContrastPart>,
    health: TensorId,
    rows: usize,
    weights: &Loss,
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
        pad0: 0,
        pad1: 0,
    };
    let kernel = if contrast.is_some() { &WITH_CONTRAST } else { &SUPERVISED };
    let words = rows * if contrast.is_some() { 5 } else { 3 };
    let op = Dispatch { kernel, params, workgroups: [1, 1, 1], cost: cost(words, words), twin: reduce };
    let mut args = vec![losses, step, report, health];
    args.extend(contrast.iter().flat_map(|c| [c.losses, c.tau]));
    g.push(op, &args);
    report
}

fn reduce(p: &Params, args: &mut Args) {
    let losses = args.read::<[f32; 3]>(0);
    let Step { inverse_clicks, contrast: factor, .. } = args.uniform(1);
    let (report, health) = (args.write::<Report>(2), args.write::<u32>(3));
    let rows = losses.len() as f32;
    let (contrast, tau) = if args.len() > 4 {
        let (contrast, tau) = (args.read::<f32>(4), args.read::<f32>(5));
        (tree(contrast.len(), |i| contrast[i]) / rows, tree(tau.len(), |i| tau[i]) / rows)
    } else {
        (0.0, 0.0)
    };
    let mean = |k: usize| tree(losses.len(), |i| losses[i][k]) / rows;
    let cvr = if p.cvr_over_rows != 0 { mean(2) } else { tree(losses.len(), |i| losses[i][2]) * inverse_clicks };
    let (ctr, ctcvr) = (mean(0), mean(1));
    let total = ctr * p.ctr + ctcvr * p.ctcvr + cvr * p.cvr + contrast * (p.contrast * factor);
    report[0] = Report { ctr, ctcvr, cvr, contrast, total, tau, pad: [0.0; 2] };
    if !total.is_finite() {
        health[0] = 1;
    }
}

/// With and without contrast; the latch.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, with_contrast, bad) in
        [(1, false, false), (255, true, false), (257, false, true), (1000, true, true), (1000, false, false)]
    {
        let name = format!("report {rows} rows, contrast {with_contrast}, infinite {bad}");
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
            });
            let cvr_kind = if rows == 1000 { CvrLoss::Dr } else { CvrLoss::Clicked };
            let weights = Loss { ctr: 1.0, ctcvr: 0.5, cvr: 2.0, cvr_kind, ..Loss::default() };
            let report = report(&mut s.graph, losses, contrast, health, rows, &weights);
            if !bad {
                s.graph.output(report);
            }
        }));
    }
    cases
}
