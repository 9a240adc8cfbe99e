// linear by four: how linear.wgsl reads and writes, four numbers in one access, where K and N are multiples of four; a part of it in place of
// linear_by_one.wgsl. Of what is multiplied, what lies outside of a matrix counts as 0, but something inside is read, so that no read branches.

@group(0) @binding(1) var<storage, read> x: array<vec4<In>>;             // (B, G, K)
@group(0) @binding(2) var<storage, read> w: array<vec4<f32>>;            // (G, K, N)
@group(0) @binding(4) var<storage, read_write> y: array<vec4<Out>>;      // (B, G, N)
@group(0) @binding(5) var<storage, read> y_read: array<vec4<Out>>;       // (B, G, N): y, or slope of gelu and silu
@group(0) @binding(6) var<storage, read> dy: array<vec4<f32>>;           // (B, G, N)
@group(0) @binding(7) var<storage, read_write> dinput: array<vec4<f32>>;     // (B, G, K)
@group(0) @binding(8) var<storage, read_write> dw: array<vec4<f32>>;     // (G, K, N); of slices (S, G, K, N)
@group(0) @binding(10) var<storage, read_write> slope: array<vec4<Out>>; // (B, G, N)

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

// Writes columns n .. + 3 of y's row b, if there are such.
fn put_y(g: u32, b: u32, n: u32, value: vec4<f32>) {
    if b < params.rows && n < params.outputs {
        y[((b * params.groups + g) * params.outputs + n) / 4u] = stored_four(value);
    }
}

fn put_slope(g: u32, b: u32, n: u32, value: vec4<f32>) {
    if b < params.rows && n < params.outputs {
        slope[((b * params.groups + g) * params.outputs + n) / 4u] = stored_four(value);
    }
}

fn stored_four(v: vec4<f32>) -> vec4<Out> {
    return vec4(stored(v.x), stored(v.y), stored(v.z), stored(v.w));
}

// Writes columns k .. + 3 of dinput's row b, or adds to them.
fn put_dx(g: u32, b: u32, k: u32, value: vec4<f32>) {
    if b < params.rows && k < params.inputs {
        let at = ((b * params.groups + g) * params.inputs + k) / 4u;
        var sum = value;
        if (params.flags & 2u) != 0u {
            sum += dinput[at];
        }
        dinput[at] = sum;
    }
}

// Columns n .. + 3 of row k of dw's group (and slice) `out`.
fn dw_four(out: u32, k: u32, n: u32) -> vec4<f32> {
    var value = vec4<f32>();
    if k < params.inputs && n < params.outputs {
        value = dw[((out * params.inputs + k) * params.outputs + n) / 4u];
    }
    return value;
}

fn put_dw(out: u32, k: u32, n: u32, value: vec4<f32>) {
    if k < params.inputs && n < params.outputs {
        dw[((out * params.inputs + k) * params.outputs + n) / 4u] = value;
    }
}
