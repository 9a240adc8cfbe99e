//! One file a subcommand.

pub mod prepare;
