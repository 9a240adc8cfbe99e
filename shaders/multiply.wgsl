// multiply: adds the product of a chunk's parts, left and right, to an invocation's sums; a part of the modules that tile.wgsl is a part of.

// The sums are a copy while they grow, which compilers keep in registers. Four at a time, DEPTH being a multiple of four: not every compiler
// unrolls so large a loop.
fn multiply(local: vec2<u32>, sums: ptr<function, Sums>) {
    var s = *sums;
    for (var k = 0u; k < DEPTH; k += 4u) {
        add_at(&s, k, local);
        add_at(&s, k + 1u, local);
        add_at(&s, k + 2u, local);
        add_at(&s, k + 3u, local);
    }
    *sums = s;
}

fn add_at(sums: ptr<function, Sums>, k: u32, local: vec2<u32>) {
    let y = local.y;
    add(sums, k, local.x, rows_at(k, y, 0u), rows_at(k, y, 1u), rows_at(k, y, 2u), rows_at(k, y, 3u));
}
