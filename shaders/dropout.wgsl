// dropout: y (+)= x / (1 - rate) where an element is kept, 0 where it is dropped (Srivastava et al., JMLR 2014, inverted).
//
// The forward pass from activations, the backward pass from the gradient behind them: the mask is computed again, not stored.
// Element i of layer l at step s is dropped where the 24-bit uniform number i of the stream (seed, dropout, s) of src/random.rs, lane l,
// lies below rate: word i % 4 of Philox4x32-10 (Salmon et al., SC 2011) of counter (i / 4, 6 | l << 8, s), key seed.
//
// Workgroup: 256 invocations, each four consecutive elements. Dispatch: ceil(count / 1024) workgroups, folded into x and y.
// Deterministic: one owner an element, and integer arithmetic alone decides.

struct Params {
    count: u32,      // elements
    first: u32,      // i / 4 of the first of them, whose i is a multiple of 4
    threshold: u32,  // rate * 2^24, rounded up
    scale: f32,      // 1 / (1 - rate)
    seed_low: u32,
    seed_high: u32,
    layer: u32,      // l
    accumulate: u32, // 1 adds to y
}

const PURPOSE = 6u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<In>;         // (count)
@group(0) @binding(2) var<uniform> step: Step;
@group(0) @binding(3) var<storage, read_write> y: array<Out>;  // (count)

// The upper 32 bits of a * b, by halves.
fn multiply_high(a: u32, b: u32) -> u32 {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let left = (a >> 16u) * (b & 0xffffu);
    let right = (a & 0xffffu) * (b >> 16u);
    let carry = (low >> 16u) + (left & 0xffffu) + (right & 0xffffu);
    return (a >> 16u) * (b >> 16u) + (left >> 16u) + (right >> 16u) + (carry >> 16u);
}

fn philox(start: vec4<u32>, seed: vec2<u32>) -> vec4<u32> {
    var c = start;
    var key = seed;
    for (var round = 0u; round < 10u; round++) {
        c = vec4(
            multiply_high(c.z, 0xCD9E8D57u) ^ c.y ^ key.x,
            c.z * 0xCD9E8D57u,
            multiply_high(c.x, 0xD2511F53u) ^ c.w ^ key.y,
            c.x * 0xD2511F53u);
        key += vec2(0x9E3779B9u, 0xBB67AE85u);
    }
    return c;
}

@compute @workgroup_size(256)
fn dropout(
    @builtin(local_invocation_index) t: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let quad = (group.y * groups.x + group.x) * 256u + t;
    if quad >= (params.count + 3u) / 4u {
        return;
    }
    let counter = vec4(params.first + quad, PURPOSE | (params.layer << 8u), step.step_low, step.step_high);
    let words = philox(counter, vec2(params.seed_low, params.seed_high));
    for (var j = 0u; j < 4u; j++) {
        let i = quad * 4u + j;
        if i >= params.count {
            break;
        }
        var value = select(f32(x[i]) * params.scale, 0.0, (words[j] >> 8u) < params.threshold);
        if params.accumulate == 1u {
            value += f32(y[i]);
        }
        y[i] = stored(value);
    }
}
