//! Every shader: valid for naga, for Tint and in SPIR-V, translatable to MSL and HLSL, within the limits that WebGPU
//! guarantees; and every kernel of the host laid out as its shader says.
//!
//! `TAUTEN_HLSL=FOLDER` keeps the HLSL of every kernel there, for DX12's own compilers (tests/hlsl/).

use naga::back::{self, PipelineConstants};
use naga::valid::{Capabilities, GlobalUse, ModuleInfo, ValidationFlags, Validator};
use naga::{
    AddressSpace, Block, Expression, Function, Handle, Module, ShaderStage, Statement, StorageAccess, StructMember, TypeInner,
};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::offset_of;
use std::path::Path;
use std::process::{Command, Stdio};
use tauten::graph::{Format, Plan, Step};
use tauten::ops::check::cases;
use tauten::ops::{Access, Kernel, Module as Source};

/// Every module that a case uses, by its name.
fn modules() -> BTreeMap<String, Source> {
    used().into_iter().map(|used| (used.source.name(), used.source)).collect()
}

/// Whether a shader needs subgroup operations.
fn by_subgroups(source: &str) -> bool {
    source.contains("subgroupBroadcast")
}

/// Whether a shader needs cooperative matrices, of which naga's translation to HLSL knows nothing.
fn by_matrices(source: &str) -> bool {
    source.contains("enable wgpu_cooperative_matrix;")
}

/// Parses and validates with nothing but what every WebGPU device has, and subgroup operations, 16-bit numbers and cooperative matrices
/// where they are asked for by name.
fn parse(source: &str) -> Result<(Module, ModuleInfo), String> {
    let module = naga::front::wgsl::parse_str(source).map_err(|e| e.emit_to_string(source))?;
    let mut capabilities = Capabilities::empty();
    capabilities.set(Capabilities::SUBGROUP, by_subgroups(source));
    capabilities.set(Capabilities::SHADER_FLOAT16, source.starts_with("enable f16;"));
    capabilities.set(Capabilities::COOPERATIVE_MATRIX, by_matrices(source));
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    let info = validator.validate(&module).map_err(|e| e.emit_to_string(source))?;
    Ok((module, info))
}

/// A kernel with one set of values for its constants.
struct Used {
    kernel: &'static Kernel,
    source: Source,
    constants: Vec<(&'static str, f64)>,
}

impl Used {
    fn describe(&self) -> String {
        let Used { kernel, source, constants } = self;
        format!("kernel {} ({}, entry point {}, constants {constants:?})", kernel.name, source.name(), kernel.entry)
    }

    /// The module with this kernel's constants put in.
    fn module(&self) -> Result<(Module, ModuleInfo), String> {
        let (module, info) = parse(&self.source.text())?;
        let mut constants = PipelineConstants::default();
        constants.extend(self.constants.iter().map(|&(name, value)| (name.to_string(), value)));
        let entry = Some((ShaderStage::Compute, self.kernel.entry));
        let (module, info) = back::pipeline_constants::process_overrides(&module, &info, entry, &constants)
            .map_err(|e| format!("{}: {e}", self.describe()))?;
        Ok((module.into_owned(), info.into_owned()))
    }
}

/// Names and offsets of the step's scalars.
const STEP: [(&str, usize); 8] = [
    ("dense_lr", offset_of!(Step, dense_lr)),
    ("embedding_lr", offset_of!(Step, embedding_lr)),
    ("correction1", offset_of!(Step, correction1)),
    ("correction2", offset_of!(Step, correction2)),
    ("inverse_clicks", offset_of!(Step, inverse_clicks)),
    ("step_low", offset_of!(Step, number)),
    ("step_high", offset_of!(Step, number) + size_of::<u32>()),
    ("contrast", offset_of!(Step, contrast)),
];

/// Names and offsets of a struct's members.
fn fields(members: &[StructMember]) -> Vec<(&str, usize)> {
    members.iter().map(|m| (m.name.as_deref().unwrap_or("?"), m.offset as usize)).collect()
}

/// Every kernel that the cases use, with each set of constants once.
fn used() -> Vec<Used> {
    let mut used = BTreeMap::new();
    for case in cases() {
        for node in Plan::new(case.setup().graph).nodes() {
            let (kernel, source, constants) = (node.op.kernel(), node.module, node.op.overrides().to_vec());
            let bits: Vec<(&str, u64)> = constants.iter().map(|&(name, value)| (name, value.to_bits())).collect();
            used.insert((source.name(), kernel.entry, kernel.name, bits), Used { kernel, source, constants });
        }
    }
    used.into_values().collect()
}

fn report(failures: &[String]) {
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Whether a program can be started at all.
fn installed(program: &str) -> bool {
    Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Runs a checker; its words where it is not content.
fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn every_file_is_a_part_of_a_module() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .expect("the folder of the shaders")
        .map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned())
        .collect();
    let parts: BTreeSet<String> =
        used().iter().flat_map(|used| used.source.files()).map(|file| file.name.to_string()).collect();
    assert_eq!(files, parts);
}

#[test]
fn every_shader_is_valid_for_naga() {
    let failures: Vec<String> =
        modules().iter().filter_map(|(name, source)| parse(&source.text()).err().map(|e| format!("{name}: {e}"))).collect();
    report(&failures);
}

/// The same for Tint, which knows no cooperative matrices: vectors in their place, and none of what is done with them.
fn without_matrices(source: &str) -> String {
    let line = |line: &str| -> String {
        let (before, call) = line.split_once("coop").unwrap_or((line, ""));
        let of =
            |open, close| call.split_once(open).and_then(|(_, rest)| rest.split_once(close)).map_or("", |(inside, _)| inside);
        match call {
            _ if before.starts_with("//") || call.is_empty() => line.to_string(),
            _ if call.starts_with("_mat") => format!("{before}vec4<{}>;", of("<", ",")),
            _ if call.starts_with("Load") => format!("{before}{}();", of("<", ">")),
            _ if call.starts_with("MultiplyAdd") => format!("{before}{};", of("b0, ", ");").to_string() + of("b1, ", ");")),
            _ => before.to_string(),
        }
    };
    let lines = source.lines().filter(|line| *line != "enable wgpu_cooperative_matrix;").map(line);
    lines.collect::<Vec<_>>().join("\n")
}

/// Tint refuses what naga lets pass: barriers in control flow that is not uniform.
#[test]
fn every_shader_is_valid_for_tint() {
    if !installed("tint") {
        println!("NOT CHECKED: tint is not on PATH, so nobody has looked at the uniformity of barriers");
        return;
    }
    let check = |source: &str| {
        // What naga has without being asked, and does not know the word for.
        let enable = if by_subgroups(source) { "enable subgroups;\n" } else { "" };
        let file = tempfile::Builder::new().suffix(".wgsl").tempfile().map_err(|e| e.to_string())?;
        std::fs::write(file.path(), enable.to_string() + &without_matrices(source)).map_err(|e| e.to_string())?;
        run(Command::new("tint").args(["--format", "wgsl"]).arg(file.path()))
    };
    let failures: Vec<String> =
        modules().iter().filter_map(|(name, source)| check(&source.text()).err().map(|e| format!("{name}: {e}"))).collect();
    report(&failures);
}

#[test]
fn every_entry_point_is_used_by_a_case() {
    let used = used();
    let mut failures = Vec::new();
    for (name, source) in modules() {
        let Ok((module, _)) = parse(&source.text()) else { continue };
        // The last file has the entry points, whatever it is multiplied by.
        let file = |source: &Source| source.files().last().map(|file| file.name);
        for entry in module.entry_points {
            if !used.iter().any(|u| file(&u.source) == file(&source) && u.kernel.entry == entry.name) {
                failures.push(format!("{name}: no case of ops::check::cases() runs {}", entry.name));
            }
        }
    }
    report(&failures);
}

/// Else the test of layouts would not see a binding that is missing in `Kernel::stored`.
#[test]
fn every_kernel_of_activations_has_cases_in_f16() {
    let used = used();
    let mut failures = Vec::new();
    for kernel in used.iter().map(|used| used.kernel) {
        for (side, bindings) in kernel.stored.iter().enumerate() {
            let is_f16 = |u: &&Used| std::ptr::eq(u.kernel, kernel) && u.source.formats[side] == Format::F16;
            if !bindings.is_empty() && used.iter().find(is_f16).is_none() {
                failures.push(format!("no case has {} with {} as f16", kernel.name, ["In", "Out"][side]));
            }
        }
    }
    failures.dedup();
    report(&failures);
}

#[test]
fn every_kernel_translates_to_every_language() {
    let validator = installed("spirv-val");
    assert!(
        validator || std::env::var_os("TAUTEN_NO_SPIRV_VAL").is_some_and(|v| v == "1"),
        "spirv-val (SPIRV-Tools) is not on PATH; install it or set TAUTEN_NO_SPIRV_VAL=1"
    );
    if !validator {
        println!("NOT CHECKED: spirv-val, since TAUTEN_NO_SPIRV_VAL=1 is set");
    }
    let mut failures = Vec::new();
    for used in used() {
        if let Err(e) = translate(&used, validator) {
            failures.push(format!("{}: {e}", used.describe()));
        }
    }
    report(&failures);
}

fn translate(used: &Used, validator: bool) -> Result<(), String> {
    let (module, info) = used.module()?;
    let entry = used.kernel.entry.to_string();
    let options = back::spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: entry.clone() };
    let matrices = by_matrices(&used.source.text());
    // What Vulkan 1.1 reads, and what subgroup operations need; cooperative matrices need more.
    let (lang_version, environment) = if matrices { ((1, 6), "vulkan1.3") } else { ((1, 3), "vulkan1.1") };
    let version = back::spv::Options { lang_version, ..Default::default() };
    let words = back::spv::write_vec(&module, &info, &version, Some(&options)).map_err(|e| format!("SPIR-V: {e}"))?;
    if validator {
        let file = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
        std::fs::write(file.path(), bytemuck::cast_slice(&words)).map_err(|e| e.to_string())?;
        match run(Command::new("spirv-val").args(["--target-env", environment]).arg(file.path())) {
            // Cooperative matrices, of which validators before 2023.5 know nothing.
            Err(e) if matrices && e.contains("Invalid capability operand: 6022") => println!("NOT CHECKED: {e}"),
            result => result?,
        }
    }
    let lang_version = if matrices { (2, 3) } else { (2, 0) };
    let options = back::msl::Options { lang_version, ..Default::default() };
    let pipeline =
        back::msl::PipelineOptions { entry_point: Some((ShaderStage::Compute, entry.clone())), ..Default::default() };
    back::msl::write_string(&module, &info, &options, &pipeline).map_err(|e| format!("MSL: {e}"))?;
    if matrices {
        return Ok(());
    }
    let source = used.source.text();
    // DX12's older compiler knows the first of these alone.
    let (shader_model, profile) = match (source.starts_with("enable f16;"), by_subgroups(&source)) {
        (false, false) => (back::hlsl::ShaderModel::V5_1, "cs_5_1"),
        (false, true) => (back::hlsl::ShaderModel::V6_0, "cs_6_0"),
        (true, _) => (back::hlsl::ShaderModel::V6_2, "cs_6_2"),
    };
    let pipeline = back::hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, entry)) };
    let (mut text, mut names) = (String::new(), Vec::new());
    // With naga's checks and, at last, without, as release builds have it (device/gpu/pipelines.rs).
    for checks in [true, false] {
        let options = back::hlsl::Options {
            shader_model,
            restrict_indexing: checks,
            force_loop_bounding: checks,
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        };
        text.clear();
        let written = back::hlsl::Writer::new(&mut text, &options, &pipeline).write(&module, &info, None);
        names = written.map_err(|e| format!("HLSL: {e}"))?.entry_point_names;
        // Namespaces of DX12's newer compiler, which naga takes for names like others.
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if let Some(name) = text.split(|c| !word(c)).find(|name| ["dx", "vk"].contains(name)) {
            return Err(format!("HLSL: {name} is no name that DX12's newer compiler takes"));
        }
    }
    if let Some(folder) = std::env::var_os("TAUTEN_HLSL") {
        let Some(Ok(name)) = names.first() else { return Err("HLSL: no entry point".into()) };
        let mut hasher = DefaultHasher::new();
        (used.describe(), profile).hash(&mut hasher);
        let file = format!("{}-{:016x}.hlsl", used.kernel.name.replace(' ', "_"), hasher.finish());
        let text = format!("// {profile} {name}\n// {}\n{text}", used.describe());
        std::fs::write(Path::new(&folder).join(file), text).map_err(|e| format!("TAUTEN_HLSL: {e}"))?;
    }
    Ok(())
}

/// DX12's older compiler, which Windows has where nobody has installed the newer one, cannot write a number of a vector or a row of a matrix that is named by
/// a variable, but by writing the loop out, which it cannot either as naga puts loops. Arrays it can.
#[test]
fn no_part_of_a_vector_is_written_by_a_variable_index() {
    let mut failures = BTreeSet::new();
    for used in used() {
        let Ok((module, info)) = used.module() else { continue };
        let named = module.functions.iter().map(|(handle, f)| (f.name.as_deref().unwrap_or("?"), f, &info[handle]));
        let entries = module.entry_points.iter().enumerate();
        let entries = entries.map(|(i, e)| (e.name.as_str(), &e.function, info.get_entry_point(i)));
        for (name, function, info) in named.chain(entries) {
            let part = |pointer: Handle<Expression>| {
                let (vector, space) = match *info[pointer].ty.inner_with(&module.types) {
                    TypeInner::Pointer { base, space } => {
                        (matches!(module.types[base].inner, TypeInner::Vector { .. } | TypeInner::Matrix { .. }), space)
                    }
                    // Of a matrix's column.
                    TypeInner::ValuePointer { size, space, .. } => (size.is_some(), space),
                    _ => return false,
                };
                vector && !matches!(space, AddressSpace::Storage { .. })
            };
            if writes_by_index(function, &function.body, &part) {
                failures.insert(format!("{}: {name}", used.source.name()));
            }
        }
    }
    report(&failures.into_iter().collect::<Vec<_>>());
}

/// Whether a block of a function writes by a variable index to what one of the pointers that are `part` points at.
fn writes_by_index(function: &Function, block: &Block, part: &dyn Fn(Handle<Expression>) -> bool) -> bool {
    let inside = |block: &Block| writes_by_index(function, block, part);
    block.iter().any(|statement| match statement {
        Statement::Store { pointer, .. } => {
            let mut pointer = *pointer;
            loop {
                match function.expressions[pointer] {
                    Expression::Access { base, .. } if part(base) => return true,
                    Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => pointer = base,
                    _ => return false,
                }
            }
        }
        Statement::Block(block) => inside(block),
        Statement::If { accept, reject, .. } => inside(accept) || inside(reject),
        Statement::Switch { cases, .. } => cases.iter().any(|case| inside(&case.body)),
        Statement::Loop { body, continuing, .. } => inside(body) || inside(continuing),
        _ => false,
    })
}

#[test]
fn every_kernel_is_laid_out_as_its_shader_says() {
    let mut failures = Vec::new();
    for used in used() {
        match used.module() {
            Ok((module, info)) => failures.extend(compare(&used, &module, &info)),
            Err(e) => failures.push(e),
        }
    }
    failures.sort();
    failures.dedup();
    report(&failures);
}

/// Whether it is an array of 16-bit numbers or of vectors of them.
fn is_f16(module: &Module, ty: naga::Handle<naga::Type>) -> bool {
    let TypeInner::Array { base, .. } = module.types[ty].inner else { return false };
    match module.types[base].inner {
        TypeInner::Scalar(scalar) | TypeInner::Vector { scalar, .. } => scalar.width == 2,
        _ => false,
    }
}

/// Everything in which a kernel differs from its entry point, or the entry point from WebGPU's limits.
fn compare(used: &Used, module: &Module, info: &ModuleInfo) -> Vec<String> {
    let (kernel, formats) = (used.kernel, used.source.formats);
    let mut failures = Vec::new();
    let mut fail = |what: String| failures.push(format!("kernel {} (entry point {}): {what}", kernel.name, kernel.entry));
    let Some(index) = module.entry_points.iter().position(|e| e.name == kernel.entry) else {
        fail("there is no such entry point".into());
        return failures;
    };
    let size = module.entry_points[index].workgroup_size;
    if size.iter().product::<u32>() > 256 {
        fail(format!("workgroups of {size:?} are more than 256 invocations"));
    }
    let uses = info.get_entry_point(index);
    let (mut shared, mut storage) = (0, 0);
    let mut unbound: BTreeSet<u32> = kernel.bindings.iter().map(|&(binding, _)| binding).collect();
    if unbound.len() != kernel.bindings.len() {
        fail("two arguments have the same binding".into());
    }
    let mut params = false;
    for (handle, variable) in module.global_variables.iter() {
        if uses[handle].is_empty() {
            continue;
        }
        let ty = &module.types[variable.ty];
        let name = variable.name.as_deref().unwrap_or("?");
        if variable.space == AddressSpace::WorkGroup {
            shared += ty.inner.size(module.to_ctx());
        }
        let Some(at) = &variable.binding else { continue };
        if at.group != 0 {
            fail(format!("{name} is in bind group {}", at.group));
        }
        if at.binding == 0 {
            params = true;
            if variable.space != AddressSpace::Uniform {
                fail("binding 0 is no uniform".into());
            }
            let TypeInner::Struct { members, span } = &ty.inner else {
                fail("binding 0 is no struct".into());
                continue;
            };
            if *span as usize != kernel.params_size {
                fail(format!("Params are {span} bytes in the shader, {} on the host", kernel.params_size));
            }
            if fields(members) != kernel.fields {
                fail(format!("Params are {:?} in the shader, {:?} on the host", fields(members), kernel.fields));
            }
            continue;
        }
        unbound.remove(&at.binding);
        let Some(&(_, access)) = kernel.bindings.iter().find(|&&(binding, _)| binding == at.binding) else {
            fail(format!("{name} at binding {} is used, but nothing is bound there", at.binding));
            continue;
        };
        // The only uniform besides.
        if let (Access::Uniform, TypeInner::Struct { members, span }) = (access, &ty.inner)
            && (*span as usize, fields(members)) != (size_of::<Step>(), STEP.to_vec())
        {
            fail(format!("Step is {:?} in the shader, {STEP:?} on the host", fields(members)));
        }
        let side = kernel.stored.iter().position(|bindings| bindings.contains(&at.binding));
        let format = if is_f16(module, variable.ty) { Format::F16 } else { Format::F32 };
        if format != side.map_or(Format::F32, |side| formats[side]) {
            fail(format!("{name} at binding {} is stored as {format:?}, which is not what is bound there", at.binding));
        }
        storage += u32::from(variable.space != AddressSpace::Uniform);
        let both = StorageAccess::LOAD | StorageAccess::STORE;
        let right = match access {
            Access::Uniform => variable.space == AddressSpace::Uniform,
            Access::Read => variable.space == AddressSpace::Storage { access: StorageAccess::LOAD },
            Access::Write | Access::Update => variable.space == AddressSpace::Storage { access: both },
        };
        if !right {
            fail(format!("{name} at binding {} is {:?}, bound as {access:?}", at.binding, variable.space));
        }
        if access == Access::Write && uses[handle].contains(GlobalUse::READ) {
            fail(format!("{name} at binding {} is read, but bound as written alone", at.binding));
        }
    }
    if !params {
        fail("its Params are not used".into());
    }
    for binding in unbound {
        fail(format!("an argument is bound at {binding}, which the shader does not use"));
    }
    if storage > 8 {
        fail(format!("{storage} storage buffers are more than 8"));
    }
    if shared > 16 << 10 {
        fail(format!("{shared} bytes of workgroup memory are more than 16 KiB"));
    }
    failures
}
