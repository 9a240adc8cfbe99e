// An activation by itself, where something stands between it and the linear layer: y[i] = act(x[i]) and dx[i] (+)= dy[i] act'(x[i]).
//
//   relu  max(x, 0), slope 1 where x > 0, else 0
//   tanh  slope 1 - y^2
//   gelu  x Phi(x), slope Phi(x) + x phi(x); Phi and phi of the standard normal distribution
//   silu  x s(x), slope s(x) (1 + x (1 - s(x))); s the logistic function
// Slopes are computed again from x, not kept. linear.wgsl has the same functions.
//
// An invocation an element, 256 a workgroup, workgroups folded into x and y. Deterministic: one owner an element.

struct Params {
    count: u32,      // elements
    activation: u32, // 1 relu, 2 tanh, 3 gelu, 4 silu
    accumulate: u32, // backward: 1 adds to what dx holds
    pad: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // (count)
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // (count)
@group(0) @binding(3) var<storage, read> dy: array<f32>;        // (count)
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;  // (count)

// The normal distribution from its upper tail, whose relative error is below 1.2e-7 for x >= 0: half of the complementary error
// function at x / sqrt(2) (Press et al., Numerical Recipes, 6.2).
fn normal_tail(x: f32) -> f32 {
    let a = x * 0.70710678;
    let t = 1.0 / (1.0 + 0.5 * a);
    let p = -1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806 + t * (0.27886807
        + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277))))))));
    return 0.5 * t * exp(max(p - a * a, -87.0));
}

// tanh by its series near 0, where the quotient would lose digits; elsewhere no exponential grows.
fn tanh_of(z: f32) -> f32 {
    if abs(z) < 0.2 {
        let s = z * z;
        return z * (1.0 + s * (-0.33333333 + s * (0.13333333 + s * -0.053968254)));
    }
    let e = exp(max(-2.0 * abs(z), -87.0));
    return sign(z) * (1.0 - e) / (1.0 + e);
}

// (act(z), act'(z)).
fn activated(z: f32) -> vec2<f32> {
    switch params.activation {
        case 1u: {
            return vec2(max(z, 0.0), select(0.0, 1.0, z > 0.0));
        }
        case 2u: {
            let y = tanh_of(z);
            return vec2(y, 1.0 - y * y);
        }
        case 3u: {
            let tail = normal_tail(abs(z));
            let below = select(tail, 1.0 - tail, z > 0.0);
            return vec2(z * below, below + z * (0.39894228 * exp(max(-0.5 * z * z, -87.0))));
        }
        case 4u: {
            let e = exp(max(-abs(z), -87.0));
            let s = select(e, 1.0, z > 0.0) / (1.0 + e);
            let rest = select(1.0, e, z > 0.0) / (1.0 + e);
            return vec2(z * s, s * (1.0 + z * rest));
        }
        default: {
            return vec2(z, 1.0);
        }
    }
}

@compute @workgroup_size(256)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = (group.y * groups.x + group.x) * 256u + t;
    if i < params.count {
        y[i] = activated(x[i]).x;
    }
}

@compute @workgroup_size(256)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = (group.y * groups.x + group.x) * 256u + t;
    if i >= params.count {
        return;
    }
    var gradient = dy[i] * activated(x[i]).y;
    if params.accumulate != 0u {
        gradient += dx[i];
    }
    dx[i] = gradient;
}
