//! A network a task, mixed after each layer by a learned 2 x 2 matrix (cross-stitch, Misra et al., CVPR 2016).

use super::Encoder;
use crate::config::Model;
use crate::graph::Initial;
use crate::model::mlp::{Hidden, Layer};
use crate::model::parameters::Parameters;
use crate::model::{Activations, Builder, TASKS};
use crate::ops::linear::{Linear, linear};
use crate::ops::mixture::{Gates, Mixture, mix};
use crate::ops::temperature::constant;

/// `networks.<layer>` and `stitches.<layer>` [2, 2]: row t makes task t's activations of both.
pub struct CrossStitch {
    layers: Vec<(Layer, usize)>,
    width: usize,
}

impl CrossStitch {
    /// Layers of `model.hidden` for each task.
    pub fn new(model: &Model, columns: usize, parameters: &mut Parameters) -> CrossStitch {
        let (mut layers, mut inputs) = (Vec::new(), columns);
        for (i, &width) in model.hidden.iter().enumerate() {
            let make = if i == 0 { Layer::shared } else { Layer::grouped };
            let layer = make(parameters, &format!("networks.{i}"), TASKS, inputs, width, Some(Hidden::of(model)));
            let start = Initial::Diagonal { on: 0.9, off: 0.1 };
            layers.push((layer, parameters.dense(format!("stitches.{i}"), &[TASKS, TASKS], start)));
            inputs = width;
        }
        CrossStitch { layers, width: inputs }
    }
}

impl Encoder for CrossStitch {
    fn shape(&self) -> (usize, usize) {
        (TASKS, self.width)
    }

    fn forward(&self, b: &mut Builder, x: Activations) -> Activations {
        let rows = b.rows;
        let one = constant(&mut b.graph, rows, 1.0);
        self.layers.iter().enumerate().fold(x, |x, (i, (layer, stitch))| {
            let h = layer.forward(b, x, true);
            let h = b.dropout(h);
            let stitch = b.parameter(*stitch);
            b.graph.scope(&format!("stitches.{i}"));
            // The matrix as a row's weights, the same in every row: their gradients are summed over the rows as a layer's are.
            let shape = Linear {
                rows,
                groups: 1,
                inputs: 1,
                outputs: TASKS * TASKS,
                activation: crate::config::Activation::Identity,
                input_gradient: false,
            };
            let weights = linear(&mut b.graph, one, stitch, None, shape);
            let shape = Mixture { rows, experts: TASKS, width: h.width, gates: Gates::all(TASKS, TASKS) };
            Activations { tensor: mix(&mut b.graph, weights, h.tensor, shape), ..h }
        })
    }
}
