// Embedding backward fused with the sparse optimizer, over the minibatch's unique rows; no atomics.
//
//   chunk_sums  partial[c, d] = sum of dinput over the occurrences of chunk c of a hot row: the sum of its pieces' sums
//   adam, adagrad, rowwise_adagrad, sgd
//               g[u, d] = sum of dinput over all occurrences of unique row u (its chunks' partials if it is hot) + l2 table[u, d], then
//               one update of the row and its state. Lazy: rows that are not in the minibatch keep their moments and their step count.
//
// segments: header (U, C, 0, 0), then (table row, start, end, first chunk or 0xffffffff) a unique row, ascending.
// Occurrence p = b * F + f stands for dinput[b, offset + f * D .. + D].
// Invocations handle Numbers: one or, where D, X and offset are multiples of four, four neighbours (by_one.wgsl and by_four.wgsl, of which one is a
// part of this module). A workgroup of 256 handles 256 / lanes rows, lanes = min(D / UNIT, 256) invocations a row; of chunks as many as it has
// room for with lanes invocations a piece, of min(16, 256 / lanes) pieces side by side. Rows outside this shard are passed over.
// Deterministic: one owner a row, occurrences in ascending order, hot rows by pieces and chunks in order.

struct Params {
    features: u32,  // F
    dim: u32,       // D
    columns: u32,   // X, columns of dinput
    offset: u32,    // first column of dinput
    first: u32,     // first table row of the shard
    count: u32,     // table rows of the shard
    lanes: u32,     // min(D / UNIT, 256)
    log_beta1: f32, // ln beta1
    log_beta2: f32, // ln beta2
    beta1: f32,
    beta2: f32,
    eps: f32,
    l2: f32,        // this times a row is added to its gradient
    pad0: u32,

    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dinput: array<Numbers>;                 // (B, X)
@group(0) @binding(2) var<storage, read_write> partial_out: array<Numbers>;  // (C, D)
@group(0) @binding(3) var<storage, read> partial_sums: array<Numbers>;            // (C, D)
@group(0) @binding(4) var<storage, read> segments: array<vec4<u32>>;     // (1 + U)
@group(0) @binding(5) var<storage, read> occurrences: array<u32>;        // (B, F)
@group(0) @binding(6) var<storage, read> chunks: array<vec2<u32>>;       // (C)
@group(0) @binding(7) var<storage, read> health: array<u32>;             // (1): not 0 once a loss was not finite
@group(0) @binding(8) var<storage, read_write> table: array<Numbers>;        // (count, D)
@group(0) @binding(9) var<storage, read_write> moments: array<Numbers>;  // adam (count, 2, D), adagrad (count, D)
@group(0) @binding(9) var<storage, read_write> row_moments: array<f32>;  // row-wise adagrad (count)
@group(0) @binding(10) var<storage, read_write> steps: array<u32>;       // (count)
@group(0) @binding(11) var<uniform> step: Step;

// As in src/data/batch.rs.
const CHUNK = 256u;
const PIECE = 16u;

var<workgroup> piece_sums: array<Numbers, 256>;
var<workgroup> squares: array<f32, 256>;
var<workgroup> counts: array<u32, 256>;

// Numbers of a row.
fn dim() -> u32 {
    return params.dim / UNIT;
}

// The gradient of occurrence p.
fn at_occurrence(p: u32, d: u32) -> Numbers {
    let b = p / params.features;
    return dinput[(b * params.columns + params.offset + (p - b * params.features) * params.dim) / UNIT + d];
}

struct Fetched {
    first: Numbers,
    second: Numbers,
    third: Numbers,
    fourth: Numbers,
}

// Four chunks' sums, the first at `at`.
fn chunks_at(at: u32, size: u32) -> Fetched {
    return Fetched(partial_sums[at], partial_sums[at + size], partial_sums[at + 2u * size], partial_sums[at + 3u * size]);
}

// Four occurrences' gradients.
fn occurrences_at(i: u32, d: u32) -> Fetched {
    return Fetched(
        at_occurrence(occurrences[i], d),
        at_occurrence(occurrences[i + 1u], d),
        at_occurrence(occurrences[i + 2u], d),
        at_occurrence(occurrences[i + 3u], d),
    );
}

// Added in order.
fn plus(sum: Numbers, more: Fetched) -> Numbers {
    return (((sum + more.first) + more.second) + more.third) + more.fourth;
}

// Eight are fetched side by side, and added in order.
fn sum_occurrences(start: u32, end: u32, d: u32) -> Numbers {
    var sum = Numbers();
    var i = start;
    for (; i + 8u <= end; i += 8u) {
        let first = occurrences_at(i, d);
        let second = occurrences_at(i + 4u, d);
        sum = plus(plus(sum, first), second);
    }
    for (; i < end; i++) {
        sum += at_occurrence(occurrences[i], d);
    }
    return sum;
}

fn occurrences_gradient(segment: vec4<u32>, d: u32) -> Numbers {
    var sum = Numbers();
    if segment.w == 0xffffffffu {
        sum = sum_occurrences(segment.y, segment.z, d);
    } else {
        // Eight are fetched side by side, and added in order: of a frequent row of a large minibatch there may be hundreds.
        let end = segment.w + (segment.z - segment.y + CHUNK - 1u) / CHUNK;
        let size = dim();
        var c = segment.w;
        for (; c + 8u <= end; c += 8u) {
            let at = c * size + d;
            let first = chunks_at(at, size);
            let second = chunks_at(at + 4u * size, size);
            sum = plus(plus(sum, first), second);
        }
        for (; c < end; c++) {
            sum += partial_sums[c * size + d];
        }
    }
    return sum;
}

// g of a segment whose row is that of the shard.
fn gradient(segment: vec4<u32>, d: u32) -> Numbers {
    return occurrences_gradient(segment, d) + params.l2 * table[segment.x * dim() + d];
}

// The segment of this invocation's row, with its row relative to the shard; row 0xffffffff where there is nothing to do.
fn own_segment(group: u32, t: u32) -> vec4<u32> {
    let rows = 256u / params.lanes;
    let local = t / params.lanes;
    let u = group * rows + local;
    if local < rows && u < segments[0].x && health[0] == 0u {
        let segment = segments[1u + u];
        let row = segment.x - params.first;
        if row < params.count {
            return vec4(row, segment.yzw);
        }
    }
    return vec4(0xffffffffu, 0u, 0u, 0u);
}

// 1 - beta^n as -expm1(n ln beta): 1 - exp would lose the digits for small n.
fn correction(log_beta: f32, n: u32) -> f32 {
    let x = f32(n) * log_beta;
    if x > -0.3 {
        return -x * (1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0 * (1.0 + x / 6.0 * (1.0 + x / 7.0))))));
    }
    return 1.0 - exp(max(x, -80.0));
}

@compute @workgroup_size(256)
fn chunk_sums(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let pieces = min(CHUNK / PIECE, 256u / params.lanes);
    let invocations = pieces * params.lanes;
    let c = (group.y * groups.x + group.x) * (256u / invocations) + t / invocations;
    let here = t / invocations < 256u / invocations && c < segments[0].y;
    let piece = t % invocations / params.lanes;
    var all = vec2<u32>();
    if here {
        all = chunks[c];
    }
    for (var first = 0u; first < dim(); first += params.lanes) {
        let d = first + t % params.lanes;
        var sum = Numbers();
        for (var before = 0u; before < CHUNK / PIECE; before += pieces) {
            let start = min(all.x + (before + piece) * PIECE, all.y);
            var own = Numbers();
            if d < dim() {
                own = sum_occurrences(start, min(start + PIECE, all.y), d);
            }
            piece_sums[t] = own;
            workgroupBarrier();
            if piece == 0u {
                for (var p = 0u; p < pieces; p++) {
                    sum += piece_sums[min(t + p * params.lanes, 255u)];
                }
            }
            workgroupBarrier();
        }
        if here && piece == 0u && d < dim() {
            partial_out[c * dim() + d] = sum;
        }
    }
}

@compute @workgroup_size(256)
fn adam(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let segment = own_segment(group.y * groups.x + group.x, t);
    let mine = segment.x != 0xffffffffu;
    if mine {
        counts[t] = steps[segment.x] + 1u;
    }
    // All lanes of a row have read its count before the first lane raises it.
    workgroupBarrier();
    if !mine {
        return;
    }
    let n = counts[t];
    if t % params.lanes == 0u {
        steps[segment.x] = n;
    }
    let correction1 = correction(params.log_beta1, n);
    let correction2 = correction(params.log_beta2, n);
    for (var d = t % params.lanes; d < dim(); d += params.lanes) {
        let g = gradient(segment, d);
        let at = segment.x * 2u * dim() + d;
        let m = params.beta1 * moments[at] + (1.0 - params.beta1) * g;
        let v = params.beta2 * moments[at + dim()] + (1.0 - params.beta2) * g * g;
        moments[at] = m;
        moments[at + dim()] = v;
        table[segment.x * dim() + d] -=
            step.embedding_lr * (m / correction1) / (sqrt(v / correction2) + params.eps);
    }
}

@compute @workgroup_size(256)
fn adagrad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let segment = own_segment(group.y * groups.x + group.x, t);
    if segment.x == 0xffffffffu {
        return;
    }
    for (var d = t % params.lanes; d < dim(); d += params.lanes) {
        let g = gradient(segment, d);
        let at = segment.x * dim() + d;
        let sum = moments[at] + g * g;
        moments[at] = sum;
        table[at] -= step.embedding_lr * g / (sqrt(sum) + params.eps);
    }
}

@compute @workgroup_size(256)
fn rowwise_adagrad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let segment = own_segment(group.y * groups.x + group.x, t);
    let mine = segment.x != 0xffffffffu;
    let lane = t % params.lanes;
    var square = 0.0;
    if mine {
        for (var d = lane; d < dim(); d += params.lanes) {
            let g = gradient(segment, d);
            square += total(g * g);
        }
    }
    squares[t] = square;
    workgroupBarrier();
    if mine && lane == 0u {
        var sum = 0.0;
        for (var i = 0u; i < params.lanes; i++) {
            sum += squares[t + i];
        }
        sum = row_moments[segment.x] + sum / f32(params.dim);
        row_moments[segment.x] = sum;
        squares[t] = sum;
    }
    workgroupBarrier();
    if !mine {
        return;
    }
    let scale = step.embedding_lr / (sqrt(squares[t - lane]) + params.eps);
    for (var d = lane; d < dim(); d += params.lanes) {
        table[segment.x * dim() + d] -= scale * gradient(segment, d);
    }
}

@compute @workgroup_size(256)
fn sgd(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let segment = own_segment(group.y * groups.x + group.x, t);
    if segment.x == 0xffffffffu {
        return;
    }
    for (var d = t % params.lanes; d < dim(); d += params.lanes) {
        table[segment.x * dim() + d] -= step.embedding_lr * gradient(segment, d);
    }
}
