// multiply: adds the product of a chunk's parts, left and right, to an invocation's sums; a part of the modules that tile.wgsl is a part of.

// The sums are a copy while they grow, which compilers keep in registers.
fn multiply(local: vec2<u32>, sums: ptr<function, Sums>) {
    var s = *sums;
    for (var k = 0u; k < DEPTH; k++) {
        for (var r = 0u; r < ROWS; r++) {
            add(&s, left[(k * ROWS + r) * HEIGHT + local.y], k, r, local.x);
        }
    }
    *sums = s;
}
