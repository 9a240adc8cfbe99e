//! Ops: each is a WGSL shader (`shaders/NAME.wgsl`) and its CPU twin (`ops/NAME.rs`) over the same buffers.
//!
//! An op is one dispatch. Functions such as [`linear::linear`] put ops into a [`Graph`](crate::graph::Graph) together with
//! their backward pass, which is made of ops too.

pub mod activation;
pub mod agreement;
mod args;
pub mod batch_norm;
pub mod check;
pub mod clip;
pub mod columns;
pub mod conditional;
pub mod contrast;
pub mod dense_update;
pub mod dropout;
pub mod embedding_update;
pub mod gather;
pub mod interact;
pub mod layer_norm;
pub mod linear;
pub mod losses;
mod memory;
pub mod mixture;
mod norm_sums;
pub mod normalize;
mod params;
pub mod probe;
mod product;
pub mod report;
pub mod temperature;
pub mod tile;
pub mod transfer;
mod vector;

pub use args::{Args, Numbers, View};
pub(crate) use params::params;

use crate::graph::Format;

/// How a kernel uses a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`, wholly overwritten: what it held before does not matter.
    Write,
    /// `var<storage, read_write>`, read before it is written (accumulation, in-place update) or written in part.
    Update,
    /// `var<uniform>`: the step's scalars.
    Uniform,
}

impl Access {
    /// Whether the kernel writes the binding.
    pub fn writes(self) -> bool {
        matches!(self, Access::Write | Access::Update)
    }
}

/// A file of the folder `shaders`.
#[derive(Debug)]
pub struct File {
    /// Its name; a debug build may read it anew.
    pub name: &'static str,
    /// What stands in it.
    pub text: &'static str,
}

/// Files of the folder `shaders`, which one after the other make a WGSL module, as WGSL has no other way for modules to share
/// functions. The last one has the entry points.
#[derive(Debug, Clone, Copy)]
pub struct Shader {
    /// The files' names in one.
    pub name: &'static str,
    /// The files.
    pub files: &'static [File],
    /// Whether there is a module for each format of the activations that its kernels read and write, which it calls `In` and `Out`.
    pub stored: bool,
    /// Whether it multiplies cooperative matrices of 16-bit numbers.
    pub matrices: bool,
}

/// The shaders of a product by tiles: by one number at a time and by four, each in the order of [`tile::Multiply`].
pub type Shaders = [&'static [Shader]; 2];

/// The [`Shader`] of `shaders/NAME.wgsl`, one or more; `stored` where it reads and writes activations as `In` and `Out`, `matrices` where it also multiplies
/// by cooperative matrices.
macro_rules! shader {
    (matrices $first:literal $(, $more:literal)*) => {
        $crate::ops::Shader { matrices: true, ..shader!(stored $first $(, $more)*) }
    };
    (stored $first:literal $(, $more:literal)*) => {
        $crate::ops::Shader { stored: true, ..shader!($first $(, $more)*) }
    };
    ($first:literal $(, $more:literal)*) => {
        $crate::ops::Shader {
            name: concat!($first $(, "+", $more)*),
            files: &[
                shader!(@file $first),
                $(shader!(@file $more)),*
            ],
            stored: false,
            matrices: false,
        }
    };
    (@file $name:literal) => {
        $crate::ops::File {
            name: concat!($name, ".wgsl"),
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $name, ".wgsl")),
        }
    };
}
pub(crate) use shader;

/// A WGSL module: a shader with the formats of its `In` and `Out`.
#[derive(Debug, Clone, Copy)]
pub struct Module {
    /// The shader.
    pub shader: Shader,
    /// Formats of `In` and `Out`; f32 where the shader has none.
    pub formats: [Format; 2],
}

impl Module {
    /// Its name in debuggers and profiles, which tells modules apart.
    pub fn name(&self) -> String {
        let [input, output] = self.formats.map(|format| match format {
            Format::F32 => "f32",
            Format::F16 => "f16",
        });
        let formats = if self.has_f16() { format!(" ({input} to {output})") } else { String::new() };
        format!("{}{formats}", self.shader.name)
    }

    /// Whether it needs 16-bit numbers.
    pub fn has_f16(&self) -> bool {
        self.formats.contains(&Format::F16)
    }

    /// What stands before the files.
    pub fn enables(&self) -> &'static str {
        match (self.shader.matrices, self.has_f16()) {
            (true, _) => "enable f16;\nenable wgpu_cooperative_matrix;\n",
            (false, true) => "enable f16;\n",
            (false, false) => "",
        }
    }

    /// The files.
    pub fn files(&self) -> impl Iterator<Item = &'static File> {
        static IN: [File; 2] = [shader!(@file "in_f32"), shader!(@file "in_f16")];
        static OUT: [File; 2] = [shader!(@file "out_f32"), shader!(@file "out_f16")];
        let [input, output] = self.formats.map(|format| usize::from(format == Format::F16));
        let formats = self.shader.stored.then(|| [&IN[input], &OUT[output]]);
        formats.into_iter().flatten().chain(self.shader.files)
    }

    /// The source.
    pub fn text(&self) -> String {
        std::iter::once(self.enables()).chain(self.files().map(|file| file.text)).collect()
    }
}

/// The static part of an op: an entry point of a WGSL module. `@binding(0)` of group 0 is the op's `Params` as
/// `var<uniform>`; an op's arguments are bound at the numbers in `bindings`, in that order.
#[derive(Debug)]
pub struct Kernel {
    /// Name of the op in plans, profiles and errors.
    pub name: &'static str,
    /// The shader.
    pub shader: Shader,
    /// Entry point.
    pub entry: &'static str,
    /// Binding number and use of each argument.
    pub bindings: &'static [(u32, Access)],
    /// Size of `Params` in bytes.
    pub params_size: usize,
    /// Name and offset in bytes of each field of `Params`.
    pub fields: &'static [(&'static str, usize)],
    /// Binding numbers of what it reads as `In` and of what it reads or writes as `Out`: activations, in the format of their tensors.
    pub stored: [&'static [u32]; 2],
}

impl Kernel {
    /// The same kernel with these bindings as `In` and `Out`.
    const fn stored(self, input: &'static [u32], output: &'static [u32]) -> Kernel {
        Kernel { stored: [input, output], ..self }
    }
}

/// What a dispatch costs at the least: each byte moved once, each multiplication and addition counted that no kernel could do without.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Bytes read and written.
    pub bytes: f64,
    /// Floating-point operations.
    pub flops: f64,
    /// What comes to these by the ids of a minibatch.
    pub of_ids: Option<CostOfIds>,
}

/// What a dispatch costs by the ids of a minibatch: words and operations, each.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CostOfIds {
    /// The embedding table, by its number.
    pub table: usize,
    /// Of each distinct id: its row, moved once however often it occurs.
    pub distinct: [usize; 2],
    /// Of each occurrence that lies in no chunk.
    pub alone: [usize; 2],
    /// Of each occurrence that lies in a chunk.
    pub chunked: [usize; 2],
    /// Of each chunk.
    pub chunk: [usize; 2],
    /// The part of them that is this dispatch's.
    pub share: f64,
}

/// How many ids of a table a minibatch holds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Ids {
    /// Occurrences of ids.
    pub all: f64,
    /// Distinct ones.
    pub distinct: f64,
    /// Occurrences in chunks of frequent rows.
    pub chunked: f64,
    /// Chunks.
    pub chunks: f64,
}

impl Cost {
    /// The same, and what comes to it by ids.
    #[must_use]
    pub fn with_ids(self, of_ids: CostOfIds) -> Cost {
        Cost { of_ids: Some(of_ids), ..self }
    }

    /// So many times the same.
    #[must_use]
    pub fn times(self, factor: f64) -> Cost {
        let of_ids = self.of_ids.map(|ids| CostOfIds { share: ids.share * factor, ..ids });
        Cost { bytes: self.bytes * factor, flops: self.flops * factor, of_ids }
    }

    /// The same where a minibatch holds these ids, by table.
    #[must_use]
    pub fn of(self, ids: &[Ids]) -> Cost {
        let Some((each, ids)) = self.of_ids.and_then(|each| Some((each, ids.get(each.table)?))) else { return self };
        let counted = [
            (each.distinct, ids.distinct),
            (each.alone, ids.all - ids.chunked),
            (each.chunked, ids.chunked),
            (each.chunk, ids.chunks),
        ];
        let [words, flops] = [0, 1].map(|i| each.share * counted.iter().map(|(each, n)| each[i] as f64 * n).sum::<f64>());
        Cost { bytes: self.bytes + 4.0 * words, flops: self.flops + flops, of_ids: None }
    }

    /// The same where `numbers` of its numbers are stored in `format`.
    #[must_use]
    pub fn stored(self, numbers: usize, format: Format) -> Cost {
        match format {
            Format::F32 => self,
            Format::F16 => Cost { bytes: self.bytes - 2.0 * numbers as f64, ..self },
        }
    }
}

/// One dispatch: a kernel with its parameters, and its CPU twin.
pub trait Op: Send + Sync {
    /// The kernel.
    fn kernel(&self) -> &'static Kernel;
    /// The shader, where it is another than the kernel's, with the same entry point and bindings.
    fn shader(&self) -> Shader {
        self.kernel().shader
    }
    /// The bytes of the `Params` uniform.
    fn params(&self) -> &[u8];
    /// Values of the kernel's `override` constants.
    fn overrides(&self) -> &[(&'static str, f64)] {
        &[]
    }
    /// Workgroups to dispatch, each at most 65,535.
    fn workgroups(&self) -> [u32; 3];
    /// The cost model.
    fn cost(&self) -> Cost;
    /// The CPU twin: the same buffers, the same result.
    fn run(&self, args: &mut Args);
}

/// An op made of its parts: what most ops are.
pub struct Dispatch<P: bytemuck::Pod + Send + Sync> {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// Its parameters.
    pub params: P,
    /// Workgroups to dispatch.
    pub workgroups: [u32; 3],
    /// The cost model's answer.
    pub cost: Cost,
    /// The CPU twin.
    pub twin: fn(&P, &mut Args),
}

impl<P: bytemuck::Pod + Send + Sync> Op for Dispatch<P> {
    fn kernel(&self) -> &'static Kernel {
        self.kernel
    }
    fn params(&self) -> &[u8] {
        bytemuck::bytes_of(&self.params)
    }
    fn workgroups(&self) -> [u32; 3] {
        self.workgroups
    }
    fn cost(&self) -> Cost {
        self.cost
    }
    fn run(&self, args: &mut Args) {
        (self.twin)(&self.params, args)
    }
}

/// A [`Dispatch`] by another shader than its kernel's, or with constants.
pub struct Variant<P: bytemuck::Pod + Send + Sync> {
    /// The op.
    pub dispatch: Dispatch<P>,
    /// The shader.
    pub shader: Shader,
    /// Values of its constants.
    pub overrides: Vec<(&'static str, f64)>,
}

impl<P: bytemuck::Pod + Send + Sync> Variant<P> {
    /// `dispatch` by this tile, one of those that it has shaders for, by one number or four (`unit`) at a time.
    pub fn tiled(dispatch: Dispatch<P>, tile: tile::Tile, unit: usize, shaders: &Shaders) -> Variant<P> {
        let shader = shaders[usize::from(unit == 4)][tile.by as usize];
        Variant { dispatch, shader, overrides: tile.overrides() }
    }

    /// `dispatch` by `by_four`, the shader of invocations that handle four numbers each, where `unit` is four.
    pub fn by(unit: usize, by_four: Shader, dispatch: Dispatch<P>) -> Variant<P> {
        let shader = if unit == 4 { by_four } else { dispatch.kernel.shader };
        Variant { dispatch, shader, overrides: Vec::new() }
    }
}

impl<P: bytemuck::Pod + Send + Sync> Op for Variant<P> {
    fn kernel(&self) -> &'static Kernel {
        self.dispatch.kernel
    }
    fn shader(&self) -> Shader {
        self.shader
    }
    fn params(&self) -> &[u8] {
        self.dispatch.params()
    }
    fn overrides(&self) -> &[(&'static str, f64)] {
        &self.overrides
    }
    fn workgroups(&self) -> [u32; 3] {
        self.dispatch.workgroups
    }
    fn cost(&self) -> Cost {
        self.dispatch.cost
    }
    fn run(&self, args: &mut Args) {
        self.dispatch.run(args);
    }
}

/// How many neighbouring numbers an invocation of a shader may handle at once: four where all of these sizes are multiples of four.
fn unit(sizes: &[usize]) -> usize {
    if sizes.iter().all(|size| size.is_multiple_of(4)) { 4 } else { 1 }
}

/// The cost of reading and writing `words` 32-bit words and of `flops` operations.
pub fn cost(words: usize, flops: usize) -> Cost {
    Cost { bytes: words as f64 * 4.0, flops: flops as f64, ..Cost::default() }
}

/// The sums of `parts`, which lie one after the other, in order; added to what `sums` holds or in its place.
fn add_parts(sums: &mut [f32], parts: &[f32], add: bool) {
    if !add {
        sums.fill(0.0);
    }
    for part in parts.chunks_exact(sums.len()) {
        sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
}

/// The sum of `n` values: 256 strided parts in order, then by halves, as the shaders of one workgroup do it.
fn tree(n: usize, value: impl Fn(usize) -> f32) -> f32 {
    let mut sums = [0f32; 256];
    for (t, sum) in sums.iter_mut().enumerate() {
        *sum = (t..n).step_by(256).map(&value).sum();
    }
    let mut half = 128;
    while half > 0 {
        let (low, high) = sums.split_at_mut(half);
        low.iter_mut().zip(&high[..half]).for_each(|(a, b)| *a += b);
        half /= 2;
    }
    sums[0]
}

/// Most workgroups in one dimension of a dispatch that WebGPU guarantees.
pub const MAX_WORKGROUPS: u32 = 65_535;

/// Folds `n` workgroups into x and y; shaders get the flat index as `id.y * count.x + id.x` and must check it against
/// their bound, since the product may be larger than `n`.
pub fn fold(n: usize) -> [u32; 3] {
    let n = n.max(1) as u64;
    let y = n.div_ceil(u64::from(MAX_WORKGROUPS));
    let x = n.div_ceil(y);
    [x as u32, y as u32, 1]
}
