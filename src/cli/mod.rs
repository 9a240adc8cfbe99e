//! The command line: one file a subcommand.

pub mod compare;
pub mod demo;
pub mod doctor;
pub mod evaluate;
pub mod predict;
pub mod prepare;
pub mod profile;
pub mod simulate;
pub mod train;
pub mod tune;

use crate::device::Choice;
use crate::files::aside::abandon;
use crate::report::progress::Progress;
use crate::{Error, Result};
use std::io::Write;

/// Trains joint click-through (CTR) and conversion (CVR) models on any Vulkan, Metal or DX12 GPU, or on the CPU.
#[derive(Debug, clap::Parser)]
#[command(name = "tauten", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Demo(demo::Args),
    Doctor(doctor::Args),
    Simulate(simulate::Args),
    Prepare(prepare::Args),
    Train(train::Args),
    Evaluate(evaluate::Args),
    Compare(compare::Args),
    Predict(predict::Args),
    Profile(profile::Args),
    Tune(tune::Args),
}

impl Cli {
    /// Runs the subcommand; the process's exit code where it is no error.
    ///
    /// # Errors
    ///
    /// Those of the subcommand.
    pub fn run(&self) -> Result<u8> {
        match &self.command {
            Command::Demo(args) => demo::run(args),
            Command::Doctor(args) => doctor::run(args).map(|()| 0),
            Command::Simulate(args) => simulate::run(args).map(|()| 0),
            Command::Prepare(args) => prepare::run(args).map(|()| 0),
            Command::Train(args) => train::run(args),
            Command::Evaluate(args) => evaluate::run(args).map(|()| 0),
            Command::Compare(args) => compare::run(args),
            Command::Predict(args) => predict::run(args).map(|()| 0),
            Command::Profile(args) => profile::run(args).map(|()| 0),
            Command::Tune(args) => tune::run(args).map(|()| 0),
        }
    }
}

/// The exit code after an interrupt: as shells have it, 128 and the signal's number.
const INTERRUPTED: u8 = 130;

/// Has an interrupt end the process with nothing left of the folders and tables that it has in the making.
fn abandon_on_interrupt() -> Result<()> {
    let interrupted = || {
        abandon();
        std::process::exit(INTERRUPTED.into());
    };
    ctrlc::set_handler(interrupted).map_err(|e| Error::system(format!("cannot listen for interrupts: {e}")))
}

/// The device that `--device` asks for; a line of the progress names it.
fn choose(device: &str, progress: &Progress) -> Result<Choice> {
    let (choice, line) = Choice::new(device)?;
    progress.line(line);
    Ok(choice)
}

/// A command to go on with as a shell takes it: `words`, then the device where one was asked for.
fn command(words: &[&str], device: &str) -> String {
    let device = if device == "auto" { vec![] } else { vec!["--device", device] };
    let plain = |c: char| c.is_alphanumeric() || "-_./=,:+".contains(c) || cfg!(windows) && c == '\\';
    let quoted = |word: &&str| match word.chars().all(plain) && !word.is_empty() {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    };
    std::iter::once(&"tauten").chain(words).chain(&device).map(quoted).collect::<Vec<_>>().join(" ")
}

/// Writes a result to standard output. A reader that has seen enough (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::system(format!("standard output: {e}"))),
        _ => Ok(()),
    }
}

/// A result as one JSON document on standard output.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::system(format!("JSON: {e}")))?;
    print(&(text + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_as_a_shell_takes_them() {
        assert_eq!(command(&["train", "--resume", "runs/a-1"], "auto"), "tauten train --resume runs/a-1");
        let words = ["compare", "my suite.toml", "--set", "data.test=[]", "--set", "it's", "--set", ""];
        let wanted = r"tauten compare 'my suite.toml' --set 'data.test=[]' --set 'it'\''s' --set '' --device 'NVIDIA H200'";
        assert_eq!(command(&words, "NVIDIA H200"), wanted);
    }
}
