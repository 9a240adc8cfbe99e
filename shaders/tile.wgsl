// tile: what the kernels share that make products by tiles; a part of linear.wgsl and contrast.wgsl. After it come the sums, with what multiplies them
// (sums.wgsl and multiply.wgsl or multiply_subgroup.wgsl; or multiply_matrices.wgsl), and chunk.wgsl.
//
// A workgroup of WIDTH x HEIGHT invocations makes a tile of the result, an invocation ROWS x COLUMNS blocks of 4 x 4 of it, HEIGHT (WIDTH) blocks
// apart, over chunks of DEPTH of the summed index through workgroup memory. The host chooses these constants by shape and adapter; no
// element of a product depends on them (but on multiply_matrices.wgsl). They and the arrays in workgroup memory stand before all else that knows them: naga 30 fails on sizes made of constants
// that come after them.

override WIDTH: u32 = 16u;
override HEIGHT: u32 = 16u;
override ROWS: u32 = 1u;
override COLUMNS: u32 = 1u;
override DEPTH: u32 = 16u;

// Invocations of a workgroup, and how many vectors of a chunk's parts each reads: at most four.
override SIZE: u32 = WIDTH * HEIGHT;
override LEFTS: u32 = DEPTH * ROWS / WIDTH;
override RIGHTS: u32 = DEPTH * COLUMNS / HEIGHT;
// Blocks of 4 x 4 of each part.
override LEFT_BLOCKS: u32 = DEPTH * HEIGHT * ROWS / 4u;
override RIGHT_BLOCKS: u32 = DEPTH * WIDTH * COLUMNS / 4u;

// The first row of a tile, and an invocation's first row of its blocks of rows r.
fn tile_row(tile: u32) -> u32 {
    return tile * 4u * HEIGHT * ROWS;
}

fn row_of(first: u32, local: vec2<u32>, r: u32) -> u32 {
    return first + 4u * (local.y + r * HEIGHT);
}

// The same for columns.
fn tile_column(tile: u32) -> u32 {
    return tile * 4u * WIDTH * COLUMNS;
}

fn column_of(first: u32, local: vec2<u32>, c: u32) -> u32 {
    return first + 4u * (local.x + c * WIDTH);
}

fn four(first: u32) -> vec4<u32> {
    return vec4(first, first + 1u, first + 2u, first + 3u);
}
