// multiply by subgroups: what multiply.wgsl does, in the same order. The invocations of a subgroup have their rows in common, so four lanes
// each read the left part of another k, and tell it to all: a quarter of the reads. Where reading workgroup memory costs more than
// the operations, that pays.
//
// Needs subgroups of at least four lanes whose sizes divide WIDTH, made of invocations with successive local.x.

// The sums are a copy while they grow, which compilers keep in registers.
fn multiply(local: vec2<u32>, sums: ptr<function, Sums>) {
    var s = *sums;
    let x = local.x;
    for (var k = 0u; k < DEPTH; k += 4u) {
        let mine = k + x % 4u;
        let a0 = rows_at(mine, local.y, 0u);
        let a1 = rows_at(mine, local.y, 1u);
        let a2 = rows_at(mine, local.y, 2u);
        let a3 = rows_at(mine, local.y, 3u);
        add(&s, k, x, subgroupBroadcast(a0, 0u), subgroupBroadcast(a1, 0u), subgroupBroadcast(a2, 0u), subgroupBroadcast(a3, 0u));
        add(&s, k + 1u, x, subgroupBroadcast(a0, 1u), subgroupBroadcast(a1, 1u), subgroupBroadcast(a2, 1u), subgroupBroadcast(a3, 1u));
        add(&s, k + 2u, x, subgroupBroadcast(a0, 2u), subgroupBroadcast(a1, 2u), subgroupBroadcast(a2, 2u), subgroupBroadcast(a3, 2u));
        add(&s, k + 3u, x, subgroupBroadcast(a0, 3u), subgroupBroadcast(a1, 3u), subgroupBroadcast(a2, 3u), subgroupBroadcast(a3, 3u));
    }
    *sums = s;
}
