//! Finite differences through chains of ops on the CPU executor: every op stands in the middle, behind parameters and before
//! a weighted sum or other ops, so that no factor of an upstream gradient goes missing unseen.

use tauten::config::{Activation, CvrLoss, Direction, Loss, Objective};
use tauten::device::{Device, cpu::Cpu};
use tauten::graph::{Graph, Initial, Input, Parameter, ParameterKind, Part, Plan, StateId, StateLayout, Step, TensorId, Words};
use tauten::ops::activation::activation;
use tauten::ops::agreement::agreement;
use tauten::ops::batch_norm::{Moments, batch_norm};
use tauten::ops::check::normals;
use tauten::ops::columns::{concat, split};
use tauten::ops::contrast::{Contrast, contrast};
use tauten::ops::dropout::{Dropout, dropout};
use tauten::ops::interact::interact;
use tauten::ops::layer_norm::{LayerNorm, layer_norm};
use tauten::ops::linear::{GateLayer, Linear, linear, linear_with_gates};
use tauten::ops::losses::{Logits, losses};
use tauten::ops::mixture::{Gates, Mixture, mix, mixture};
use tauten::ops::normalize::normalize;
use tauten::ops::report::report;
use tauten::ops::temperature::{constant, temperature};
use tauten::ops::transfer::transfer;

/// A graph from parameters to a loss: the sum of weighted outputs.
struct Chain {
    graph: Graph,
    state: StateLayout,
    parameters: (StateId, Vec<f32>),
    gradients: StateId,
    names: Vec<(String, usize)>,
    inputs: Vec<(Input, Vec<u32>)>,
    weights: Vec<Vec<f32>>,
}

impl Chain {
    /// A chain with these parameters, each a tensor.
    fn new(parameters: &[(&str, Vec<f32>)]) -> (Chain, Vec<TensorId>) {
        let mut state = StateLayout::default();
        let values: Vec<f32> = parameters.iter().flat_map(|(_, v)| v.iter().copied()).collect();
        let (buffer, gradients) = (state.add("parameters", values.len()), state.add("gradients", values.len()));
        let mut graph = Graph::default();
        let (mut offset, mut tensors, mut names) = (0, Vec::new(), Vec::new());
        for (name, values) in parameters {
            let parameter = Parameter {
                name: name.to_string(),
                shape: vec![values.len()],
                initial: Initial::Constant(0.0),
                kind: ParameterKind::Dense,
                words: Words::Float,
                parts: vec![Part { state: buffer, offset, len: values.len() }],
            };
            tensors.push(graph.parameter(&parameter, Some(gradients)));
            names.extend((0..values.len()).map(|i| (name.to_string(), i)));
            offset += values.len();
        }
        let parameters = (buffer, values);
        (Chain { graph, state, parameters, gradients, names, inputs: Vec::new(), weights: Vec::new() }, tensors)
    }

    fn input<T: bytemuck::Pod>(&mut self, input: Input, values: &[T]) -> TensorId {
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(values);
        self.inputs.push((input, words.clone()));
        self.graph.input(input, words.len())
    }

    /// Adds the weighted sum of `tensor`, which no op uses, to the loss.
    fn weigh(&mut self, tensor: TensorId) {
        let number = self.weights.len();
        let weights = normals(100 + number as u64, self.graph.get(tensor).len, 1.0);
        let seed = self.input(Input::Other(number), &weights);
        self.graph.seed(tensor, seed);
        self.graph.output(tensor);
        self.weights.push(weights);
    }

    /// Adds `weight` times the mean of per-row losses, whose backward pass starts by itself, to the loss.
    fn mean(&mut self, losses: TensorId, weight: f32) {
        let rows = self.graph.get(losses).len;
        self.graph.output(losses);
        self.weights.push(vec![weight / rows as f32; rows]);
    }

    /// Compares every element of the gradient with the difference quotient of fourth order.
    fn check(mut self, what: &str) {
        self.graph.backward();
        let Chain { graph, state, parameters: (buffer, values), gradients, names, mut inputs, weights } = self;
        let plan = Plan::new(graph);
        inputs.sort_by_key(|&(input, _)| input);
        let bytes: Vec<&[u8]> = inputs.iter().map(|(_, words)| bytemuck::cast_slice(words)).collect();
        let mut device = Cpu::new(&state.buffers, vec![plan]).expect("the CPU executor");
        let mut outputs = Vec::new();
        let mut loss = |at: usize, by: f32, gradient: Option<&mut Vec<u32>>| -> f64 {
            let mut moved = values.clone();
            moved[at] += by;
            device.write(buffer, 0, bytemuck::cast_slice(&moved)).expect("a write");
            device.submit(0, &bytes).expect("a step");
            device.receive(0, &mut outputs).expect("its outputs");
            if let Some(words) = gradient {
                device.read(gradients, 0, words).expect("the gradients");
            }
            let terms = weights.iter().zip(&outputs).flat_map(|(w, o)| w.iter().zip(o));
            terms.map(|(&w, &o)| f64::from(w) * f64::from(o)).sum()
        };
        // What is in the buffer before must not matter.
        let mut words = vec![0u32; values.len()];
        loss(0, 0.0, None);
        loss(0, 0.0, Some(&mut words));
        let gradient: Vec<f32> = words.iter().map(|&w| f32::from_bits(w)).collect();
        let scale = gradient.iter().fold(0f32, |m, g| m.max(g.abs()));
        assert!(scale > 0.0, "{what}: no gradient arrives");
        let h = 0.02;
        for (i, (name, index)) in names.iter().enumerate() {
            // The step that f32 makes of h.
            let step = f64::from((values[i] + h) - values[i]);
            let near = loss(i, h, None) - loss(i, -h, None);
            let far = loss(i, 2.0 * h, None) - loss(i, -2.0 * h, None);
            let wanted = (8.0 * near - far) / (12.0 * step);
            let error = (wanted - f64::from(gradient[i])).abs();
            let allowed = 4e-4 * (f64::from(scale) + wanted.abs());
            assert!(error <= allowed, "{what}: {name}[{index}]: {} from the graph, {wanted} by differences", gradient[i]);
        }
    }
}

/// `rows` vectors of lengths around 2, away from 0 where the step would be large.
fn vectors(seed: u64, rows: usize, width: usize) -> Vec<f32> {
    normals(seed, rows * width, 1.0).iter().map(|x| x + 0.5f32.copysign(*x)).collect()
}

/// A small MMoE without kinks: x is read by experts and gates, so its gradient is a sum; the supervised losses end the chain.
#[test]
fn linear_mixture_and_losses() {
    let (rows, inputs, experts, width) = (5, 3, 2, 4);
    let (mut chain, t) = Chain::new(&[
        ("x", normals(1, rows * inputs, 1.0)),
        ("experts", normals(2, inputs * experts * width, 0.5)),
        ("bias of experts", normals(3, experts * width, 0.5)),
        ("gates", normals(4, inputs * 2 * experts, 0.5)),
        ("bias of gates", normals(5, 2 * experts, 0.5)),
        ("heads", normals(6, 2 * width, 0.5)),
        ("bias of heads", normals(7, 2, 0.5)),
        ("another reader of x", normals(8, inputs * 2, 0.5)),
    ]);
    let layer = |groups, inputs, outputs| Linear {
        rows,
        groups,
        inputs,
        outputs,
        activation: Activation::Identity,
        input_gradient: true,
    };
    let g = &mut chain.graph;
    let gates = GateLayer { w: t[3], bias: t[4], outputs: 2 * experts };
    let (f, gates) = linear_with_gates(g, t[0], t[1], Some(t[2]), layer(1, inputs, experts * width), gates);
    let mixed = mixture(g, gates, f, Mixture { rows, experts, width, gates: Gates::all(2, experts) });
    let logits = linear(g, mixed, t[5], Some(t[6]), layer(2, width, 1));
    let weights = Loss { ctr: 1.0, ctcvr: 0.7, cvr: 0.5, ..Loss::default() };
    let values = losses(g, Logits { tasks: logits, direct: false, imputation: None }, rows, &weights, None);
    g.output(values);
    let labels = [[1.0f32, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]];
    let inverse_clicks = 1.0 / 3.0;
    chain.input(Input::Labels, &labels);
    let step = Step {
        dense_lr: 0.0,
        embedding_lr: 0.0,
        correction1: 0.0,
        correction2: 0.0,
        inverse_clicks,
        number: [0; 2],
        contrast: 1.0,
    };
    chain.input(Input::Step, &[step]);
    let n = rows as f32;
    chain.weights.push([weights.ctr / n, weights.ctcvr / n, weights.cvr * inverse_clicks].repeat(rows));
    let another = linear(&mut chain.graph, t[0], t[7], None, layer(1, inputs, 2));
    chain.weigh(another);
    chain.check("linear, mixture, losses");
}

/// A level of PLE: three mixtures over ranges of experts, taken apart, one of them mixed again by given weights.
#[test]
fn mixtures_of_some_experts_and_columns() {
    let (rows, experts, width) = (4, 5, 3);
    let gates = Gates::new(&[0..3, 0..5, 2..5]);
    let (mut chain, t) = Chain::new(&[
        ("logits", normals(1, rows * gates.columns(), 1.0)),
        ("experts", normals(2, rows * experts * width, 1.0)),
        ("weights", normals(3, rows * 4, 1.0)),
    ]);
    let g = &mut chain.graph;
    let mixed = mixture(g, t[0], t[1], Mixture { rows, experts, width, gates });
    let parts = split(g, mixed, rows, &[width, width, width]);
    let pair = concat(g, &[parts[2], parts[0]], rows);
    let stitched = mix(g, t[2], pair, Mixture { rows, experts: 2, width, gates: Gates::all(2, 2) });
    chain.weigh(stitched);
    // A second use of a part and of the mixtures as a whole.
    for tensor in [parts[0], mixed] {
        let pairs = chain.graph.get(tensor).len / 2;
        let u = interact(&mut chain.graph, tensor, pairs, 1, true);
        chain.weigh(u);
    }
    chain.check("mixtures of some experts, columns");
}

#[test]
fn transfer_between_tasks() {
    let (rows, width) = (3, 4);
    let (mut chain, t) = Chain::new(&[("h", normals(1, rows * 6 * width, 1.0))]);
    for _ in 0..2 {
        let z = transfer(&mut chain.graph, t[0], rows, width);
        let u = interact(&mut chain.graph, z, rows, width / 2, true);
        chain.weigh(u);
    }
    chain.check("transfer");
}

/// Learned weights: logits and uncertainties against the total that the report has, CVR losses of two kinds.
#[test]
fn uncertainties_of_the_losses() {
    for cvr_kind in [CvrLoss::Clicked, CvrLoss::Dr] {
        let rows = 5;
        let mut parameters = vec![("b", normals(1, rows, 1.0)), ("uncertainty", vec![0.5, -0.7, 0.3])];
        if cvr_kind == CvrLoss::Dr {
            parameters.push(("m", normals(2, rows, 1.0)));
        }
        let (mut chain, t) = Chain::new(&parameters);
        let a = chain.input(Input::Other(9), &normals(3, rows, 1.0));
        let health = chain.state.add("health", 1);
        let g = &mut chain.graph;
        let tasks = concat(g, &[a, t[0]], rows);
        let imputation = t.get(2).map(|&m| concat(g, &[m], rows));
        let loss = Loss { ctr: 1.0, ctcvr: 0.7, cvr: 0.5, cvr_kind, propensity_floor: 0.4, ..Loss::default() };
        let values = losses(g, Logits { tasks, direct: false, imputation }, rows, &loss, Some(t[1]));
        let health = g.state("health", health, 0, 1);
        let summary = report(g, values, None, health, rows, &loss, Some(t[1]));
        g.output(summary);
        chain.input(Input::Labels, &[[1.0f32, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]);
        let step = Step { inverse_clicks: 1.0 / 3.0, ..bytemuck::Zeroable::zeroed() };
        chain.input(Input::Step, &[step]);
        chain.weights.push(vec![0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        chain.check(&format!("uncertainties, {cvr_kind:?}"));
    }
}

/// The kinds of CVR loss whose propensity passes no gradient back: CTR logits are no parameters here.
#[test]
fn estimates_of_the_conversion_loss() {
    for kind in [CvrLoss::Ipw, CvrLoss::Dr] {
        let rows = 5;
        let mut parameters = vec![("b", normals(1, rows, 1.0))];
        if kind == CvrLoss::Dr {
            parameters.push(("m", normals(2, rows, 1.0)));
        }
        let (mut chain, t) = Chain::new(&parameters);
        let a = chain.input(Input::Other(9), &normals(3, rows, 1.0));
        let g = &mut chain.graph;
        let tasks = concat(g, &[a, t[0]], rows);
        let imputation = t.get(1).map(|&m| concat(g, &[m], rows));
        let loss = Loss { ctr: 1.0, ctcvr: 0.0, cvr: 0.8, cvr_kind: kind, propensity_floor: 0.4, ..Loss::default() };
        let values = losses(g, Logits { tasks, direct: false, imputation }, rows, &loss, None);
        g.output(values);
        let labels = [[1.0f32, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]];
        chain.input(Input::Labels, &labels);
        let step: Step = bytemuck::Zeroable::zeroed();
        chain.input(Input::Step, &[step]);
        let n = rows as f32;
        chain.weights.push([loss.ctr / n, 0.0, loss.cvr / n].repeat(rows));
        chain.check(&format!("losses of kind {kind:?}"));
    }
}

/// The second output as CTCVR, with the calibrator on either side of its kink.
#[test]
fn direct_ctcvr_and_its_calibrator() {
    let rows = 4;
    let (mut chain, t) = Chain::new(&[("logits", vec![0.5, -1.0, -1.0, 0.5, 1.5, 0.2, -0.7, 0.9])]);
    let g = &mut chain.graph;
    let loss = Loss { ctr: 0.5, ctcvr: 0.7, cvr: 0.0, calibrator: 2.0, ..Loss::default() };
    let tasks = concat(g, &[t[0]], rows);
    let values = losses(g, Logits { tasks, direct: true, imputation: None }, rows, &loss, None);
    g.output(values);
    chain.input(Input::Labels, &[[1.0f32, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]);
    let step: Step = bytemuck::Zeroable::zeroed();
    chain.input(Input::Step, &[step]);
    let n = rows as f32;
    chain.weights.push([loss.ctr / n, loss.ctcvr / n, 0.0].repeat(rows));
    chain.check("direct CTCVR");
}

/// A hidden layer of each smooth activation with another behind it; the input is read twice, and gradients add up.
#[test]
fn activations() {
    let (rows, inputs, width) = (6, 3, 4);
    for activation in [Activation::Tanh, Activation::Gelu, Activation::Silu] {
        let (mut chain, t) = Chain::new(&[
            ("x", normals(1, rows * inputs, 1.0)),
            ("first", normals(2, inputs * 2 * width, 0.7)),
            ("bias of first", normals(3, 2 * width, 0.7)),
            ("second", normals(4, 2 * width * 2, 0.7)),
            ("bias of second", normals(5, 4, 0.7)),
        ]);
        let layer = |groups, inputs, outputs| Linear { rows, groups, inputs, outputs, activation, input_gradient: true };
        for _ in 0..2 {
            let h = linear(&mut chain.graph, t[0], t[1], Some(t[2]), layer(1, inputs, 2 * width));
            let y = linear(&mut chain.graph, h, t[3], Some(t[4]), layer(2, width, 2));
            chain.weigh(y);
        }
        chain.check(&format!("linear with {activation:?}"));
    }
}

/// Two groups through one gain and offset twice, so that gradients of x, gain and offset add up; each smooth activation behind.
#[test]
fn layer_norm_and_activation() {
    let (rows, groups, width) = (4, 2, 5);
    let columns = groups * width;
    for kind in [Activation::Identity, Activation::Tanh, Activation::Gelu, Activation::Silu] {
        let (mut chain, t) = Chain::new(&[
            ("x", normals(1, rows * columns, 2.0)),
            ("gain", normals(2, columns, 1.0)),
            ("offset", normals(3, columns, 0.5)),
            ("w", normals(4, groups * width * 3, 0.5)),
        ]);
        let g = &mut chain.graph;
        let mut h = t[0];
        for _ in 0..2 {
            let y = layer_norm(g, h, t[1], t[2], LayerNorm { rows, groups, width });
            h = activation(g, y, rows, kind);
        }
        let shape = Linear { rows, groups, inputs: width, outputs: 3, activation: Activation::Tanh, input_gradient: true };
        let again = activation(g, t[0], rows, kind);
        // x itself is read twice too: by the norm above and here.
        let again = linear(g, again, t[3], None, shape);
        let y = linear(g, h, t[3], None, shape);
        chain.weigh(y);
        chain.weigh(again);
        chain.check(&format!("layer norm, {kind:?}"));
    }
}

/// Through one gain and offset twice, so that gradients of x, gain and offset add up: the minibatch's mean and variance depend on each
/// row. A second chunk of rows; a smooth activation behind.
#[test]
fn batch_norm_and_activation() {
    for (rows, columns) in [(4, 6), (66, 2)] {
        let (mut chain, t) = Chain::new(&[
            ("x", normals(1, rows * columns, 2.0)),
            ("gain", normals(2, columns, 1.0)),
            ("offset", normals(3, columns, 0.5)),
        ]);
        let mut state = |name, len| {
            let id = chain.state.add(name, len);
            chain.graph.state(name, id, 0, len)
        };
        let running = Moments { mean: state("running mean", columns), variance: state("running variance", columns) };
        let health = state("health", 1);
        let g = &mut chain.graph;
        let mut h = t[0];
        for _ in 0..2 {
            let y = batch_norm(g, h, t[1], t[2], rows, running, health);
            h = activation(g, y, rows, Activation::Tanh);
        }
        // x itself is read twice too: by the norm above and here.
        let again = batch_norm(g, t[0], t[1], t[2], rows, running, health);
        chain.weigh(h);
        chain.weigh(again);
        chain.check(&format!("batch norm of {rows} rows"));
    }
}

/// The mask of a step is the same in both directions; two layers drop different elements, and their gradients add up.
#[test]
fn dropout_at_a_fixed_step() {
    let (rows, width) = (7, 5);
    let (mut chain, t) = Chain::new(&[("x", normals(1, rows * width, 1.0)), ("w", normals(2, width * 3, 0.7))]);
    let number = [3, 1];
    let step = Step {
        dense_lr: 0.0,
        embedding_lr: 0.0,
        correction1: 0.0,
        correction2: 0.0,
        inverse_clicks: 0.0,
        number,
        contrast: 1.0,
    };
    chain.input(Input::Step, &[step]);
    for layer in 0..2 {
        let kept = dropout(&mut chain.graph, t[0], rows, Dropout { rate: 0.4, seed: 11, layer });
        let shape = Linear { rows, groups: 1, inputs: width, outputs: 3, activation: Activation::Tanh, input_gradient: true };
        let y = linear(&mut chain.graph, kept, t[1], None, shape);
        chain.weigh(y);
    }
    chain.check("dropout");
}

#[test]
fn normalize_and_interact() {
    let (rows, width) = (4, 5);
    let (mut chain, t) = Chain::new(&[("y", vectors(1, rows * 2, width))]);
    let z = normalize(&mut chain.graph, t[0], rows, 2, width);
    // Twice, so that one of the two adds to the gradient of z.
    for _ in 0..2 {
        let u = interact(&mut chain.graph, z, rows, width, true);
        chain.weigh(u);
    }
    chain.check("normalize, interact");
}

#[test]
fn normalize_below_the_floor() {
    // z is linear there with slope 1e6: parameters cannot move by a useful step, so the gradient is known by hand.
    let (rows, width) = (2, 3);
    let (mut chain, t) = Chain::new(&[("y", normals(1, rows * width, 1e-8))]);
    let z = normalize(&mut chain.graph, t[0], rows, 1, width);
    chain.weigh(z);
    chain.graph.backward();
    let Chain { graph, state, parameters: (buffer, values), gradients, inputs, weights, .. } = chain;
    let mut device = Cpu::new(&state.buffers, vec![Plan::new(graph)]).expect("the CPU executor");
    device.write(buffer, 0, bytemuck::cast_slice(&values)).expect("a write");
    device.submit(0, &[bytemuck::cast_slice(&inputs[0].1)]).expect("a step");
    let mut words = vec![0u32; values.len()];
    device.read(gradients, 0, &mut words).expect("the gradients");
    for (&g, w) in words.iter().zip(&weights[0]) {
        let wanted = w * 1e6;
        assert!((f32::from_bits(g) - wanted).abs() <= 1e-6 * wanted.abs());
    }
}

#[test]
fn temperature_of_rows_and_of_the_task() {
    let rows = 6;
    for task in [false, true] {
        let (mut chain, t) = Chain::new(&[("r", normals(2, if task { 1 } else { rows }, 1.0))]);
        // Two uses of r and two of the first tau.
        let tau = temperature(&mut chain.graph, t[0], rows, task, 0.05, 1.0);
        for _ in 0..2 {
            let u = interact(&mut chain.graph, tau, rows / 2, 1, true);
            chain.weigh(u);
        }
        let wide = temperature(&mut chain.graph, t[0], rows, task, 0.5, 7.0);
        chain.weigh(wide);
        chain.check(if task { "temperature of the task" } else { "temperature of rows" });
    }
}

/// r is supervised beside its use by the temperature: the two gradients add up, whichever is there.
#[test]
fn agreement_beside_the_temperature() {
    let rows = 5;
    for with_temperature in [false, true] {
        let (mut chain, t) = Chain::new(&[("r", normals(2, rows, 1.5))]);
        chain.input(Input::Labels, &[[1.0f32, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]);
        let tau = temperature(&mut chain.graph, t[0], rows, false, 0.05, 1.0);
        let losses = agreement(&mut chain.graph, t[0], rows, 0.7);
        chain.mean(losses, 0.7);
        if with_temperature {
            chain.weigh(tau);
        }
        chain.check(&format!("agreement, temperature {with_temperature}"));
    }
}

#[test]
fn stopped_gradients_stay_stopped() {
    let (rows, width) = (3, 2);
    let (mut chain, t) = Chain::new(&[("a", vectors(1, rows * 2, width))]);
    let u = interact(&mut chain.graph, t[0], rows, width, false);
    chain.weigh(u);
    chain.graph.backward();
    assert!(chain.graph.gradient(t[0]).is_none());
}

#[test]
fn contrast_of_all_kinds() {
    let (rows, width) = (7, 3);
    let step = Step { contrast: 0.6, ..bytemuck::Zeroable::zeroed() };
    for negatives in [0, 1, 3] {
        for direction in [Direction::CtrToCvr, Direction::CvrToCtr, Direction::Both] {
            for objective in [Objective::Infonce, Objective::Robust] {
                for masked in [false, true] {
                    for task in [None, Some(false), Some(true)] {
                        let r = normals(4, if task == Some(true) { 1 } else { rows }, 1.0);
                        let (mut chain, t) = Chain::new(&[("y", vectors(3, rows * 2, width)), ("r", r)]);
                        let z = normalize(&mut chain.graph, t[0], rows, 2, width);
                        let tau = match task {
                            Some(task) => temperature(&mut chain.graph, t[1], rows, task, 0.3, 2.0),
                            None => constant(&mut chain.graph, rows, 0.5),
                        };
                        let spec = Contrast {
                            rows,
                            width,
                            weight: 3.0 / 0.6,
                            direction,
                            objective,
                            rho: 0.7,
                            negatives,
                            clicked_anchors: masked && negatives != 1,
                            masked,
                            tau_gradient: task.is_some(),
                        };
                        chain.input(Input::Step, &[step]);
                        if spec.clicked_anchors {
                            chain.input(
                                Input::Labels,
                                &[[1.0f32, 0.0], [0.0; 2], [1.0; 2], [1.0; 2], [0.0; 2], [1.0, 0.0], [1.0; 2]],
                            );
                        }
                        if masked {
                            chain.input(Input::MaskKey, &[0u32, 5, 5, 8, 0, 8, 5]);
                        }
                        if negatives > 0 {
                            chain.input(Input::Offsets, &[4u32, 1, 3][..negatives]);
                        }
                        let losses = contrast(&mut chain.graph, z, tau, spec).losses;
                        chain.mean(losses, 3.0);
                        // Other users of z and tau: their gradients come first and the contrast adds to them.
                        let u = interact(&mut chain.graph, z, rows, width, true);
                        chain.weigh(u);
                        if let Some(task) = task {
                            let other = temperature(&mut chain.graph, t[1], rows, task, 0.0, 1.0);
                            chain.weigh(other);
                        } else {
                            // Without a temperature to learn r is used by nothing else.
                            let other = temperature(&mut chain.graph, t[1], rows, false, 0.0, 1.0);
                            chain.weigh(other);
                        }
                        chain.check(&format!("{negatives} {direction:?} {objective:?} masked {masked} task {task:?}"));
                    }
                }
            }
        }
    }
}

#[test]
fn two_contrasts_share_z_and_tau() {
    let (rows, width) = (6, 4);
    let (mut chain, t) = Chain::new(&[("y", vectors(3, rows * 2, width)), ("r", normals(4, rows, 1.0))]);
    let z = normalize(&mut chain.graph, t[0], rows, 2, width);
    let tau = temperature(&mut chain.graph, t[1], rows, false, 0.3, 2.0);
    chain.input(Input::Offsets, &[4u32, 1, 3]);
    chain.input(Input::Step, &[Step { contrast: 1.0, ..bytemuck::Zeroable::zeroed() }]);
    for (weight, negatives, objective) in [(2.0, 0, Objective::Robust), (0.5, 3, Objective::Infonce)] {
        let spec = Contrast {
            rows,
            width,
            weight,
            direction: Direction::Both,
            objective,
            rho: 0.7,
            negatives,
            clicked_anchors: false,
            masked: false,
            tau_gradient: true,
        };
        let losses = contrast(&mut chain.graph, z, tau, spec).losses;
        chain.mean(losses, weight);
    }
    chain.check("two contrasts");
}
