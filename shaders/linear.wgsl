// Linear layers: y = activation(x W + bias) for G groups side by side, and its two gradients.
//
//   forward          y[b, g, n]  = act(z[b, g, n]),  z[b, g, n] = bias[g, n] + sum_k x[b, g, k] w[g, k, n]
//   forward_keeping  the same, and slope[b, g, n] = act'(z[b, g, n])
//   input_gradient   dinput[b, g, k] (+)= sum_n d[b, g, n] w[g, k, n]          d = dy * act'(z)
//   weight_gradient  dw[g, k, n] (+)= sum_b x[b, g, k] d[b, g, n],  dbias[g, n] (+)= sum_b d[b, g, n]
//                    or these of each slice of the rows, one after the other, for linear_merge.wgsl
//
// Params, activation functions and their slopes are those of activated.wgsl, a part of this module. y tells the slopes of relu and tanh; those of gelu and silu
// are kept by forward_keeping and bound in y's place by the gradients. All but the biases is read and written by fours: linear_by_one.wgsl
// or, where K and N are multiples of four, linear_by_four.wgsl, with its bindings, is a part of this module too; and so is linear_with_gates.wgsl, whose gates
// are further columns of the same products, or linear_alone.wgsl, where there are none.
//
// Activations are [B, columns] row-major with a group's columns together; x is stored as In, y and slope as Out.
// Workgroup: tiles of the result as in tile.wgsl, which is a part of this module. Dispatch: (tiles of columns, tiles of rows, groups; of
// weight_gradient times slices).
// Deterministic: one owner an element, chunks in order. The sums of weight_gradient start from what they are added
// to, so blocks of rows one after the other give the bits of all rows at once, where there is one slice.

@group(0) @binding(3) var<storage, read> bias: array<f32>;         // (G, N)
@group(0) @binding(9) var<storage, read_write> dbias: array<f32>;  // (G, N)

// The gradient before the activation: dy times the slope, which y or what was kept tells.
fn sloped(d: vec4<f32>, kept: vec4<f32>) -> vec4<f32> {
    let relu = select(vec4(0.0), vec4(1.0), kept > vec4(0.0));
    let slope = select(kept, relu, params.activation == 1u);
    return d * select(slope, 1.0 - kept * kept, params.activation == 2u);
}

// A tile of the result: its group, first row and first column, and where the minibatch's rows end, or those that are summed.
struct Place {
    g: u32,
    row: u32,
    column: u32,
    end: u32,
}

// x W: summed over K.
fn forward_chunk(tile: Place, k: u32, t: u32) -> Chunk {
    var chunk: Chunk;
    if t < LEFT_BLOCKS {
        let first = tile.row + line(t);
        let at = k + along(t);
        chunk.left0 = x_four(tile.g, first, tile.end, at);
        chunk.left1 = x_four(tile.g, first + 1u, tile.end, at);
        chunk.left2 = x_four(tile.g, first + 2u, tile.end, at);
        chunk.left3 = x_four(tile.g, first + 3u, tile.end, at);
    }
    if is_gate(tile.column) {
        read_gate_w(&chunk, tile, k, t);
        return chunk;
    }
    chunk.right0 = forward_right(tile, k, t);
    if RIGHTS > 1u {
        chunk.right1 = forward_right(tile, k, t + SIZE);
    }
    if RIGHTS > 2u {
        chunk.right2 = forward_right(tile, k, t + 2u * SIZE);
        chunk.right3 = forward_right(tile, k, t + 3u * SIZE);
    }
    return chunk;
}

fn forward_right(tile: Place, k: u32, i: u32) -> vec4<f32> {
    return w_four(tile.g, k + i / (WIDTH * COLUMNS), tile.column + across(i, WIDTH * COLUMNS));
}

// d W': summed over N.
fn input_chunk(tile: Place, k: u32, t: u32) -> Chunk {
    var chunk: Chunk;
    if is_gate(k) {
        read_gate_dz_and_w(&chunk, tile, k, t);
        return chunk;
    }
    if t < LEFT_BLOCKS {
        let first = tile.row + line(t);
        let at = k + along(t);
        chunk.left0 = d_four(tile.g, first, tile.end, at);
        chunk.left1 = d_four(tile.g, first + 1u, tile.end, at);
        chunk.left2 = d_four(tile.g, first + 2u, tile.end, at);
        chunk.left3 = d_four(tile.g, first + 3u, tile.end, at);
    }
    let n = right_block(t);
    if n < RIGHT_BLOCKS {
        let first = tile.column + line(n);
        let at = k + along(n);
        chunk.right0 = w_four(tile.g, first, at);
        chunk.right1 = w_four(tile.g, first + 1u, at);
        chunk.right2 = w_four(tile.g, first + 2u, at);
        chunk.right3 = w_four(tile.g, first + 3u, at);
    }
    return chunk;
}

// x' d: summed over the rows before `end`.
fn weight_chunk(tile: Place, k: u32, t: u32) -> Chunk {
    var chunk: Chunk;
    chunk.left0 = weight_left(tile, k, t);
    if LEFTS > 1u {
        chunk.left1 = weight_left(tile, k, t + SIZE);
    }
    if LEFTS > 2u {
        chunk.left2 = weight_left(tile, k, t + 2u * SIZE);
        chunk.left3 = weight_left(tile, k, t + 3u * SIZE);
    }
    if is_gate(tile.column) {
        read_gate_dz(&chunk, tile, k, t);
        return chunk;
    }
    chunk.right0 = weight_right(tile, k, t);
    if RIGHTS > 1u {
        chunk.right1 = weight_right(tile, k, t + SIZE);
    }
    if RIGHTS > 2u {
        chunk.right2 = weight_right(tile, k, t + 2u * SIZE);
        chunk.right3 = weight_right(tile, k, t + 3u * SIZE);
    }
    return chunk;
}

fn weight_left(tile: Place, k: u32, i: u32) -> vec4<f32> {
    return x_four(tile.g, k + i / (HEIGHT * ROWS), tile.end, tile.row + across(i, HEIGHT * ROWS));
}

fn weight_right(tile: Place, k: u32, i: u32) -> vec4<f32> {
    return d_four(tile.g, k + i / (WIDTH * COLUMNS), tile.end, tile.column + across(i, WIDTH * COLUMNS));
}

// Sums of a tile of x W.
fn product(tile: Place, local: vec2<u32>, sums: ptr<function, Sums>) {
    let t = local.y * WIDTH + local.x;
    var next = forward_chunk(tile, 0u, t);
    for (var k = 0u; k < params.inputs; k += DEPTH) {
        store_left_along(next, t);
        store_right_across(next, t);
        workgroupBarrier();
        if k + DEPTH < params.inputs {
            next = forward_chunk(tile, k + DEPTH, t);
        }
        multiply(local, sums);
        workgroupBarrier();
    }
}

// The biases of four columns.
fn biases(g: u32, n: u32) -> vec4<f32> {
    if is_gate(n) {
        return gate_biases(n);
    }
    var all = array<f32, 4>();
    for (var j = 0u; j < 4u; j++) {
        if (params.flags & 1u) != 0u && n + j < params.outputs {
            all[j] = bias[g * params.outputs + n + j];
        }
    }
    return vec4(all[0], all[1], all[2], all[3]);
}

@compute @workgroup_size(WIDTH, HEIGHT)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) id: vec3<u32>) {
    let g = group.z;
    var sums = Sums();
    product(Place(g, tile_row(group.y), tile_column(group.x), params.rows), id.xy, &sums);
    for (var c = 0u; c < COLUMNS; c++) {
        let n = column_of(tile_column(group.x), id.xy, c);
        let added = biases(g, n);
        for (var r = 0u; r < ROWS; r++) {
            let own = block(&sums, id.xy, r * COLUMNS + c);
            for (var i = 0u; i < 4u; i++) {
                let b = row_of(tile_row(group.y), id.xy, r) + i;
                if is_gate(n) {
                    put_gate(b, n, own[i] + added);
                } else {
                    put_y(g, b, n, activated(own[i] + added).y);
                }
            }
        }
    }
}

@compute @workgroup_size(WIDTH, HEIGHT)
fn forward_keeping(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) id: vec3<u32>) {
    let g = group.z;
    var sums = Sums();
    product(Place(g, tile_row(group.y), tile_column(group.x), params.rows), id.xy, &sums);
    for (var c = 0u; c < COLUMNS; c++) {
        let n = column_of(tile_column(group.x), id.xy, c);
        let added = biases(g, n);
        for (var r = 0u; r < ROWS; r++) {
            let own = block(&sums, id.xy, r * COLUMNS + c);
            for (var i = 0u; i < 4u; i++) {
                let b = row_of(tile_row(group.y), id.xy, r) + i;
                if is_gate(n) {
                    put_gate(b, n, own[i] + added);
                } else {
                    let value = activated(own[i] + added);
                    put_y(g, b, n, value.y);
                    put_slope(g, b, n, value.slope);
                }
            }
        }
    }
}

@compute @workgroup_size(WIDTH, HEIGHT)
fn input_gradient(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) id: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let g = group.z;
    let row = tile_row(group.y);
    let column = tile_column(group.x);
    let tile = Place(g, row, column, params.rows);
    var sums = Sums();
    var next = input_chunk(tile, 0u, t);
    for (var n = 0u; n < columns_end(); n += DEPTH) {
        store_left_along(next, t);
        store_right_along(next, t);
        workgroupBarrier();
        if n + DEPTH < columns_end() {
            next = input_chunk(tile, n + DEPTH, t);
        }
        multiply(id.xy, &sums);
        workgroupBarrier();
    }
    for (var r = 0u; r < ROWS; r++) {
        for (var c = 0u; c < COLUMNS; c++) {
            let k = column_of(column, id.xy, c);
            let own = block(&sums, id.xy, r * COLUMNS + c);
            for (var i = 0u; i < 4u; i++) {
                put_dx(g, row_of(row, id.xy, r) + i, k, own[i]);
            }
        }
    }
}

@compute @workgroup_size(WIDTH, HEIGHT)
fn weight_gradient(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) id: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    // Where there are slices, each has its groups behind those of the slice before.
    let out = group.z;
    let g = out % params.groups;
    let first = out / params.groups * params.slice;
    let end = min(first + params.slice, params.rows);
    let row = tile_row(group.y);
    let column = tile_column(group.x);
    // These invocations sum the biases, each those of the columns of one vector of the right part. Not those of its own blocks: compilers see that these
    // vectors have just been read for the product, and to keep them all takes twice the registers.
    let sums_bias = group.y == 0u && t < WIDTH * COLUMNS;
    let bias_column = column + 4u * t;
    var sums = Sums();
    var bias_sums = vec4<f32>();
    if (params.flags & 2u) != 0u {
        for (var c = 0u; c < COLUMNS; c++) {
            let n = column_of(column, id.xy, c);
            for (var r = 0u; r < ROWS; r++) {
                var own = array<vec4<f32>, 4>();
                for (var i = 0u; i < 4u; i++) {
                    own[i] = dw_before(out, row_of(row, id.xy, r) + i, n);
                }
                set_block(&sums, id.xy, r * COLUMNS + c, mat4x4(own[0], own[1], own[2], own[3]));
            }
        }
        if sums_bias {
            bias_sums = dbias_before(out, bias_column);
        }
    }
    let tile = Place(g, row, column, end);
    var next = weight_chunk(tile, first, t);
    for (var b = first; b < end; b += DEPTH) {
        store_left_across(next, t);
        store_right_across(next, t);
        workgroupBarrier();
        if b + DEPTH < end {
            next = weight_chunk(tile, b + DEPTH, t);
        }
        multiply(id.xy, &sums);
        if sums_bias {
            for (var k = 0u; k < DEPTH; k++) {
                bias_sums += right_vector(k * RIGHT + t);
            }
        }
        workgroupBarrier();
    }
    for (var c = 0u; c < COLUMNS; c++) {
        let n = column_of(column, id.xy, c);
        for (var r = 0u; r < ROWS; r++) {
            let own = block(&sums, id.xy, r * COLUMNS + c);
            for (var i = 0u; i < 4u; i++) {
                put_sums(out, row_of(row, id.xy, r) + i, n, own[i]);
            }
        }
    }
    if sums_bias {
        put_bias_sums(out, bias_column, bias_sums);
    }
}

// What the sums of weight_gradient are added to: columns n .. + 3.
fn dw_before(out: u32, k: u32, n: u32) -> vec4<f32> {
    if is_gate(n) {
        return gate_dw_four(out, k, n);
    }
    return dw_four(out, k, n);
}

fn dbias_before(out: u32, n: u32) -> vec4<f32> {
    if is_gate(n) {
        return gate_dbias_four(out, n);
    }
    var all = array<f32, 4>();
    for (var j = 0u; j < 4u; j++) {
        if n + j < params.outputs {
            all[j] = dbias[out * params.outputs + n + j];
        }
    }
    return vec4(all[0], all[1], all[2], all[3]);
}

fn put_sums(out: u32, k: u32, n: u32, value: vec4<f32>) {
    if is_gate(n) {
        put_gate_dw(out, k, n, value);
    } else {
        put_dw(out, k, n, value);
    }
}

fn put_bias_sums(out: u32, n: u32, value: vec4<f32>) {
    if is_gate(n) {
        put_gate_dbias(out, n, value);
        return;
    }
    for (var j = 0u; j < 4u; j++) {
        if n + j < params.outputs {
            dbias[out * params.outputs + n + j] = value[j];
        }
    }
}
