//! `tauten doctor`: whether an adapter's driver can be trusted, and how fast it is.

use super::{print, print_json};
use crate::device::gpu::{Adapter, Checks, HOW_TO_GET_ONE};
use crate::device::{Choice, Device, RING};
use crate::graph::{Graph, Plan, StateLayout};
use crate::ops::check::{Case, cases};
use crate::ops::probe;
use crate::report::progress::{Progress, Task};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Instant;

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
/// Bytes of a copied buffer: more than the caches of a GPU hold, and of the cores that run twins and software adapters.
const COPY_BYTES: (u64, u64) = (256 << 20, 64 << 20);
/// Dispatches of a probe in one submit.
const DISPATCHES: usize = 8;
/// Repeats of a measurement, each of about [`REPEAT`] seconds of submits back to back.
const REPEATS: usize = 7;
const REPEAT: f64 = 0.15;

/// What became of an op's cases.
struct Tested {
    op: &'static str,
    cases: usize,
    skipped: usize,
    /// Largest error in parts of the tolerance among the cases that passed.
    worst: f32,
    failures: Vec<String>,
}

/// A measured rate.
struct Rate {
    best: f64,
    median: f64,
    how: String,
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
    let tested = match &choice {
        Choice::Cpu => Vec::new(),
        Choice::Gpu(adapter) => self_test(adapter, cases, &progress)?,
    };
    if !args.json && !tested.is_empty() {
        print(&table(&tested))?;
    }
    let task = progress.task("measuring", 2, "rates");
    let copy = copy_rate(&choice, &task)?;
    let fma = fma_rate(&choice, &task)?;
    task.finish();
    if args.json {
        print_json(&json!({
            "adapters": adapters.iter().map(describe).collect::<Value>(),
            "device": device,
            "ops": tested.iter().map(Tested::json).collect::<Value>(),
            "copy_gb_s": copy.best, "copy_gb_s_median": copy.median, "copy_how": copy.how,
            "fma_gflop_s": fma.best, "fma_gflop_s_median": fma.median, "fma_how": fma.how,
        }))?;
    } else {
        let line = |name: &str, rate: &Rate, unit: &str| {
            format!("{name:<12} {:>9.1} {unit} (median {:.1}): {}\n", rate.best, rate.median, rate.how)
        };
        print(&("\n".to_string() + &line("copy", &copy, "GB/s") + &line("multiply-add", &fma, "GFLOP/s")))?;
    }
    let wrong: Vec<&str> = tested.iter().filter(|t| !t.failures.is_empty()).map(|t| t.op).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::system(format!(
        "{device}: {} of {} ops are wrong: {}; do not train on it, update its driver or use --device cpu",
        wrong.len(),
        tested.len(),
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

fn describe(adapter: &Adapter) -> Value {
    let (least, most) = adapter.subgroups();
    let features: serde_json::Map<String, Value> =
        adapter.features().into_iter().map(|(name, has)| (name.to_string(), has.into())).collect();
    let limits: serde_json::Map<String, Value> =
        adapter.limit_table().into_iter().map(|(name, limit)| (name.to_string(), limit.into())).collect();
    json!({
        "name": adapter.name(), "backend": adapter.backend(), "kind": adapter.kind(), "driver": adapter.driver(),
        "features": features, "limits": limits, "subgroup_sizes": [least, most],
    })
}

/// Cases against their twins, an op's on one opened device.
fn self_test(adapter: &Adapter, cases: Vec<Case>, progress: &Progress) -> Result<Vec<Tested>> {
    let software = adapter.rank().is_none();
    let (kept, skipped): (Vec<Case>, Vec<Case>) =
        cases.into_iter().partition(|case| !software || case.words() <= SOFTWARE_WORDS);
    let task = progress.task("testing ops", kept.len() as u64, "cases");
    let mut tested = Vec::new();
    for group in kept.chunk_by(|a, b| a.op == b.op) {
        let mut result = Tested {
            op: group[0].op,
            cases: group.len(),
            skipped: skipped.iter().filter(|c| c.op == group[0].op).count(),
            worst: 0.0,
            failures: Vec::new(),
        };
        let members: Vec<&Case> = group.iter().collect();
        match Case::together(&members, adapter.clone(), Checks::default(), 1) {
            Ok(runs) => {
                for (case, run) in group.iter().zip(runs) {
                    let wanted = case.on_cpu()?;
                    match run.and_then(|run| case.compare(&wanted, &run[0])) {
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
    task.finish();
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

/// Bytes moved a second, reads and writes each counted, in GB/s.
fn copy_rate(choice: &Choice, task: &Task) -> Result<Rate> {
    let hardware = matches!(choice, Choice::Gpu(a) if a.rank().is_some());
    let most = if hardware { COPY_BYTES.0 } else { COPY_BYTES.1 };
    let bytes = choice.limits().binding_bytes.min(most) / 16 * 16;
    let words = (bytes / 4) as usize;
    let rate = measure(choice, words, 2.0 * bytes as f64, &|g, from, to| probe::copy(g, from, to))?;
    task.advance(1);
    let how = format!("copies of {} MiB, bytes read plus bytes written; {}", bytes >> 20, rate.how);
    Ok(Rate { how, ..rate })
}

/// Multiplications and additions a second, in GFLOP/s.
fn fma_rate(choice: &Choice, task: &Task) -> Result<Rate> {
    let hardware = matches!(choice, Choice::Gpu(a) if a.rank().is_some());
    let (vectors, rounds) = if hardware { (1 << 18, 1024) } else { (1 << 16, 64) };
    let flops = 64.0 * (vectors * rounds) as f64;
    let rate = measure(choice, 4 * vectors, flops, &|g, from, to| probe::multiply_add(g, from, to, rounds))?;
    task.advance(1);
    let how = format!("eight independent chains of f32 vectors an invocation; {}", rate.how);
    Ok(Rate { how, ..rate })
}

type Probe<'a> = &'a dyn Fn(&mut Graph, crate::graph::TensorId, crate::graph::TensorId);

/// Times submits of a probe back to back; `work` of one dispatch a second, in units of 1e9.
fn measure(choice: &Choice, words: usize, work: f64, probe: Probe) -> Result<Rate> {
    let mut state = StateLayout::default();
    let (from_state, to_state) = (state.add("from", words), state.add("to", words));
    let mut graph = Graph::default();
    let (from, to) = (graph.state("from", from_state, 0, words), graph.state("to", to_state, 0, words));
    for _ in 0..DISPATCHES {
        probe(&mut graph, from, to);
    }
    let choice = match choice {
        Choice::Cpu => Choice::Cpu,
        Choice::Gpu(adapter) => Choice::Gpu(adapter.clone()),
    };
    let mut device = choice.open(&state.buffers, vec![Plan::new(graph)])?;
    // Not zeros, which some memory systems compress; positive and finite as f32.
    let values: Vec<u32> = (0..words as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 2).collect();
    device.write(from_state, 0, &values)?;
    drop(values);
    // The first submit is the device's own measuring of its nodes, the second touches everything once more.
    submits(&mut *device, 2)?;
    let start = Instant::now();
    submits(&mut *device, RING)?;
    let one = start.elapsed().as_secs_f64() / RING as f64;
    let n = ((REPEAT / one).ceil() as usize).clamp(1, 1000);
    let mut rates = Vec::new();
    for _ in 0..REPEATS {
        let start = Instant::now();
        submits(&mut *device, n)?;
        rates.push((n * DISPATCHES) as f64 * work / start.elapsed().as_secs_f64() / 1e9);
    }
    rates.sort_by(f64::total_cmp);
    let how = format!("{REPEATS} times the wall clock around {n} submits of {DISPATCHES} dispatches");
    Ok(Rate { best: rates[REPEATS - 1], median: rates[REPEATS / 2], how })
}

/// Submits `n` steps, as many at once as may be, and waits for the last.
fn submits(device: &mut dyn Device, n: usize) -> Result<()> {
    let mut outputs = Vec::new();
    for _ in 0..n {
        if device.in_flight(0) == RING {
            device.receive(0, &mut outputs)?;
        }
        device.submit(0, &[])?;
    }
    while device.in_flight(0) > 0 {
        device.receive(0, &mut outputs)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
