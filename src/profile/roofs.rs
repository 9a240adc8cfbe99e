//! What a device can do at the most: copied bytes and multiply-adds a second, by the ops of [`probe`].

use crate::Result;
use crate::device::{Choice, Device, RING};
use crate::graph::{Graph, Plan, StateLayout, TensorId};
use crate::ops::{Cost, probe};
use crate::report::progress::Task;
use serde::Serialize;
use std::time::Instant;

/// Bytes of a copied buffer: more than the caches of a GPU hold, and of the cores that run twins and software adapters.
const COPY_BYTES: (u64, u64) = (256 << 20, 64 << 20);
/// Dispatches of a probe in one submit.
const DISPATCHES: usize = 8;
/// Repeats of a measurement, each of about [`REPEAT`] seconds of submits back to back.
const REPEATS: usize = 7;
const REPEAT: f64 = 0.15;

/// A measured rate, in units of 1e9 a second.
#[derive(Debug, Clone, Serialize)]
pub struct Rate {
    /// The best repeat.
    pub best: f64,
    /// The median repeat.
    pub median: f64,
    /// How it was measured, in words.
    pub how: String,
}

/// A device's two roofs.
#[derive(Debug, Clone, Serialize)]
pub struct Roofs {
    /// Bytes read plus bytes written by copies, GB/s.
    pub copy: Rate,
    /// Multiplications and additions, GFLOP/s.
    pub multiply_add: Rate,
}

/// Which roof is the lower one for an op.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// The copy rate.
    Memory,
    /// The multiply-add rate.
    Compute,
}

impl Roofs {
    /// Measures both; `task` advances by two.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn measure(choice: &Choice, task: &Task) -> Result<Roofs> {
        Ok(Roofs { copy: copy_rate(choice, task)?, multiply_add: fma_rate(choice, task)? })
    }

    /// The fewest seconds in which what costs this can be done, and by which roof.
    pub fn least_seconds(&self, cost: Cost) -> (f64, Bound) {
        let (memory, compute) = (cost.bytes / (self.copy.best * 1e9), cost.flops / (self.multiply_add.best * 1e9));
        if compute > memory { (compute, Bound::Compute) } else { (memory, Bound::Memory) }
    }
}

fn is_hardware(choice: &Choice) -> bool {
    matches!(choice, Choice::Gpu(adapter) if adapter.rank().is_some())
}

/// Bytes moved a second, reads and writes each counted, in GB/s.
fn copy_rate(choice: &Choice, task: &Task) -> Result<Rate> {
    let most = if is_hardware(choice) { COPY_BYTES.0 } else { COPY_BYTES.1 };
    let bytes = choice.limits().binding_bytes.min(most) / 16 * 16;
    let words = (bytes / 4) as usize;
    let rate = measure(choice, words, 2.0 * bytes as f64, &|g, from, to| probe::copy(g, from, to))?;
    task.advance(1);
    let how = format!("copies of {} MiB, bytes read plus bytes written; {}", bytes >> 20, rate.how);
    Ok(Rate { how, ..rate })
}

/// Multiplications and additions a second, in GFLOP/s.
fn fma_rate(choice: &Choice, task: &Task) -> Result<Rate> {
    let (vectors, rounds) = if is_hardware(choice) { (1 << 18, 1024) } else { (1 << 16, 64) };
    let flops = 64.0 * (vectors * rounds) as f64;
    let rate = measure(choice, 4 * vectors, flops, &|g, from, to| probe::multiply_add(g, from, to, rounds))?;
    task.advance(1);
    let how = format!("eight independent chains of f32 vectors an invocation; {}", rate.how);
    Ok(Rate { how, ..rate })
}

type Probe<'a> = &'a dyn Fn(&mut Graph, TensorId, TensorId);

/// Times submits of a probe back to back; `work` of one dispatch a second, in units of 1e9.
fn measure(choice: &Choice, words: usize, work: f64, probe: Probe) -> Result<Rate> {
    let mut state = StateLayout::default();
    let (from_state, to_state) = (state.add("from", words), state.add("to", words));
    let mut graph = Graph::default();
    let (from, to) = (graph.state("from", from_state, 0, words), graph.state("to", to_state, 0, words));
    for _ in 0..DISPATCHES {
        probe(&mut graph, from, to);
    }
    let mut device = choice.clone().open(&state.buffers, vec![Plan::new(graph)])?;
    // Not zeros, which some memory systems compress; positive and finite as f32.
    let values: Vec<u32> = (0..words as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 2).collect();
    device.write(from_state, 0, &values)?;
    drop(values);
    // The first submit is the device's own measuring of its nodes, the second touches everything once more.
    submits(&mut *device, 2)?;
    let start = Instant::now();
    submits(&mut *device, RING)?;
    let one = start.elapsed().as_secs_f64() / RING as f64;
    let n = ((REPEAT / one).ceil() as usize).clamp(1, 1000);
    let mut rates = Vec::new();
    for _ in 0..REPEATS {
        let start = Instant::now();
        submits(&mut *device, n)?;
        rates.push((n * DISPATCHES) as f64 * work / start.elapsed().as_secs_f64() / 1e9);
    }
    rates.sort_by(f64::total_cmp);
    let how = format!("{REPEATS} times the wall clock around {n} submits of {DISPATCHES} dispatches");
    Ok(Rate { best: rates[REPEATS - 1], median: rates[REPEATS / 2], how })
}

/// Submits `n` steps, as many at once as may be, and waits for the last.
fn submits(device: &mut dyn Device, n: usize) -> Result<()> {
    let mut outputs = Vec::new();
    for _ in 0..n {
        if device.in_flight(0) == RING {
            device.receive(0, &mut outputs)?;
        }
        device.submit(0, &[])?;
    }
    while device.in_flight(0) > 0 {
        device.receive(0, &mut outputs)?;
    }
    Ok(())
}
