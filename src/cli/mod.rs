//! One file a subcommand.

pub mod prepare;
pub mod simulate;
