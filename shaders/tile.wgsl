// tile: what the kernels share that make products by tiles; a part of linear.wgsl and contrast.wgsl, together with multiply.wgsl or
// multiply_subgroup.wgsl.
//
// A workgroup of WIDTH x HEIGHT invocations makes a tile of the result, an invocation ROWS x COLUMNS blocks of 4 x 4 of it, HEIGHT (WIDTH) blocks
// apart, over chunks of DEPTH of the summed index through workgroup memory. The host chooses these constants by shape and adapter; no
// element's sum depends on them. They stand before all else: naga 30 fails on sizes made of constants that come after them.

override WIDTH: u32 = 16u;
override HEIGHT: u32 = 16u;
override ROWS: u32 = 1u;
override COLUMNS: u32 = 1u;
override DEPTH: u32 = 16u;

// The chunk's part of the left matrix: [DEPTH][HEIGHT * ROWS] vectors of four rows; of the right one: [DEPTH][WIDTH * COLUMNS] of four columns.
var<workgroup> left: array<vec4<f32>, DEPTH * HEIGHT * ROWS>;
var<workgroup> right: array<vec4<f32>, DEPTH * WIDTH * COLUMNS>;

// An invocation's blocks: row 4 r + i of them and columns c is at (4 r + i) * COLUMNS + c. At most eight blocks.
alias Sums = array<vec4<f32>, 32>;

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

// Adds to an invocation's sums the products of four rows' numbers at k of the chunk, `a` of its blocks r, with all columns.
fn add(sums: ptr<function, Sums>, a: vec4<f32>, k: u32, r: u32, x: u32) {
    for (var c = 0u; c < COLUMNS; c++) {
        let b = right[(k * COLUMNS + c) * WIDTH + x];
        (*sums)[(r * 4u) * COLUMNS + c] += a.x * b;
        (*sums)[(r * 4u + 1u) * COLUMNS + c] += a.y * b;
        (*sums)[(r * 4u + 2u) * COLUMNS + c] += a.z * b;
        (*sums)[(r * 4u + 3u) * COLUMNS + c] += a.w * b;
    }
}
