//! The GPU executor: wgpu buffers as the plan places them, pipelines and bind groups made once, steps encoded from a fixed
//! list, uploads and readbacks through rings.

mod adapter;
mod pipelines;
mod timestamps;
pub mod tuned;

pub use adapter::{Adapter, HOW_TO_GET_ONE};
pub(super) use pipelines::note as shaders_note;

use super::timeline::{Activity, Mode, Recorder, Timeline};
use super::{Device, RING, cpu};
use crate::error::without_panic;
use crate::graph::{Format, Input, Place, Plan, PlannedArg, StateBuffer, StateId, shared_slots};
use crate::{Error, Result};
use adapter::{Fault, Needs, report};
use pipelines::Pipelines;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use timestamps::{Moment, NO_FEATURE, NO_TIME, Raw, Recording, Timestamps};

/// Nothing waits longer than this for the device.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Aimed-at GPU time of one submit: drivers' watchdogs end work that takes seconds.
const SUBMIT: Duration = Duration::from_millis(100);
/// Bytes that one transfer of state moves at a time.
const TRANSFER: usize = 16 << 20;
/// Round trips of which the fastest tells how the device's clock stands to the host's.
const ROUND_TRIPS: usize = 8;
/// Bytes of a tally.
const TALLY: u64 = 8;
/// WebGPU's guarantee for the offset of a binding.
const ALIGN: u64 = 256;

/// Tauten's own folder in the first that is named: a variable's value, and a folder in it.
fn user_folder(named: [(&str, &str); 3]) -> Option<PathBuf> {
    let folder = |(variable, inner): (&str, &str)| {
        let value = std::env::var_os(variable).filter(|value| !value.is_empty())?;
        Some(PathBuf::from(value).join(inner).join("tauten"))
    };
    named.into_iter().find_map(folder)
}

/// Whether shaders run with the checks that naga injects (bounds, endless loops, division).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checks {
    /// Injected.
    Injected,
    /// Left out.
    None,
}

impl Default for Checks {
    /// Injected in debug builds.
    fn default() -> Self {
        if cfg!(debug_assertions) { Checks::Injected } else { Checks::None }
    }
}

/// A GPU with its buffers and programs.
pub struct Gpu {
    name: String,
    device: wgpu::Device,
    queue: wgpu::Queue,
    fault: Fault,
    state: Vec<wgpu::Buffer>,
    programs: Vec<Program>,
    transfer: wgpu::Buffer,
    recorder: Recorder,
    /// While the recorder is on.
    recording: Option<Recording>,
}

struct Program {
    plan: Plan,
    inputs: Vec<wgpu::Buffer>,
    dispatches: Vec<Dispatch>,
    slots: Arc<Vec<wgpu::Buffer>>,
    /// Ranges of nodes, each one submit; found by measuring the first step.
    cuts: Vec<Range<usize>>,
    upload: Ring,
    /// Where each input starts in an upload buffer, and the tally.
    upload_offsets: Vec<u64>,
    readback: Ring,
    /// The number of a step, which comes with its inputs, and how many of its passes have counted themselves: read behind the outputs, this is how work is noticed
    /// that a driver gave up without saying so.
    tally: wgpu::Buffer,
    /// Counts a pass, as its last dispatch, where the back end does not say what a driver gave up.
    count: Option<Dispatch>,
    /// For each buffer of the rings how many passes its step counts.
    passes: [u32; RING],
    /// Where the device was opened with timestamps and has them.
    timestamps: Option<Timestamps>,
    /// For each buffer of the rings the submission that ends its step: later steps need not end for it.
    ends: [Option<wgpu::SubmissionIndex>; RING],
    submitted: usize,
    received: usize,
}

struct Dispatch {
    /// Kernel and place in the model.
    label: String,
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    workgroups: [u32; 3],
}

/// Buffers used in turn; each is mapped again when the device is done with it.
struct Ring {
    mode: wgpu::MapMode,
    buffers: Vec<(wgpu::Buffer, Arc<AtomicBool>)>,
}

impl Ring {
    fn new(device: &wgpu::Device, label: &str, bytes: u64, mode: wgpu::MapMode) -> Ring {
        let upload = mode == wgpu::MapMode::Write;
        let usage = if upload {
            wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC
        } else {
            wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST
        };
        let buffers = (0..RING)
            .map(|_| {
                let descriptor =
                    wgpu::BufferDescriptor { label: Some(label), size: bytes.max(ALIGN), usage, mapped_at_creation: upload };
                (device.create_buffer(&descriptor), Arc::new(AtomicBool::new(upload)))
            })
            .collect();
        Ring { mode, buffers }
    }

    /// Asks for buffer `i` to be mapped once the work submitted so far is done.
    fn map(&self, i: usize) {
        let (buffer, mapped) = &self.buffers[i];
        let mapped = mapped.clone();
        // A failure leaves `mapped` false and the waiting side with the device's own error.
        buffer.map_async(self.mode, .., move |result| mapped.store(result.is_ok(), Ordering::Release));
    }

    /// The first `bytes` bytes of buffer `i`, which is mapped.
    fn view(&self, i: usize, bytes: u64, device: &str) -> Result<wgpu::BufferView> {
        let view = self.buffers[i].0.slice(..bytes).get_mapped_range();
        view.map_err(|e| Error::system(format!("{device}: a readback buffer is not mapped: {e}")))
    }

    fn is_mapped(&self, i: usize) -> bool {
        self.buffers[i].1.load(Ordering::Acquire)
    }

    fn unmap(&self, i: usize) {
        self.buffers[i].1.store(false, Ordering::Release);
        self.buffers[i].0.unmap();
    }
}

/// What `make` makes, or an error that the device reports of it on this thread: on others its scopes are not seen.
fn watched<T>(device: &wgpu::Device, make: impl FnOnce() -> T) -> std::result::Result<T, wgpu::Error> {
    use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
    let scopes = [OutOfMemory, Validation, Internal].map(|filter| device.push_error_scope(filter));
    let made = make();
    let error = scopes.into_iter().rev().fold(None, |inner, scope| pollster::block_on(scope.pop()).or(inner));
    error.map_or(Ok(made), Err)
}

impl Gpu {
    /// Opens `adapter` with its state buffers and programs; nothing is allocated after this.
    ///
    /// # Errors
    ///
    /// A limit that is too small, before anything is allocated; memory that is not there; a kernel that the driver refuses.
    pub fn new(adapter: Adapter, checks: Checks, state: &[StateBuffer], plans: Vec<Plan>) -> Result<Gpu> {
        let counts = adapter.gives_up_silently();
        Gpu::counting(adapter, checks, state, plans, counts)
    }

    /// The same; with `counts` passes count themselves.
    fn counting(adapter: Adapter, checks: Checks, state: &[StateBuffer], plans: Vec<Plan>, counts: bool) -> Result<Gpu> {
        let name = adapter.describe();
        let (device, queue, fault) = adapter.open(needs(state, &plans))?;
        let made = watched(&device, || {
            let buffer = |label: &str, words: usize, usage: wgpu::BufferUsages| {
                let copies = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some(label),
                    size: words as u64 * 4,
                    usage: usage | copies,
                    mapped_at_creation: false,
                })
            };
            let storage = wgpu::BufferUsages::STORAGE;
            let state: Vec<wgpu::Buffer> = state.iter().map(|b| buffer(&b.name, b.len, storage)).collect();
            let slots = shared_slots(&plans);
            let slots: Vec<wgpu::Buffer> =
                slots.iter().enumerate().map(|(i, &words)| buffer(&format!("slot {i}"), words, storage)).collect();
            let slots = Arc::new(slots);
            let nodes = plans.iter().flat_map(|p| &p.nodes);
            let pipelines = Pipelines::new(&device, adapter.info(), checks, nodes, counts)?;
            let programs = plans
                .into_iter()
                .map(|plan| {
                    let inputs: Vec<wgpu::Buffer> = plan
                        .inputs
                        .iter()
                        .map(|&(input, words)| {
                            let usage = if input == Input::Step { wgpu::BufferUsages::UNIFORM } else { storage };
                            buffer(&format!("{input:?}"), words, usage)
                        })
                        .collect();
                    Program::new(&device, &queue, &pipelines, plan, &state, inputs, slots.clone())
                })
                .collect::<Vec<_>>();
            let transfer = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("transfer"),
                size: TRANSFER as u64,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            Ok((state, programs, transfer))
        });
        let (state, programs, transfer) = made.map_err(|error| report(&name, &error))??;
        let recorder = Recorder::default();
        Ok(Gpu { name, device, queue, fault, state, programs, transfer, recorder, recording: None })
    }

    /// The fault that the device has reported, if it has.
    fn check(&self) -> Result<()> {
        match self.fault.lock() {
            Ok(mut fault) => fault.take().map_or(Ok(()), Err),
            Err(_) => Err(Error::system(format!("{}: an error handler panicked", self.name))),
        }
    }

    /// Has wgpu look after the device, until this submission has ended or a second is over. wgpu panics where the device is lost; here that is an error.
    fn poll(&self, submission: Option<&wgpu::SubmissionIndex>) -> Result<()> {
        let poll = || {
            let timeout = Some(Duration::from_secs(1));
            self.device.poll(wgpu::PollType::Wait { submission_index: submission.cloned(), timeout })
        };
        let polled = without_panic(poll);
        self.check()?;
        match polled {
            Ok(Err(wgpu::PollError::WrongSubmissionIndex(..))) => {
                Err(Error::system(format!("{}: lost count of its submissions", self.name)))
            }
            Ok(_) => Ok(()),
            Err(what) => Err(Error::system(format!("{}: the driver failed ({what}); resume the run with --resume", self.name))),
        }
    }

    /// Waits until `done`, or the device's fault, or the time is up: for this submission, or for all where none is named.
    fn wait(&self, what: &str, submission: Option<&wgpu::SubmissionIndex>, done: impl Fn() -> bool) -> Result<()> {
        let start = Instant::now();
        while !done() {
            self.poll(submission)?;
            if !done() && start.elapsed() > TIMEOUT {
                let (device, seconds) = (&self.name, TIMEOUT.as_secs());
                return Err(Error::system(format!("{device}: {what} did not end within {seconds} s; is the driver hung?")));
            }
        }
        self.check()
    }

    /// Those of the arguments that a node writes which are `wanted`, by number, with what they hold now.
    fn written(&self, program: usize, node: usize, wanted: impl Fn(&PlannedArg) -> bool) -> Result<Vec<(usize, Vec<u32>)>> {
        let p = &self.programs[program];
        let read = |(i, arg): (usize, &PlannedArg)| {
            let mut words = vec![0u32; arg.words()];
            let (buffer, offset) = locate(&p.inputs, &self.state, &p.slots, arg.place);
            self.read_buffer(buffer, offset, &mut words).map(|()| (i, words))
        };
        let args = p.plan.nodes[node].args.iter().enumerate();
        args.filter(|(_, arg)| arg.access.writes() && wanted(arg)).map(read).collect()
    }

    /// Waits until all submitted work is done.
    fn drain(&self, what: &str) -> Result<()> {
        let done = Arc::new(AtomicBool::new(false));
        let flag = done.clone();
        self.queue.on_submitted_work_done(move || flag.store(true, Ordering::Release));
        self.wait(what, None, || done.load(Ordering::Acquire))
    }

    fn encoder(&self, label: &str) -> wgpu::CommandEncoder {
        self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(label) })
    }

    /// Puts the host's inputs into an upload buffer and has them copied to where the kernels read them.
    fn upload(&mut self, program: usize, inputs: &[&[u8]]) -> Result<wgpu::CommandEncoder> {
        let turn = self.programs[program].submitted % RING;
        let p = &self.programs[program];
        self.wait("an earlier step", p.ends[turn].as_ref(), || p.upload.is_mapped(turn))?;
        let (buffer, _) = &p.upload.buffers[turn];
        let mut encoder = self.encoder("inputs");
        assert_eq!(inputs.len(), p.inputs.len());
        let tally = [number_of(p.submitted), 0];
        let all = inputs.iter().copied().chain([bytemuck::bytes_of(&tally)]).zip(p.inputs.iter().chain([&p.tally]));
        for ((bytes, target), &offset) in all.zip(&p.upload_offsets) {
            if bytes.is_empty() {
                continue;
            }
            let len = bytes.len() as u64;
            let mut view = buffer
                .slice(offset..offset + len)
                .get_mapped_range_mut()
                .map_err(|e| Error::system(format!("{}: an upload buffer is not mapped: {e}", self.name)))?;
            view.copy_from_slice(bytes);
            drop(view);
            encoder.copy_buffer_to_buffer(buffer, offset, target, 0, len);
        }
        p.upload.unmap(turn);
        Ok(encoder)
    }

    /// Encodes nodes: a pass a phase, or a node where `timed` says so. Each pass writes timestamps then, and what it does is added to
    /// the list. How many passes count themselves: those of a node do not, since it would be a part of their time.
    fn encode(
        &self,
        program: usize,
        nodes: Range<usize>,
        encoder: &mut wgpu::CommandEncoder,
        mut timed: Option<(Mode, &Timestamps, &mut Vec<Activity>)>,
    ) -> u32 {
        let p = &self.programs[program];
        let (mut at, mut counted) = (nodes.start, 0);
        while at < nodes.end {
            let phase = p.plan.nodes[at].phase;
            let end = (at..nodes.end).find(|&i| p.plan.nodes[i].phase != phase).unwrap_or(nodes.end);
            let detailed = matches!(timed, Some((Mode::Detailed, ..)));
            for first in (at..end).step_by(if detailed { 1 } else { end - at }) {
                let timestamp_writes = timed.as_mut().map(|(_, timestamps, passes)| {
                    passes.push(if detailed { Activity::Node(first) } else { Activity::Phase(phase) });
                    timestamps.writes(passes.len() - 1)
                });
                let label = if detailed { &p.dispatches[first].label } else { phase.name() };
                let mut pass =
                    encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(label), timestamp_writes });
                // Within the pass: a group around passes would end in another command buffer than it begins in, and Mesa 22.3 falls.
                pass.push_debug_group(phase.name());
                let nodes = &p.dispatches[first..if detailed { first + 1 } else { end }];
                let count = p.count.as_ref().filter(|_| !detailed);
                counted += u32::from(count.is_some());
                for dispatch in nodes.iter().chain(count) {
                    pass.insert_debug_marker(&dispatch.label);
                    pass.set_pipeline(&dispatch.pipeline);
                    pass.set_bind_group(0, &dispatch.bind_group, &[]);
                    let [x, y, z] = dispatch.workgroups;
                    pass.dispatch_workgroups(x, y, z);
                }
                pass.pop_debug_group();
            }
            at = end;
        }
        counted
    }

    /// Copies words of a buffer to the host, after all submitted work.
    fn read_buffer(&self, buffer: &wgpu::Buffer, offset: usize, words: &mut [u32]) -> Result<()> {
        let mut from = offset as u64 * 4;
        for chunk in words.chunks_mut(TRANSFER / 4) {
            let bytes = chunk.len() as u64 * 4;
            let mut encoder = self.encoder("read");
            encoder.copy_buffer_to_buffer(buffer, from, &self.transfer, 0, bytes);
            self.queue.submit([encoder.finish()]);
            let mapped = Arc::new(AtomicBool::new(false));
            let flag = mapped.clone();
            self.transfer.map_async(wgpu::MapMode::Read, ..bytes, move |r| flag.store(r.is_ok(), Ordering::Release));
            self.wait("a transfer", None, || mapped.load(Ordering::Acquire))?;
            let view = self
                .transfer
                .slice(..bytes)
                .get_mapped_range()
                .map_err(|e| Error::system(format!("{}: a transfer buffer is not mapped: {e}", self.name)))?;
            bytemuck::cast_slice_mut::<u32, u8>(chunk).copy_from_slice(&view);
            drop(view);
            self.transfer.unmap();
            from += bytes;
        }
        Ok(())
    }

    /// Takes the timestamps of a step that has ended, if it wrote any.
    fn receive_timestamps(&mut self, program: usize, step: usize) -> Result<()> {
        let turn = step % RING;
        let p = &self.programs[program];
        let Some(t) = p.timestamps.as_ref().filter(|t| !t.passes[turn].is_empty()) else { return Ok(()) };
        self.wait("a step's timestamps", p.ends[turn].as_ref(), || t.readback.is_mapped(turn))?;
        let view = t.readback.view(turn, Timestamps::bytes(t.passes[turn].len()), &self.name)?;
        if let Some(recording) = &mut self.recording {
            let pairs = timestamps::ticks(&view).zip(&t.passes[turn]);
            recording.raw.extend(pairs.map(|(ticks, &activity)| Raw { step, activity, ticks }));
        }
        drop(view);
        t.readback.unmap(turn);
        if let Some(t) = &mut self.programs[program].timestamps {
            t.passes[turn].clear();
        }
        Ok(())
    }

    /// A moment on the host's clock and the device's, by the fastest of some round trips of a pass that does nothing; none where there are no
    /// timestamps, and why.
    fn moment(&self, period: f64) -> Result<std::result::Result<Moment, String>> {
        let Some(t) = self.programs.first().and_then(|p| p.timestamps.as_ref()) else { return Ok(Err(NO_FEATURE.into())) };
        self.drain("earlier steps")?;
        let mut best: Option<Moment> = None;
        for _ in 0..ROUND_TRIPS {
            let mut encoder = self.encoder("clock");
            let descriptor = wgpu::ComputePassDescriptor { label: Some("clock"), timestamp_writes: Some(t.writes(0)) };
            let mut pass = encoder.begin_compute_pass(&descriptor);
            pass.set_pipeline(&t.nothing);
            pass.dispatch_workgroups(1, 1, 1);
            drop(pass);
            let commands = encoder.finish();
            let before = Instant::now();
            self.queue.submit([commands]);
            self.drain("a pass of nothing")?;
            let after = Instant::now();
            let mut encoder = self.encoder("clock");
            let resolved = t.resolve(&mut encoder, 1);
            self.queue.submit([encoder.finish()]);
            let mut words = [0u32; 4];
            self.read_buffer(resolved, 0, &mut words)?;
            let moment =
                timestamps::ticks(bytemuck::bytes_of(&words)).next().and_then(|t| Moment::new(before, after, t, period));
            best = [best, moment].into_iter().flatten().min_by_key(|m| m.error);
        }
        Ok(best.ok_or_else(|| NO_TIME.into()))
    }

    /// The first step of a program runs node by node, timed, so that later ones are cut into submits of bounded length. How many passes count themselves.
    fn measure(&mut self, program: usize) -> Result<u32> {
        let nodes = self.programs[program].dispatches.len();
        let mut counted = 0;
        let mut cuts: Vec<Range<usize>> = Vec::new();
        let mut spent = SUBMIT;
        for node in 0..nodes {
            let mut encoder = self.encoder("one node");
            counted += self.encode(program, node..node + 1, &mut encoder, None);
            let start = Instant::now();
            self.queue.submit([encoder.finish()]);
            self.drain(self.programs[program].plan.nodes[node].op.kernel().name)?;
            let time = start.elapsed();
            match cuts.last_mut() {
                Some(cut) if spent + time <= SUBMIT => {
                    cut.end = node + 1;
                    spent += time;
                }
                _ => {
                    cuts.push(node..node + 1);
                    spent = time;
                }
            }
        }
        self.programs[program].cuts = cuts;
        Ok(counted)
    }
}

/// What the run needs of the device, with room for each node's bindings.
fn needs(state: &[StateBuffer], plans: &[Plan]) -> Needs {
    let bytes = |words: usize| words as u64 * 4;
    let input_bytes = |p: &Plan| p.inputs.iter().map(|&(_, len)| bytes(len).next_multiple_of(ALIGN)).sum::<u64>() + ALIGN;
    let output_bytes = |p: &Plan| p.outputs.iter().map(|&(_, len)| bytes(len)).sum::<u64>() + TALLY;
    let largest = |sizes: &mut dyn Iterator<Item = u64>| sizes.max().unwrap_or(0);
    let buffers = [
        largest(&mut state.iter().map(|b| bytes(b.len))),
        largest(&mut plans.iter().flat_map(|p| p.slots.iter().map(|&words| bytes(words)))),
        largest(&mut plans.iter().map(input_bytes)),
        largest(&mut plans.iter().map(output_bytes)),
        largest(&mut plans.iter().map(|p| p.nodes.len() as u64 * ALIGN)),
        TRANSFER as u64,
    ];
    let nodes = || plans.iter().flat_map(|p| &p.nodes);
    Needs {
        binding_bytes: plans.iter().map(|p| p.largest_binding()).max().unwrap_or(0),
        buffer_bytes: largest(&mut buffers.into_iter()),
        storage_buffers: nodes().map(|n| n.args.len() as u32).max().unwrap_or(0).max(4),
        bindings: nodes().map(|n| n.args.len() as u32 + 1).sum::<u32>().next_power_of_two().max(1024),
        f16: nodes().any(|n| n.module.has_f16()),
        matrices: nodes().any(|n| n.module.shader.matrices),
    }
}

/// The buffer that a place lies in, and its first word there.
fn locate<'a>(
    inputs: &'a [wgpu::Buffer],
    state: &'a [wgpu::Buffer],
    slots: &'a [wgpu::Buffer],
    place: Place,
) -> (&'a wgpu::Buffer, usize) {
    match place {
        Place::Input(i, from) => (&inputs[i], from),
        Place::State(StateId(i), from) => (&state[i], from),
        Place::Slot(i, from) => (&slots[i], from),
    }
}

/// What stands for a step, counted from 0, in a tally: never 0, as memory starts.
fn number_of(step: usize) -> u32 {
    step as u32 % u32::MAX + 1
}

impl Dispatch {
    /// Counts a pass in `tally`.
    fn count(device: &wgpu::Device, pipeline: &wgpu::ComputePipeline, tally: &wgpu::Buffer) -> Dispatch {
        let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("tally"),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: tally.as_entire_binding() }],
        });
        Dispatch { label: "count the pass".into(), pipeline: pipeline.clone(), bind_group, workgroups: [1; 3] }
    }
}

impl Program {
    fn new(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        pipelines: &Pipelines,
        plan: Plan,
        state: &[wgpu::Buffer],
        inputs: Vec<wgpu::Buffer>,
        slots: Arc<Vec<wgpu::Buffer>>,
    ) -> Program {
        let params = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("params"),
            size: (plan.nodes.len() as u64 * ALIGN).max(ALIGN),
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut bytes = vec![0u8; params.size() as usize];
        for (node, chunk) in plan.nodes.iter().zip(bytes.chunks_exact_mut(ALIGN as usize)) {
            let source = node.op.params();
            chunk[..source.len()].copy_from_slice(source);
        }
        queue.write_buffer(&params, 0, &bytes);
        let binding = |buffer, offset, size: u64| {
            let size = std::num::NonZeroU64::new(size);
            wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size })
        };
        let dispatches = plan
            .nodes
            .iter()
            .enumerate()
            .map(|(i, node)| {
                let kernel = node.op.kernel();
                let pipeline = pipelines.get(node);
                let mut entries = vec![wgpu::BindGroupEntry {
                    binding: 0,
                    resource: binding(&params, i as u64 * ALIGN, kernel.params_size as u64),
                }];
                for (arg, &(number, _)) in node.args.iter().zip(kernel.bindings) {
                    let (buffer, offset) = locate(&inputs, state, &slots, arg.place);
                    let resource = binding(buffer, offset as u64 * 4, arg.words() as u64 * 4);
                    entries.push(wgpu::BindGroupEntry { binding: number, resource });
                }
                let label = node.title();
                let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some(&label),
                    layout: &pipeline.layout,
                    entries: &entries,
                });
                Dispatch { label, pipeline: pipeline.pipeline.clone(), bind_group, workgroups: node.op.workgroups() }
            })
            .collect();
        let mut upload_offsets = Vec::with_capacity(inputs.len());
        let mut upload_bytes = 0;
        for &(_, words) in &plan.inputs {
            upload_offsets.push(upload_bytes);
            upload_bytes += (words as u64 * 4).next_multiple_of(ALIGN);
        }
        upload_offsets.push(upload_bytes);
        let readback_bytes = plan.outputs.iter().map(|&(_, words)| words as u64 * 4).sum::<u64>() + TALLY;
        let tally = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("tally"),
            size: TALLY,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        Program {
            count: pipelines.count.as_ref().map(|pipeline| Dispatch::count(device, pipeline, &tally)),
            upload: Ring::new(device, "upload", upload_bytes + ALIGN, wgpu::MapMode::Write),
            readback: Ring::new(device, "readback", readback_bytes, wgpu::MapMode::Read),
            tally,
            passes: [0; RING],
            timestamps: device
                .features()
                .contains(wgpu::Features::TIMESTAMP_QUERY)
                .then(|| Timestamps::new(device, plan.nodes.len())),
            plan,
            inputs,
            dispatches,
            slots,
            cuts: Vec::new(),
            ends: Default::default(),
            upload_offsets,
            submitted: 0,
            received: 0,
        }
    }
}

impl Device for Gpu {
    fn name(&self) -> &str {
        &self.name
    }

    fn submit(&mut self, program: usize, inputs: &[&[u8]]) -> Result<()> {
        assert!(self.in_flight(program) < RING, "a step must be received first");
        let step = self.programs[program].submitted;
        let turn = step % RING;
        let start = Instant::now();
        let mut encoder = self.upload(program, inputs)?;
        let mut start = self.recorder.mark(step, Activity::Upload, start);
        let mut counted = 0;
        let mode = self.recording.as_ref().and_then(|r| self.recorder.mode.filter(|_| r.first.is_ok()));
        let timestamps = &mut self.programs[program].timestamps;
        let mut passes = timestamps.as_mut().map(|t| std::mem::take(&mut t.passes[turn])).unwrap_or_default();
        if self.programs[program].cuts.is_empty() {
            self.queue.submit([encoder.finish()]);
            counted = self.measure(program)?;
            encoder = self.encoder("outputs");
            start = Instant::now();
        } else {
            let cuts = self.programs[program].cuts.len();
            for i in 0..cuts {
                let p = &self.programs[program];
                let timed = mode.zip(p.timestamps.as_ref()).map(|(mode, timestamps)| (mode, timestamps, &mut passes));
                counted += self.encode(program, p.cuts[i].clone(), &mut encoder, timed);
                if i + 1 < cuts {
                    let commands = encoder.finish();
                    start = self.recorder.mark(step, Activity::Encode, start);
                    self.queue.submit([commands]);
                    start = self.recorder.mark(step, Activity::Submit, start);
                    encoder = self.encoder("step");
                }
            }
        }
        let p = &mut self.programs[program];
        let mut offset = 0;
        for &(place, words) in &p.plan.outputs {
            let (buffer, from) = locate(&p.inputs, &self.state, &p.slots, place);
            encoder.copy_buffer_to_buffer(buffer, from as u64 * 4, &p.readback.buffers[turn].0, offset, words as u64 * 4);
            offset += words as u64 * 4;
        }
        let timestamps = p.timestamps.as_mut().filter(|_| !passes.is_empty());
        if let Some(t) = &timestamps {
            let resolved = t.resolve(&mut encoder, passes.len());
            encoder.copy_buffer_to_buffer(resolved, 0, &t.readback.buffers[turn].0, 0, Timestamps::bytes(passes.len()));
        }
        encoder.copy_buffer_to_buffer(&p.tally, 0, &p.readback.buffers[turn].0, offset, TALLY);
        p.passes[turn] = counted;
        let commands = encoder.finish();
        start = self.recorder.mark(step, Activity::Encode, start);
        p.ends[turn] = Some(self.queue.submit([commands]));
        p.upload.map(turn);
        p.readback.map(turn);
        if let Some(t) = timestamps {
            t.readback.map(turn);
            t.passes[turn] = passes;
        }
        self.recorder.mark(step, Activity::Submit, start);
        self.programs[program].submitted += 1;
        self.check()
    }

    fn in_flight(&self, program: usize) -> usize {
        self.programs[program].submitted - self.programs[program].received
    }

    fn receive(&mut self, program: usize, outputs: &mut Vec<Vec<f32>>) -> Result<()> {
        if self.in_flight(program) == 0 {
            return Err(Error::system("no step is under way whose outputs could be read"));
        }
        let p = &self.programs[program];
        let (step, turn) = (p.received, p.received % RING);
        outputs.resize_with(p.plan.outputs.len(), Vec::new);
        let start = Instant::now();
        self.wait("a step", p.ends[turn].as_ref(), || p.readback.is_mapped(turn))?;
        let start = self.recorder.mark(step, Activity::Wait, start);
        let view = p.readback.view(turn, p.readback.buffers[turn].0.size(), &self.name)?;
        let mut bytes: &[u8] = &view;
        for (to, &(_, words)) in outputs.iter_mut().zip(&p.plan.outputs) {
            let (mine, rest) = bytes.split_at(words * 4);
            to.clear();
            to.extend_from_slice(bytemuck::cast_slice(mine));
            bytes = rest;
        }
        let tally: [u32; 2] = bytemuck::pod_read_unaligned(&bytes[..TALLY as usize]);
        let whole = tally == [number_of(step), p.passes[turn]];
        drop(view);
        p.readback.unmap(turn);
        self.recorder.mark(step, Activity::Readback, start);
        self.receive_timestamps(program, step)?;
        self.programs[program].received += 1;
        if !whole {
            return Err(Error::system(format!(
                "{}: the driver gave up work of a step without saying so (it took too long, or memory is gone); resume the run with --resume, \
                 with a smaller train.batch_size if it happens again",
                self.name
            )));
        }
        Ok(())
    }

    fn read(&mut self, state: StateId, offset: usize, words: &mut [u32]) -> Result<()> {
        self.read_buffer(&self.state[state.0], offset, words)
    }

    fn write(&mut self, state: StateId, offset: usize, words: &[u32]) -> Result<()> {
        let mut to = offset as u64 * 4;
        for chunk in words.chunks(TRANSFER / 4) {
            self.queue.write_buffer(&self.state[state.0], to, bytemuck::cast_slice(chunk));
            self.queue.submit([]);
            self.drain("a transfer")?;
            to += chunk.len() as u64 * 4;
        }
        Ok(())
    }

    fn first_nonfinite(&mut self, program: usize, inputs: &[&[u8]]) -> Result<Option<String>> {
        if let Some(found) = cpu::nonfinite_input(&self.programs[program].plan, inputs) {
            return Ok(Some(found));
        }
        self.drain("earlier steps")?;
        let mut encoder = self.upload(program, inputs)?;
        self.programs[program].slots.iter().for_each(|slot| encoder.clear_buffer(slot, 0, None));
        self.queue.submit([encoder.finish()]);
        let turn = self.programs[program].submitted % RING;
        self.programs[program].upload.map(turn);
        for node in 0..self.programs[program].dispatches.len() {
            let before = self.written(program, node, |arg| arg.format == Format::F16)?;
            let mut encoder = self.encoder("search");
            self.encode(program, node..node + 1, &mut encoder, None);
            self.queue.submit([encoder.finish()]);
            for (i, words) in self.written(program, node, |_| true)? {
                let before = before.iter().find(|before| before.0 == i).map_or(&[][..], |before| &before.1);
                let node = &self.programs[program].plan.nodes[node];
                if let Some(at) = super::nonfinite(&words, before, node.args[i].format) {
                    return Ok(Some(cpu::finding(node, i, at)));
                }
            }
        }
        Ok(None)
    }

    fn record(&mut self, mode: Mode) -> Result<()> {
        assert!((0..self.programs.len()).all(|program| self.in_flight(program) == 0), "steps must be received first");
        let period = f64::from(self.queue.get_timestamp_period());
        self.recording = Some(Recording { period, raw: Vec::new(), first: self.moment(period)? });
        self.recorder = Recorder { mode: Some(mode), spans: Vec::new() };
        Ok(())
    }

    fn timeline(&mut self) -> Result<Timeline> {
        let Recorder { mut spans, .. } = std::mem::take(&mut self.recorder);
        let recording = self.recording.take().ok_or_else(|| Error::system("nothing was recorded"))?;
        let last = self.moment(recording.period)?.ok();
        let (device, clock) = recording.spans(last);
        spans.extend(device);
        Ok(Timeline { spans, clock })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::cases;

    #[test]
    fn work_that_the_driver_gave_up_is_noticed() {
        let adapters = Adapter::all();
        assert!(
            !adapters.is_empty() || std::env::var_os("TAUTEN_NO_GPU").is_some(),
            "no adapter; set TAUTEN_NO_GPU=1 if none is expected"
        );
        for adapter in adapters {
            let case = cases().into_iter().find(|case| case.runs_on(&adapter)).unwrap();
            let setup = case.setup();
            let (state, plan) = (setup.state.buffers, Plan::new(setup.graph));
            let inputs: Vec<Vec<u8>> = plan.inputs.iter().map(|&(_, words)| vec![0; 4 * words]).collect();
            let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
            let mut gpu = Gpu::counting(adapter, Checks::default(), &state, vec![plan], true).unwrap();
            let mut outputs = Vec::new();
            // The first is measured, others are not.
            for _ in 0..2 * RING {
                gpu.submit(0, &inputs).unwrap();
                assert!(gpu.programs[0].passes.iter().any(|&passes| passes > 0));
                gpu.receive(0, &mut outputs).unwrap();
            }
            let mut refused = |lose: &dyn Fn(&mut Program)| {
                gpu.submit(0, &inputs).unwrap();
                lose(&mut gpu.programs[0]);
                let e = gpu.receive(0, &mut outputs).unwrap_err();
                assert!(e.to_string().contains("gave up work of a step"), "{e}");
            };
            // A pass that did not run; inputs that did not arrive, so that the tally is an earlier step's.
            refused(&|p| p.passes.iter_mut().for_each(|passes| *passes += 1));
            refused(&|p| (p.received, p.submitted) = (p.received + RING, p.submitted + RING));
        }
    }
}
