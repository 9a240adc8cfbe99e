//! Linear layers with bias and activation, for groups side by side: experts, towers, heads.

use super::check::{Case, Setup, normals};
use super::product::{Matrix, Threads, product};
use super::tile::{Chosen, MATRICES, Product, SLICES, Shape, TILES, Tile, Tiles};
use super::{Access, Args, Cost, Dispatch, Kernel, Shader, Shaders, Variant, add_parts, cost, fold, params, shader, unit};
use crate::config::Activation;
use crate::graph::{Arg, Block, Format, Graph, TensorId};
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
    }
}

const RELU: u32 = 1;
const TANH: u32 = 2;
const GELU: u32 = 3;
const SILU: u32 = 4;

const BIAS: u32 = 1;
pub(super) const ACCUMULATE: u32 = 2;
/// Rows and columns that one task of a twin handles; fixed, so that sums don't depend on the number of threads.
const BLOCK: usize = 64;

const SOURCE: Shader = shader!(stored "tile", "sums", "multiply", "chunk", "activated", "linear_by_one", "linear");
static SHADERS: Shaders = [
    &[
        SOURCE,
        shader!(stored "tile", "sums", "multiply_subgroup", "chunk", "activated", "linear_by_one", "linear"),
        shader!(matrices "tile", "matrices_of_8", "multiply_matrices", "chunk", "activated", "linear_by_one", "linear"),
        shader!(matrices "tile", "matrices_of_16", "multiply_matrices", "chunk", "activated", "linear_by_one", "linear"),
    ],
    &[
        shader!(stored "tile", "sums", "multiply", "chunk", "activated", "linear_by_four", "linear"),
        shader!(stored "tile", "sums", "multiply_subgroup", "chunk", "activated", "linear_by_four", "linear"),
        shader!(matrices "tile", "matrices_of_8", "multiply_matrices", "chunk", "activated", "linear_by_four", "linear"),
        shader!(matrices "tile", "matrices_of_16", "multiply_matrices", "chunk", "activated", "linear_by_four", "linear"),
    ],
];
const ACTIVATION: Shader = shader!(stored "activated", "activation");
static FORWARD: Kernel =
    Params::kernel("linear", SOURCE, "forward", &[(1, Access::Read), (2, Access::Read), (3, Access::Read), (4, Access::Write)])
        .stored(&[1], &[4]);
static FORWARD_KEEPING: Kernel = Params::kernel(
    "linear_keeping",
    SOURCE,
    "forward_keeping",
    &[(1, Access::Read), (2, Access::Read), (3, Access::Read), (4, Access::Write), (10, Access::Write)],
)
.stored(&[1], &[4, 10]);
pub(super) static ACTIVATE: Kernel =
    Params::kernel("activation", ACTIVATION, "activate", &[(1, Access::Read), (4, Access::Write)]).stored(&[1], &[4]);
pub(super) static ACTIVATE_BACKWARD: Kernel = Params::kernel(
    "activation_backward",
    ACTIVATION,
    "activate_backward",
    &[(1, Access::Read), (6, Access::Read), (7, Access::Update)],
)
.stored(&[1], &[]);
static INPUT_GRADIENT: Kernel = Params::kernel(
    "linear_input_gradient",
    SOURCE,
    "input_gradient",
    &[(6, Access::Read), (5, Access::Read), (2, Access::Read), (7, Access::Update)],
)
.stored(&[], &[5]);
static WEIGHT_GRADIENT: Kernel = Params::kernel(
    "linear_weight_gradient",
    SOURCE,
    "weight_gradient",
    &[(1, Access::Read), (6, Access::Read), (5, Access::Read), (8, Access::Update), (9, Access::Update)],
)
.stored(&[1], &[5]);
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

/// The product that gives `result` rows and columns of each group and slice, by tiles; of a minibatch of `rows`, of which it may see a block.
fn tiled(
    kernel: &'static Kernel,
    params: Params,
    formats: Formats,
    tile: Tile,
    result: [usize; 2],
    rows: usize,
    twin: Twin,
) -> Variant<Params> {
    let [down, across] = tile.workgroups(result[0], result[1]);
    let groups = params.groups * params.slices;
    let workgroups = [across as u32, down as u32, groups];
    let mut cost = params.cost(formats);
    if params.flags & ACCUMULATE != 0 {
        // What the result is added to: a gradient.
        cost.bytes += (size_of::<f32>() * groups as usize * result[0] * result[1]) as f64;
    }
    let unit = unit(&[params.inputs as usize, params.outputs as usize]);
    let mut variant = Variant::tiled(Dispatch { kernel, params, workgroups, cost, twin }, tile, unit, &SHADERS);
    if tile.by.side().is_some() {
        variant.overrides.extend(scale(kernel, rows));
    }
    variant
}

/// What a gradient is multiplied by before it is rounded to 16 bits: what the loss was divided by, up to a power of two.
fn scale(kernel: &'static Kernel, rows: usize) -> Option<(&'static str, f64)> {
    let side = match kernel.entry {
        "input_gradient" => "LEFT_SCALE",
        "weight_gradient" => "RIGHT_SCALE",
        _ => return None,
    };
    Some((side, rows.next_power_of_two() as f64))
}

type Twin = fn(&Params, &mut Args);

/// y = activation(x W + bias): x [B, G * K], w [G, K, N], bias [G * N], y [B, G * N]. Layers that read one input are one
/// layer of one group with their outputs side by side.
pub fn linear(g: &mut Graph, x: TensorId, w: TensorId, bias: Option<TensorId>, shape: Linear) -> TensorId {
    let Linear { rows, groups, inputs, outputs, .. } = shape;
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
    };
    let of = move |block: Block, params: Params| Params { rows: block.rows as u32, slice: block.rows as u32, ..params };
    let chosen = move |g: &Graph, product| g.limits().tiles.choose(Shape { product, rows, groups, inputs, outputs });
    // Without a bias, something must be bound in its place; it is not read.
    let mut args = vec![Arg::Rows(x), Arg::Whole(w), Arg::Whole(bias.unwrap_or(w)), Arg::Rows(y)];
    // What tells the activation's slope to the backward pass: y, or where y does not, the slope itself. It is kept in the place of
    // what stood before the activation, which takes as much memory and would have it computed again by every tile.
    let known_by_y = matches!(shape.activation, Activation::Identity | Activation::Relu | Activation::Tanh);
    let (mut kernel, mut slope) = (&FORWARD, y);
    let mut forward_formats = Formats { x: input, y: output, slope: None };
    if !known_by_y && g.may_go_backward() {
        slope = g.transient_as("slope", rows * groups * outputs, output);
        args.push(Arg::Rows(slope));
        kernel = &FORWARD_KEEPING;
        forward_formats.slope = Some(output);
    }
    let tile = chosen(g, Product::Forward).tile;
    g.push_rows(rows, &args, |block| {
        tiled(kernel, of(block, params), forward_formats, tile, [block.rows, outputs], rows, forward)
    });
    g.on_backward(move |g| {
        let Some(dy) = g.gradient(y) else { return };
        let (dw, accumulate) = g.gradient_target(w);
        let dbias = match bias {
            Some(bias) => g.gradient_target(bias).0,
            None => g.transient("unused", groups * outputs),
        };
        let slope_format = (shape.activation != Activation::Identity).then_some(output);
        let formats = Formats { x: input, y: Format::F32, slope: slope_format };
        let choice = chosen(g, Product::WeightGradient);
        let (tile, result) = (choice.tile, [inputs, outputs]);
        let (slice, slices) = choice.slices(rows);
        let weights = groups * inputs * outputs;
        // Blocks of rows are slices already, one after the other.
        let fits =
            [rows * groups * inputs, rows * groups * outputs, slices * weights].iter().all(|&len| !g.exceeds_binding(len));
        if slices > 1 && fits {
            let parts = [
                g.transient("weight gradients of slices", slices * weights),
                g.transient("of biases", slices * groups * outputs),
            ];
            let params = Params { slice: slice as u32, slices: slices as u32, ..params };
            let op = tiled(&WEIGHT_GRADIENT, params, formats, tile, result, rows, weight_gradient);
            g.push(op, &[x, dy, slope, parts[0], parts[1]]);
            let elements = weights + groups * outputs;
            let (workgroups, words) = (fold(elements.div_ceil(256)), (slices + 1 + usize::from(accumulate)) * elements);
            let cost = cost(words, slices * elements);
            let params = params.adding(accumulate);
            g.push(Dispatch { kernel: &MERGE, params, workgroups, cost, twin: merge }, &[parts[0], parts[1], dw, dbias]);
        } else {
            let args = [Arg::Rows(x), Arg::Rows(dy), Arg::Rows(slope), Arg::Whole(dw), Arg::Whole(dbias)];
            g.push_rows(rows, &args, |block| {
                let params = of(block, params.adding(accumulate || block.first > 0));
                tiled(&WEIGHT_GRADIENT, params, formats, tile, result, rows, weight_gradient)
            });
        }
        if shape.input_gradient {
            let (dx, accumulate) = g.gradient_target(x);
            let args = [Arg::Rows(dy), Arg::Rows(slope), Arg::Whole(w), Arg::Rows(dx)];
            let params = params.adding(accumulate);
            let tile = chosen(g, Product::InputGradient).tile;
            let formats = Formats { x: Format::F32, ..formats };
            g.push_rows(rows, &args, |block| {
                let result = [block.rows, inputs];
                tiled(&INPUT_GRADIENT, of(block, params), formats, tile, result, rows, input_gradient)
            });
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

    fn cost(&self, formats: Formats) -> Cost {
        let (rows, inputs, outputs, groups) = self.usizes();
        let results = rows * groups * outputs;
        let slopes = if formats.slope.is_some() { results } else { 0 };
        let weights = self.slices as usize * groups * outputs * (inputs + 1);
        cost(rows * groups * inputs + weights + results + slopes, 2 * rows * groups * inputs * outputs)
            .stored(rows * groups * inputs, formats.x)
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
    let (rows, inputs, outputs, groups) = p.usizes();
    let (x, w, bias) = (args.numbers(0), args.read::<f32>(1), args.read::<f32>(2));
    let (mut y, mut slope) = (args.numbers_mut(3), (args.len() > 4).then(|| args.numbers_mut(4)));
    let y = &mut *y;
    let columns = groups * outputs;
    let has_bias = p.flags & BIAS != 0;
    if has_bias {
        y.par_chunks_mut(columns * BLOCK).for_each(|rows| rows.chunks_exact_mut(columns).for_each(|r| r.copy_from_slice(bias)));
    }
    for g in 0..groups {
        product([rows, outputs, inputs], (&x, p.x(g)), (w, p.w(g)), (&mut *y, p.y(g)), has_bias, Threads::All);
    }
    // The shader's second output, where it is `forward_keeping`.
    let slope = slope.as_deref_mut().unwrap_or_default();
    match p.activation {
        RELU => activate(y, slope, relu),
        TANH => activate(y, slope, tanh),
        GELU => activate(y, slope, gelu),
        SILU => activate(y, slope, silu),
        _ => {}
    }
}

/// Replaces each z by act(z); `slope` gets act'(z) unless it is empty.
fn activate(z: &mut [f32], slope: &mut [f32], f: impl Fn(f32) -> (f32, f32) + Sync) {
    let block = BLOCK * BLOCK;
    if slope.is_empty() {
        z.par_chunks_mut(block).for_each(|z| z.iter_mut().for_each(|z| *z = f(*z).0));
        return;
    }
    z.par_chunks_mut(block).zip(slope.par_chunks_mut(block)).for_each(|(z, slope)| {
        z.iter_mut().zip(slope).for_each(|(z, slope)| (*z, *slope) = f(*z));
    });
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

/// The gradient before the activation, in `scratch` if it differs from `dy`; `y` holds slopes instead for `gelu` and `silu`.
fn before_activation<'a>(p: &Params, dy: &'a [f32], y: &[f32], scratch: &'a mut [f32]) -> &'a [f32] {
    fn fill(d: &mut [f32], dy: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) {
        let block = BLOCK * BLOCK;
        d.par_chunks_mut(block).zip(dy.par_chunks(block)).zip(y.par_chunks(block)).for_each(|((d, dy), y)| {
            d.iter_mut().zip(dy).zip(y).for_each(|((d, &dy), &y)| *d = f(dy, y));
        });
    }
    match p.activation {
        0 => return dy,
        RELU => fill(scratch, dy, y, |dy, y| if y > 0.0 { dy } else { 0.0 }),
        TANH => fill(scratch, dy, y, |dy, y| dy * (1.0 - y * y)),
        _ => fill(scratch, dy, y, |dy, slope| dy * slope),
    }
    scratch
}

fn input_gradient(p: &Params, args: &mut Args) {
    let (rows, inputs, outputs, groups) = p.usizes();
    let (dy, y, w) = (args.read::<f32>(0), args.numbers(1), args.read::<f32>(2));
    let dx = args.write::<f32>(3);
    let d = before_activation(p, dy, &y, args.scratch(dy.len()));
    for g in 0..groups {
        let add = p.flags & ACCUMULATE != 0;
        product([rows, inputs, outputs], (d, p.y(g)), (w, p.w(g).transposed()), (&mut *dx, p.x(g)), add, Threads::All);
    }
}

fn weight_gradient(p: &Params, args: &mut Args) {
    let (rows, inputs, outputs, groups) = p.usizes();
    let (x, dy, y) = (args.numbers(0), args.read::<f32>(1), args.numbers(2));
    let (dw, dbias) = (args.write::<f32>(3), args.write::<f32>(4));
    let add = p.flags & ACCUMULATE != 0;
    let d = before_activation(p, dy, &y, args.scratch(dy.len()));
    let columns = groups * outputs;
    let slices = dw.chunks_exact_mut(groups * inputs * outputs).zip(dbias.chunks_exact_mut(columns));
    for ((dw, dbias), first) in slices.zip((0..rows).step_by(p.slice as usize)) {
        let n = rows.min(first + p.slice as usize) - first;
        let (x, d) = (&x[first * groups * inputs..], &d[first * columns..][..n * columns]);
        for g in 0..groups {
            product([inputs, outputs, n], (x, p.x(g).transposed()), (d, p.y(g)), (&mut *dw, p.w(g)), add, Threads::All);
        }
        dbias.par_chunks_mut(BLOCK).enumerate().for_each(|(block, sums)| {
            if !add {
                sums.fill(0.0);
            }
            for row in d.chunks_exact(columns) {
                let row = &row[block * BLOCK..][..sums.len()];
                sums.iter_mut().zip(row).for_each(|(sum, d)| *sum += d);
            }
        });
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
            layer(s, shape, normals, 1.0, if i == 0 { 2 } else { 1 });
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

/// A layer applied `times` over to one input, with its outputs and gradients: `numbers` makes so many by a seed and a scale, `gradient` is that of dy.
fn layer(s: &mut Setup, shape: Linear, numbers: impl Fn(u64, usize, f32) -> Vec<f32>, gradient: f32, times: u64) {
    let Linear { rows, groups, inputs, outputs, .. } = shape;
    let x = s.activation("x", rows, &numbers(1, rows * groups * inputs, 1.0));
    let w = s.state_tensor("w", &numbers(2, groups * inputs * outputs, 0.5));
    let b = s.state_tensor("bias", &normals(3, groups * outputs, 0.5));
    for seed in 0..times {
        let dy = s.input(&numbers(4 + seed, rows * groups * outputs, gradient));
        let y = linear(&mut s.graph, x, w, Some(b), shape);
        s.graph.seed(y, dy);
        s.output_activation(y, rows);
    }
    s.graph.backward();
    for t in [x, w, b] {
        let d = s.graph.gradient(t);
        d.into_iter().for_each(|d| s.graph.output(d));
    }
}

/// Products by cooperative matrices, of numbers that 16 bits hold; with gelu slopes are none.
fn by_matrices(tile: Tile) -> Vec<Case> {
    use Activation::{Gelu, Relu};
    let mut cases = Vec::new();
    for (rows, groups, inputs, outputs, activation, slices, gradient) in [
        (150, 2, 72, 136, Relu, 1, 1.0 / 256.0),
        (300, 1, 70, 135, Relu, 2, 1.0 / 512.0),
        (64, 1, 64, 128, Relu, 1, 1.0 / 64.0),
        (33, 3, 16, 17, Relu, 1, 1.0 / 64.0),
        (150, 2, 72, 136, Gelu, 1, 1.0 / 256.0),
        // Lost without a scale, and by it a normal number.
        (1030, 1, 20, 24, Relu, 1, 1.0 / 524_288.0),
    ] {
        let name = format!(
            "matrices of {}: linear {rows} rows, {groups} x {inputs} x {outputs}, {activation:?}, {slices} slices, gradient {gradient}",
            tile.depth
        );
        let mut case = Case::new(name, rows.max(inputs).max(outputs), move |s| {
            let held = |seed, len, scale: f32| -> Vec<f32> {
                normals(seed, len, 1.0).into_iter().map(|v| (v * 64.0).round() / 64.0 * scale).collect()
            };
            let shape = Linear { rows, groups, inputs, outputs, activation, input_gradient: true };
            // Twice, so that gradients are added to.
            layer(s, shape, held, gradient, 2);
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
