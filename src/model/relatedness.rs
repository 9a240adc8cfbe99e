//! The relatedness network: the temperature of the contrastive loss, for each instance, for the task, or fixed.

use super::mlp::{Hidden, Layer, Mlp};
use super::parameters::Parameters;
use super::{Activations, Builder};
use crate::config::{Activation, Contrast, RelatednessInput, Temperature};
use crate::graph::{Initial, TensorId};
use crate::ops::{agreement, interact, temperature};

/// Where tau comes from.
pub struct Relatedness {
    source: Source,
    tau_min: f32,
    tau_max: f32,
    input: RelatednessInput,
    pass_gradient: bool,
    passes_tau_gradient: bool,
    supervision: f32,
}

enum Source {
    Fixed(f32),
    /// The parameter `temperature`: the raw r.
    Task(usize),
    /// `relatedness.<layer>`; the last gives r.
    Instance {
        hidden: Mlp,
        last: Layer,
    },
}

impl Relatedness {
    /// As `[contrast]` says, over towers of `hidden` columns and `columns` columns of features.
    pub fn new(
        contrast: &Contrast,
        activation: Activation,
        hidden: usize,
        columns: usize,
        parameters: &mut Parameters,
    ) -> Relatedness {
        // The logit of tau_init within the bounds, in f64: tau starts there.
        let share = (f64::from(contrast.tau_init) - f64::from(contrast.tau_min))
            / (f64::from(contrast.tau_max) - f64::from(contrast.tau_min));
        let start = (share / (1.0 - share)).ln() as f32;
        let source = match contrast.temperature {
            Temperature::Fixed(tau) => Source::Fixed(tau),
            Temperature::Task => Source::Task(parameters.dense("temperature", &[1], Initial::Constant(start))),
            Temperature::Instance | Temperature::Off => {
                let inputs = match contrast.input {
                    RelatednessInput::Towers => 3 * hidden,
                    RelatednessInput::Embedding => columns,
                };
                let layers =
                    Mlp::shared(parameters, "relatedness", 1, inputs, &contrast.hidden, Hidden::without_norm(activation));
                let inputs = contrast.hidden.last().copied().unwrap_or(inputs);
                let name = format!("relatedness.{}", contrast.hidden.len());
                let last = Layer::shared(parameters, &name, 1, inputs, 1, None);
                last.start_constant(parameters, start);
                Source::Instance { hidden: layers, last }
            }
        };
        Relatedness {
            source,
            tau_min: contrast.tau_min,
            tau_max: contrast.tau_max,
            input: contrast.input,
            pass_gradient: !contrast.stop_gradient,
            passes_tau_gradient: contrast.temperature_gradient,
            supervision: contrast.relatedness_supervision,
        }
    }

    /// Whether the contrastive loss gives tau a gradient.
    pub fn takes_gradient(&self) -> bool {
        self.passes_tau_gradient && !matches!(self.source, Source::Fixed(_))
    }

    /// tau `[B]` from tower outputs `a` [B, 2 H] or features `x`; and in training, where the network is supervised, the losses
    /// `[B]` of its r with the weight of their mean.
    pub fn forward(&self, b: &mut Builder, a: Activations, x: TensorId) -> (TensorId, Option<(TensorId, f32)>) {
        let rows = b.rows;
        let (r, task) = match &self.source {
            Source::Fixed(tau) => {
                b.graph.scope("temperature");
                return (temperature::constant(&mut b.graph, rows, *tau), None);
            }
            Source::Task(index) => (b.parameter(*index), true),
            Source::Instance { hidden, last } => {
                b.graph.scope("relatedness");
                let (u, pass_gradient) = match self.input {
                    RelatednessInput::Towers => {
                        let tensor = interact::interact(&mut b.graph, a.tensor, rows, a.width, self.pass_gradient);
                        (Activations { tensor, groups: 1, width: 3 * a.width }, self.pass_gradient)
                    }
                    RelatednessInput::Embedding => {
                        let width = b.graph.get(x).len / rows;
                        (Activations { tensor: x, groups: 1, width }, self.pass_gradient)
                    }
                };
                let deep = hidden.width() > 0;
                let h = hidden.forward_stopped(b, u, pass_gradient);
                (last.forward(b, h, deep || pass_gradient).tensor, false)
            }
        };
        b.graph.scope("temperature");
        let tau = temperature::temperature(&mut b.graph, r, rows, task, self.tau_min, self.tau_max);
        let supervised = b.training() && self.supervision > 0.0 && !task;
        let losses = supervised.then(|| {
            b.graph.scope("relatedness");
            (agreement::agreement(&mut b.graph, r, rows, self.supervision), self.supervision)
        });
        (tau, losses)
    }
}
