// Copies columns from one tensor of B rows to another: to[b, to_first + c] (+)= from[b, from_first + c] for c below width. They may be
// stored in different formats.
//
// An invocation an element, 256 a workgroup, workgroups folded into x and y. Deterministic: one owner an element.

struct Params {
    rows: u32,         // B
    width: u32,        // columns to copy
    from_columns: u32, // columns of from
    from_first: u32,
    to_columns: u32,   // columns of to
    to_first: u32,
    accumulate: u32,   // 1: add to what stands there
    pad: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> source: array<In>;        // (B, from_columns)
@group(0) @binding(2) var<storage, read_write> to: array<Out>;     // (B, to_columns)

@compute @workgroup_size(256)
fn copy(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = (group.y * groups.x + group.x) * 256u + t;
    if i >= params.rows * params.width {
        return;
    }
    let b = i / params.width;
    let c = i - b * params.width;
    let at = b * params.to_columns + params.to_first + c;
    var value = f32(source[b * params.from_columns + params.from_first + c]);
    if params.accumulate != 0u {
        value += f32(to[at]);
    }
    to[at] = stored(value);
}
