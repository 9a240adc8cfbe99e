//! Whole models against PyTorch in float64: losses, every gradient, parameters and running statistics after one and two optimizer
//! steps, what is then predicted, on the CPU twins and on every adapter present. `goldens/make.py` makes the files.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod common;

use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::Path;
use tauten::config::Config;
use tauten::data::batch::{BatchBuilder, Minibatch, RowBlock, RowSource};
use tauten::device::{Choice, Limits};
use tauten::graph::{Format, Parameter, ParameterKind, Plan, PlannedNode};
use tauten::model::{Model, Schema};
use tauten::ops::report::Report;
use tauten::ops::tile::{MATRICES, Tiles};
use tauten::train::session::{Role, Session, batch_layout};

struct Golden {
    name: String,
    tensors: HashMap<String, Vec<f64>>,
    rows: HashMap<String, usize>,
    config: Config,
    schema: Schema,
}

impl Golden {
    fn read(path: &Path) -> Golden {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (mut tensors, mut rows) = (HashMap::new(), HashMap::new());
        for (name, view) in file.iter() {
            let data = view.data();
            let values: Vec<f64> = match view.dtype() {
                Dtype::F32 => data.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
                Dtype::F64 => data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
                Dtype::I32 => data.chunks_exact(4).map(|b| f64::from(i32::from_le_bytes(b.try_into().unwrap()))).collect(),
                other => panic!("{name}: {other:?}"),
            };
            rows.insert(name.to_string(), view.shape().first().copied().unwrap_or(1));
            tensors.insert(name.to_string(), values);
        }
        let list = |key: &str| serde_json::from_str::<Vec<usize>>(&metadata[key]).unwrap();
        let names: Vec<String> = serde_json::from_str(&metadata["features"]).unwrap();
        let numeric: usize = metadata["numeric"].parse().unwrap();
        let categorical: Vec<String> =
            names.iter().zip(list("dims")).map(|(name, dim)| format!("{{ name = \"{name}\", dim = {dim} }}")).collect();
        let numbers: Vec<String> = (0..numeric).map(|i| format!("\"n{i}\"")).collect();
        let text = format!(
            "[data]\ntrain = [\"x\"]\nvalid = [\"x\"]\n[features]\ncategorical = [{}]\nnumeric = [{}]\n{}",
            categorical.join(", "),
            numbers.join(", "),
            metadata["config"]
        );
        let config: Config = toml::from_str(&text).unwrap();
        let schema = Schema { categorical: names.into_iter().zip(list("vocabulary")).collect(), numeric };
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        Golden { name, tensors, rows, config, schema }
    }

    fn batch(&self, model: &Model, prefix: &str) -> Option<Minibatch> {
        let rows = *self.rows.get(&format!("{prefix}.click"))?;
        let mut builder = BatchBuilder::new(batch_layout(model), true);
        let mut batch = Minibatch::default();
        let source = Source { golden: self, prefix: prefix.to_string(), rows };
        builder.fill(&source, &(0..rows).collect::<Vec<_>>(), &mut batch).unwrap();
        Some(batch)
    }
}

struct Source<'a> {
    golden: &'a Golden,
    prefix: String,
    rows: usize,
}

impl RowSource for Source<'_> {
    fn len(&self) -> usize {
        self.rows
    }
    fn read(&self, rows: &[usize], to: &mut RowBlock) {
        let get = |name: &str| &self.golden.tensors[&format!("{}.{name}", self.prefix)];
        let Schema { categorical, numeric } = &self.golden.schema;
        for (i, &row) in rows.iter().enumerate() {
            for feature in 0..categorical.len() {
                to.ids::<1>(feature)[0][i] = get("ids")[row * categorical.len() + feature] as u32;
            }
            for feature in 0..*numeric {
                to.numeric[i * numeric + feature] = get("numeric")[row * numeric + feature] as f32;
            }
            to.labels[2 * i] = get("click")[row] as f32;
            to.labels[2 * i + 1] = get("conversion")[row] as f32;
        }
    }
}

fn array(session: &mut Session, p: &Parameter) -> Vec<f32> {
    let mut values = Vec::new();
    session
        .read_array(p, |words| {
            values.extend_from_slice(bytemuck::cast_slice(words));
            Ok(())
        })
        .unwrap();
    values
}

/// The first elements that differ by more than `absolute + relative * |wanted|`.
fn compare(what: &str, got: &[f32], wanted: &[f64], relative: f64, absolute: f64, wrong: &mut Vec<String>) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    let mut count = 0;
    for (i, (&g, &w)) in got.iter().zip(wanted).enumerate() {
        let within = (f64::from(g) - w).abs() <= absolute + relative * w.abs();
        if !within {
            count += 1;
            if count <= 3 {
                wrong.push(format!("{what}[{i}]: {g:e}, PyTorch {w:e}"));
            }
        }
    }
}

fn scale(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |a, b| a.max(b.abs()))
}

fn session(golden: &Golden, choice: Choice, limits: Limits, updates: bool) -> (Session, Vec<Minibatch>) {
    let model = Model::new(&golden.config, &golden.schema, limits).unwrap();
    let batches: Vec<Minibatch> = ["input", "input2"].iter().filter_map(|p| golden.batch(&model, p)).collect();
    let mut roles: Vec<Role> = batches.iter().map(|b| Role::Train(b.rows)).collect();
    roles.dedup();
    if golden.tensors.contains_key("evaluated") {
        roles.push(Role::Infer(batches[0].rows));
    }
    let plans = roles
        .iter()
        .map(|r| match *r {
            Role::Train(rows) => Plan::new(model.training_graph(rows, updates)),
            Role::Infer(rows) => model.inference_plan(rows),
        })
        .collect();
    let mut session = Session::with_plans(model, choice, &roles, plans, &mut |_| ()).unwrap();
    for p in session.model().parameters().to_vec() {
        let values = &golden.tensors[&format!("param.{}", p.name)];
        session
            .write_array(&p, |from, words| {
                for (word, &value) in words.iter_mut().zip(&values[from..]) {
                    *word = (value as f32).to_bits();
                }
                Ok(())
            })
            .unwrap();
    }
    (session, batches)
}

/// The offsets of sampled negatives of the minibatch of step `step`.
fn offsets(golden: &Golden, step: usize) -> Option<Vec<u32>> {
    let second = golden.tensors.get("input2.offsets").filter(|_| step == 1);
    let offsets = second.or(golden.tensors.get("input.offsets"))?;
    Some(offsets.iter().map(|&x| x as u32).collect())
}

fn check(golden: &Golden, open: impl Fn() -> Choice, limits: &Limits, where_: &str) {
    let mut wrong = Vec::new();
    check_gradients(golden, open(), limits, &mut |what, got, wanted, relative, absolute| {
        compare(what, got, wanted, relative, absolute, &mut wrong);
    });
    check_updates(golden, open(), limits, &mut wrong);
    assert!(wrong.is_empty(), "{} on {where_}:\n{}", golden.name, wrong.join("\n"));
}

/// What is compared: its name, what came out, what PyTorch has, relative and absolute tolerance.
type Compare<'a> = dyn FnMut(&str, &[f32], &[f64], f64, f64) + 'a;

/// Losses, logits and gradients.
fn check_gradients(golden: &Golden, choice: Choice, limits: &Limits, compare: &mut Compare) {
    let (mut s, batches) = session(golden, choice, limits.clone(), false);
    let batch = &batches[0];
    let program = s.program(Role::Train(batch.rows)).unwrap();
    s.train_with_offsets(program, 0, batch, offsets(golden, 0)).unwrap();
    let mut outputs = Vec::new();
    s.receive(program, &mut outputs).unwrap();
    let report: Report = bytemuck::pod_read_unaligned(bytemuck::cast_slice(&outputs[0]));
    for (name, got) in [
        ("loss.ctr", report.ctr),
        ("loss.ctcvr", report.ctcvr),
        ("loss.cvr", report.cvr),
        ("loss.contrast", report.contrast),
        ("loss.total", report.total),
        ("loss.relatedness", report.relatedness),
        ("pairing_top1", report.pairing_top1),
    ] {
        let wanted = golden.tensors.get(name);
        // Later fields: not every file has them.
        assert!(wanted.is_some() || ["loss.relatedness", "pairing_top1"].contains(&name), "{}: no {name}", golden.name);
        if let Some(wanted) = wanted {
            compare(name, &[got], wanted, 2e-5, 1e-6);
        }
    }
    let logits = &golden.tensors["logits"];
    compare("logits", &outputs[2], logits, 2e-5, 2e-6 * scale(logits));
    if let (Some(tau), Some(got)) = (golden.tensors.get("tau"), outputs.get(3)) {
        compare("tau", got, tau, 1e-5, 1e-6);
    }
    for p in s.model().parameters().to_vec() {
        if p.kind == ParameterKind::Statistic {
            continue;
        }
        let wanted = &golden.tensors[&format!("grad.{}", p.name)];
        let got = match p.kind {
            ParameterKind::Embedding => embedding_gradient(golden, s.model(), batch, &outputs[1], &p),
            _ => {
                let mut words = vec![0u32; p.len()];
                let gradients = s.model().gradients();
                s.read(gradients, p.parts[0].offset, &mut words).unwrap();
                bytemuck::cast_slice(&words).to_vec()
            }
        };
        // The last term: projection gradients of rows that are alike cancel to next to nothing.
        compare(&format!("grad.{}", p.name), &got, wanted, 1e-4, 2e-5 * scale(wanted) + 3e-8);
    }
}

/// Parameters after one step and after another on the same or a second minibatch, and what is then predicted.
fn check_updates(golden: &Golden, choice: Choice, limits: &Limits, wrong: &mut Vec<String>) {
    let (mut s, batches) = session(golden, choice, limits.clone(), true);
    let mut outputs = Vec::new();
    for (step, prefix) in ["updated", "updated2"].iter().enumerate() {
        let batch = batches.get(step).unwrap_or(&batches[0]);
        let program = s.program(Role::Train(batch.rows)).unwrap();
        s.train_with_offsets(program, step as u64, batch, offsets(golden, step)).unwrap();
        s.receive(program, &mut outputs).unwrap();
        let optimizer = &golden.config.optimizer;
        for p in s.model().parameters().to_vec() {
            let wanted = &golden.tensors[&format!("{prefix}.{}", p.name)];
            // Adam divides a gradient by its own size, so an update is right to the digits that the gradient has.
            let absolute = match p.kind {
                ParameterKind::Dense => 2e-3 * f64::from(optimizer.dense.lr),
                ParameterKind::Embedding => 2e-3 * f64::from(optimizer.embedding.lr),
                ParameterKind::Statistic => 1e-6,
            };
            let got = array(&mut s, &p);
            compare(&format!("{prefix}.{}", p.name), &got, wanted, 2e-6, absolute, wrong);
        }
    }
    if let Some(wanted) = golden.tensors.get("evaluated") {
        let program = s.program(Role::Infer(batches[0].rows)).unwrap();
        s.infer(program, &batches[0]).unwrap();
        s.receive(program, &mut outputs).unwrap();
        compare("evaluated", &outputs[0], wanted, 2e-5, 1e-5 * scale(wanted), wrong);
    }
}

/// The dense gradient [V, D] of a feature's embedding from that of x.
fn embedding_gradient(golden: &Golden, model: &Model, batch: &Minibatch, dx: &[f32], p: &Parameter) -> Vec<f32> {
    let feature = golden.schema.categorical.iter().position(|(n, _)| p.name.rsplit('.').next() == Some(n)).unwrap();
    let columns = dx.len() / batch.rows;
    // The second set of embeddings lies in the second half.
    let mut offset = if p.name.starts_with("embedding.cvr.") { columns / 2 } else { 0 };
    for (layout, part) in model.layouts().iter().zip(&batch.tables) {
        if let Some(f) = layout.features.iter().position(|&x| x == feature) {
            let mut gradient = vec![0f64; p.len()];
            for b in 0..batch.rows {
                let row = (part.ids[b * layout.features.len() + f] - layout.offsets[f]) as usize;
                for d in 0..layout.dim {
                    gradient[row * layout.dim + d] += f64::from(dx[b * columns + offset + f * layout.dim + d]);
                }
            }
            return gradient.into_iter().map(|g| g as f32).collect();
        }
        offset += layout.features.len() * layout.dim;
    }
    panic!("no table has {}", p.name);
}

fn goldens() -> Vec<Golden> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "safetensors"));
    paths.sort();
    assert!(paths.len() >= 35, "goldens are missing");
    paths.iter().map(|p| Golden::read(p)).collect()
}

#[test]
fn twins_match_pytorch() {
    for golden in goldens() {
        check(&golden, || Choice::Cpu, &Choice::Cpu.limits(), "cpu");
    }
}

#[test]
fn adapters_match_pytorch() {
    common::for_each_adapter(|name, open| {
        for golden in goldens() {
            check(&golden, || Choice::Gpu(Box::new(open())), &Limits { binding_bytes: 128 << 20, ..Limits::NONE }, name);
        }
    });
}

/// Tables in shards of a few rows, dense parameters in ranges, minibatches in blocks of 128 rows (`hot_rows` has 150) and tables
/// of few features give what whole ones give.
#[test]
fn split_models_match_pytorch() {
    let limits = Limits { binding_bytes: 320, ..Limits::NONE };
    for golden in goldens() {
        check(&golden, || Choice::Cpu, &limits, "cpu with bindings of 320 bytes");
    }
    common::for_each_adapter(|name, open| {
        for golden in goldens().iter().filter(|g| ["hot_rows", "mmoe_two_widths", "batch_norm_mmoe"].contains(&g.name.as_str()))
        {
            check(golden, || Choice::Gpu(Box::new(open())), &limits, &format!("{name} with bindings of 320 bytes"));
        }
    });
}

/// What is rounded to 16 bits changes losses, logits and gradients by little. As vectors: a unit that is next to 0 may fall on its other side, which
/// changes an element altogether.
///
/// Returns by how much the logits changed.
fn check_rounded(golden: &Golden, choice: Choice, tiles: Tiles, name: &str) -> f64 {
    let mut squares: HashMap<String, [f64; 2]> = HashMap::new();
    let limits = Limits { binding_bytes: 128 << 20, tiles };
    check_gradients(golden, choice, &limits, &mut |what, got, wanted, _, _| {
        let kind = if what.starts_with("loss") { what } else { what.split('.').next().unwrap() };
        let [error, size] = squares.entry(kind.to_string()).or_default();
        *error += got.iter().zip(wanted).map(|(&g, w)| (f64::from(g) - w).powi(2)).sum::<f64>();
        *size += wanted.iter().map(|w| w * w).sum::<f64>();
    });
    for (what, [error, size]) in &squares {
        let most = if what == "grad" { 5e-2 } else { 2e-3 };
        let error = (error / size.max(f64::MIN_POSITIVE)).sqrt();
        assert!(error <= most, "{} on {name}: {what} is wrong by {error:.1e}", golden.name);
    }
    let [error, size] = squares["logits"];
    (error / size).sqrt()
}

/// Activations stored as f16, in every encoder and with every norm.
#[test]
fn activations_in_f16_stay_near_pytorch() {
    let mut goldens = goldens();
    goldens.iter_mut().for_each(|golden| golden.config.train.activation_storage = Format::F16);
    let check = |golden: &Golden, choice: Choice, name: &str| {
        let error = check_rounded(golden, choice, Tiles::SOFTWARE, &format!("{name}, activations in f16"));
        assert!(error > 2e-5, "{} on {name}: nothing has been rounded to f16", golden.name);
    };
    for golden in &goldens {
        check(golden, Choice::Cpu, "cpu");
    }
    common::for_each_adapter(|name, open| {
        if !open().has_f16() {
            println!("{name} has no 16-bit numbers in shaders");
            return;
        }
        for golden in goldens.iter().filter(|g| ["hot_rows", "dropout_mmoe", "batch_norm_mmoe"].contains(&g.name.as_str())) {
            check(golden, Choice::Gpu(Box::new(open())), name);
        }
    });
}

/// Products by cooperative matrices, where an adapter has them: of the models with layers that are large enough for them.
#[test]
fn products_by_cooperative_matrices_stay_near_pytorch() {
    common::for_each_adapter(|name, open| {
        let tiles = open().limits().tiles;
        if tiles.matrices.is_none() {
            println!("{name} has no cooperative matrices");
            return;
        }
        let mut changed = Vec::new();
        for mut golden in goldens() {
            golden.config.train.cooperative_matrices = true;
            let model = Model::new(&golden.config, &golden.schema, open().limits()).unwrap();
            if model.training_plan(70).nodes().iter().any(|node| node.module.shader.matrices) {
                let name = format!("{name}, cooperative matrices");
                changed.push(check_rounded(&golden, Choice::Gpu(Box::new(open())), tiles.clone(), &name));
            }
        }
        assert!(!changed.is_empty(), "mmoe_matrices has large enough layers for each");
        let rounded = changed.iter().filter(|&&error| error > 2e-5).count();
        println!("{name}: {} models, the logits of {rounded} changed", changed.len());
        // A model whose logits do not depend on its layers (batch norm of one row) is not changed.
        assert!(2 * rounded > changed.len(), "{changed:?}");
    });
}

/// Where a device has cooperative matrices, the key has the layers of training multiplied by them that are large enough, and those of nothing else.
#[test]
fn cooperative_matrices_are_for_training_with_the_key() {
    let mut golden = goldens().into_iter().find(|g| g.name == "mmoe_matrices").unwrap();
    let limits = Limits { tiles: Tiles { matrices: Some(MATRICES[1]), ..Tiles::SOFTWARE }, ..Limits::NONE };
    let products = |golden: &Golden, training: bool| -> Vec<(&str, Vec<(&str, f64)>)> {
        let model = Model::new(&golden.config, &golden.schema, limits.clone()).unwrap();
        let plan = if training { model.training_plan(70) } else { model.inference_plan(70) };
        let of = |node: &PlannedNode| (node.op.kernel().entry, node.op.overrides()[5..].to_vec());
        plan.nodes().iter().filter(|node| node.module.shader.matrices).map(of).collect()
    };
    assert!(products(&golden, true).is_empty());
    golden.config.train.cooperative_matrices = true;
    assert!(products(&golden, false).is_empty());
    let products = products(&golden, true);
    // Of 70 rows, rounded up.
    for (entry, scale) in [("input_gradient", "LEFT_SCALE"), ("weight_gradient", "RIGHT_SCALE")] {
        let all: Vec<_> = products.iter().filter(|(e, _)| *e == entry).collect();
        assert!(all.len() >= 2 && all.iter().all(|(_, scales)| *scales == [(scale, 128.0)]), "{products:?}");
    }
    let forward: Vec<_> = products.iter().filter(|(entry, _)| entry.starts_with("forward")).collect();
    assert!(forward.len() >= 3 && forward.iter().all(|(_, scales)| scales.is_empty()), "{products:?}");
}

/// Evaluation drops nothing and keeps nothing for a backward pass: its plan is that of the model without dropout.
#[test]
fn evaluation_is_without_dropout() {
    let mut golden = goldens().into_iter().find(|g| g.name == "dropout_mmoe").unwrap();
    let names = |golden: &Golden, training: bool| -> Vec<&str> {
        let model = Model::new(&golden.config, &golden.schema, Choice::Cpu.limits()).unwrap();
        let plan = if training { model.training_plan(70) } else { model.inference_plan(70) };
        plan.nodes().iter().map(|n| n.op.kernel().name).collect()
    };
    // Two layers of experts and two of towers, forward and backward.
    assert_eq!(names(&golden, true).iter().filter(|n| n.starts_with("dropout")).count(), 8);
    let evaluation = names(&golden, false);
    assert!(!evaluation.iter().any(|n| n.starts_with("dropout")), "{evaluation:?}");
    golden.config.model.dropout = 0.0;
    assert_eq!(names(&golden, false), evaluation);
    golden.config.model.activation = tauten::config::Activation::Gelu;
    assert!(names(&golden, true).contains(&"linear_keeping"));
    assert!(!names(&golden, false).contains(&"linear_keeping"));
}

#[test]
fn experts_are_one_product_with_the_gates_that_read_the_same_input() {
    for name in ["dropout_mmoe", "norm_ple", "batch_norm_ple"] {
        let golden = goldens().into_iter().find(|g| g.name == name).unwrap();
        let model = Model::new(&golden.config, &golden.schema, Choice::Cpu.limits()).unwrap();
        for plan in [model.training_plan(70), model.inference_plan(70)] {
            let of_gates: Vec<_> =
                plan.nodes().iter().filter(|n| n.label.contains("gates")).map(|n| n.op.kernel().name).collect();
            assert!(!of_gates.is_empty(), "{name}");
            assert!(of_gates.iter().all(|kernel| kernel.ends_with("_with_gates")), "{name}: {of_gates:?}");
        }
    }
}

/// By running moments a row is scored as it is, whatever rows stand beside it; by the minibatch's, rows that are all the same would
/// come to nothing.
#[test]
fn evaluation_goes_by_running_moments() {
    let golden = goldens().into_iter().find(|g| g.name == "batch_norm_mmoe").unwrap();
    let (mut s, batches) = session(&golden, Choice::Cpu, Choice::Cpu.limits(), true);
    let rows = batches[0].rows;
    let program = s.program(Role::Infer(rows)).unwrap();
    let source = Source { golden: &golden, prefix: "input".into(), rows };
    let mut builder = BatchBuilder::new(batch_layout(s.model()), true);
    let mut score = |order: &[usize]| {
        let (mut batch, mut outputs) = (Minibatch::default(), Vec::new());
        builder.fill(&source, order, &mut batch).unwrap();
        s.infer(program, &batch).unwrap();
        s.receive(program, &mut outputs).unwrap();
        outputs.swap_remove(0)
    };
    let together = score(&(0..rows).collect::<Vec<_>>());
    assert!((1..rows).any(|row| (together[2 * row] - together[0]).abs() > 0.1), "all rows are alike");
    for row in [0, 1, rows - 1] {
        for alone in score(&vec![row; rows]).chunks(2) {
            for (a, b) in alone.iter().zip(&together[2 * row..]) {
                assert!((a - b).abs() <= 1e-5 * (1.0 + b.abs()), "row {row}: {a} beside itself, {b} beside the others");
            }
        }
    }
}
