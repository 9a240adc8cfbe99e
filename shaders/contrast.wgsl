// contrast: the contrastive loss of a minibatch with all its rows as candidates.
//
// z holds unit rows [z_ctr | z_cvr]. Direction 0 has CTR rows as anchors and CVR rows as candidates, direction 1 the other way
// round. For anchor i of a direction with S_ij = <anchor i, candidate j>, tau_i and N(i) (i itself and every j whose key is 0
// or another than i's; every j without `masked`):
//
// stats     of each slice of the candidates, for the anchors of the first direction that is on: (h, sum exp(x - h), sum exp(x - h) S, highest S
//           of another than i) over the slice's part of N(i), where x = S_ij / tau_i and h is the highest x; and, with `masked`, n, how many these are. Online over
//           tiles: S is never stored, but for S_ii. With both directions the columns of the same S are those of the other's anchors: their sums over each
//           band of own rows, in the same form. (N(i) is the same set of rows in both directions, and S_ii the same number.)
// finish    (lse_i, m_i, n_i, S_ii) of all slices or bands: lse_i = log sum_{j in N(i)} exp(S_ij / tau_i), m_i = sum_{j in N(i)} p_ij S_ij
//           with p_ij = exp(S_ij / tau_i - lse_i), n_i = |N(i)|; with `clicked`, n_i = 0 for rows without a click: such a row is no
//           anchor, and has neither loss nor gradient as one. Then
//           losses   infonce: lse_i - S_ii / tau_i; robust: tau_i (lse_i - S_ii / tau_i - log n_i) + rho tau_i; the two
//                    directions' mean where both are on;
//           pairing  (hits, pairs): in how many directions the own other representation is nearer than every other in N(i) (a tie
//                    is none), of those in which i is an anchor with another candidate.
// gradient  dz of both sides. With w_d the weight of direction d over the rows and k = 1 / tau (infonce) or 1 (robust):
//           d(own i) = sum_j G_ij other_j, G_ij = w_side (p_ij - [i = j]) k_i + w_{1 - side} (p'_ji - [i = j]) k_j
//           where p' is the other direction's p, in which j is the anchor. Tiles of S are computed anew.
// merge     dz of sums over slices, which gradient has left one after the other.
// slopes    dtau. infonce: (S_ii - m_i) / tau_i^2; robust: lse_i - S_ii / tau_i - log n_i - (m_i - S_ii) / tau_i + rho;
//           weighted as above, both directions added.
//
// A row whose N(i) is i alone has p_ii = 1 exactly: no loss but rho tau, and no gradient to S.
//
// z is read four columns at a time: contrast_by_one.wgsl or, where the width is a multiple of four, contrast_by_four.wgsl, with the binding of z, is a
// part of this module.
//
// Workgroup: tiles as in tile.wgsl, which is a part of this module: of S by own rows and others, where 4 HEIGHT ROWS own rows stay and
//            others go by, 4 WIDTH COLUMNS at a time; of dz by the same own rows and columns, to which DEPTH columns of the tile of G are
//            the left part at a time. finish, slopes: 64 invocations, one a row; merge: 256, one an element.
// Dispatch:  stats: slices * bands of own rows; gradient: 2 sides * slices * tiles of dz; the others by rows or elements;
//            all folded into x and y.
// Deterministic: one owner an element; others go by in order, invocations of a row or column, slices and bands are folded in order.

struct Params {
    rows: u32,
    width: u32, // of z_ctr and of z_cvr
    masked: u32, // 1: rows with the anchor's key are no candidates
    clicked: u32, // 1: rows without a click are no anchors
    robust: u32, // 0: infonce
    first: u32, // first direction that is on
    directions: u32, // how many are on
    accumulate: u32, // gradient, merge, slopes: 1 adds to what is there
    scale: f32, // gradient, slopes: lambda / (rows * directions)
    rho: f32,
    offsets: u32, // K sampled candidates; only finish has any
    slice: u32, // candidates of a slice
    slices: u32,
    band: u32, // stats: tiles of own rows of a band
    bands: u32,
    pad0: u32,
}

// Below every S / tau, and far enough from the largest float for differences and products.
const LOWEST: f32 = -1.0e30;
// What the highest exponent starts from: below that of any pair, and far above that of one that is left out, whose S is LOWEST, at any temperature. So the e^ of
// what is left out is 0, rounded once or twice, whether there is another pair or not.
const LEAST: f32 = -1.0e20;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> tau: array<f32>; // (rows)
@group(0) @binding(3) var<storage, read> keys: array<u32>; // (rows), any buffer without `masked`
// (slices, rows) of the first direction that is on, then (bands, rows) of the other: h, sums, highest other S
@group(0) @binding(4) var<storage, read_write> sums_out: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> positives_out: array<f32>; // (rows): S_ii
@group(0) @binding(6) var<storage, read> sums_in: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> positives_in: array<f32>;
@group(0) @binding(8) var<storage, read> labels: array<vec2<f32>>; // (rows): click, conversion; any buffer without `clicked`
@group(0) @binding(9) var<storage, read_write> stats_out: array<vec4<f32>>; // (directions, rows): lse, m, n, S_ii
@group(0) @binding(10) var<storage, read_write> row_losses: array<f32>; // (rows)
@group(0) @binding(11) var<storage, read_write> pairing: array<vec2<f32>>; // (rows): hits, pairs
@group(0) @binding(12) var<storage, read> stats_in: array<vec4<f32>>; // (directions, rows)
@group(0) @binding(13) var<uniform> step: Step;
@group(0) @binding(14) var<storage, read_write> dz: array<f32>; // (rows, 2 * width); of more than one slice, (slices, rows, 2 * width)
@group(0) @binding(15) var<storage, read> dz_parts: array<f32>; // (slices, rows, 2 * width)
@group(0) @binding(16) var<storage, read_write> dtau: array<f32>; // (rows)
@group(0) @binding(17) var<storage, read_write> counts_out: array<f32>; // (slices, rows): n; with `masked`
@group(0) @binding(18) var<storage, read> counts_in: array<f32>; // any buffer without `masked`

// Index of the first number of a row; the last row stands for all after it, whose numbers do not count.
fn z_row(row: u32, side: u32) -> u32 {
    return (min(row, params.rows - 1u) * 2u + side) * params.width;
}

// An invocation's own row n of 4 ROWS.
fn own_row(own: u32, local: vec2<u32>, n: u32) -> u32 {
    return row_of(own, local, n / 4u) + n % 4u;
}

// S of an invocation's blocks, own rows by others.
fn scores(side: u32, own: u32, other: u32, local: vec2<u32>) -> Sums {
    let t = local.y * WIDTH + local.x;
    var s = Sums();
    for (var k = 0u; k < params.width; k += DEPTH) {
        var chunk: Chunk;
        if t < LEFT_BLOCKS {
            let row = own + line(t);
            let at = k + along(t);
            // Columns past the last add nothing.
            chunk.left0 = within(z_four(row, side, at), at);
            chunk.left1 = within(z_four(row + 1u, side, at), at);
            chunk.left2 = within(z_four(row + 2u, side, at), at);
            chunk.left3 = within(z_four(row + 3u, side, at), at);
        }
        let n = right_block(t);
        if n < RIGHT_BLOCKS {
            let row = other + line(n);
            let at = k + along(n);
            chunk.right0 = z_four(row, 1u - side, at);
            chunk.right1 = z_four(row + 1u, 1u - side, at);
            chunk.right2 = z_four(row + 2u, 1u - side, at);
            chunk.right3 = z_four(row + 3u, 1u - side, at);
        }
        workgroupBarrier();
        store_left_along(chunk, t);
        store_right_along(chunk, t);
        workgroupBarrier();
        multiply(local, &s);
    }
    return s;
}

// z of DEPTH other rows from `first` on, columns of the tile from `column` on.
fn others_chunk(first: u32, side: u32, column: u32, t: u32) -> Chunk {
    var chunk: Chunk;
    chunk.right0 = z_across(first, side, column, t);
    if RIGHTS > 1u {
        chunk.right1 = z_across(first, side, column, t + SIZE);
    }
    if RIGHTS > 2u {
        chunk.right2 = z_across(first, side, column, t + 2u * SIZE);
        chunk.right3 = z_across(first, side, column, t + 3u * SIZE);
    }
    return chunk;
}

fn z_across(first: u32, side: u32, column: u32, i: u32) -> vec4<f32> {
    return z_four(first + i / (WIDTH * COLUMNS), side, column + across(i, WIDTH * COLUMNS));
}

// Columns first .. + 3, those that there are.
fn within(v: vec4<f32>, first: u32) -> vec4<f32> {
    return select(vec4(0.0), v, four(first) < vec4(params.width));
}

// One return a function: what is inlined with several costs SwiftShader ten times as long to compile.
fn key_of(row: u32) -> u32 {
    var key = 0u;
    if params.masked != 0u && row < params.rows {
        key = keys[row];
    }
    return key;
}

fn keys_of(row: u32) -> vec4<u32> {
    return vec4(key_of(row), key_of(row + 1u), key_of(row + 2u), key_of(row + 3u));
}

// Which of others j .. + 3, whose keys are `theirs`, are before `end` and candidates of own row `row`; the relation is symmetric.
fn candidates(row: u32, key: u32, j: u32, theirs: vec4<u32>, end: u32) -> vec4<bool> {
    let others = four(j);
    return ((theirs != vec4(key)) | vec4(key == 0u) | (others == vec4(row))) & (others < vec4(end));
}

fn total(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

fn highest_of(v: vec4<f32>) -> f32 {
    return max(max(v.x, v.y), max(v.z, v.w));
}

// A running log-sum-exp of an anchor is (highest exponent h, sum exp(x - h), sum exp(x - h) S, highest S of another candidate).
fn empty() -> vec4<f32> {
    return vec4(LEAST, 0.0, 0.0, LOWEST);
}

fn joined(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    let highest = max(a.x, b.x);
    let sums = a.yz * exp(a.x - highest) + b.yz * exp(b.x - highest);
    return vec4(highest, sums, max(a.w, b.w));
}

// Whether all pairs of a tile are candidates of each other and none is a row with itself: nearly all tiles, without keys.
fn is_plain(own: u32, j0: u32, end: u32) -> bool {
    let after = own + tile_row(1u);
    let behind = j0 + tile_column(1u);
    return params.masked == 0u && after <= params.rows && behind <= end && (after <= j0 || behind <= own);
}

// An anchor's running sums with candidates of a tile: four, and four more where there are two blocks of columns.
fn fold(state: vec4<f32>, s0: vec4<f32>, s1: vec4<f32>, inverse: f32, plain: bool) -> vec4<f32> {
    var top = highest_of(s0);
    if COLUMNS > 1u {
        top = max(top, highest_of(s1));
    }
    let highest = max(state.x, top * inverse);
    let before = exp(state.x - highest);
    var e = exp(s0 * inverse - highest);
    var product = e * s0;
    if COLUMNS > 1u {
        let more = exp(s1 * inverse - highest);
        e += more;
        product += more * s1;
    }
    let sums = state.yz * before + vec2(total(e), total(product));
    return vec4(highest, sums, max(state.w, select(LOWEST, top, plain)));
}

// Parts of the columns of a tile, which invocations hand over to those that join them: of block of columns c from invocation t.
fn part_at(c: u32, t: u32) -> u32 {
    return c * SIZE + t;
}

// Number y of the HEIGHT parts of column k.
fn part_of(k: u32, y: u32) -> u32 {
    return part_at(k / 4u / WIDTH, y * WIDTH + k / 4u % WIDTH);
}

// Adds a tile to the sums of its columns, which are anchors of the other direction, in `band`. `rivals` are the highest S of other candidates that
// the invocation's blocks of columns have.
fn add_columns(s: ptr<function, Sums>, rivals: ptr<function, array<vec4<f32>, 2>>, local: vec2<u32>, band: u32, j0: u32, end: u32, is_first: bool) {
    let t = local.y * WIDTH + local.x;
    workgroupBarrier();
    for (var c = 0u; c < COLUMNS; c++) {
        var top = vec4(LOWEST);
        for (var r = 0u; r < ROWS; r++) {
            let b = block(s, local, r * COLUMNS + c);
            top = max(max(top, max(b[0], b[1])), max(b[2], b[3]));
        }
        left[part_at(c, t)] = top;
        right[part_at(c, t)] = (*rivals)[c];
    }
    workgroupBarrier();
    // What the exponents of a column are taken from is the same for all its parts.
    for (var k = t; k < tile_column(1u); k += SIZE) {
        var top = LOWEST;
        var rival = LOWEST;
        for (var y = 0u; y < HEIGHT; y++) {
            top = max(top, left[part_of(k, y)][k % 4u]);
            rival = max(rival, right[part_of(k, y)][k % 4u]);
        }
        let inverse = 1.0 / tau[min(j0 + k, params.rows - 1u)];
        others[k] = vec4(inverse, max(top * inverse, LEAST), rival, 0.0);
    }
    workgroupBarrier();
    for (var c = 0u; c < COLUMNS; c++) {
        let theirs = others_at(4u * (local.x + c * WIDTH));
        var sum = vec4(0.0);
        var product = vec4(0.0);
        for (var r = 0u; r < ROWS; r++) {
            let b = block(s, local, r * COLUMNS + c);
            for (var i = 0u; i < 4u; i++) {
                let e = exp(b[i] * theirs[0] - theirs[1]);
                sum += e;
                product += e * b[i];
            }
        }
        left[part_at(c, t)] = sum;
        right[part_at(c, t)] = product;
    }
    workgroupBarrier();
    for (var k = t; k < min(tile_column(1u), end - j0); k += SIZE) {
        var all = vec4(others[k].y, 0.0, 0.0, others[k].z);
        for (var y = 0u; y < HEIGHT; y++) {
            all.y += left[part_of(k, y)][k % 4u];
            all.z += right[part_of(k, y)][k % 4u];
        }
        let at = (params.slices + band) * params.rows + j0 + k;
        if !is_first {
            all = joined(sums_out[at], all);
        }
        sums_out[at] = all;
    }
}

@compute @workgroup_size(WIDTH, HEIGHT)
fn stats(
    @builtin(local_invocation_id) id: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let local = id.xy;
    let t = local.y * WIDTH + local.x;
    let tiles = (params.rows + tile_row(1u) - 1u) / tile_row(1u);
    let flat = group.y * groups.x + group.x;
    if flat >= params.bands * params.slices {
        return;
    }
    let slice = flat / params.bands;
    let band = flat % params.bands;
    let end = min((slice + 1u) * params.slice, params.rows);
    for (var tile = band * params.band; tile < min((band + 1u) * params.band, tiles); tile++) {
        let own = tile_row(tile);
        // By own rows, of which there are at most four blocks.
        var states: array<vec4<f32>, 16>;
        var counts: array<f32, 16>;
        for (var n = 0u; n < 4u * ROWS; n++) {
            states[n] = empty();
            counts[n] = 0.0;
        }
        // Read behind the barriers of the products, and those of the tile before have been read before a barrier.
        for (var i = t; i < tile_row(1u); i += SIZE) {
            owns[i] = vec4(1.0 / tau[min(own + i, params.rows - 1u)], 0.0, 0.0, 0.0);
        }
        for (var j0 = slice * params.slice; j0 < end; j0 += tile_column(1u)) {
            var s = scores(params.first, own, j0, local);
            let plain = is_plain(own, j0, end);
            var rivals: array<vec4<f32>, 2>; // by blocks of columns
            for (var c = 0u; c < COLUMNS; c++) {
                let j = column_of(j0, local, c);
                let keys = keys_of(j);
                var rival = vec4(LOWEST);
                for (var r = 0u; r < ROWS; r++) {
                    let b = block(&s, local, r * COLUMNS + c);
                    var kept = array<vec4<f32>, 4>();
                    for (var i = 0u; i < 4u; i++) {
                        let n = 4u * r + i;
                        if plain {
                            rival = max(rival, b[i]);
                        } else {
                            let row = own_row(own, local, n);
                            let member = candidates(row, key_of(row), j, keys, end) & vec4(row < params.rows);
                            let itself = member & (four(j) == vec4(row));
                            counts[n] += total(select(vec4(0.0), vec4(1.0), member));
                            if any(itself) {
                                positives_out[row] = total(select(vec4(0.0), b[i], itself));
                            }
                            kept[i] = select(vec4(LOWEST), b[i], member);
                            let other = select(kept[i], vec4(LOWEST), itself);
                            states[n].w = max(states[n].w, highest_of(other));
                            rival = max(rival, other);
                        }
                    }
                    if !plain {
                        set_block(&s, local, r * COLUMNS + c, mat4x4(kept[0], kept[1], kept[2], kept[3]));
                    }
                }
                rivals[c] = rival;
            }
            for (var r = 0u; r < ROWS; r++) {
                let s0 = block(&s, local, r * COLUMNS);
                let s1 = block(&s, local, r * COLUMNS + COLUMNS - 1u);
                for (var i = 0u; i < 4u; i++) {
                    let n = 4u * r + i;
                    states[n] = fold(states[n], s0[i], s1[i], owns[own_row(0u, local, n)].x, plain);
                }
            }
            if params.directions > 1u {
                add_columns(&s, &rivals, local, band, j0, end, tile == band * params.band);
            }
        }
        // An own row's invocations hand over their parts, of as many rows at once as left holds, and one of them joins these in order. A barrier
        // a row, which compilers unroll, would cost lavapipe ten seconds.
        for (var first = 0u; first < 4u * ROWS; first += LEFTS) {
            workgroupBarrier();
            for (var n = 0u; n < 4u * ROWS; n++) {
                // Not states[first + n]: an array that is indexed by more than constants is memory to some compilers, not registers.
                if n - first < LEFTS {
                    let at = (local.y * LEFTS + n - first) * WIDTH + local.x;
                    left[at] = states[n];
                    right[at] = vec4(counts[n], 0.0, 0.0, 0.0);
                }
            }
            workgroupBarrier();
            let row = own_row(own, local, first + local.x);
            if local.x < LEFTS && row < params.rows {
                let start = (local.y * LEFTS + local.x) * WIDTH;
                var all = empty();
                var count = 0.0;
                for (var at = start; at < start + WIDTH; at++) {
                    all = joined(all, left[at]);
                    count += right[at].x;
                }
                let at = slice * params.rows + row;
                sums_out[at] = all;
                if params.masked != 0u {
                    counts_out[at] = count;
                }
            }
        }
    }
}

// Loss of one anchor.
fn loss_of(s: vec4<f32>, t: f32) -> f32 {
    if s.z == 0.0 {
        return 0.0;
    }
    let alone = s.z < 1.5;
    if params.robust != 0u {
        return select(t * (s.x - s.w / t - log(s.z)), 0.0, alone) + params.rho * t;
    }
    return select(s.x - s.w / t, 0.0, alone);
}

@compute @workgroup_size(64)
fn finish(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let i = (group.y * groups.x + group.x) * 64u + local.x;
    if i >= params.rows {
        return;
    }
    var n = f32(select(params.rows, params.offsets + 1u, params.offsets > 0u));
    if params.masked != 0u {
        n = 0.0;
        for (var slice = 0u; slice < params.slices; slice++) {
            n += counts_in[slice * params.rows + i];
        }
    }
    if params.clicked != 0u && labels[i].x == 0.0 {
        n = 0.0;
    }
    let positive = positives_in[i];
    var loss = 0.0;
    var pair = vec2(0.0);
    for (var d = 0u; d < params.directions; d++) {
        let first = select(0u, params.slices, d > 0u);
        let parts = select(params.slices, params.bands, d > 0u);
        var all = empty();
        for (var part = first; part < first + parts; part++) {
            all = joined(all, sums_in[part * params.rows + i]);
        }
        let stat = vec4(all.x + log(all.y), all.z / all.y, n, positive);
        stats_out[d * params.rows + i] = stat;
        loss += loss_of(stat, tau[i]);
        if n > 1.5 {
            pair += vec2(select(0.0, 1.0, positive > all.w), 1.0);
        }
    }
    row_losses[i] = select(loss, 0.5 * loss, params.directions > 1u);
    pairing[i] = pair;
}

fn slope_of(s: vec4<f32>, t: f32) -> f32 {
    if s.z == 0.0 {
        return 0.0;
    }
    let alone = s.z < 1.5;
    if params.robust != 0u {
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
    if i >= params.rows {
        return;
    }
    var slope = slope_of(stats_in[i], tau[i]);
    if params.directions > 1u {
        slope += slope_of(stats_in[params.rows + i], tau[i]);
    }
    let gradient = params.scale * step.contrast * slope;
    if params.accumulate != 0u {
        dtau[i] += gradient;
    } else {
        dtau[i] = gradient;
    }
}

// What the gradient needs of an anchor: 1 / tau, lse, w k (0 where the direction is off or N(i) is i alone).
fn anchor(row: u32, direction: u32) -> vec3<f32> {
    var all = vec3(0.0);
    if row < params.rows && direction >= params.first && direction < params.first + params.directions {
        let s = stats_in[(direction - params.first) * params.rows + row];
        let inverse = 1.0 / tau[row];
        let weight = params.scale * step.contrast * select(inverse, 1.0, params.robust != 0u);
        all = vec3(inverse, s.x, select(weight, 0.0, s.z < 1.5));
    }
    return all;
}

// What the gradient needs of a workgroup's own rows and of a tile's others. In registers, where an invocation would have its own, they would stand
// through both products.
var<workgroup> owns: array<vec4<f32>, 4u * HEIGHT * ROWS>;
var<workgroup> others: array<vec4<f32>, 4u * WIDTH * COLUMNS>;

// Of four of them from number `first` on: 1 / tau, lse and w k.
fn others_at(first: u32) -> mat3x4<f32> {
    return transpose(mat4x3(others[first].xyz, others[first + 1u].xyz, others[first + 2u].xyz, others[first + 3u].xyz));
}

// G of an own row with four others of a plain tile: all are candidates, whose exponents are at most a rounding above 0.
fn plain_weights_of(s: vec4<f32>, mine: vec3<f32>, theirs: mat3x4<f32>) -> vec4<f32> {
    return mine.z * exp(s * mine.x - mine.y) + theirs[2] * exp(s * theirs[0] - theirs[1]);
}

// G of an own row with four others, of which `member` are its candidates and `one` is 1 where it is the row itself.
fn weights_of(s: vec4<f32>, mine: vec3<f32>, theirs: mat3x4<f32>, member: vec4<bool>, one: vec4<f32>) -> vec4<f32> {
    // No pair outside of N may reach exp: nothing bounds its exponent. A member's is at most a rounding above 0.
    let mine_x = select(vec4(LOWEST), s * mine.x - mine.y, member & vec4(mine.z != 0.0));
    let their_x = select(vec4(LOWEST), s * theirs[0] - theirs[1], member & (theirs[2] != vec4(0.0)));
    let g = mine.z * (exp(mine_x) - one) + theirs[2] * (exp(their_x) - one);
    return select(vec4(0.0), g, member);
}

@compute @workgroup_size(WIDTH, HEIGHT)
fn gradient(
    @builtin(local_invocation_id) id: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let local = id.xy;
    let t = local.y * WIDTH + local.x;
    let tiles = (params.rows + tile_row(1u) - 1u) / tile_row(1u);
    let chunks = (params.width + tile_column(1u) - 1u) / tile_column(1u);
    let flat = group.y * groups.x + group.x;
    if flat >= 2u * params.slices * tiles * chunks {
        return;
    }
    let slice = flat / chunks / tiles / 2u;
    let side = flat / chunks / tiles % 2u;
    let own = tile_row(flat / chunks % tiles);
    let column = tile_column(flat % chunks);
    // Loops around barriers, or between them, that go around as often in every invocation: DX12's older compiler writes out others that go around once, and then
    // takes the barriers for passed by some alone.
    for (var first = 0u; first < tile_row(1u); first += SIZE) {
        let i = first + t;
        if i < tile_row(1u) {
            owns[i] = vec4(anchor(own + i, side), 0.0);
        }
    }
    var sums = Sums();
    let end = min((slice + 1u) * params.slice, params.rows);
    for (var j0 = slice * params.slice; j0 < end; j0 += tile_column(1u)) {
        // Read behind the barriers of the products; those of the tile before have been read before a barrier.
        for (var first = 0u; first < tile_column(1u); first += SIZE) {
            let i = first + t;
            if i < tile_column(1u) {
                others[i] = vec4(anchor(j0 + i, 1u - side), 0.0);
            }
        }
        var s = scores(side, own, j0, local);
        let plain = is_plain(own, j0, end);
        for (var c = 0u; c < COLUMNS; c++) {
            let j = column_of(j0, local, c);
            let theirs = others_at(j - j0);
            let their_keys = keys_of(j);
            for (var r = 0u; r < ROWS; r++) {
                let b = block(&s, local, r * COLUMNS + c);
                var g = array<vec4<f32>, 4>();
                for (var i = 0u; i < 4u; i++) {
                    let n = own_row(0u, local, 4u * r + i);
                    let mine = owns[n].xyz;
                    if plain {
                        g[i] = plain_weights_of(b[i], mine, theirs);
                    } else {
                        let row = own + n;
                        let member = candidates(row, key_of(row), j, their_keys, end);
                        let one = select(vec4(0.0), vec4(1.0), four(j) == vec4(row));
                        g[i] = weights_of(b[i], mine, theirs, member, one);
                    }
                }
                set_block(&s, local, r * COLUMNS + c, mat4x4(g[0], g[1], g[2], g[3]));
            }
        }
        for (var part = 0u; part < min(tile_column(1u), end - j0); part += DEPTH) {
            let chunk = others_chunk(j0 + part, 1u - side, column, t);
            workgroupBarrier();
            for (var c = 0u; c < COLUMNS; c++) {
                // Where this block's others lie in the part; far outside if they do not.
                let first = column_of(0u, local, c) - part;
                if first < DEPTH {
                    for (var r = 0u; r < ROWS; r++) {
                        let g = transpose(block(&s, local, r * COLUMNS + c));
                        for (var i = 0u; i < 4u; i++) {
                            left[(first + i) * LEFT + r * HEIGHT + local.y] = g[i];
                        }
                    }
                }
            }
            store_right_across(chunk, t);
            workgroupBarrier();
            multiply(local, &sums);
        }
    }
    for (var c = 0u; c < COLUMNS; c++) {
        for (var r = 0u; r < ROWS; r++) {
            let result = block(&sums, local, r * COLUMNS + c);
            for (var i = 0u; i < 4u; i++) {
                let row = row_of(own, local, r) + i;
                for (var j = 0u; j < 4u; j++) {
                    let k = column_of(column, local, c) + j;
                    if row < params.rows && k < params.width {
                        let at = ((slice * params.rows + row) * 2u + side) * params.width + k;
                        var value = result[i][j];
                        if params.accumulate != 0u {
                            value += dz[at];
                        }
                        dz[at] = value;
                    }
                }
            }
        }
    }
}

@compute @workgroup_size(256)
fn merge(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let i = (group.y * groups.x + group.x) * 256u + local.x;
    let elements = 2u * params.rows * params.width;
    if i >= elements {
        return;
    }
    var sum = 0.0;
    if params.accumulate != 0u {
        sum = dz[i];
    }
    for (var slice = 0u; slice < params.slices; slice++) {
        sum += dz_parts[slice * elements + i];
    }
    dz[i] = sum;
}
