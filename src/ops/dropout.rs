//! Dropout: elements set to 0 at random, the others scaled so that the mean stays; the mask is computed, never stored.

use super::check::{Case, normals};
use super::{Access, Args, Dispatch, Kernel, Shader, cost, fold, params, shader};
use crate::graph::{Arg, Block, Format, Graph, Input, Step, TensorId};
use crate::random::{Purpose, Stream};
use bytemuck::Zeroable;
use rayon::prelude::*;

/// Which elements are dropped.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// The probability that an element is dropped, at least 0 and below 1.
    pub rate: f32,
    /// The seed of the run.
    pub seed: u64,
    /// Tells the layers of a model apart, below 2^24.
    pub layer: u32,
}

params! {
    struct Params {
        count: u32,
        first: u32,
        threshold: u32,
        scale: f32,
        seed_low: u32,
        seed_high: u32,
        layer: u32,
        accumulate: u32,
    }
}

const SOURCE: Shader = shader!(stored "step", "dropout");
static DROPOUT: Kernel =
    Params::kernel("dropout", SOURCE, "dropout", &[(1, Access::Read), (2, Access::Uniform), (3, Access::Update)])
        .stored(&[1], &[3]);

/// Elements that one task of the twin handles, a multiple of 4.
const BLOCK: usize = 4096;

/// x [B, columns] with elements dropped by the step's mask and the others divided by 1 - rate: for training alone.
///
/// Element i = b * columns + c is dropped where `Stream::new(seed, Purpose::Dropout, step).lane(layer).uniform(i) < rate`.
pub fn dropout(g: &mut Graph, x: TensorId, rows: usize, spec: Dropout) -> TensorId {
    let (len, format) = (g.get(x).len, g.get(x).format);
    let columns = len / rows;
    let y = g.transient_as("dropped", len, format);
    let params = Params {
        count: 0,
        first: 0,
        // `uniform` has 24 bits, so this compares as it does: exact in f64, and in f32 where a rate has fewer bits.
        threshold: (f64::from(spec.rate) * 16_777_216.0).ceil() as u32,
        scale: (1.0 / (1.0 - f64::from(spec.rate))) as f32,
        seed_low: spec.seed as u32,
        seed_high: (spec.seed >> 32) as u32,
        layer: spec.layer,
        accumulate: 0,
    };
    let op = move |block: Block, params: Params, format: Format| {
        let count = block.rows * columns;
        Dispatch {
            kernel: &DROPOUT,
            // Blocks begin at multiples of 128 rows, so the four elements of a counter are in one.
            params: Params { count: count as u32, first: (block.first * columns / 4) as u32, ..params },
            workgroups: fold(count.div_ceil(1024)),
            cost: cost(if params.accumulate != 0 { 3 } else { 2 } * count, count).stored(2 * count, format),
            twin: mask,
        }
    };
    let step = g.step();
    g.push_rows(rows, &[Arg::Rows(x), Arg::Whole(step), Arg::Rows(y)], |block| op(block, params, format));
    g.on_backward(move |g| {
        let Some(dy) = g.gradient(y) else { return };
        let (dx, accumulate) = g.gradient_target(x);
        let params = Params { accumulate: accumulate.into(), ..params };
        g.push_rows(rows, &[Arg::Rows(dy), Arg::Whole(step), Arg::Rows(dx)], |block| op(block, params, Format::F32));
    });
    y
}

fn mask(p: &Params, args: &mut Args) {
    let (x, step, mut y) = (args.numbers(0), args.uniform::<Step>(1), args.numbers_mut(2));
    let seed = u64::from(p.seed_low) | u64::from(p.seed_high) << 32;
    let number = u64::from(step.number[0]) | u64::from(step.number[1]) << 32;
    let stream = Stream::new(seed, Purpose::Dropout, number).lane(p.layer);
    y.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).enumerate().for_each(|(block, (y, x))| {
        for (quad, (y, x)) in y.chunks_mut(4).zip(x.chunks(4)).enumerate() {
            let words = stream.words(p.first.wrapping_add((block * (BLOCK / 4) + quad) as u32));
            for ((y, x), word) in y.iter_mut().zip(x).zip(words) {
                let value = if word >> 8 < p.threshold { 0.0 } else { x * p.scale };
                *y = if p.accumulate == 1 { *y + value } else { value };
            }
        }
    });
}

/// Ragged shapes, seeds and steps beyond 32 bits, rates from 0 to almost 1, a gradient that is there already.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, columns, rate, seed, step, layer) in [
        (1, 1, 0.5, 1, [0, 0], 0),
        (3, 5, 0.5, 7, [1, 0], 1),
        (65, 7, 0.1, u64::MAX, [u32::MAX, u32::MAX], 3),
        (130, 33, 0.999, 1 << 40 | 5, [9, 2], (1 << 24) - 1),
        (257, 16, 0.0, 1, [5, 0], 2),
        (200, 1, 0.3, 1, [5, 0], 2),
    ] {
        for twice in [false, true] {
            let name =
                format!("dropout {rows}x{columns}, rate {rate}, seed {seed}, step {step:?}, layer {layer}, twice {twice}");
            cases.push(Case::new(name, 1, move |s| {
                let x = s.activation("x", rows, &normals(1, rows * columns, 1.0));
                s.input_as(Input::Step, &[Step { number: step, ..Step::zeroed() }]);
                let dy = s.input(&normals(2, rows * columns, 1.0));
                let layers = if twice { 2 } else { 1 };
                for i in 0..layers {
                    let y = dropout(&mut s.graph, x, rows, Dropout { rate, seed, layer: layer ^ i });
                    s.graph.seed(y, dy);
                    s.output_activation(y, rows);
                }
                s.graph.backward();
                let dx = s.graph.gradient(x);
                dx.into_iter().for_each(|dx| s.graph.output(dx));
            }));
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is dropped is what the definition says, on all rows and in blocks, and another step or layer drops other elements.
    #[test]
    #[allow(clippy::unwrap_used, reason = "a test that fails says where")]
    fn masks_are_those_of_the_stream() {
        let (rows, columns, rate, seed) = (150usize, 5usize, 0.3f32, 1u64 << 33 | 3);
        let mut masks = Vec::new();
        for (step, layer) in [(0u64, 0u32), (1, 0), (1u64 << 32, 0), (0, 1)] {
            let case = Case::new("dropout", 1, move |s| {
                let x = s.input(&vec![1f32; rows * columns]);
                s.input_as(Input::Step, &[Step { number: [step as u32, (step >> 32) as u32], ..Step::zeroed() }]);
                let y = dropout(&mut s.graph, x, rows, Dropout { rate, seed, layer });
                s.graph.output(y);
            });
            let stream = Stream::new(seed, Purpose::Dropout, step).lane(layer);
            let scale = (1.0 / (1.0 - f64::from(rate))) as f32;
            let wanted: Vec<u32> = (0..(rows * columns) as u64)
                .map(|i| if stream.uniform(i) < rate { 0.0 } else { scale })
                .map(f32::to_bits)
                .collect();
            for case in [case.clone(), case.in_blocks().unwrap()] {
                assert_eq!(case.on_cpu().unwrap()[0].1, wanted);
            }
            let dropped = wanted.iter().filter(|&&w| w == 0).count() as f32 / wanted.len() as f32;
            assert!((dropped - rate).abs() < 0.07, "{dropped}");
            assert!(!masks.contains(&wanted));
            masks.push(wanted);
        }
    }
}
