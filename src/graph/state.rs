//! What lives from step to step: parameters, gradients of dense parameters, optimizer state.

use serde::Serialize;

/// A buffer of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateId(pub(crate) usize);

/// A buffer of the state: 32-bit words, zero at first.
#[derive(Debug, Clone)]
pub struct StateBuffer {
    /// What it holds.
    pub name: String,
    /// Number of 32-bit words.
    pub len: usize,
}

/// Words of a state buffer that hold part of a parameter or of its optimizer state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The buffer.
    pub state: StateId,
    /// First word.
    pub offset: usize,
    /// Number of words.
    pub len: usize,
}

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Initial {
    /// Uniform in +-bound.
    Uniform(f32),
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// A constant.
    Constant(f32),
    /// A square matrix of two numbers: on its diagonal and off it.
    Diagonal {
        /// On the diagonal.
        on: f32,
        /// Elsewhere.
        off: f32,
    },
}

/// How an array of the model changes from step to step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ParameterKind {
    /// Learned: a part of the flat buffer of dense parameters.
    Dense,
    /// Learned: rows of an embedding table, of which a step updates those that its minibatch holds.
    Embedding,
    /// Not learned: a running statistic of what passes by in training, for evaluation.
    Statistic,
}

/// Type of an array's 32-bit words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// f32.
    Float,
    /// u32.
    Unsigned,
}

/// A named array of the model, or of its optimizer's state: what a checkpoint holds.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Its name in checkpoints.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its type.
    pub words: Words,
    /// How it starts.
    pub initial: Initial,
    /// Dense, embedding or statistic.
    pub kind: ParameterKind,
    /// Where its words lie, in order: one part, or several where a table is split over bindings.
    pub parts: Vec<Part>,
}

impl Parameter {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// All state buffers of a model with its optimizer.
#[derive(Debug, Clone, Default)]
pub struct StateLayout {
    /// The buffers, by [`StateId`].
    pub buffers: Vec<StateBuffer>,
}

impl StateLayout {
    /// Adds a buffer of `len` 32-bit words.
    pub fn add(&mut self, name: impl Into<String>, len: usize) -> StateId {
        self.buffers.push(StateBuffer { name: name.into(), len: len.max(1) });
        StateId(self.buffers.len() - 1)
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> u64 {
        self.buffers.iter().map(|b| b.len as u64 * 4).sum()
    }
}
