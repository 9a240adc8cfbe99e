// Linear layers: y = activation(x W + bias) for G groups side by side, and its two gradients.
//
//   forward          y[b, g, n]  = act(bias[g, n] + sum_k x[b, g, k] w[g, k, n])
//   input_gradient   dx[b, g, k] (+)= sum_n d[b, g, n] w[g, k, n]          d = dy * act'(y)
//   weight_gradient  dw[g, k, n] (+)= sum_b x[b, g, k] d[b, g, n],  dbias[g, n] (+)= sum_b d[b, g, n]
//
// Activations are [B, columns] row-major with a group's columns together.
// A workgroup of 16 x 16 makes a 64 x 64 tile of the result, an invocation 4 x 4 of it, over chunks of 16 of the summed
// index through workgroup memory. Dispatch: (tiles of columns, tiles of rows, groups).
// Deterministic: one owner an element, chunks in order. The sums of weight_gradient start from what they are added to, so blocks of
// rows one after the other give the bits of all rows at once.

struct Params {
    rows: u32,       // B
    inputs: u32,     // K
    outputs: u32,    // N
    groups: u32,     // G
    activation: u32, // 0 identity, 1 relu
    flags: u32,      // 1: there is a bias; 2: add to what dx or dw and dbias hold
    pad0: u32,
    pad1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;            // (B, G, K)
@group(0) @binding(2) var<storage, read> w: array<f32>;            // (G, K, N)
@group(0) @binding(3) var<storage, read> bias: array<f32>;         // (G, N)
@group(0) @binding(4) var<storage, read_write> y: array<f32>;      // (B, G, N)
@group(0) @binding(5) var<storage, read> y_read: array<f32>;       // (B, G, N)
@group(0) @binding(6) var<storage, read> dy: array<f32>;           // (B, G, N)
@group(0) @binding(7) var<storage, read_write> dx: array<f32>;     // (B, G, K)
@group(0) @binding(8) var<storage, read_write> dw: array<f32>;     // (G, K, N)
@group(0) @binding(9) var<storage, read_write> dbias: array<f32>;  // (G, N)

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

// The gradient before the activation.
fn d_at(b: u32, g: u32, n: u32) -> f32 {
    if b < params.rows && n < params.outputs {
        let i = (b * params.groups + g) * params.outputs + n;
        if params.activation == 1u && y_read[i] <= 0.0 {
            return 0.0;
        }
        return dy[i];
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

@compute @workgroup_size(16, 16)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) id: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let g = group.z;
    let row = group.y * TILE;
    let column = group.x * TILE;
    var sums = array<vec4<f32>, 4>();
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
        multiply(id.xy, &sums);
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i++) {
        let b = row + id.y * 4u + i;
        if b >= params.rows {
            continue;
        }
        for (var j = 0u; j < 4u; j++) {
            let n = column + id.x * 4u + j;
            if n < params.outputs {
                var value = sums[i][j];
                if (params.flags & 1u) != 0u {
                    value += bias[g * params.outputs + n];
                }
                if params.activation == 1u {
                    value = max(value, 0.0);
                }
                y[(b * params.groups + g) * params.outputs + n] = value;
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
