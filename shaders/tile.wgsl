// tile: what the kernels share that make products by tiles; a part of linear.wgsl and contrast.wgsl, together with multiply.wgsl or
// multiply_subgroup.wgsl.
//
// A workgroup of WIDTH x HEIGHT invocations makes a tile of the result, an invocation ROWS x COLUMNS blocks of 4 x 4 of it, HEIGHT (WIDTH) blocks
// apart, over chunks of DEPTH of the summed index through workgroup memory. The host chooses these constants by shape and adapter; no
// element's sum depends on them. They stand before all else: naga 30 fails on sizes made of constants that come after them.
//
// What counts is written out block by block: arrays that a loop indexes are memory to some compilers, not registers.

override WIDTH: u32 = 16u;
override HEIGHT: u32 = 16u;
override ROWS: u32 = 1u;
override COLUMNS: u32 = 1u;
override DEPTH: u32 = 16u;

// Vectors from one summed index to the next in workgroup memory: one more than a tile has, so that fewer of the invocations that store what they have
// read along the summed index meet in a bank.
override LEFT: u32 = HEIGHT * ROWS + 1u;
override RIGHT: u32 = WIDTH * COLUMNS + 1u;

// Invocations of a workgroup, and how many vectors of a chunk's parts each reads: at most four.
override SIZE: u32 = WIDTH * HEIGHT;
override LEFTS: u32 = DEPTH * ROWS / WIDTH;
override RIGHTS: u32 = DEPTH * COLUMNS / HEIGHT;
// Blocks of 4 x 4 of each part.
override LEFT_BLOCKS: u32 = DEPTH * HEIGHT * ROWS / 4u;
override RIGHT_BLOCKS: u32 = DEPTH * WIDTH * COLUMNS / 4u;

// The chunk's part of the left matrix: [DEPTH][LEFT] vectors of four rows; of the right one: [DEPTH][RIGHT] of four columns.
var<workgroup> left: array<vec4<f32>, DEPTH * LEFT>;
var<workgroup> right: array<vec4<f32>, DEPTH * RIGHT>;

// An invocation's blocks: that of rows r and columns c is number n = r * COLUMNS + c of at most eight, its row i at 4 n + i.
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

fn four(first: u32) -> vec4<u32> {
    return vec4(first, first + 1u, first + 2u, first + 3u);
}

// Block n, by rows.
fn block(sums: ptr<function, Sums>, n: u32) -> mat4x4<f32> {
    var b: mat4x4<f32>;
    switch n {
        case 0u: { b = mat4x4((*sums)[0], (*sums)[1], (*sums)[2], (*sums)[3]); }
        case 1u: { b = mat4x4((*sums)[4], (*sums)[5], (*sums)[6], (*sums)[7]); }
        case 2u: { b = mat4x4((*sums)[8], (*sums)[9], (*sums)[10], (*sums)[11]); }
        case 3u: { b = mat4x4((*sums)[12], (*sums)[13], (*sums)[14], (*sums)[15]); }
        case 4u: { b = mat4x4((*sums)[16], (*sums)[17], (*sums)[18], (*sums)[19]); }
        case 5u: { b = mat4x4((*sums)[20], (*sums)[21], (*sums)[22], (*sums)[23]); }
        case 6u: { b = mat4x4((*sums)[24], (*sums)[25], (*sums)[26], (*sums)[27]); }
        default: { b = mat4x4((*sums)[28], (*sums)[29], (*sums)[30], (*sums)[31]); }
    }
    return b;
}

fn set_block(sums: ptr<function, Sums>, n: u32, b: mat4x4<f32>) {
    switch n {
        case 0u: { set_rows(sums, 0u, b); }
        case 1u: { set_rows(sums, 4u, b); }
        case 2u: { set_rows(sums, 8u, b); }
        case 3u: { set_rows(sums, 12u, b); }
        case 4u: { set_rows(sums, 16u, b); }
        case 5u: { set_rows(sums, 20u, b); }
        case 6u: { set_rows(sums, 24u, b); }
        default: { set_rows(sums, 28u, b); }
    }
}

fn set_rows(sums: ptr<function, Sums>, first: u32, b: mat4x4<f32>) {
    (*sums)[first] = b[0];
    (*sums)[first + 1u] = b[1];
    (*sums)[first + 2u] = b[2];
    (*sums)[first + 3u] = b[3];
}

// Four rows' numbers at k of the chunk, of an invocation's blocks of rows r; 0 where it has none.
fn rows_at(k: u32, y: u32, r: u32) -> vec4<f32> {
    var a = vec4<f32>();
    if ROWS > r {
        a = left[k * LEFT + r * HEIGHT + y];
    }
    return a;
}

// Adds to all blocks the products at k of the chunk: of their rows' numbers, a0 those of the blocks of rows 0, with column x of the right part.
fn add(sums: ptr<function, Sums>, k: u32, x: u32, a0: vec4<f32>, a1: vec4<f32>, a2: vec4<f32>, a3: vec4<f32>) {
    let b0 = right[k * RIGHT + x];
    var b1 = vec4<f32>();
    if COLUMNS > 1u {
        b1 = right[k * RIGHT + WIDTH + x];
    }
    add_rows(sums, 0u, a0, b0, b1);
    if ROWS > 1u {
        add_rows(sums, 1u, a1, b0, b1);
    }
    if ROWS > 2u {
        add_rows(sums, 2u, a2, b0, b1);
        add_rows(sums, 3u, a3, b0, b1);
    }
}

fn add_rows(sums: ptr<function, Sums>, r: u32, a: vec4<f32>, b0: vec4<f32>, b1: vec4<f32>) {
    let n = 4u * r * COLUMNS;
    (*sums)[n] += a.x * b0;
    (*sums)[n + 1u] += a.y * b0;
    (*sums)[n + 2u] += a.z * b0;
    (*sums)[n + 3u] += a.w * b0;
    if COLUMNS > 1u {
        (*sums)[n + 4u] += a.x * b1;
        (*sums)[n + 5u] += a.y * b1;
        (*sums)[n + 6u] += a.z * b1;
        (*sums)[n + 7u] += a.w * b1;
    }
}

// What an invocation has read of a chunk, so that the next chunk is on its way while this one is multiplied. A part is read out of memory by vectors of
// four neighbouring numbers. Where these lie along the result, they are as they are stored: the invocation reads vectors t, t + SIZE .. of the part, of
// which number i is four columns from across(i, W) on at summed index i / W, of W vectors.
//
// Where they lie along the summed index, it reads one block of the part, four rows from line(n) on from summed index along(n) on, and
// stores it transposed. (No two invocations write to one vector: WGSL has a write to a component be a write to all.)
struct Chunk {
    left0: vec4<f32>,
    left1: vec4<f32>,
    left2: vec4<f32>,
    left3: vec4<f32>,
    right0: vec4<f32>,
    right1: vec4<f32>,
    right2: vec4<f32>,
    right3: vec4<f32>,
}

fn across(i: u32, vectors: u32) -> u32 {
    return 4u * (i % vectors);
}

fn line(n: u32) -> u32 {
    return 4u * (n / (DEPTH / 4u));
}

fn along(n: u32) -> u32 {
    return 4u * (n % (DEPTH / 4u));
}

// The number of the right part's block of invocation t: those that have none of the left part's come first.
fn right_block(t: u32) -> u32 {
    return SIZE - 1u - t;
}

fn store_left_along(chunk: Chunk, t: u32) {
    if t < LEFT_BLOCKS {
        let b = transpose(mat4x4(chunk.left0, chunk.left1, chunk.left2, chunk.left3));
        let at = along(t) * LEFT + line(t) / 4u;
        left[at] = b[0];
        left[at + LEFT] = b[1];
        left[at + 2u * LEFT] = b[2];
        left[at + 3u * LEFT] = b[3];
    }
}

fn store_right_along(chunk: Chunk, t: u32) {
    let n = right_block(t);
    if n < RIGHT_BLOCKS {
        let b = transpose(mat4x4(chunk.right0, chunk.right1, chunk.right2, chunk.right3));
        let at = along(n) * RIGHT + line(n) / 4u;
        right[at] = b[0];
        right[at + RIGHT] = b[1];
        right[at + 2u * RIGHT] = b[2];
        right[at + 3u * RIGHT] = b[3];
    }
}

fn left_at(i: u32) -> u32 {
    return i / (HEIGHT * ROWS) * LEFT + i % (HEIGHT * ROWS);
}

fn right_at(i: u32) -> u32 {
    return i / (WIDTH * COLUMNS) * RIGHT + i % (WIDTH * COLUMNS);
}

fn store_left_across(chunk: Chunk, t: u32) {
    left[left_at(t)] = chunk.left0;
    if LEFTS > 1u {
        left[left_at(t + SIZE)] = chunk.left1;
    }
    if LEFTS > 2u {
        left[left_at(t + 2u * SIZE)] = chunk.left2;
        left[left_at(t + 3u * SIZE)] = chunk.left3;
    }
}

fn store_right_across(chunk: Chunk, t: u32) {
    // There may be fewer vectors than invocations.
    if t < DEPTH * WIDTH * COLUMNS {
        right[right_at(t)] = chunk.right0;
    }
    if RIGHTS > 1u {
        right[right_at(t + SIZE)] = chunk.right1;
    }
    if RIGHTS > 2u {
        right[right_at(t + 2u * SIZE)] = chunk.right2;
        right[right_at(t + 3u * SIZE)] = chunk.right3;
    }
}
