//! Parse, run, exit code.

use clap::Parser;
use std::process::ExitCode;
use tauten::cli::Cli;
use tauten::device::cpu::start_threads;
use tauten::report::progress::write_line;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start_threads(0).and_then(|()| cli.run()) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            write_line(&format!("error: {e}"));
            ExitCode::from(e.exit_code())
        }
    }
}
