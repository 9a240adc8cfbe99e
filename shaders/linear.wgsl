// Linear layers: y = activation(x W + bias) for G groups side by side, and its two gradients.
//
//   forward          y[b, g, n]  = act(z[b, g, n]),  z[b, g, n] = bias[g, n] + sum_k x[b, g, k] w[g, k, n]
//   forward_keeping  the same, and slope[b, g, n] = act'(z[b, g, n])
//   input_gradient   dx[b, g, k] (+)= sum_n d[b, g, n] w[g, k, n]          d = dy * act'(z)
//   weight_gradient  dw[g, k, n] (+)= sum_b x[b, g, k] d[b, g, n],  dbias[g, n] (+)= sum_b d[b, g, n]
//   merge            the same from sums over slices of the rows, which weight_gradient has left one after the other
//
// and the activation by itself, where something stands between it and the product; its slope is computed again, not kept:
//
//   activate           y[b, g, n] = act(x[b, g, n])
//   activate_backward  dx[b, g, n] (+)= dy[b, g, n] act'(x[b, g, n])
//
// Activation functions:
//   relu  max(z, 0), slope 1 where y > 0, else 0
//   tanh  slope 1 - y^2
//   gelu  z Phi(z), slope Phi(z) + z phi(z); Phi and phi of the standard normal distribution
//   silu  z s(z), slope s(z) (1 + z (1 - s(z))); s the logistic function
// y tells the slopes of the first two. Those of the last two are kept by forward_keeping and bound in y's place by the gradients.
//
// Activations are [B, columns] row-major with a group's columns together; x is stored as In, y and slope as Out.
// Workgroup: tiles of the result as in tile.wgsl, which is a part of this module. Dispatch: (tiles of columns, tiles of rows, groups; of
// weight_gradient times slices). Of the activation and of merge: an invocation an element, 256 a workgroup, workgroups folded into x and y.
// Deterministic: one owner an element, chunks and slices in order. The sums of weight_gradient and merge start from what they are added
// to, so blocks of rows one after the other give the bits of all rows at once, where there is one slice.

struct Params {
    rows: u32,       // B
    inputs: u32,     // K
    outputs: u32,    // N
    groups: u32,     // G
    activation: u32, // 0 identity, 1 relu, 2 tanh, 3 gelu, 4 silu
    flags: u32,      // 1: there is a bias; 2: add to what dx or dw and dbias hold
    slice: u32,      // rows of a slice
    slices: u32,     // S; above 1: the sums of weight_gradient are [S] of dw and dbias
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<In>;             // (B, G, K)
@group(0) @binding(2) var<storage, read> w: array<f32>;            // (G, K, N)
@group(0) @binding(3) var<storage, read> bias: array<f32>;         // (G, N)
@group(0) @binding(4) var<storage, read_write> y: array<Out>;      // (B, G, N)
@group(0) @binding(5) var<storage, read> y_read: array<Out>;       // (B, G, N): y, or slope of gelu and silu
@group(0) @binding(6) var<storage, read> dy: array<f32>;           // (B, G, N)
@group(0) @binding(7) var<storage, read_write> dx: array<f32>;     // (B, G, K)
@group(0) @binding(8) var<storage, read_write> dw: array<f32>;     // (G, K, N)
@group(0) @binding(9) var<storage, read_write> dbias: array<f32>;  // (G, N)
@group(0) @binding(10) var<storage, read_write> slope: array<Out>; // (B, G, N)
@group(0) @binding(11) var<storage, read> dw_parts: array<f32>;    // (S, G, K, N)
@group(0) @binding(12) var<storage, read> dbias_parts: array<f32>; // (S, G, N)

fn x_at(b: u32, g: u32, k: u32) -> f32 {
    if b < params.rows && k < params.inputs {
        return f32(x[(b * params.groups + g) * params.inputs + k]);
    }
    return 0.0;
}

fn w_at(g: u32, k: u32, n: u32) -> f32 {
    if k < params.inputs && n < params.outputs {
        return w[(g * params.inputs + k) * params.outputs + n];
    }
    return 0.0;
}

// The normal distribution from its upper tail, whose relative error is below 1.2e-7 for x >= 0: half of the complementary error
// function at x / sqrt(2) (Press et al., Numerical Recipes, 6.2).
fn normal_tail(x: vec4<f32>) -> vec4<f32> {
    let a = x * 0.70710678;
    let t = 1.0 / (1.0 + 0.5 * a);
    let p = -1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806 + t * (0.27886807
        + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277))))))));
    return 0.5 * t * exp(max(p - a * a, vec4(-87.0)));
}

// tanh by its series near 0, where the quotient would lose digits; elsewhere no exponential grows.
fn tanh_of(z: vec4<f32>) -> vec4<f32> {
    let s = z * z;
    let series = z * (1.0 + s * (-0.33333333 + s * (0.13333333 + s * -0.053968254)));
    let e = exp(max(-2.0 * abs(z), vec4(-87.0)));
    return select(sign(z) * (1.0 - e) / (1.0 + e), series, abs(z) < vec4(0.2));
}

struct Activated {
    y: vec4<f32>,
    slope: vec4<f32>,
}

// act(z) and act'(z). Of NaN act is NaN, so that the loss shows it: by bits, since max, comparisons and a driver's fast arithmetic lose it.
fn activated(z: vec4<f32>) -> Activated {
    let a = of_number(z);
    let is_nan = (bitcast<vec4<u32>>(z) & vec4(0x7fffffffu)) > vec4(0x7f800000u);
    return Activated(select(a.y, z, is_nan), a.slope);
}

// act(z) and act'(z) where z is no NaN.
fn of_number(z: vec4<f32>) -> Activated {
    let zero = vec4(0.0);
    let one = vec4(1.0);
    switch params.activation {
        case 1u: {
            return Activated(max(z, zero), select(zero, one, z > zero));
        }
        case 2u: {
            let y = tanh_of(z);
            return Activated(y, 1.0 - y * y);
        }
        case 3u: {
            let tail = normal_tail(abs(z));
            let below = select(tail, 1.0 - tail, z > zero);
            return Activated(z * below, below + z * (0.39894228 * exp(max(-0.5 * z * z, vec4(-87.0)))));
        }
        case 4u: {
            let e = exp(max(-abs(z), vec4(-87.0)));
            let s = select(e, one, z > zero) / (1.0 + e);
            let rest = select(one, e, z > zero) / (1.0 + e);
            return Activated(z * s, s * (1.0 + z * rest));
        }
        default: {
            return Activated(z, one);
        }
    }
}

// The gradient before the activation.
fn d_at(b: u32, g: u32, n: u32) -> f32 {
    if b < params.rows && n < params.outputs {
        let i = (b * params.groups + g) * params.outputs + n;
        if params.activation == 0u {
            return dy[i];
        }
        let kept = f32(y_read[i]);
        let slope = select(kept, select(0.0, 1.0, kept > 0.0), params.activation == 1u);
        return dy[i] * select(slope, 1.0 - kept * kept, params.activation == 2u);
    }
    return 0.0;
}

// Sums of the tile whose first row and column these are.
fn product(g: u32, row: u32, column: u32, local: vec2<u32>, sums: ptr<function, Sums>) {
    let t = local.y * WIDTH + local.x;
    for (var k = 0u; k < params.inputs; k += DEPTH) {
        for (var i = t; i < DEPTH * HEIGHT * ROWS; i += WIDTH * HEIGHT) {
            let r = row + i / DEPTH * 4u;
            let at = k + i % DEPTH;
            left[i % DEPTH * HEIGHT * ROWS + i / DEPTH] =
                vec4(x_at(r, g, at), x_at(r + 1u, g, at), x_at(r + 2u, g, at), x_at(r + 3u, g, at));
        }
        for (var i = t; i < DEPTH * WIDTH * COLUMNS; i += WIDTH * HEIGHT) {
            let c = column + i % (WIDTH * COLUMNS) * 4u;
            let at = k + i / (WIDTH * COLUMNS);
            right[i] = vec4(w_at(g, at, c), w_at(g, at, c + 1u), w_at(g, at, c + 2u), w_at(g, at, c + 3u));
        }
        workgroupBarrier();
        multiply(local, sums);
        workgroupBarrier();
    }
}

// The biases of four columns.
fn biases(g: u32, n: u32) -> vec4<f32> {
    var all = vec4<f32>();
    for (var j = 0u; j < 4u; j++) {
        if (params.flags & 1u) != 0u && n + j < params.outputs {
            all[j] = bias[g * params.outputs + n + j];
        }
    }
    return all;
}

@compute @workgroup_size(WIDTH, HEIGHT)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) id: vec3<u32>) {
    let g = group.z;
    var sums = Sums();
    product(g, tile_row(group.y), tile_column(group.x), id.xy, &sums);
    for (var c = 0u; c < COLUMNS; c++) {
        let n = column_of(tile_column(group.x), id.xy, c);
        let added = biases(g, n);
        for (var r = 0u; r < ROWS; r++) {
            for (var i = 0u; i < 4u; i++) {
                let b = row_of(tile_row(group.y), id.xy, r) + i;
                let value = activated(sums[(r * 4u + i) * COLUMNS + c] + added);
                for (var j = 0u; j < 4u; j++) {
                    if b < params.rows && n + j < params.outputs {
                        y[(b * params.groups + g) * params.outputs + n + j] = stored(value.y[j]);
                    }
                }
            }
        }
    }
}

@compute @workgroup_size(WIDTH, HEIGHT)
fn forward_keeping(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) id: vec3<u32>) {
    let g = group.z;
    var sums = Sums();
    product(g, tile_row(group.y), tile_column(group.x), id.xy, &sums);
    for (var c = 0u; c < COLUMNS; c++) {
        let n = column_of(tile_column(group.x), id.xy, c);
        let added = biases(g, n);
        for (var r = 0u; r < ROWS; r++) {
            for (var i = 0u; i < 4u; i++) {
                let b = row_of(tile_row(group.y), id.xy, r) + i;
                let value = activated(sums[(r * 4u + i) * COLUMNS + c] + added);
                for (var j = 0u; j < 4u; j++) {
                    if b < params.rows && n + j < params.outputs {
                        let at = (b * params.groups + g) * params.outputs + n + j;
                        y[at] = stored(value.y[j]);
                        slope[at] = stored(value.slope[j]);
                    }
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
    var sums = Sums();
    for (var n = 0u; n < params.outputs; n += DEPTH) {
        for (var i = t; i < DEPTH * HEIGHT * ROWS; i += WIDTH * HEIGHT) {
            let r = row + i / DEPTH * 4u;
            let at = n + i % DEPTH;
            left[i % DEPTH * HEIGHT * ROWS + i / DEPTH] =
                vec4(d_at(r, g, at), d_at(r + 1u, g, at), d_at(r + 2u, g, at), d_at(r + 3u, g, at));
        }
        for (var i = t; i < DEPTH * WIDTH * COLUMNS; i += WIDTH * HEIGHT) {
            let c = column + i / DEPTH * 4u;
            let at = n + i % DEPTH;
            right[i % DEPTH * WIDTH * COLUMNS + i / DEPTH] =
                vec4(w_at(g, c, at), w_at(g, c + 1u, at), w_at(g, c + 2u, at), w_at(g, c + 3u, at));
        }
        workgroupBarrier();
        multiply(id.xy, &sums);
        workgroupBarrier();
    }
    for (var r = 0u; r < ROWS; r++) {
        for (var c = 0u; c < COLUMNS; c++) {
            let k = column_of(column, id.xy, c);
            for (var i = 0u; i < 4u; i++) {
                let b = row_of(row, id.xy, r) + i;
                let sum = sums[(r * 4u + i) * COLUMNS + c];
                for (var j = 0u; j < 4u; j++) {
                    if b < params.rows && k + j < params.inputs {
                        let at = (b * params.groups + g) * params.inputs + k + j;
                        var value = sum[j];
                        if (params.flags & 2u) != 0u {
                            value += dx[at];
                        }
                        dx[at] = value;
                    }
                }
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
    let sums_bias = group.y == 0u && id.y == 0u;
    var sums = Sums();
    var bias_sums = array<vec4<f32>, 2>();
    if (params.flags & 2u) != 0u {
        for (var c = 0u; c < COLUMNS; c++) {
            let n = column_of(column, id.xy, c);
            for (var j = 0u; j < 4u; j++) {
                if n + j >= params.outputs {
                    continue;
                }
                for (var r = 0u; r < ROWS; r++) {
                    for (var i = 0u; i < 4u; i++) {
                        let k = row_of(row, id.xy, r) + i;
                        if k < params.inputs {
                            sums[(r * 4u + i) * COLUMNS + c][j] = dw[(out * params.inputs + k) * params.outputs + n + j];
                        }
                    }
                }
                bias_sums[c][j] = dbias[out * params.outputs + n + j];
            }
        }
    }
    for (var b = first; b < end; b += DEPTH) {
        for (var i = t; i < DEPTH * HEIGHT * ROWS; i += WIDTH * HEIGHT) {
            let r = row + i % (HEIGHT * ROWS) * 4u;
            let at = b + i / (HEIGHT * ROWS);
            var value = vec4<f32>();
            if at < end {
                value = vec4(x_at(at, g, r), x_at(at, g, r + 1u), x_at(at, g, r + 2u), x_at(at, g, r + 3u));
            }
            left[i] = value;
        }
        for (var i = t; i < DEPTH * WIDTH * COLUMNS; i += WIDTH * HEIGHT) {
            let c = column + i % (WIDTH * COLUMNS) * 4u;
            let at = b + i / (WIDTH * COLUMNS);
            var value = vec4<f32>();
            if at < end {
                value = vec4(d_at(at, g, c), d_at(at, g, c + 1u), d_at(at, g, c + 2u), d_at(at, g, c + 3u));
            }
            right[i] = value;
        }
        workgroupBarrier();
        multiply(id.xy, &sums);
        if sums_bias {
            for (var k = 0u; k < DEPTH; k++) {
                for (var c = 0u; c < COLUMNS; c++) {
                    bias_sums[c] += right[(k * COLUMNS + c) * WIDTH + id.x];
                }
            }
        }
        workgroupBarrier();
    }
    for (var c = 0u; c < COLUMNS; c++) {
        let n = column_of(column, id.xy, c);
        for (var j = 0u; j < 4u; j++) {
            if n + j >= params.outputs {
                continue;
            }
            for (var r = 0u; r < ROWS; r++) {
                for (var i = 0u; i < 4u; i++) {
                    let k = row_of(row, id.xy, r) + i;
                    if k < params.inputs {
                        dw[(out * params.inputs + k) * params.outputs + n + j] = sums[(r * 4u + i) * COLUMNS + c][j];
                    }
                }
            }
            if sums_bias {
                dbias[out * params.outputs + n + j] = bias_sums[c][j];
            }
        }
    }
}

@compute @workgroup_size(256)
fn merge(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = element(group, groups, t);
    let weights = params.groups * params.inputs * params.outputs;
    let biases = params.groups * params.outputs;
    let adds = (params.flags & 2u) != 0u;
    if i < weights {
        var sum = select(0.0, dw[i], adds);
        for (var s = 0u; s < params.slices; s++) {
            sum += dw_parts[s * weights + i];
        }
        dw[i] = sum;
    } else if i - weights < biases {
        let n = i - weights;
        var sum = select(0.0, dbias[n], adds);
        for (var s = 0u; s < params.slices; s++) {
            sum += dbias_parts[s * biases + n];
        }
        dbias[n] = sum;
    }
}

// The number of this invocation's element, of the activation by itself and of merge.
fn element(group: vec3<u32>, groups: vec3<u32>, t: u32) -> u32 {
    return (group.y * groups.x + group.x) * 256u + t;
}

// Elements of the activation by itself.
fn elements() -> u32 {
    return params.rows * params.groups * params.outputs;
}

@compute @workgroup_size(256)
fn activate(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = element(group, groups, t);
    if i < elements() {
        y[i] = stored(activated(vec4(f32(x[i]))).y.x);
    }
}

@compute @workgroup_size(256)
fn activate_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = element(group, groups, t);
    if i >= elements() {
        return;
    }
    var gradient = dy[i] * activated(vec4(f32(x[i]))).slope.x;
    if (params.flags & 2u) != 0u {
        gradient += dx[i];
    }
    dx[i] = gradient;
}
