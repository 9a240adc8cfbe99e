//! `tauten doctor`: whether an adapter's driver can be trusted, and how fast it is.

use super::{print, print_json};
use crate::device::Choice;
use crate::device::gpu::{Adapter, HOW_TO_GET_ONE};
use crate::ops::check::{Case, cases};
use crate::profile::roofs::{Rate, Roofs};
use crate::report::progress::Progress;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// List the adapters there are, test every op of one against its CPU twin and measure copy bandwidth and multiply-add rate. Exit
/// code 1 if an op is wrong there.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// `auto`, `gpu`, `cpu`, or part of an adapter's name.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// Print everything as JSON.
    #[arg(long)]
    pub json: bool,
    /// No progress.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Words of a case above which a software adapter skips it: it would take longer than all the others.
const SOFTWARE_WORDS: usize = 4 << 20;

/// What the cases of train.cooperative_matrices are called, which say nothing of training without it.
const EXPERIMENT: &str = "linear by matrices";

/// What became of an op's cases.
struct Tested {
    op: &'static str,
    cases: usize,
    skipped: usize,
    /// Largest error in parts of the tolerance among the cases that passed.
    worst: f32,
    failures: Vec<String>,
}

/// Runs the subcommand.
///
/// # Errors
///
/// A device that does not exist or cannot be opened; an op that is wrong.
pub fn run(args: &Args) -> Result<()> {
    examine(args, cases())
}

fn examine(args: &Args, cases: Vec<Case>) -> Result<()> {
    let progress = Progress::new(args.quiet);
    let (choice, line) = Choice::new(&args.device)?;
    let adapters = Adapter::all();
    if !args.json {
        print(&(list(&adapters) + "\n" + &line + "\n"))?;
        if matches!(choice, Choice::Cpu) {
            let hint = match adapters.first() {
                Some(a) if args.device != "cpu" => {
                    format!("A software adapter is taken only by its name: --device \"{}\".\n", a.name())
                }
                _ => String::new(),
            };
            print(&format!("{hint}The ops' CPU twins are what adapters are compared with: nothing to test on the CPU.\n"))?;
        }
    }
    let device = choice.describe();
    let mut variants = Vec::new();
    let tested = match &choice {
        Choice::Cpu => Vec::new(),
        Choice::Gpu(adapter) => {
            let (cases, lacking): (Vec<Case>, Vec<Case>) = cases.into_iter().partition(|case| case.runs_on(adapter));
            variants = Variant::all(&cases, &lacking);
            self_test(adapter, cases, &progress)?
        }
    };
    if !args.json && !tested.is_empty() {
        print(&(table(&tested) + "\n" + &variants.iter().map(Variant::line).collect::<String>()))?;
    }
    let task = progress.task("measuring", 2, "rates");
    let Roofs { copy, multiply_add: fma } = Roofs::measure(&choice, &task)?;
    drop(task);
    if args.json {
        print_json(&json!({
            "adapters": adapters.iter().map(Adapter::to_json).collect::<Value>(),
            "device": device,
            "ops": tested.iter().map(Tested::json).collect::<Value>(),
            "variants": variants.iter().map(Variant::json).collect::<Value>(),
            "copy_gb_s": copy.best, "copy_gb_s_median": copy.median, "copy_how": copy.how,
            "fma_gflop_s": fma.best, "fma_gflop_s_median": fma.median, "fma_how": fma.how,
        }))?;
    } else {
        let line = |name: &str, rate: &Rate, unit: &str| {
            format!("{name:<12} {:>9.1} {unit} (median {:.1}): {}\n", rate.best, rate.median, rate.how)
        };
        print(&("\n".to_string() + &line("copy", &copy, "GB/s") + &line("multiply-add", &fma, "GFLOP/s")))?;
    }
    let (experiments, ops): (Vec<&Tested>, Vec<&Tested>) = tested.iter().partition(|t| t.op == EXPERIMENT);
    for wrong in experiments.iter().filter(|t| !t.failures.is_empty()) {
        progress.line(format!("{device}: {} is wrong here; do not set train.cooperative_matrices = true on it", wrong.op));
    }
    let wrong: Vec<&str> = ops.iter().filter(|t| !t.failures.is_empty()).map(|t| t.op).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::system(format!(
        "{device}: {} of {} ops are wrong: {}; do not train on it, update its driver or use --device cpu",
        wrong.len(),
        ops.len(),
        wrong.join(", ")
    )))
}

/// Every adapter in a few lines.
fn list(adapters: &[Adapter]) -> String {
    if adapters.is_empty() {
        return format!("There is no Vulkan, Metal or DX12 adapter: {HOW_TO_GET_ONE}.\n");
    }
    let mut text = String::new();
    for adapter in adapters {
        let (least, most) = adapter.subgroups();
        let names = |wanted: bool| {
            let names: Vec<&str> = adapter.features().into_iter().filter(|f| f.1 == wanted).map(|f| f.0).collect();
            if names.is_empty() { "none".to_string() } else { names.join(", ") }
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} ({})", adapter.describe(), adapter.kind());
        let _ = writeln!(text, "  has: {}; lacks: {}; subgroups of {least} to {most}", names(true), names(false));
        for (name, limit) in adapter.limit_table() {
            let _ = writeln!(text, "  {name:<40} {limit:>20}");
        }
    }
    text
}

/// Kernels that not every adapter runs, and how many of their cases this one does.
struct Variant {
    name: &'static str,
    /// How a user comes to run them.
    used: &'static str,
    cases: usize,
    /// Cases that need something this adapter lacks.
    lacking: usize,
}

impl Variant {
    /// Those of `cases`, which run on the adapter, and of `lacking`, which don't.
    fn all(cases: &[Case], lacking: &[Case]) -> Vec<Variant> {
        let variant = |name, used, is_one: fn(&Case) -> bool| {
            let count = |cases: &[Case]| cases.iter().filter(|case| is_one(case)).count();
            Variant { name, used, cases: count(cases), lacking: count(lacking) }
        };
        vec![
            variant("activations in f16", "train.activation_storage = \"f16\"", Case::is_in_f16),
            variant("products by subgroups", "`tauten tune` tries them", Case::is_by_subgroups),
            variant("products by cooperative matrices", "train.cooperative_matrices = true", Case::is_by_matrices),
        ]
    }

    fn json(&self) -> Value {
        json!({ "variant": self.name, "cases": self.cases, "lacking": self.lacking })
    }

    fn line(&self) -> String {
        let Variant { name, used, cases, lacking } = self;
        match (cases, lacking) {
            (0, _) => format!("{name}: not on this adapter\n"),
            (_, 0) => format!("{name}: {cases} of the cases above ({used})\n"),
            _ => format!(
                "{name}: {cases} of the cases above ({used}); {lacking} need other subgroups or matrices than this adapter's\n"
            ),
        }
    }
}

/// Cases against their twins, an op's on one opened device.
fn self_test(adapter: &Adapter, cases: Vec<Case>, progress: &Progress) -> Result<Vec<Tested>> {
    let software = adapter.rank().is_none();
    let (kept, skipped): (Vec<Case>, Vec<Case>) =
        cases.into_iter().partition(|case| !software || case.words() <= SOFTWARE_WORDS);
    let task = progress.task("testing ops", kept.len() as u64, "cases");
    let mut tested = Vec::new();
    // An experiment has a device of its own, so that it does no harm to what is tested beside it.
    let subject = |case: &Case| (case.op, case.is_by_matrices());
    for group in kept.chunk_by(|a, b| subject(a) == subject(b)) {
        let mut result = Tested {
            op: if group[0].is_by_matrices() { EXPERIMENT } else { group[0].op },
            cases: group.len(),
            skipped: skipped.iter().filter(|c| subject(c) == subject(&group[0])).count(),
            worst: 0.0,
            failures: Vec::new(),
        };
        let members: Vec<&Case> = group.iter().collect();
        match Case::against_twins(&members, adapter.clone()) {
            Ok(errors) => {
                for error in errors {
                    match error? {
                        Ok(error) => result.worst = result.worst.max(error),
                        Err(e) => result.failures.push(e.to_string()),
                    }
                    task.advance(1);
                }
            }
            // A kernel that the driver refuses is an op that is wrong there.
            Err(e) => {
                result.failures.push(e.to_string());
                task.advance(group.len() as u64);
            }
        }
        tested.push(result);
    }
    drop(task);
    Ok(tested)
}

impl Tested {
    fn json(&self) -> Value {
        json!({
            "op": self.op, "cases": self.cases, "skipped": self.skipped,
            "passed": self.failures.is_empty(), "worst_error": self.worst, "failures": self.failures,
        })
    }
}

/// A line an op, then what failed.
fn table(tested: &[Tested]) -> String {
    let mut text = format!("\n{:<18} {:>6} {:>8}  largest error in parts of the tolerance\n", "op", "cases", "");
    for t in tested {
        let verdict = if t.failures.is_empty() { "passed" } else { "FAILED" };
        let skipped = match t.skipped {
            0 => String::new(),
            n => format!("   ({n} large ones left out on a software adapter)"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<18} {:>6} {verdict:>8}  {:.3}{skipped}", t.op, t.cases, t.worst);
        for failure in &t.failures {
            let _ = writeln!(text, "  {failure}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::probe;

    #[test]
    fn a_name_that_fits_nothing_is_the_users_error() {
        let args = Args { device: "no such adapter".into(), json: false, quiet: true };
        assert_eq!(run(&args).map_err(|e| e.exit_code()), Err(2));
    }

    #[test]
    fn a_wrong_op_ends_with_exit_code_1() {
        if std::env::var_os("TAUTEN_NO_GPU").is_some_and(|v| v == "1") {
            return;
        }
        use std::sync::atomic::{AtomicU32, Ordering};
        // The numbers differ each time the case is put together, so the adapter's result is not the twin's.
        let made = AtomicU32::new(0);
        let wrong = Case::new("copy of other numbers", 1, move |s| {
            let from = s.input(&[made.fetch_add(1, Ordering::Relaxed) as f32 + 1.0; 64]);
            let to = s.graph.transient("to", 64);
            probe::copy(&mut s.graph, from, to);
            s.graph.output(to);
        });
        let right = cases().into_iter().filter(|c| c.op == "interact");
        let cases = right.chain([Case { op: "copy", ..wrong }]).collect();
        let adapters = Adapter::all();
        let device = adapters.first().expect("an adapter; set TAUTEN_NO_GPU=1 where there is none").name().to_string();
        let error = examine(&Args { device, json: true, quiet: true }, cases).expect_err("a wrong op");
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains(": 1 of 2 ops are wrong: copy; do not train on it"), "{error}");
    }

    #[test]
    fn the_table_tells_what_failed() {
        let passed = Tested { op: "linear", cases: 3, skipped: 1, worst: 0.25, failures: Vec::new() };
        let failed = Tested { op: "gather", cases: 2, skipped: 0, worst: 0.0, failures: vec!["x[3]: 1, twin 2".into()] };
        let text = table(&[passed, failed]);
        assert!(text.contains("passed  0.250   (1 large ones left out") && text.contains("FAILED"), "{text}");
        assert!(text.contains("\n  x[3]: 1, twin 2\n"), "{text}");
    }

    #[test]
    fn every_op_has_cases_side_by_side() {
        let mut seen = Vec::new();
        for group in cases().chunk_by(|a, b| a.op == b.op) {
            assert!(!group[0].op.is_empty() && !seen.contains(&group[0].op), "{} comes twice", group[0].op);
            seen.push(group[0].op);
        }
    }
}
