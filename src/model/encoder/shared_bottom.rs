//! One MLP for both tasks (Caruana, Machine Learning 1997).

use super::Encoder;
use crate::config::Model;
use crate::model::mlp::{Hidden, Mlp};
use crate::model::parameters::Parameters;
use crate::model::{Activations, Builder};

/// `bottom.<layer>`.
pub struct SharedBottom {
    bottom: Mlp,
}

impl SharedBottom {
    /// Layers of `model.hidden`.
    pub fn new(model: &Model, columns: usize, parameters: &mut Parameters) -> SharedBottom {
        SharedBottom { bottom: Mlp::shared(parameters, "bottom", 1, columns, &model.hidden, Hidden::of(model)) }
    }
}

impl Encoder for SharedBottom {
    fn shape(&self) -> (usize, usize) {
        (1, self.bottom.width())
    }

    fn forward(&self, b: &mut Builder, x: Activations) -> Activations {
        self.bottom.forward(b, x)
    }
}
