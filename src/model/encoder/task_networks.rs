//! A network a task and no shared layer. Over one set of embeddings: ESMM (Ma et al., SIGIR 2018); over a set a task nothing is
//! shared at all (`single-task`).

use super::Encoder;
use crate::config::Model;
use crate::model::mlp::{Hidden, Mlp};
use crate::model::parameters::Parameters;
use crate::model::{Activations, Builder, TASKS};

/// `networks.<layer>`.
pub struct TaskNetworks {
    networks: Mlp,
    shape: (usize, usize),
}

impl TaskNetworks {
    /// Layers of `model.hidden` for each task, over `groups` sets of `columns` features; without layers the towers read the features.
    pub fn new(model: &Model, (groups, columns): (usize, usize), parameters: &mut Parameters) -> TaskNetworks {
        let networks = Mlp::tasks(parameters, "networks", groups, columns, &model.hidden, Hidden::of(model));
        let shape = if model.hidden.is_empty() { (groups, columns) } else { (TASKS, networks.width()) };
        TaskNetworks { networks, shape }
    }
}

impl Encoder for TaskNetworks {
    fn shape(&self) -> (usize, usize) {
        self.shape
    }

    fn forward(&self, b: &mut Builder, x: Activations) -> Activations {
        self.networks.forward(b, x)
    }
}
