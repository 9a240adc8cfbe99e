//! The program under test as a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How a process ended and what it wrote.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// The program with these arguments and nothing on its standard input.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tauten"));
    // Some drivers complain on standard error where this is not set.
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").unwrap_or_else(|| std::env::temp_dir().into());
    command.args(args).env("XDG_RUNTIME_DIR", runtime).stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub fn tauten(args: &[&str]) -> Ended {
    let output = command(args).output().unwrap();
    Ended {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A new folder for a test binary's files; what an earlier run left there goes.
pub fn home(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if path.exists() {
        std::fs::remove_dir_all(&path).unwrap();
    }
    std::fs::create_dir_all(&path).unwrap();
    path
}
