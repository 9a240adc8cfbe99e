// Mixtures of experts: out[b, t, h] = sum_e p[b, t, e] f[b, first[t] + e, h] with p[b, t, :] = softmax(logits[b, t, :]), and
// gradients. Mixture t is over count[t] experts from first[t] on; its numbers in logits and p start at column start[t] of P.
//
//   softmax           p from logits, an invocation a (b, t)
//   mix               out, an invocation a Numbers of (b, t)
//   expert_gradient   df[b, e, h] (+)= sum_t p[b, t, e - first[t]] dout[b, t, h], an invocation a Numbers of (b, e)
//   weight_gradient   dp[b, t, e] (+)= sum_h dout[b, t, h] f[b, first[t] + e, h], an invocation a (b, t, e)
//   softmax_gradient  dlogits[b, t, e] (+)= p (dp - sum_e p dp), an invocation a (b, t)
//
// Columns are read and written by Numbers: one or, where H is a multiple of four, four neighbours (by_one.wgsl and by_four.wgsl, of which one is a part
// of this module). 256 invocations a workgroup, workgroups folded into x and y. Deterministic: one owner an element, sums in order.

struct Params {
    rows: u32,       // B
    tasks: u32,      // T
    experts: u32,    // E
    width: u32,      // H
    gates: u32,      // P, the sum of count
    accumulate: u32, // 1: add to df, dp or dlogits
    pad0: u32,
    pad1: u32,
    first: vec4<u32>,
    count: vec4<u32>,
    start: vec4<u32>,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;          // (B, P)
@group(0) @binding(2) var<storage, read_write> p_out: array<f32>;     // (B, P)
@group(0) @binding(3) var<storage, read> p: array<f32>;               // (B, P)
@group(0) @binding(4) var<storage, read> f: array<Ins>;               // (B, E, H)
@group(0) @binding(5) var<storage, read_write> out: array<Outs>;      // (B, T, H)
@group(0) @binding(6) var<storage, read> dout: array<Numbers>;        // (B, T, H)
@group(0) @binding(7) var<storage, read_write> df: array<Numbers>;    // (B, E, H)
@group(0) @binding(8) var<storage, read_write> dp_out: array<f32>;    // (B, P)
@group(0) @binding(9) var<storage, read> dp: array<f32>;              // (B, P)
@group(0) @binding(10) var<storage, read_write> dlogits: array<f32>;  // (B, P)

fn flat(group: vec3<u32>, groups: vec3<u32>, t: u32) -> u32 {
    return (group.y * groups.x + group.x) * 256u + t;
}

// The first of the numbers of mixture bt = b T + t in logits and p.
fn gates_of(bt: u32) -> u32 {
    return bt / params.tasks * params.gates + params.start[bt % params.tasks];
}

@compute @workgroup_size(256)
fn softmax(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = flat(group, groups, t);
    if i >= params.rows * params.tasks {
        return;
    }
    let at = gates_of(i);
    let count = params.count[i % params.tasks];
    var largest = logits[at];
    for (var e = 1u; e < count; e++) {
        largest = max(largest, logits[at + e]);
    }
    var sum = 0.0;
    for (var e = 0u; e < count; e++) {
        sum += exp(logits[at + e] - largest);
    }
    for (var e = 0u; e < count; e++) {
        p_out[at + e] = exp(logits[at + e] - largest) / sum;
    }
}

@compute @workgroup_size(256)
fn mix(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = flat(group, groups, t);
    let width = params.width / UNIT;
    if i >= params.rows * params.tasks * width {
        return;
    }
    let h = i % width;
    let bt = i / width;
    let task = bt % params.tasks;
    let at = gates_of(bt);
    let first = bt / params.tasks * params.experts + params.first[task];
    var sum = Numbers();
    for (var e = 0u; e < params.count[task]; e++) {
        sum += p[at + e] * Numbers(f[(first + e) * width + h]);
    }
    out[i] = stored_numbers(sum);
}

@compute @workgroup_size(256)
fn expert_gradient(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = flat(group, groups, t);
    let width = params.width / UNIT;
    if i >= params.rows * params.experts * width {
        return;
    }
    let h = i % width;
    let be = i / width;
    let b = be / params.experts;
    var sum = Numbers();
    for (var task = 0u; task < params.tasks; task++) {
        // Experts before the first wrap around to large numbers.
        let e = be % params.experts - params.first[task];
        if e < params.count[task] {
            let bt = b * params.tasks + task;
            sum += p[gates_of(bt) + e] * dout[bt * width + h];
        }
    }
    if params.accumulate != 0u {
        sum += df[i];
    }
    df[i] = sum;
}

@compute @workgroup_size(256)
fn weight_gradient(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = flat(group, groups, t);
    let width = params.width / UNIT;
    if i >= params.rows * params.gates {
        return;
    }
    let b = i / params.gates;
    let j = i % params.gates;
    var task = 0u;
    while task + 1u < params.tasks && j >= params.start[task + 1u] {
        task++;
    }
    let e = b * params.experts + params.first[task] + j - params.start[task];
    let bt = b * params.tasks + task;
    var products = Numbers();
    for (var h = 0u; h < width; h++) {
        products += dout[bt * width + h] * Numbers(f[e * width + h]);
    }
    var sum = total(products);
    if params.accumulate != 0u {
        sum += dp_out[i];
    }
    dp_out[i] = sum;
}

@compute @workgroup_size(256)
fn softmax_gradient(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = flat(group, groups, t);
    if i >= params.rows * params.tasks {
        return;
    }
    let at = gates_of(i);
    let count = params.count[i % params.tasks];
    var mean = 0.0;
    for (var e = 0u; e < count; e++) {
        mean += p[at + e] * dp[at + e];
    }
    for (var e = 0u; e < count; e++) {
        var value = p[at + e] * (dp[at + e] - mean);
        if params.accumulate != 0u {
            value += dlogits[at + e];
        }
        dlogits[at + e] = value;
    }
}
