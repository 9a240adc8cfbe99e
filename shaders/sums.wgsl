// sums: the parts of a chunk as vectors of f32, and an invocation's sums in its registers; a part of the modules that tile.wgsl is a part of, with
// multiply.wgsl or multiply_subgroup.wgsl.
//
// What counts is written out block by block: arrays that a loop indexes are memory to some compilers, not registers.

// Vectors from one summed index to the next in workgroup memory: one more than a tile has, so that fewer of the invocations that store what they have
// read along the summed index meet in a bank.
override LEFT: u32 = HEIGHT * ROWS + 1u;
override RIGHT: u32 = WIDTH * COLUMNS + 1u;

// The chunk's part of the left matrix: [DEPTH][LEFT] vectors of four rows; of the right one: [DEPTH][RIGHT] of four columns.
var<workgroup> left: array<vec4<f32>, DEPTH * LEFT>;
var<workgroup> right: array<vec4<f32>, DEPTH * RIGHT>;

// An invocation's blocks: that of rows r and columns c is number n = r * COLUMNS + c of at most eight, its row i at 4 n + i.
alias Sums = array<vec4<f32>, 32>;

fn put_left(at: u32, v: vec4<f32>) {
    left[at] = v;
}

fn put_right(at: u32, v: vec4<f32>) {
    right[at] = v;
}

fn right_vector(at: u32) -> vec4<f32> {
    return right[at];
}

// Block n, by rows.
fn block(sums: ptr<function, Sums>, local: vec2<u32>, n: u32) -> mat4x4<f32> {
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

fn set_block(sums: ptr<function, Sums>, local: vec2<u32>, n: u32, b: mat4x4<f32>) {
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
