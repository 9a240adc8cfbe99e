//! Experts mixed by a gate a task (MMoE, Ma et al., KDD 2018): t_k = sum_e softmax(x W_k)_e f_e(x).

use super::Encoder;
use crate::config::Model;
use crate::model::mlp::{Hidden, Layer, Mlp};
use crate::model::parameters::Parameters;
use crate::model::{Activations, Builder, TASKS};
use crate::ops::mixture::{Gates, Mixture, mixture};

/// `experts.<layer>` and `gates`.
pub struct Mmoe {
    experts: Mlp,
    gates: Layer,
    count: usize,
}

impl Mmoe {
    /// `model.experts` experts of layers `model.hidden`.
    pub fn new(model: &Model, columns: usize, parameters: &mut Parameters) -> Mmoe {
        Mmoe {
            experts: Mlp::shared(parameters, "experts", model.experts, columns, &model.hidden, Hidden::of(model)),
            gates: Layer::shared(parameters, "gates", TASKS, columns, model.experts, None),
            count: model.experts,
        }
    }
}

impl Encoder for Mmoe {
    fn shape(&self) -> (usize, usize) {
        (TASKS, self.experts.width())
    }

    fn forward(&self, b: &mut Builder, x: Activations) -> Activations {
        let (f, logits) = self.experts.forward_with_gates(b, x, &self.gates);
        b.graph.scope("mixture");
        let shape = Mixture { rows: b.rows, experts: self.count, width: f.width, gates: Gates::all(TASKS, self.count) };
        let tensor = mixture(&mut b.graph, logits.tensor, f.tensor, shape);
        Activations { tensor, groups: TASKS, width: f.width }
    }
}
