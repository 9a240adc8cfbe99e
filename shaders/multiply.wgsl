// multiply: adds the product of a chunk's parts, left and right, to an invocation's sums; a part of the modules that tile.wgsl is a part of.

// The sums are a copy while they grow, which compilers keep in registers.
fn multiply(local: vec2<u32>, sums: ptr<function, Sums>) {
    var s = *sums;
    for (var k = 0u; k < DEPTH; k++) {
        for (var r = 0u; r < ROWS; r++) {
            let a = left[(k * ROWS + r) * HEIGHT + local.y];
            for (var c = 0u; c < COLUMNS; c++) {
                let b = right[(k * COLUMNS + c) * WIDTH + local.x];
                s[(r * 4u) * COLUMNS + c] += a.x * b;
                s[(r * 4u + 1u) * COLUMNS + c] += a.y * b;
                s[(r * 4u + 2u) * COLUMNS + c] += a.z * b;
                s[(r * 4u + 3u) * COLUMNS + c] += a.w * b;
            }
        }
    }
    *sums = s;
}
