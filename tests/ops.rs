//! Every op against its CPU twin, on every adapter there is, with and without the injected checks, twice for equal bits.

mod common;

use tauten::config::Activation;
use tauten::device::gpu::{Adapter, Checks};
use tauten::ops::check::{Case, Results, cases, normals};
use tauten::ops::linear::{GateLayer, Linear, linear, linear_with_gates};
use tauten::ops::tile::{Chosen, Multiply, TILES, Tile, Tiles};

/// A failure that is known to be a driver's.
struct Expected {
    backend: &'static str,
    /// Part of the adapter's name.
    adapter: &'static str,
    /// Part of the driver's name and version.
    driver: &'static str,
    /// Part of the case's name.
    case: &'static str,
    reason: &'static str,
}

/// What fails by a driver's fault. An entry whose failure no longer occurs turns the test red, to be removed.
const EXPECTED: &[Expected] = &[];

#[test]
fn every_op_equals_its_twin_on_every_adapter() {
    if std::env::var_os("TAUTEN_NO_GPU").is_some_and(|v| v == "1") {
        println!("skipped: TAUTEN_NO_GPU=1 is set");
        return;
    }
    let adapters = Adapter::all();
    assert!(
        !adapters.is_empty(),
        "there is no adapter to test the shaders on; install a driver (a software one will do) or set TAUTEN_NO_GPU=1"
    );
    let only = std::env::var("TAUTEN_CASE").unwrap_or_default();
    let cases = cases();
    let cases: Vec<_> = cases.iter().filter(|c| c.name.contains(&only)).collect();
    let wanted: Vec<_> = cases.iter().map(|c| c.on_cpu().unwrap_or_else(|e| panic!("{} on the CPU: {e}", c.name))).collect();
    let cases: Vec<_> = cases.into_iter().zip(&wanted).collect();
    let mut failures = Vec::new();
    for adapter in &adapters {
        let described = adapter.describe();
        let applies = |e: &Expected| {
            e.backend == adapter.backend() && adapter.name().contains(e.adapter) && adapter.driver().contains(e.driver)
        };
        let mut met = vec![false; EXPECTED.len()];
        let mut worst: Vec<(f32, &str)> = Vec::new();
        let start = std::time::Instant::now();
        // Cases of an op share a device and its pipelines.
        for group in cases.chunk_by(|(one, _), (other, _)| one.op == other.op) {
            let group: Vec<_> = group.iter().filter(|(case, _)| case.runs_on(adapter)).collect();
            let members: Vec<_> = group.iter().map(|&&(case, _)| case).collect();
            let mut failed = vec![Vec::new(); group.len()];
            for checks in [Checks::Injected, Checks::None] {
                let results = match Case::together(&members, adapter.clone(), checks, 2) {
                    Ok(results) => results,
                    Err(e) => {
                        failed.iter_mut().for_each(|f| f.push(format!("{checks:?}: {e}")));
                        continue;
                    }
                };
                for ((&&(case, wanted), result), failed) in group.iter().zip(results).zip(&mut failed) {
                    match result.and_then(|runs| Ok((case.compare(wanted, &runs[0])?, runs[0] == runs[1]))) {
                        Ok((error, true)) => worst.push((error, &case.name)),
                        Ok((_, false)) => failed.push(format!("{checks:?}: two runs differ in their bits")),
                        Err(e) => failed.push(format!("{checks:?}: {e}")),
                    }
                }
            }
            for (case, failed) in members.iter().zip(failed) {
                let expected = EXPECTED.iter().position(|e| applies(e) && case.name.contains(e.case));
                match (failed.is_empty(), expected) {
                    (true, _) => {}
                    (false, Some(i)) => met[i] = true,
                    (false, None) => {
                        failures.extend(failed.iter().map(|f| format!("{described}: case {}: {f}", case.name)));
                    }
                }
            }
        }
        for (e, met) in EXPECTED.iter().zip(met) {
            if applies(e) && !met && only.is_empty() {
                failures.push(format!("{described}: cases {} pass, expected to fail since {}", e.case, e.reason));
            }
        }
        worst.sort_by(|a, b| b.0.total_cmp(&a.0));
        worst.dedup_by_key(|w| w.1);
        // Errors in parts of the tolerance.
        println!("{described}: {} cases in {:.1} s; largest errors:", cases.len(), start.elapsed().as_secs_f64());
        for (error, case) in worst.iter().take(12) {
            println!("  {error:.3} {case}");
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// The loss of a step does not see an infinite gradient, so by cooperative matrices there is none.
#[test]
fn gradients_beyond_16_bits_are_held_at_the_largest_number() {
    common::for_each_adapter(|name, open| {
        let Some(tile) = open().limits().tiles.matrices else {
            println!("{name} has no cooperative matrices");
            return;
        };
        let (rows, inputs, outputs) = (100, 24, 20);
        let most = 65_504.0 / 128.0;
        let of = |beyond: f32| {
            let mut case = Case::new("linear", rows, move |s| {
                let x = s.state_tensor("x", &normals(1, rows * inputs, 1.0));
                let w = s.state_tensor("w", &normals(2, inputs * outputs, 0.5));
                let dy: Vec<f32> = (0..rows * outputs).map(|i| if i % 3 == 0 { beyond } else { -beyond / 4.0 }).collect();
                let dy = s.input(&dy.iter().map(|d| if d.abs() < most { most / 8.0 } else { *d }).collect::<Vec<_>>());
                let shape = Linear { rows, groups: 1, inputs, outputs, activation: Activation::Identity, input_gradient: true };
                let y = linear(&mut s.graph, x, w, None, shape);
                s.graph.seed(y, dy);
                s.graph.backward();
                for t in [x, w] {
                    let gradient = s.graph.gradient(t).expect("a gradient");
                    s.graph.output(gradient);
                }
            });
            case.limits.tiles = Tiles::always(Chosen { tile, slices: 1 });
            case.on_gpu(open(), Checks::None).expect("results")
        };
        let results = [most, 1e3 * most, 1e37].map(|beyond| (beyond, of(beyond)));
        let is_finite = |word: &u32| f32::from_bits(*word).is_finite();
        for (beyond, result) in &results {
            assert!(result.iter().all(|(_, words)| words.iter().all(is_finite)), "{name}: {beyond}");
        }
        // Numbers of both signs, held: another factor makes no difference.
        assert!(results[1].1 == results[2].1, "{name}");
    });
}

#[test]
fn an_adapter_without_16_bit_numbers_refuses_them_in_words() {
    let cases = cases();
    let case = cases.iter().find(|case| case.name.ends_with("stored as f16")).expect("a case");
    common::for_each_adapter(|name, open| {
        let error = case.on_gpu(open(), Checks::None).err();
        assert_eq!(case.runs_on(&open()), error.is_none(), "{name}: {error:?}");
        if let Some(error) = error {
            assert!(error.exit_code() == 2 && error.to_string().contains("train.activation_storage"), "{error}");
        }
    });
}

#[test]
fn tiles_by_subgroups_do_not_change_the_bits_of_a_product() {
    if std::env::var_os("TAUTEN_NO_GPU").is_some_and(|v| v == "1") {
        println!("skipped: TAUTEN_NO_GPU=1 is set");
        return;
    }
    let (rows, groups, inputs, outputs, gates) = (70, 2, 37, 21, 6);
    let case = |tile: Tile| {
        let mut case = Case::new(tile.describe(), rows, move |s| {
            let x = s.state_tensor("x", &normals(1, rows * groups * inputs, 1.0));
            let w = s.state_tensor("w", &normals(2, groups * inputs * outputs, 0.5));
            let b = s.state_tensor("bias", &normals(3, groups * outputs, 0.5));
            let dy = s.input(&normals(4, rows * groups * outputs, 1.0));
            let shape = Linear { rows, groups, inputs, outputs, activation: Activation::Tanh, input_gradient: true };
            let y = linear(&mut s.graph, x, w, Some(b), shape);
            s.graph.seed(y, dy);
            // Gates beside such a layer, whose tiles are others.
            let w2 = s.state_tensor("w beside gates", &normals(9, groups * inputs * outputs, 0.5));
            let gate_w = s.state_tensor("gate w", &normals(5, groups * inputs * gates, 0.5));
            let gate_bias = s.state_tensor("gate bias", &normals(8, gates, 0.5));
            let layer = GateLayer { w: gate_w, bias: gate_bias, outputs: gates };
            let shape = Linear { groups: 1, inputs: groups * inputs, outputs, ..shape };
            let (y2, z) = linear_with_gates(&mut s.graph, x, w2, None, shape, layer);
            let dz = s.input(&normals(6, rows * gates, 1.0));
            let dy2 = s.input(&normals(7, rows * outputs, 1.0));
            s.graph.seed(y2, dy2);
            s.graph.seed(z, dz);
            s.graph.backward();
            [y, y2, z].into_iter().for_each(|t| s.graph.output(t));
            for t in [x, w, b, w2, gate_w, gate_bias] {
                let gradient = s.graph.gradient(t).expect("a gradient");
                s.graph.output(gradient);
            }
        });
        case.limits.tiles = Tiles::always(Chosen { tile, slices: 1 });
        case
    };
    let cases: Vec<Case> = TILES
        .into_iter()
        .filter(|tile| tile.by == Multiply::Subgroups || tile.rows == 1 && tile.width == 8)
        .map(case)
        .collect();
    assert_eq!(cases.len(), 4);
    common::for_each_adapter(|name, open| {
        let cases: Vec<&Case> = cases.iter().filter(|case| case.runs_on(&open())).collect();
        let results = Case::together(&cases, open(), Checks::None, 1).expect("the adapter runs them");
        let results: Vec<Results> = results.into_iter().map(|runs| runs.expect("a result").remove(0)).collect();
        for (case, result) in cases.iter().zip(&results) {
            assert!(*result == results[0], "{name}: tiles of {} and {}", cases[0].name, case.name);
        }
    });
}
