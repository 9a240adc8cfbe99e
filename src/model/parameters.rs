//! Parameters: their names, shapes and first values, and where they lie.

use crate::graph::{Initial, Parameter, ParameterKind, Part, StateId, Words};
use crate::random::{Purpose, Stream};
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

/// Dense parameters start at multiples of 256 bytes, WebGPU's alignment of bindings.
const ALIGN: usize = 64;

/// The parameters of a model. Dense ones lie in one flat buffer.
pub struct Parameters {
    /// All parameters in the order of their making.
    pub list: Vec<Parameter>,
    dense: StateId,
    len: usize,
}

impl Parameters {
    /// None yet; dense ones will lie in `dense`.
    pub fn new(dense: StateId) -> Parameters {
        Parameters { list: Vec::new(), dense, len: 0 }
    }

    /// Adds a dense parameter and returns its number.
    pub fn dense(&mut self, name: impl Into<String>, shape: &[usize], initial: Initial) -> usize {
        let len = shape.iter().product();
        self.list.push(Parameter {
            name: name.into(),
            shape: shape.to_vec(),
            words: Words::Float,
            initial,
            kind: ParameterKind::Dense,
            parts: vec![Part { state: self.dense, offset: self.len, len }],
        });
        self.len += usize::next_multiple_of(len, ALIGN);
        self.list.len() - 1
    }

    /// Words of the flat buffer.
    pub fn dense_len(&self) -> usize {
        self.len
    }

    /// An array as each dense parameter, named `prefix.NAME`, in a buffer laid out alike.
    pub fn dense_copies(&self, prefix: &str, state: StateId) -> Vec<Parameter> {
        self.list
            .iter()
            .filter(|p| p.kind == ParameterKind::Dense)
            .map(|p| Parameter {
                name: format!("{prefix}.{}", p.name),
                initial: Initial::Constant(0.0),
                parts: p.parts.iter().map(|part| Part { state, ..*part }).collect(),
                ..p.clone()
            })
            .collect()
    }
}

/// The first values of elements `from..from + values.len()` of a parameter: the same for a seed whatever the device, the order
/// or the number of threads.
pub fn initial_values(parameter: &Parameter, seed: u64, from: usize, values: &mut [f32]) {
    const BLOCK: usize = 4096;
    let stream = Stream::new(seed, Purpose::Initial, xxh3_64(parameter.name.as_bytes()));
    values.par_chunks_mut(BLOCK).enumerate().for_each(|(block, values)| {
        for (i, value) in values.iter_mut().enumerate() {
            let index = (from + block * BLOCK + i) as u64;
            *value = match parameter.initial {
                Initial::Uniform(bound) => bound * (2.0 * stream.uniform(index) - 1.0),
                Initial::Normal(std) => std * stream.normal(index),
                Initial::Constant(value) => value,
                Initial::Diagonal { on, off } => {
                    let side = parameter.shape.last().copied().unwrap_or(1);
                    if index as usize / side == index as usize % side { on } else { off }
                }
            };
        }
    });
}
