// contrast with sampled candidates: anchor i has the candidates i and (i + c_k) mod rows, the same K offsets c_k in
// [1, rows) for all anchors of a step; rows with the anchor's key are left out as in contrast.wgsl, whose kernels `finish` and
// `slopes` go with these two.
//
// stats     sums of each anchor and direction, S_ii and, with `masked`, n, as in contrast.wgsl, of one slice and one band.
// gradient  dz of both sides. Row i of a side gathers as anchor of its direction from j = (i + c) mod rows, and as candidate
//           of the other direction from the anchors j = (i - c) mod rows, c in {0, c_1, .., c_K}:
//           G = w (p - [c = 0]) k of the anchor, d(own i) = sum G other_j. No two rows write one place.
//
// Columns are read and written by Numbers: one or, where the width is a multiple of four, four neighbours (by_one.wgsl and by_four.wgsl, of which one is a
// part of this module).
//
// Workgroup: 16 own rows (local y) x 16 lanes (local x). Lanes take candidates by turns; in the second half of the gradient they
//            take Numbers lane, lane + 16, .. of a chunk of 64 columns.
// Dispatch:  stats: directions * ceil(rows / 16); gradient: 2 sides * ceil(rows / 16) * ceil(width / 64); folded into x and y.
// Deterministic: one owner an element; lanes' candidates in order, then lanes in order.

struct Params {
    rows: u32,
    width: u32, // of z_ctr and of z_cvr
    masked: u32, // 1: rows with the anchor's key are no candidates
    clicked: u32, // unused here
    robust: u32, // 0: infonce
    first: u32, // first direction that is on
    directions: u32, // how many are on
    accumulate: u32, // gradient: 1 adds to dz
    scale: f32, // gradient: lambda / (rows * directions)
    rho: f32, // unused here
    offsets: u32, // K
    slice: u32, // unused here, as all after it
    slices: u32,
    band: u32,
    bands: u32,
    pad0: u32,
}

// Below every S / tau, and far enough from the largest float for differences and products.
const LOWEST: f32 = -1.0e30;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> z: array<Numbers>; // (rows, 2 * width)
@group(0) @binding(2) var<storage, read> tau: array<f32>; // (rows)
@group(0) @binding(3) var<storage, read> keys: array<u32>; // (rows), any buffer without `masked`
@group(0) @binding(4) var<storage, read_write> sums_out: array<vec4<f32>>; // (directions, rows): h, sums, highest other S
@group(0) @binding(5) var<storage, read> stats_in: array<vec4<f32>>; // (directions, rows)
@group(0) @binding(6) var<storage, read> offsets: array<u32>; // (K)
@group(0) @binding(7) var<storage, read_write> dz: array<Numbers>; // (rows, 2 * width)
@group(0) @binding(8) var<uniform> step: Step;
@group(0) @binding(9) var<storage, read_write> positives_out: array<f32>; // (rows): S_ii
@group(0) @binding(10) var<storage, read_write> counts_out: array<f32>; // (rows): n; with `masked`

// Columns of a chunk in Numbers, and how many of them a lane has.
const CHUNK = 64u / UNIT;
const OWN = CHUNK / 16u;

var<workgroup> part: array<f32, 256>; // (own rows, lanes)
var<workgroup> rows_of: array<u32, 256>; // (own rows, lanes): the other row behind `part`

// <own row i, other row j>.
fn score(side: u32, i: u32, j: u32) -> f32 {
    let width = params.width / UNIT;
    let a = (i * 2u + side) * width;
    let b = (j * 2u + 1u - side) * width;
    var products = Numbers();
    for (var k = 0u; k < width; k++) {
        products += z[a + k] * z[b + k];
    }
    return total(products);
}

// Whether j is a candidate of i as far as keys go.
fn allowed(i: u32, j: u32) -> bool {
    if (params.masked == 0u || i == j) {
        return true;
    }
    return keys[i] == 0u || keys[i] != keys[j];
}

// Offset e of 0, c_1, .., c_K.
fn offset_of(e: u32) -> u32 {
    if (e == 0u) {
        return 0u;
    }
    return offsets[e - 1u];
}

fn lanes_sum(value: f32, local: vec2<u32>) -> f32 {
    workgroupBarrier();
    part[local.y * 16u + local.x] = value;
    workgroupBarrier();
    var sum = 0.0;
    for (var l = 0u; l < 16u; l++) {
        sum += part[local.y * 16u + l];
    }
    return sum;
}

fn lanes_max(value: f32, local: vec2<u32>) -> f32 {
    workgroupBarrier();
    part[local.y * 16u + local.x] = value;
    workgroupBarrier();
    var highest = part[local.y * 16u];
    for (var l = 1u; l < 16u; l++) {
        highest = max(highest, part[local.y * 16u + l]);
    }
    return highest;
}

@compute @workgroup_size(16, 16)
fn stats(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let tiles = (params.rows + 15u) / 16u;
    let flat = group.y * groups.x + group.x;
    if (flat >= tiles * params.directions) {
        return;
    }
    let direction = flat / tiles;
    let side = params.first + direction;
    let i = (flat % tiles) * 16u + local.y;
    // Invocations past the end stay for the barriers with no candidates.
    let candidates = select(0u, params.offsets + 1u, i < params.rows);
    let inverse = 1.0 / tau[min(i, params.rows - 1u)];
    var highest = LOWEST;
    var sum = 0.0;
    var product = 0.0;
    var count = 0.0;
    var positive = 0.0;
    var rival = LOWEST;
    for (var e = local.x; e < candidates; e += 16u) {
        let j = (i + offset_of(e)) % params.rows;
        if (allowed(i, j)) {
            let s = score(side, i, j);
            let x = s * inverse;
            let next = max(highest, x);
            let keep = exp(highest - next);
            let w = exp(x - next);
            sum = sum * keep + w;
            product = product * keep + w * s;
            highest = next;
            count += 1.0;
            if (e == 0u) {
                positive = s;
            } else {
                rival = max(rival, s);
            }
        }
    }
    let top = lanes_max(highest, local.xy);
    let keep = exp(highest - top);
    sum = lanes_sum(sum * keep, local.xy);
    product = lanes_sum(product * keep, local.xy);
    count = lanes_sum(count, local.xy);
    positive = lanes_sum(positive, local.xy);
    rival = lanes_max(rival, local.xy);
    if (local.x == 0u && i < params.rows) {
        sums_out[direction * params.rows + i] = vec4<f32>(top, sum, product, rival);
        // N(i) and S_ii are the same in both directions.
        if (direction == 0u) {
            positives_out[i] = positive;
            if (params.masked != 0u) {
                counts_out[i] = count;
            }
        }
    }
}

// G of anchor a of a direction at score s; 0 where the direction is off or a has no candidate but itself.
fn weight_of(a: u32, direction: u32, s: f32, itself: bool) -> f32 {
    let stat = stats_in[(direction - params.first) * params.rows + a];
    if (stat.z < 1.5) {
        return 0.0;
    }
    let inverse = 1.0 / tau[a];
    let p = exp(s * inverse - stat.x);
    return params.scale * step.contrast * select(inverse, 1.0, params.robust != 0u) * (p - select(0.0, 1.0, itself));
}

@compute @workgroup_size(16, 16)
fn gradient(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let tiles = (params.rows + 15u) / 16u;
    let chunks = (params.width + 63u) / 64u;
    let flat = group.y * groups.x + group.x;
    if (flat >= 2u * tiles * chunks) {
        return;
    }
    let side = flat / (tiles * chunks);
    let i = ((flat / chunks) % tiles) * 16u + local.y;
    let width = params.width / UNIT;
    let column = (flat % chunks) * CHUNK + local.x;
    let roles = params.offsets + 1u;
    var sum = array<Numbers, OWN>();
    for (var e0 = 0u; e0 < 2u * roles; e0 += 16u) {
        // Lane local.x finds G of one pair ...
        let e = e0 + local.x;
        var w = 0.0;
        var j = 0u;
        if (i < params.rows && e < 2u * roles) {
            let anchored = e < roles;
            let c = offset_of(e % roles);
            let direction = select(1u - side, side, anchored);
            j = (i + select(params.rows - c, c, anchored)) % params.rows;
            let on = direction >= params.first && direction < params.first + params.directions;
            if (on && allowed(i, j)) {
                w = weight_of(select(j, i, anchored), direction, score(side, i, j), c == 0u);
            }
        }
        workgroupBarrier();
        part[local.y * 16u + local.x] = w;
        rows_of[local.y * 16u + local.x] = j;
        workgroupBarrier();
        // ... and all lanes of the row add the 16 others to their columns.
        for (var l = 0u; l < 16u; l++) {
            let g = part[local.y * 16u + l];
            let other = (rows_of[local.y * 16u + l] * 2u + 1u - side) * width;
            if (g != 0.0) {
                for (var q = 0u; q < OWN; q++) {
                    let at = column + q * 16u;
                    if (at < width) {
                        sum[q] += g * z[other + at];
                    }
                }
            }
        }
    }
    if (i < params.rows) {
        for (var q = 0u; q < OWN; q++) {
            let at = column + q * 16u;
            if (at < width) {
                let to = (i * 2u + side) * width + at;
                if (params.accumulate != 0u) {
                    dz[to] += sum[q];
                } else {
                    dz[to] = sum[q];
                }
            }
        }
    }
}
