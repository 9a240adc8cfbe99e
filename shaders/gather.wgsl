// Puts embedding rows and numeric features side by side into x, and takes columns of x out again.
//
//   gather  x[b, offset + f * dim + d] = table[ids[b, f] - first, d]   for ids in first .. first + count, the rows of this shard
//   place   x[b, offset + n] = numeric[b, n]
//   take    taken[b, c] = x[b, offset + c]                         for c below F * D
//
// An invocation an element of 256 a workgroup, workgroups folded into x and y. Deterministic: one owner an element.

struct Params {
    rows: u32,     // B
    features: u32, // F of the table, or N numeric ones
    dim: u32,      // D, or 1
    columns: u32,  // X, columns of x
    offset: u32,   // first column of x to write
    first: u32,    // first table row of the shard
    count: u32,    // table rows of the shard
    pad: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> table: array<f32>;    // (count, D)
@group(0) @binding(2) var<storage, read> ids: array<u32>;      // (B, F)
@group(0) @binding(3) var<storage, read_write> x: array<f32>;  // (B, X)
@group(0) @binding(4) var<storage, read> numeric: array<f32>;  // (B, N)
@group(0) @binding(5) var<storage, read> x_read: array<f32>;   // (B, X)
@group(0) @binding(6) var<storage, read_write> taken: array<f32>;  // (B, F, D)

@compute @workgroup_size(256)
fn gather(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = (group.y * groups.x + group.x) * 256u + t;
    if i >= params.rows * params.features * params.dim {
        return;
    }
    let occurrence = i / params.dim;
    let row = ids[occurrence] - params.first;
    // Rows of an earlier shard wrap around to large numbers.
    if row < params.count {
        let b = occurrence / params.features;
        let column = params.offset + i - b * params.features * params.dim;
        x[b * params.columns + column] = table[row * params.dim + i % params.dim];
    }
}

@compute @workgroup_size(256)
fn place(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = (group.y * groups.x + group.x) * 256u + t;
    if i >= params.rows * params.features {
        return;
    }
    let b = i / params.features;
    x[b * params.columns + params.offset + i % params.features] = numeric[i];
}

@compute @workgroup_size(256)
fn take(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = (group.y * groups.x + group.x) * 256u + t;
    let width = params.features * params.dim;
    if i >= params.rows * width {
        return;
    }
    let b = i / width;
    taken[i] = x_read[b * params.columns + params.offset + i - b * width];
}
