//! `tauten compare`: every variant under every seed, what is kept, what is run again, and the tables.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

#[path = "common/command.rs"]
mod process;

use process::{Ended, command, home, tauten};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::Duration;
use tauten::data::simulate::simulate;
use tauten::data::write::Format;

/// 1600 training rows: 12 minibatches and a short one of 64 rows.
const CONFIG: &str = concat!(
    "\n",
    include_str!("common/log.toml"),
    r#"[optimizer]
dense.lr = 0.01
embedding.lr = 0.01
[train]
batch_size = 128
epochs = 2
"#
);

const SUITE: &str = r#"
config = "c.toml"
seeds = [1, 2]
baseline = "off"
set = { "train.evaluate_batch_size" = 256 }

[[model]]
name = "off"
set = { "contrast.temperature" = "off" }

[[model]]
name = "aligned"
set.contrast = { width = 8, hidden = [8] }
set.model.norm = "batch"
grid = { "contrast.temperature" = [0.2, "instance"] }
"#;

/// A model whose loss is no number after the first step.
const BROKEN: &str = "[[model]]\nname = \"broken\"\nset.optimizer.dense.lr = 1e30\n";

/// The folder with `c.toml`, its `log` and two suites.
fn place() -> &'static Path {
    static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
        let place = home("compare");
        simulate(2000, 3, &place.join("log"), Format::Parquet, &mut |_| ()).unwrap();
        std::fs::write(place.join("c.toml"), CONFIG).unwrap();
        std::fs::write(place.join("s.toml"), SUITE).unwrap();
        std::fs::write(place.join("broken.toml"), format!("{SUITE}{BROKEN}")).unwrap();
        place
    });
    &PLACE
}

fn path(name: &str) -> String {
    place().join(name).display().to_string()
}

fn compare(suite: &str, out: &str, more: &[&str]) -> Ended {
    let (suite, out) = (path(suite), path(out));
    tauten(&[&["compare", &suite, "--out", &out, "--device", "cpu"], more].concat())
}

fn well(ended: Ended) -> Ended {
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{ended:?}");
    ended
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(place().join(name)).unwrap()).unwrap()
}

/// All runs' results by their files' names and when those were written.
fn results(out: &str) -> Vec<(String, Vec<u8>, std::time::SystemTime)> {
    let pattern = place().join(out).join("runs/*/*/result.json").display().to_string();
    let files = glob::glob(&pattern).unwrap().map(Result::unwrap);
    files
        .map(|f| (f.display().to_string(), std::fs::read(&f).unwrap(), std::fs::metadata(&f).unwrap().modified().unwrap()))
        .collect()
}

/// A result without what depends on the clock.
fn timeless(mut result: Value) -> Value {
    result.as_object_mut().unwrap().remove("seconds").unwrap();
    result
}

#[test]
fn tables_and_what_is_run_again() {
    let first = compare("s.toml", "whole", &[]);
    assert_eq!(first.code, 0, "{first:?}");
    let told: Vec<&str> = first.err.lines().collect();
    assert_eq!(told.len(), 7, "{first:?}");
    assert!(told[0].starts_with("device: cpu (") && told[1].starts_with("1 of 6: off, seed 1: test AUC ctr 0."), "{first:?}");
    assert!(told[6].starts_with("6 of 6: aligned contrast.temperature=instance, seed 2: test AUC "), "{first:?}");
    let table = json("whole/table.json");
    let variants = table["variants"].as_array().unwrap();
    let names: Vec<&str> = variants.iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["off", "aligned contrast.temperature=0.2", "aligned contrast.temperature=instance"]);
    assert!(names.iter().all(|name| first.out.contains(name)), "{first:?}");
    assert_eq!((&table["split"], &table["baseline"], &table["seeds"]), (&"test".into(), &"off".into(), &vec![1, 2].into()));

    // A row is what `tauten evaluate` says of its runs.
    for (folder, row) in
        ["off", "aligned-contrast.temperature-0.2", "aligned-contrast.temperature-instance"].iter().zip(variants)
    {
        let runs = [1, 2].map(|seed| path(&format!("whole/runs/{folder}/seed-{seed}")));
        let auc = runs.each_ref().map(|run| {
            let text = well(tauten(&["evaluate", run, "--device", "cpu", "--json", "-q"])).out;
            let evaluation: Value = serde_json::from_str(&text).unwrap();
            let kept: Value = serde_json::from_slice(&std::fs::read(Path::new(run).join("result.json")).unwrap()).unwrap();
            assert_eq!(evaluation, kept["evaluation"]);
            evaluation["ctcvr"]["auc"].as_f64().unwrap()
        });
        let spread = &row["ctcvr"]["auc"];
        assert!((spread["mean"].as_f64().unwrap() - (auc[0] + auc[1]) / 2.0).abs() < 1e-12);
        assert!((spread["std"].as_f64().unwrap() - (auc[0] - auc[1]).abs() / 2f64.sqrt()).abs() < 1e-12);
        let p = &row["ctcvr"]["auc_gap"]["p"];
        assert!(if *folder == "off" { p.is_null() } else { (0.0..=1.0).contains(&p.as_f64().unwrap()) });
        assert!(row["seconds_per_epoch"].as_f64().unwrap() > 0.0);
        // Learned are all arrays of a checkpoint but the optimizer's and the running statistics.
        let file = std::fs::read(Path::new(&runs[0]).join("best.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert_eq!(file.names().iter().any(|name| name.ends_with(".norm.running_var")), *folder != "off");
        let count = |counted: &dyn Fn(&str) -> bool| -> usize {
            let learned = |name: &str| !name.starts_with("optimizer.") && !name.contains(".norm.running_");
            let arrays = file.iter().filter(|(name, _)| learned(name) && counted(name));
            arrays.map(|(_, view)| view.shape().iter().product::<usize>()).sum()
        };
        assert_eq!(row["parameters"], count(&|_| true));
        assert_eq!(row["dense_parameters"], count(&|name| !name.starts_with("embedding.")));
    }
    for (name, holds) in
        [("table.md", "| variant | CTR | CVR (clicked rows) | CTCVR |"), ("table.csv", "variant,runs,ctr_auc,")]
    {
        let text = std::fs::read_to_string(place().join("whole").join(name)).unwrap();
        assert!(text.contains(holds), "{text}");
    }

    // What is there is kept, and --json prints what the file holds.
    let kept = results("whole");
    assert_eq!(kept.len(), 6);
    let again = well(compare("s.toml", "whole", &["--resume", "--json", "-q"]));
    assert_eq!(again.out, std::fs::read_to_string(place().join("whole/table.json")).unwrap());
    assert_eq!((results("whole"), json("whole/table.json")), (kept, table.clone()));

    // A run without a result is measured again, one that is gone is trained again, a half-done one goes on: all to the same numbers.
    let runs = ["off/seed-2", "aligned-contrast.temperature-0.2/seed-1", "off/seed-1"].map(|run| format!("whole/runs/{run}"));
    let timeless_results = || runs.each_ref().map(|run| timeless(json(&format!("{run}/result.json"))));
    let before = timeless_results();
    let [measured, gone, half] = &runs;
    std::fs::remove_file(place().join(measured).join("result.json")).unwrap();
    std::fs::remove_dir_all(place().join(gone)).unwrap();
    std::fs::remove_dir_all(place().join(half)).unwrap();
    let (config, data, out) = (path("c.toml"), path("whole/dataset"), path(half));
    let sets = ["--set", "contrast.temperature=off", "--set", "train.evaluate_batch_size=256", "--max-steps", "7"];
    well(tauten(&[&["train", &config, "--data", &data, "--out", &out, "--device", "cpu", "-q"], &sets[..]].concat()));
    well(compare("s.toml", "whole", &["--resume", "-q"]));
    assert_eq!(timeless_results(), before);
    let seconds = runs.each_ref().map(|run| json(&format!("{run}/result.json"))["seconds"].is_null());
    assert_eq!(seconds, [true, false, true]);
    assert_eq!(json("whole/table.json")["variants"][1]["ctr"], table["variants"][1]["ctr"]);
}

#[test]
fn a_run_that_fails_does_not_stop_the_others() {
    let ended = compare("broken.toml", "broken", &["--json", "--set", "train.epochs=1"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert_eq!(ended.err.lines().count(), 9, "{ended:?}");
    assert!(ended.err.contains("4 of 8: broken, seed 1: failed: step 2 (epoch 1): the loss is NaN or infinite"), "{ended:?}");
    let table: Value = serde_json::from_str(&ended.out).unwrap();
    let row = &table["variants"][3];
    assert_eq!((&row["runs"], &row["ctr"]["auc"], &row["ctr"]["auc_gap"]), (&0.into(), &Value::Null, &Value::Null));
    assert!(row["failed"][1]["error"].as_str().unwrap().starts_with("step 2 (epoch 1): the loss is NaN or infinite"));
    assert!((0..3).all(|v| table["variants"][v]["runs"] == 2));
    let text = std::fs::read_to_string(place().join("broken/table.md")).unwrap();
    assert!(text.contains("- broken, seed 2: failed: step 2 "), "{text}");
    // Without that model all is well.
    well(compare("s.toml", "broken", &["--resume", "-q", "--set", "train.epochs=1"]));
}

#[test]
fn what_does_not_belong_together_is_refused() {
    well(compare("s.toml", "settled", &["-q", "--set", "train.epochs=1", "--set", "contrast.temperature=off"]));
    let refused = |args: &[&str]| {
        let ended = compare("s.toml", "settled", &[args, &["-q"]].concat());
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{ended:?}");
        ended.err.replace(&place().display().to_string(), "PLACE")
    };
    insta::assert_snapshot!(refused(&[]), @"error: PLACE/settled: exists; name another folder with --out, or go on with that one by --resume");
    insta::assert_snapshot!(refused(&["--resume"]), @"error: PLACE/settled/suite.json: made with train.epochs 1 for the variant `off`, but the suite has 2; give the variant another name, or name another folder with --out");
    insta::assert_snapshot!(refused(&["--resume", "--set", "data.test=[]"]), @"error: PLACE/settled/suite.json: made to measure on test, but the suite says valid; name another folder with --out");
    let same = ["--resume", "--set", "train.epochs=1", "--set", "contrast.temperature=off"];
    let with_gauc = refused(&[&same[..], &["--set", "evaluate.gauc=user"]].concat());
    insta::assert_snapshot!(with_gauc, @r#"error: PLACE/settled/suite.json: made with evaluate.gauc unset for the variant `off`, but the suite has "user"; give the variant another name, or name another folder with --out"#);
    let lock = std::fs::File::open(path("settled/lock")).unwrap();
    lock.lock().unwrap();
    insta::assert_snapshot!(refused(&same), @"error: PLACE/settled: another process is working on this comparison; wait for it, or end it");
    drop(lock);
    let record = std::fs::read_to_string(path("settled/suite.json")).unwrap();
    std::fs::write(path("settled/suite.json"), record.replacen("\"fingerprint\": \"", "\"fingerprint\": \"0", 1)).unwrap();
    insta::assert_snapshot!(refused(&same), @"error: PLACE/settled/suite.json: made with another dataset than PLACE/settled/dataset (its fingerprint differs); name another folder with --out");
    std::fs::write(path("settled/suite.json"), "{").unwrap();
    assert!(refused(&same).ends_with("; name another folder with --out\n"));

    // What could not begin may be mended.
    let short = ["-q", "--set", "train.epochs=1"];
    let too_long = ["--set", r#"optimizer.schedule={ kind = "cosine", warmup_steps = 5000 }"#];
    let ended = compare("s.toml", "mended", &[&short[..], &too_long].concat());
    assert!(ended.code == 1 && ended.out.contains("lower it"), "{ended:?}");
    well(compare("s.toml", "mended", &[&short[..], &["--resume"]].concat()));

    let out = path("folder");
    std::fs::create_dir_all(&out).unwrap();
    let ended = compare("s.toml", "folder", &["--resume", "-q"]);
    insta::assert_snapshot!(ended.err.replace(&out, "OUT"), @"error: OUT: no comparison's folder (it has no suite.json); `tauten compare` without --resume makes one");
    let ended = compare("s.toml", "none", &["--set", "data.root=/nowhere"]);
    assert_eq!((ended.code, place().join("none").exists()), (2, false), "{ended:?}");
}

#[cfg(unix)]
#[test]
fn interrupted() {
    // Endless, so that the signal always comes in time.
    let endless = ["--set", "train.epochs=1000000", "--set", "train.patience=1000000", "--set", "train.checkpoint_every=3"];
    let (suite, out) = (path("s.toml"), path("interrupted"));
    let args = [&["compare", &suite, "--out", &out, "--device", "cpu", "-q"], &endless[..]].concat();
    let mut child = command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let last = place().join("interrupted/runs/off/seed-1/last.safetensors");
    while !last.exists() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(1));
    }
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let sets: String = endless.chunks(2).map(|set| format!(" --set {}", set[1])).collect();
    let go_on = format!(
        "{out}: interrupted after 0 of 6 runs\ngo on: tauten compare {suite} --resume --out {out}{sets} --device cpu\n"
    );
    assert_eq!(text, go_on);
}
