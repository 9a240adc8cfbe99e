//! Progress on standard error: a bar on a terminal, a plain line every few seconds elsewhere, nothing where quiet.

use indicatif::{HumanBytes, HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often a task writes a line where standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Where progress goes. Results never go here: they belong on standard output.
#[derive(Debug)]
pub struct Progress {
    quiet: bool,
    /// Holds the bars on a terminal, so that lines are written above them; `None` elsewhere.
    bars: Option<MultiProgress>,
}

impl Progress {
    /// Progress on standard error, or nowhere if `quiet`.
    pub fn new(quiet: bool) -> Self {
        let bars = (!quiet && std::io::stderr().is_terminal())
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        Progress { quiet, bars }
    }

    /// The bars alone, without lines: for what is a part of something that writes lines of its own.
    pub fn bars(&self) -> Progress {
        Progress { quiet: true, bars: self.bars.clone() }
    }

    /// Starts a task of `total` units (0: unknown). `unit` names them in the plural; `"bytes"` are shown as KiB, MiB, GiB.
    pub fn task(&self, name: &str, total: u64, unit: &'static str) -> Task {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(if total == 0 { ProgressBar::no_length() } else { ProgressBar::new(total) });
            let amount = match (unit, total) {
                ("bytes", 0) => "{binary_bytes}".to_string(),
                ("bytes", _) => "{binary_bytes}/{binary_total_bytes}".to_string(),
                (_, 0) => format!("{{human_pos}} {unit}"),
                _ => format!("{{human_pos}}/{{human_len}} {unit}"),
            };
            let template = if total == 0 {
                format!("{{prefix}} {amount} {{elapsed}}")
            } else {
                format!("{{prefix}} [{{bar:30}}] {amount} {{elapsed}}, {{eta}} left")
            };
            // A unit with braces in it would be the only way to a template that does not parse: the plain bar is no loss then.
            bar.set_style(ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(name.to_string());
            bar
        });
        Task {
            name: name.to_string(),
            unit,
            total,
            quiet: self.quiet,
            done: AtomicU64::new(0),
            last_line: Mutex::new(Instant::now()),
            bar,
        }
    }

    /// Writes a line, above the bars where there are any.
    pub fn line(&self, text: impl AsRef<str>) {
        if self.quiet {
            return;
        }
        match &self.bars {
            Some(bars) => bars.suspend(|| write_line(text.as_ref())),
            None => write_line(text.as_ref()),
        }
    }
}

/// Something that takes a while. Shared by reference between threads; its bar goes when it is dropped.
#[derive(Debug)]
pub struct Task {
    name: String,
    unit: &'static str,
    total: u64,
    quiet: bool,
    done: AtomicU64,
    last_line: Mutex<Instant>,
    bar: Option<ProgressBar>,
}

impl Task {
    /// `n` more units are done.
    pub fn advance(&self, n: u64) {
        let done = self.done.fetch_add(n, Ordering::Relaxed) + n;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if !self.quiet {
            // Another thread that holds the lock writes the line: nothing to wait for.
            if let Ok(mut last) = self.last_line.try_lock()
                && last.elapsed() >= LINE_EVERY
            {
                *last = Instant::now();
                let (done, total) = (self.amount(done), self.amount(self.total));
                if self.total == 0 {
                    write_line(&format!("{}: {done}", self.name));
                } else {
                    write_line(&format!("{}: {done} of {total}", self.name));
                }
            }
        }
    }

    fn amount(&self, n: u64) -> String {
        match self.unit {
            "bytes" => HumanBytes(n).to_string(),
            unit => format!("{} {unit}", HumanCount(n)),
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Writes to standard error; a closed one is no reason to stop.
pub fn write_line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
