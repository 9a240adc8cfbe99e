// chunk: how the parts of a chunk come into workgroup memory; a part of the modules that tile.wgsl is a part of.

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
        put_left(at, b[0]);
        put_left(at + LEFT, b[1]);
        put_left(at + 2u * LEFT, b[2]);
        put_left(at + 3u * LEFT, b[3]);
    }
}

fn store_right_along(chunk: Chunk, t: u32) {
    let n = right_block(t);
    if n < RIGHT_BLOCKS {
        let b = transpose(mat4x4(chunk.right0, chunk.right1, chunk.right2, chunk.right3));
        let at = along(n) * RIGHT + line(n) / 4u;
        put_right(at, b[0]);
        put_right(at + RIGHT, b[1]);
        put_right(at + 2u * RIGHT, b[2]);
        put_right(at + 3u * RIGHT, b[3]);
    }
}

fn left_at(i: u32) -> u32 {
    return i / (HEIGHT * ROWS) * LEFT + i % (HEIGHT * ROWS);
}

fn right_at(i: u32) -> u32 {
    return i / (WIDTH * COLUMNS) * RIGHT + i % (WIDTH * COLUMNS);
}

fn store_left_across(chunk: Chunk, t: u32) {
    put_left(left_at(t), chunk.left0);
    if LEFTS > 1u {
        put_left(left_at(t + SIZE), chunk.left1);
    }
    if LEFTS > 2u {
        put_left(left_at(t + 2u * SIZE), chunk.left2);
        put_left(left_at(t + 3u * SIZE), chunk.left3);
    }
}

fn store_right_across(chunk: Chunk, t: u32) {
    // There may be fewer vectors than invocations.
    if t < DEPTH * WIDTH * COLUMNS {
        put_right(right_at(t), chunk.right0);
    }
    if RIGHTS > 1u {
        put_right(right_at(t + SIZE), chunk.right1);
    }
    if RIGHTS > 2u {
        put_right(right_at(t + 2u * SIZE), chunk.right2);
        put_right(right_at(t + 3u * SIZE), chunk.right3);
    }
}
