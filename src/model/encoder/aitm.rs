//! Adaptive information transfer (AITM, Xi et al., KDD 2021): a network a task; the CVR side attends to its own output and to what is
//! transferred from the CTR side. Its second output is the logit of CTCVR, not of CVR.

use super::Encoder;
use crate::config::{Activation, Model};
use crate::graph::Initial;
use crate::model::mlp::{Hidden, Layer, Mlp};
use crate::model::parameters::Parameters;
use crate::model::{Activations, Builder, TASKS};
use crate::ops::columns::{concat, split};
use crate::ops::linear::{Linear, linear};
use crate::ops::transfer::transfer;

/// `networks.<layer>`, `transfer` and `attention` [D, 3 D]: h1, h2, h3 side by side, without bias.
pub struct Aitm {
    networks: Mlp,
    transfer: Layer,
    attention: usize,
    width: usize,
}

impl Aitm {
    /// Layers of `model.hidden` for each task.
    pub fn new(model: &Model, columns: usize, parameters: &mut Parameters) -> Aitm {
        let networks = Mlp::tasks(parameters, "networks", 1, columns, &model.hidden, Hidden::of(model));
        let width = networks.width();
        let transfer = Layer::shared(parameters, "transfer", 1, width, width, Some(Hidden::of(model)));
        let bound = Initial::Uniform(1.0 / (width as f32).sqrt());
        let attention = parameters.dense("attention.weight", &[width, 3 * width], bound);
        Aitm { networks, transfer, attention, width }
    }
}

impl Encoder for Aitm {
    fn shape(&self) -> (usize, usize) {
        (TASKS, self.width)
    }

    fn forward(&self, b: &mut Builder, x: Activations) -> Activations {
        let (rows, width) = (b.rows, self.width);
        let q = self.networks.forward(b, x);
        b.graph.scope("transfer");
        let q = split(&mut b.graph, q.tensor, rows, &[width; TASKS]);
        let p = self.transfer.forward(b, Activations { tensor: q[0], groups: 1, width }, true);
        let p = b.dropout(p);
        let weight = b.parameter(self.attention);
        b.graph.scope("attention");
        // [B, 2, D]: both items of a row go through the same weights.
        let items = concat(&mut b.graph, &[p.tensor, q[1]], rows);
        let shape = Linear {
            rows: 2 * rows,
            groups: 1,
            inputs: width,
            outputs: 3 * width,
            activation: Activation::Identity,
            input_gradient: true,
        };
        let h = linear(&mut b.graph, items, weight, None, shape);
        let z = transfer(&mut b.graph, h, rows, width);
        let tensor = concat(&mut b.graph, &[q[0], z], rows);
        Activations { tensor, groups: TASKS, width }
    }
}
