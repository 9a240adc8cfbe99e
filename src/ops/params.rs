//! `Params` structs: declared once, with what the tests need to compare them with the WGSL struct of the same name.

/// Declares an op's `Params`: a `#[repr(C)]` Pod struct whose size is a multiple of 16 bytes (checked when compiled), with
/// its size as `SIZE` and its fields' names and offsets as `FIELDS`, and `kernel`, which makes the op's
/// [`Kernel`](super::Kernel)s.
///
/// ```ignore
/// params! {
///     /// Params of `double`.
///     struct Params {
///         rows: u32,
///         scale: f32,
///         pad0: u32,
///         pad1: u32,
///     }
/// }
/// static DOUBLE: Kernel = Params::kernel("double", SOURCE, "double", &[(1, Access::Read), (2, Access::Write)]);
/// ```
macro_rules! params {
    ($(#[$meta:meta])* $visibility:vis struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty),+ $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        $visibility struct $name { $($(#[$field_meta])* pub $field: $type),+ }

        impl $name {
            /// Size in bytes.
            pub const SIZE: usize = std::mem::size_of::<$name>();
            /// Name and offset in bytes of each field.
            pub const FIELDS: &'static [(&'static str, usize)] =
                &[$((stringify!($field), std::mem::offset_of!($name, $field))),+];

            /// The kernel of this name: an entry point of `shader` that takes these parameters.
            const fn kernel(
                name: &'static str,
                shader: $crate::ops::Shader,
                entry: &'static str,
                bindings: &'static [(u32, $crate::ops::Access)],
            ) -> $crate::ops::Kernel {
                $crate::ops::Kernel {
                    name,
                    shader,
                    entry,
                    bindings,
                    params_size: Self::SIZE,
                    fields: Self::FIELDS,
                    stored: [&[], &[]],
                }
            }
        }

        const _: () = assert!($name::SIZE % 16 == 0, "uniforms are multiples of 16 bytes");
    };
}

pub(crate) use params;
