//! `tauten demo`: the whole way on a simulated log.

use crate::Result;

/// Show the whole way on a simulated log.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
///
/// # Errors
///
/// Those of the steps.
pub fn run(_args: &Args) -> Result<()> {
    Ok(())
}
