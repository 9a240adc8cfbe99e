//! Embedding tables and numeric features: the columns of x.

use super::parameters::Parameters;
use super::{Activations, Builder, Schema, TASKS};
use crate::config::{Config, EmbeddingOptimizer, EmbeddingRule, Encoder};
use crate::data::batch::TableLayout;
use crate::device::Limits;
use crate::graph::{Initial, Input, Parameter, ParameterKind, Part, StateId, StateLayout, Words};
use crate::ops::columns::copy;
use crate::ops::embedding_update::{ShardState, embedding_update, moment_width};
use crate::ops::gather::{Columns, Shard, gather};
use crate::{Error, Result};

/// All embedding tables, each split so that a shard's buffers fit a binding: one set for both tasks, or one each.
pub struct Embedding {
    /// Sets of tables: 1, or [`TASKS`].
    pub sets: usize,
    /// Columns of x that a set gives.
    pub columns: usize,
    /// The tables of a set.
    pub layouts: Vec<TableLayout>,
    names: Vec<String>,
    /// The tables of one set after those of the other.
    tables: Vec<Table>,
    numeric: usize,
    rule: EmbeddingRule,
}

struct Table {
    shards: Vec<Buffers>,
}

/// The buffers of a shard.
struct Buffers {
    shard: Shard,
    rows: StateId,
    moments: Option<StateId>,
    steps: Option<StateId>,
}

impl Embedding {
    /// Tables of `layouts` with the state of the configured optimizer.
    ///
    /// # Errors
    ///
    /// A row that is wider than a binding.
    pub fn new(
        config: &Config,
        schema: &Schema,
        layouts: Vec<TableLayout>,
        limits: &Limits,
        state: &mut StateLayout,
        parameters: &mut Parameters,
    ) -> Result<Embedding> {
        let rule = config.optimizer.embedding.kind;
        let sets = if config.model.encoder == Encoder::SingleTask { TASKS } else { 1 };
        let mut tables = Vec::new();
        for (t, layout) in (0..sets).flat_map(|_| &layouts).enumerate() {
            let row_words = layout.dim.max(moment_width(rule, layout.dim));
            let most = limits.binding_bytes / (4 * row_words as u64);
            if most == 0 {
                return Err(Error::user(format!(
                    "features.dim: a row of {} columns with its optimizer state is larger than the device's largest binding, \
                     {} bytes; lower it",
                    layout.dim, limits.binding_bytes
                )));
            }
            let most = usize::try_from(most).unwrap_or(usize::MAX).min(u32::MAX as usize);
            let shards = (0..layout.rows)
                .step_by(most)
                .map(|first| {
                    let count = most.min(layout.rows - first);
                    let mut buffer =
                        |what: &str, width: usize| state.add(format!("table {t} rows {first}.. {what}"), count * width);
                    Buffers {
                        shard: Shard { first, count, of: layout.rows },
                        rows: buffer("weights", layout.dim),
                        moments: Some(moment_width(rule, layout.dim)).filter(|&w| w > 0).map(|w| buffer("moments", w)),
                        steps: (rule == EmbeddingRule::Adam).then(|| buffer("steps", 1)),
                    }
                })
                .collect();
            tables.push(Table { shards });
        }
        let names: Vec<String> = schema.categorical.iter().map(|(name, _)| name.clone()).collect();
        let columns = layouts.iter().map(|l| l.features.len() * l.dim).sum::<usize>() + schema.numeric;
        let embedding = Embedding { sets, columns, layouts, names, tables, numeric: schema.numeric, rule };
        let initial = Initial::Normal(config.model.embedding_std);
        let rows = |b: &Buffers| Some(b.rows);
        parameters.list.extend(embedding.arrays("embedding", &|dim| vec![dim], initial, Words::Float, &rows));
        Ok(embedding)
    }

    /// One array a feature of a set, of its rows in the buffers that `buffer` names: `PREFIX.FEATURE`, or `PREFIX.TASK.FEATURE`
    /// where each task has a set.
    fn arrays(
        &self,
        prefix: &str,
        row_shape: &dyn Fn(usize) -> Vec<usize>,
        initial: Initial,
        words: Words,
        buffer: &dyn Fn(&Buffers) -> Option<StateId>,
    ) -> Vec<Parameter> {
        let mut arrays: Vec<(usize, Parameter)> = Vec::new();
        for (t, table) in self.tables.iter().enumerate() {
            let (set, layout) = (t / self.layouts.len(), &self.layouts[t % self.layouts.len()]);
            let task = if self.sets == 1 { "" } else { [".ctr", ".cvr"][set] };
            for (i, &feature) in layout.features.iter().enumerate() {
                let start = layout.offsets[i] as usize;
                let end = layout.offsets.get(i + 1).map_or(layout.rows, |&o| o as usize);
                let mut shape = vec![end - start];
                shape.extend(row_shape(layout.dim));
                let width: usize = shape[1..].iter().product();
                let parts = table
                    .shards
                    .iter()
                    .filter_map(|b| {
                        let (first, last) = (b.shard.first, b.shard.first + b.shard.count);
                        let (from, to) = (start.max(first), end.min(last));
                        let state = buffer(b)?;
                        (from < to).then(|| Part { state, offset: (from - first) * width, len: (to - from) * width })
                    })
                    .collect();
                let name = format!("{prefix}{task}.{}", self.names[feature]);
                let number = set * self.names.len() + feature;
                arrays.push((number, Parameter { name, shape, words, initial, kind: ParameterKind::Embedding, parts }));
            }
        }
        arrays.sort_by_key(|&(number, _)| number);
        arrays.into_iter().map(|(_, array)| array).collect()
    }

    /// The optimizer's state as named arrays: moments (adam: [V, 2, D], m then v; adagrad: [V, D]; row-wise: `[V]`) and steps `[V]`.
    pub fn optimizer_state(&self) -> Vec<Parameter> {
        let zero = Initial::Constant(0.0);
        let mut arrays = Vec::new();
        let shape: &dyn Fn(usize) -> Vec<usize> = match self.rule {
            EmbeddingRule::Adam => &|dim| vec![2, dim],
            EmbeddingRule::Adagrad => &|dim| vec![dim],
            EmbeddingRule::RowwiseAdagrad => &|_| vec![],
            EmbeddingRule::Sgd => return arrays,
        };
        arrays.extend(self.arrays("optimizer.moments.embedding", shape, zero, Words::Float, &|b| b.moments));
        if self.rule == EmbeddingRule::Adam {
            let steps = |b: &Buffers| b.steps;
            arrays.extend(self.arrays("optimizer.steps.embedding", &|_| vec![], zero, Words::Unsigned, &steps));
        }
        arrays
    }

    /// Gathers x [B, sets * X], a set's columns together; in training graphs its gradient updates the rows that the minibatch touches.
    pub fn forward(&self, b: &mut Builder, optimizer: &EmbeddingOptimizer) -> Activations {
        let rows = b.rows;
        let columns = self.sets * self.columns;
        let x = b.graph.activation("x", rows * columns);
        for (set, tables) in self.tables.chunks(self.layouts.len()).enumerate() {
            let mut offset = set * self.columns;
            for (t, (layout, table)) in self.layouts.iter().zip(tables).enumerate() {
                let features = layout.features.len();
                let shape = Columns { rows, columns, offset, features, dim: layout.dim };
                let ids = b.graph.input(Input::Ids(t), rows * features);
                let mut shards = Vec::new();
                for buffers in &table.shards {
                    let g = &mut b.graph;
                    let mut tensor = |what: &str, id: StateId, width: usize| {
                        let name = format!("table {t} rows {}.. {what}", buffers.shard.first);
                        g.state(&name, id, 0, buffers.shard.count * width)
                    };
                    let rows = tensor("weights", buffers.rows, layout.dim);
                    shards.push(ShardState {
                        shard: buffers.shard,
                        table: rows,
                        moments: buffers.moments.map(|id| tensor("moments", id, moment_width(self.rule, layout.dim))),
                        steps: buffers.steps.map(|id| tensor("steps", id, 1)),
                    });
                    gather(&mut b.graph, rows, ids, x, shape, buffers.shard);
                }
                if b.training() {
                    let (optimizer, health) = (optimizer.clone(), b.health());
                    b.graph.on_backward(move |g| {
                        let Some(dx) = g.gradient(x) else { return };
                        embedding_update(g, t, dx, health, shape, &shards, &optimizer);
                    });
                }
                offset += features * layout.dim;
            }
            if self.numeric > 0 {
                let numeric = b.graph.input(Input::Numeric, rows * self.numeric);
                copy(&mut b.graph, rows, (numeric, 0), (x, offset), self.numeric, false);
            }
        }
        Activations { tensor: x, groups: self.sets, width: self.columns }
    }
}
