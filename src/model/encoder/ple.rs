//! Progressive layered extraction (PLE, Tang et al., RecSys 2020): levels of experts of each task's own and shared ones. A task's
//! gate mixes its own experts and the shared ones; between levels a shared gate mixes all.

use super::Encoder;
use crate::config::Model;
use crate::model::mlp::{Hidden, Layer, Mlp};
use crate::model::parameters::Parameters;
use crate::model::{Activations, Builder, TASKS};
use crate::ops::columns::{concat, split};
use crate::ops::mixture::{Gates, Mixture, mixture};
use std::ops::Range;

/// Whose experts and gates: in this order wherever they stand side by side, so that each task's own lie beside the shared ones.
const GROUPS: [&str; 3] = ["ctr", "shared", "cvr"];

/// `levels.0.experts.<layer>` and `levels.0.gates`, which all read the features; above them, level by level,
/// `levels.<level>.<group>.<layer>` and `levels.<level>.gates.<group>`, which read their own group's mixture below.
pub struct Ple {
    levels: Vec<Level>,
    experts: usize,
    width: usize,
}

struct Level {
    /// One over the features, or one a group.
    experts: Vec<Mlp>,
    /// One over the features, or one a mixture.
    gates: Vec<Layer>,
    ranges: Vec<Range<usize>>,
}

impl Ple {
    /// `model.levels` levels, each of `model.task_experts` experts of each task and `model.experts` shared ones, of layers
    /// `model.hidden`.
    pub fn new(model: &Model, columns: usize, parameters: &mut Parameters) -> Ple {
        let (own, shared) = (model.task_experts, model.experts);
        let counts = [own, shared, own];
        let experts = 2 * own + shared;
        let width = model.hidden.last().copied().unwrap_or(columns);
        let mut levels = Vec::new();
        for level in 0..model.levels {
            let last = level + 1 == model.levels;
            let mixtures: &[(&str, Range<usize>)] = &[("ctr", 0..own + shared), ("shared", 0..experts), ("cvr", own..experts)];
            let mixtures: Vec<_> = mixtures.iter().filter(|(name, _)| !last || *name != "shared").cloned().collect();
            let mlp = |name: &str, count: usize, inputs: usize, p: &mut Parameters| {
                Mlp::shared(p, &format!("levels.{level}.{name}"), count, inputs, &model.hidden, Hidden::of(model))
            };
            let (networks, gates) = if level == 0 {
                let gates: usize = mixtures.iter().map(|(_, range)| range.len()).sum();
                let networks = vec![mlp("experts", experts, columns, parameters)];
                (networks, vec![Layer::shared(parameters, "levels.0.gates", 1, columns, gates, None)])
            } else {
                let networks = GROUPS.iter().zip(counts).map(|(group, count)| mlp(group, count, width, parameters)).collect();
                let gate = |(group, range): &(&str, Range<usize>)| {
                    Layer::shared(parameters, &format!("levels.{level}.gates.{group}"), 1, width, range.len(), None)
                };
                (networks, mixtures.iter().map(gate).collect())
            };
            let ranges = mixtures.into_iter().map(|(_, range)| range).collect();
            levels.push(Level { experts: networks, gates, ranges });
        }
        Ple { levels, experts, width }
    }
}

impl Encoder for Ple {
    fn shape(&self) -> (usize, usize) {
        (TASKS, self.width)
    }

    fn forward(&self, b: &mut Builder, x: Activations) -> Activations {
        let rows = b.rows;
        self.levels.iter().enumerate().fold(x, |x, (number, level)| {
            let (f, logits) = if number == 0 {
                (level.experts[0].forward(b, x).tensor, level.gates[0].forward(b, x, true).tensor)
            } else {
                b.graph.scope(&format!("levels.{number}"));
                let parts = split(&mut b.graph, x.tensor, rows, &[x.width; GROUPS.len()]);
                let of = |tensor| Activations { tensor, groups: 1, width: x.width };
                let f: Vec<_> = level.experts.iter().zip(&parts).map(|(e, &part)| e.forward(b, of(part)).tensor).collect();
                // The last level has no shared gate.
                let read: Vec<_> = if level.gates.len() == TASKS { vec![parts[0], parts[2]] } else { parts };
                let logits: Vec<_> =
                    level.gates.iter().zip(read).map(|(gate, part)| gate.forward(b, of(part), true).tensor).collect();
                b.graph.scope(&format!("levels.{number}"));
                (concat(&mut b.graph, &f, rows), concat(&mut b.graph, &logits, rows))
            };
            b.graph.scope(&format!("levels.{number}.mixture"));
            let gates = Gates::new(&level.ranges);
            let shape = Mixture { rows, experts: self.experts, width: self.width, gates };
            Activations { tensor: mixture(&mut b.graph, logits, f, shape), groups: gates.tasks, width: self.width }
        })
    }
}
