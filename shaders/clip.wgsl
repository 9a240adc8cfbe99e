// The factor that holds the norm of all dense parameters' gradients together to `most` (Pascanu et al., ICML 2013).
//
//   squares  parts[p] (+)= sum over i = 256 p + t + 65536 n (t < 256, n = 0, 1, ...) of gradients[i]^2
//   finish   factor = min(1, most / (sqrt(sum over p of parts[p]) + 1e-6)), as PyTorch's clip_grad_norm_ has it
//
// Gradients beyond 1e14 count as 1e14, here and in the update, so that no sum of squares becomes infinite. Those between parameters (padding) are zero.
// Workgroup: 256. Dispatch: squares 256 workgroups, once for each range of gradients that a binding holds; finish one.
// Deterministic: an invocation sums its elements in order, then a tree of fixed shape over the 256; ranges one after the other.

struct Params {
    count: u32,      // elements of gradients
    accumulate: u32, // squares: 1 adds to what parts hold
    most: f32,       // the largest norm, above 0
    pad: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gradients: array<f32>;          // (count)
@group(0) @binding(2) var<storage, read_write> parts: array<f32>;        // (256)
@group(0) @binding(3) var<storage, read> parts_in: array<f32>;           // (256)
@group(0) @binding(4) var<storage, read_write> factor: array<f32>;       // (1)

var<workgroup> sums: array<f32, 256>;

// The sum of all invocations' values, in each of them.
fn total(value: f32, t: u32) -> f32 {
    sums[t] = value;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half /= 2u) {
        if t < half {
            sums[t] += sums[t + half];
        }
        workgroupBarrier();
    }
    return sums[0];
}

@compute @workgroup_size(256)
fn squares(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    var sum = 0.0;
    for (var i = group.x * 256u + t; i < params.count; i += 65536u) {
        let g = clamp(gradients[i], -1e14, 1e14);
        sum += g * g;
    }
    let all = total(sum, t);
    if t == 0u {
        parts[group.x] = select(0.0, parts[group.x], params.accumulate == 1u) + all;
    }
}

@compute @workgroup_size(256)
fn finish(@builtin(local_invocation_index) t: u32) {
    let all = total(parts_in[t], t);
    if t == 0u {
        factor[0] = min(1.0, params.most / (sqrt(all) + 1e-6));
    }
}
