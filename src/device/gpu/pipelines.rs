//! Pipelines: made in parallel, one for each kernel with its constants, through the driver's pipeline cache where there is one.

use super::{Checks, report, user_folder, watched};
use crate::error::{io, one_line};
use crate::files::replace;
use crate::graph::PlannedNode;
use crate::ops::{Access, File, Kernel, Module};
use crate::{Error, Result};
use rayon::prelude::*;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};

/// The variable that names a folder: a build with debug assertions reads its shaders from there.
const FOLDER: &str = "TAUTEN_SHADERS";

/// Names of files that are being written begin with this.
const ASIDE: &str = ".tauten-pipelines-";

/// Counts a pass in a tally.
const COUNT: &str = "
@group(0) @binding(0) var<storage, read_write> tally: array<u32, 2>;
@compute @workgroup_size(1) fn count() { tally[1] += 1u; }";
/// What a pass does that is there for its time alone: Metal writes no time for one without a dispatch.
const NOTHING: &str = "@compute @workgroup_size(1) fn nothing() {}";
/// The folder that shaders are read from in place of the build's own; none in a release build.
fn folder() -> Option<PathBuf> {
    std::env::var_os(FOLDER).filter(|folder| cfg!(debug_assertions) && !folder.is_empty()).map(PathBuf::from)
}

/// In words, behind the name of an adapter: where shaders are read from, or why they are not.
pub(in crate::device) fn note() -> String {
    match (folder(), std::env::var_os(FOLDER)) {
        (Some(folder), _) => format!("; shaders: {}", folder.display()),
        (None, Some(_)) => {
            format!("; {FOLDER} is ignored: a release build has its shaders in it, `cargo build` makes one that reads them")
        }
        (None, None) => String::new(),
    }
}

/// A compiled kernel.
pub(super) struct Pipeline {
    pub layout: wgpu::BindGroupLayout,
    pub pipeline: wgpu::ComputePipeline,
}

/// What tells pipelines apart: module, entry point and constants.
type Key = (String, &'static str, Vec<(&'static str, u64)>);

fn key(PlannedNode { op, module, .. }: &PlannedNode) -> Key {
    let constants = op.overrides().iter().map(|&(name, value)| (name, value.to_bits())).collect();
    (module.name(), op.kernel().entry, constants)
}

/// All pipelines of a device.
pub(super) struct Pipelines {
    pipelines: HashMap<Key, Pipeline>,
    /// Counts a pass, where it is wanted.
    pub count: Option<wgpu::ComputePipeline>,
}

impl Pipelines {
    /// Compiles what `nodes` need, and what counts their passes with `counts`.
    ///
    /// # Errors
    ///
    /// A kernel that is refused; shaders that are read from a folder: a file that is not there or is no WGSL.
    pub fn new<'a>(
        device: &wgpu::Device,
        info: &wgpu::AdapterInfo,
        checks: Checks,
        nodes: impl Iterator<Item = &'a PlannedNode>,
        counts: bool,
    ) -> Result<Pipelines> {
        let mut wanted: HashMap<Key, &PlannedNode> = HashMap::new();
        for node in nodes {
            wanted.entry(key(node)).or_insert(node);
        }
        let mut modules: HashMap<String, wgpu::ShaderModule> = HashMap::new();
        for PlannedNode { module, .. } in wanted.values() {
            if let Entry::Vacant(entry) = modules.entry(module.name()) {
                entry.insert(compile_module(device, module, checks)?);
            }
        }
        let cache = Cache::open(device, info);
        let wanted: Vec<(Key, &PlannedNode)> = wanted.into_iter().collect();
        let pipelines = wanted
            .into_par_iter()
            .map(|(key, PlannedNode { op, module, .. })| {
                let kernel = op.kernel();
                match watched(device, || compile(device, kernel, &modules[&module.name()], op.overrides(), cache.as_ref())) {
                    Ok(pipeline) => Ok((key, pipeline)),
                    Err(error @ wgpu::Error::Validation { .. }) if folder().is_some() => {
                        let (name, words) = (kernel.name, one_line(&error.to_string()));
                        Err(Error::user(format!("{FOLDER}: kernel {name} does not fit the program: {words}")))
                    }
                    Err(error) => Err(report(kernel.name, &error)),
                }
            })
            .collect::<Result<_>>()?;
        if let Some(cache) = cache {
            cache.save();
        }
        Ok(Pipelines { pipelines, count: counts.then(|| small(device, "count", COUNT)) })
    }

    /// The pipeline of `node`, which was among those given to [`Pipelines::new`].
    pub fn get(&self, node: &PlannedNode) -> &Pipeline {
        &self.pipelines[&key(node)]
    }
}

/// The pipeline that does nothing.
pub(super) fn nothing(device: &wgpu::Device) -> wgpu::ComputePipeline {
    small(device, "nothing", NOTHING)
}

/// The pipeline of a shader that is one kernel, `name`, without parameters.
fn small(device: &wgpu::Device, name: &str, source: &str) -> wgpu::ComputePipeline {
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(name),
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(name),
        layout: None,
        module: &module,
        entry_point: Some(name),
        compilation_options: Default::default(),
        cache: None,
    })
}

#[expect(unsafe_code, reason = "leaves out the checks that naga injects")]
fn compile_module(device: &wgpu::Device, module: &Module, checks: Checks) -> Result<wgpu::ShaderModule> {
    if let Some(folder) = folder() {
        return read(device, module, &folder);
    }
    let name = module.name();
    let source = wgpu::ShaderSource::Wgsl(module.text().into());
    let descriptor = wgpu::ShaderModuleDescriptor { label: Some(&name), source };
    Ok(match checks {
        Checks::Injected => device.create_shader_module(descriptor),
        // SAFETY: the shaders are the crate's own; each checks its invocation against its shapes, and its loops are bounded
        // by them. The tests run every op with and without the injected checks.
        Checks::None => unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) },
    })
}

/// A module that somebody is at work on; always with the injected checks.
fn read(device: &wgpu::Device, module: &Module, folder: &Path) -> Result<wgpu::ShaderModule> {
    let read = |file: &File| {
        let path = folder.join(file.name);
        std::fs::read_to_string(&path).map(|text| text + "\n").map_err(io(&path))
    };
    let files: Vec<&File> = module.files().collect();
    let texts: Vec<String> = files.iter().map(|file| read(file)).collect::<Result<_>>()?;
    let (enables, name, mut messages) = (module.enables(), module.name(), Vec::new());
    let made = watched(device, || {
        let source = wgpu::ShaderSource::Wgsl((enables.to_string() + &texts.concat()).into());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some(&name), source });
        messages = pollster::block_on(module.get_compilation_info()).messages;
        module
    });
    let refused = match made {
        Ok(module) => return Ok(module),
        Err(refused) => refused,
    };
    let message = messages.into_iter().find(|m| m.message_type == wgpu::CompilationMessageType::Error);
    // The line's number in its own file.
    let line = message.as_ref().and_then(|m| m.location).map(|at| at.line_number as usize);
    let (mut line, mut file) = (line.map(|line| line - enables.lines().count()), 0);
    while let (Some(number), true) = (line, file + 1 < texts.len()) {
        let Some(rest) = number.checked_sub(texts[file].lines().count()).filter(|&rest| rest > 0) else { break };
        (line, file) = (Some(rest), file + 1);
    }
    let (line, file) = (line.map_or(String::new(), |line| format!("{line}: ")), folder.join(files[file].name));
    let words = message.map_or_else(|| refused.to_string(), |m| m.message);
    // Behind the message naga draws the line itself.
    let words = words.split('┌').next().unwrap_or_default();
    Err(Error::user(format!("{}:{line}{}", file.display(), one_line(words))))
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
        let folder = user_folder([("XDG_CACHE_HOME", ""), ("HOME", ".cache"), ("LOCALAPPDATA", "")])?;
        let file = folder.join(wgpu::util::pipeline_cache_key(info)?);
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
        if std::fs::create_dir_all(folder).is_ok() {
            // Another process may have been first; its data is as good.
            let _ = replace(&self.file, ASIDE, &data);
        }
    }
}
