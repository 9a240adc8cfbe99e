//! A model on a device: its programs, its parameters in and out, minibatches as the plans' inputs.

use super::schedule::factor;
use crate::config::{Config, DenseRule, Negatives};
use crate::data::batch::{BatchLayout, Minibatch};
use crate::device::timeline::{Mode, Timeline};
use crate::device::{Choice, Device, LESS_MEMORY};
use crate::graph::{Format, Input, Parameter, Plan, PlannedNode, StateId, Step, shared_slots};
use crate::model::{Model, Schema, parameters::initial_values};
use crate::random::{Purpose, Stream};
use crate::{Error, Result};
use bytemuck::Zeroable;

/// Words of an array that are moved between host and device at a time.
const TRANSFER: usize = 1 << 22;

/// What a program of a session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Losses, gradients and updates over minibatches of so many rows. Output: the report.
    Train(usize),
    /// Logits (and instance temperatures) of so many rows at most.
    Infer(usize),
}

/// A model on an opened device.
pub struct Session {
    model: Model,
    device: Box<dyn Device>,
    programs: Vec<Program>,
    memory: Memory,
    offsets: Vec<u32>,
    training_steps: u64,
    builders: usize,
}

struct Program {
    role: Role,
    inputs: Vec<(Input, usize)>,
}

/// Whether the device has what the configuration's training asks for beyond what every device has.
///
/// # Errors
///
/// What it lacks.
pub fn can_train(config: &Config, choice: &Choice) -> Result<()> {
    choice.require(config.train.activation_storage == Format::F16, config.train.cooperative_matrices)
}

/// How many products of a training step are by cooperative matrices, in a line.
fn by_matrices(plan: &Plan) -> Result<String> {
    let is_product = |node: &&PlannedNode| node.op.kernel().name.starts_with("linear") && !node.op.overrides().is_empty();
    let count = plan.nodes.iter().filter(|node| node.module.shader.matrices).count();
    let all = plan.nodes.iter().filter(is_product).count();
    if count == 0 {
        return Err(Error::user(
            "train.cooperative_matrices = true, but no layer has as many inputs and outputs as this device's matrices have rows (8 or 16); set \
             false",
        ));
    }
    Ok(format!("cooperative matrices: {count} of {all} products of layers, 16-bit numbers with sums in f32"))
}

impl Session {
    /// Builds the model for the chosen device and opens it with a program for each role. `line` receives the plan in words before
    /// anything is allocated.
    ///
    /// # Errors
    ///
    /// Those of [`can_train`] where it trains; cooperative matrices that all layers are too small for; those of [`Model::new`] and [`Choice::open`]; a plan over the memory budget.
    pub fn open(
        config: &Config,
        schema: &Schema,
        choice: Choice,
        roles: &[Role],
        line: &mut dyn FnMut(String),
    ) -> Result<Session> {
        if roles.iter().any(|role| matches!(role, Role::Train(_))) {
            can_train(config, &choice)?;
        }
        let model = Model::new(config, schema, choice.limits())?;
        let plans: Vec<Plan> = roles
            .iter()
            .map(|role| match *role {
                Role::Train(rows) => model.training_plan(rows),
                Role::Infer(rows) => model.inference_plan(rows),
            })
            .collect();
        let mut trained = roles.iter().zip(&plans).filter(|(role, _)| matches!(role, Role::Train(_)));
        if let Some((_, plan)) = trained.next().filter(|_| config.train.cooperative_matrices) {
            line(by_matrices(plan)?);
        }
        Session::with_plans(model, choice, roles, plans, line)
    }

    /// As [`Session::open`] with plans of one's own.
    ///
    /// # Errors
    ///
    /// As [`Session::open`].
    pub fn with_plans(
        model: Model,
        choice: Choice,
        roles: &[Role],
        plans: Vec<Plan>,
        line: &mut dyn FnMut(String),
    ) -> Result<Session> {
        let memory = Memory::of(&model, &plans);
        line(memory.describe());
        let budget = model.config().train.memory_mib << 20;
        if budget > 0 && memory.total() > budget {
            return Err(Error::user(format!(
                "train.memory_mib: the plan takes {} of {} allowed; {LESS_MEMORY}",
                mib(memory.total()),
                mib(budget)
            )));
        }
        let programs = roles.iter().zip(&plans).map(|(&role, p)| Program { role, inputs: p.inputs.clone() }).collect();
        let builders = choice.builders();
        let device = choice.open(&model.state().buffers, plans)?;
        Ok(Session { model, device, programs, memory, offsets: Vec::new(), training_steps: u64::MAX, builders })
    }

    /// Says how many steps training has at most: where `optimizer.schedule` ends unless it says so itself. Until this is said it
    /// stays near its beginning.
    pub fn set_training_steps(&mut self, steps: u64) {
        self.training_steps = steps;
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The device in words.
    pub fn device_name(&self) -> &str {
        self.device.name()
    }

    /// Threads that are to build minibatches for the device, as [`Choice::builders`].
    pub fn builders(&self) -> usize {
        self.builders
    }

    /// The device's memory that the session takes.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Records steps, as [`Device::record`].
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn record(&mut self, mode: Mode) -> Result<()> {
        self.device.record(mode)
    }

    /// What was recorded, as [`Device::timeline`].
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn timeline(&mut self) -> Result<Timeline> {
        self.device.timeline()
    }

    /// What minibatches must hold for this model.
    pub fn batch_layout(&self) -> BatchLayout {
        batch_layout(&self.model)
    }

    /// Gives every parameter and running statistic its first values under the configured seed.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn initialize(&mut self) -> Result<()> {
        let seed = self.model.config().seed;
        for parameter in self.model.parameters().to_vec() {
            self.write_array(&parameter, |from, words| {
                initial_values(&parameter, seed, from, bytemuck::cast_slice_mut(words));
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Writes an array of the state; `fill(from, words)` gives its elements from number `from` on.
    ///
    /// # Errors
    ///
    /// Those of `fill` and of the device.
    pub fn write_array(&mut self, array: &Parameter, mut fill: impl FnMut(usize, &mut [u32]) -> Result<()>) -> Result<()> {
        let mut words = Vec::new();
        let mut from = 0;
        for part in &array.parts {
            let mut done = 0;
            while done < part.len {
                let n = TRANSFER.min(part.len - done);
                words.resize(n, 0);
                fill(from, &mut words)?;
                self.device.write(part.state, part.offset + done, &words)?;
                done += n;
                from += n;
            }
        }
        Ok(())
    }

    /// Reads an array of the state piece by piece, in order.
    ///
    /// # Errors
    ///
    /// Those of `take` and of the device.
    pub fn read_array(&mut self, array: &Parameter, mut take: impl FnMut(&[u32]) -> Result<()>) -> Result<()> {
        let mut words = Vec::new();
        for part in &array.parts {
            let mut done = 0;
            while done < part.len {
                let n = TRANSFER.min(part.len - done);
                words.resize(n, 0);
                self.device.read(part.state, part.offset + done, &mut words)?;
                take(&words)?;
                done += n;
            }
        }
        Ok(())
    }

    /// Reads words of a state buffer.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn read(&mut self, state: StateId, offset: usize, words: &mut [u32]) -> Result<()> {
        self.device.read(state, offset, words)
    }

    /// The number of the program with this role.
    ///
    /// # Errors
    ///
    /// None has it.
    pub fn program(&self, role: Role) -> Result<usize> {
        self.programs
            .iter()
            .position(|p| p.role == role)
            .ok_or_else(|| Error::system(format!("no program for {role:?} was planned")))
    }

    /// Starts training step number `step` (from 0) on `batch`.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn train(&mut self, program: usize, step: u64, batch: &Minibatch) -> Result<()> {
        self.train_with_offsets(program, step, batch, None)
    }

    /// As [`Session::train`], with these offsets of sampled negatives instead of drawn ones, if any are given.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn train_with_offsets(
        &mut self,
        program: usize,
        step: u64,
        batch: &Minibatch,
        offsets: Option<Vec<u32>>,
    ) -> Result<()> {
        let scalars = self.prepare(step, batch);
        if let Some(offsets) = offsets {
            self.offsets = offsets;
        }
        let inputs = bind(&self.programs[program].inputs, batch, &scalars, &self.offsets);
        self.device.submit(program, &inputs)
    }

    /// Starts inference on `batch`, which may have fewer rows than the program.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn infer(&mut self, program: usize, batch: &Minibatch) -> Result<()> {
        let step = Step::zeroed();
        let inputs = bind(&self.programs[program].inputs, batch, &step, &[]);
        self.device.submit(program, &inputs)
    }

    /// Steps of `program` under way.
    pub fn in_flight(&self, program: usize) -> usize {
        self.device.in_flight(program)
    }

    /// The outputs of the oldest step of `program` under way.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn receive(&mut self, program: usize, outputs: &mut Vec<Vec<f32>>) -> Result<()> {
        self.device.receive(program, outputs)
    }

    /// Which op first writes a NaN or an infinity when training step `step` on `batch` is run again, if one does.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn first_nonfinite(&mut self, program: usize, step: u64, batch: &Minibatch) -> Result<Option<String>> {
        let scalars = self.prepare(step, batch);
        let inputs = bind(&self.programs[program].inputs, batch, &scalars, &self.offsets);
        self.device.first_nonfinite(program, &inputs)
    }

    /// The step's scalars; draws its sampled negatives.
    fn prepare(&mut self, step: u64, batch: &Minibatch) -> Step {
        let config = self.model.config();
        let k = self.model.sampled_negatives(batch.rows);
        if config.contrast.negatives != Negatives::InBatch {
            draw_offsets(config.seed, step, batch.rows, k, &mut self.offsets);
        }
        scalars(config, step, batch.clicks(), self.training_steps)
    }
}

/// What minibatches must hold for `model`.
pub fn batch_layout(model: &Model) -> BatchLayout {
    let numeric = model.config().features.numeric.len();
    BatchLayout { tables: model.layouts().to_vec(), numeric, mask: model.mask() }
}

/// The scalars of training step number `step` (from 0) of `training_steps`.
fn scalars(config: &Config, step: u64, clicks: usize, training_steps: u64) -> Step {
    let dense = &config.optimizer.dense;
    // In f64: 1 - beta^t loses its digits in f32 when t is small.
    let correction = |beta: f32| (1.0 - f64::from(beta).powf((step + 1) as f64)) as f32;
    let (correction1, correction2) = match dense.kind {
        DenseRule::Adamw => (correction(dense.beta1), correction(dense.beta2)),
        DenseRule::Adagrad | DenseRule::Sgd => (1.0, 1.0),
    };
    let factor = factor(&config.optimizer.schedule, step, training_steps);
    Step {
        dense_lr: (f64::from(dense.lr) * factor) as f32,
        embedding_lr: (f64::from(config.optimizer.embedding.lr) * factor) as f32,
        correction1,
        correction2,
        inverse_clicks: if clicks > 0 { 1.0 / clicks as f32 } else { 0.0 },
        number: [step as u32, (step >> 32) as u32],
        contrast: match config.contrast.warmup_steps {
            0 => 1.0,
            warmup => ((step + 1) as f64 / warmup as f64).min(1.0) as f32,
        },
    }
}

/// Draws `k` distinct offsets in 1..rows, ascending (Floyd's algorithm, CACM 30(9), 1987).
fn draw_offsets(seed: u64, step: u64, rows: usize, k: usize, offsets: &mut Vec<u32>) {
    let stream = Stream::new(seed, Purpose::Negatives, step);
    offsets.clear();
    for (i, most) in (rows - k..rows).enumerate() {
        let drawn = 1 + ((u64::from(stream.word(i as u64)) * most as u64) >> 32) as u32;
        let taken = offsets.contains(&drawn);
        offsets.push(if taken { most as u32 } else { drawn });
    }
    offsets.sort_unstable();
}

/// The plan's inputs as bytes.
fn bind<'a>(inputs: &[(Input, usize)], batch: &'a Minibatch, step: &'a Step, offsets: &'a [u32]) -> Vec<&'a [u8]> {
    let bytes = |input: Input| -> &'a [u8] {
        match input {
            Input::Step => bytemuck::bytes_of(step),
            Input::Labels => bytemuck::cast_slice(&batch.labels),
            Input::Numeric => bytemuck::cast_slice(&batch.numeric),
            Input::MaskKey => bytemuck::cast_slice(&batch.mask_key),
            Input::Offsets => bytemuck::cast_slice(offsets),
            Input::Ids(t) => bytemuck::cast_slice(&batch.tables[t].ids),
            Input::Segments(t) => bytemuck::cast_slice(&batch.tables[t].segments),
            Input::Occurrences(t) => bytemuck::cast_slice(&batch.tables[t].occurrences),
            Input::Chunks(t) => bytemuck::cast_slice(&batch.tables[t].chunks),
            Input::Other(_) => &[],
        }
    };
    inputs.iter().map(|&(input, _)| bytes(input)).collect()
}

/// Device memory of a session, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Memory {
    /// Embedding tables and their optimizer state.
    pub tables: u64,
    /// Dense parameters, gradients, optimizer state and running statistics.
    pub dense: u64,
    /// Inputs.
    pub inputs: u64,
    /// Activations; those whose lives don't overlap share memory, and so do the programs.
    pub activations: u64,
    /// Activations if none were shared.
    pub unshared: u64,
    /// Nodes of all programs.
    pub ops: usize,
}

impl Memory {
    fn of(model: &Model, plans: &[Plan]) -> Memory {
        let dense = model.dense_bytes();
        Memory {
            tables: model.state().bytes() - dense,
            dense,
            inputs: plans.iter().flat_map(|p| &p.inputs).map(|&(_, words)| words as u64 * 4).sum(),
            activations: shared_slots(plans).into_iter().map(|words| words as u64 * 4).sum(),
            unshared: plans.iter().map(|p| p.transient_words as u64 * 4).sum(),
            ops: plans.iter().map(|p| p.nodes.len()).sum(),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.tables + self.dense + self.inputs + self.activations
    }

    /// In one line.
    pub fn describe(&self) -> String {
        format!(
            "plan: {} ops; memory {} = tables {} + dense {} + inputs {} + activations {} ({} without sharing)",
            self.ops,
            mib(self.total()),
            mib(self.tables),
            mib(self.dense),
            mib(self.inputs),
            mib(self.activations),
            mib(self.unshared)
        )
    }
}

/// Bytes in words.
pub(super) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_negatives_are_distinct_other_rows() {
        let mut offsets = Vec::new();
        let mut drawn = vec![0usize; 65];
        for rows in [1usize, 2, 3, 4, 7, 64, 65] {
            for k in 0..rows {
                for step in 0..20 {
                    draw_offsets(5, step, rows, k, &mut offsets);
                    assert_eq!(offsets.len(), k);
                    assert!(offsets.iter().all(|&o| 0 < o && (o as usize) < rows), "{offsets:?} of {rows} rows");
                    assert!(offsets.windows(2).all(|pair| pair[0] < pair[1]), "{offsets:?} are not distinct and ascending");
                    if rows == 65 && k == 8 {
                        offsets.iter().for_each(|&o| drawn[o as usize] += 1);
                    }
                }
            }
        }
        // 20 draws of 8 of 64 offsets: none is drawn every time.
        assert!(drawn.iter().all(|&n| n < 20), "{drawn:?}");
    }

    #[test]
    fn every_offset_is_as_likely() {
        let (rows, k, steps) = (11, 3, 20_000);
        let (mut offsets, mut drawn) = (Vec::new(), vec![0f64; rows]);
        for step in 0..steps {
            draw_offsets(1, step, rows, k, &mut offsets);
            offsets.iter().for_each(|&o| drawn[o as usize] += 1.0);
        }
        // 6,000 each are expected; the standard deviation is below 65.
        assert!(drawn[0] == 0.0 && drawn[1..].iter().all(|n| (n - 6000.0).abs() < 400.0), "{drawn:?}");
    }
}
