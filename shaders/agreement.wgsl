// agreement: cross-entropy of s(r), r the relatedness network's output, against the disagreement of a row's two labels,
// t = [click != conversion]. tau rises with r (temperature.wgsl), so a row whose labels are predicted to agree gets a low one.
//
// forward   losses = BCE(s(r), t) = softplus(r) where t = 0, softplus(-r) where t = 1.
// backward  dr (+)= scale (s(r) - t), scale = weight / rows.
//
// Workgroup: 64 invocations, one a row. Dispatch: ceil(rows / 64) workgroups, folded into x and y.
// Deterministic: one owner an element.

struct Params {
    rows: u32,
    scale: f32, // backward: weight / rows
    accumulate: u32, // backward: 1 adds to dr
    pad0: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> r: array<f32>; // (rows)
@group(0) @binding(2) var<storage, read> labels: array<vec2<f32>>; // (rows): click, conversion
@group(0) @binding(3) var<storage, read_write> row_losses: array<f32>; // (rows)
@group(0) @binding(4) var<storage, read_write> dr: array<f32>; // (rows)

@compute @workgroup_size(64)
fn forward(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let i = (group.y * groups.x + group.x) * 64u + local.x;
    if (i >= params.rows) {
        return;
    }
    let x = select(r[i], -r[i], labels[i].x != labels[i].y);
    row_losses[i] = max(x, 0.0) + log1p(exp(-abs(x)));
}

@compute @workgroup_size(64)
fn backward(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let i = (group.y * groups.x + group.x) * 64u + local.x;
    if (i >= params.rows) {
        return;
    }
    let e = exp(-abs(r[i]));
    let s = select(e, 1.0, r[i] >= 0.0) / (1.0 + e);
    let gradient = params.scale * (s - select(0.0, 1.0, labels[i].x != labels[i].y));
    if (params.accumulate != 0u) {
        dr[i] += gradient;
    } else {
        dr[i] = gradient;
    }
}
