//! Devices run plans: [`cpu`] by the ops' twins, [`gpu`] by their shaders through wgpu.

pub mod cpu;
pub mod gpu;
pub mod timeline;

use crate::graph::{Format, Plan, StateBuffer, StateId};
use crate::ops::tile::Tiles;
use crate::{Error, Result};
use gpu::Adapter;
use timeline::{Mode, Timeline};

/// What takes less memory, whichever program or table needs it.
pub(crate) const LESS_MEMORY: &str =
    "lower train.batch_size, train.evaluate_batch_size or features.dim, or raise features.min_count";

/// Steps of one program that may be under way before the host must receive outputs.
pub const RING: usize = 3;

/// Something that runs plans. Made with all its state buffers (zero at first) and programs; none is allocated later.
pub trait Device {
    /// The device in words: back end, adapter, driver.
    fn name(&self) -> &str;

    /// Starts one step of `program`. `inputs` are the plan's, in its order, each at most as long as its capacity.
    ///
    /// At most [`RING`] steps of a program may be under way; receive before more.
    ///
    /// # Errors
    ///
    /// A lost device, an out-of-memory or validation error.
    fn submit(&mut self, program: usize, inputs: &[&[u8]]) -> Result<()>;

    /// Steps of `program` whose outputs have not been received.
    fn in_flight(&self, program: usize) -> usize;

    /// The outputs of the oldest step of `program` that is under way, copied into `outputs`; waits for them.
    ///
    /// # Errors
    ///
    /// As [`Device::submit`]; a time-out.
    fn receive(&mut self, program: usize, outputs: &mut Vec<Vec<f32>>) -> Result<()>;

    /// Copies words of a state buffer, from word `offset` on, into `words`, after all submitted steps.
    ///
    /// # Errors
    ///
    /// As [`Device::receive`].
    fn read(&mut self, state: StateId, offset: usize, words: &mut [u32]) -> Result<()>;

    /// Overwrites words of a state buffer from word `offset` on.
    ///
    /// # Errors
    ///
    /// As [`Device::submit`].
    fn write(&mut self, state: StateId, offset: usize, words: &[u32]) -> Result<()>;

    /// Runs one step node by node and says which op first writes a NaN or an infinity, if one does: label, kernel and tensor.
    ///
    /// # Errors
    ///
    /// As [`Device::receive`].
    fn first_nonfinite(&mut self, program: usize, inputs: &[&[u8]]) -> Result<Option<String>>;

    /// Records the steps that are submitted from now on, until [`Device::timeline`]; none may be under way. The first step of a
    /// program is not recorded.
    ///
    /// # Errors
    ///
    /// As [`Device::receive`].
    fn record(&mut self, mode: Mode) -> Result<()>;

    /// Ends recording, when all steps have been received: what was recorded.
    ///
    /// # Errors
    ///
    /// As [`Device::receive`].
    fn timeline(&mut self) -> Result<Timeline>;
}

/// What the builder of a graph must know of the device.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Largest storage binding.
    pub binding_bytes: u64,
    /// What chooses the tiles of matrix products.
    pub tiles: Tiles,
}

impl Limits {
    /// No limits, as for the twins.
    pub const NONE: Limits = Limits { binding_bytes: u64::MAX, tiles: Tiles::SOFTWARE };
    /// Largest storage binding that WebGPU guarantees, in bytes.
    pub const GUARANTEED_BINDING: u64 = 128 << 20;
}

/// A device that was chosen but not opened.
#[derive(Clone)]
pub enum Choice {
    /// The CPU twins.
    Cpu,
    /// A GPU, or a software implementation of one.
    Gpu(Box<Adapter>),
}

impl Choice {
    /// Chooses by `auto`, `gpu`, `cpu`, or part of an adapter's name; says in one line what was taken and why.
    ///
    /// `auto` takes a hardware GPU (a discrete one, else an integrated one, else another), else the CPU twins; a software adapter only by name.
    ///
    /// # Errors
    ///
    /// `gpu` without a hardware adapter, or a name that fits no adapter: what there is. A file of tiles that is damaged.
    pub fn new(wanted: &str) -> Result<(Choice, String)> {
        let (choice, line) = Choice::untuned(wanted)?;
        let Choice::Gpu(adapter) = choice else { return Ok((choice, line)) };
        let (adapter, tuned) = adapter.with_tuned()?;
        Ok((Choice::Gpu(Box::new(adapter)), line + &tuned))
    }

    /// Threads that build minibatches for it: beside a GPU up to four, of half the cores. What computes on the CPU leaves none to others.
    pub fn builders(&self) -> usize {
        match self {
            Choice::Gpu(adapter) if adapter.rank().is_some() => {
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                (cores / 2).clamp(1, 4)
            }
            _ => 1,
        }
    }

    /// The same without the tiles that `tauten tune` has chosen, whatever stands in their file.
    ///
    /// # Errors
    ///
    /// As [`Choice::new`] but for the file.
    pub fn untuned(wanted: &str) -> Result<(Choice, String)> {
        if wanted == "cpu" {
            return Ok((Choice::Cpu, format!("device: {}, as asked for", cpu::name())));
        }
        let mut adapters = Adapter::all();
        let best = adapters.iter().enumerate().filter_map(|(i, a)| a.rank().map(|rank| (rank, i))).min().map(|(_, i)| i);
        match (wanted.trim(), best) {
            // Every name holds it.
            ("", _) => Err(Error::user(format!("--device is empty; {}", list(&adapters)))),
            ("auto" | "gpu", Some(i)) => {
                let adapter = adapters.swap_remove(i);
                let line = format!("device: {}, the first {} GPU", adapter.describe(), adapter.kind());
                Ok((Choice::Gpu(Box::new(adapter)), line + &gpu::shaders_note()))
            }
            ("auto", None) => {
                let why = if adapters.is_empty() { "no Vulkan, Metal or DX12 adapter" } else { "no hardware GPU" };
                Ok((Choice::Cpu, format!("device: {}, since there is {why}", cpu::name())))
            }
            ("gpu", None) => Err(Error::user(format!("--device gpu: there is no hardware GPU; {}", list(&adapters)))),
            (name, _) => {
                let lower = name.to_lowercase();
                match adapters.iter().position(|a| a.describe().to_lowercase().contains(&lower)) {
                    Some(i) => {
                        let adapter = adapters.swap_remove(i);
                        let line = format!("device: {}, by its name", adapter.describe());
                        Ok((Choice::Gpu(Box::new(adapter)), line + &gpu::shaders_note()))
                    }
                    None => Err(Error::user(format!("--device {name}: no adapter has this in its name; {}", list(&adapters)))),
                }
            }
        }
    }

    /// What the builder of a graph for this device must know.
    pub fn limits(&self) -> Limits {
        match self {
            Choice::Cpu => Limits::NONE,
            Choice::Gpu(adapter) => adapter.limits(),
        }
    }

    /// Refuses what it lacks of 16-bit numbers and cooperative matrices, if they are asked for. The twins have the first.
    ///
    /// # Errors
    ///
    /// What it lacks, with the key of the configuration that needs it.
    pub fn require(&self, f16: bool, matrices: bool) -> Result<()> {
        match self {
            Choice::Cpu if matrices => Err(without_matrices(&self.describe())),
            Choice::Cpu => Ok(()),
            Choice::Gpu(adapter) => adapter.require(f16, matrices),
        }
    }

    /// The same device, to be opened with timestamps where it has them.
    #[must_use]
    pub fn with_timestamps(self) -> Choice {
        match self {
            Choice::Cpu => Choice::Cpu,
            Choice::Gpu(adapter) => Choice::Gpu(Box::new(adapter.with_timestamps())),
        }
    }

    /// The device in words.
    pub fn describe(&self) -> String {
        match self {
            Choice::Cpu => cpu::name(),
            Choice::Gpu(adapter) => adapter.describe(),
        }
    }

    /// What `--device` names it by.
    pub fn argument(&self) -> String {
        match self {
            Choice::Cpu => "cpu".into(),
            Choice::Gpu(adapter) => format!("{} on {}", adapter.name(), adapter.backend()),
        }
    }

    /// Opens the device with its state and programs.
    ///
    /// # Errors
    ///
    /// A limit that is too small, before anything is allocated; memory that is not there; a kernel that the driver refuses.
    pub fn open(self, state: &[StateBuffer], programs: Vec<Plan>) -> Result<Box<dyn Device>> {
        match self {
            Choice::Cpu => Ok(Box::new(cpu::Cpu::new(state, programs)?)),
            Choice::Gpu(adapter) => Ok(Box::new(gpu::Gpu::new(*adapter, gpu::Checks::default(), state, programs)?)),
        }
    }
}

fn without_matrices(device: &str) -> Error {
    Error::user(format!(
        "{device}: it has no cooperative matrices that Tauten can multiply (16-bit numbers, sums in f32, 16 x 16 by subgroups of 32 or 8 x 8 by \
         subgroups of 8), which train.cooperative_matrices = true needs; set false or choose another device"
    ))
}

fn list(adapters: &[Adapter]) -> String {
    if adapters.is_empty() {
        return "no adapter at all was found; `--device cpu` always works".into();
    }
    let names: Vec<String> = adapters.iter().map(Adapter::describe).collect();
    format!("there are: {}; or `cpu`", names.join("; "))
}

/// The first NaN or infinity among the numbers in `words`, by its bits; of f16 one that is not among the words `before`. Ops that write a
/// tensor in parts leave something else's words in the others, and halves of these may look like anything; as f32 no finite number of either
/// format does, so nothing is asked of `before`.
pub(crate) fn nonfinite(words: &[u32], before: &[u32], format: Format) -> Option<usize> {
    match format {
        Format::F32 => words.iter().position(|w| w & 0x7f80_0000 == 0x7f80_0000),
        Format::F16 => {
            let [words, before] = [words, before].map(bytemuck::cast_slice::<u32, u16>);
            words.iter().zip(before).position(|(w, before)| w & 0x7c00 == 0x7c00 && w != before)
        }
    }
}
