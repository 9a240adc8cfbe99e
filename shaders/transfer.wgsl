// AITM's transfer (Xi et al., KDD 2021): attention over two items of a row, with h1, h2, h3 of each.
//
//   forward   s_u = <h2_u, h3_u> / sqrt(D), w = softmax(s), z = w_0 h1_0 + w_1 h1_1
//   backward  dh1_u = w_u dz,  g_u = w_u (<dz, h1_u> - sum_v w_v <dz, h1_v>) / sqrt(D),  dh2_u = g_u h3_u,  dh3_u = g_u h2_u
//
// A workgroup of 256 handles 16 rows, 16 lanes a row, each with every 16th column; workgroups folded into x and y.
// Deterministic: one owner an element, a row's lanes are summed in order.

struct Params {
    rows: u32,       // B
    width: u32,      // D
    accumulate: u32, // 1: add to dh
    scale: f32,      // 1 / sqrt(D)
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> h: array<f32>;          // (B, 2, 3, D)
@group(0) @binding(2) var<storage, read_write> z: array<f32>;    // (B, D)
@group(0) @binding(3) var<storage, read> dz: array<f32>;         // (B, D)
@group(0) @binding(4) var<storage, read_write> dh: array<f32>;   // (B, 2, 3, D)

const LANES = 16u;

// Of each lane: its part of s_0, s_1, and in the backward pass of <dz, h1_0>, <dz, h1_1>.
var<workgroup> parts: array<vec4<f32>, 256>;

// This lane's part of the two scores of the row whose h starts at `at`, before their scale.
fn score_parts(at: u32, t: u32) -> vec2<f32> {
    let d = params.width;
    var part = vec2<f32>();
    for (var c = t % LANES; c < d; c += LANES) {
        part += vec2(h[at + d + c] * h[at + 2u * d + c], h[at + 4u * d + c] * h[at + 5u * d + c]);
    }
    return part;
}

// Sums of a row's lanes.
fn row_sums(t: u32) -> vec4<f32> {
    let first = t / LANES * LANES;
    var sum = vec4<f32>();
    for (var lane = 0u; lane < LANES; lane++) {
        sum += parts[first + lane];
    }
    return sum;
}

// The two weights from the two scores.
fn weights(s: vec2<f32>) -> vec2<f32> {
    let e = exp(s - max(s.x, s.y));
    return e / (e.x + e.y);
}

@compute @workgroup_size(256)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let b = (group.y * groups.x + group.x) * (256u / LANES) + t / LANES;
    let d = params.width;
    let at = b * 6u * d;
    var part = vec4<f32>();
    if b < params.rows {
        part = vec4(score_parts(at, t), 0.0, 0.0);
    }
    parts[t] = part;
    workgroupBarrier();
    if b >= params.rows {
        return;
    }
    let w = weights(row_sums(t).xy * params.scale);
    for (var c = t % LANES; c < d; c += LANES) {
        z[b * d + c] = w.x * h[at + c] + w.y * h[at + 3u * d + c];
    }
}

@compute @workgroup_size(256)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let b = (group.y * groups.x + group.x) * (256u / LANES) + t / LANES;
    let d = params.width;
    let at = b * 6u * d;
    var part = vec4<f32>();
    if b < params.rows {
        var slopes = vec2<f32>();
        for (var c = t % LANES; c < d; c += LANES) {
            slopes += dz[b * d + c] * vec2(h[at + c], h[at + 3u * d + c]);
        }
        part = vec4(score_parts(at, t), slopes);
    }
    parts[t] = part;
    workgroupBarrier();
    if b >= params.rows {
        return;
    }
    let sums = row_sums(t);
    let w = weights(sums.xy * params.scale);
    let g = w * (sums.zw - dot(w, sums.zw)) * params.scale;
    for (var c = t % LANES; c < d; c += LANES) {
        for (var u = 0u; u < 2u; u++) {
            let first = at + u * 3u * d + c;
            var values = vec3(w[u] * dz[b * d + c], g[u] * h[first + 2u * d], g[u] * h[first + d]);
            if params.accumulate != 0u {
                values += vec3(dh[first], dh[first + d], dh[first + 2u * d]);
            }
            dh[first] = values.x;
            dh[first + d] = values.y;
            dh[first + 2u * d] = values.z;
        }
    }
}
