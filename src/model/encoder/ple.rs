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
    /// Experts with the gates that read the same input: those over the features, or each group's.
    networks: Vec<(Mlp, Option<Layer>)>,
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
            let (networks, gates): (Vec<Mlp>, Vec<_>) = if level == 0 {
                let gates: usize = mixtures.iter().map(|(_, range)| range.len()).sum();
                let networks = vec![mlp("experts", experts, columns, parameters)];
                (networks, vec![Some(Layer::shared(parameters, "levels.0.gates", 1, columns, gates, None))])
            } else {
                let networks = GROUPS.iter().zip(counts).map(|(group, count)| mlp(group, count, width, parameters)).collect();
                // The last level has no shared gate.
                let gate = |group: &str| {
                    let (_, range) = mixtures.iter().find(|mixture| mixture.0 == group)?;
                    let name = format!("levels.{level}.gates.{group}");
                    Some(Layer::shared(parameters, &name, 1, width, range.len(), None))
                };
                (networks, GROUPS.into_iter().map(gate).collect())
            };
            let networks = networks.into_iter().zip(gates).collect();
            let ranges = mixtures.into_iter().map(|(_, range)| range).collect();
            levels.push(Level { networks, ranges });
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
            let inputs = if number == 0 {
                vec![x]
            } else {
                b.graph.scope(&format!("levels.{number}"));
                let parts = split(&mut b.graph, x.tensor, rows, &[x.width; GROUPS.len()]);
                parts.into_iter().map(|tensor| Activations { tensor, groups: 1, width: x.width }).collect()
            };
            let (mut f, mut logits) = (Vec::new(), Vec::new());
            for ((experts, gates), input) in level.networks.iter().zip(inputs) {
                if let Some(gates) = gates {
                    let (of_experts, of_gates) = experts.forward_with_gates(b, input, gates);
                    f.push(of_experts.tensor);
                    logits.push(of_gates.tensor);
                } else {
                    f.push(experts.forward(b, input).tensor);
                }
            }
            b.graph.scope(&format!("levels.{number}"));
            let [f, logits] = [f, logits].map(|parts| match parts[..] {
                [all] => all,
                _ => concat(&mut b.graph, &parts, rows),
            });
            b.graph.scope(&format!("levels.{number}.mixture"));
            let gates = Gates::new(&level.ranges);
            let shape = Mixture { rows, experts: self.experts, width: self.width, gates };
            Activations { tensor: mixture(&mut b.graph, logits, f, shape), groups: gates.tasks, width: self.width }
        })
    }
}
