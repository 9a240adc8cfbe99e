//! One update of dense parameters that share a learning rate, in one dispatch.

use super::check::{Case, normals};
use super::clip::LARGEST;
use super::{Access, Args, Dispatch, Kernel, Shader, cost, fold, params, shader};
use crate::config::{DenseOptimizer, DenseRule};
use crate::graph::{Graph, Input, Step, TensorId};
use bytemuck::Zeroable;
use rayon::prelude::*;

params! {
    struct Params {
        count: u32,
        beta1: f32,
        beta2: f32,
        eps: f32,
        decay: f32,
        lr_scale: f32,
        clipped: u32,
        pad: u32,
    }
}

const SOURCE: Shader = shader!("step", "dense_update");
static ADAMW: Kernel = Params::kernel(
    "dense_adamw",
    SOURCE,
    "adamw",
    &[
        (1, Access::Read),
        (2, Access::Read),
        (7, Access::Read),
        (3, Access::Uniform),
        (4, Access::Update),
        (5, Access::Update),
        (6, Access::Update),
    ],
);
static ADAGRAD: Kernel = Params::kernel(
    "dense_adagrad",
    SOURCE,
    "adagrad",
    &[(1, Access::Read), (2, Access::Read), (7, Access::Read), (3, Access::Uniform), (4, Access::Update), (5, Access::Update)],
);
static SGD: Kernel = Params::kernel(
    "dense_sgd",
    SOURCE,
    "sgd",
    &[(1, Access::Read), (2, Access::Read), (7, Access::Read), (3, Access::Uniform), (4, Access::Update)],
);

/// Elements that one task of a twin handles.
const BLOCK: usize = 4096;

/// Updates `weights` `[count]` by `gradients` `[count]`; `moments` hold m and v of `adamw`, the sum of squares of `adagrad`, nothing of
/// `sgd`. `factor` `[1]`, if there is one, multiplies the gradients, as [`clip_factor`](super::clip::clip_factor) counts them. `lr_scale` is a factor of the step's learning rate. `health` `[1]` holds back the update once it is not 0.
#[allow(clippy::too_many_arguments, reason = "buffers, each of which the update names")]
pub fn dense_update(
    g: &mut Graph,
    weights: TensorId,
    gradients: TensorId,
    moments: &[TensorId],
    health: TensorId,
    factor: Option<TensorId>,
    optimizer: &DenseOptimizer,
    lr_scale: f32,
) {
    let count = g.get(weights).len;
    let step = g.step();
    let (kernel, twin): (_, fn(&Params, &mut Args)) = match optimizer.kind {
        DenseRule::Adamw => (&ADAMW, adamw),
        DenseRule::Adagrad => (&ADAGRAD, adagrad),
        DenseRule::Sgd => (&SGD, sgd),
    };
    let params = Params {
        count: count as u32,
        beta1: optimizer.beta1,
        beta2: optimizer.beta2,
        eps: optimizer.eps,
        decay: optimizer.weight_decay,
        lr_scale,
        clipped: u32::from(factor.is_some()),
        pad: 0,
    };
    let words = count * (3 + 2 * moments.len());
    let op = Dispatch { kernel, params, workgroups: fold(count.div_ceil(256)), cost: cost(words, 12 * count), twin };
    // Without a factor, something must be bound in its place; it is not read.
    let mut args = vec![gradients, health, factor.unwrap_or(gradients), step, weights];
    args.extend(moments);
    g.push_update(op, &args);
}

/// Gradients, their factor, the step's learning rate here and the weights to update, unless updates are held back.
fn start<'a>(p: &Params, args: &mut Args<'a>) -> Option<Start<'a>> {
    (args.read::<u32>(1)[0] == 0).then(|| {
        let step: Step = args.uniform(3);
        let (factor, largest) = if p.clipped == 1 { (args.read::<f32>(2)[0], LARGEST) } else { (1.0, f32::INFINITY) };
        Start { gradients: args.read(0), factor, largest, lr: step.dense_lr * p.lr_scale, step, weights: args.write(4) }
    })
}

struct Start<'a> {
    gradients: &'a [f32],
    factor: f32,
    /// The largest that a gradient is taken for.
    largest: f32,
    lr: f32,
    step: Step,
    weights: &'a mut [f32],
}

fn adamw(p: &Params, args: &mut Args) {
    let Some(Start { gradients, factor, largest, lr, step, weights }) = start(p, args) else { return };
    let (first, second) = (args.write::<f32>(5), args.write::<f32>(6));
    // Loops over slices inside of blocks: they are vectorised, parallel iterators over elements are not.
    let blocks = weights.par_chunks_mut(BLOCK).zip(first.par_chunks_mut(BLOCK)).zip(second.par_chunks_mut(BLOCK));
    blocks.zip(gradients.par_chunks(BLOCK)).for_each(|(((w, m), v), g)| {
        for (((w, m), v), &g) in w.iter_mut().zip(m).zip(v).zip(g) {
            let g = g.clamp(-largest, largest) * factor;
            *m = p.beta1 * *m + (1.0 - p.beta1) * g;
            *v = p.beta2 * *v + (1.0 - p.beta2) * g * g;
            let decayed = *w - lr * p.decay * *w;
            *w = decayed - lr * (*m / step.correction1) / ((*v / step.correction2).sqrt() + p.eps);
        }
    });
}

fn adagrad(p: &Params, args: &mut Args) {
    let Some(Start { gradients, factor, largest, lr, weights, .. }) = start(p, args) else { return };
    let sums = args.write::<f32>(5);
    let blocks = weights.par_chunks_mut(BLOCK).zip(sums.par_chunks_mut(BLOCK)).zip(gradients.par_chunks(BLOCK));
    blocks.for_each(|((w, sums), g)| {
        for ((w, sum), &g) in w.iter_mut().zip(sums).zip(g) {
            let g = g.clamp(-largest, largest) * factor;
            *sum += g * g;
            let decayed = *w - lr * p.decay * *w;
            *w = decayed - lr * g / (sum.sqrt() + p.eps);
        }
    });
}

fn sgd(p: &Params, args: &mut Args) {
    let Some(Start { gradients, factor, largest, lr, weights, .. }) = start(p, args) else { return };
    weights.par_chunks_mut(BLOCK).zip(gradients.par_chunks(BLOCK)).for_each(|(w, g)| {
        for (w, &g) in w.iter_mut().zip(g) {
            let decayed = *w - lr * p.decay * *w;
            *w = decayed - lr * (g.clamp(-largest, largest) * factor);
        }
    });
}

/// Every rule over several steps, with weight decay; clipped gradients and a part of the learning rate; the latch.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (kind, moments) in [(DenseRule::Adamw, 2), (DenseRule::Adagrad, 1), (DenseRule::Sgd, 0)] {
        for (count, sick) in [(1, false), (255, false), (256, false), (1000, true), (70_000, false)] {
            let mut case = Case::new(format!("dense update {kind:?} of {count}, held back {sick}"), 1, move |s| {
                let weights = s.state_tensor("weights", &normals(1, count, 1.0));
                // Those of 256 are beyond what counts.
                let gradients = s.input(&normals(2, count, if count == 256 { 1e20 } else { 0.1 }));
                let state: Vec<TensorId> = (0..moments).map(|_| s.state_tensor("moments", &vec![0f32; count])).collect();
                let health = s.state_tensor("health", &[u32::from(sick)]);
                let step = Step { dense_lr: 0.01, correction1: 0.1, correction2: 0.001, ..Step::zeroed() };
                s.input_as(Input::Step, &[step]);
                let optimizer = DenseOptimizer { kind, weight_decay: 0.01, ..DenseOptimizer::default() };
                let (lr_scale, factor) = match count {
                    255 => (0.3, Some(0.2f32)),
                    256 => (1.0, Some(1e-14)),
                    _ => (1.0, None),
                };
                let factor = factor.map(|factor| s.input(&[factor]));
                dense_update(&mut s.graph, weights, gradients, &state, health, factor, &optimizer, lr_scale);
            });
            case.steps = 3;
            case.rel = 4e-6;
            cases.push(case);
        }
    }
    cases
}
