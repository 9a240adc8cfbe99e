//! Parse, run, exit code.

use clap::Parser;
use std::process::ExitCode;
use tauten::cli::Cli;
use tauten::report::progress::write_line;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            write_line(&format!("error: {e}"));
            ExitCode::from(e.exit_code())
        }
    }
}
