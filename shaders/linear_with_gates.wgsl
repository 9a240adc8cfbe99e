// linear with gates: gates that read the same input as a layer of one group are columns of the same product, behind the layer's; a part of linear.wgsl in
// place of linear_alone.wgsl.
//
//   z[b, m] = gate_bias[m] + sum_k x[b, k] gate_w[k, m]      dz its gradient
//
// The host says at which column of the product they begin: at a tile of columns, or where the columns are summed at a chunk, so that all invocations of a
// workgroup read either the layer's or the gates'. z is f32, whatever y is stored as, and gates are few, so they are read and written one by one.

@group(0) @binding(11) var<storage, read> gate_w: array<f32>;             // (K, M)
@group(0) @binding(12) var<storage, read> gate_bias: array<f32>;          // (M)
@group(0) @binding(13) var<storage, read_write> z: array<f32>;            // (B, M)
@group(0) @binding(14) var<storage, read> dz: array<f32>;                 // (B, M)
@group(0) @binding(15) var<storage, read_write> gate_dw: array<f32>;      // (K, M); of slices (S, K, M)
@group(0) @binding(16) var<storage, read_write> gate_dbias: array<f32>;   // (M); of slices (S, M)

// Whether column n of the product is one of the gates, or lies behind them.
fn is_gate(n: u32) -> bool {
    return n >= params.gates_from;
}

// Where the product's columns end.
fn columns_end() -> u32 {
    return params.gates_from + params.gate_outputs;
}

// Where columns n .. + 3 of the product are in a row that begins at `row`: inside of it, as all that is read.
fn gates_at(row: u32, n: u32) -> vec4<u32> {
    return row + min(four(n - params.gates_from), vec4(params.gate_outputs - 1u));
}

fn are_gates(n: u32) -> vec4<bool> {
    return four(n) < vec4(columns_end());
}

fn gate_w_four(k: u32, n: u32) -> vec4<f32> {
    let at = gates_at(min(k, params.inputs - 1u) * params.gate_outputs, n);
    let value = vec4(gate_w[at.x], gate_w[at.y], gate_w[at.z], gate_w[at.w]);
    return select(vec4(0.0), value, vec4(k < params.inputs) & are_gates(n));
}

fn gate_dz_four(b: u32, end: u32, n: u32) -> vec4<f32> {
    let at = gates_at(min(b, end - 1u) * params.gate_outputs, n);
    let value = vec4(dz[at.x], dz[at.y], dz[at.z], dz[at.w]);
    return select(vec4(0.0), value, vec4(b < end) & are_gates(n));
}

// The right part of x W.
fn read_gate_w(chunk: ptr<function, Chunk>, tile: Place, k: u32, t: u32) {
    (*chunk).right0 = gate_w_right(tile, k, t);
    if RIGHTS > 1u {
        (*chunk).right1 = gate_w_right(tile, k, t + SIZE);
    }
    if RIGHTS > 2u {
        (*chunk).right2 = gate_w_right(tile, k, t + 2u * SIZE);
        (*chunk).right3 = gate_w_right(tile, k, t + 3u * SIZE);
    }
}

fn gate_w_right(tile: Place, k: u32, i: u32) -> vec4<f32> {
    return gate_w_four(k + i / (WIDTH * COLUMNS), tile.column + across(i, WIDTH * COLUMNS));
}

// Both parts of d W' from column n on.
fn read_gate_dz_and_w(chunk: ptr<function, Chunk>, tile: Place, n: u32, t: u32) {
    if t < LEFT_BLOCKS {
        let first = tile.row + line(t);
        let at = n + along(t);
        (*chunk).left0 = gate_dz_four(first, tile.end, at);
        (*chunk).left1 = gate_dz_four(first + 1u, tile.end, at);
        (*chunk).left2 = gate_dz_four(first + 2u, tile.end, at);
        (*chunk).left3 = gate_dz_four(first + 3u, tile.end, at);
    }
    let i = right_block(t);
    if i < RIGHT_BLOCKS {
        let first = tile.column + line(i);
        let at = n + along(i);
        (*chunk).right0 = gate_w_four(first, at);
        (*chunk).right1 = gate_w_four(first + 1u, at);
        (*chunk).right2 = gate_w_four(first + 2u, at);
        (*chunk).right3 = gate_w_four(first + 3u, at);
    }
}

// The right part of x' d.
fn read_gate_dz(chunk: ptr<function, Chunk>, tile: Place, b: u32, t: u32) {
    (*chunk).right0 = gate_dz_right(tile, b, t);
    if RIGHTS > 1u {
        (*chunk).right1 = gate_dz_right(tile, b, t + SIZE);
    }
    if RIGHTS > 2u {
        (*chunk).right2 = gate_dz_right(tile, b, t + 2u * SIZE);
        (*chunk).right3 = gate_dz_right(tile, b, t + 3u * SIZE);
    }
}

fn gate_dz_right(tile: Place, b: u32, i: u32) -> vec4<f32> {
    return gate_dz_four(b + i / (WIDTH * COLUMNS), tile.end, tile.column + across(i, WIDTH * COLUMNS));
}

fn gate_biases(n: u32) -> vec4<f32> {
    let at = gates_at(0u, n);
    return vec4(gate_bias[at.x], gate_bias[at.y], gate_bias[at.z], gate_bias[at.w]);
}

// Writes columns n .. + 3 of z's row b, those that there are.
fn put_gate(b: u32, n: u32, value: vec4<f32>) {
    for (var j = 0u; j < 4u; j++) {
        if b < params.rows && n + j < columns_end() {
            z[b * params.gate_outputs + n + j - params.gates_from] = value[j];
        }
    }
}

// Columns n .. + 3 of row k of gate_dw's slice `out`.
fn gate_dw_four(out: u32, k: u32, n: u32) -> vec4<f32> {
    let at = gates_at((out * params.inputs + min(k, params.inputs - 1u)) * params.gate_outputs, n);
    return vec4(gate_dw[at.x], gate_dw[at.y], gate_dw[at.z], gate_dw[at.w]);
}

fn put_gate_dw(out: u32, k: u32, n: u32, value: vec4<f32>) {
    for (var j = 0u; j < 4u; j++) {
        if k < params.inputs && n + j < columns_end() {
            gate_dw[(out * params.inputs + k) * params.gate_outputs + n + j - params.gates_from] = value[j];
        }
    }
}

fn gate_dbias_four(out: u32, n: u32) -> vec4<f32> {
    let at = gates_at(out * params.gate_outputs, n);
    return vec4(gate_dbias[at.x], gate_dbias[at.y], gate_dbias[at.z], gate_dbias[at.w]);
}

fn put_gate_dbias(out: u32, n: u32, value: vec4<f32>) {
    for (var j = 0u; j < 4u; j++) {
        if n + j < columns_end() {
            gate_dbias[out * params.gate_outputs + n + j - params.gates_from] = value[j];
        }
    }
}
