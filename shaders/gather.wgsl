// Puts the embedding rows of a table's features side by side into x.
//
//   x[b, offset + f * dim + d] = table[ids[b, f] - first, d]   for ids in first .. first + count, the rows of this shard
//
// An invocation handles a Numbers: one or, where D, X and offset are multiples of four, four neighbours (by_one.wgsl and by_four.wgsl, of which one
// is a part of this module). 256 a workgroup, workgroups folded into x and y. Deterministic: one owner an element.

struct Params {
    rows: u32,     // B
    features: u32, // F of the table
    dim: u32,      // D
    columns: u32,  // X, columns of x
    offset: u32,   // first column of x to write
    first: u32,    // first table row of the shard
    count: u32,    // table rows of the shard
    pad: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> table: array<Numbers>; // (count, D)
@group(0) @binding(2) var<storage, read> ids: array<u32>;       // (B, F)
@group(0) @binding(3) var<storage, read_write> x: array<Outs>;  // (B, X)

@compute @workgroup_size(256)
fn gather(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = (group.y * groups.x + group.x) * 256u + t;
    let dim = params.dim / UNIT;
    if i >= params.rows * params.features * dim {
        return;
    }
    let occurrence = i / dim;
    let row = ids[occurrence] - params.first;
    // Rows of an earlier shard wrap around to large numbers.
    if row < params.count {
        let d = i - occurrence * dim;
        let b = occurrence / params.features;
        let column = params.offset / UNIT + (occurrence - b * params.features) * dim + d;
        x[b * (params.columns / UNIT) + column] = stored_numbers(table[row * dim + d]);
    }
}
