//! What a Vulkan driver's compiler makes of a training step's kernels: registers, spills, how many subgroups run side by side. It asks
//! the driver (VK_KHR_pipeline_executable_properties), which needs no GPU, only one that it takes to be there (benches/README.md, Registers).

use ash::{ext, khr, vk};
use naga::back::{PipelineConstants, pipeline_constants, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::mem::ManuallyDrop;
use tauten::device::Limits;
use tauten::graph::{Plan, PlannedNode};
use tauten::ops::Access;
use tauten::ops::tile::{Kind, Tiles};
use tauten::{Error, Result};

/// The columns of the table, each with what drivers call it.
const COLUMNS: [(&str, &[&str]); 4] = [
    ("registers", &["VGPRs", "Register Count", "GPRs", "Number of GPRs", "GRF registers"]),
    ("spills", &["Spilled VGPRs", "Spills", "Spills to memory", "Spill count"]),
    ("scratch", &["Scratch size", "Local Memory Size", "Scratch", "SLM size", "Scratch Memory Size"]),
    ("at a time", &["Subgroups per SIMD", "Threads", "Max warps/SM"]),
];

/// Compiles every kernel of `plans`, which are made by the fixed table of tiles (without tiles by subgroups, which it has for software adapters alone), by
/// the Vulkan device with `wanted` in its name, or where that is none, the first, one in hardware if there is one; prints a table. Null
/// for a device that does not tell.
///
/// # Errors
///
/// No such device; a kernel that it refuses.
pub fn registers(wanted: Option<&str>, plans: impl FnOnce(Limits) -> Result<Vec<Plan>>) -> Result<Value> {
    let Some(compiler) = Compiler::open(wanted)? else { return Ok(Value::Null) };
    println!("{}", compiler.name);
    let titles = COLUMNS.map(|(title, _)| format!("{title:>10}")).concat();
    println!("{:<34}{:<50}{titles}", "kernel", "constants");
    let tiles = Tiles { kind: compiler.kind, ..Tiles::SOFTWARE };
    let plans = plans(Limits { binding_bytes: Limits::GUARANTEED_BINDING, tiles })?;
    let mut nodes: BTreeMap<(&str, String, String), &PlannedNode> = BTreeMap::new();
    for node in plans.iter().flat_map(|plan| plan.nodes()) {
        let constants: Vec<String> = node.op.overrides().iter().map(|(name, value)| format!("{name}={value}")).collect();
        nodes.entry((node.op.kernel().name, node.module.name(), constants.join(" "))).or_insert(node);
    }
    let mut kernels = Vec::new();
    for ((kernel, module, constants), node) in nodes {
        let statistics = compiler.statistics(node)?;
        let of = |names: &[&str]| names.iter().find_map(|&name| statistics.get(name)).map_or("n/a".into(), Value::to_string);
        let cells = COLUMNS.map(|(_, names)| format!("{:>10}", of(names))).concat();
        println!("{kernel:<34}{constants:<50}{cells}");
        kernels.push(json!({ "kernel": kernel, "module": module, "constants": constants, "statistics": statistics }));
    }
    Ok(json!({ "device": compiler.name, "kernels": kernels }))
}

/// A driver, opened for nothing but its compiler.
struct Compiler {
    name: String,
    kind: Kind,
    /// Of SPIR-V, as wgpu writes it for this device.
    version: (u8, u8),
    device: ash::Device,
    executables: khr::pipeline_executable_properties::Device,
}

fn failed(what: &str) -> impl Fn(vk::Result) -> Error {
    let what = what.to_string();
    move |e| Error::system(format!("{what}: {e}"))
}

fn text(name: Option<&CStr>) -> String {
    name.unwrap_or_default().to_string_lossy().into_owned()
}

#[expect(unsafe_code, reason = "calls Vulkan, which wgpu does not ask for statistics")]
impl Compiler {
    fn open(wanted: Option<&str>) -> Result<Option<Compiler>> {
        // SAFETY: the system's Vulkan loader is what it says it is; it and what is made here stay until the process ends, and every structure that is
        // pointed to lives as long as its call.
        unsafe {
            let entry = ash::Entry::load().map_err(|e| Error::user(format!("registers: there is no Vulkan: {e}")))?;
            let entry = ManuallyDrop::new(entry);
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let instance = vk::InstanceCreateInfo::default().application_info(&application);
            let instance = entry.create_instance(&instance, None).map_err(failed("vkCreateInstance"))?;
            let all = instance.enumerate_physical_devices().map_err(failed("vkEnumeratePhysicalDevices"))?;
            let described = |physical| {
                let mut driver = vk::PhysicalDeviceDriverProperties::default();
                let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
                instance.get_physical_device_properties2(physical, &mut properties);
                let properties = properties.properties;
                let name = text(properties.device_name_as_c_str().ok());
                let [driver, version] =
                    [driver.driver_name_as_c_str(), driver.driver_info_as_c_str()].map(|name| text(name.ok()));
                (physical, format!("{name} on Vulkan [{driver} {version}]"), properties)
            };
            let mut described: Vec<_> = all.into_iter().map(described).collect();
            described.sort_by_key(|(.., properties)| properties.device_type == vk::PhysicalDeviceType::CPU);
            let lower = wanted.unwrap_or_default().to_lowercase();
            let Some((physical, name, properties)) =
                described.iter().find(|(_, name, _)| name.to_lowercase().contains(&lower)).cloned()
            else {
                let names: Vec<&str> = described.iter().map(|(_, name, _)| name.as_str()).collect();
                let all = if names.is_empty() { "no device at all".into() } else { names.join("; ") };
                return Err(Error::user(format!(
                    "registers: --device {lower}: no Vulkan device has this in its name; there is {all}"
                )));
            };
            let extension = khr::pipeline_executable_properties::NAME;
            let has = instance.enumerate_device_extension_properties(physical).map_err(failed(&name))?;
            if !has.iter().any(|e| e.extension_name_as_c_str() == Ok(extension)) {
                println!("{name} does not tell of its kernels (it has no {})", extension.to_string_lossy());
                return Ok(None);
            }
            // As wgpu opens it: with all bounds checked that it can check.
            let mut robust = vk::PhysicalDeviceRobustness2FeaturesEXT::default();
            let mut features = vk::PhysicalDeviceFeatures2::default().push_next(&mut robust);
            instance.get_physical_device_features2(physical, &mut features);
            let bounds = features.features.robust_buffer_access;
            let mut robust = vk::PhysicalDeviceRobustness2FeaturesEXT {
                robust_buffer_access2: robust.robust_buffer_access2,
                ..Default::default()
            };
            let enabled = vk::PhysicalDeviceFeatures { robust_buffer_access: bounds, ..Default::default() };
            let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
            let mut names = vec![extension.as_ptr()];
            let mut telling =
                vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
            let mut device = vk::DeviceCreateInfo::default().queue_create_infos(&queues).enabled_features(&enabled);
            if robust.robust_buffer_access2 == vk::TRUE {
                names.push(ext::robustness2::NAME.as_ptr());
                device = device.push_next(&mut robust);
            }
            let device = device.push_next(&mut telling).enabled_extension_names(&names);
            let device = instance.create_device(physical, &device, None).map_err(failed(&name))?;
            let kind = match properties.device_type {
                vk::PhysicalDeviceType::CPU => Kind::Software,
                vk::PhysicalDeviceType::INTEGRATED_GPU | vk::PhysicalDeviceType::OTHER => Kind::Integrated,
                _ => Kind::Discrete,
            };
            let executables = khr::pipeline_executable_properties::Device::new(&instance, &device);
            let version = if properties.api_version >= vk::API_VERSION_1_3 { (1, 6) } else { (1, 5) };
            Ok(Some(Compiler { name, kind, version, device, executables }))
        }
    }

    /// What the driver says of a kernel, by its own names; of the first, where it makes several of one.
    fn statistics(&self, node: &PlannedNode) -> Result<Map<String, Value>> {
        let (kernel, words) = (node.op.kernel(), spirv(node, self.version)?);
        let binding = |binding: u32, ty| {
            let stage = vk::ShaderStageFlags::COMPUTE;
            vk::DescriptorSetLayoutBinding::default()
                .binding(binding)
                .descriptor_type(ty)
                .descriptor_count(1)
                .stage_flags(stage)
        };
        let arguments = kernel.bindings.iter().map(|&(at, access)| match access {
            Access::Uniform => binding(at, vk::DescriptorType::UNIFORM_BUFFER),
            Access::Read | Access::Write | Access::Update => binding(at, vk::DescriptorType::STORAGE_BUFFER),
        });
        let bindings: Vec<_> = std::iter::once(binding(0, vk::DescriptorType::UNIFORM_BUFFER)).chain(arguments).collect();
        let entry = format!("{}\0", kernel.entry);
        let entry = CStr::from_bytes_with_nul(entry.as_bytes()).map_err(|e| Error::system(e.to_string()))?;
        let failed = failed(kernel.name);
        // SAFETY: as in `open`; the module is what naga has found valid.
        unsafe {
            let set = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            let sets = [self.device.create_descriptor_set_layout(&set, None).map_err(&failed)?];
            let layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let layout = self.device.create_pipeline_layout(&layout, None).map_err(&failed)?;
            let module = vk::ShaderModuleCreateInfo::default().code(&words);
            let module = self.device.create_shader_module(&module, None).map_err(&failed)?;
            let stage =
                vk::PipelineShaderStageCreateInfo::default().stage(vk::ShaderStageFlags::COMPUTE).module(module).name(entry);
            let pipeline = vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout);
            let pipeline = [pipeline.flags(vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR)];
            let made = self.device.create_compute_pipelines(vk::PipelineCache::null(), &pipeline, None);
            let pipelines = made.map_err(|(_, e)| failed(e))?;
            let executable = vk::PipelineExecutableInfoKHR::default().pipeline(pipelines[0]);
            let statistics = self.executables.get_pipeline_executable_statistics(&executable).map_err(&failed)?;
            let number = |s: &vk::PipelineExecutableStatisticKHR| match s.format {
                vk::PipelineExecutableStatisticFormatKHR::BOOL32 => json!(s.value.b32 != 0),
                vk::PipelineExecutableStatisticFormatKHR::INT64 => json!(s.value.i64),
                vk::PipelineExecutableStatisticFormatKHR::FLOAT64 => json!(s.value.f64),
                _ => json!(s.value.u64),
            };
            let all = statistics.iter().map(|s| (text(s.name_as_c_str().ok()), number(s)));
            // Some list hashes among them.
            Ok(all.filter(|(name, _)| !name.to_lowercase().contains("hash")).collect())
        }
    }
}

/// The kernel as the device is given it, without checks.
fn spirv(node: &PlannedNode, lang_version: (u8, u8)) -> Result<Vec<u32>> {
    let (kernel, source) = (node.op.kernel(), node.module.text());
    let failed = |e: String| Error::system(format!("kernel {}: {e}", kernel.name));
    let module = naga::front::wgsl::parse_str(&source).map_err(|e| failed(e.emit_to_string(&source)))?;
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
    let info = validator.validate(&module).map_err(|e| failed(e.emit_to_string(&source)))?;
    let mut constants = PipelineConstants::default();
    constants.extend(node.op.overrides().iter().map(|&(name, value)| (name.to_string(), value)));
    let entry = Some((naga::ShaderStage::Compute, kernel.entry));
    let (module, info) =
        pipeline_constants::process_overrides(&module, &info, entry, &constants).map_err(|e| failed(e.to_string()))?;
    let unchecked = BoundsCheckPolicy::Unchecked;
    let options = spv::Options {
        lang_version,
        bounds_check_policies: BoundsCheckPolicies {
            index: unchecked,
            buffer: unchecked,
            image_load: unchecked,
            binding_array: unchecked,
        },
        force_loop_bounding: false,
        emit_int_div_checks: false,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..Default::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: kernel.entry.into() };
    spv::write_vec(&module, &info, &options, Some(&pipeline)).map_err(|e| failed(e.to_string()))
}
