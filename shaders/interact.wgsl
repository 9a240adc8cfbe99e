// interact: u = [a_ctr, a_cvr, a_ctr * a_cvr], the input of the relatedness network, from a = [a_ctr, a_cvr].
//
// forward   u from a.
// backward  da_ctr = du_0 + du_2 * a_cvr, da_cvr = du_1 + du_2 * a_ctr.
//
// Workgroup: 256 invocations, one for a column of a_ctr in a row.
// Dispatch:  ceil(rows * width / 256) workgroups, folded into x and y.
// Deterministic: every element has one owner and no sum is longer than its formula.

struct Params {
    rows: u32,
    width: u32, // of a_ctr and of a_cvr
    accumulate: u32, // backward: 1 adds to da
    pad: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<In>; // (rows, 2 * width)
@group(0) @binding(2) var<storage, read_write> u: array<Out>; // (rows, 3 * width)
@group(0) @binding(3) var<storage, read> du: array<f32>; // (rows, 3 * width)
@group(0) @binding(4) var<storage, read_write> da: array<f32>; // (rows, 2 * width)

@compute @workgroup_size(256)
fn forward(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let i = (group.y * groups.x + group.x) * 256u + local.x;
    if (i >= params.rows * params.width) {
        return;
    }
    let row = i / params.width;
    let c = i % params.width;
    let source = row * 2u * params.width + c;
    let to = row * 3u * params.width + c;
    let ctr = f32(a[source]);
    let cvr = f32(a[source + params.width]);
    u[to] = stored(ctr);
    u[to + params.width] = stored(cvr);
    u[to + 2u * params.width] = stored(ctr * cvr);
}

@compute @workgroup_size(256)
fn backward(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let i = (group.y * groups.x + group.x) * 256u + local.x;
    if (i >= params.rows * params.width) {
        return;
    }
    let row = i / params.width;
    let c = i % params.width;
    let at = row * 2u * params.width + c;
    let source = row * 3u * params.width + c;
    let product = du[source + 2u * params.width];
    let d_ctr = du[source] + product * f32(a[at + params.width]);
    let d_cvr = du[source + params.width] + product * f32(a[at]);
    if (params.accumulate != 0u) {
        da[at] += d_ctr;
        da[at + params.width] += d_cvr;
    } else {
        da[at] = d_ctr;
        da[at + params.width] = d_cvr;
    }
}
