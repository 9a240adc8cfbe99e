// linear by one: how linear.wgsl reads and writes four numbers, one after the other, whatever K and N are; a part of it in place of linear_by_four.wgsl. Of
// what is multiplied, what lies outside of a matrix counts as 0, but something inside is read, so that no read branches.

@group(0) @binding(1) var<storage, read> x: array<In>;             // (B, G, K)
@group(0) @binding(2) var<storage, read> w: array<f32>;            // (G, K, N)
@group(0) @binding(4) var<storage, read_write> y: array<Out>;      // (B, G, N)
@group(0) @binding(5) var<storage, read> y_read: array<Out>;       // (B, G, N): y, or slope of gelu and silu
@group(0) @binding(6) var<storage, read> dy: array<f32>;           // (B, G, N)
@group(0) @binding(7) var<storage, read_write> dinput: array<f32>;     // (B, G, K)
@group(0) @binding(8) var<storage, read_write> dw: array<f32>;     // (G, K, N); of slices (S, G, K, N)
@group(0) @binding(10) var<storage, read_write> slope: array<Out>; // (B, G, N)

// Where columns first .. + 3 of a row that begins at `row` are.
fn columns_at(row: u32, first: u32, columns: u32) -> vec4<u32> {
    return row + min(four(first), vec4(columns - 1u));
}

// Columns k .. + 3 of x's row b, of those before `end`.
fn x_four(g: u32, b: u32, end: u32, k: u32) -> vec4<f32> {
    let at = columns_at((min(b, end - 1u) * params.groups + g) * params.inputs, k, params.inputs);
    let value = vec4<f32>(vec4(x[at.x], x[at.y], x[at.z], x[at.w]));
    return select(vec4(0.0), value, vec4(b < end) & (four(k) < vec4(params.inputs)));
}

// Columns n .. + 3 of w's row k.
fn w_four(g: u32, k: u32, n: u32) -> vec4<f32> {
    let at = columns_at((g * params.inputs + min(k, params.inputs - 1u)) * params.outputs, n, params.outputs);
    let value = vec4(w[at.x], w[at.y], w[at.z], w[at.w]);
    return select(vec4(0.0), value, vec4(k < params.inputs) & (four(n) < vec4(params.outputs)));
}

// Columns n .. + 3 of the gradient before the activation, of row b of those before `end`.
fn d_four(g: u32, b: u32, end: u32, n: u32) -> vec4<f32> {
    let at = columns_at((min(b, end - 1u) * params.groups + g) * params.outputs, n, params.outputs);
    var d = vec4(dy[at.x], dy[at.y], dy[at.z], dy[at.w]);
    if params.activation != 0u {
        d = sloped(d, vec4<f32>(vec4(y_read[at.x], y_read[at.y], y_read[at.z], y_read[at.w])));
    }
    return select(vec4(0.0), d, vec4(b < end) & (four(n) < vec4(params.outputs)));
}

// Writes columns n .. + 3 of y's row b, those that there are.
fn put_y(g: u32, b: u32, n: u32, value: vec4<f32>) {
    for (var j = 0u; j < 4u; j++) {
        if b < params.rows && n + j < params.outputs {
            y[(b * params.groups + g) * params.outputs + n + j] = stored(value[j]);
        }
    }
}

fn put_slope(g: u32, b: u32, n: u32, value: vec4<f32>) {
    for (var j = 0u; j < 4u; j++) {
        if b < params.rows && n + j < params.outputs {
            slope[(b * params.groups + g) * params.outputs + n + j] = stored(value[j]);
        }
    }
}

// Writes columns k .. + 3 of dinput's row b, or adds to them.
fn put_dx(g: u32, b: u32, k: u32, value: vec4<f32>) {
    for (var j = 0u; j < 4u; j++) {
        if b < params.rows && k + j < params.inputs {
            let at = (b * params.groups + g) * params.inputs + k + j;
            var sum = value[j];
            if (params.flags & 2u) != 0u {
                sum += dinput[at];
            }
            dinput[at] = sum;
        }
    }
}

// Columns n .. + 3 of row k of dw's group (and slice) `out`.
fn dw_four(out: u32, k: u32, n: u32) -> vec4<f32> {
    var all = array<f32, 4>();
    for (var j = 0u; j < 4u; j++) {
        if k < params.inputs && n + j < params.outputs {
            all[j] = dw[(out * params.inputs + k) * params.outputs + n + j];
        }
    }
    return vec4(all[0], all[1], all[2], all[3]);
}

fn put_dw(out: u32, k: u32, n: u32, value: vec4<f32>) {
    for (var j = 0u; j < 4u; j++) {
        if k < params.inputs && n + j < params.outputs {
            dw[(out * params.inputs + k) * params.outputs + n + j] = value[j];
        }
    }
}
