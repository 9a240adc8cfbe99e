//! The projection head: tower outputs to what the contrastive loss compares, each task's own.

use super::mlp::{Hidden, Layer, Mlp};
use super::parameters::Parameters;
use super::{Activations, Builder, TASKS};
use crate::config::Config;

/// `projection`, one linear layer without bias; with hidden layers `projection.<layer>`, the last of which is that one.
pub struct Projection {
    hidden: Mlp,
    last: Layer,
}

impl Projection {
    /// As `[contrast]` says, over towers of `columns` columns.
    pub fn new(config: &Config, columns: usize, parameters: &mut Parameters) -> Projection {
        let (widths, activation) = (&config.contrast.projection, config.model.activation);
        let hidden = Mlp::tasks(parameters, "projection", TASKS, columns, widths, Hidden::without_norm(activation));
        let name = match widths.len() {
            0 => "projection".to_string(),
            layers => format!("projection.{layers}"),
        };
        let columns = widths.last().copied().unwrap_or(columns);
        let last = Layer::without_bias(parameters, &name, TASKS, columns, config.contrast.width);
        Projection { hidden, last }
    }

    /// [B, 2 D] from tower outputs [B, 2 H]; nothing is dropped.
    pub fn forward(&self, b: &mut Builder, a: Activations) -> Activations {
        let h = self.hidden.forward_stopped(b, a, true);
        self.last.forward(b, h, true)
    }
}
