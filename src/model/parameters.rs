//! Parameters and running statistics: their names, shapes and first values, and where they lie.

use crate::graph::{Initial, Parameter, ParameterKind, Part, StateId, Words};
use crate::random::{Purpose, Stream};
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

/// Dense parameters and statistics start at multiples of 256 bytes, WebGPU's alignment of bindings.
const ALIGN: usize = 64;

/// The parameters of a model and its running statistics. Dense ones lie in one flat buffer, statistics in another.
pub struct Parameters {
    /// All of them in the order of their making.
    pub list: Vec<Parameter>,
    dense: Flat,
    statistics: Flat,
}

/// A flat buffer with so many words taken.
struct Flat {
    state: StateId,
    len: usize,
}

impl Parameters {
    /// None yet; dense ones will lie in `dense`, running statistics in `statistics`.
    pub fn new(dense: StateId, statistics: StateId) -> Parameters {
        let flat = |state| Flat { state, len: 0 };
        Parameters { list: Vec::new(), dense: flat(dense), statistics: flat(statistics) }
    }

    /// Adds a dense parameter and returns its number.
    pub fn dense(&mut self, name: impl Into<String>, shape: &[usize], initial: Initial) -> usize {
        self.add(name.into(), shape, initial, ParameterKind::Dense)
    }

    /// Adds a running statistic that starts with `value` everywhere and returns its number.
    pub fn statistic(&mut self, name: impl Into<String>, shape: &[usize], value: f32) -> usize {
        self.add(name.into(), shape, Initial::Constant(value), ParameterKind::Statistic)
    }

    fn add(&mut self, name: String, shape: &[usize], initial: Initial, kind: ParameterKind) -> usize {
        let len = shape.iter().product();
        let flat = if kind == ParameterKind::Statistic { &mut self.statistics } else { &mut self.dense };
        let parts = vec![Part { state: flat.state, offset: flat.len, len }];
        flat.len += usize::next_multiple_of(len, ALIGN);
        self.list.push(Parameter { name, shape: shape.to_vec(), words: Words::Float, initial, kind, parts });
        self.list.len() - 1
    }

    /// Words of the flat buffer of dense parameters.
    pub fn dense_len(&self) -> usize {
        self.dense.len
    }

    /// Words of the flat buffer of running statistics.
    pub fn statistics_len(&self) -> usize {
        self.statistics.len
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
