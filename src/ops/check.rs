//! Checks of ops against their CPU twins: the cases that the tests run on every adapter and `doctor` on the chosen one.

use super::Ids;
use super::columns::copy;
use super::tile::{Multiply, Tile};
use crate::data::batch::SEGMENT;
use crate::device::gpu::{Adapter, Checks, Gpu};
use crate::device::{Device, Limits, cpu::Cpu};
use crate::graph::{Format, Graph, Input, Plan, StateId, StateLayout, TensorId};
use crate::random::{Purpose, Stream};
use crate::{Error, Result};
use std::collections::HashSet;
use std::sync::Arc;

/// All outputs of the last step and all state buffers, each with its name.
pub type Results = Vec<(String, Vec<u32>)>;

/// What a case puts together: a graph with its inputs, state and what is compared afterwards.
#[derive(Default)]
pub struct Setup {
    /// The graph; outputs are compared.
    pub graph: Graph,
    /// State buffers; all are compared after the steps.
    pub state: StateLayout,
    contents: Vec<(StateId, Vec<u32>)>,
    inputs: Vec<(Input, Vec<u32>)>,
}

impl Setup {
    /// A new input with these words.
    pub fn input<T: bytemuck::Pod>(&mut self, values: &[T]) -> TensorId {
        self.input_as(Input::Other(self.inputs.len()), values)
    }

    /// The input of this kind with these words.
    pub fn input_as<T: bytemuck::Pod>(&mut self, input: Input, values: &[T]) -> TensorId {
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(values);
        let id = self.graph.input(input, words.len());
        self.inputs.push((input, words));
        id
    }

    /// A state buffer that starts with these words.
    pub fn buffer<T: bytemuck::Pod>(&mut self, name: &str, values: &[T]) -> StateId {
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(values);
        let id = self.state.add(name, words.len());
        self.contents.push((id, words));
        id
    }

    /// A state buffer that starts with these words, as a tensor of the graph.
    pub fn state_tensor<T: bytemuck::Pod>(&mut self, name: &str, values: &[T]) -> TensorId {
        let id = self.buffer(name, values);
        let len = self.state.buffers[id.0].len;
        self.graph.state(name, id, 0, len)
    }

    /// A state tensor that the graph reads as an activation of so many rows, in the format of its activations.
    pub fn activation(&mut self, name: &str, rows: usize, values: &[f32]) -> TensorId {
        let tensor = self.state_tensor(name, values);
        match self.graph.storage() {
            Format::F32 => tensor,
            Format::F16 => {
                let stored = self.graph.activation(name, values.len());
                copy(&mut self.graph, rows, (tensor, 0), (stored, 0), values.len() / rows, false);
                stored
            }
        }
    }

    /// Has the values of an activation compared, as f32 however it is stored.
    pub fn output_activation(&mut self, activation: TensorId, rows: usize) {
        let len = self.graph.get(activation).len;
        let values = match self.graph.get(activation).format {
            Format::F32 => activation,
            Format::F16 => {
                let values = self.graph.transient("values", len);
                copy(&mut self.graph, rows, (activation, 0), (values, 0), len / rows, false);
                values
            }
        };
        self.graph.output(values);
    }

    /// The ids in its inputs, by table.
    pub fn ids(&self) -> Vec<Ids> {
        let mut all: Vec<Ids> = Vec::new();
        for (input, words) in &self.inputs {
            let (Input::Ids(table) | Input::Segments(table) | Input::Chunks(table)) = *input else { continue };
            all.resize(all.len().max(table + 1), Ids::default());
            let ids = &mut all[table];
            match input {
                Input::Ids(_) => {
                    (ids.all, ids.distinct) = (words.len() as f64, words.iter().collect::<HashSet<_>>().len() as f64);
                }
                Input::Segments(_) => {
                    let [distinct, chunks] = [words[0], words[1]].map(f64::from);
                    *ids = Ids { all: (words.len() / SEGMENT - 1) as f64, distinct, chunks, ..*ids };
                }
                // Those that are there hold something.
                _ => ids.chunked = words.as_chunks().0.iter().map(|[start, end]| f64::from(end - start)).sum(),
            }
        }
        all
    }

    /// Opens a device with the graph as its one program and the state as it starts.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn open(self, open: impl FnOnce(&StateLayout, Vec<Plan>) -> Result<Box<dyn Device>>) -> Result<Opened> {
        let Setup { graph, state, contents, mut inputs } = self;
        let plan = Plan::new(graph);
        inputs.sort_by_key(|&(input, _)| input);
        inputs.retain(|(input, _)| plan.inputs.iter().any(|(i, _)| i == input));
        let mut device = open(&state, vec![plan])?;
        for (id, words) in &contents {
            device.write(*id, 0, words)?;
        }
        Ok((device, inputs.into_iter().map(|(_, words)| words).collect()))
    }

    /// Runs `steps` steps on a device and returns all outputs of the last and all state buffers, each with its name.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn run(
        self,
        open: impl FnOnce(&StateLayout, Vec<Plan>) -> Result<Box<dyn Device>>,
        steps: usize,
    ) -> Result<Vec<(String, Vec<u32>)>> {
        let buffers = self.state.buffers.clone();
        let (mut device, inputs) = self.open(open)?;
        let bytes: Vec<&[u8]> = inputs.iter().map(|words| bytemuck::cast_slice(words)).collect();
        let mut outputs = Vec::new();
        for _ in 0..steps {
            device.submit(0, &bytes)?;
            device.receive(0, &mut outputs)?;
        }
        let mut results: Vec<(String, Vec<u32>)> = outputs
            .iter()
            .enumerate()
            .map(|(i, values)| (format!("output {i}"), bytemuck::cast_slice(values).to_vec()))
            .collect();
        for (i, buffer) in buffers.iter().enumerate() {
            let mut words = vec![0u32; buffer.len];
            device.read(StateId(i), 0, &mut words)?;
            results.push((buffer.name.clone(), words));
        }
        Ok(results)
    }
}

/// A device with one program, and the words of the plan's inputs.
type Opened = (Box<dyn Device>, Vec<Vec<u32>>);

/// A check of one op at one shape.
#[derive(Clone)]
pub struct Case {
    /// The op: the name of its file.
    pub op: &'static str,
    /// The op and what is special about the shape or values.
    pub name: String,
    /// Terms in the longest sum behind an output; the tolerance grows with its root.
    pub terms: usize,
    /// Relative tolerance for one term; [`REL`] where nothing speaks against it.
    pub rel: f32,
    /// Steps to run; more than one where state carries over.
    pub steps: usize,
    /// Limits of the device that the graph is made for.
    pub limits: Limits,
    /// How the graph stores activations.
    pub storage: Format,
    /// Puts the case together, the same each time.
    pub build: Arc<dyn Fn(&mut Setup) + Send + Sync>,
}

/// Relative tolerance of one term: WGSL grants division 2.5 ULP, exp and log more.
pub const REL: f32 = 2e-6;
/// The same where activations are stored as f16: a number that lies between two may become either.
const REL_F16: f32 = 2e-3;

impl Case {
    /// A case of one step with the usual tolerance.
    pub fn new(name: impl Into<String>, terms: usize, build: impl Fn(&mut Setup) + Send + Sync + 'static) -> Case {
        Case {
            op: "",
            name: name.into(),
            terms,
            rel: REL,
            steps: 1,
            limits: Limits::NONE,
            storage: Format::F32,
            build: Arc::new(build),
        }
    }

    /// The same case with activations stored as f16; none where none of its ops reads or writes one, or where it is about a tile
    /// whose product is like the others'.
    fn in_f16(&self) -> Option<Case> {
        if self.tiles().any(|tile| tile.by == Multiply::Invocations) {
            return None;
        }
        let name = format!("{}, stored as f16", self.name);
        let case = Case { name, storage: Format::F16, rel: REL_F16, ..self.clone() };
        case.has_f16().then_some(case)
    }

    /// Whether it is about activations stored as f16.
    pub fn is_in_f16(&self) -> bool {
        self.storage == Format::F16
    }

    /// Whether it is about products by subgroup operations.
    pub fn is_by_subgroups(&self) -> bool {
        self.tiles().any(|tile| tile.by == Multiply::Subgroups)
    }

    /// Whether it is about products by cooperative matrices.
    pub fn is_by_matrices(&self) -> bool {
        self.tiles().any(|tile| tile.by.side().is_some())
    }

    /// Whether it is about products by this tile.
    pub fn is_about(&self, tile: Tile) -> bool {
        self.tiles().any(|other| other == tile)
    }

    /// The tiles that it is about.
    fn tiles(&self) -> impl Iterator<Item = Tile> {
        self.limits.tiles.tuned.iter().flat_map(|tuned| tuned.iter()).map(|tuned| tuned.chosen.tile)
    }

    fn has_f16(&self) -> bool {
        Plan::new(self.setup().graph).nodes.iter().any(|node| node.module.has_f16())
    }

    /// The same case on a device whose bindings hold so little that ops run on blocks of rows; none if no op of it can.
    pub fn in_blocks(&self) -> Option<Case> {
        let name = format!("{}, in blocks of rows", self.name);
        let blocks = Case { name, limits: Limits { binding_bytes: 4, ..self.limits.clone() }, ..self.clone() };
        let nodes = |case: &Case| Plan::new(case.setup().graph).nodes.len();
        (nodes(&blocks) > nodes(self)).then_some(blocks)
    }

    /// The case put together, for a device of its limits.
    pub fn setup(&self) -> Setup {
        let mut setup = Setup::default();
        self.build_into(&mut setup);
        setup
    }

    fn build_into(&self, setup: &mut Setup) {
        setup.graph = Graph::new(self.limits.clone()).storing(self.storage);
        (self.build)(setup);
    }

    /// Whether the adapter has the operations and numbers that it needs.
    pub fn runs_on(&self, adapter: &Adapter) -> bool {
        let tiles = adapter.limits().tiles;
        (!self.is_in_f16() || adapter.has_f16()) && self.tiles().all(|tile| tiles.runs(tile))
    }

    /// Words of its inputs, state and activations.
    pub fn words(&self) -> usize {
        let setup = self.setup();
        let plan = Plan::new(setup.graph);
        let inputs: usize = plan.inputs.iter().map(|&(_, words)| words).sum();
        inputs + plan.transient_words + setup.state.buffers.iter().map(|b| b.len).sum::<usize>()
    }

    /// Runs the case on the CPU: every output and state buffer.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn on_cpu(&self) -> Result<Vec<(String, Vec<u32>)>> {
        self.setup().run(|state, plans| Ok(Box::new(Cpu::new(&state.buffers, plans)?)), self.steps)
    }

    /// Runs the case on an adapter.
    ///
    /// # Errors
    ///
    /// What the device reports.
    pub fn on_gpu(&self, adapter: Adapter, checks: Checks) -> Result<Vec<(String, Vec<u32>)>> {
        self.setup().run(|state, plans| Ok(Box::new(Gpu::new(adapter, checks, &state.buffers, plans)?)), self.steps)
    }

    /// Runs cases on one opened adapter, `times` over from their beginning: kernels that they share are compiled once.
    ///
    /// # Errors
    ///
    /// What the device reports when it is opened; for each case what it reports when the case runs.
    pub fn together(cases: &[&Case], adapter: Adapter, checks: Checks, times: usize) -> Result<Vec<Result<Vec<Results>>>> {
        let mut setup = Setup::default();
        let (mut plans, mut programs) = (Vec::new(), Vec::new());
        for case in cases {
            let first = setup.state.buffers.len();
            case.build_into(&mut setup);
            let plan = Plan::new(std::mem::take(&mut setup.graph));
            let mut inputs = std::mem::take(&mut setup.inputs);
            inputs.sort_by_key(|&(input, _)| input);
            inputs.retain(|(input, _)| plan.inputs.iter().any(|(i, _)| i == input));
            plans.push(plan);
            programs.push((first..setup.state.buffers.len(), inputs));
        }
        let Setup { state, contents, .. } = setup;
        let mut device = Gpu::new(adapter, checks, &state.buffers, plans)?;
        let mut run = |program: usize| -> Result<Results> {
            let (buffers, inputs) = &programs[program];
            for i in buffers.clone() {
                let zeros = vec![0; state.buffers[i].len];
                let start = contents.iter().find(|(id, _)| id.0 == i).map_or(&zeros, |(_, words)| words);
                device.write(StateId(i), 0, start)?;
            }
            let bytes: Vec<&[u8]> = inputs.iter().map(|(_, words)| bytemuck::cast_slice(words)).collect();
            let mut outputs = Vec::new();
            for _ in 0..cases[program].steps {
                device.submit(program, &bytes)?;
                device.receive(program, &mut outputs)?;
            }
            let words = |values: &Vec<f32>| bytemuck::cast_slice(values).to_vec();
            let mut results: Results =
                outputs.iter().enumerate().map(|(i, values)| (format!("output {i}"), words(values))).collect();
            for i in buffers.clone() {
                let mut words = vec![0u32; state.buffers[i].len];
                device.read(StateId(i), 0, &mut words)?;
                results.push((state.buffers[i].name.clone(), words));
            }
            Ok(results)
        };
        Ok((0..cases.len()).map(|program| (0..times).map(|_| run(program)).collect()).collect())
    }

    /// Runs cases on one opened adapter: for each the largest error relative to the tolerance against its twin ([`Case::compare`]), or what was wrong.
    ///
    /// # Errors
    ///
    /// What the device reports when it is opened; for each case what the CPU reports.
    pub fn against_twins<'a>(
        cases: &'a [&'a Case],
        adapter: Adapter,
    ) -> Result<impl Iterator<Item = Result<Result<f32>>> + use<'a>> {
        let runs = Case::together(cases, adapter, Checks::default(), 1)?;
        Ok(cases.iter().zip(runs).map(|(case, run)| {
            let wanted = case.on_cpu()?;
            Ok(run.and_then(|run| case.compare(&wanted, &run[0])))
        }))
    }

    /// The largest error relative to the tolerance among `got` against the twin's `wanted`. Counts and flags must be the same.
    ///
    /// # Errors
    ///
    /// More than the tolerance: the first ten mismatches with index and both values; other results, or of other lengths.
    pub fn compare(&self, wanted: &[(String, Vec<u32>)], got: &[(String, Vec<u32>)]) -> Result<f32> {
        let root = (self.terms.max(1) as f32).sqrt();
        let mut worst = 0f32;
        let mut wrong = Vec::new();
        let mut count = 0;
        let shape = |of: &[(String, Vec<u32>)]| of.iter().map(|(name, words)| (name.clone(), words.len())).collect::<Vec<_>>();
        if shape(wanted) != shape(got) {
            return Err(Error::system(format!("{}: {:?}, twin {:?}", self.name, shape(got), shape(wanted))));
        }
        for ((name, wanted), (_, got)) in wanted.iter().zip(got) {
            // Sums of terms as large as the largest value may cancel to anything, so the absolute part goes by the scale.
            let scale = wanted.iter().map(|&w| f32::from_bits(w).abs()).filter(|x| x.is_finite()).fold(0.0, f32::max);
            // No integer that is counted here is large enough to be a normal number.
            let counts = scale < f32::MIN_POSITIVE;
            for (i, (&w, &g)) in wanted.iter().zip(got).enumerate() {
                if w == g {
                    continue;
                }
                let (w, g) = (f32::from_bits(w), f32::from_bits(g));
                let error = (w - g).abs() / (root * self.rel * (w.abs() + 0.25 * scale) + f32::MIN_POSITIVE);
                if error <= 1.0 && (!counts || w == g) {
                    worst = worst.max(error);
                } else {
                    count += 1;
                    if wrong.len() < 10 {
                        wrong.push(format!("{name}[{i}]: {g:e}, twin {w:e}"));
                    }
                }
            }
        }
        if count > 0 {
            return Err(Error::system(format!("{}: {count} values differ: {}", self.name, wrong.join("; "))));
        }
        Ok(worst)
    }
}

/// The cases of every op, an op's together, each also with activations stored as f16 and in blocks of rows where its ops can run so.
pub fn cases() -> Vec<Case> {
    let of = |op, cases: Vec<Case>| {
        let cases = cases.into_iter().map(move |case| Case { op, ..case });
        let cases = cases.flat_map(|case| [case.in_f16(), Some(case)]).flatten();
        cases.flat_map(|case| [case.in_blocks(), Some(case)]).flatten()
    };
    let mut cases = Vec::new();
    cases.extend(of("linear", super::linear::cases()));
    cases.extend(of("layer_norm", super::layer_norm::cases()));
    cases.extend(of("batch_norm", super::batch_norm::cases()));
    cases.extend(of("activation", super::activation::cases()));
    cases.extend(of("gather", super::gather::cases()));
    cases.extend(of("columns", super::columns::cases()));
    cases.extend(of("embedding_update", super::embedding_update::cases()));
    cases.extend(of("mixture", super::mixture::cases()));
    cases.extend(of("transfer", super::transfer::cases()));
    cases.extend(of("losses", super::losses::cases()));
    cases.extend(of("conditional", super::conditional::cases()));
    cases.extend(of("report", super::report::cases()));
    cases.extend(of("dropout", super::dropout::cases()));
    cases.extend(of("clip", super::clip::cases()));
    cases.extend(of("dense_update", super::dense_update::cases()));
    cases.extend(of("normalize", super::normalize::cases()));
    cases.extend(of("interact", super::interact::cases()));
    cases.extend(of("temperature", super::temperature::cases()));
    cases.extend(of("agreement", super::agreement::cases()));
    cases.extend(of("contrast", super::contrast::cases()));
    cases.extend(of("probe", super::probe::cases()));
    cases
}

/// `n` standard normal numbers times `scale`; `seed` tells sequences of a case apart.
pub fn normals(seed: u64, n: usize, scale: f32) -> Vec<f32> {
    let stream = Stream::new(seed, Purpose::Check, 0);
    (0..n as u64).map(|i| stream.normal(i) * scale).collect()
}

/// `n` uniform integers below `bound`.
pub fn integers(seed: u64, n: usize, bound: u32) -> Vec<u32> {
    let stream = Stream::new(seed, Purpose::Check, 1);
    (0..n as u64).map(|i| ((u64::from(stream.word(i)) * u64::from(bound)) >> 32) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::unwrap_used, reason = "a test that fails says where")]
    fn counts_are_the_same_and_numbers_nearly() {
        let case = &cases()[0];
        let compare = |wanted: &[u32], got: &[u32]| {
            let result = |words: &[u32]| [("state".to_string(), words.to_vec())];
            case.compare(&result(wanted), &result(got))
        };
        let bits = f32::to_bits;
        assert_eq!(compare(&[7, 0], &[7, bits(-0.0)]).unwrap(), 0.0);
        assert!(compare(&[bits(1.0), 0], &[bits(1.0) + 1, 1]).unwrap() > 0.0);
        let others = [(&[1, 0], &[0, 0]), (&[0, 0], &[0, 1]), (&[1, 0], &[0x8000_0001, 0]), (&[bits(1.0), 0], &[bits(1.1), 0])];
        for (wanted, got) in others {
            assert!(compare(wanted, got).is_err());
        }
        assert!(compare(&[1, 0], &[1]).is_err() && compare(&[1], &[1, 0]).is_err());
    }

    #[test]
    #[allow(clippy::unwrap_used, reason = "a test that fails says where")]
    fn blocks_of_rows_give_what_all_rows_give() {
        let blocks: Vec<(Case, Case)> = cases().into_iter().filter_map(|c| Some((c.in_blocks()?, c))).collect();
        let ops = [
            "linear",
            "layer_norm",
            "batch_norm",
            "activation",
            "gather",
            "embedding_update",
            "mixture",
            "interact",
            "dropout",
        ];
        for op in ops {
            assert!(blocks.iter().any(|(_, case)| case.op == op), "no case of {op} runs in blocks");
        }
        for (blocks, whole) in blocks {
            whole.compare(&whole.on_cpu().unwrap(), &blocks.on_cpu().unwrap()).unwrap();
        }
    }
}
