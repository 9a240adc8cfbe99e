// Linear layers: y = activation(x W + bias) for G groups side by side, and its two gradients.
//
//   forward          y[b, g, n]  = act(z[b, g, n]),  z[b, g, n] = bias[g, n] + sum_k x[b, g, k] w[g, k, n]
//   forward_keeping  the same, and slope[b, g, n] = act'(z[b, g, n])
//   input_gradient   dx[b, g, k] (+)= sum_n d[b, g, n] w[g, k, n]          d = dy * act'(z)
//   weight_gradient  dw[g, k, n] (+)= sum_b x[b, g, k] d[b, g, n],  dbias[g, n] (+)= sum_b d[b, g, n]
//
// and the activation by itself, where something stands between it and the product; its slope is computed again, not kept:
//
//   activate           y[b, g, n] = act(x[b, g, n])
//   activate_backward  dx[b, g, n] (+)= dy[b, g, n] act'(x[b, g, n])
//
// Activation functions:
//   relu  max(z, 0), slope 1 where y > 0, else 0
//   tanh  slope 1 - y^2
//   gelu  z Phi(z), slope Phi(z) + z phi(z); Phi and phi of the standard normal distribution
//   silu  z s(z), slope s(z) (1 + z (1 - s(z))); s the logistic function
// y tells the slopes of the first two. Those of the last two are kept by forward_keeping and bound in y's place by the gradients.
//
// Activations are [B, columns] row-major with a group's columns together.
// A workgroup of 16 x 16 makes a 64 x 64 tile of the result, an invocation 4 x 4 of it, over chunks of 16 of the summed
// index through workgroup memory. Dispatch: (tiles of columns, tiles of rows, groups). Of the activation by itself: an invocation an
// element, 256 a workgroup, workgroups folded into x and y.
// Deterministic: one owner an element, chunks in order. The sums of weight_gradient start from what they are added to, so blocks of
// rows one after the other give the bits of all rows at once.

struct Params {
    rows: u32,       // B
    inputs: u32,     // K
    outputs: u32,    // N
    groups: u32,     // G
    activation: u32, // 0 identity, 1 relu, 2 tanh, 3 gelu, 4 silu
    flags: u32,      // 1: there is a bias; 2: add to what dx or dw and dbias hold
    pad0: u32,
    pad1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;            // (B, G, K)
@group(0) @binding(2) var<storage, read> w: array<f32>;            // (G, K, N)
@group(0) @binding(3) var<storage, read> bias: array<f32>;         // (G, N)
@group(0) @binding(4) var<storage, read_write> y: array<f32>;      // (B, G, N)
@group(0) @binding(5) var<storage, read> y_read: array<f32>;       // (B, G, N): y, or slope of gelu and silu
@group(0) @binding(6) var<storage, read> dy: array<f32>;           // (B, G, N)
@group(0) @binding(7) var<storage, read_write> dx: array<f32>;     // (B, G, K)
@group(0) @binding(8) var<storage, read_write> dw: array<f32>;     // (G, K, N)
@group(0) @binding(9) var<storage, read_write> dbias: array<f32>;  // (G, N)
@group(0) @binding(10) var<storage, read_write> slope: array<f32>; // (B, G, N)

const TILE = 64u;
const DEPTH = 16u;

// Left tile: [DEPTH][TILE / 4] vectors of four rows; right tile: [DEPTH][TILE / 4] vectors of four columns.
var<workgroup> left: array<vec4<f32>, 256>;
var<workgroup> right: array<vec4<f32>, 256>;

fn x_at(b: u32, g: u32, k: u32) -> f32 {
    if b < params.rows && k < params.inputs {
        return x[(b * params.groups + g) * params.inputs + k];
    }
    return 0.0;
}

fn w_at(g: u32, k: u32, n: u32) -> f32 {
    if k < params.inputs && n < params.outputs {
        return w[(g * params.inputs + k) * params.outputs + n];
    }
    return 0.0;
}

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

// The gradient before the activation.
fn d_at(b: u32, g: u32, n: u32) -> f32 {
    if b < params.rows && n < params.outputs {
        let i = (b * params.groups + g) * params.outputs + n;
        switch params.activation {
            case 0u: {
                return dy[i];
            }
            case 1u: {
                return select(0.0, dy[i], y_read[i] > 0.0);
            }
            case 2u: {
                return dy[i] * (1.0 - y_read[i] * y_read[i]);
            }
            default: {
                return dy[i] * y_read[i];
            }
        }
    }
    return 0.0;
}

fn multiply(local: vec2<u32>, sums: ptr<function, array<vec4<f32>, 4>>) {
    for (var k = 0u; k < DEPTH; k++) {
        let a = left[k * 16u + local.y];
        let b = right[k * 16u + local.x];
        (*sums)[0] += a.x * b;
        (*sums)[1] += a.y * b;
        (*sums)[2] += a.z * b;
        (*sums)[3] += a.w * b;
    }
}

// Sums of the tile whose first row and column these are.
fn product(g: u32, row: u32, column: u32, local: vec2<u32>, sums: ptr<function, array<vec4<f32>, 4>>) {
    let t = local.y * 16u + local.x;
    for (var k = 0u; k < params.inputs; k += DEPTH) {
        let fast = t % 16u;
        let slow = t / 16u;
        let r = row + slow * 4u;
        let c = column + fast * 4u;
        left[fast * 16u + slow] = vec4(
            x_at(r, g, k + fast), x_at(r + 1u, g, k + fast), x_at(r + 2u, g, k + fast), x_at(r + 3u, g, k + fast));
        right[t] = vec4(
            w_at(g, k + slow, c), w_at(g, k + slow, c + 1u), w_at(g, k + slow, c + 2u), w_at(g, k + slow, c + 3u));
        workgroupBarrier();
        multiply(local, sums);
        workgroupBarrier();
    }
}

// The sum behind y[b, g, n] with its bias.
fn biased(sum: f32, g: u32, n: u32) -> f32 {
    if (params.flags & 1u) != 0u {
        return sum + bias[g * params.outputs + n];
    }
    return sum;
}

@compute @workgroup_size(16, 16)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) id: vec3<u32>) {
    let g = group.z;
    let row = group.y * TILE;
    let column = group.x * TILE;
    var sums = array<vec4<f32>, 4>();
    product(g, row, column, id.xy, &sums);
    for (var i = 0u; i < 4u; i++) {
        let b = row + id.y * 4u + i;
        if b >= params.rows {
            continue;
        }
        for (var j = 0u; j < 4u; j++) {
            let n = column + id.x * 4u + j;
            if n < params.outputs {
                y[(b * params.groups + g) * params.outputs + n] = activated(biased(sums[i][j], g, n)).x;
            }
        }
    }
}

@compute @workgroup_size(16, 16)
fn forward_keeping(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) id: vec3<u32>) {
    let g = group.z;
    let row = group.y * TILE;
    let column = group.x * TILE;
    var sums = array<vec4<f32>, 4>();
    product(g, row, column, id.xy, &sums);
    for (var i = 0u; i < 4u; i++) {
        let b = row + id.y * 4u + i;
        if b >= params.rows {
            continue;
        }
        for (var j = 0u; j < 4u; j++) {
            let n = column + id.x * 4u + j;
            if n < params.outputs {
                let at = (b * params.groups + g) * params.outputs + n;
                let value = activated(biased(sums[i][j], g, n));
                y[at] = value.x;
                slope[at] = value.y;
            }
        }
    }
}

@compute @workgroup_size(16, 16)
fn input_gradient(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) id: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let g = group.z;
    let row = group.y * TILE;
    let column = group.x * TILE;
    var sums = array<vec4<f32>, 4>();
    for (var n = 0u; n < params.outputs; n += DEPTH) {
        let fast = t % 16u;
        let slow = t / 16u;
        let r = row + slow * 4u;
        let c = column + slow * 4u;
        left[fast * 16u + slow] = vec4(
            d_at(r, g, n + fast), d_at(r + 1u, g, n + fast), d_at(r + 2u, g, n + fast), d_at(r + 3u, g, n + fast));
        right[fast * 16u + slow] = vec4(
            w_at(g, c, n + fast), w_at(g, c + 1u, n + fast), w_at(g, c + 2u, n + fast), w_at(g, c + 3u, n + fast));
        workgroupBarrier();
        multiply(id.xy, &sums);
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i++) {
        let b = row + id.y * 4u + i;
        if b >= params.rows {
            continue;
        }
        for (var j = 0u; j < 4u; j++) {
            let k = column + id.x * 4u + j;
            if k < params.inputs {
                let at = (b * params.groups + g) * params.inputs + k;
                var value = sums[i][j];
                if (params.flags & 2u) != 0u {
                    value += dx[at];
                }
                dx[at] = value;
            }
        }
    }
}

@compute @workgroup_size(16, 16)
fn weight_gradient(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) id: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let g = group.z;
    let row = group.y * TILE;
    let column = group.x * TILE;
    var sums = array<vec4<f32>, 4>();
    var bias_sum = vec4<f32>();
    if (params.flags & 2u) != 0u {
        for (var j = 0u; j < 4u; j++) {
            let n = column + id.x * 4u + j;
            if n >= params.outputs {
                continue;
            }
            for (var i = 0u; i < 4u; i++) {
                let k = row + id.y * 4u + i;
                if k < params.inputs {
                    sums[i][j] = dw[(g * params.inputs + k) * params.outputs + n];
                }
            }
            bias_sum[j] = dbias[g * params.outputs + n];
        }
    }
    for (var b = 0u; b < params.rows; b += DEPTH) {
        let fast = t % 16u;
        let slow = t / 16u;
        let r = row + fast * 4u;
        let c = column + fast * 4u;
        left[t] = vec4(
            x_at(b + slow, g, r), x_at(b + slow, g, r + 1u), x_at(b + slow, g, r + 2u), x_at(b + slow, g, r + 3u));
        right[t] = vec4(
            d_at(b + slow, g, c), d_at(b + slow, g, c + 1u), d_at(b + slow, g, c + 2u), d_at(b + slow, g, c + 3u));
        workgroupBarrier();
        multiply(id.xy, &sums);
        if group.y == 0u && id.y == 0u {
            for (var k = 0u; k < DEPTH; k++) {
                bias_sum += right[k * 16u + id.x];
            }
        }
        workgroupBarrier();
    }
    for (var j = 0u; j < 4u; j++) {
        let n = column + id.x * 4u + j;
        if n >= params.outputs {
            continue;
        }
        for (var i = 0u; i < 4u; i++) {
            let k = row + id.y * 4u + i;
            if k < params.inputs {
                dw[(g * params.inputs + k) * params.outputs + n] = sums[i][j];
            }
        }
        if group.y == 0u && id.y == 0u {
            dbias[g * params.outputs + n] = bias_sum[j];
        }
    }
}

// The number of this invocation's element of the activation by itself, and of how many.
fn element(group: vec3<u32>, groups: vec3<u32>, t: u32) -> u32 {
    return (group.y * groups.x + group.x) * 256u + t;
}

fn elements() -> u32 {
    return params.rows * params.groups * params.outputs;
}

@compute @workgroup_size(256)
fn activate(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = element(group, groups, t);
    if i < elements() {
        y[i] = activated(x[i]).x;
    }
}

@compute @workgroup_size(256)
fn activate_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = element(group, groups, t);
    if i >= elements() {
        return;
    }
    var gradient = dy[i] * activated(x[i]).y;
    if (params.flags & 2u) != 0u {
        gradient += dx[i];
    }
    dx[i] = gradient;
}
