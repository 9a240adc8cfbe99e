//! Training as a whole: the same bytes whenever it is repeated, interrupted, killed and resumed, on every device.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod common;
#[path = "common/kuairand.rs"]
mod kuairand;
#[path = "common/command.rs"]
mod process;

use common::for_each_adapter;
use process::{Ended, command, home, tauten};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tauten::config::Loaded;
use tauten::data::dataset::Dataset;
use tauten::data::prepare::prepare;
use tauten::data::simulate::simulate;
use tauten::data::write::Format;
use tauten::device::Choice;
use tauten::report::progress::Progress;
use tauten::train::checkpoint::Checkpoint;
use tauten::train::trainer::first_steps;

/// 1600 training rows: 12 minibatches and a short one of 64 rows.
const CONFIG: &str = concat!(
    "\nseed = 5\n",
    include_str!("common/log.toml"),
    r#"[contrast]
weight = 0.5
width = 8
hidden = [8]
[optimizer]
dense.lr = 0.01
embedding.lr = 0.01
embedding.kind = "adam"
[train]
batch_size = 128
evaluate_batch_size = 128
epochs = 3
patience = 100
[evaluate]
gauc = "segment"
"#
);

/// Minibatches in an epoch.
const EPOCH: u64 = 13;

/// Sampled negatives and a mask; what else goes by the step's number, keeps something from step to step, or is off by default.
const SAMPLED: [&str; 22] = [
    "--set",
    "contrast.negatives=7",
    "--set",
    "contrast.mask=user",
    "--set",
    "model.activation=gelu",
    "--set",
    "model.dropout=0.2",
    "--set",
    "model.norm=batch",
    "--set",
    "optimizer.schedule.kind=cosine",
    "--set",
    "optimizer.schedule.warmup_steps=3",
    "--set",
    "optimizer.dense.clip_norm=0.5",
    "--set",
    "optimizer.embedding.l2=0.001",
    "--set",
    "contrast.temperature_lr_scale=0.5",
    "--set",
    "contrast.relatedness_supervision=0.3",
];

/// Minibatches of 512 rows, so that a slow device has few steps to take: 3 and a short one of 64 rows an epoch, two epochs.
const FEW: [&str; 4] = ["--set", "train.batch_size=512", "--set", "train.epochs=2"];

/// The folder with `c.toml`, its `log` and the prepared `dataset`.
fn place() -> &'static Path {
    static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
        let place = home("training");
        simulate(2000, 3, &place.join("log"), Format::Parquet, &mut |_| ()).unwrap();
        std::fs::write(place.join("c.toml"), CONFIG).unwrap();
        prepare(&Loaded::read(&place.join("c.toml"), &[]).unwrap(), &place.join("dataset"), &Progress::new(true)).unwrap();
        place
    });
    &PLACE
}

fn path(name: &str) -> String {
    place().join(name).display().to_string()
}

/// The arguments that train the run `out`, quietly.
fn training(out: &str, device: &str, more: &[&str]) -> Vec<String> {
    let mut args: Vec<String> =
        ["train", &path("c.toml"), "--data", &path("dataset"), "--out", &path(out)].map(String::from).into();
    args.extend(["--device", device, "-q"].iter().chain(more).map(|s| s.to_string()));
    args
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

fn well(ended: Ended) -> Ended {
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{ended:?}");
    ended
}

fn train(out: &str, device: &str, more: &[&str]) -> Ended {
    well(tauten(&strs(&training(out, device, more))))
}

fn resume(out: &str, device: &str, more: &[&str]) -> Ended {
    let run = path(out);
    well(tauten(&[&["train", "--resume", &run, "--device", device, "-q"], more].concat()))
}

/// The lines of a run's metrics without what depends on the clock.
fn metrics(out: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(place().join(out).join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        let mut take = |key| value.as_object_mut().unwrap().remove(key).unwrap();
        assert!(take("rows_per_second").as_f64().unwrap() > 0.0);
        let seconds = take("seconds");
        let of = |key: &str| seconds[key].as_f64().unwrap();
        let parts = [of("data"), of("start"), of("wait")];
        assert!(parts.iter().all(|&s| s >= 0.0) && parts.iter().sum::<f64>() <= of("all") * 1.000001, "{seconds}");
        value
    };
    text.lines().map(line).collect()
}

/// Both runs have the same checkpoints, byte for byte, and metrics, and nothing else lies about.
fn assert_same(one: &str, other: &str) {
    for name in ["last.safetensors", "best.safetensors"] {
        let bytes = |out: &str| std::fs::read(place().join(out).join(name)).ok();
        assert!(bytes(one) == bytes(other), "{name} of {one} and {other} differ");
    }
    assert_eq!(metrics(one), metrics(other), "{one} {other}");
    for out in [one, other] {
        assert_eq!(hidden_files(out), [""; 0]);
    }
}

fn hidden_files(out: &str) -> Vec<String> {
    let entries = std::fs::read_dir(place().join(out)).unwrap();
    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).filter(|n| n.starts_with('.')).collect()
}

/// The step of the run's newest checkpoint, which must be whole; none before the first.
fn checkpoint_step(out: &str) -> Option<u64> {
    let step = |name: &str| {
        let file = place().join(out).join(name);
        file.exists().then(|| Checkpoint::open(&file).unwrap().progress().unwrap().step)
    };
    step("best.safetensors");
    step("last.safetensors")
}

#[test]
fn repeated_on_the_cpu_with_any_number_of_threads() {
    // Wide enough that products are shared among threads.
    let wide = ["--set", "model.hidden=[96,64]", "--set", "train.batch_size=300", "--set", "train.epochs=2"];
    let threads = ["1", "2", "3"];
    for threads in threads {
        let args = training(&format!("threads-{threads}"), "cpu", &wide);
        let output = command(&strs(&args)).env("RAYON_NUM_THREADS", threads).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    train("threads-default", "cpu", &wide);
    for threads in threads {
        assert_same("threads-default", &format!("threads-{threads}"));
    }
    assert_eq!(metrics("threads-1").len(), 2);
    train("other-seed", "cpu", &[&wide[..], &["--seed", "6"]].concat());
    assert_ne!(metrics("other-seed"), metrics("threads-1"));
}

#[test]
fn resumed_on_the_cpu_from_anywhere() {
    for (name, more) in [("in-batch", &[][..]), ("sampled", &SAMPLED)] {
        let whole = format!("whole-{name}");
        let mut args = training(&whole, "cpu", more);
        args.retain(|arg| arg != "-q");
        let ended = tauten(&strs(&args));
        let lines = metrics(&whole);
        assert_eq!(lines.len(), 3);
        for line in lines {
            let mean = |key: &str| line["train"][key].as_f64().unwrap();
            let (relatedness, top1) = (mean("relatedness"), mean("pairing_top1"));
            assert!(top1 > 0.0 && top1 < 1.0, "{line}");
            // Around the cross-entropy of a share of some 0.3 to 0.5; nothing without supervision.
            assert!(if more.is_empty() { relatedness == 0.0 } else { (0.3..1.0).contains(&relatedness) }, "{line}");
            let told = format!("tau {:.4}, pairing top-1 {top1:.4}", mean("tau"));
            assert!(ended.err.contains(&told) && ended.err.contains(", relatedness ") != more.is_empty(), "{told}: {ended:?}");
        }
        for stop in [0, 1, 7, EPOCH - 1, EPOCH, EPOCH + 1, 2 * EPOCH, 3 * EPOCH] {
            let run = format!("stopped-{name}-{stop}");
            let most = stop.to_string();
            let ended = train(&run, "cpu", &[more, &["--max-steps", &most]].concat());
            let finished = stop == 3 * EPOCH;
            assert!(
                ended.out.contains(if finished { "finished at step 39" } else { "go on: tauten train --resume" }),
                "{ended:?}"
            );
            assert_eq!(checkpoint_step(&run), Some(stop));
            resume(&run, "cpu", &[]);
            assert_same(&whole, &run);
            // A run that has finished stays as it is.
            let ended = resume(&run, "cpu", &[]);
            assert!(ended.out.contains("finished at step 39"), "{ended:?}");
            assert_same(&whole, &run);
        }
    }
}

#[test]
fn resumed_between_evaluations_in_mid_epoch() {
    let more = [&["--set", "train.evaluate_every=5", "--set", "train.checkpoint_every=2"], &SAMPLED[..]].concat();
    train("often", "cpu", &more);
    let steps: Vec<u64> = metrics("often").iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [5, 10, 13, 15, 20, 25, 26, 30, 35, 39]);
    train("often-stopped", "cpu", &[&more[..], &["--max-steps", "3"]].concat());
    for most in ["7", "10", "24"] {
        resume("often-stopped", "cpu", &["--max-steps", most]);
    }
    resume("often-stopped", "cpu", &[]);
    assert_same("often", "often-stopped");
}

#[test]
fn repeated_and_resumed_on_every_adapter() {
    let mut number = 0;
    let number = std::cell::RefCell::new(&mut number);
    for_each_adapter(|name, _| {
        let mut number = number.borrow_mut();
        **number += 1;
        let more = [&FEW[..], &SAMPLED].concat();
        let runs = ["whole", "again", "stopped"].map(|run| format!("adapter-{number}-{run}"));
        train(&runs[0], name, &more);
        assert_eq!(metrics(&runs[0]).len(), 2);
        train(&runs[1], name, &more);
        assert_same(&runs[0], &runs[1]);
        train(&runs[2], name, &[&more[..], &["--max-steps", "0"]].concat());
        // In mid-epoch, at an epoch's end, to the end.
        for most in ["2", "4", "9"] {
            resume(&runs[2], name, &["--max-steps", most]);
        }
        assert_same(&runs[0], &runs[2]);
    });
}

#[test]
fn killed_at_any_moment() {
    let often = ["--set", "train.evaluate_every=4", "--set", "train.checkpoint_every=1", "--set", "train.epochs=6"];
    train("undisturbed", "cpu", &often);
    let run = "killed";
    let folder = place().join(run);
    let mut kills = 0;
    for round in 0u64.. {
        assert!(round < 200, "does not come to its end");
        let args = if folder.exists() {
            std::fs::create_dir_all(folder.join(".checkpoint-left")).unwrap();
            std::fs::write(folder.join(".checkpoint-left/new"), "torn").unwrap();
            std::fs::write(folder.join(".checkpoint-metrics"), "torn").unwrap();
            ["train", "--resume", &path(run), "--device", "cpu", "-q"].map(String::from).into()
        } else {
            training(run, "cpu", &often)
        };
        let mut child = command(&strs(&args)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // Some are killed after so many milliseconds, some once they have come so many steps further: before the run's folder is
        // there, between two steps, within a checkpoint.
        let from = if folder.exists() { checkpoint_step(run).unwrap_or(0) } else { 0 };
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            let further = if folder.exists() { checkpoint_step(run).unwrap_or(0) - from } else { 0 };
            let now = if round % 3 == 0 { start.elapsed() > Duration::from_millis(4 * round) } else { further > round % 4 };
            if now {
                child.kill().unwrap();
                kills += 1;
                break None;
            }
        };
        let output = child.wait_with_output().unwrap();
        if let Some(status) = status {
            assert!(status.success(), "{output:?}");
            break;
        }
        if folder.exists() {
            checkpoint_step(run);
        }
    }
    // How many depends on the machine; the first is before anything is made.
    assert!(kills > 1, "{kills} kills");
    assert_same("undisturbed", run);
}

#[cfg(unix)]
#[test]
fn interrupted() {
    let run = "interrupted";
    // Endless, so that the signal always comes in time.
    let endless = ["--set", "train.epochs=1000000", "--set", "train.patience=1000000", "--set", "train.checkpoint_every=3"];
    let args = training(run, "cpu", &endless);
    let mut child = command(&strs(&args)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !place().join(run).join("last.safetensors").exists() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(1));
    }
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(err, "interrupted: stopping after the step, or the preparation, that is under way; again to stop at once\n");
    let step = checkpoint_step(run).unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(out.contains(&format!("interrupted after step {step}: ")), "{out}");
    assert!(out.ends_with(&format!("\ngo on: tauten train --resume {} --device cpu\n", path(run))), "{out}");
    let most = (step + 5).to_string();
    resume(run, "cpu", &["--max-steps", &most]);
    train("never-interrupted", "cpu", &[&endless[..], &["--max-steps", &most]].concat());
    assert_same("never-interrupted", run);
}

#[test]
fn one_process_trains_a_run() {
    let run = "locked";
    let endless = ["--set", "train.epochs=1000000", "--set", "train.patience=1000000", "--set", "train.checkpoint_every=3"];
    let mut child = command(&strs(&training(run, "cpu", &endless))).spawn().unwrap();
    while !place().join(run).join("last.safetensors").exists() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(1));
    }
    let folder = path(run);
    let second = tauten(&["train", "--resume", &folder, "--device", "cpu", "-q"]);
    assert_eq!((second.code, second.out.as_str()), (2, ""));
    assert_eq!(second.err, format!("error: {folder}: another process is training this run; wait for it, or end it\n"));
    // Who only reads is let in.
    well(tauten(&["evaluate", &folder, "--device", "cpu", "-q"]));
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
    let most = checkpoint_step(run).unwrap() + 1;
    resume(run, "cpu", &["--max-steps", &most.to_string()]);
    assert_eq!(checkpoint_step(run), Some(most));
}

#[test]
fn a_newest_checkpoint_that_is_gone() {
    let [whole, cut] = ["gone-whole", "gone-cut"];
    let two = ["--set", "train.epochs=2"];
    train(whole, "cpu", &two);
    let file = |run: &str, name: &str| place().join(run).join(name);
    let first = EPOCH.to_string();
    // As a process leaves it that is killed within the first evaluation: before or after its line is written.
    for line in [false, true] {
        let _ = std::fs::remove_dir_all(place().join(cut));
        train(cut, "cpu", &[&two[..], &["--max-steps", &first]].concat());
        std::fs::remove_file(file(cut, "last.safetensors")).unwrap();
        if !line {
            std::fs::write(file(cut, "metrics.jsonl"), "").unwrap();
        }
        std::fs::copy(file(cut, "best.safetensors"), file(cut, "first.safetensors")).unwrap();
        resume(cut, "cpu", &[]);
        assert_same(whole, cut);
    }
    // Later lines come from another checkpoint.
    let lines = std::fs::read(file(cut, "metrics.jsonl")).unwrap();
    let gone = || {
        let ended = tauten(&["train", "--resume", &path(cut), "--device", "cpu", "-q"]);
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{ended:?}");
        assert_eq!(std::fs::read(file(cut, "metrics.jsonl")).unwrap(), lines);
        ended.err.replace(&path(cut), "RUN")
    };
    std::fs::remove_file(file(cut, "last.safetensors")).unwrap();
    std::fs::rename(file(cut, "first.safetensors"), file(cut, "best.safetensors")).unwrap();
    let error = gone();
    insta::assert_snapshot!(error, @"error: RUN/last.safetensors: is gone, but RUN/metrics.jsonl knows of step 26; put it back, or train anew into another folder");
    std::fs::remove_file(file(cut, "best.safetensors")).unwrap();
    assert_eq!(gone(), error);
}

#[test]
fn a_position_goes_with_its_sequence() {
    train("edited", "cpu", &["--max-steps", "3"]);
    let config = place().join("edited/config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let edited = |from: &str, to: &str| {
        assert!(text.contains(from), "{text}");
        std::fs::write(&config, text.replace(from, to)).unwrap();
        tauten(&["train", "--resume", &path("edited"), "--device", "cpu", "-q", "--max-steps", "4"])
    };
    for (key, from, to) in [("seed", "seed = 5", "seed = 9"), ("train.batch_size", "\nbatch_size = 128", "\nbatch_size = 7")] {
        let ended = edited(from, to);
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{ended:?}");
        let start = format!("error: {}: {key} was ", path("edited/last.safetensors"));
        assert!(ended.err.starts_with(&start), "{ended:?}");
        assert_eq!(checkpoint_step("edited"), Some(3));
    }
    // What only says when to stop may change.
    well(edited("epochs = 3", "epochs = 4"));
}

/// The error of a run that diverges, with its folder as RUN.
fn diverged(out: &str, device: &str, more: &[&str]) -> String {
    let ended = tauten(&strs(&training(out, device, more)));
    assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{ended:?}");
    assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    ended.err.replace(&path(out), "RUN")
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run() {
    let error = diverged("nan", "cpu", &["--set", "optimizer.dense.lr=1e30"]);
    assert!(error.starts_with("error: step 2 (epoch 1): the loss is NaN or infinite, first in linear"), "{error}");
    assert!(error.contains("; there is no checkpoint yet; lower optimizer.dense.lr, optimizer.embedding.lr"), "{error}");
    // A checkpoint is called good where a loss has been computed with its parameters.
    let saved = ["--set", "optimizer.dense.lr=1e30", "--set", "train.checkpoint_every=1"];
    let error = diverged("nan-saved", "cpu", &saved);
    assert!(error.contains("; RUN/last.safetensors already holds the parameters that give it; lower "), "{error}");
    assert_eq!(checkpoint_step("nan-saved"), Some(1));
    train("nan-resumed", "cpu", &["--set", "optimizer.dense.lr=1e30", "--max-steps", "0"]);
    let error =
        tauten(&["train", "--resume", &path("nan-resumed"), "--device", "cpu", "-q"]).err.replace(&path("nan-resumed"), "RUN");
    assert!(error.starts_with("error: step 2 (epoch 1): the loss is NaN or infinite, first in linear"), "{error}");
    assert!(error.contains("; the last good checkpoint is RUN/last.safetensors of step 0; lower "), "{error}");
    // Nor is one written of what no loss can be computed with.
    let error =
        diverged("nan-embedding", "cpu", &["--set", "optimizer.embedding.lr=1e38", "--set", "train.checkpoint_every=1"]);
    assert!(error.starts_with("error: RUN/last.safetensors: cannot be written at step 1: `embedding."), "{error}");
    // Moments overflow where the loss does not.
    let error = diverged("infinite-moments", "cpu", &["--set", "loss.ctr=1e25", "--max-steps", "2"]);
    assert!(error.starts_with("error: RUN/last.safetensors: cannot be written at step 2: `optimizer."), "{error}");
    assert!(error.contains("` holds a NaN or an infinity; lower optimizer.dense.lr, "), "{error}");
    assert_eq!((checkpoint_step("infinite-moments"), hidden_files("infinite-moments")), (None, vec![]));
    let number = std::cell::Cell::new(0);
    let f16 = ["train.activation_storage=\"f16\"", "train.checkpoint_every=1"];
    let f16 = f16.map(|key| ["--set", key]).concat();
    let matrices = ["train.cooperative_matrices=true", "train.checkpoint_every=1"].map(|key| ["--set", key]).concat();
    let diverges = |device: &str, more: &[&str]| {
        number.set(number.get() + 1);
        let out = format!("nan-{}", number.get());
        let error = diverged(&out, device, &[&FEW[..], &["--set", "optimizer.dense.lr=1e30"], more].concat());
        assert!(error.starts_with("error: step 2 (epoch 1): the loss is NaN or infinite, first in "), "{error}");
        out
    };
    // Storing activations in 16 bits hides no infinity from the losses: the run ends at the same step, with the checkpoint before it.
    assert_eq!(checkpoint_step(&diverges("cpu", &f16)), Some(1));
    for_each_adapter(|name, open| {
        diverges(name, &[]);
        if open().has_f16() {
            assert_eq!(checkpoint_step(&diverges(name, &f16)), Some(1));
        }
        if open().limits().tiles.matrices.is_some() {
            assert_eq!(checkpoint_step(&diverges(name, &matrices)), Some(1));
        }
    });
}

/// Where an adapter's shaders have no 16-bit numbers, the key is refused before anything is written.
#[test]
fn activations_in_f16_are_refused_where_there_are_none() {
    for_each_adapter(|name, open| {
        if !open().has_f16() {
            refused(
                "f16-refused",
                name,
                "train.activation_storage=\"f16\"",
                ", which train.activation_storage = \"f16\" needs; ",
            );
        }
    });
}

/// Has a device refuse a key, in these words, with no folder for the run.
fn refused(out: &str, device: &str, key: &str, words: &str) {
    let ended = tauten(&strs(&training(out, device, &["--set", key])));
    assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{ended:?}");
    assert!(ended.err.contains(words), "{ended:?}");
    assert!(!place().join(out).exists());
}

/// With activations in 16 bits a run resumes as any other.
#[test]
fn activations_in_f16_are_resumed() {
    let more = [&["--set", "train.activation_storage=\"f16\"", "--set", "model.dropout=0.1"], &SAMPLED[..]].concat();
    train("f16", "cpu", &more);
    train("f32", "cpu", &[&["--set", "model.dropout=0.1"], &SAMPLED[..]].concat());
    assert_ne!(metrics("f16"), metrics("f32"));
    train("f16-stopped", "cpu", &[&more[..], &["--max-steps", "7"]].concat());
    resume("f16-stopped", "cpu", &[]);
    assert_same("f16", "f16-stopped");
}

/// Cooperative matrices train where an adapter has them, with the same bits after a stop, and what was trained is evaluated anywhere; elsewhere they are
/// refused before anything is written.
#[test]
fn cooperative_matrices_train_where_there_are_any() {
    let key = ["--set", "train.cooperative_matrices=true"];
    let words = ", which train.cooperative_matrices = true needs; set false or choose ";
    let refused = |device: &str| refused("matrices-refused", device, key[1], words);
    refused("cpu");
    for_each_adapter(|name, open| {
        if open().limits().tiles.matrices.is_none() {
            return refused(name);
        }
        let [few, rest] = [&FEW[..], &["--set", "train.checkpoint_every=1"]];
        train("matrices", name, &[few, &key, rest].concat());
        train("without-matrices", name, &[few, rest].concat());
        assert_ne!(metrics("matrices"), metrics("without-matrices"));
        train("matrices-stopped", name, &[few, &key, rest, &["--max-steps", "3"]].concat());
        resume("matrices-stopped", name, &[]);
        assert_same("matrices", "matrices-stopped");
        well(tauten(&["evaluate", &path("matrices"), "--device", "cpu", "-q"]));
    });
}

#[test]
fn wrong_first_parameters_are_refused_by_name() {
    train("donor", "cpu", &["--max-steps", "1"]);
    let good = std::fs::read(place().join("donor/last.safetensors")).unwrap();
    let init = path("init.safetensors");
    let error = |bytes: &[u8], more: &[&str]| {
        std::fs::write(&init, bytes).unwrap();
        let args = training("refused", "cpu", &[more, &["--init", &init]].concat());
        let ended = tauten(&strs(&args));
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{ended:?}");
        assert!(!place().join("refused").exists());
        ended.err.replace(&init, "INIT")
    };
    let tensors = safetensors::SafeTensors::deserialize(&good).unwrap();
    let name = "experts.0.weight";
    let names: Vec<&str> = tensors.names().into_iter().collect();
    let name =
        names.iter().find(|n| **n == name).copied().unwrap_or_else(|| names.iter().find(|n| n.contains("weight")).unwrap());
    // The last element of that tensor becomes infinite.
    let start = tensors.tensor(name).unwrap().data().as_ptr() as usize - good.as_ptr() as usize;
    let mut infinite = good.clone();
    infinite[start..start + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    assert_eq!(error(&infinite, &[]), format!("error: INIT: `{name}` holds a NaN or an infinity\n"));
    let cut = error(&good[..good.len() - 4], &[]);
    assert!(cut.starts_with("error: INIT: no safetensors file, or a damaged one: "), "{cut}");
    let other = error(&good, &["--set", "model.tower=[9]"]);
    assert!(other.contains("it is of another model"), "{other}");
    // Optimizer state is not needed.
    std::fs::write(&init, &good).unwrap();
    train("accepted", "cpu", &["--init", &init, "--set", "optimizer.dense.kind=sgd", "--max-steps", "1"]);
    let ended = tauten(&strs(&training("refused", "cpu", &["--init", &path("dataset")])));
    assert_eq!(ended.err, format!("error: {}: is a folder; name a safetensors file\n", path("dataset")));
    // A file that is not there is refused before anything is made.
    std::fs::remove_file(&init).unwrap();
    let ended = tauten(&strs(&training("refused", "cpu", &["--init", &init])));
    assert_eq!((ended.code, ended.err.starts_with(&format!("error: {init}: "))), (2, true), "{ended:?}");
    assert!(!place().join("refused").exists());
}

/// The losses of the first steps on every adapter are the CPU's.
fn same_losses(config: &Loaded, dataset: Dataset, steps: u64) {
    let wanted = first_steps(&config.config, &dataset, Choice::Cpu, steps).unwrap();
    assert_eq!(wanted.len() as u64, steps);
    for_each_adapter(|name, adapter| {
        let losses = first_steps(&config.config, &dataset, Choice::Gpu(Box::new(adapter())), steps).unwrap();
        assert_eq!(losses.len(), wanted.len());
        for (step, (a, b)) in losses.iter().zip(&wanted).enumerate() {
            assert!((a - b).abs() <= 1e-4 * b.abs(), "{name}, step {step}: {a} instead of {b}");
        }
    });
}

#[test]
fn first_losses_on_every_adapter() {
    for negatives in ["contrast.negatives=in-batch", "contrast.negatives=7"] {
        let config = Loaded::read(&place().join("c.toml"), &[negatives.into(), "contrast.mask=user".into()]).unwrap();
        same_losses(&config, Dataset::open(&place().join("dataset")).unwrap(), 4);
    }
}

#[test]
fn first_losses_of_every_encoder_on_every_adapter() {
    for encoder in ["single-task", "esmm", "shared-bottom", "mmoe", "ple", "cross-stitch", "aitm"] {
        let mut keys = vec![format!("model.encoder={encoder}"), "model.levels=2".into(), "model.hidden=[16, 12]".into()];
        // Adam divides what rounding leaves of small gradients by their size, so that paths part within 50 steps.
        keys.extend([
            "optimizer.embedding.kind=sgd".into(),
            "optimizer.dense.kind=sgd".into(),
            "optimizer.dense.lr=0.1".into(),
        ]);
        keys.extend(match encoder {
            "aitm" => vec!["loss.cvr=0".into()],
            "shared-bottom" => vec!["model.norm=batch".into()],
            "ple" => vec!["loss.cvr_kind=dr".into()],
            "esmm" => vec!["loss.cvr_kind=ipw".into()],
            _ => vec![],
        });
        let config = Loaded::read(&place().join("c.toml"), &keys).unwrap();
        same_losses(&config, Dataset::open(&place().join("dataset")).unwrap(), 50);
    }
}

#[test]
fn first_losses_on_a_real_log() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Some(data) = kuairand::folder() else { return };
    let overrides = [format!("data.root={}", data.display()), "train.batch_size=256".into()];
    let config = Loaded::read(&root.join("assets/kuairand.toml"), &overrides).unwrap();
    let dataset = prepare(&config, &place().join("kuairand"), &Progress::new(true)).unwrap();
    same_losses(&config, dataset, 3);
}

#[test]
fn early_stopping_and_the_best_checkpoint() {
    // Running statistics belong to what evaluation and a start from a file need.
    let norm = ["--set", "model.norm=batch"];
    let fast = ["--set", "optimizer.embedding.lr=0.3", "--set", "train.epochs=50", "--set", "train.patience=2"];
    train("early", "cpu", &[&norm[..], &fast, &["--set", "train.evaluate_every=4"]].concat());
    let lines = metrics("early");
    let mut best: Option<(f64, u64)> = None;
    let mut since = 0;
    for (i, line) in lines.iter().enumerate() {
        assert!(since < 2, "goes on after two evaluations without improvement");
        let (monitor, step) = (line["monitor"].as_f64().unwrap(), line["step"].as_u64().unwrap());
        let mean = (line["valid"]["ctr"]["auc"].as_f64().unwrap() + line["valid"]["ctcvr"]["auc"].as_f64().unwrap()) / 2.0;
        assert!((monitor - mean).abs() < 1e-12);
        let better = best.is_none_or(|(value, _)| monitor > value);
        assert_eq!(line["best"], better, "line {i}");
        (best, since) = if better { (Some((monitor, step)), 0) } else { (best, since + 1) };
    }
    assert_eq!(since, 2, "stops early");
    let last = Checkpoint::open(&place().join("early/last.safetensors")).unwrap().progress().unwrap();
    assert!(last.finished && last.position.epoch < 50);
    let (value, step) = best.unwrap();
    let saved = Checkpoint::open(&place().join("early/best.safetensors")).unwrap().progress().unwrap();
    assert_eq!((saved.step, saved.best.map(|b| (b.value, b.step))), (step, Some((value, step))));
    assert_eq!(last.best, saved.best);

    // The best parameters measure what the line of the best evaluation says: of the run, and of a run that starts from them.
    let line = lines.iter().find(|line| line["step"] == step).unwrap();
    let (init, early) = (path("early/best.safetensors"), path("early"));
    let evaluated = |run: &str| -> Value {
        let ended = well(tauten(&["evaluate", run, "--split", "valid", "--json", "--device", "cpu", "-q"]));
        serde_json::from_str(&ended.out).unwrap()
    };
    assert_eq!(evaluated(&early), line["valid"]);
    train("started", "cpu", &[&norm[..], &["--init", &init, "--max-steps", "0"]].concat());
    assert_eq!(evaluated(&path("started")), line["valid"]);

    train("epochs", "cpu", &["--set", "train.epochs=2"]);
    let epochs: Vec<Value> = metrics("epochs").iter().map(|line| line["epoch"].clone()).collect();
    assert_eq!(epochs, [1, 2]);
    assert_eq!(checkpoint_step("epochs"), Some(2 * EPOCH));
}

#[test]
fn what_does_not_belong_together_is_refused() {
    train("settled", "cpu", &["--max-steps", "1"]);
    let run = path("settled");
    let refused = |args: &[&str]| {
        let ended = tauten(args);
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{ended:?}");
        ended.err.replace(&place().display().to_string(), "PLACE")
    };
    let again = refused(&strs(&training("settled", "cpu", &[])));
    insta::assert_snapshot!(again, @"error: PLACE/settled: exists; name another folder with --out, or go on with that run by --resume PLACE/settled");
    let other = path("other.toml");
    std::fs::write(&other, CONFIG.replace("seed = 5", "seed = 6")).unwrap();
    let config = refused(&["train", &other, "--resume", &run, "--device", "cpu"]);
    insta::assert_snapshot!(config, @"error: PLACE/other.toml differs from PLACE/settled/config.toml: a resumed run keeps its configuration; leave the first out");
    resume("settled", "cpu", &["--max-steps", "2", &path("c.toml")]);

    // The same configuration over other rows, put where the run found its dataset.
    let (log, data) = (place().join("moved-log"), path("moved"));
    simulate(2000, 4, &log, Format::Parquet, &mut |_| ()).unwrap();
    let prepare_from = |root: &Path| {
        let root = format!("data.root={}", root.display());
        prepare(&Loaded::read(&place().join("c.toml"), &[root]).unwrap(), Path::new(&data), &Progress::new(true)).unwrap();
    };
    prepare_from(&place().join("log"));
    let args =
        ["train", &path("c.toml"), "--data", &data, "--out", &path("on-moved"), "--device", "cpu", "-q", "--max-steps", "1"];
    well(tauten(&args));
    prepare_from(&log);
    let changed = "error: PLACE/moved: not the dataset that PLACE/on-moved was trained on (its fingerprint differs); name that one \
                   with --data\n";
    assert_eq!(refused(&["train", "--resume", &path("on-moved"), "--device", "cpu"]), changed);
    assert_eq!(refused(&["evaluate", &path("on-moved"), "--device", "cpu"]), changed);
    resume("on-moved", "cpu", &["--max-steps", "2", "--data", &path("dataset")]);
    let elsewhere =
        well(tauten(&["evaluate", &path("on-moved"), "--data", &path("dataset"), "--device", "cpu", "-q", "--json"]));
    assert!(elsewhere.out.contains("\"rows\": 200"), "{elsewhere:?}");
}

#[cfg(unix)]
#[test]
fn checkpoints_are_as_readable_as_other_files() {
    use std::os::unix::fs::PermissionsExt;
    train("readable", "cpu", &["--set", "train.epochs=1"]);
    let mode = |name: &str| std::fs::metadata(place().join("readable").join(name)).unwrap().permissions().mode();
    for name in ["last.safetensors", "best.safetensors", "metrics.jsonl"] {
        assert_eq!(mode(name), mode("config.toml"), "{name}");
    }
}
