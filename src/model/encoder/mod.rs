//! Encoders: how the task representations are made of the features. One file each.

mod aitm;
mod cross_stitch;
mod mmoe;
mod ple;
mod shared_bottom;
mod task_networks;

use super::parameters::Parameters;
use super::{Activations, Builder};
use crate::config;

/// Makes task representations of the features.
pub trait Encoder {
    /// Groups (1 shared by the tasks, or one a task) and columns of the output.
    fn shape(&self) -> (usize, usize);
    /// Puts the encoder into the graph.
    fn forward(&self, b: &mut Builder, x: Activations) -> Activations;
}

/// The configured encoder over `groups` sets of `columns` columns of features.
pub fn new(model: &config::Model, (groups, columns): (usize, usize), parameters: &mut Parameters) -> Box<dyn Encoder> {
    match model.encoder {
        config::Encoder::SingleTask | config::Encoder::Esmm => {
            Box::new(task_networks::TaskNetworks::new(model, (groups, columns), parameters))
        }
        config::Encoder::SharedBottom => Box::new(shared_bottom::SharedBottom::new(model, columns, parameters)),
        config::Encoder::Mmoe => Box::new(mmoe::Mmoe::new(model, columns, parameters)),
        config::Encoder::Ple => Box::new(ple::Ple::new(model, columns, parameters)),
        config::Encoder::CrossStitch => Box::new(cross_stitch::CrossStitch::new(model, columns, parameters)),
        config::Encoder::Aitm => Box::new(aitm::Aitm::new(model, columns, parameters)),
    }
}
