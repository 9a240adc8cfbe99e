//! Adapters: what there is, what it can do, and opening one with exactly what a run needs.

use super::tuned::{self, Choices};
use crate::device::{LESS_MEMORY, Limits, without_matrices};
use crate::error::one_line;
use crate::ops::tile::{Kind, MATRICES, Tile, Tiles, Tuned};
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex};

/// A GPU, or a software implementation of one, as the driver offers it.
#[derive(Clone)]
pub struct Adapter {
    adapter: wgpu::Adapter,
    info: wgpu::AdapterInfo,
    timestamps: bool,
    tuned: Option<Arc<[Tuned]>>,
}

/// What a person without any adapter can do.
pub const HOW_TO_GET_ONE: &str = if cfg!(target_os = "linux") {
    "install your GPU's Vulkan driver, or a software one (Debian, Ubuntu: apt-get install mesa-vulkan-drivers); \
     `--device cpu` needs none"
} else if cfg!(target_os = "windows") {
    "install your GPU's driver (Windows 10 and later bring DX12's software adapter, WARP); `--device cpu` needs none"
} else {
    "Metal comes with macOS on every Mac since 2012; `--device cpu` needs none"
};

/// What the device has reported outside of a call: a lost device, an error that nobody was waiting for.
pub(super) type Fault = Arc<Mutex<Option<Error>>>;

/// What a run needs of the device.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Needs {
    /// Largest storage binding in bytes.
    pub binding_bytes: u64,
    /// Largest buffer in bytes.
    pub buffer_bytes: u64,
    /// Storage buffers in one kernel.
    pub storage_buffers: u32,
    /// Bind groups times bindings that exist at once.
    pub bindings: u32,
    /// Whether kernels read or write 16-bit numbers.
    pub f16: bool,
    /// Whether kernels multiply cooperative matrices.
    pub matrices: bool,
}

impl Adapter {
    /// Every adapter of every native back end.
    pub fn all() -> Vec<Adapter> {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
        // WGPU_DEBUG=1 has a release build tell debuggers the labels as well.
        descriptor.flags = descriptor.flags.with_env();
        let instance = wgpu::Instance::new(descriptor);
        let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
        adapters
            .into_iter()
            .map(|adapter| Adapter { info: adapter.get_info(), adapter, timestamps: false, tuned: None })
            .filter(|a| a.info.backend != wgpu::Backend::Noop)
            .filter(|a| a.adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS))
            .collect()
    }

    /// The same adapter, to be opened with timestamp queries where it has them.
    #[must_use]
    pub fn with_timestamps(self) -> Adapter {
        Adapter { timestamps: true, ..self }
    }

    /// Back end, name and driver in one line.
    pub fn describe(&self) -> String {
        let driver = [self.info.driver.as_str(), self.info.driver_info.as_str()]
            .iter()
            .filter(|s| !s.is_empty())
            .copied()
            .collect::<Vec<_>>()
            .join(" ");
        format!("{} on {} [{driver}]", self.info.name, self.backend())
    }

    /// The adapter's own name.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// The driver's name and version.
    pub fn driver(&self) -> String {
        format!("{} {}", self.info.driver, self.info.driver_info).trim().to_string()
    }

    /// The back end: Vulkan, Metal or DX12.
    pub fn backend(&self) -> &'static str {
        match self.info.backend {
            wgpu::Backend::Vulkan => "Vulkan",
            wgpu::Backend::Metal => "Metal",
            wgpu::Backend::Dx12 => "DX12",
            _ => "another back end",
        }
    }

    /// discrete, integrated, virtual or software.
    pub fn kind(&self) -> &'static str {
        match self.info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete",
            wgpu::DeviceType::IntegratedGpu => "integrated",
            wgpu::DeviceType::VirtualGpu => "virtual",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "other",
        }
    }

    /// The order in which hardware adapters are preferred; none for software ones, which are taken only by name.
    pub fn rank(&self) -> Option<u32> {
        match self.info.device_type {
            wgpu::DeviceType::DiscreteGpu => Some(0),
            wgpu::DeviceType::IntegratedGpu => Some(1),
            wgpu::DeviceType::VirtualGpu => Some(2),
            wgpu::DeviceType::Other => Some(3),
            wgpu::DeviceType::Cpu => None,
        }
    }

    /// Subgroup sizes, smallest and largest.
    pub fn subgroups(&self) -> (u32, u32) {
        (self.info.subgroup_min_size, self.info.subgroup_max_size)
    }

    /// The features that Tauten can make use of, each with whether the adapter has it.
    pub fn features(&self) -> Vec<(&'static str, bool)> {
        let has = self.adapter.features();
        [
            ("timestamp queries", wgpu::Features::TIMESTAMP_QUERY),
            ("timestamps inside passes", wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES),
            ("f16 in shaders", wgpu::Features::SHADER_F16),
            ("subgroup operations", wgpu::Features::SUBGROUP),
            ("cooperative matrices", wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
            ("pipeline cache", wgpu::Features::PIPELINE_CACHE),
        ]
        .map(|(name, feature)| (name, has.contains(feature)))
        .to_vec()
    }

    /// Invocations of the largest subgroup; 0 where there are no subgroup operations or subgroups of less than four invocations.
    fn subgroup(&self) -> u32 {
        let (least, most) = self.subgroups();
        if least >= 4 && self.adapter.features().contains(wgpu::Features::SUBGROUP) { most } else { 0 }
    }

    /// Whether work that the driver gives up counts as done: wgpu does not look at what became of Metal's command buffers, of which each pass is one.
    pub(super) fn gives_up_silently(&self) -> bool {
        self.info.backend == wgpu::Backend::Metal
    }

    /// Whether its shaders have 16-bit numbers.
    pub fn has_f16(&self) -> bool {
        self.adapter.features().contains(wgpu::Features::SHADER_F16)
    }

    /// Refuses what it lacks of 16-bit numbers and cooperative matrices, if they are asked for.
    ///
    /// # Errors
    ///
    /// What it lacks, with the key of the configuration that needs it.
    pub fn require(&self, f16: bool, matrices: bool) -> Result<()> {
        if f16 && !self.has_f16() {
            return Err(Error::user(format!(
                "{}: its shaders have no 16-bit numbers, which train.activation_storage = \"f16\" needs; set \"f32\" or choose \
                 another device",
                self.describe()
            )));
        }
        if matrices && self.matrices().is_none() {
            return Err(without_matrices(&self.describe()));
        }
        Ok(())
    }

    /// The tile by cooperative matrices for this adapter: of 16-bit numbers with sums in f32, by subgroups of the one size that it has.
    fn matrices(&self) -> Option<Tile> {
        use wgpu::CooperativeScalarType::{F16, F32};
        let needed = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP;
        if !self.adapter.features().contains(needed) {
            return None;
        }
        let offered = self.adapter.cooperative_matrix_properties();
        MATRICES.into_iter().find(|tile| {
            let side = tile.by.side().unwrap_or(0);
            let subgroup = tile.matrices_subgroup();
            self.subgroups() == (subgroup, subgroup)
                && offered.iter().any(|m| [m.m_size, m.n_size, m.k_size] == [side; 3] && (m.ab_type, m.cr_type) == (F16, F32))
        })
    }

    /// What graphs for this adapter must stay under.
    pub fn limits(&self) -> Limits {
        let limits = self.adapter.limits();
        let kind = match self.info.device_type {
            wgpu::DeviceType::DiscreteGpu | wgpu::DeviceType::VirtualGpu => Kind::Discrete,
            wgpu::DeviceType::IntegratedGpu | wgpu::DeviceType::Other => Kind::Integrated,
            wgpu::DeviceType::Cpu => Kind::Software,
        };
        Limits {
            // Kernels count words in 32 bits.
            binding_bytes: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).min(u64::from(u32::MAX) * 4),
            tiles: Tiles {
                kind,
                subgroup: self.subgroup(),
                matrices: self.matrices(),
                by_matrices: false,
                tuned: self.tuned.clone(),
            },
        }
    }

    /// The same adapter with the tiles that `tauten tune` has chosen on it, if it has; also the file that they stand in, and the driver they were
    /// measured with where that is another.
    ///
    /// # Errors
    ///
    /// A file that is damaged.
    pub fn with_tuned(self) -> Result<(Adapter, String)> {
        let Some(file) = self.tuned_file().filter(|file| file.exists()) else { return Ok((self, String::new())) };
        let Choices { driver, tiles } = tuned::read(&file)?;
        let mut line = format!("; tiles: {}", file.display());
        if driver != self.driver() {
            line += &format!(" (measured with driver {driver}; `tauten tune` measures them with this one)");
        }
        Ok((Adapter { tuned: Some(tiles.into()), ..self }, line))
    }

    /// Where the choice of tiles for this adapter is kept; none where the user has no folder for settings.
    pub fn tuned_file(&self) -> Option<std::path::PathBuf> {
        tuned::file(&format!("{} {}", self.backend(), self.info.name))
    }

    /// The limits that matter here, by name.
    pub fn limit_table(&self) -> Vec<(&'static str, u64)> {
        let l = self.adapter.limits();
        vec![
            ("max_storage_buffer_binding_size", l.max_storage_buffer_binding_size),
            ("max_buffer_size", l.max_buffer_size),
            ("max_storage_buffers_per_shader_stage", l.max_storage_buffers_per_shader_stage.into()),
            ("max_compute_invocations_per_workgroup", l.max_compute_invocations_per_workgroup.into()),
            ("max_compute_workgroup_storage_size", l.max_compute_workgroup_storage_size.into()),
            ("max_compute_workgroups_per_dimension", l.max_compute_workgroups_per_dimension.into()),
        ]
    }

    /// Everything about it: names, features, limits.
    pub fn to_json(&self) -> Value {
        let (least, most) = self.subgroups();
        let features: Map<String, Value> =
            self.features().into_iter().map(|(name, has)| (name.to_string(), has.into())).collect();
        let limits: Map<String, Value> =
            self.limit_table().into_iter().map(|(name, limit)| (name.to_string(), limit.into())).collect();
        json!({
            "name": self.name(), "backend": self.backend(), "kind": self.kind(), "driver": self.driver(),
            "features": features, "limits": limits, "subgroup_sizes": [least, most],
        })
    }

    /// Opens the adapter with exactly the features and limits of `needs`.
    pub(super) fn open(&self, needs: Needs) -> Result<(wgpu::Device, wgpu::Queue, Fault)> {
        let has = self.adapter.limits();
        let shaders = wgpu::Limits::default();
        let required = wgpu::Limits {
            max_storage_buffer_binding_size: needs.binding_bytes.max(256),
            max_buffer_size: needs.buffer_bytes.max(256),
            max_storage_buffers_per_shader_stage: needs.storage_buffers,
            max_non_sampler_bindings: needs.bindings,
            max_compute_workgroup_storage_size: shaders.max_compute_workgroup_storage_size,
            max_compute_invocations_per_workgroup: shaders.max_compute_invocations_per_workgroup,
            max_compute_workgroup_size_x: shaders.max_compute_workgroup_size_x,
            max_compute_workgroup_size_y: shaders.max_compute_workgroup_size_y,
            max_compute_workgroup_size_z: shaders.max_compute_workgroup_size_z,
            max_compute_workgroups_per_dimension: shaders.max_compute_workgroups_per_dimension,
            min_storage_buffer_offset_alignment: has.min_storage_buffer_offset_alignment.max(32),
            min_uniform_buffer_offset_alignment: has.min_uniform_buffer_offset_alignment.max(32),
            ..wgpu::Limits::downlevel_defaults()
        };
        let checks: [(&str, u64, u64, &str); 5] = [
            ("max_storage_buffer_binding_size", needs.binding_bytes, has.max_storage_buffer_binding_size, LESS_MEMORY),
            ("max_buffer_size", needs.buffer_bytes, has.max_buffer_size, LESS_MEMORY),
            (
                "max_storage_buffers_per_shader_stage",
                needs.storage_buffers.into(),
                has.max_storage_buffers_per_shader_stage.into(),
                "choose another device",
            ),
            (
                "max_compute_invocations_per_workgroup",
                required.max_compute_invocations_per_workgroup.into(),
                has.max_compute_invocations_per_workgroup.into(),
                "choose another device",
            ),
            (
                "max_compute_workgroup_storage_size",
                required.max_compute_workgroup_storage_size.into(),
                has.max_compute_workgroup_storage_size.into(),
                "choose another device",
            ),
        ];
        for (limit, need, has, advice) in checks {
            if need > has {
                let device = self.describe();
                return Err(Error::user(format!(
                    "{device}: its {limit} is {has}, this run needs {need}; {advice}, or use --device cpu"
                )));
            }
        }
        self.require(needs.f16, needs.matrices)?;
        let feature = |asked: bool, feature| if asked { feature } else { wgpu::Features::empty() };
        let wanted = wgpu::Features::PIPELINE_CACHE
            | wgpu::Features::SUBGROUP
            | feature(needs.f16 || needs.matrices, wgpu::Features::SHADER_F16)
            | feature(needs.matrices, wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX)
            | feature(self.timestamps, wgpu::Features::TIMESTAMP_QUERY);
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("tauten"),
            required_features: self.adapter.features() & wanted,
            required_limits: required,
            experimental_features: if needs.matrices { experimental() } else { wgpu::ExperimentalFeatures::disabled() },
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(self.adapter.request_device(&descriptor))
            .map_err(|e| Error::system(format!("{}: cannot be opened: {e}", self.describe())))?;
        let fault: Fault = Fault::default();
        let name = self.describe();
        let (slot, what) = (fault.clone(), name.clone());
        device.on_uncaptured_error(Arc::new(move |e| note(&slot, report(&what, &e))));
        let slot = fault.clone();
        device.set_device_lost_callback(move |reason, message| {
            // Dropping the device says `Destroyed`; that is no fault.
            if reason != wgpu::DeviceLostReason::Destroyed {
                note(&slot, Error::system(format!("{name}: the device was lost ({message}); resume the run with --resume")));
            }
        });
        Ok((device, queue, fault))
    }

    pub(super) fn info(&self) -> &wgpu::AdapterInfo {
        &self.info
    }
}

#[expect(unsafe_code, reason = "says that bugs of an experimental feature are known of")]
fn experimental() -> wgpu::ExperimentalFeatures {
    // SAFETY: what may be undefined is wgpu's translation of cooperative matrices (its issue 8805), which run where the user's key asks for them, and where
    // `doctor` and tests find out what becomes of them, on a device of their own.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

/// Keeps the first fault: later ones are its consequences.
fn note(fault: &Fault, error: Error) {
    if let Ok(mut slot) = fault.lock() {
        slot.get_or_insert(error);
    }
}

/// One line for an error of wgpu.
pub(super) fn report(device: &str, error: &wgpu::Error) -> Error {
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::user(format!("{device}: out of memory; {LESS_MEMORY}, or use --device cpu")),
        wgpu::Error::Validation { description, .. } => {
            Error::system(format!("{device}: refused by validation (a bug of tauten's): {}", one_line(description)))
        }
        wgpu::Error::Internal { description, .. } => {
            Error::system(format!("{device}: the driver failed: {}", one_line(description)))
        }
    }
}
