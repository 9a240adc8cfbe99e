// One update of dense parameters, which lie in one buffer, in one dispatch. lr is the step's rate times that of these parameters.
//
//   adamw    w -= lr decay w; m, v moments; w -= lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
//   adagrad  s += g^2; w -= lr g / (sqrt(s) + eps)
//   sgd      w -= lr g
// g is the gradient times the factor of clip.wgsl, if there is one; there a gradient beyond 1e14 is 1e14, as the factor counts it. Weight decay is decoupled for all three. Gradients between
// parameters (padding) are zero.
//
// An invocation an element, 256 a workgroup, workgroups folded into x and y. Deterministic: one owner an element.

struct Params {
    count: u32, // elements
    beta1: f32,
    beta2: f32,
    eps: f32,
    decay: f32,
    lr_scale: f32, // learning rate of these parameters in parts of the step's
    clipped: u32,  // 1: gradients are at most LARGEST and multiplied by factor
    pad: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gradients: array<f32>;
@group(0) @binding(2) var<storage, read> health: array<u32>;            // (1): not 0 once a loss was not finite
@group(0) @binding(3) var<uniform> step: Step;
@group(0) @binding(4) var<storage, read_write> weights: array<f32>;
@group(0) @binding(5) var<storage, read_write> first: array<f32>;       // m, or s
@group(0) @binding(6) var<storage, read_write> second: array<f32>;      // v
@group(0) @binding(7) var<storage, read> factor: array<f32>;            // (1)

const LARGEST: f32 = 1e14;

fn gradient(i: u32) -> f32 {
    let g = gradients[i];
    if params.clipped == 1u {
        // Not clamp, of which a NaN may come as a number.
        return select(g, sign(g) * LARGEST, abs(g) > LARGEST) * factor[0];
    }
    return g;
}

// The element of this invocation, or one past the end where there is nothing to do.
fn element(group: vec3<u32>, groups: vec3<u32>, t: u32) -> u32 {
    let i = (group.y * groups.x + group.x) * 256u + t;
    return select(i, params.count, i >= params.count || health[0] != 0u);
}

@compute @workgroup_size(256)
fn adamw(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = element(group, groups, t);
    if i == params.count {
        return;
    }
    let g = gradient(i);
    let m = params.beta1 * first[i] + (1.0 - params.beta1) * g;
    let v = params.beta2 * second[i] + (1.0 - params.beta2) * g * g;
    first[i] = m;
    second[i] = v;
    let lr = step.dense_lr * params.lr_scale;
    let w = weights[i] - lr * params.decay * weights[i];
    weights[i] = w - lr * (m / step.correction1) / (sqrt(v / step.correction2) + params.eps);
}

@compute @workgroup_size(256)
fn adagrad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = element(group, groups, t);
    if i == params.count {
        return;
    }
    let g = gradient(i);
    let sum = first[i] + g * g;
    first[i] = sum;
    let lr = step.dense_lr * params.lr_scale;
    let w = weights[i] - lr * params.decay * weights[i];
    weights[i] = w - lr * g / (sqrt(sum) + params.eps);
}

@compute @workgroup_size(256)
fn sgd(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = element(group, groups, t);
    if i == params.count {
        return;
    }
    let lr = step.dense_lr * params.lr_scale;
    let w = weights[i] - lr * params.decay * weights[i];
    weights[i] = w - lr * gradient(i);
}
