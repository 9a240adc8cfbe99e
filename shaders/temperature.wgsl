// temperature: tau = low + span * sigmoid(r) for each row; r is one number a row (instance) or one in all (task).
//
// forward            tau from r; with `task` every row reads r[0].
// constant           tau = low in every row.
// backward_instance  dr = dtau * span * s * (1 - s), s = sigmoid(r).
// backward_task      dr[0] = (sum over rows of dtau) * span * s * (1 - s).
//
// s and s * (1 - s) come from exp(-|r|), which never overflows.
//
// Workgroup: 64 invocations, one a row; backward_task: 256 invocations.
// Dispatch:  ceil(rows / 64) workgroups, folded into x and y; backward_task: one.
// Deterministic: one owner an element; backward_task sums rows l, l + 256, ... in lane l in order, then a tree of fixed shape.

struct Params {
    rows: u32,
    task: u32, // 1: r has one element
    low: f32,
    span: f32,
    accumulate: u32, // backward: 1 adds to dr
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> r: array<f32>; // (rows) or (1)
@group(0) @binding(2) var<storage, read_write> tau: array<f32>; // (rows)
@group(0) @binding(3) var<storage, read> dtau: array<f32>; // (rows)
@group(0) @binding(4) var<storage, read_write> dr: array<f32>; // (rows) or (1)

var<workgroup> part: array<f32, 256>;

// dtau/dr.
fn slope(x: f32) -> f32 {
    let e = exp(-abs(x));
    return params.span * (e / ((1.0 + e) * (1.0 + e)));
}

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
    let x = r[select(i, 0u, params.task != 0u)];
    let e = exp(-abs(x));
    tau[i] = params.low + params.span * (select(e, 1.0, x >= 0.0) / (1.0 + e));
}

@compute @workgroup_size(64)
fn constant(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let i = (group.y * groups.x + group.x) * 64u + local.x;
    if (i >= params.rows) {
        return;
    }
    tau[i] = params.low;
}

@compute @workgroup_size(64)
fn backward_instance(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let i = (group.y * groups.x + group.x) * 64u + local.x;
    if (i >= params.rows) {
        return;
    }
    let gradient = dtau[i] * slope(r[i]);
    if (params.accumulate != 0u) {
        dr[i] += gradient;
    } else {
        dr[i] = gradient;
    }
}

@compute @workgroup_size(256)
fn backward_task(@builtin(local_invocation_id) local: vec3<u32>) {
    var sum = 0.0;
    for (var i = local.x; i < params.rows; i += 256u) {
        sum += dtau[i];
    }
    part[local.x] = sum;
    workgroupBarrier();
    for (var step = 128u; step > 0u; step >>= 1u) {
        if (local.x < step) {
            part[local.x] += part[local.x + step];
        }
        workgroupBarrier();
    }
    if (local.x == 0u) {
        let gradient = part[0] * slope(r[0]);
        if (params.accumulate != 0u) {
            dr[0] += gradient;
        } else {
            dr[0] = gradient;
        }
    }
}
