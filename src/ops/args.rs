//! The arguments of a CPU twin: slices of the buffers that the kernel would have bound.

use super::Access;
use crate::graph::Format;
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::borrow::Cow;
use std::ops::{Deref, DerefMut};

/// Numbers in a buffer, and how the op uses them.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// First 32-bit word.
    pub words: *mut u32,
    /// Number of numbers.
    pub len: usize,
    /// How they are stored.
    pub format: Format,
    /// The op's use.
    pub access: Access,
}

impl View {
    /// Number of 32-bit words.
    pub fn word_count(&self) -> usize {
        self.format.words(self.len)
    }
}

// SAFETY: a view is only dereferenced through `Args`, whose maker promises exclusive access to what it writes.
#[expect(unsafe_code, reason = "views cross threads; `Args::new` has the contract")]
unsafe impl Send for View {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "as `Send`")]
unsafe impl Sync for View {}

/// Words that fit a 32-bit buffer element: f32, u32, and arrays of them.
pub trait Words: bytemuck::Pod {}
impl<T: bytemuck::Pod> Words for T {}

/// Numbers to be written, as f32 however they are stored: where that is f16, a copy which goes there in the end.
pub enum Numbers<'a> {
    /// Themselves.
    Stored(&'a mut [f32]),
    /// A copy, and where it goes.
    Copy(Vec<f32>, &'a mut [f16]),
}

impl Deref for Numbers<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match self {
            Numbers::Stored(numbers) => numbers,
            Numbers::Copy(numbers, _) => numbers,
        }
    }
}

impl DerefMut for Numbers<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        match self {
            Numbers::Stored(numbers) => numbers,
            Numbers::Copy(numbers, _) => numbers,
        }
    }
}

impl Drop for Numbers<'_> {
    fn drop(&mut self) {
        if let Numbers::Copy(numbers, to) = self {
            to.convert_from_f32_slice(numbers);
        }
    }
}

/// The arguments of one op, in the order of the kernel's bindings.
pub struct Args<'a> {
    views: &'a [View],
    taken: u32,
    scratch: &'a mut Vec<f32>,
}

impl<'a> Args<'a> {
    /// Arguments over `views`; `scratch` is reused from op to op.
    ///
    /// # Safety
    ///
    /// For `'a` each view points to initialised words of `len` numbers; no view that is written overlaps another view of the same
    /// op, and nobody else reads or writes these words meanwhile.
    #[expect(unsafe_code, reason = "its caller promises that the views are valid")]
    pub unsafe fn new(views: &'a [View], scratch: &'a mut Vec<f32>) -> Self {
        Args { views, taken: 0, scratch }
    }

    /// Number of arguments.
    #[allow(clippy::len_without_is_empty, reason = "an op without arguments is none")]
    pub fn len(&self) -> usize {
        self.views.len()
    }

    /// Argument `i`, read.
    #[expect(unsafe_code, reason = "makes a slice of a view")]
    pub fn read<T: Words>(&self, i: usize) -> &'a [T] {
        let view = self.views[i];
        assert!(matches!(view.access, Access::Read | Access::Uniform), "argument {i} is not read-only");
        // SAFETY: `new`'s contract; read-only views are never handed out mutably.
        bytemuck::cast_slice(unsafe { std::slice::from_raw_parts(view.words, view.word_count()) })
    }

    /// Argument `i`, written (or read and written); once per op.
    #[expect(unsafe_code, reason = "makes a slice of a view")]
    pub fn write<T: Words>(&mut self, i: usize) -> &'a mut [T] {
        let view = self.views[i];
        assert!(view.access.writes() && self.taken & (1 << i) == 0, "argument {i} is read-only or taken");
        self.taken |= 1 << i;
        // SAFETY: `new`'s contract, and each written view is handed out once.
        bytemuck::cast_slice_mut(unsafe { std::slice::from_raw_parts_mut(view.words, view.word_count()) })
    }

    /// Argument `i`, read, as f32 however it is stored.
    pub fn numbers(&self, i: usize) -> Cow<'a, [f32]> {
        let View { len, format, .. } = self.views[i];
        match format {
            Format::F32 => Cow::Borrowed(self.read(i)),
            Format::F16 => Cow::Owned(self.read::<f16>(i)[..len].to_f32_vec()),
        }
    }

    /// Argument `i`, written (or read and written), as f32 however it is stored; once per op.
    pub fn numbers_mut(&mut self, i: usize) -> Numbers<'a> {
        let View { len, format, access, .. } = self.views[i];
        match format {
            Format::F32 => Numbers::Stored(self.write(i)),
            Format::F16 => {
                let to = &mut self.write::<f16>(i)[..len];
                Numbers::Copy(if access == Access::Update { to.to_f32_vec() } else { vec![0.0; len] }, to)
            }
        }
    }

    /// The first element of argument `i`, read: a uniform's struct.
    #[expect(unsafe_code, reason = "makes a slice of a view")]
    pub fn uniform<T: Words>(&self, i: usize) -> T {
        let view = self.views[i];
        let words = std::mem::size_of::<T>() / 4;
        assert!(words <= view.word_count());
        // SAFETY: as `read`.
        bytemuck::pod_read_unaligned(bytemuck::cast_slice(unsafe { std::slice::from_raw_parts(view.words, words) }))
    }

    /// `len` floats of scratch memory with unspecified contents, from the start of a line of the cache on, kept from op to op and step to step; no part of
    /// the plan's memory.
    pub fn scratch(&mut self, len: usize) -> &mut [f32] {
        const LINE: usize = 64;
        let needed = len + LINE / size_of::<f32>();
        if self.scratch.len() < needed {
            self.scratch.resize(needed, 0.0);
        }
        let start = self.scratch.as_ptr().align_offset(LINE);
        &mut self.scratch[start..][..len]
    }
}
