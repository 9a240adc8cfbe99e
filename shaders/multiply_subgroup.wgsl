// multiply by subgroups: what multiply.wgsl does, in the same order. The invocations of a subgroup have their rows in common, so four lanes
// each read the left part of another k, and tell it to all: a quarter of the reads. Where reading workgroup memory costs more than
// the operations, that pays.
//
// Needs subgroups of at least four lanes whose sizes divide WIDTH, made of invocations with successive local.x.

// The sums are a copy while they grow, which compilers keep in registers.
fn multiply(local: vec2<u32>, sums: ptr<function, Sums>) {
    var s = *sums;
    for (var k = 0u; k < DEPTH; k += 4u) {
        var a: array<vec4<f32>, 4>; // by blocks of rows; at most four
        for (var r = 0u; r < ROWS; r++) {
            a[r] = left[((k + local.x % 4u) * ROWS + r) * HEIGHT + local.y];
        }
        for (var r = 0u; r < ROWS; r++) {
            add(&s, subgroupBroadcast(a[r], 0u), k, r, local.x);
        }
        for (var r = 0u; r < ROWS; r++) {
            add(&s, subgroupBroadcast(a[r], 1u), k + 1u, r, local.x);
        }
        for (var r = 0u; r < ROWS; r++) {
            add(&s, subgroupBroadcast(a[r], 2u), k + 2u, r, local.x);
        }
        for (var r = 0u; r < ROWS; r++) {
            add(&s, subgroupBroadcast(a[r], 3u), k + 3u, r, local.x);
        }
    }
    *sums = s;
}
