//! Models: layers that put ops into a graph. Layers know ops, never devices.

pub mod embedding;
pub mod encoder;
pub mod mlp;
pub mod parameters;
pub mod projection;
pub mod relatedness;

use crate::config::{self, Anchors, Config, CvrLoss, DenseRule, Negatives, Temperature, Weighting};
use crate::data::batch::{TableLayout, table_layouts};
use crate::device::Limits;
use crate::graph::{Graph, Initial, Parameter, ParameterKind, Plan, StateId, StateLayout, TensorId};
use crate::ops::columns::split;
use crate::ops::conditional::conditional;
use crate::ops::contrast::{Contrast, Contrasted, contrast};
use crate::ops::dropout::Dropout;
use crate::ops::losses::{self, Logits};
use crate::ops::report::{ContrastPart, report};
use crate::ops::{clip, dense_update, dropout, normalize};
use crate::{Error, Result};
use embedding::Embedding;
use encoder::Encoder;
use mlp::{Hidden, Layer, Mlp};
use parameters::Parameters;
use projection::Projection;
use relatedness::Relatedness;

/// Tasks: CTR and CVR, in this order wherever their columns stand side by side.
pub const TASKS: usize = 2;

/// What a model must know of the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// Name and number of ids (id 0 included) of each categorical feature.
    pub categorical: Vec<(String, usize)>,
    /// Number of numeric features.
    pub numeric: usize,
}

/// Activations of a minibatch: [B, groups * width], a group a task, or one for all.
#[derive(Debug, Clone, Copy)]
pub struct Activations {
    /// The tensor.
    pub tensor: TensorId,
    /// 1: the tasks share it; [`TASKS`]: one each.
    pub groups: usize,
    /// Columns of a group.
    pub width: usize,
}

/// A graph under construction for B rows, with what layers need to find their parameters.
pub struct Builder<'a> {
    /// The graph.
    pub graph: Graph,
    /// Rows of the minibatch, B.
    pub rows: usize,
    parameters: &'a Parameters,
    gradients: Option<StateId>,
    health: StateId,
    /// Probability and seed of dropout; each layer that drops gets the next number.
    dropout: Dropout,
}

impl Builder<'_> {
    /// The output of a hidden layer with elements dropped, in training and where `model.dropout` says so.
    pub fn dropout(&mut self, x: Activations) -> Activations {
        if !self.training() || self.dropout.rate == 0.0 {
            return x;
        }
        let tensor = dropout::dropout(&mut self.graph, x.tensor, self.rows, self.dropout);
        self.dropout.layer += 1;
        Activations { tensor, ..x }
    }

    /// Parameter or running statistic number `index` as a tensor; of these two a parameter alone has a gradient.
    pub fn parameter(&mut self, index: usize) -> TensorId {
        let parameter = &self.parameters.list[index];
        self.graph.parameter(parameter, self.gradients.filter(|_| parameter.kind == ParameterKind::Dense))
    }

    /// The latch that holds back updates.
    pub fn health(&mut self) -> TensorId {
        self.graph.state("health", self.health, 0, 1)
    }

    /// Whether the graph is for training.
    pub fn training(&self) -> bool {
        self.gradients.is_some()
    }
}

/// A model with its optimizer: layers, parameters, and the state that lives from step to step.
pub struct Model {
    config: Config,
    parameters: Parameters,
    embedding: Embedding,
    encoder: Box<dyn Encoder>,
    towers: Mlp,
    heads: Layer,
    alignment: Option<(Projection, Relatedness)>,
    imputation: Option<(Mlp, Layer)>,
    /// `uncertainty` [3], of CTR, CTCVR and CVR.
    uncertainty: Option<usize>,
    state: StateLayout,
    dense: DenseState,
    optimizer_state: Vec<Parameter>,
    mask: Option<usize>,
    limits: Limits,
}

/// State that is not the embedding's; weights, gradients and moments are laid out alike.
struct DenseState {
    weights: StateId,
    statistics: StateId,
    gradients: StateId,
    moments: Vec<StateId>,
    health: StateId,
    len: usize,
    /// First word of what the temperature is learned by; it lies behind all else.
    temperature: usize,
}

impl Model {
    /// The model of `config` over data of `schema`, its tables split so that bindings stay within `limits`.
    ///
    /// # Errors
    ///
    /// Tables that are too large for 32-bit rows or for a binding; a mask that names no categorical feature.
    pub fn new(config: &Config, schema: &Schema, limits: Limits) -> Result<Model> {
        let dims: Vec<usize> = config.features.categorical.iter().map(|c| c.dim.unwrap_or(config.features.dim)).collect();
        let sizes: Vec<usize> = schema.categorical.iter().map(|(_, size)| *size).collect();
        if dims.len() != sizes.len() {
            return Err(Error::user(format!(
                "the configuration names {} categorical features, the dataset has {}; prepare it again",
                dims.len(),
                sizes.len()
            )));
        }
        let most_columns = limits.binding_bytes / (4 * config.train.batch_size as u64);
        let layouts = table_layouts(&dims, &sizes, usize::try_from(most_columns).unwrap_or(usize::MAX))?;
        let mut state = StateLayout::default();
        let (weights, statistics) = (state.add("dense weights", 0), state.add("dense statistics", 0));
        let mut parameters = Parameters::new(weights, statistics);
        let embedding = Embedding::new(config, schema, layouts, &limits, &mut state, &mut parameters)?;
        let encoder = encoder::new(&config.model, (embedding.sets, embedding.columns), &mut parameters);
        let (groups, width) = encoder.shape();
        let towers = Mlp::tasks(&mut parameters, "towers", groups, width, &config.model.tower, Hidden::of(&config.model));
        let hidden = towers.width();
        let heads = Layer::grouped(&mut parameters, "heads", TASKS, hidden, 1, None);
        let imputation = (config.loss.cvr > 0.0 && config.loss.cvr_kind == CvrLoss::Dr).then(|| {
            let tower = &config.model.tower;
            let layers = Mlp::shared(&mut parameters, "imputation", 1, width, tower, Hidden::of(&config.model));
            let name = format!("imputation.{}", tower.len());
            let last = Layer::shared(&mut parameters, &name, 1, layers.width(), 1, None);
            (layers, last)
        });
        let uncertainty = (config.loss.weighting == Weighting::Uncertainty)
            .then(|| parameters.dense("uncertainty", &[3], Initial::Constant(0.0)));
        let mut temperature = parameters.dense_len();
        let alignment = match config.contrast.temperature {
            Temperature::Off => None,
            _ => {
                let projection = Projection::new(config, hidden, &mut parameters);
                temperature = parameters.dense_len();
                let columns = embedding.sets * embedding.columns;
                let activation = config.model.activation;
                Some((projection, Relatedness::new(&config.contrast, activation, hidden, columns, &mut parameters)))
            }
        };
        let most = Limits::GUARANTEED_BINDING / 4;
        let dense = || parameters.list.iter().filter(|p| p.kind == ParameterKind::Dense);
        if let Some(p) = dense().find(|p| p.len() as u64 > most) {
            let (name, len) = (&p.name, p.len());
            return Err(Error::user(format!(
                "{name} has {len} numbers; at most {most} fit every GPU, so make the layers of [model] or [contrast] narrower"
            )));
        }
        let len = parameters.dense_len();
        state.buffers[weights.0].len = len;
        state.buffers[statistics.0].len = parameters.statistics_len().max(1);
        let gradients = state.add("dense gradients", len);
        let names: &[&str] = match config.optimizer.dense.kind {
            DenseRule::Adamw => &["m", "v"],
            DenseRule::Adagrad => &["sum"],
            DenseRule::Sgd => &[],
        };
        let moments: Vec<StateId> = names.iter().map(|name| state.add(format!("dense {name}"), len)).collect();
        let health = state.add("health", 1);
        let mut optimizer_state = embedding.optimizer_state();
        for (name, &id) in names.iter().zip(&moments) {
            optimizer_state.extend(parameters.dense_copies(&format!("optimizer.{name}"), id));
        }
        let mask = match &config.contrast.mask {
            Some(name) if alignment.is_some() => Some(
                schema
                    .categorical
                    .iter()
                    .position(|(n, _)| n == name)
                    .ok_or_else(|| Error::user(format!("contrast.mask: `{name}` is no categorical feature")))?,
            ),
            _ => None,
        };
        Ok(Model {
            config: config.clone(),
            dense: DenseState { weights, statistics, gradients, moments, health, len, temperature },
            parameters,
            embedding,
            encoder,
            towers,
            heads,
            alignment,
            imputation,
            uncertainty,
            state,
            optimizer_state,
            mask,
            limits,
        })
    }

    /// The configuration that the model was made of.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// All state buffers.
    pub fn state(&self) -> &StateLayout {
        &self.state
    }

    /// Bytes of the state that is not the embedding's.
    pub fn dense_bytes(&self) -> u64 {
        let DenseState { weights, statistics, gradients, moments, health, .. } = &self.dense;
        let ids = [weights, statistics, gradients, health].into_iter().chain(moments);
        ids.map(|id| self.state.buffers[id.0].len as u64 * 4).sum()
    }

    /// The learned parameters and the running statistics, in the order of their making: the model without its optimizer.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters.list
    }

    /// The optimizer's state, as named arrays.
    pub fn optimizer_state(&self) -> &[Parameter] {
        &self.optimizer_state
    }

    /// The embedding tables' layouts.
    pub fn layouts(&self) -> &[TableLayout] {
        &self.embedding.layouts
    }

    /// The categorical feature that masks negatives, by its index.
    pub fn mask(&self) -> Option<usize> {
        self.mask
    }

    /// Whether the model predicts a temperature for each instance.
    pub fn has_instance_temperature(&self) -> bool {
        self.config.contrast.temperature == Temperature::Instance
    }

    /// Whether the second logit of training is that of CTCVR, not of CVR.
    pub fn predicts_ctcvr(&self) -> bool {
        self.config.model.encoder == config::Encoder::Aitm
    }

    /// Negatives drawn for each anchor in minibatches of `rows` rows: K, or fewer where there are not so many other rows; 0 for
    /// all rows of the minibatch.
    pub fn sampled_negatives(&self, rows: usize) -> usize {
        match (&self.alignment, self.config.contrast.negatives) {
            (Some(_), Negatives::Sampled(k)) => k.min(rows.saturating_sub(1)),
            _ => 0,
        }
    }

    /// The part of the gradient buffer that belongs to a dense parameter is laid out as the parameter itself; this is the buffer.
    pub fn gradients(&self) -> StateId {
        self.dense.gradients
    }

    /// The latch that holds back updates: not 0 once a loss was not finite.
    pub fn health(&self) -> StateId {
        self.dense.health
    }

    fn builder(&self, rows: usize, training: bool) -> Builder<'_> {
        let gradients = training.then_some(self.dense.gradients);
        let mut limits = self.limits.clone();
        limits.tiles.by_matrices = training && self.config.train.cooperative_matrices;
        let graph = Graph::new(limits);
        let graph = if training { graph.storing(self.config.train.activation_storage) } else { graph.forward_only() };
        let dropout = Dropout { rate: self.config.model.dropout, seed: self.config.seed, layer: 0 };
        Builder { graph, rows, parameters: &self.parameters, gradients, health: self.dense.health, dropout }
    }

    /// Features to tower outputs: x, the encoder's output, a [B, 2 H] and logits [B, 2].
    fn forward(&self, b: &mut Builder) -> (TensorId, Activations, Activations, TensorId) {
        b.graph.scope("embedding");
        let x = self.embedding.forward(b, &self.config.optimizer.embedding);
        let tasks = self.encoder.forward(b, x);
        let a = self.towers.forward(b, tasks);
        let logits = self.heads.forward(b, a, true);
        (x.tensor, tasks, a, logits.tensor)
    }

    /// The plan of a training step over minibatches of `rows` rows: losses, gradients, updates. Output: the report.
    pub fn training_plan(&self, rows: usize) -> Plan {
        Plan::new(self.training_graph(rows, true))
    }

    /// The graph of [`Model::training_plan`]; without `updates` it ends with the gradients of dense parameters and of x, the
    /// latter an output after the report, followed by logits and (with contrast) tau.
    pub fn training_graph(&self, rows: usize, updates: bool) -> Graph {
        let mut b = self.builder(rows, true);
        let (x, tasks, a, logits) = self.forward(&mut b);
        let imputation = self.imputation.as_ref().map(|(layers, last)| {
            b.graph.scope("imputation");
            let t = match tasks.groups {
                1 => tasks,
                _ => {
                    let parts = split(&mut b.graph, tasks.tensor, rows, &[tasks.width; TASKS]);
                    Activations { tensor: parts[1], groups: 1, ..tasks }
                }
            };
            let h = layers.forward(&mut b, t);
            last.forward(&mut b, h, true).tensor
        });
        b.graph.scope("losses");
        let of = Logits { tasks: logits, direct: self.predicts_ctcvr(), imputation };
        let uncertainty = self.uncertainty.map(|index| b.parameter(index));
        let mut loss = self.config.loss;
        if loss.cvr_kind == CvrLoss::Dr && self.imputation.is_none() {
            // Its weight is 0: what is reported is the loss over clicked rows, which needs no imputation.
            loss.cvr_kind = CvrLoss::Clicked;
        }
        let losses = losses::losses(&mut b.graph, of, rows, &loss, uncertainty);
        let part = self.alignment.as_ref().map(|(projection, relatedness)| {
            let settings = &self.config.contrast;
            let projected = projection.forward(&mut b, a);
            b.graph.scope("alignment");
            let z = normalize::normalize(&mut b.graph, projected.tensor, rows, TASKS, settings.width);
            let (tau, supervision) = relatedness.forward(&mut b, a, x);
            b.graph.scope("contrast");
            let negatives = self.sampled_negatives(rows);
            let spec = Contrast {
                rows,
                width: settings.width,
                weight: settings.weight,
                direction: settings.direction,
                objective: settings.objective,
                rho: settings.rho,
                negatives,
                clicked_anchors: settings.anchors == Anchors::Clicked,
                masked: self.mask.is_some(),
                tau_gradient: relatedness.takes_gradient(),
            };
            let Contrasted { losses, pairing } = contrast(&mut b.graph, z, tau, spec);
            ContrastPart { losses, tau, weight: settings.weight, pairing, relatedness: supervision }
        });
        b.graph.scope("losses");
        let health = b.health();
        let summary = report(&mut b.graph, losses, part, health, rows, &loss, uncertainty);
        let mut g = b.graph;
        g.output(summary);
        g.backward();
        if updates {
            self.update_dense(&mut g, health);
        } else {
            let dx = g.gradient_target(x).0;
            g.output(dx);
            g.output(logits);
            if let Some(part) = part {
                g.output(part.tau);
            }
            g.discard_updates();
        }
        g
    }

    /// One dispatch over the dense parameters of one learning rate, or one for each range that a binding holds.
    fn update_dense(&self, g: &mut Graph, health: TensorId) {
        g.scope("dense parameters");
        let most = usize::try_from(self.limits.binding_bytes / 256 * 64).unwrap_or(usize::MAX);
        let lr_scale = self.config.contrast.temperature_lr_scale;
        let split = if lr_scale == 1.0 { self.dense.len } else { self.dense.temperature };
        let ranges = |from: usize, to: usize, scale: f32| {
            (from..to).step_by(most).map(move |start| (start, most.min(to - start), scale))
        };
        let clip_norm = self.config.optimizer.dense.clip_norm;
        let factor = (clip_norm > 0.0).then(|| {
            let gradients: Vec<TensorId> = ranges(0, self.dense.len, 1.0)
                .map(|(start, len, _)| g.state("dense gradients", self.dense.gradients, start, len))
                .collect();
            clip::clip_factor(g, &gradients, clip_norm)
        });
        for (start, len, scale) in ranges(0, split, 1.0).chain(ranges(split, self.dense.len, lr_scale)) {
            let weights = g.state("dense weights", self.dense.weights, start, len);
            let gradients = g.state("dense gradients", self.dense.gradients, start, len);
            let moments: Vec<TensorId> =
                self.dense.moments.iter().map(|&id| g.state("dense moments", id, start, len)).collect();
            dense_update::dense_update(g, weights, gradients, &moments, health, factor, &self.config.optimizer.dense, scale);
        }
    }

    /// The plan of a forward pass over `rows` rows. Outputs: logits [B, 2] and, with an instance temperature, tau `[B]`.
    pub fn inference_plan(&self, rows: usize) -> Plan {
        let mut b = self.builder(rows, false);
        let (x, _, a, mut logits) = self.forward(&mut b);
        if self.predicts_ctcvr() {
            logits = conditional(&mut b.graph, logits, rows);
        }
        b.graph.output(logits);
        if let (Some((_, relatedness)), true) = (&self.alignment, self.has_instance_temperature()) {
            let (tau, _) = relatedness.forward(&mut b, a, x);
            b.graph.output(tau);
        }
        Plan::new(b.graph)
    }
}
