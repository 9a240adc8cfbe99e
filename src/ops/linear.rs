//! Linear layers with bias and activation, for groups side by side: experts, towers, heads.

use super::check::{Case, Setup, normals};
use super::memory::with_floats;
use super::product::{Matrix, Threads, product};
use super::tile::{Chosen, MATRICES, Product, SLICES, Shape, TILES, Tile, Tiles};
use super::{Access, Args, Cost, Dispatch, Kernel, Shader, Shaders, Variant, add_parts, cost, fold, params, shader, unit};
use crate::config::Activation;
use crate::graph::{Arg, Block, Format, Graph, TensorId};
use bytemuck::Zeroable;
use rayon::prelude::*;

/// Shape of a linear layer.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// Rows of the minibatch, B.
    pub rows: usize,
    /// Groups, G.
    pub groups: usize,
    /// Inputs of a group, K.
    pub inputs: usize,
    /// Outputs of a group, N.
    pub outputs: usize,
    /// The activation after the bias.
    pub activation: Activation,
    /// Whether a gradient is passed to the input.
    pub input_gradient: bool,
}

/// Gates: a layer of logits, [B, M], of the same input as another layer's of one group.
#[derive(Debug, Clone, Copy)]
pub struct GateLayer {
    /// Weights, [K, M].
    pub w: TensorId,
    /// Biases, `[M]`.
    pub bias: TensorId,
    /// Columns of all gates, M.
    pub outputs: usize,
}

params! {
    pub(super) struct Params {
        rows: u32,
        inputs: u32,
        outputs: u32,
        groups: u32,
        activation: u32,
        flags: u32,
        slice: u32,
        slices: u32,
        gate_outputs: u32,
        gates_from: u32,
        pad0: u32,
        pad1: u32,
    }
}

const RELU: u32 = 1;
const TANH: u32 = 2;
const GELU: u32 = 3;
const SILU: u32 = 4;

const BIAS: u32 = 1;
pub(super) const ACCUMULATE: u32 = 2;
/// Rows or columns that one task of a twin handles where it goes through them number by number.
const BLOCK: usize = 64;

/// Numbers of the gradient before the activation that a weight gradient makes and uses before the next, so that they are in the processor's caches still.
const TOGETHER: usize = 1 << 18;

/// Rows that one task of a twin takes through a whole layer: few enough that what it makes of them is in a core's cache from one pass to the next and that there are
/// tasks for 8 to 16 threads in small minibatches; many enough that the weights are worth packing. Not by the number of threads, since the shape of a
/// product decides in which order it is summed.
fn rows_a_task(rows: usize) -> usize {
    rows.div_ceil(16).clamp(32, 128)
}

/// The shaders of a layer's products, alone or with gates.
macro_rules! shaders {
    ($gates:literal) => {
        [
            &[
                shader!(stored "tile", "sums", "multiply", "chunk", "activated", "linear_by_one", $gates, "linear"),
                shader!(stored "tile", "sums", "multiply_subgroup", "chunk", "activated", "linear_by_one", $gates, "linear"),
                shader!(matrices "tile", "matrices_of_8", "multiply_matrices", "chunk", "activated", "linear_by_one", $gates, "linear"),
                shader!(matrices "tile", "matrices_of_16", "multiply_matrices", "chunk", "activated", "linear_by_one", $gates, "linear"),
            ],
            &[
                shader!(stored "tile", "sums", "multiply", "chunk", "activated", "linear_by_four", $gates, "linear"),
                shader!(stored "tile", "sums", "multiply_subgroup", "chunk", "activated", "linear_by_four", $gates, "linear"),
                shader!(matrices "tile", "matrices_of_8", "multiply_matrices", "chunk", "activated", "linear_by_four", $gates, "linear"),
                shader!(matrices "tile", "matrices_of_16", "multiply_matrices", "chunk", "activated", "linear_by_four", $gates, "linear"),
            ],
        ]
    };
}

/// The kernels of a layer.
struct Kernels {
    shaders: Shaders,
    forward: Kernel,
    keeping: Kernel,
    input_gradient: Kernel,
    weight_gradient: Kernel,
}

const SHADERS: [Shaders; 2] = [shaders!("linear_alone"), shaders!("linear_with_gates")];
static ALONE: Kernels = Kernels {
    shaders: SHADERS[0],
    forward: Params::kernel(
        "linear",
        SHADERS[0][0][0],
        "forward",
        &[(1, Access::Read), (2, Access::Read), (3, Access::Read), (4, Access::Write)],
    )
    .stored(&[1], &[4]),
    keeping: Params::kernel(
        "linear_keeping",
        SHADERS[0][0][0],
        "forward_keeping",
        &[(1, Access::Read), (2, Access::Read), (3, Access::Read), (4, Access::Write), (10, Access::Write)],
    )
    .stored(&[1], &[4, 10]),
    input_gradient: Params::kernel(
        "linear_input_gradient",
        SHADERS[0][0][0],
        "input_gradient",
        &[(6, Access::Read), (5, Access::Read), (2, Access::Read), (7, Access::Update)],
    )
    .stored(&[], &[5]),
    weight_gradient: Params::kernel(
        "linear_weight_gradient",
        SHADERS[0][0][0],
        "weight_gradient",
        &[(1, Access::Read), (6, Access::Read), (5, Access::Read), (8, Access::Update), (9, Access::Update)],
    )
    .stored(&[1], &[5]),
};
/// What is bound for the gates comes behind the layer's own.
static WITH_GATES: Kernels = Kernels {
    shaders: SHADERS[1],
    forward: Params::kernel(
        "linear_with_gates",
        SHADERS[1][0][0],
        "forward",
        &[
            (1, Access::Read),
            (2, Access::Read),
            (3, Access::Read),
            (4, Access::Write),
            (11, Access::Read),
            (12, Access::Read),
            (13, Access::Write),
        ],
    )
    .stored(&[1], &[4]),
    keeping: Params::kernel(
        "linear_keeping_with_gates",
        SHADERS[1][0][0],
        "forward_keeping",
        &[
            (1, Access::Read),
            (2, Access::Read),
            (3, Access::Read),
            (4, Access::Write),
            (10, Access::Write),
            (11, Access::Read),
            (12, Access::Read),
            (13, Access::Write),
        ],
    )
    .stored(&[1], &[4, 10]),
    input_gradient: Params::kernel(
        "linear_input_gradient_with_gates",
        SHADERS[1][0][0],
        "input_gradient",
        &[(6, Access::Read), (5, Access::Read), (2, Access::Read), (7, Access::Update), (14, Access::Read), (11, Access::Read)],
    )
    .stored(&[], &[5]),
    weight_gradient: Params::kernel(
        "linear_weight_gradient_with_gates",
        SHADERS[1][0][0],
        "weight_gradient",
        &[
            (1, Access::Read),
            (6, Access::Read),
            (5, Access::Read),
            (8, Access::Update),
            (9, Access::Update),
            (14, Access::Read),
            (15, Access::Update),
            (16, Access::Update),
        ],
    )
    .stored(&[1], &[5]),
};
const ACTIVATION: Shader = shader!(stored "activated", "activation");
pub(super) static ACTIVATE: Kernel =
    Params::kernel("activation", ACTIVATION, "activate", &[(1, Access::Read), (4, Access::Write)]).stored(&[1], &[4]);
pub(super) static ACTIVATE_BACKWARD: Kernel = Params::kernel(
    "activation_backward",
    ACTIVATION,
    "activate_backward",
    &[(1, Access::Read), (6, Access::Read), (7, Access::Update)],
)
.stored(&[1], &[]);
static MERGE: Kernel = Params::kernel(
    "linear_merge",
    shader!("activated", "linear_merge"),
    "merge",
    &[(1, Access::Read), (2, Access::Read), (3, Access::Update), (4, Access::Update)],
);

/// How what a product reads and writes is stored.
#[derive(Clone, Copy)]
struct Formats {
    /// What is as large as x.
    x: Format,
    /// y or its gradient.
    y: Format,
    /// What tells the activation's slope, where it is neither of them.
    slope: Option<Format>,
}

/// A product of a layer, by tiles; of a minibatch of `rows`, of which it may see a block.
fn tiled(
    kernels: &'static Kernels,
    product: Product,
    params: Params,
    formats: Formats,
    tile: Tile,
    rows: usize,
) -> Variant<Params> {
    let (kernel, twin): (_, Twin) = match product {
        Product::InputGradient => (&kernels.input_gradient, input_gradient),
        Product::WeightGradient => (&kernels.weight_gradient, weight_gradient),
        _ if formats.slope.is_some() => (&kernels.keeping, forward),
        _ => (&kernels.forward, forward),
    };
    let gates = params.gate_outputs as usize;
    let shape = params.shape(product);
    let [result, size] = [shape.result(), tile.size()];
    let [down, mut across] = tile.workgroups(result[0], result[1]);
    // Gates begin where a tile of columns does, or a chunk of the summed ones.
    let step = match product {
        Product::InputGradient => tile.depth as usize,
        _ => {
            across += gates.div_ceil(size[1]);
            size[1]
        }
    };
    let params = Params { gates_from: shape.outputs.next_multiple_of(step) as u32, ..params };
    let workgroups = [across as u32, down as u32, params.groups * params.slices];
    let mut cost = params.cost(formats);
    if params.flags & ACCUMULATE != 0 {
        // What the result is added to: a gradient.
        let of_gates = if product == Product::WeightGradient { gates } else { 0 };
        cost.bytes += (size_of::<f32>() * params.groups as usize * result[0] * (result[1] + of_gates)) as f64;
    }
    let unit = unit(&[shape.inputs, shape.outputs]);
    let mut variant = Variant::tiled(Dispatch { kernel, params, workgroups, cost, twin }, tile, unit, &kernels.shaders);
    if tile.by.side().is_some() {
        // What a gradient is multiplied by before it is rounded to 16 bits: what the loss was divided by, up to a power of two.
        let scale = rows.next_power_of_two() as f64;
        match product {
            Product::InputGradient => variant.overrides.push(("LEFT_SCALE", scale)),
            Product::WeightGradient => variant.overrides.push(("RIGHT_SCALE", scale)),
            _ => {}
        }
    }
    variant
}

type Twin = fn(&Params, &mut Args);

/// y = activation(x W + bias): x [B, G * K], w [G, K, N], bias [G * N], y [B, G * N]. Layers that read one input are one
/// layer of one group with their outputs side by side.
pub fn linear(g: &mut Graph, x: TensorId, w: TensorId, bias: Option<TensorId>, shape: Linear) -> TensorId {
    put(g, x, w, bias, shape, None)
}

/// As [`linear`], of one group, with gates that read the same input: one product, whose further columns are the gates'. y and the gates' logits,
/// of which both must be passed a gradient or neither.
pub fn linear_with_gates(
    g: &mut Graph,
    x: TensorId,
    w: TensorId,
    bias: Option<TensorId>,
    shape: Linear,
    gates: GateLayer,
) -> (TensorId, TensorId) {
    assert_eq!(shape.groups, 1, "groups beside gates");
    let z = g.transient("gate logits", shape.rows * gates.outputs);
    (put(g, x, w, bias, shape, Some((gates, z))), z)
}

/// The layer, and where there are gates, these with the tensor of their logits.
fn put(
    g: &mut Graph,
    x: TensorId,
    w: TensorId,
    bias: Option<TensorId>,
    shape: Linear,
    gates: Option<(GateLayer, TensorId)>,
) -> TensorId {
    let Linear { rows, groups, inputs, outputs, .. } = shape;
    let kernels = if gates.is_some() { &WITH_GATES } else { &ALONE };
    let gate_outputs = gates.map_or(0, |(gates, _)| gates.outputs);
    // What no activation follows are logits, or goes into something that wants to know it better.
    let output = if shape.activation == Activation::Identity { Format::F32 } else { g.storage() };
    let y = g.transient_as("y", rows * groups * outputs, output);
    let input = g.get(x).format;
    let params = Params {
        rows: rows as u32,
        inputs: inputs as u32,
        outputs: outputs as u32,
        groups: groups as u32,
        activation: number(shape.activation),
        flags: if bias.is_some() { BIAS } else { 0 },
        slice: rows as u32,
        slices: 1,
        gate_outputs: gate_outputs as u32,
        ..Params::zeroed()
    };
    let of = move |block: Block, params: Params| Params { rows: block.rows as u32, slice: block.rows as u32, ..params };
    let chosen = move |g: &Graph, product| g.limits().tiles.choose(params.shape(product));
    // Without a bias, something must be bound in its place; it is not read.
    let mut args = vec![Arg::Rows(x), Arg::Whole(w), Arg::Whole(bias.unwrap_or(w)), Arg::Rows(y)];
    // What tells the activation's slope to the backward pass: y, or where y does not, the slope itself. It is kept in the place of
    // what stood before the activation, which takes as much memory and would have it computed again by every tile.
    let known_by_y = matches!(shape.activation, Activation::Identity | Activation::Relu | Activation::Tanh);
    let mut slope = y;
    let mut forward_formats = Formats { x: input, y: output, slope: None };
    if !known_by_y && g.may_go_backward() {
        slope = g.transient_as("slope", rows * groups * outputs, output);
        args.push(Arg::Rows(slope));
        forward_formats.slope = Some(output);
    }
    args.extend(gates.iter().flat_map(|&(gates, z)| [Arg::Whole(gates.w), Arg::Whole(gates.bias), Arg::Rows(z)]));
    let tile = chosen(g, Product::Forward).tile;
    g.push_rows(rows, &args, |block| tiled(kernels, Product::Forward, of(block, params), forward_formats, tile, rows));
    g.on_backward(move |g| {
        let (dy, dz) = (g.gradient(y), gates.and_then(|(_, z)| g.gradient(z)));
        assert_eq!(dz.is_some(), gates.is_some() && dy.is_some(), "a gradient of gates, and of the layer beside them");
        let Some(dy) = dy else { return };
        let (dw, accumulate) = g.gradient_target(w);
        // One flag says of all parameters whether they are added to.
        let target = |g: &mut Graph, parameter| {
            let (target, adds) = g.gradient_target(parameter);
            assert_eq!(adds, accumulate, "a layer's weights, biases and gates are applied equally often");
            target
        };
        let dbias = match bias {
            Some(bias) => target(g, bias),
            None => g.transient("unused", groups * outputs),
        };
        let of_gates = gates.zip(dz).map(|((gates, _), dz)| (gates, dz, [gates.w, gates.bias].map(|p| target(g, p))));
        let slope_format = (shape.activation != Activation::Identity).then_some(output);
        let formats = Formats { x: input, y: Format::F32, slope: slope_format };
        let choice = chosen(g, Product::WeightGradient);
        let (slice, slices) = choice.slices(rows);
        // Blocks of rows are slices already, one after the other.
        let largest = [
            rows * groups * inputs,
            rows * groups * outputs,
            rows * gate_outputs,
            slices * groups * inputs * outputs,
            slices * inputs * gate_outputs,
        ];
        let fits = largest.iter().all(|&len| !g.exceeds_binding(len));
        if slices > 1 && fits {
            let params = Params { slice: slice as u32, slices: slices as u32, ..params };
            let mut merges = Vec::new();
            let mut parts = |g: &mut Graph, [dw, dbias]: [TensorId; 2], params: Params| {
                let (weights, biases) = params.parameters();
                let parts =
                    [g.transient("weight gradients of slices", slices * weights), g.transient("of biases", slices * biases)];
                merges.push((params.adding(accumulate), [parts[0], parts[1], dw, dbias]));
                parts
            };
            let mut args = vec![x, dy, slope];
            args.extend(parts(g, [dw, dbias], Params { gate_outputs: 0, ..params }));
            if let Some((_, dz, gradients)) = of_gates {
                args.push(dz);
                args.extend(parts(g, gradients, params.of_gates()));
            }
            g.push(tiled(kernels, Product::WeightGradient, params, formats, choice.tile, rows), &args);
            for (params, args) in merges {
                let (weights, biases) = params.parameters();
                let elements = weights + biases;
                let words = (slices + 1 + usize::from(accumulate)) * elements;
                let (workgroups, cost) = (fold(elements.div_ceil(256)), cost(words, slices * elements));
                g.push(Dispatch { kernel: &MERGE, params, workgroups, cost, twin: merge }, &args);
            }
        } else {
            let mut args = vec![Arg::Rows(x), Arg::Rows(dy), Arg::Rows(slope), Arg::Whole(dw), Arg::Whole(dbias)];
            if let Some((_, dz, [dw, dbias])) = of_gates {
                args.extend([Arg::Rows(dz), Arg::Whole(dw), Arg::Whole(dbias)]);
            }
            g.push_rows(rows, &args, |block| {
                let params = of(block, params.adding(accumulate || block.first > 0));
                tiled(kernels, Product::WeightGradient, params, formats, choice.tile, rows)
            });
        }
        if shape.input_gradient {
            let (dx, accumulate) = g.gradient_target(x);
            let mut args = vec![Arg::Rows(dy), Arg::Rows(slope), Arg::Whole(w), Arg::Rows(dx)];
            args.extend(of_gates.iter().flat_map(|&(gates, dz, _)| [Arg::Rows(dz), Arg::Whole(gates.w)]));
            let params = params.adding(accumulate);
            let tile = chosen(g, Product::InputGradient).tile;
            let formats = Formats { x: Format::F32, ..formats };
            g.push_rows(rows, &args, |block| tiled(kernels, Product::InputGradient, of(block, params), formats, tile, rows));
        }
    });
    y
}

/// The number of an activation in `Params`.
pub(super) fn number(activation: Activation) -> u32 {
    match activation {
        Activation::Identity => 0,
        Activation::Relu => RELU,
        Activation::Tanh => TANH,
        Activation::Gelu => GELU,
        Activation::Silu => SILU,
    }
}

impl Params {
    /// The same, with the result added to what stands there.
    fn adding(self, accumulate: bool) -> Params {
        Params { flags: self.flags | if accumulate { ACCUMULATE } else { 0 }, ..self }
    }

    /// Those of the gates alone.
    fn of_gates(self) -> Params {
        Params { outputs: self.gate_outputs, gate_outputs: 0, activation: 0, flags: self.flags | BIAS, ..self }
    }

    /// The shape of one of its products.
    fn shape(&self, product: Product) -> Shape {
        let (rows, inputs, outputs, groups) = self.usizes();
        Shape { product, rows, groups, inputs, outputs }
    }

    /// Weights and biases of the layer, without its gates.
    fn parameters(&self) -> (usize, usize) {
        let (_, inputs, outputs, groups) = self.usizes();
        (groups * inputs * outputs, groups * outputs)
    }

    fn cost(&self, formats: Formats) -> Cost {
        let (rows, inputs, outputs, groups) = self.usizes();
        let (read, results, gates) = (rows * groups * inputs, rows * groups * outputs, self.gate_outputs as usize);
        let slopes = if formats.slope.is_some() { results } else { 0 };
        let weights = (groups * outputs + gates) * (inputs + 1);
        cost(read + weights + results + slopes + rows * gates, 2 * rows * inputs * (groups * outputs + gates))
            .stored(read, formats.x)
            .stored(results, formats.y)
            .stored(slopes, formats.slope.unwrap_or_default())
    }

    fn usizes(&self) -> (usize, usize, usize, usize) {
        (self.rows as usize, self.inputs as usize, self.outputs as usize, self.groups as usize)
    }
    /// x of group g, [B, K].
    fn x(&self, g: usize) -> Matrix {
        Matrix { at: g * self.inputs as usize, row: (self.groups * self.inputs) as usize, column: 1 }
    }
    /// y of group g, [B, N].
    fn y(&self, g: usize) -> Matrix {
        Matrix { at: g * self.outputs as usize, row: (self.groups * self.outputs) as usize, column: 1 }
    }
    /// w of group g, [K, N].
    fn w(&self, g: usize) -> Matrix {
        Matrix { at: g * (self.inputs * self.outputs) as usize, row: self.outputs as usize, column: 1 }
    }
}

fn forward(p: &Params, args: &mut Args) {
    let (x, w, bias) = (args.numbers(0), args.read(1), args.read(2));
    let gates = if p.gate_outputs > 0 { 3 } else { 0 };
    let of_gates = args.len() - gates;
    // The shader's second output, where it is `forward_keeping`.
    let (mut y, mut slope) = (args.numbers_mut(3), (of_gates > 4).then(|| args.numbers_mut(4)));
    forward_of(p, &x, w, bias, &mut y, slope.as_deref_mut().unwrap_or_default());
    if gates > 0 {
        let (w, bias, z) = (args.read(of_gates), args.read(of_gates + 1), args.write(of_gates + 2));
        forward_of(&p.of_gates(), &x, w, bias, z, &mut []);
    }
}

/// y = act(x W + bias); `slope` gets the activation's unless it is empty.
fn forward_of(p: &Params, x: &[f32], w: &[f32], bias: &[f32], y: &mut [f32], slope: &mut [f32]) {
    let (rows, inputs, outputs, groups) = p.usizes();
    let (columns, a_task) = (groups * outputs, rows_a_task(rows));
    let has_bias = p.flags & BIAS != 0;
    let task = |x: &[f32], y: &mut [f32], slope: &mut [f32]| {
        if has_bias {
            y.chunks_exact_mut(columns).for_each(|row| row.copy_from_slice(bias));
        }
        let shape = [y.len() / columns, outputs, inputs];
        for g in 0..groups {
            product(shape, (x, p.x(g)), (w, p.w(g)), (&mut *y, p.y(g)), has_bias, Threads::One);
        }
        match p.activation {
            RELU => activate(y, slope, relu),
            TANH => activate(y, slope, tanh),
            GELU => activate(y, slope, gelu),
            SILU => activate(y, slope, silu),
            _ => {}
        }
    };
    let blocks = x.par_chunks(a_task * groups * inputs).zip(y.par_chunks_mut(a_task * columns));
    if slope.is_empty() {
        blocks.for_each(|(x, y)| task(x, y, &mut []));
    } else {
        blocks.zip(slope.par_chunks_mut(a_task * columns)).for_each(|((x, y), slope)| task(x, y, slope));
    }
}

/// Replaces each z by act(z); `slope` gets act'(z) unless it is empty.
fn activate(z: &mut [f32], slope: &mut [f32], f: impl Fn(f32) -> (f32, f32)) {
    if slope.is_empty() {
        return z.iter_mut().for_each(|z| *z = f(*z).0);
    }
    z.iter_mut().zip(slope).for_each(|(z, slope)| (*z, *slope) = f(*z));
}

/// act(z) and act'(z) of an activation by its number. Of NaN act is NaN, so that the loss shows it.
pub(super) fn activated(activation: u32, z: f32) -> (f32, f32) {
    match activation {
        RELU => relu(z),
        TANH => tanh(z),
        GELU => gelu(z),
        SILU => silu(z),
        _ => (z, 1.0),
    }
}

fn relu(z: f32) -> (f32, f32) {
    // Not `max`, which gives 0 for NaN.
    (if z <= 0.0 { 0.0 } else { z }, if z > 0.0 { 1.0 } else { 0.0 })
}

fn tanh(z: f32) -> (f32, f32) {
    (z.tanh(), 1.0 - z.tanh() * z.tanh())
}

/// z Phi(z) and its slope. Phi by the upper tail of the normal distribution, half of the complementary error function at
/// z / sqrt(2): relative error below 1.2e-7 (Press et al., Numerical Recipes, 6.2).
fn gelu(z: f32) -> (f32, f32) {
    const TERMS: [f32; 9] = [
        0.170_872_77,
        -0.822_152_23,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
    ];
    let a = z.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * a);
    let p = -1.265_512_2 + t * TERMS[1..].iter().fold(TERMS[0], |sum, term| sum * t + term);
    let tail = 0.5 * t * (p - a * a).exp();
    let below = if z > 0.0 { 1.0 - tail } else { tail };
    let density = std::f32::consts::FRAC_2_SQRT_PI * 0.5 * std::f32::consts::FRAC_1_SQRT_2 * (-0.5 * z * z).exp();
    (z * below, below + z * density)
}

/// z s(z) and its slope, s the logistic function; no exponential grows.
fn silu(z: f32) -> (f32, f32) {
    let e = (-z.abs()).exp();
    let (s, rest) = if z > 0.0 { (1.0 / (1.0 + e), e / (1.0 + e)) } else { (e / (1.0 + e), 1.0 / (1.0 + e)) };
    (z * s, s * (1.0 + z * rest))
}

/// The gradient before the activation, in `d` if it differs from `dy`; `y` holds slopes instead for `gelu` and `silu`.
fn before_activation<'a>(p: &Params, dy: &'a [f32], y: &[f32], d: &'a mut [f32]) -> &'a [f32] {
    fn fill(d: &mut [f32], dy: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) {
        d.iter_mut().zip(dy).zip(y).for_each(|((d, &dy), &y)| *d = f(dy, y));
    }
    match p.activation {
        0 => return dy,
        RELU => fill(d, dy, y, |dy, y| if y > 0.0 { dy } else { 0.0 }),
        TANH => fill(d, dy, y, |dy, y| dy * (1.0 - y * y)),
        _ => fill(d, dy, y, |dy, slope| dy * slope),
    }
    d
}

fn input_gradient(p: &Params, args: &mut Args) {
    fn add_product(p: &Params, d: &[f32], w: &[f32], dx: &mut [f32], add: bool) {
        let (_, inputs, outputs, groups) = p.usizes();
        let shape = [dx.len() / (groups * inputs), inputs, outputs];
        for g in 0..groups {
            product(shape, (d, p.y(g)), (w, p.w(g).transposed()), (&mut *dx, p.x(g)), add, Threads::One);
        }
    }
    let (dy, y, w, dx) = (args.read::<f32>(0), args.numbers(1), args.read::<f32>(2), args.write::<f32>(3));
    let gates = (p.gate_outputs > 0).then(|| (args.read::<f32>(4), args.read::<f32>(5)));
    let (rows, inputs, outputs, groups) = p.usizes();
    let (columns, a_task) = (groups * outputs, rows_a_task(rows));
    let of_outputs = dy.par_chunks(a_task * columns).zip(y.par_chunks(a_task * columns));
    let blocks = dx.par_chunks_mut(a_task * groups * inputs).zip(of_outputs);
    blocks.enumerate().for_each(|(block, (dx, (dy, y)))| {
        with_floats(dy.len(), |d| {
            let d = before_activation(p, dy, y, d);
            add_product(p, d, w, dx, p.flags & ACCUMULATE != 0);
        });
        if let Some((dz, w)) = gates {
            let gates = p.gate_outputs as usize;
            add_product(&p.of_gates(), &dz[block * a_task * gates..][..dy.len() / columns * gates], w, dx, true);
        }
    });
}

fn weight_gradient(p: &Params, args: &mut Args) {
    let (x, dy, y) = (args.numbers(0), args.read::<f32>(1), args.numbers(2));
    let (dw, dbias) = (args.write(3), args.write(4));
    let gates = (p.gate_outputs > 0).then(|| (args.read(5), args.write(6), args.write(7)));
    weight_gradient_of(p, &x, dy, &y, dw, dbias, args);
    if let Some((dz, dw, dbias)) = gates {
        weight_gradient_of(&p.of_gates(), &x, dz, dz, dw, dbias, args);
    }
}

/// dw and dbias of each slice.
fn weight_gradient_of(p: &Params, x: &[f32], dy: &[f32], y: &[f32], dw: &mut [f32], dbias: &mut [f32], args: &mut Args) {
    let (rows, inputs, outputs, groups) = p.usizes();
    let columns = groups * outputs;
    let together = (TOGETHER / columns).clamp(1, rows);
    let scratch = args.scratch(together * columns);
    let slices = dw.chunks_exact_mut(groups * inputs * outputs).zip(dbias.chunks_exact_mut(columns));
    for ((dw, dbias), slice) in slices.zip((0..rows).step_by(p.slice as usize)) {
        let end = rows.min(slice + p.slice as usize);
        for first in (slice..end).step_by(together) {
            let add = first > slice || p.flags & ACCUMULATE != 0;
            let n = end.min(first + together) - first;
            let here = first * columns..(first + n) * columns;
            let (x, dy, y) = (&x[first * groups * inputs..], &dy[here.clone()], &y[here]);
            let block = BLOCK * columns;
            let d = if p.activation == 0 {
                dy
            } else {
                let d = &mut scratch[..n * columns];
                d.par_chunks_mut(block).zip(dy.par_chunks(block)).zip(y.par_chunks(block)).for_each(|((d, dy), y)| {
                    before_activation(p, dy, y, d);
                });
                d
            };
            dw.par_chunks_exact_mut(inputs * outputs).enumerate().for_each(|(g, dw)| {
                let shape = [inputs, outputs, n];
                product(shape, (x, p.x(g).transposed()), (d, p.y(g)), (dw, p.w(0)), add, Threads::All);
            });
            dbias.par_chunks_mut(BLOCK).enumerate().for_each(|(block, sums)| {
                if !add {
                    sums.fill(0.0);
                }
                for row in d.chunks_exact(columns) {
                    sums.iter_mut().zip(&row[block * BLOCK..]).for_each(|(sum, d)| *sum += d);
                }
            });
        }
    }
}

fn merge(p: &Params, args: &mut Args) {
    let parts = [args.read::<f32>(0), args.read::<f32>(1)];
    for (parts, sums) in parts.into_iter().zip([args.write::<f32>(2), args.write::<f32>(3)]) {
        add_parts(sums, parts, p.flags & ACCUMULATE != 0);
    }
}

/// Forward and both gradients at awkward shapes.
pub fn cases() -> Vec<Case> {
    use Activation::{Gelu, Identity, Relu, Silu, Tanh};
    let mut cases = Vec::new();
    for (rows, groups, inputs, outputs, activation, bias) in [
        (1, 1, 1, 1, Identity, true),
        (7, 1, 3, 5, Relu, true),
        (64, 1, 64, 64, Relu, true),
        (65, 1, 67, 129, Identity, false),
        (130, 4, 33, 17, Relu, true),
        (33, 2, 70, 1, Identity, true),
        (300, 2, 16, 66, Relu, false),
        (1, 1, 1, 1, Gelu, true),
        (130, 2, 33, 17, Gelu, true),
        (67, 2, 18, 65, Silu, true),
        (66, 3, 20, 5, Silu, false),
        (130, 2, 35, 17, Tanh, true),
        (1, 1, 4, 4, Identity, true),
        (65, 1, 68, 132, Identity, false),
        (130, 4, 32, 20, Relu, true),
        (67, 2, 12, 68, Silu, true),
        // The twin's gradient before the activation in two parts, and tasks of more than the fewest rows.
        (600, 1, 3, 512, Relu, true),
    ] {
        for twice in [false, true] {
            let name =
                format!("linear {rows} rows, {groups} x {inputs} x {outputs}, {activation:?}, bias {bias}, twice {twice}");
            let terms = rows.max(inputs).max(outputs);
            cases.push(Case::new(name, terms, move |s| {
                let x = s.activation("x", rows, &normals(1, rows * groups * inputs, 1.0));
                let w = s.state_tensor("w", &normals(2, groups * inputs * outputs, 0.5));
                let b = bias.then(|| s.state_tensor("bias", &normals(3, groups * outputs, 0.5)));
                let dy = s.input(&normals(4, rows * groups * outputs, 1.0));
                let g = &mut s.graph;
                let shape = Linear { rows, groups, inputs, outputs, activation, input_gradient: true };
                let y = linear(g, x, w, b, shape);
                g.seed(y, dy);
                if twice {
                    // The input is read by a second layer, so its gradient accumulates.
                    let w2 = s.state_tensor("w2", &normals(5, groups * inputs * outputs, 0.5));
                    let z = linear(&mut s.graph, x, w2, None, shape);
                    s.graph.seed(z, dy);
                    s.output_activation(z, rows);
                }
                let g = &mut s.graph;
                g.backward();
                for t in [Some(x), Some(w), b].into_iter().flatten() {
                    if let Some(d) = g.gradient(t) {
                        g.output(d);
                    }
                }
                s.output_activation(y, rows);
            }));
        }
    }
    // Every tile, in slices; with the first of them all gradients are added to.
    for (i, tile) in TILES.into_iter().enumerate() {
        let (rows, groups, slices) = (150, 2, SLICES[1 + i % 3]);
        // Read by four numbers or by one.
        let (inputs, outputs) = if i % 4 < 2 { (72, 136) } else { (70, 135) };
        let mut case = Case::new(format!("linear by tiles of {}, {slices} slices", tile.describe()), rows, move |s| {
            let shape = Linear { rows, groups, inputs, outputs, activation: Gelu, input_gradient: true };
            layer(s, shape, (true, 0), normals, 1.0, if i == 0 { 2 } else { 1 });
        });
        case.limits.tiles = Tiles::always(Chosen { tile, slices });
        cases.push(case);
    }
    // Gates beside a layer: few, as many as the layer has outputs, more than a tile has columns.
    for (rows, inputs, outputs, gates, activation, bias) in [
        (1, 1, 1, 1, Identity, true),
        (65, 67, 129, 3, Identity, false),
        (130, 33, 66, 6, Relu, true),
        (130, 32, 128, 8, Gelu, true),
        (67, 12, 68, 131, Silu, true),
        (33, 70, 17, 17, Tanh, false),
    ] {
        for times in [1, 2] {
            let name = format!(
                "linear with gates {rows} rows, {inputs} x {outputs} and {gates}, {activation:?}, bias {bias}, {times} times"
            );
            let shape = Linear { rows, groups: 1, inputs, outputs, activation, input_gradient: true };
            cases.push(Case::new(name, rows.max(inputs).max(outputs + gates), move |s| {
                layer(s, shape, (bias, gates), normals, 1.0, times);
            }));
        }
    }
    // By half of the tiles, since others are read in the same ways.
    for (i, tile) in TILES.into_iter().step_by(2).enumerate() {
        let (rows, slices) = (150, SLICES[1 + i % 3]);
        let (inputs, outputs) = if i % 2 == 0 { (70, 135) } else { (72, 136) };
        let name = format!("linear with gates by tiles of {}, {slices} slices", tile.describe());
        let mut case = Case::new(name, rows, move |s| {
            let shape = Linear { rows, groups: 1, inputs, outputs, activation: Relu, input_gradient: true };
            layer(s, shape, (true, 6), normals, 1.0, if i == 0 { 2 } else { 1 });
        });
        case.limits.tiles = Tiles::always(Chosen { tile, slices });
        cases.push(case);
    }
    // From where a function is all but linear or flat to where it bends: z of -200 to 200.
    for activation in [Relu, Tanh, Gelu, Silu] {
        cases.push(Case::new(format!("linear with outliers, {activation:?}"), 1, move |s| {
            let z: Vec<f32> = (-200i16..=200).map(|i| f32::from(i) * if i % 2 == 0 { 0.04 } else { 1.0 }).collect();
            let rows = z.len();
            let (x, w) = (s.activation("x", rows, &z), s.state_tensor("w", &[1f32]));
            let dy = s.input(&vec![1f32; rows]);
            let shape = Linear { rows, groups: 1, inputs: 1, outputs: 1, activation, input_gradient: true };
            let y = linear(&mut s.graph, x, w, None, shape);
            s.graph.seed(y, dy);
            s.graph.backward();
            let dx = s.graph.gradient(x);
            dx.into_iter().for_each(|dx| s.graph.output(dx));
            s.output_activation(y, rows);
        }));
    }
    // Without a backward pass nothing is kept for it.
    cases.push(Case::new("linear forward alone, Gelu", 18, |s| {
        let (rows, inputs, outputs) = (67, 18, 5);
        let x = s.input(&normals(1, rows * inputs, 1.0));
        let w = s.state_tensor("w", &normals(2, inputs * outputs, 0.5));
        s.graph = std::mem::take(&mut s.graph).forward_only();
        let shape = Linear { rows, groups: 1, inputs, outputs, activation: Gelu, input_gradient: false };
        let y = linear(&mut s.graph, x, w, None, shape);
        s.output_activation(y, rows);
    }));
    for tile in MATRICES {
        cases.extend(by_matrices(tile));
    }
    cases
}

/// A layer, with or without bias and so many gates, applied `times` over to one input, with its outputs and gradients: `numbers` makes so many by a seed
/// and a scale, `gradient` is that of dy.
fn layer(
    s: &mut Setup,
    shape: Linear,
    (bias, gates): (bool, usize),
    numbers: impl Fn(u64, usize, f32) -> Vec<f32>,
    gradient: f32,
    times: u64,
) {
    let Linear { rows, groups, inputs, outputs, .. } = shape;
    let x = s.activation("x", rows, &numbers(1, rows * groups * inputs, 1.0));
    let w = s.state_tensor("w", &numbers(2, groups * inputs * outputs, 0.5));
    let b = bias.then(|| s.state_tensor("bias", &normals(3, groups * outputs, 0.5)));
    let gates = (gates > 0).then(|| GateLayer {
        w: s.state_tensor("gate w", &numbers(20, inputs * gates, 0.5)),
        bias: s.state_tensor("gate bias", &normals(21, gates, 0.5)),
        outputs: gates,
    });
    for seed in 0..times {
        let dy = s.input(&numbers(4 + seed, rows * groups * outputs, gradient));
        let y = if let Some(gates) = gates {
            let dz = s.input(&numbers(22 + seed, rows * gates.outputs, gradient));
            let (y, z) = linear_with_gates(&mut s.graph, x, w, b, shape, gates);
            s.graph.seed(z, dz);
            s.graph.output(z);
            y
        } else {
            linear(&mut s.graph, x, w, b, shape)
        };
        s.graph.seed(y, dy);
        s.output_activation(y, rows);
    }
    s.graph.backward();
    for t in [Some(x), Some(w), b, gates.map(|g| g.w), gates.map(|g| g.bias)].into_iter().flatten() {
        let d = s.graph.gradient(t);
        d.into_iter().for_each(|d| s.graph.output(d));
    }
}

/// Products by cooperative matrices, of numbers that 16 bits hold; with gelu slopes are none.
fn by_matrices(tile: Tile) -> Vec<Case> {
    use Activation::{Gelu, Relu};
    let mut cases = Vec::new();
    for (rows, groups, inputs, outputs, gates, activation, slices, gradient) in [
        (150, 2, 72, 136, 0, Relu, 1, 1.0 / 256.0),
        (300, 1, 70, 135, 0, Relu, 2, 1.0 / 512.0),
        (64, 1, 64, 128, 0, Relu, 1, 1.0 / 64.0),
        (33, 3, 16, 17, 0, Relu, 1, 1.0 / 64.0),
        (150, 2, 72, 136, 0, Gelu, 1, 1.0 / 256.0),
        (150, 1, 72, 136, 8, Gelu, 1, 1.0 / 256.0),
        (300, 1, 70, 135, 6, Relu, 2, 1.0 / 512.0),
        // Lost without a scale, and by it a normal number.
        (1030, 1, 20, 24, 0, Relu, 1, 1.0 / 524_288.0),
    ] {
        let name = format!(
            "matrices of {}: linear {rows} rows, {groups} x {inputs} x {outputs} and {gates} gates, {activation:?}, {slices} slices, gradient {gradient}",
            tile.depth
        );
        let mut case = Case::new(name, rows.max(inputs).max(outputs), move |s| {
            let held = |seed, len, scale: f32| -> Vec<f32> {
                normals(seed, len, 1.0).into_iter().map(|v| (v * 64.0).round() / 64.0 * scale).collect()
            };
            let shape = Linear { rows, groups, inputs, outputs, activation, input_gradient: true };
            // Twice, so that gradients are added to.
            layer(s, shape, (true, gates), held, gradient, 2);
        });
        case.limits.tiles = Tiles::always(Chosen { tile, slices });
        case.rel = if activation == Gelu { 2e-3 } else { case.rel };
        cases.push(case);
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_pass_nan_on() {
        for activation in [0, RELU, TANH, GELU, SILU] {
            assert!(activated(activation, f32::NAN).0.is_nan(), "{activation}");
        }
    }
}
