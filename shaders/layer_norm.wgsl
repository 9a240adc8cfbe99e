// Layer norm (Ba et al. 2016) of each group's columns, for G groups of N columns side by side, with a gain and an offset a column.
//
//   forward             mean = sum_n x[b, g, n] / N,  inverse = 1 / sqrt(sum_n (x[b, g, n] - mean)^2 / N + eps)
//                       y[b, g, n] = gain[g, n] unit[b, g, n] + offset[g, n],  unit = (x - mean) inverse
//   input_gradient      dinput[b, g, n] (+)= inverse (d[n] - sum_m d[m] / N - unit[n] sum_m d[m] unit[m] / N),  d = gain dy
//   parameter_sums      of the rows b of each chunk of 64: parts[k, g, n] = (sum_b dy[b, g, n] unit[b, g, n], sum_b dy[b, g, n]), of which norm_sums.wgsl makes the
//                       gradients of gain and offset
//
// Activations are [B, columns] row-major with a group's columns together; a row of a group is a vector, number b G + g.
// Workgroup: 256. forward and input_gradient: 16 vectors (local y) x 16 lanes (local x), lane l takes columns l, l + 16, ... of its
// vector; ceil(B G / 16) workgroups. parameter_sums: 16 columns (local x) x 16 lanes (local y), lane l takes rows l, l + 16, ... of the chunk;
// ceil(B / 64) ceil(G N / 16) workgroups, a chunk's together. All folded into x and y. All may run on blocks of rows, parameter_sums on those that begin with a
// chunk.
// Deterministic: one owner an element; lanes sum in order, then a tree of fixed shape over the 16 lanes.

struct Params {
    rows: u32,       // of this dispatch
    groups: u32,     // G
    width: u32,      // N
    accumulate: u32, // 1: add to what dinput holds
    eps: f32,
    chunk: u32,      // number of the first chunk of this dispatch
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                    // (B, G, N)
@group(0) @binding(2) var<storage, read> gain: array<f32>;                 // (G, N)
@group(0) @binding(3) var<storage, read> offset: array<f32>;               // (G, N)
@group(0) @binding(4) var<storage, read_write> y: array<f32>;              // (B, G, N)
@group(0) @binding(5) var<storage, read_write> moments: array<vec2<f32>>;  // (B, G): mean, inverse
@group(0) @binding(6) var<storage, read> moments_in: array<vec2<f32>>;     // (B, G)
@group(0) @binding(7) var<storage, read> dy: array<f32>;                   // (B, G, N)
@group(0) @binding(8) var<storage, read_write> dinput: array<f32>;             // (B, G, N)
@group(0) @binding(9) var<storage, read_write> parts: array<vec2<f32>>;    // (ceil(B / 64), G, N)

const CHUNK = 64u;

var<workgroup> part: array<vec2<f32>, 256>;

// The sums over the 16 lanes of an owner, in every lane.
fn lanes_sum(value: vec2<f32>, owner: u32, lane: u32) -> vec2<f32> {
    let at = owner * 16u + lane;
    workgroupBarrier();
    part[at] = value;
    workgroupBarrier();
    for (var step = 8u; step > 0u; step >>= 1u) {
        if lane < step {
            part[at] += part[at + step];
        }
        workgroupBarrier();
    }
    return part[owner * 16u];
}

@compute @workgroup_size(16, 16)
fn forward(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
) {
    let vector = (group.y * count.x + group.x) * 16u + local.y;
    let here = vector < params.rows * params.groups;
    // Invocations past the end stay for the barriers with no columns.
    let width = select(0u, params.width, here);
    let base = vector * params.width;
    let first = (vector % params.groups) * params.width;
    let n = f32(params.width);
    var sum = 0.0;
    for (var c = local.x; c < width; c += 16u) {
        sum += x[base + c];
    }
    let mean = lanes_sum(vec2(sum, 0.0), local.y, local.x).x / n;
    var squares = 0.0;
    for (var c = local.x; c < width; c += 16u) {
        let d = x[base + c] - mean;
        squares += d * d;
    }
    let inverse = 1.0 / sqrt(lanes_sum(vec2(squares, 0.0), local.y, local.x).x / n + params.eps);
    for (var c = local.x; c < width; c += 16u) {
        y[base + c] = gain[first + c] * ((x[base + c] - mean) * inverse) + offset[first + c];
    }
    if here && local.x == 0u {
        moments[vector] = vec2(mean, inverse);
    }
}

@compute @workgroup_size(16, 16)
fn input_gradient(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
) {
    let vector = (group.y * count.x + group.x) * 16u + local.y;
    let here = vector < params.rows * params.groups;
    let width = select(0u, params.width, here);
    let base = vector * params.width;
    let first = (vector % params.groups) * params.width;
    var own = vec2(0.0, 0.0);
    if here {
        own = moments_in[vector];
    }
    var sums = vec2<f32>();
    for (var c = local.x; c < width; c += 16u) {
        let d = gain[first + c] * dy[base + c];
        sums += vec2(d, d * ((x[base + c] - own.x) * own.y));
    }
    let means = lanes_sum(sums, local.y, local.x) / f32(params.width);
    for (var c = local.x; c < width; c += 16u) {
        let unit = (x[base + c] - own.x) * own.y;
        var gradient = own.y * (gain[first + c] * dy[base + c] - means.x - unit * means.y);
        if params.accumulate != 0u {
            gradient += dinput[base + c];
        }
        dinput[base + c] = gradient;
    }
}

@compute @workgroup_size(16, 16)
fn parameter_sums(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
) {
    let columns = params.groups * params.width;
    let tiles = (columns + 15u) / 16u;
    let flat = group.y * count.x + group.x;
    let chunk = flat / tiles;
    let column = (flat - chunk * tiles) * 16u + local.x;
    // Invocations past the end stay for the barriers with no rows.
    var end = 0u;
    if column < columns {
        end = min((chunk + 1u) * CHUNK, params.rows);
    }
    let own = column / params.width;
    var sums = vec2<f32>();
    for (var b = chunk * CHUNK + local.y; b < end; b += 16u) {
        let d = dy[b * columns + column];
        let both = moments_in[b * params.groups + own];
        sums += vec2(d * ((x[b * columns + column] - both.x) * both.y), d);
    }
    sums = lanes_sum(sums, local.x, local.y);
    if chunk * CHUNK < end && local.y == 0u {
        parts[(params.chunk + chunk) * columns + column] = sums;
    }
}
