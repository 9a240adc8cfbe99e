//! Pipelines: made in parallel, one for each kernel with its constants, through the driver's pipeline cache where there is one.

use super::Checks;
use crate::ops::{Access, Kernel, Op};
use rayon::prelude::*;
use std::collections::HashMap;
use std::path::PathBuf;

/// A compiled kernel.
pub(super) struct Pipeline {
    pub layout: wgpu::BindGroupLayout,
    pub pipeline: wgpu::ComputePipeline,
}

/// What tells pipelines apart: entry point, source and constants.
type Key = (&'static str, &'static str, Vec<(&'static str, u64)>);

fn key(op: &dyn Op) -> Key {
    let kernel = op.kernel();
    (kernel.source, kernel.entry, op.overrides().iter().map(|&(name, value)| (name, value.to_bits())).collect())
}

/// All pipelines of a device.
pub(super) struct Pipelines {
    pipelines: HashMap<Key, Pipeline>,
}

impl Pipelines {
    /// Compiles what `ops` need.
    pub fn new<'a>(
        device: &wgpu::Device,
        info: &wgpu::AdapterInfo,
        checks: Checks,
        ops: impl Iterator<Item = &'a dyn Op>,
    ) -> Pipelines {
        let mut wanted: HashMap<Key, &dyn Op> = HashMap::new();
        for op in ops {
            wanted.entry(key(op)).or_insert(op);
        }
        let mut modules: HashMap<&'static str, wgpu::ShaderModule> = HashMap::new();
        for op in wanted.values() {
            let kernel = op.kernel();
            modules.entry(kernel.source).or_insert_with(|| module(device, kernel, checks));
        }
        let cache = Cache::open(device, info);
        let wanted: Vec<(Key, &dyn Op)> = wanted.into_iter().collect();
        let pipelines = wanted
            .into_par_iter()
            .map(|(key, op)| {
                let kernel = op.kernel();
                let pipeline = compile(device, kernel, &modules[kernel.source], op.overrides(), cache.as_ref());
                (key, pipeline)
            })
            .collect();
        if let Some(cache) = cache {
            cache.save();
        }
        Pipelines { pipelines }
    }

    /// The pipeline of `op`, which was among those given to [`Pipelines::new`].
    pub fn get(&self, op: &dyn Op) -> &Pipeline {
        &self.pipelines[&key(op)]
    }
}

#[expect(unsafe_code, reason = "leaves out the checks that naga injects")]
fn module(device: &wgpu::Device, kernel: &Kernel, checks: Checks) -> wgpu::ShaderModule {
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: Some(kernel.name), source: wgpu::ShaderSource::Wgsl(kernel.source.into()) };
    match checks {
        Checks::Injected => device.create_shader_module(descriptor),
        // SAFETY: the shaders are the crate's own; each checks its invocation against its shapes, and its loops are bounded
        // by them. The tests run every op with and without the injected checks.
        Checks::None => unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) },
    }
}

fn compile(
    device: &wgpu::Device,
    kernel: &Kernel,
    module: &wgpu::ShaderModule,
    constants: &[(&str, f64)],
    cache: Option<&Cache>,
) -> Pipeline {
    let entry = |binding: u32, ty: wgpu::BufferBindingType, size: usize| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty,
            has_dynamic_offset: false,
            min_binding_size: std::num::NonZeroU64::new(size as u64),
        },
        count: None,
    };
    let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform, kernel.params_size)];
    for &(binding, access) in kernel.bindings {
        let ty = match access {
            Access::Read => wgpu::BufferBindingType::Storage { read_only: true },
            Access::Write | Access::Update => wgpu::BufferBindingType::Storage { read_only: false },
            Access::Uniform => wgpu::BufferBindingType::Uniform,
        };
        entries.push(entry(binding, ty, 0));
    }
    let layout =
        device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(kernel.name), entries: &entries });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(kernel.name),
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(kernel.name),
        layout: Some(&pipeline_layout),
        module,
        entry_point: Some(kernel.entry),
        // Every kernel writes its workgroup memory before it reads it.
        compilation_options: wgpu::PipelineCompilationOptions { constants, zero_initialize_workgroup_memory: false },
        cache: cache.map(|c| &c.cache),
    });
    Pipeline { layout, pipeline }
}

/// The driver's pipeline cache, kept in the user's cache folder. Whatever goes wrong with it costs time alone, so errors
/// are passed over.
struct Cache {
    cache: wgpu::PipelineCache,
    file: PathBuf,
    before: usize,
}

impl Cache {
    #[expect(unsafe_code, reason = "hands stored data to the driver")]
    fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo) -> Option<Cache> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let folder = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME"), std::env::var_os("LOCALAPPDATA")) {
            (Some(cache), ..) if !cache.is_empty() => PathBuf::from(cache),
            (_, Some(home), _) => PathBuf::from(home).join(".cache"),
            (.., Some(local)) => PathBuf::from(local),
            _ => return None,
        };
        let file = folder.join("tauten").join(wgpu::util::pipeline_cache_key(info)?);
        let data = std::fs::read(&file).ok();
        // SAFETY: the file is only ever written by `save` under the same adapter key; the driver checks its own header, and
        // `fallback` has it start empty on a mismatch.
        let cache = unsafe {
            device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor {
                label: Some("tauten"),
                data: data.as_deref(),
                fallback: true,
            })
        };
        Some(Cache { cache, file, before: data.map_or(0, |d| d.len()) })
    }

    fn save(&self) {
        let Some(data) = self.cache.get_data() else { return };
        if data.len() == self.before {
            return;
        }
        let Some(folder) = self.file.parent() else { return };
        if std::fs::create_dir_all(folder).is_ok()
            && let Ok(mut aside) = tempfile::NamedTempFile::new_in(folder)
            && std::io::Write::write_all(&mut aside, &data).is_ok()
        {
            // Another process may have been first; its data is as good.
            let _ = aside.persist(&self.file);
        }
    }
}
