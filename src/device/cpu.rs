//! The CPU executor: runs each op's twin on the plan's buffers.

use super::timeline::{Activity, Clock, Mode, Recorder, Timeline};
use super::{Device, LESS_MEMORY, RING};
use crate::graph::{Format, Input, Place, Plan, PlannedArg, StateBuffer, StateId, shared_slots};
use crate::ops::{Access, Args, View};
use crate::{Error, Result};
#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::MmapMut;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::time::Instant;

/// The device in words.
pub fn name() -> String {
    format!("cpu ({} threads)", rayon::current_num_threads())
}

/// Starts the threads of the process's parallel work, twins and all else: so many, or 0 for one a core (`RAYON_NUM_THREADS`, where it is set). The
/// calling thread is one of them, so it is the one that should run devices; of one thread it is the only one, and others that ask for parallel work wait
/// for it. A caller of its own would wake another for each kernel and sleep, and the system may let one that is woken meanwhile wait for that core: on
/// Linux until the next tick of its clock, milliseconds lost on a kernel that takes one.
///
/// # Errors
///
/// Threads that cannot be started, or have been.
pub fn start_threads(count: usize) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(count).use_current_thread();
    pool.build_global().map_err(|e| Error::system(format!("cannot start threads: {e}")))
}

/// Buffers in host memory and programs of twins.
pub struct Cpu {
    name: String,
    state: Vec<Buffer>,
    programs: Vec<Program>,
    /// Activations, kept alive for the programs' views.
    slots: Vec<Buffer>,
    scratch: Vec<f32>,
    recorder: Recorder,
}

struct Program {
    plan: Plan,
    inputs: Vec<Buffer>,
    views: Vec<Vec<View>>,
    outputs: Vec<View>,
    finished: VecDeque<Vec<Vec<f32>>>,
    spare: Vec<Vec<Vec<f32>>>,
    submitted: usize,
}

impl Cpu {
    /// Allocates `state` and what `plans` need, once.
    ///
    /// # Errors
    ///
    /// Memory that is not there.
    pub fn new(state: &[StateBuffer], plans: Vec<Plan>) -> Result<Cpu> {
        let mut state: Vec<Buffer> = state.iter().map(|b| Buffer::new(b.len, &b.name)).collect::<Result<_>>()?;
        let mut slots: Vec<Buffer> =
            shared_slots(&plans).into_iter().map(|len| Buffer::new(len, "activations")).collect::<Result<_>>()?;
        let programs = plans
            .into_iter()
            .map(|plan| {
                let mut inputs: Vec<Buffer> =
                    plan.inputs.iter().map(|&(_, len)| Buffer::new(len, "inputs")).collect::<Result<_>>()?;
                let mut pointer = |place: Place, words: usize| match place {
                    Place::Input(i, from) => inputs[i][from..][..words].as_mut_ptr(),
                    Place::State(StateId(i), from) => state[i][from..][..words].as_mut_ptr(),
                    Place::Slot(i, from) => slots[i][from..][..words].as_mut_ptr(),
                };
                let views = plan
                    .nodes
                    .iter()
                    .map(|n| {
                        let view = |a: &PlannedArg| {
                            let words = pointer(a.place, a.words());
                            View { words, len: a.len, format: a.format, access: a.access }
                        };
                        n.args.iter().map(view).collect()
                    })
                    .collect();
                let outputs = plan
                    .outputs
                    .iter()
                    .map(|&(place, len)| View { words: pointer(place, len), len, format: Format::F32, access: Access::Read })
                    .collect();
                let spare = (0..RING).map(|_| Vec::new()).collect();
                Ok(Program { plan, inputs, views, outputs, finished: VecDeque::new(), spare, submitted: 0 })
            })
            .collect::<Result<_>>()?;
        Ok(Cpu { name: name(), state, programs, slots, scratch: Vec::new(), recorder: Recorder::default() })
    }

    fn load(&mut self, program: usize, inputs: &[&[u8]]) {
        let program = &mut self.programs[program];
        assert_eq!(inputs.len(), program.inputs.len());
        for (to, from) in program.inputs.iter_mut().zip(inputs) {
            to.0[..from.len()].copy_from_slice(from);
        }
    }

    #[expect(unsafe_code, reason = "binds twins to the buffers that the plan names")]
    fn run_node(&mut self, program: usize, node: usize) {
        let program = &self.programs[program];
        // SAFETY: each view lies whole in one of `state`, `inputs` and `slots` (`Cpu::new` slices it), which are never resized and live as
        // long as the device; `Plan::new` has checked that written arguments overlap no others, and only this crate can change a plan;
        // `&mut self` keeps everybody else out.
        let mut args = unsafe { Args::new(&program.views[node], &mut self.scratch) };
        program.plan.nodes[node].op.run(&mut args);
    }
}

/// Bytes of the pages that a buffer is to be made of where it has as many.
#[cfg(target_os = "linux")]
const LARGE_PAGE: usize = 2 << 20;

/// Words that begin at a page, so that rows of a table which are as large as a cache line are one, not parts of two; pages take no memory before they
/// are touched.
struct Buffer(MmapMut);

impl Buffer {
    /// `len` words that are 0.
    fn new(len: usize, what: &str) -> Result<Buffer> {
        let bytes = len
            .checked_mul(size_of::<u32>())
            .ok_or_else(|| Error::user(format!("{what}: {len} words are more than an address space holds")))?;
        let map = MmapMut::map_anon(bytes).map_err(|e| {
            Error::user(format!("{what}: {} MiB of memory are not to be had ({e}); {LESS_MEMORY}", bytes >> 20))
        })?;
        // Rows of a table are read in no order, and a large page takes the place of 512 others that the processor looks for. Where there are none, it is slower.
        #[cfg(target_os = "linux")]
        if bytes >= LARGE_PAGE {
            let _ = map.advise(Advice::HugePage);
        }
        Ok(Buffer(map))
    }
}

impl Deref for Buffer {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        bytemuck::cast_slice(&self.0)
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

impl Device for Cpu {
    fn name(&self) -> &str {
        &self.name
    }

    #[expect(unsafe_code, reason = "reads outputs where the plan put them")]
    fn submit(&mut self, program: usize, inputs: &[&[u8]]) -> Result<()> {
        let step = self.programs[program].submitted;
        let start = Instant::now();
        self.load(program, inputs);
        let mut start = self.recorder.mark(step, Activity::Upload, start);
        for node in 0..self.programs[program].plan.nodes.len() {
            self.run_node(program, node);
            let nodes = &self.programs[program].plan.nodes;
            let (phase, next) = (nodes[node].phase, nodes.get(node + 1).map(|n| n.phase));
            match self.recorder.mode {
                Some(Mode::Detailed) => start = self.recorder.mark(step, Activity::Node(node), start),
                Some(Mode::Cheap) if next != Some(phase) => {
                    start = self.recorder.mark(step, Activity::Phase(phase), start);
                }
                _ => {}
            }
        }
        let program = &mut self.programs[program];
        program.submitted += 1;
        let mut outputs = program.spare.pop().unwrap_or_default();
        outputs.resize_with(program.outputs.len(), Vec::new);
        for (to, from) in outputs.iter_mut().zip(&program.outputs) {
            to.clear();
            // SAFETY: as in `run_node`; no twin runs now.
            let words = unsafe { std::slice::from_raw_parts(from.words, from.word_count()) };
            to.extend_from_slice(bytemuck::cast_slice(words));
        }
        program.finished.push_back(outputs);
        self.recorder.mark(step, Activity::Readback, start);
        Ok(())
    }

    fn in_flight(&self, program: usize) -> usize {
        self.programs[program].finished.len()
    }

    fn receive(&mut self, program: usize, outputs: &mut Vec<Vec<f32>>) -> Result<()> {
        let program = &mut self.programs[program];
        let finished =
            program.finished.pop_front().ok_or_else(|| Error::system("no step is under way whose outputs could be read"))?;
        program.spare.push(std::mem::replace(outputs, finished));
        Ok(())
    }

    fn read(&mut self, state: StateId, offset: usize, words: &mut [u32]) -> Result<()> {
        words.copy_from_slice(&self.state[state.0][offset..offset + words.len()]);
        Ok(())
    }

    fn write(&mut self, state: StateId, offset: usize, words: &[u32]) -> Result<()> {
        self.state[state.0][offset..offset + words.len()].copy_from_slice(words);
        Ok(())
    }

    #[expect(unsafe_code, reason = "reads what a twin has written")]
    fn first_nonfinite(&mut self, program: usize, inputs: &[&[u8]]) -> Result<Option<String>> {
        self.load(program, inputs);
        if let Some(found) = nonfinite_input(&self.programs[program].plan, inputs) {
            return Ok(Some(found));
        }
        self.slots.iter_mut().for_each(|slot| slot.fill(0));
        // SAFETY: as in `submit`.
        let words = |view: &View| unsafe { std::slice::from_raw_parts(view.words, view.word_count()) };
        for node in 0..self.programs[program].plan.nodes.len() {
            let before = |view: &View| if view.format == Format::F16 { words(view).to_vec() } else { Vec::new() };
            let before: Vec<Vec<u32>> = self.programs[program].views[node].iter().map(before).collect();
            self.run_node(program, node);
            let p = &self.programs[program];
            for (i, (view, before)) in p.views[node].iter().zip(&before).enumerate().filter(|(_, (v, _))| v.access.writes()) {
                if let Some(at) = super::nonfinite(words(view), before, view.format) {
                    return Ok(Some(finding(&p.plan.nodes[node], i, at)));
                }
            }
        }
        Ok(None)
    }

    fn record(&mut self, mode: Mode) -> Result<()> {
        self.recorder = Recorder { mode: Some(mode), spans: Vec::new() };
        Ok(())
    }

    fn timeline(&mut self) -> Result<Timeline> {
        Ok(Timeline { spans: std::mem::take(&mut self.recorder).spans, clock: Clock::Host })
    }
}

/// In words: which op wrote a NaN or an infinity, and where: element `at` of what it sees of argument `arg`.
pub(super) fn finding(node: &crate::graph::PlannedNode, arg: usize, at: usize) -> String {
    let (element, tensor) = (node.args[arg].from + at, &node.names[arg]);
    format!("{} of {} (element {element} of {tensor})", node.op.kernel().name, node.label)
}

/// In words: a NaN or an infinity among the numeric inputs.
pub(super) fn nonfinite_input(plan: &Plan, inputs: &[&[u8]]) -> Option<String> {
    let (at, _) = plan.inputs.iter().enumerate().find(|(_, (input, _))| *input == Input::Numeric)?;
    let words: Vec<u32> = bytemuck::pod_collect_to_vec(inputs[at]);
    super::nonfinite(&words, &[], Format::F32).map(|i| format!("the minibatch itself (element {i} of the numeric features)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_to_be_had_may_be_of_either_program() {
        let error = Buffer::new(1 << 50, "a slot").err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.starts_with("a slot: 4294967296 MiB of memory are not to be had ("), "{error}");
        assert!(error.ends_with(&format!("; {LESS_MEMORY}")) && LESS_MEMORY.contains("train.evaluate_batch_size"), "{error}");
    }
}
