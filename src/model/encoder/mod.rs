//! Encoders: how the task representations are made of the features. One file each.

mod mmoe;
mod shared_bottom;

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

/// The configured encoder over `columns` columns of features.
pub fn new(model: &config::Model, columns: usize, parameters: &mut Parameters) -> Box<dyn Encoder> {
    match model.encoder {
        config::Encoder::SharedBottom => Box::new(shared_bottom::SharedBottom::new(model, columns, parameters)),
        config::Encoder::Mmoe => Box::new(mmoe::Mmoe::new(model, columns, parameters)),
    }
}
