// The activation of a layer by itself, where something stands between it and the product (activated.wgsl, a part of this module, has Params and the functions):
//
//   activate           y[b, g, n] = act(x[b, g, n])
//   activate_backward  dinput[b, g, n] (+)= dy[b, g, n] act'(x[b, g, n])
//
// Its slope is computed again, not kept. Activations are (B, G, N); x is stored as In, y as Out.
// Workgroup: 256, an invocation an element, workgroups folded into x and y. Deterministic: one owner an element.

@group(0) @binding(1) var<storage, read> x: array<In>;
@group(0) @binding(4) var<storage, read_write> y: array<Out>;
@group(0) @binding(6) var<storage, read> dy: array<f32>;
@group(0) @binding(7) var<storage, read_write> dinput: array<f32>;

// The number of this invocation's element.
fn element(group: vec3<u32>, groups: vec3<u32>, t: u32) -> u32 {
    return (group.y * groups.x + group.x) * 256u + t;
}

// Elements of the activation by itself.
fn elements() -> u32 {
    return params.rows * params.groups * params.outputs;
}

@compute @workgroup_size(256)
fn activate(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = element(group, groups, t);
    if i < elements() {
        y[i] = stored(activated(vec4(f32(x[i]))).y.x);
    }
}

@compute @workgroup_size(256)
fn activate_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = element(group, groups, t);
    if i >= elements() {
        return;
    }
    var gradient = dy[i] * activated(vec4(f32(x[i]))).slope.x;
    if (params.flags & 2u) != 0u {
        gradient += dinput[i];
    }
    dinput[i] = gradient;
}
