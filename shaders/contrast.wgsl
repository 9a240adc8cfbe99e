// contrast: the contrastive loss of a minibatch with all its rows as candidates.
//
// z holds unit rows [z_ctr | z_cvr]. Direction 0 has CTR rows as anchors and CVR rows as candidates, direction 1 the other way
// round. For anchor i of a direction with S_ij = <anchor i, candidate j>, tau_i and N(i) (i itself and every j whose key is 0
// or another than i's; every j without `masked`):
//
// stats     (lse_i, m_i, n_i, S_ii): lse_i = log sum_{j in N(i)} exp(S_ij / tau_i), m_i = sum_{j in N(i)} p_ij S_ij with
//           p_ij = exp(S_ij / tau_i - lse_i), n_i = |N(i)|. Online log-sum-exp over tiles: S is never stored.
//           Beside it margin_i = S_ii - max S_ij over the others in N(i), 0 where there are none.
// anchors   n_i = 0 for rows without a click: such a row is no anchor, and has neither loss nor gradient as one.
// losses    infonce: lse_i - S_ii / tau_i; robust: tau_i (lse_i - S_ii / tau_i - log n_i) + rho tau_i; the two directions'
//           mean where both are on. Beside it (hits, pairs): in how many directions the own other representation is the
//           nearest, margin_i > 0 (a tie is none), of those in which i is an anchor with another candidate.
// gradient  dz of both sides. With w_d the weight of direction d over the rows and k = 1 / tau (infonce) or 1 (robust):
//           d(own i) = sum_j G_ij other_j, G_ij = w_side (p_ij - [i = j]) k_i + w_{1 - side} (p'_ji - [i = j]) k_j
//           where p' is the other direction's p, in which j is the anchor. Tiles of S are computed anew.
// slopes    dtau. infonce: (S_ii - m_i) / tau_i^2; robust: lse_i - S_ii / tau_i - log n_i - (m_i - S_ii) / tau_i + rho;
//           weighted as above, both directions added.
//
// A row whose N(i) is i alone has p_ii = 1 exactly: no loss but rho tau, and no gradient to S.
//
// Workgroup: 16 x 16 invocations on tiles of 64 own rows x 32 others, 4 x 2 numbers each, with 16 columns of z in workgroup
//            memory at a time (15.2 KB with the tile of G). anchors, losses, slopes: 64 invocations, one a row.
// Dispatch:  stats: directions * ceil(rows / 64) workgroups; gradient: 2 sides * ceil(rows / 64) * ceil(width / 64); anchors,
//            losses, slopes: ceil(rows / 64); all folded into x and y.
// Deterministic: one owner an element; others go by in order, invocations of a row are folded in order.

struct Params {
    rows: u32,
    width: u32, // of z_ctr and of z_cvr
    masked: u32, // 1: rows with the anchor's key are no candidates
    robust: u32, // 0: infonce
    first: u32, // first direction that is on
    directions: u32, // how many are on
    accumulate: u32, // gradient, slopes: 1 adds to what is there
    scale: f32, // gradient, slopes: lambda / (rows * directions)
    rho: f32,
    offsets: u32, // sampled candidates; unused here
    pad0: u32,
    pad1: u32,
}

struct Step {
    dense_lr: f32,
    embedding_lr: f32,
    correction1: f32,
    correction2: f32,
    inverse_clicks: f32,
    step_low: u32,
    step_high: u32,
    contrast: f32, // factor of lambda
}

// Below every S / tau, and far enough from the largest float for differences and products.
const LOWEST: f32 = -1.0e30;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> z: array<f32>; // (rows, 2 * width)
@group(0) @binding(2) var<storage, read> tau: array<f32>; // (rows)
@group(0) @binding(3) var<storage, read> keys: array<u32>; // (rows), any buffer without `masked`
@group(0) @binding(4) var<storage, read_write> stats_out: array<vec4<f32>>; // (directions, rows): lse, m, n, S_ii
@group(0) @binding(5) var<storage, read> stats_in: array<vec4<f32>>; // (directions, rows)
@group(0) @binding(6) var<storage, read_write> row_losses: array<f32>; // (rows)
@group(0) @binding(7) var<storage, read_write> dz: array<f32>; // (rows, 2 * width)
@group(0) @binding(8) var<storage, read_write> dtau: array<f32>; // (rows)
@group(0) @binding(9) var<uniform> step: Step;
@group(0) @binding(10) var<storage, read> labels: array<vec2<f32>>; // (rows): click, conversion
@group(0) @binding(11) var<storage, read_write> stats_inout: array<vec4<f32>>; // (directions, rows)
@group(0) @binding(12) var<storage, read_write> margins_out: array<f32>; // (directions, rows)
@group(0) @binding(13) var<storage, read> margins_in: array<f32>; // (directions, rows)
@group(0) @binding(14) var<storage, read_write> pairing: array<vec2<f32>>; // (rows): hits, pairs

// Index 17 * a + b: the column of 17 keeps invocations with different a apart in the banks.
var<workgroup> own: array<vec4<f32>, 272>; // (column, own rows by 4), or in turns (other, columns c, c + 16, ..)
var<workgroup> others: array<vec2<f32>, 272>; // (column, other rows by 2)
var<workgroup> weights: array<vec4<f32>, 544>; // (other, own rows by 4): a tile of G

fn load_z(row: u32, side: u32, column: u32) -> f32 {
    if (row < params.rows && column < params.width) {
        return z[(row * 2u + side) * params.width + column];
    }
    return 0.0;
}

// S of own rows own_row + 4 * local.y .. + 3 with other rows other_row + 2 * local.x (first) and the next (second).
struct Scores {
    first: vec4<f32>,
    second: vec4<f32>,
}

fn scores(side: u32, own_row: u32, other_row: u32, local: vec2<u32>) -> Scores {
    var s = Scores(vec4<f32>(0.0), vec4<f32>(0.0));
    for (var k0 = 0u; k0 < params.width; k0 += 16u) {
        let column = k0 + local.x;
        let r = own_row + local.y * 4u;
        let o = other_row + local.y * 2u;
        workgroupBarrier();
        own[local.x * 17u + local.y] = vec4<f32>(
            load_z(r, side, column),
            load_z(r + 1u, side, column),
            load_z(r + 2u, side, column),
            load_z(r + 3u, side, column),
        );
        others[local.x * 17u + local.y] = vec2<f32>(load_z(o, 1u - side, column), load_z(o + 1u, 1u - side, column));
        workgroupBarrier();
        for (var k = 0u; k < 16u; k++) {
            let a = own[k * 17u + local.y];
            let b = others[k * 17u + local.x];
            s.first += a * b.x;
            s.second += a * b.y;
        }
    }
    return s;
}

fn key_of(row: u32) -> u32 {
    if (params.masked != 0u && row < params.rows) {
        return keys[row];
    }
    return 0u;
}

fn keys_of(row: u32) -> vec4<u32> {
    return vec4<u32>(key_of(row), key_of(row + 1u), key_of(row + 2u), key_of(row + 3u));
}

fn tau_of(row: u32) -> f32 {
    if (row < params.rows) {
        return tau[row];
    }
    return 1.0;
}

fn taus_of(row: u32) -> vec4<f32> {
    return vec4<f32>(tau_of(row), tau_of(row + 1u), tau_of(row + 2u), tau_of(row + 3u));
}

// Which of rows own_row .. + 3 have row j among their candidates; the relation is symmetric.
fn candidates(own_row: u32, own_keys: vec4<u32>, j: u32) -> vec4<bool> {
    if (j >= params.rows) {
        return vec4<bool>(false);
    }
    let rows = vec4<u32>(own_row) + vec4<u32>(0u, 1u, 2u, 3u);
    return (own_keys == vec4<u32>(0u)) | (own_keys != vec4<u32>(key_of(j))) | (rows == vec4<u32>(j));
}

// A running log-sum-exp of four anchors.
struct Online {
    highest: vec4<f32>,
    sum: vec4<f32>, // of exp(x - highest)
    product: vec4<f32>, // of exp(x - highest) * S
    count: vec4<f32>,
    positive: vec4<f32>, // S_ii
    rival: vec4<f32>, // highest S of another candidate
}

fn add(state: Online, s: vec4<f32>, inverse: vec4<f32>, member: vec4<bool>, itself: vec4<bool>) -> Online {
    let x = select(vec4<f32>(LOWEST), s * inverse, member);
    let highest = max(state.highest, x);
    let keep = exp(state.highest - highest);
    let e = select(vec4<f32>(0.0), exp(x - highest), member);
    return Online(
        highest,
        state.sum * keep + e,
        state.product * keep + e * s,
        state.count + select(vec4<f32>(0.0), vec4<f32>(1.0), member),
        select(state.positive, s, itself),
        select(state.rival, max(state.rival, s), member & !itself),
    );
}

// The sum over the 16 invocations of own rows, in order, in every one.
fn row_sum(value: vec4<f32>, local: vec2<u32>) -> vec4<f32> {
    workgroupBarrier();
    own[local.x * 17u + local.y] = value;
    workgroupBarrier();
    var sum = vec4<f32>(0.0);
    for (var l = 0u; l < 16u; l++) {
        sum += own[l * 17u + local.y];
    }
    return sum;
}

fn row_max(value: vec4<f32>, local: vec2<u32>) -> vec4<f32> {
    workgroupBarrier();
    own[local.x * 17u + local.y] = value;
    workgroupBarrier();
    var highest = own[local.y];
    for (var l = 1u; l < 16u; l++) {
        highest = max(highest, own[l * 17u + local.y]);
    }
    return highest;
}

@compute @workgroup_size(16, 16)
fn stats(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let tiles = (params.rows + 63u) / 64u;
    let flat = group.y * groups.x + group.x;
    if (flat >= tiles * params.directions) {
        return;
    }
    let direction = flat / tiles;
    let side = params.first + direction;
    let tile = (flat % tiles) * 64u;
    let row = tile + local.y * 4u;
    let rows = vec4<u32>(row) + vec4<u32>(0u, 1u, 2u, 3u);
    let own_keys = keys_of(row);
    let inverse = vec4<f32>(1.0) / taus_of(row);
    let zero = vec4<f32>(0.0);
    var state = Online(vec4<f32>(LOWEST), zero, zero, zero, zero, vec4<f32>(LOWEST));
    for (var j0 = 0u; j0 < params.rows; j0 += 32u) {
        let s = scores(side, tile, j0, local.xy);
        let j = j0 + local.x * 2u;
        state = add(state, s.first, inverse, candidates(row, own_keys, j), rows == vec4<u32>(j));
        state = add(state, s.second, inverse, candidates(row, own_keys, j + 1u), rows == vec4<u32>(j + 1u));
    }
    let highest = row_max(state.highest, local.xy);
    let keep = exp(state.highest - highest);
    let sum = row_sum(state.sum * keep, local.xy);
    let product = row_sum(state.product * keep, local.xy);
    let count = row_sum(state.count, local.xy);
    // One invocation holds S_ii, the others 0.
    let positive = row_sum(state.positive, local.xy);
    let rival = row_max(state.rival, local.xy);
    if (local.x == 0u) {
        for (var r = 0u; r < 4u; r++) {
            if (row + r < params.rows) {
                let lse = highest[r] + log(sum[r]);
                let at = direction * params.rows + row + r;
                stats_out[at] = vec4<f32>(lse, product[r] / sum[r], count[r], positive[r]);
                margins_out[at] = select(positive[r] - rival[r], 0.0, count[r] < 1.5);
            }
        }
    }
}

@compute @workgroup_size(64)
fn anchors(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let i = (group.y * groups.x + group.x) * 64u + local.x;
    if (i >= params.rows || labels[i].x != 0.0) {
        return;
    }
    for (var d = 0u; d < params.directions; d++) {
        stats_inout[d * params.rows + i].z = 0.0;
    }
}

// Loss of one anchor.
fn loss_of(s: vec4<f32>, t: f32) -> f32 {
    if (s.z == 0.0) {
        return 0.0;
    }
    let alone = s.z < 1.5;
    if (params.robust != 0u) {
        return select(t * (s.x - s.w / t - log(s.z)), 0.0, alone) + params.rho * t;
    }
    return select(s.x - s.w / t, 0.0, alone);
}

// Hit and pair of one anchor.
fn pair_of(s: vec4<f32>, margin: f32) -> vec2<f32> {
    return select(vec2<f32>(select(0.0, 1.0, margin > 0.0), 1.0), vec2<f32>(0.0), s.z < 1.5);
}

@compute @workgroup_size(64)
fn losses(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let i = (group.y * groups.x + group.x) * 64u + local.x;
    if (i >= params.rows) {
        return;
    }
    var loss = loss_of(stats_in[i], tau[i]);
    var pair = pair_of(stats_in[i], margins_in[i]);
    if (params.directions > 1u) {
        loss = 0.5 * (loss + loss_of(stats_in[params.rows + i], tau[i]));
        pair += pair_of(stats_in[params.rows + i], margins_in[params.rows + i]);
    }
    row_losses[i] = loss;
    pairing[i] = pair;
}

fn slope_of(s: vec4<f32>, t: f32) -> f32 {
    if (s.z == 0.0) {
        return 0.0;
    }
    let alone = s.z < 1.5;
    if (params.robust != 0u) {
        return select(s.x - s.w / t - log(s.z) - (s.y - s.w) / t, 0.0, alone) + params.rho;
    }
    return select((s.w - s.y) / t / t, 0.0, alone);
}

@compute @workgroup_size(64)
fn slopes(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let i = (group.y * groups.x + group.x) * 64u + local.x;
    if (i >= params.rows) {
        return;
    }
    var slope = slope_of(stats_in[i], tau[i]);
    if (params.directions > 1u) {
        slope += slope_of(stats_in[params.rows + i], tau[i]);
    }
    let gradient = params.scale * step.contrast * slope;
    if (params.accumulate != 0u) {
        dtau[i] += gradient;
    } else {
        dtau[i] = gradient;
    }
}

// What the gradient needs of an anchor: 1 / tau, lse, w k (0 where the direction is off or N(i) is i alone).
fn anchor(row: u32, direction: u32) -> vec3<f32> {
    if (row >= params.rows || direction < params.first || direction >= params.first + params.directions) {
        return vec3<f32>(0.0);
    }
    let s = stats_in[(direction - params.first) * params.rows + row];
    let inverse = 1.0 / tau[row];
    let weight = params.scale * step.contrast * select(inverse, 1.0, params.robust != 0u);
    return vec3<f32>(inverse, s.x, select(weight, 0.0, s.z < 1.5));
}

// G of four own rows (columns of `mine`: 1 / tau, lse, weight) with other row j.
fn weights_of(s: vec4<f32>, mine: mat3x4<f32>, row: u32, own_keys: vec4<u32>, j: u32, theirs: vec3<f32>) -> vec4<f32> {
    let member = candidates(row, own_keys, j);
    let itself = (vec4<u32>(row) + vec4<u32>(0u, 1u, 2u, 3u)) == vec4<u32>(j);
    let one = select(vec4<f32>(0.0), vec4<f32>(1.0), itself);
    // No pair outside of N may reach exp: nothing bounds it there. A member's exponent is at most a rounding above 0.
    let mine_x = select(vec4<f32>(LOWEST), s * mine[0] - mine[1], member & (mine[2] != vec4<f32>(0.0)));
    let their_x = select(vec4<f32>(LOWEST), s * theirs.x - theirs.y, member & vec4<bool>(theirs.z != 0.0));
    let g = mine[2] * (exp(mine_x) - one) + theirs.z * (exp(their_x) - one);
    return select(vec4<f32>(0.0), g, member);
}

fn four(row: u32, side: u32, column: u32) -> vec4<f32> {
    return vec4<f32>(
        load_z(row, side, column),
        load_z(row, side, column + 16u),
        load_z(row, side, column + 32u),
        load_z(row, side, column + 48u),
    );
}

fn store(row: u32, side: u32, column: u32, value: vec4<f32>) {
    if (column >= params.width) {
        return;
    }
    for (var r = 0u; r < 4u; r++) {
        if (row + r < params.rows) {
            let at = ((row + r) * 2u + side) * params.width + column;
            if (params.accumulate != 0u) {
                dz[at] += value[r];
            } else {
                dz[at] = value[r];
            }
        }
    }
}

@compute @workgroup_size(16, 16)
fn gradient(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let tiles = (params.rows + 63u) / 64u;
    let chunks = (params.width + 63u) / 64u;
    let flat = group.y * groups.x + group.x;
    if (flat >= 2u * tiles * chunks) {
        return;
    }
    let side = flat / (tiles * chunks);
    let tile = ((flat / chunks) % tiles) * 64u;
    let column = (flat % chunks) * 64u + local.x;
    // Groups of 16 columns in this chunk: narrow rows skip the rest.
    let parts = min((params.width - (flat % chunks) * 64u + 15u) / 16u, 4u);
    let row = tile + local.y * 4u;
    let own_keys = keys_of(row);
    let mine = transpose(mat4x3<f32>(
        anchor(row, side),
        anchor(row + 1u, side),
        anchor(row + 2u, side),
        anchor(row + 3u, side),
    ));
    var sum0 = vec4<f32>(0.0);
    var sum1 = vec4<f32>(0.0);
    var sum2 = vec4<f32>(0.0);
    var sum3 = vec4<f32>(0.0);
    for (var j0 = 0u; j0 < params.rows; j0 += 32u) {
        let s = scores(side, tile, j0, local.xy);
        let j = j0 + local.x * 2u;
        // The tile before is still read until the first barrier of `scores`, which lies between.
        weights[(local.x * 2u) * 17u + local.y] =
            weights_of(s.first, mine, row, own_keys, j, anchor(j, 1u - side));
        weights[(local.x * 2u + 1u) * 17u + local.y] =
            weights_of(s.second, mine, row, own_keys, j + 1u, anchor(j + 1u, 1u - side));
        for (var half = 0u; half < 32u; half += 16u) {
            workgroupBarrier();
            own[local.y * 17u + local.x] = four(j0 + half + local.y, 1u - side, column);
            workgroupBarrier();
            for (var l = 0u; l < 16u; l++) {
                let w = weights[(half + l) * 17u + local.y];
                let v = own[l * 17u + local.x];
                sum0 += w * v.x;
                if (parts > 1u) {
                    sum1 += w * v.y;
                }
                if (parts > 2u) {
                    sum2 += w * v.z;
                    sum3 += w * v.w;
                }
            }
        }
    }
    store(row, side, column, sum0);
    store(row, side, column + 16u, sum1);
    store(row, side, column + 32u, sum2);
    store(row, side, column + 48u, sum3);
}
