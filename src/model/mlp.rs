//! Linear layers and stacks of them, for groups side by side.

use super::parameters::Parameters;
use super::{Activations, Builder, TASKS};
use crate::config::{Activation, Model, Norm};
use crate::graph::{Initial, TensorId};
use crate::ops::activation::activation;
use crate::ops::batch_norm::{Moments, batch_norm, normalized};
use crate::ops::layer_norm::{LayerNorm, layer_norm};
use crate::ops::linear::{GateLayer, Linear, linear, linear_with_gates};

/// What follows the product and its bias in a hidden layer: the norm, then the activation. A batch norm has no bias before it, which it
/// would take out again: its offset is the bias.
#[derive(Debug, Clone, Copy)]
pub struct Hidden {
    norm: Norm,
    activation: Activation,
}

impl Hidden {
    /// As `[model]` says, for the layers of encoder and towers.
    pub fn of(model: &Model) -> Hidden {
        Hidden { norm: model.norm, activation: model.activation }
    }

    /// The activation alone, for the layers beside them.
    pub fn without_norm(activation: Activation) -> Hidden {
        Hidden { norm: Norm::None, activation }
    }
}

/// One linear layer. Groups that read a shared input are one product with their outputs side by side.
pub struct Layer {
    name: String,
    weight: usize,
    bias: Option<usize>,
    /// Groups of the input.
    groups: usize,
    inputs: usize,
    /// Columns that a group of the input gives.
    outputs: usize,
    /// Groups of the output.
    output_groups: usize,
    activation: Activation,
    norm: Option<Affine>,
}

/// A norm by the numbers of what it has.
#[derive(Clone, Copy)]
struct Affine {
    gain: usize,
    offset: usize,
    /// Mean and variance that evaluation goes by: of a batch norm.
    running: Option<[usize; 2]>,
}

impl Layer {
    /// `output_groups` times `outputs` columns from one input: weight [K, G * N], bias [G * N].
    pub fn shared(
        p: &mut Parameters,
        name: &str,
        output_groups: usize,
        inputs: usize,
        outputs: usize,
        hidden: Option<Hidden>,
    ) -> Layer {
        let columns = output_groups * outputs;
        let bound = Initial::Uniform(1.0 / (inputs as f32).sqrt());
        let layer = Layer {
            name: name.to_string(),
            weight: p.dense(format!("{name}.weight"), &[inputs, columns], bound),
            bias: None,
            groups: 1,
            inputs,
            outputs: columns,
            output_groups,
            activation: Activation::Identity,
            norm: None,
        };
        layer.followed(p, hidden)
    }

    /// Each group from its own input: weight [G, K, N], bias [G * N].
    pub fn grouped(
        p: &mut Parameters,
        name: &str,
        groups: usize,
        inputs: usize,
        outputs: usize,
        hidden: Option<Hidden>,
    ) -> Layer {
        Layer::without_bias(p, name, groups, inputs, outputs).followed(p, hidden)
    }

    /// The layer with bias, norm and activation behind its product.
    fn followed(self, p: &mut Parameters, hidden: Option<Hidden>) -> Layer {
        let Hidden { norm, activation } = hidden.unwrap_or(Hidden::without_norm(Activation::Identity));
        let columns = [self.groups * self.outputs];
        let bound = Initial::Uniform(1.0 / (self.inputs as f32).sqrt());
        let bias = (norm != Norm::Batch).then(|| p.dense(format!("{}.bias", self.name), &columns, bound));
        let name = |part: &str| format!("{}.norm.{part}", self.name);
        let norm = (norm != Norm::None).then(|| Affine {
            gain: p.dense(name("weight"), &columns, Initial::Constant(1.0)),
            offset: p.dense(name("bias"), &columns, Initial::Constant(0.0)),
            running: (norm == Norm::Batch).then(|| {
                [("running_mean", 0.0), ("running_var", 1.0)].map(|(part, start)| p.statistic(name(part), &columns, start))
            }),
        });
        Layer { bias, activation, norm, ..self }
    }

    /// Each group from its own input, the product alone: weight [G, K, N].
    pub fn without_bias(p: &mut Parameters, name: &str, groups: usize, inputs: usize, outputs: usize) -> Layer {
        let bound = Initial::Uniform(1.0 / (inputs as f32).sqrt());
        Layer {
            name: name.to_string(),
            weight: p.dense(format!("{name}.weight"), &[groups, inputs, outputs], bound),
            bias: None,
            groups,
            inputs,
            outputs,
            output_groups: groups,
            activation: Activation::Identity,
            norm: None,
        }
    }

    /// Has the layer start as a constant function: weight 0 and this bias.
    pub fn start_constant(&self, p: &mut Parameters, bias: f32) {
        p.list[self.weight].initial = Initial::Constant(0.0);
        if let Some(index) = self.bias {
            p.list[index].initial = Initial::Constant(bias);
        }
    }

    /// Puts the layer into the graph; `pass_gradient`: whether the input receives one.
    pub fn forward(&self, b: &mut Builder, x: Activations, pass_gradient: bool) -> Activations {
        let (weight, bias, shape) = self.product(b, x, pass_gradient);
        b.graph.scope(&self.name);
        let y = linear(&mut b.graph, x.tensor, weight, bias, shape);
        self.finish(b, y)
    }

    /// As [`Layer::forward`] with a gradient to the input, and `gates`, a layer without norm and activation that reads the same input: both are
    /// one product. The layer's activations and the gates' logits.
    pub fn forward_with_gates(&self, b: &mut Builder, x: Activations, gates: &Layer) -> (Activations, Activations) {
        let (weight, bias, shape) = self.product(b, x, true);
        let (w, gate_bias, Linear { outputs, activation, .. }) = gates.product(b, x, true);
        assert!(gates.norm.is_none() && activation == Activation::Identity, "{} are logits", gates.name);
        let of_gates = GateLayer { w, bias: gate_bias.expect("gates have biases"), outputs };
        b.graph.scope(&format!("{} + {}", self.name, gates.name));
        let (y, logits) = linear_with_gates(&mut b.graph, x.tensor, weight, bias, shape, of_gates);
        b.graph.scope(&self.name);
        (self.finish(b, y), gates.finish(b, logits))
    }

    /// Weight, bias and shape of its product.
    fn product(&self, b: &mut Builder, x: Activations, pass_gradient: bool) -> (TensorId, Option<TensorId>, Linear) {
        assert_eq!((x.groups, x.width), (self.groups, self.inputs), "input of {}", self.name);
        let shape = Linear {
            rows: b.rows,
            groups: self.groups,
            inputs: self.inputs,
            outputs: self.outputs,
            // A norm comes between product and activation.
            activation: if self.norm.is_some() { Activation::Identity } else { self.activation },
            input_gradient: pass_gradient,
        };
        (b.parameter(self.weight), self.bias.map(|bias| b.parameter(bias)), shape)
    }

    /// What follows the product.
    fn finish(&self, b: &mut Builder, product: TensorId) -> Activations {
        let mut tensor = product;
        let (groups, width) = (self.output_groups, self.outputs * self.groups / self.output_groups);
        if let Some(Affine { gain, offset, running }) = self.norm {
            let (gain, offset) = (b.parameter(gain), b.parameter(offset));
            let running = running.map(|[mean, variance]| Moments { mean: b.parameter(mean), variance: b.parameter(variance) });
            let rows = b.rows;
            tensor = match running {
                Some(running) if b.training() => {
                    let health = b.health();
                    batch_norm(&mut b.graph, tensor, gain, offset, rows, running, health)
                }
                Some(running) => normalized(&mut b.graph, tensor, gain, offset, rows, running),
                None => layer_norm(&mut b.graph, tensor, gain, offset, LayerNorm { rows, groups, width }),
            };
            tensor = activation(&mut b.graph, tensor, b.rows, self.activation);
        }
        Activations { tensor, groups, width }
    }
}

/// A stack of activated layers.
pub struct Mlp {
    layers: Vec<Layer>,
}

impl Mlp {
    /// `groups` stacks of `widths`, from one shared input of `inputs` columns; each layer is named `NAME.<number>`.
    pub fn shared(p: &mut Parameters, name: &str, groups: usize, inputs: usize, widths: &[usize], hidden: Hidden) -> Mlp {
        Mlp::new(p, name, (1, groups), inputs, widths, hidden)
    }

    /// A stack a task, from an input of `input_groups` groups: 1 shared or one a task.
    pub fn tasks(p: &mut Parameters, name: &str, input_groups: usize, inputs: usize, widths: &[usize], hidden: Hidden) -> Mlp {
        Mlp::new(p, name, (input_groups, TASKS), inputs, widths, hidden)
    }

    fn new(
        p: &mut Parameters,
        name: &str,
        (mut input_groups, groups): (usize, usize),
        mut inputs: usize,
        widths: &[usize],
        hidden: Hidden,
    ) -> Mlp {
        let mut layers = Vec::new();
        for (i, &width) in widths.iter().enumerate() {
            let name = format!("{name}.{i}");
            let make = if input_groups == groups && groups > 1 { Layer::grouped } else { Layer::shared };
            layers.push(make(p, &name, groups, inputs, width, Some(hidden)));
            (input_groups, inputs) = (groups, width);
        }
        Mlp { layers }
    }

    /// Columns of a group of the output.
    pub fn width(&self) -> usize {
        self.layers.last().map_or(0, |l| l.outputs * l.groups / l.output_groups)
    }

    /// Puts the layers into the graph, each followed by dropout.
    pub fn forward(&self, b: &mut Builder, x: Activations) -> Activations {
        Mlp::through(&self.layers, b, x)
    }

    /// As [`Mlp::forward`], and the logits of `gates` that read the same input, by one product with the first layer.
    pub fn forward_with_gates(&self, b: &mut Builder, x: Activations, gates: &Layer) -> (Activations, Activations) {
        let (first, rest) = self.layers.split_first().expect("experts have layers");
        let (y, logits) = first.forward_with_gates(b, x, gates);
        let y = b.dropout(y);
        (Mlp::through(rest, b, y), logits)
    }

    fn through(layers: &[Layer], b: &mut Builder, x: Activations) -> Activations {
        layers.iter().fold(x, |x, layer| {
            let y = layer.forward(b, x, true);
            b.dropout(y)
        })
    }

    /// The layers without dropout, and without a gradient to the input unless `pass_gradient`.
    pub fn forward_stopped(&self, b: &mut Builder, x: Activations, pass_gradient: bool) -> Activations {
        self.layers.iter().enumerate().fold(x, |x, (i, layer)| layer.forward(b, x, i > 0 || pass_gradient))
    }
}
