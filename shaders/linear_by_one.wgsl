// linear by one: reads what linear.wgsl multiplies four numbers at a time, whatever K and N are; a part of it in place of linear_by_four.wgsl. What
// lies outside of a matrix counts as 0, but something inside is read, so that nothing branches.

@group(0) @binding(1) var<storage, read> x: array<In>;       // (B, G, K)
@group(0) @binding(2) var<storage, read> w: array<f32>;      // (G, K, N)
@group(0) @binding(5) var<storage, read> y_read: array<Out>; // (B, G, N): y, or slope of gelu and silu
@group(0) @binding(6) var<storage, read> dy: array<f32>;     // (B, G, N)

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
