// Batch norm (Ioffe and Szegedy, ICML 2015) of each of C columns over the rows of a minibatch, with a gain and an offset a column.
//
//   moments         of the rows b of each chunk of 64 (the last may have fewer), n of them:
//                   parts[k, c] = (m, sum_b (x[b, c] - m)^2),  m = sum_b x[b, c] / n
//   merge_moments   mean[c] and variance[c] = sum_b (x[b, c] - mean[c])^2 / B of all B rows, out of the chunks' (Chan, Golub and
//                   LeVeque 1979): exact to rounding for columns whose mean is large beside their spread
//   forward         y[b, c] = gain[c] unit[b, c] + offset[c],  unit = (x - mean) / sqrt(variance + eps); with the minibatch's
//                   moments, or with running ones
//   running         running_mean += momentum (mean - running_mean), running_variance likewise by variance B / (B - 1); nothing
//                   where health is not 0. Needs B > 1.
//   sums            parts[k, c] = (sum_b dy[b, c] unit[b, c], sum_b dy[b, c]) over the rows of each chunk, of which norm_sums.wgsl makes the gradients of gain and
//                   offset, and (p, q) of all rows
//   input_gradient  dinput[b, c] (+)= gain[c] (dy[b, c] - q[c] / B - unit[b, c] p[c] / B) / sqrt(variance[c] + eps)
//
// Activations are [B, C] row-major. moments, forward, sums and input_gradient may run on blocks of rows that begin with a chunk.
// Workgroup: 256. moments and sums: 32 columns (local x) x 8 lanes (local y), lane l takes rows l, l + 8, ... of the chunk;
// ceil(rows / 64) ceil(C / 32) workgroups, a chunk's together. merge_moments: 32 columns x 8 lanes, lane l takes
// chunks l, l + 8, ...; ceil(C / 32) workgroups. forward and input_gradient: an invocation an element; running: one a column. All
// folded into x and y.
// Deterministic: one owner an element; lanes go in order, then a tree of fixed shape over the 8 lanes. Blocks of rows change nothing.

struct Params {
    rows: u32,       // of this dispatch; B in merge_moments and running
    width: u32,      // C
    chunk: u32,      // number of the first chunk of this dispatch
    accumulate: u32, // 1: add to what dinput holds
    batch: u32,      // B
    eps: f32,
    momentum: f32,
    pad: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                            // (rows, C)
@group(0) @binding(2) var<storage, read_write> parts: array<vec2<f32>>;            // (ceil(B / 64), C)
@group(0) @binding(3) var<storage, read> parts_in: array<vec2<f32>>;               // (ceil(B / 64), C)
@group(0) @binding(4) var<storage, read_write> mean: array<f32>;                   // (C)
@group(0) @binding(5) var<storage, read_write> variance: array<f32>;               // (C)
@group(0) @binding(6) var<storage, read> mean_in: array<f32>;                      // (C)
@group(0) @binding(7) var<storage, read> variance_in: array<f32>;                  // (C)
@group(0) @binding(8) var<storage, read> gain: array<f32>;                         // (C)
@group(0) @binding(9) var<storage, read> offset: array<f32>;                       // (C)
@group(0) @binding(10) var<storage, read_write> y: array<f32>;                     // (rows, C)
@group(0) @binding(11) var<storage, read> health: array<u32>;                      // (1)
@group(0) @binding(12) var<storage, read_write> running_mean: array<f32>;          // (C)
@group(0) @binding(13) var<storage, read_write> running_variance: array<f32>;      // (C)
@group(0) @binding(14) var<storage, read> dy: array<f32>;                          // (rows, C)
@group(0) @binding(15) var<storage, read> column_sums: array<vec2<f32>>;           // (C): p, q
@group(0) @binding(16) var<storage, read_write> dinput: array<f32>;                    // (rows, C)

const CHUNK = 64u;
const COLUMNS = 32u;
const LANES = 8u;

var<workgroup> lane_sums: array<vec2<f32>, 256>;
var<workgroup> lane_moments: array<vec3<f32>, 256>;

// The sums over the 8 lanes of a column, in every lane.
fn lanes_sum(value: vec2<f32>, column: u32, lane: u32) -> vec2<f32> {
    let at = lane * COLUMNS + column;
    workgroupBarrier();
    lane_sums[at] = value;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step >>= 1u) {
        if lane < step {
            lane_sums[at] += lane_sums[at + step * COLUMNS];
        }
        workgroupBarrier();
    }
    return lane_sums[column];
}

// Moments (number, mean, squared deviations) of two sets of rows together.
fn merge(a: vec3<f32>, b: vec3<f32>) -> vec3<f32> {
    if a.x == 0.0 {
        return b;
    }
    if b.x == 0.0 {
        return a;
    }
    let n = a.x + b.x;
    let share = b.x / n;
    let d = b.y - a.y;
    return vec3(n, a.y + d * share, a.z + b.z + d * (d * a.x * share));
}

// What a workgroup of moments or sums works on.
struct Place {
    chunk: u32,  // within this dispatch
    column: u32,
    rows: u32,   // of the chunk; 0 for invocations past the end, which stay for the barriers
}

fn place(group: vec3<u32>, count: vec3<u32>, local: vec3<u32>) -> Place {
    let tiles = (params.width + COLUMNS - 1u) / COLUMNS;
    let flat = group.y * count.x + group.x;
    let chunk = flat / tiles;
    let column = (flat - chunk * tiles) * COLUMNS + local.x;
    var rows = 0u;
    if column < params.width && chunk < (params.rows + CHUNK - 1u) / CHUNK {
        rows = min(CHUNK, params.rows - chunk * CHUNK);
    }
    return Place(chunk, column, rows);
}

fn inverse_deviation(column: u32) -> f32 {
    return 1.0 / sqrt(variance_in[column] + params.eps);
}

@compute @workgroup_size(32, 8)
fn moments(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
) {
    let here = place(group, count, local);
    let base = here.chunk * CHUNK * params.width + here.column;
    var sum = 0.0;
    for (var b = local.y; b < here.rows; b += LANES) {
        sum += x[base + b * params.width];
    }
    let m = lanes_sum(vec2(sum, 0.0), local.x, local.y).x / f32(max(here.rows, 1u));
    var squares = 0.0;
    for (var b = local.y; b < here.rows; b += LANES) {
        let d = x[base + b * params.width] - m;
        squares += d * d;
    }
    let all = lanes_sum(vec2(squares, 0.0), local.x, local.y).x;
    if here.rows > 0u && local.y == 0u {
        parts[(params.chunk + here.chunk) * params.width + here.column] = vec2(m, all);
    }
}

@compute @workgroup_size(32, 8)
fn merge_moments(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
) {
    let column = (group.y * count.x + group.x) * COLUMNS + local.x;
    let here = column < params.width;
    let chunks = select(0u, (params.rows + CHUNK - 1u) / CHUNK, here);
    var own = vec3<f32>();
    for (var k = local.y; k < chunks; k += LANES) {
        own = merge(own, vec3(f32(min(CHUNK, params.rows - k * CHUNK)), parts_in[k * params.width + column]));
    }
    let at = local.y * COLUMNS + local.x;
    lane_moments[at] = own;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step >>= 1u) {
        if local.y < step {
            lane_moments[at] = merge(lane_moments[at], lane_moments[at + step * COLUMNS]);
        }
        workgroupBarrier();
    }
    if here && local.y == 0u {
        let all = lane_moments[local.x];
        mean[column] = all.y;
        variance[column] = all.z / f32(params.rows);
    }
}

@compute @workgroup_size(256)
fn forward(
    @builtin(local_invocation_index) t: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
) {
    let i = (group.y * count.x + group.x) * 256u + t;
    if i >= params.rows * params.width {
        return;
    }
    let c = i % params.width;
    y[i] = gain[c] * ((x[i] - mean_in[c]) * inverse_deviation(c)) + offset[c];
}

@compute @workgroup_size(256)
fn running(
    @builtin(local_invocation_index) t: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
) {
    let c = (group.y * count.x + group.x) * 256u + t;
    if c >= params.width || health[0] != 0u {
        return;
    }
    let unbiased = variance_in[c] * (f32(params.rows) / f32(params.rows - 1u));
    running_mean[c] += params.momentum * (mean_in[c] - running_mean[c]);
    running_variance[c] += params.momentum * (unbiased - running_variance[c]);
}

@compute @workgroup_size(32, 8)
fn sums(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
) {
    let here = place(group, count, local);
    let base = here.chunk * CHUNK * params.width + here.column;
    var m = 0.0;
    var inverse = 0.0;
    if here.rows > 0u {
        m = mean_in[here.column];
        inverse = inverse_deviation(here.column);
    }
    var both = vec2<f32>();
    for (var b = local.y; b < here.rows; b += LANES) {
        let at = base + b * params.width;
        both += vec2(dy[at] * ((x[at] - m) * inverse), dy[at]);
    }
    both = lanes_sum(both, local.x, local.y);
    if here.rows > 0u && local.y == 0u {
        parts[(params.chunk + here.chunk) * params.width + here.column] = both;
    }
}

@compute @workgroup_size(256)
fn input_gradient(
    @builtin(local_invocation_index) t: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
) {
    let i = (group.y * count.x + group.x) * 256u + t;
    if i >= params.rows * params.width {
        return;
    }
    let c = i % params.width;
    let inverse = inverse_deviation(c);
    let means = column_sums[c] / f32(params.batch);
    var gradient = gain[c] * inverse * (dy[i] - means.y - (x[i] - mean_in[c]) * inverse * means.x);
    if params.accumulate != 0u {
        gradient += dinput[i];
    }
    dinput[i] = gradient;
}
