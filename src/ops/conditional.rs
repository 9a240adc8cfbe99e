//! pCVR = pCTCVR / pCTR as a logit, for models whose second output is CTCVR.

use super::check::{Case, normals};
use super::{Access, Args, Dispatch, Kernel, cost, fold, params, shader};
use crate::graph::{Graph, TensorId};

params! {
    struct Params {
        rows: u32,
        pad0: u32,
        pad1: u32,
        pad2: u32,
    }
}

static CONDITIONAL: Kernel =
    Params::kernel("conditional", shader!("log1p", "conditional"), "conditional", &[(1, Access::Read), (2, Access::Write)]);

/// log pCTR - log pCTCVR is at least this: pCVR is below 1.
const LEAST: f32 = 1e-6;

/// Logits of CTR and CVR [B, 2] from those of CTR and CTCVR; without a backward pass.
pub fn conditional(g: &mut Graph, direct: TensorId, rows: usize) -> TensorId {
    let logits = g.transient("logits", 2 * rows);
    let op = Dispatch {
        kernel: &CONDITIONAL,
        params: Params { rows: rows as u32, pad0: 0, pad1: 0, pad2: 0 },
        workgroups: fold(rows.div_ceil(256)),
        cost: cost(4 * rows, 20 * rows),
        twin: run,
    };
    g.push(op, &[direct, logits]);
    logits
}

fn run(_: &Params, args: &mut Args) {
    let softplus = |x: f32| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let (direct, logits) = (args.read::<[f32; 2]>(0), args.write::<[f32; 2]>(1));
    for (logits, &[a, c]) in logits.iter_mut().zip(direct) {
        let t = (softplus(-c) - softplus(-a)).max(LEAST);
        *logits = [a, if t < 0.5 { -t.exp_m1().ln() } else { -t - (-(-t).exp()).ln_1p() }];
    }
}

/// Logits of all sizes, pCTCVR above and below pCTR.
pub fn cases() -> Vec<Case> {
    let of = |(rows, scale): (usize, f32)| {
        let mut case = Case::new(format!("conditional {rows} rows, logits times {scale}"), 1, move |s| {
            // t is a difference, so near 0 it has few digits: CTCVR logits are kept off those of CTR.
            let pairs: Vec<[f32; 2]> = normals(1, 2 * rows, scale)
                .chunks_exact(2)
                .enumerate()
                .map(|(i, pair)| [pair[0], pair[0] + (0.5 + pair[1].abs()) * if i % 4 == 0 { 1.0 } else { -1.0 }])
                .collect();
            let direct = s.input(&pairs);
            let logits = conditional(&mut s.graph, direct, rows);
            s.graph.output(logits);
        });
        case.rel = 2e-5;
        case
    };
    [(1, 1.0), (257, 1.0), (300, 5.0)].map(of).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Device, cpu::Cpu};
    use crate::graph::{Input, Plan};

    #[test]
    fn the_ratio_of_the_probabilities() {
        let pairs = [[0.0f32, -1.0], [2.0, -3.0], [-4.0, -4.5], [1.0, -20.0], [0.3, 0.3], [-1.0, 2.0]];
        let mut graph = Graph::default();
        let direct = graph.input(Input::Other(0), 2 * pairs.len());
        let logits = conditional(&mut graph, direct, pairs.len());
        graph.output(logits);
        let mut device = Cpu::new(&[], vec![Plan::new(graph)]).expect("the CPU executor");
        device.submit(0, &[bytemuck::cast_slice(&pairs)]).expect("a step");
        let mut outputs = Vec::new();
        device.receive(0, &mut outputs).expect("its outputs");
        let s = |x: f32| 1.0 / (1.0 + (-f64::from(x)).exp());
        for ([a, c], got) in pairs.iter().zip(outputs[0].chunks_exact(2)) {
            let wanted = (s(*c) / s(*a)).min((-1e-6f64).exp());
            assert!(got[0] == *a && (s(got[1]) / wanted - 1.0).abs() < 1e-5, "{a}, {c}: {got:?}, {wanted}");
        }
    }
}
