// activated: a layer's Params, activation functions and their slopes; a part of linear.wgsl, linear_merge.wgsl and activation.wgsl.
//
//   relu  max(z, 0), slope 1 where y > 0, else 0
//   tanh  slope 1 - y^2
//   gelu  z Phi(z), slope Phi(z) + z phi(z); Phi and phi of the standard normal distribution
//   silu  z s(z), slope s(z) (1 + z (1 - s(z))); s the logistic function

struct Params {
    rows: u32,         // B
    inputs: u32,       // K
    outputs: u32,      // N
    groups: u32,       // G
    activation: u32,   // 0 identity, 1 relu, 2 tanh, 3 gelu, 4 silu
    flags: u32,        // 1: there is a bias; 2: add to what dinput or dw and dbias hold
    slice: u32,        // rows of a slice
    slices: u32,       // S; above 1: the sums of weight_gradient are [S] of dw and dbias
    gate_outputs: u32, // M, columns of gates beside the layer; 0 where there are none
    gates_from: u32,   // the product's column at which they begin
    pad0: u32,
    pad1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

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
