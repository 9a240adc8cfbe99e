// linear by four: reads what linear.wgsl multiplies four numbers at a time, in one access, where K and N are multiples of four; a part of it in place of
// linear_by_one.wgsl. What lies outside of a matrix counts as 0, but something inside is read, so that nothing branches.

@group(0) @binding(1) var<storage, read> x: array<vec4<In>>;       // (B, G, K)
@group(0) @binding(2) var<storage, read> w: array<vec4<f32>>;      // (G, K, N)
@group(0) @binding(5) var<storage, read> y_read: array<vec4<Out>>; // (B, G, N): y, or slope of gelu and silu
@group(0) @binding(6) var<storage, read> dy: array<vec4<f32>>;     // (B, G, N)

// Columns k .. + 3 of x's row b, of those before `end`.
fn x_four(g: u32, b: u32, end: u32, k: u32) -> vec4<f32> {
    let at = ((min(b, end - 1u) * params.groups + g) * params.inputs + min(k, params.inputs - 4u)) / 4u;
    return select(vec4(0.0), vec4<f32>(x[at]), (b < end) & (k < params.inputs));
}

// Columns n .. + 3 of w's row k.
fn w_four(g: u32, k: u32, n: u32) -> vec4<f32> {
    let at = ((g * params.inputs + min(k, params.inputs - 1u)) * params.outputs + min(n, params.outputs - 4u)) / 4u;
    return select(vec4(0.0), w[at], (k < params.inputs) & (n < params.outputs));
}

// Columns n .. + 3 of the gradient before the activation, of row b of those before `end`.
fn d_four(g: u32, b: u32, end: u32, n: u32) -> vec4<f32> {
    let at = ((min(b, end - 1u) * params.groups + g) * params.outputs + min(n, params.outputs - 4u)) / 4u;
    var d = dy[at];
    if params.activation != 0u {
        d = sloped(d, vec4<f32>(y_read[at]));
    }
    return select(vec4(0.0), d, (b < end) & (n < params.outputs));
}
