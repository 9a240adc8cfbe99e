// The gradients of a norm's gain and offset, out of the sums over each chunk of rows that layer_norm.wgsl and batch_norm.wgsl leave.
//
//   norm_sums  sums[c] = (p, q) = sum_k parts[k, c],  dgain[c] (+)= p,  doffset[c] (+)= q
//
// Workgroup: 32 columns (local x) x 8 lanes (local y), lane l takes chunks l, l + 8, ...; ceil(C / 32) workgroups, folded into x and y.
// Deterministic: one owner an element; lanes go in order, then a tree of fixed shape over the 8 lanes.

struct Params {
    chunks: u32,     // K
    width: u32,      // C
    accumulate: u32, // 1: add to what dgain and doffset hold
    pad: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> parts: array<vec2<f32>>;      // (K, C): sums of dy unit and of dy
@group(0) @binding(2) var<storage, read_write> sums: array<vec2<f32>>; // (C)
@group(0) @binding(3) var<storage, read_write> dgain: array<f32>;      // (C)
@group(0) @binding(4) var<storage, read_write> doffset: array<f32>;    // (C)

const COLUMNS = 32u;
const LANES = 8u;

var<workgroup> lane_sums: array<vec2<f32>, 256>;

@compute @workgroup_size(32, 8)
fn norm_sums(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
) {
    let column = (group.y * count.x + group.x) * COLUMNS + local.x;
    let here = column < params.width;
    // Invocations past the end stay for the barriers with no chunks.
    let chunks = select(0u, params.chunks, here);
    var both = vec2<f32>();
    for (var k = local.y; k < chunks; k += LANES) {
        both += parts[k * params.width + column];
    }
    let at = local.y * COLUMNS + local.x;
    lane_sums[at] = both;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step >>= 1u) {
        if local.y < step {
            lane_sums[at] += lane_sums[at + step * COLUMNS];
        }
        workgroupBarrier();
    }
    if here && local.y == 0u {
        both = lane_sums[local.x];
        sums[column] = both;
        if params.accumulate != 0u {
            both += vec2(dgain[column], doffset[column]);
        }
        dgain[column] = both.x;
        doffset[column] = both.y;
    }
}
