//! The run's TOML: typed, unknown keys refused, checked once before anything is read.
//!
//! Errors name the file, the line, the key and the allowed values. `--set key.path=value` overrides a key before the check.

mod load;
mod values;

pub use load::{Loaded, Override};
pub(crate) use load::{Places, expected, join, one_line, read_as};
pub use values::*;
