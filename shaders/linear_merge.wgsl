// linear merge: the weight gradients of linear.wgsl from their sums over slices of the rows:
//
//   merge  dw[g, k, n] (+)= sum_s dw_parts[s, g, k, n],  dbias[g, n] (+)= sum_s dbias_parts[s, g, n]
//
// Params are those of activated.wgsl, a part of this module.
//
// Dispatch: an invocation an element, 256 a workgroup, workgroups folded into x and y.
// Deterministic: one owner an element, slices in order, from what they are added to on.

@group(0) @binding(1) var<storage, read> dw_parts: array<f32>;    // (S, G, K, N)
@group(0) @binding(2) var<storage, read> dbias_parts: array<f32>; // (S, G, N)
@group(0) @binding(3) var<storage, read_write> dw: array<f32>;    // (G, K, N)
@group(0) @binding(4) var<storage, read_write> dbias: array<f32>; // (G, N)

@compute @workgroup_size(256)
fn merge(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = (group.y * groups.x + group.x) * 256u + t;
    let weights = params.groups * params.inputs * params.outputs;
    let biases = params.groups * params.outputs;
    let adds = (params.flags & 2u) != 0u;
    if i < weights {
        var sum = select(0.0, dw[i], adds);
        for (var s = 0u; s < params.slices; s++) {
            sum += dw_parts[s * weights + i];
        }
        dw[i] = sum;
    } else if i - weights < biases {
        let n = i - weights;
        var sum = select(0.0, dbias[n], adds);
        for (var s = 0u; s < params.slices; s++) {
            sum += dbias_parts[s * biases + n];
        }
        dbias[n] = sum;
    }
}
