// What an adapter can do at the most, for `tauten doctor`: the rate of copies and of multiply-adds.
//
//   copy  to[i] = from[i], an invocation a vector of four words
//   fma   out[i] = the sum of eight chains x = x * a + b of four lanes each, `rounds` long, an invocation a vector; the chains
//         start apart and are summed at the end, so that none can be left out, and do not depend on one another, so that a
//         pipelined unit is kept busy. With |a| < 1 they stay finite.
//
// 256 invocations a workgroup, workgroups folded into x and y. Deterministic: one owner an element, sums in order.

struct Params {
    count: u32,  // vectors
    rounds: u32, // length of a chain
    a: f32,
    b: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> source: array<vec4<f32>>;      // (count)
@group(0) @binding(2) var<storage, read_write> to: array<vec4<f32>>;    // (count)

fn flat(group: vec3<u32>, groups: vec3<u32>, t: u32) -> u32 {
    return (group.y * groups.x + group.x) * 256u + t;
}

@compute @workgroup_size(256)
fn copy(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = flat(group, groups, t);
    if i < params.count {
        to[i] = source[i];
    }
}

@compute @workgroup_size(256)
fn multiply_add(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = flat(group, groups, t);
    if i >= params.count {
        return;
    }
    let a = vec4(params.a);
    let b = vec4(params.b);
    let x = source[i];
    var x0 = x;
    var x1 = x + 1.0;
    var x2 = x + 2.0;
    var x3 = x + 3.0;
    var x4 = x + 4.0;
    var x5 = x + 5.0;
    var x6 = x + 6.0;
    var x7 = x + 7.0;
    for (var round = 0u; round < params.rounds; round++) {
        x0 = fma(x0, a, b);
        x1 = fma(x1, a, b);
        x2 = fma(x2, a, b);
        x3 = fma(x3, a, b);
        x4 = fma(x4, a, b);
        x5 = fma(x5, a, b);
        x6 = fma(x6, a, b);
        x7 = fma(x7, a, b);
    }
    to[i] = ((x0 + x1) + (x2 + x3)) + ((x4 + x5) + (x6 + x7));
}
