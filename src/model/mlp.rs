//! Linear layers and stacks of them, for groups side by side.

use super::parameters::Parameters;
use super::{Activations, Builder, TASKS};
use crate::config::Activation;
use crate::graph::Initial;
use crate::ops::linear::{Linear, linear};

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
}

impl Layer {
    /// `output_groups` times `outputs` columns from one input: weight [K, G * N], bias [G * N].
    pub fn shared(
        p: &mut Parameters,
        name: &str,
        output_groups: usize,
        inputs: usize,
        outputs: usize,
        activation: Option<Activation>,
    ) -> Layer {
        let columns = output_groups * outputs;
        let bound = Initial::Uniform(1.0 / (inputs as f32).sqrt());
        Layer {
            name: name.to_string(),
            weight: p.dense(format!("{name}.weight"), &[inputs, columns], bound),
            bias: Some(p.dense(format!("{name}.bias"), &[columns], bound)),
            groups: 1,
            inputs,
            outputs: columns,
            output_groups,
            activation: activation.unwrap_or(Activation::Identity),
        }
    }

    /// Each group from its own input: weight [G, K, N], bias [G * N].
    pub fn grouped(
        p: &mut Parameters,
        name: &str,
        groups: usize,
        inputs: usize,
        outputs: usize,
        activation: Option<Activation>,
    ) -> Layer {
        let bound = Initial::Uniform(1.0 / (inputs as f32).sqrt());
        let layer = Layer::without_bias(p, name, groups, inputs, outputs);
        let bias = p.dense(format!("{name}.bias"), &[groups * outputs], bound);
        Layer { bias: Some(bias), activation: activation.unwrap_or(Activation::Identity), ..layer }
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
        assert_eq!((x.groups, x.width), (self.groups, self.inputs), "input of {}", self.name);
        let (weight, bias) = (b.parameter(self.weight), self.bias.map(|bias| b.parameter(bias)));
        b.graph.scope(&self.name);
        let shape = Linear {
            rows: b.rows,
            groups: self.groups,
            inputs: self.inputs,
            outputs: self.outputs,
            activation: self.activation,
            input_gradient: pass_gradient,
        };
        let tensor = linear(&mut b.graph, x.tensor, weight, bias, shape);
        Activations { tensor, groups: self.output_groups, width: self.outputs * self.groups / self.output_groups }
    }
}

/// A stack of activated layers.
pub struct Mlp {
    layers: Vec<Layer>,
}

impl Mlp {
    /// `groups` stacks of `widths`, from one shared input of `inputs` columns; each layer is named `NAME.<number>`.
    pub fn shared(
        p: &mut Parameters,
        name: &str,
        groups: usize,
        inputs: usize,
        widths: &[usize],
        activation: Activation,
    ) -> Mlp {
        Mlp::new(p, name, (1, groups), inputs, widths, activation)
    }

    /// A stack a task, from an input of `input_groups` groups: 1 shared or one a task.
    pub fn tasks(
        p: &mut Parameters,
        name: &str,
        input_groups: usize,
        inputs: usize,
        widths: &[usize],
        activation: Activation,
    ) -> Mlp {
        Mlp::new(p, name, (input_groups, TASKS), inputs, widths, activation)
    }

    fn new(
        p: &mut Parameters,
        name: &str,
        (mut input_groups, groups): (usize, usize),
        mut inputs: usize,
        widths: &[usize],
        activation: Activation,
    ) -> Mlp {
        let mut layers = Vec::new();
        for (i, &width) in widths.iter().enumerate() {
            let name = format!("{name}.{i}");
            let make = if input_groups == groups && groups > 1 { Layer::grouped } else { Layer::shared };
            layers.push(make(p, &name, groups, inputs, width, Some(activation)));
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
        self.layers.iter().fold(x, |x, layer| {
            let y = layer.forward(b, x, true);
            b.dropout(y)
        })
    }

    /// The layers without dropout, and without a gradient to the input unless `pass_gradient`.
    pub fn forward_stopped(&self, b: &mut Builder, x: Activations, pass_gradient: bool) -> Activations {
        self.layers.iter().enumerate().fold(x, |x, (i, layer)| layer.forward(b, x, i > 0 || pass_gradient))
    }
}
