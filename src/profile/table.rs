//! A profile as text.

use super::lines::{Line, Times};
use super::roofs::Bound;
use super::{Mode, Profile, Step};
use crate::report::columns::columns;
use std::fmt::Write as _;

/// Most characters of the places in the model that a line shows.
const LABELS: usize = 40;

/// What stands where there is no figure.
const NONE: &str = "n/a";

fn number(x: Option<f64>, digits: usize) -> String {
    x.map_or(NONE.into(), |x| format!("{x:.digits$}"))
}

/// Three digits that count.
fn rate(x: Option<f64>) -> String {
    let digits = |x: f64| if x > 0.0 { (2.0 - x.log10().floor()).clamp(0.0, 6.0) as usize } else { 0 };
    x.map_or(NONE.into(), |x| format!("{x:.*}", digits(x)))
}

fn percent(x: Option<f64>) -> String {
    x.map_or(NONE.into(), |x| format!("{:.1} %", 100.0 * x))
}

/// The three times of a line.
fn times(times: Option<Times>) -> [String; 3] {
    [times.map(|t| t.min_us), times.map(|t| t.median_us), times.map(|t| t.p95_us)].map(|us| number(us, 1))
}

/// Columns of which the first `left` and the last are flush left.
fn aligned(rows: &[Vec<String>], left: usize) -> String {
    let count = rows.first().map_or(0, Vec::len);
    columns(rows, "  ", |c| c < left || c + 1 == count)
}

/// Places in the model, the first ones that fit.
fn places(labels: &[String]) -> String {
    let mut text = String::new();
    for (i, label) in labels.iter().enumerate() {
        if i > 0 && text.len() + label.len() > LABELS {
            return format!("{text} and {} more", labels.len() - i);
        }
        text += if i > 0 { ", " } else { "" };
        text += label;
    }
    text
}

impl Profile {
    /// The table, with what it was measured on.
    pub fn to_text(&self) -> String {
        let mut text = format!("device: {}\n", self.device);
        // Writing to a String cannot fail.
        let roof =
            |name, rate: &super::roofs::Rate, unit| format!("{name} {:.1} {unit} (median {:.1})", rate.best, rate.median);
        let (copy, fma) = (roof("copy", &self.roofs.copy, "GB/s"), roof("multiply-add", &self.roofs.multiply_add, "GFLOP/s"));
        let _ = writeln!(text, "roofs: {copy}, {fma}");
        if let Some(step) = &self.step {
            text += &step.head(self.mode);
        }
        match (&self.missing, self.clock_error_us) {
            (Some(why), _) => {
                let _ = writeln!(text, "device times: {NONE}, {why}");
            }
            (None, Some(error)) if error > 0.0 => {
                let _ = writeln!(text, "device times: by its timestamps, placed on the host's clock within {error:.1} us");
            }
            _ => {}
        }
        if self.unusable_timestamps > 0 {
            let _ = writeln!(text, "left out: {} intervals whose timestamps are zero or do not grow", self.unusable_timestamps);
        }
        text.push('\n');
        text += &self.kernel_table();
        if let Some(step) = &self.step {
            text.push('\n');
            text += &step.host_table();
            let _ = writeln!(text, "\n{}", step.advice);
        }
        text
    }

    fn kernel_table(&self) -> String {
        let head = ["kernel", "shape", "calls", "min us", "median us", "p95 us", "share", "MB", "MFLOP", "GB/s", "GFLOP/s"];
        let rest = ["FLOP/B", "roof", "bound", "where"];
        let mut rows = vec![head.iter().chain(&rest).map(ToString::to_string).collect::<Vec<String>>()];
        for line in &self.kernels {
            let [min, median, p95] = times(line.times);
            let bound = match line.bound {
                Bound::Memory => "memory",
                Bound::Compute => "compute",
            };
            rows.push(vec![
                line.name.clone(),
                line.shape.clone(),
                line.calls.to_string(),
                min,
                median,
                p95,
                percent(line.share),
                rate(Some(line.bytes / 1e6)),
                rate(Some(line.flops / 1e6)),
                rate(line.gb_s),
                rate(line.gflop_s),
                rate(Some(line.flop_per_byte)),
                percent(line.roof_percent.map(|p| p / 100.0)),
                bound.into(),
                places(&line.labels),
            ]);
        }
        // A kernel alone has neither a share of a step nor a place in a model.
        if self.step.is_none() {
            rows.iter_mut().for_each(|row| {
                row.remove(6);
                row.pop();
            });
        }
        aligned(&rows, 2) + &self.legend()
    }

    /// What the sizes of each kernel are of.
    fn legend(&self) -> String {
        let mut of: Vec<(&str, Vec<&str>)> = Vec::new();
        for Line { name, dimensions, .. } in self.kernels.iter().filter(|l| !l.dimensions.is_empty()) {
            match of.iter_mut().find(|(d, _)| d == dimensions) {
                Some((_, names)) if names.contains(&name.as_str()) => {}
                Some((_, names)) => names.push(name),
                None => of.push((dimensions, vec![name])),
            }
        }
        of.iter().map(|(dimensions, names)| format!("  {dimensions}: {}\n", names.join(", "))).collect()
    }
}

impl Step {
    fn head(&self, mode: Mode) -> String {
        let what = match mode {
            Mode::Cheap => "cheap, an interval a phase",
            Mode::Detailed => "detailed, an interval a dispatch",
        };
        let [recorded, plain] = [&self.recorded, &self.plain].map(|times| times.median_us * 1e-3);
        let signed = |x: f64| format!("{:+.1} %", 100.0 * x);
        let [least, most] = self.overhead_range.map(signed);
        format!(
            "step: {} rows, {} dispatches, median of {} steps {recorded:.3} ms; without recording {plain:.3} ms, {:.0} rows/s\n\
             mode: {what}; overhead {} ({least} to {most} over turns)\nmemory: {}\n",
            self.rows,
            self.dispatches,
            self.steps,
            self.rows_per_second,
            signed(self.overhead),
            self.memory.describe()
        )
    }

    fn host_table(&self) -> String {
        let mut rows = vec![["host, a step", "min us", "median us", "p95 us", "share of the step"].map(String::from).to_vec()];
        for line in &self.host {
            let [min, median, p95] = times(Some(line.times));
            rows.push(vec![line.name.into(), min, median, p95, percent(Some(line.share))]);
        }
        let blank = || String::new();
        rows.push(vec!["(the device works)".into(), blank(), blank(), blank(), percent(self.device_busy)]);
        let disk = match self.disk_bytes {
            Some(bytes) => format!("{:.3} MB a step", bytes / 1e6),
            None => NONE.into(),
        };
        aligned(&rows, 1) + &format!("read from disks: {disk}\n")
    }
}
