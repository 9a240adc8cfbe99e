//! Clipping of gradients by their common norm: the factor that the update multiplies them by.

use super::check::{Case, normals};
use super::{Access, Args, Dispatch, Kernel, Shader, cost, params, shader, tree};
use crate::graph::{Graph, TensorId};
use rayon::prelude::*;

params! {
    struct Params {
        count: u32,
        accumulate: u32,
        most: f32,
        pad: u32,
    }
}

const SOURCE: Shader = shader!("clip");
static SQUARES: Kernel = Params::kernel("clip_squares", SOURCE, "squares", &[(1, Access::Read), (2, Access::Update)]);
static FINISH: Kernel = Params::kernel("clip_finish", SOURCE, "finish", &[(3, Access::Read), (4, Access::Write)]);

/// Parts of the sum of squares, a workgroup each.
const PARTS: usize = 256;
/// Larger gradients count as this, here and in the update, so that no sum of squares becomes infinite.
pub(super) const LARGEST: f32 = 1e14;

/// `[1]`: min(1, most / (norm + 1e-6)) of all `gradients` together, as PyTorch's `clip_grad_norm_` has it; `most` is above 0. Runs
/// with the updates, when all gradients are there.
pub fn clip_factor(g: &mut Graph, gradients: &[TensorId], most: f32) -> TensorId {
    let parts = g.transient("squares of gradients", PARTS);
    for (i, &range) in gradients.iter().enumerate() {
        let count = g.get(range).len;
        let params = Params { count: count as u32, accumulate: u32::from(i > 0), most, pad: 0 };
        let op = Dispatch {
            kernel: &SQUARES,
            params,
            workgroups: [PARTS as u32, 1, 1],
            cost: cost(count + PARTS, 2 * count),
            twin: squares,
        };
        g.push_update(op, &[range, parts]);
    }
    let factor = g.transient("clip factor", 1);
    let params = Params { count: 0, accumulate: 0, most, pad: 0 };
    let op = Dispatch { kernel: &FINISH, params, workgroups: [1, 1, 1], cost: cost(PARTS + 1, PARTS), twin: finish };
    g.push_update(op, &[parts, factor]);
    factor
}

fn squares(p: &Params, args: &mut Args) {
    let (gradients, parts) = (args.read::<f32>(0), args.write::<f32>(1));
    parts.par_iter_mut().enumerate().for_each(|(part, sum)| {
        // The elements of this part are runs of 256, one every 65,536.
        let mut sums = [0f32; 256];
        for run in gradients.chunks(256).skip(part).step_by(PARTS) {
            for (sum, g) in sums.iter_mut().zip(run) {
                let g = g.clamp(-LARGEST, LARGEST);
                *sum += g * g;
            }
        }
        let before = if p.accumulate == 1 { *sum } else { 0.0 };
        *sum = before + tree(256, |t| sums[t]);
    });
}

fn finish(p: &Params, args: &mut Args) {
    let (parts, factor) = (args.read::<f32>(0), args.write::<f32>(1));
    factor[0] = (p.most / (tree(PARTS, |i| parts[i]).sqrt() + 1e-6)).min(1.0);
}

/// Norms above and below the bound, of none, few and many gradients, in one range and several; squares beyond f32.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (counts, scale, most) in [
        (vec![1], 1.0, 0.5),
        (vec![255], 0.01, 5.0),
        (vec![70_000], 1.0, 2.0),
        (vec![64, 140_001, 3], 1.0, 10.0),
        (vec![300], 0.0, 1.0),
        (vec![300], 1e30, 1.0),
    ] {
        let name = format!("clip {counts:?} of scale {scale:e} to {most}");
        let terms = counts.iter().sum();
        cases.push(Case::new(name, terms, move |s| {
            let gradients: Vec<TensorId> =
                counts.iter().enumerate().map(|(i, &count)| s.input(&normals(1 + i as u64, count, scale))).collect();
            let factor = clip_factor(&mut s.graph, &gradients, most);
            s.graph.output(factor);
        }));
    }
    cases
}
