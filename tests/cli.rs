//! The command line: what it says when something is wrong, what it writes where, and what predictions and metrics it gives.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

#[path = "common/command.rs"]
mod process;

use process::{Ended, command, home, tauten};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use tauten::data::input::{Block, Kind, Reader};
use tauten::data::simulate::simulate;
use tauten::data::write::{Column, Format, TableWriter};
use tauten::metrics::auc;

const CONFIG: &str = concat!(
    include_str!("common/log.toml"),
    r#"[optimizer]
dense.lr = 0.01
embedding.lr = 0.01
embedding.kind = "adam"
[train]
batch_size = 256
epochs = 1
"#
);

/// A log of 4800, 600 and 600 rows in Parquet and in CSV, a run with an instance temperature, one without contrast and test, and one that is
/// evaluated in small minibatches.
fn place() -> &'static Path {
    static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
        let place = home("cli");
        simulate(6000, 3, &place.join("log"), Format::Parquet, &mut |_| ()).unwrap();
        simulate(6000, 3, &place.join("log-csv"), Format::Csv, &mut |_| ()).unwrap();
        std::fs::write(place.join("c.toml"), CONFIG).unwrap();
        for (run, more) in [
            ("run", &[][..]),
            ("off", &["--set", "contrast.temperature=off", "--set", "data.test=[]"]),
            ("fine", &["--set", "train.evaluate_batch_size=700"]),
        ] {
            let (config, run) = (place.join("c.toml").display().to_string(), place.join(run).display().to_string());
            well(tauten(&[&["train", &config, "--out", &run, "--device", "cpu", "-q"], more].concat()));
        }
        place
    });
    &PLACE
}

fn path(name: &str) -> String {
    place().join(name).display().to_string()
}

fn well(ended: Ended) -> Ended {
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{ended:?}");
    ended
}

/// Exit code and standard error of what must fail without a result; the folder of the tests as PLACE.
fn error(args: &[&str]) -> String {
    let ended = tauten(args);
    assert!(ended.code != 0 && ended.out.is_empty(), "{ended:?}");
    format!("{}: {}", ended.code, ended.err.replace(&place().display().to_string(), "PLACE"))
}

/// The error of preparing the configuration `text` with input files of these names and contents, their folder as DIR.
fn prepare_error(text: &str, files: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    std::fs::write(&config, text).unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let out = folder.path().join("out");
    let text = error(&["prepare", &config.display().to_string(), "--out", &out.display().to_string(), "-q"]);
    assert!(!out.exists());
    assert_eq!(text.lines().count(), 1, "{text}");
    text.replace(&folder.path().display().to_string(), "DIR")
}

/// All cells of a table by column, and the columns' kinds.
fn table(name: &str, columns: &[&str]) -> (BTreeMap<String, Vec<String>>, Vec<Kind>) {
    let wanted: Vec<String> = columns.iter().map(|c| c.to_string()).collect();
    let mut reader = Reader::open(&place().join(name), &wanted).unwrap();
    let kinds = reader.kinds().to_vec();
    let mut cells: BTreeMap<String, Vec<String>> = wanted.iter().map(|name| (name.clone(), Vec::new())).collect();
    let mut block = Block::default();
    while reader.next(&mut block).unwrap() {
        for (name, column) in wanted.iter().zip(&block.columns) {
            cells.get_mut(name).unwrap().extend((0..block.rows).map(|row| column.cell(row).to_string()));
        }
    }
    (cells, kinds)
}

fn numbers(cells: &[String]) -> Vec<f64> {
    cells.iter().map(|cell| cell.parse().unwrap()).collect()
}

/// Predicts with the run `run` from files of the place into one of it.
fn predict(run: &str, inputs: &[&str], out: &str, more: &[&str]) -> Ended {
    let (run, out) = (path(run), path(out));
    let inputs: Vec<String> = inputs.iter().map(|name| path(name)).collect();
    let mut args = vec!["predict", &run, "--out", &out, "--device", "cpu", "-q"];
    args.extend(more);
    args.extend(inputs.iter().map(String::as_str));
    tauten(&args)
}

#[test]
fn help_tells_of_every_flag() {
    let common = ["--help", "--quiet"];
    for (name, flags) in [
        ("demo", &["--out", "--rows", "--seed", "--device"][..]),
        ("simulate", &["--rows", "--seed", "--out", "--format"]),
        ("prepare", &["<CONFIG>", "--out", "--set", "--json"]),
        ("train", &["[CONFIG]", "--data", "--out", "--device", "--set", "--seed", "--max-steps", "--init", "--resume"]),
        ("evaluate", &["<RUN>", "--split", "--data", "--checkpoint", "--device", "--json"]),
        ("compare", &["<SUITE>", "--out", "--resume", "--device", "--set", "--json"]),
        (
            "profile",
            &["[CONFIG]", "--data", "--device", "--steps", "--mode", "--out", "--kernel", "--shape", "--set", "--json"],
        ),
        ("tune", &["[CONFIG]", "--device", "--steps", "--out", "--set", "--json"]),
        ("predict", &["<RUN>", "<INPUTS>...", "--out", "--keep", "--checkpoint", "--device"]),
    ] {
        let ended = well(tauten(&[name, "--help"]));
        for flag in flags.iter().chain(&common) {
            assert!(ended.out.contains(flag), "{name} {flag}: {}", ended.out);
        }
        assert!(well(tauten(&["--help"])).out.contains(&format!("\n  {name} ")), "{name}");
    }
    let none = tauten(&[]);
    assert_eq!((none.code, none.out.as_str()), (2, ""));
    assert!(none.err.contains("Usage: tauten <COMMAND>"), "{none:?}");
    assert_eq!(well(tauten(&["--version"])).out, format!("tauten {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_arguments() {
    let config = path("c.toml");
    insta::assert_snapshot!(error(&["trian"]).lines().next().unwrap(), @"2: error: unrecognized subcommand 'trian'");
    insta::assert_snapshot!(error(&["train"]).lines().take(2).collect::<String>(), @"2: error: the following required arguments were not provided:  <CONFIG>");
    insta::assert_snapshot!(error(&["train", &config, "--max-steps", "few"]).lines().next().unwrap(), @"2: error: invalid value 'few' for '--max-steps <N>': invalid digit found in string");
    insta::assert_snapshot!(error(&["train", "--resume", "r", "--set", "seed=1"]).lines().next().unwrap(), @"2: error: the argument '--resume <RUN>' cannot be used with '--set <KEY.PATH=VALUE>'");
    insta::assert_snapshot!(error(&["evaluate", "r", "--split", "tset"]).lines().next().unwrap(), @"2: error: invalid value 'tset' for '--split <SPLIT>': expected `train`, `valid` or `test`");
    insta::assert_snapshot!(error(&["train", &config, "--set", "seed"]), @"2: error: --set seed: no `=`; write --set key.path=value");
    insta::assert_snapshot!(error(&["train", &config, "--set", "train.epochs=0"]), @"2: error: --set train.epochs=0: key `train.epochs` is 0; it must be at least 1");
    insta::assert_snapshot!(error(&["train", &config, "--set", "model.encoder=mmo"]), @"2: error: --set model.encoder=mmo: key `model.encoder` is `mmo`; expected one of single-task, esmm, shared-bottom, mmoe, ple, cross-stitch, aitm; did you mean `mmoe`?");
    insta::assert_snapshot!(error(&["train", &path("none.toml")]), @"2: error: PLACE/none.toml: No such file or directory (os error 2)");
    insta::assert_snapshot!(error(&["simulate", "--rows", "9", "--out", &path("few"), "-q"]), @"2: error: 9 rows to simulate are too few for three splits; ask for 10 at least");
    insta::assert_snapshot!(error(&["simulate", "--rows", "99", "--out", &path("log"), "-q"]), @"2: error: PLACE/log: the folder is not empty; name a new one");
    insta::assert_snapshot!(error(&["demo", "--rows", "99", "--out", &path("log"), "--device", "cpu", "-q"]), @"2: error: PLACE/log: the folder is not empty; name a new one with --out");
    insta::assert_snapshot!(error(&["train", &config, "--seed", "18446744073709551615"]), @"2: error: --set seed=18446744073709551615: whole numbers go up to 9223372036854775807");
    insta::assert_snapshot!(error(&["prepare", &config, "--out", &path("run"), "-q"]), @"2: error: PLACE/run: exists and is no Tauten dataset; name another folder or remove it first");
}

#[test]
fn wrong_devices() {
    let args = |device: &'static str| ["train".to_string(), path("c.toml"), "--device".into(), device.into(), "-q".into()];
    let error = |device| {
        let args = args(device);
        let text = error(&args.each_ref().map(String::as_str));
        assert_eq!(text.lines().count(), 1, "{text}");
        let adapters = tauten::device::gpu::Adapter::all();
        let named = adapters.iter().all(|a| text.contains(&a.describe()));
        assert!(named, "{text}");
        // What there is differs from one machine to the next.
        let list = if adapters.is_empty() { "no adapter at all was found; `--device cpu` always works" } else { "there are: " };
        let at = text.find(list).unwrap();
        assert!(adapters.is_empty() || text.ends_with("; or `cpu`\n"), "{text}");
        text[..at].to_string()
    };
    insta::assert_snapshot!(error(""), @"2: error: --device is empty; ");
    insta::assert_snapshot!(error("voodoo2"), @"2: error: --device voodoo2: no adapter has this in its name; ");
    // Before anything is measured.
    if let Some(adapter) = tauten::device::gpu::Adapter::all().first() {
        let text = self::error(&["tune", "--out", &path("log"), "--device", adapter.name(), "-q"]);
        assert_eq!(text, "2: error: PLACE/log: is a folder; name a file\n");
    }
    if tauten::device::gpu::Adapter::all().iter().all(|a| a.rank().is_none()) {
        insta::assert_snapshot!(error("gpu"), @"2: error: --device gpu: there is no hardware GPU; ");
    }
}

#[test]
fn wrong_configurations_and_data() {
    let config =
        "[data]\ntrain = [\"t.csv\"]\nvalid = [\"v.csv\"]\n[features]\ncategorical = [\"user\"]\nnumeric = [\"age\"]\n";
    let good = "user,age,click,conversion\nu1,3,1,0\nu2,,0,0\n";
    let data = |train: &str| prepare_error(config, &[("t.csv", train), ("v.csv", good)]);
    let text = |more: &str| prepare_error(&format!("{config}{more}"), &[("t.csv", good), ("v.csv", good)]);
    insta::assert_snapshot!(text("[model\n"), @"2: error: DIR/c.toml:7: no TOML: unclosed table, expected `]`");
    insta::assert_snapshot!(text("[train]\nbatchsize = 3\n"), @"2: error: DIR/c.toml:8: key `train.batchsize` is unknown; expected one of batch_size, epochs, patience, monitor, evaluate_every, checkpoint_every, evaluate_batch_size, memory_mib, activation_storage, cooperative_matrices; did you mean `batch_size`?");
    insta::assert_snapshot!(text("[train]\nmonitor = \"auc\"\n"), @"2: error: DIR/c.toml:8: key `train.monitor` is `auc`; expected one of mean-auc, ctr-auc, cvr-auc, ctcvr-auc, log-loss");
    insta::assert_snapshot!(text("[train]\n\nepochs = \"two\"\n"), @r#"2: error: DIR/c.toml:9: key `train.epochs` is string "two"; expected a whole number, 0 or above"#);
    insta::assert_snapshot!(data("user,age,click,conversion\nu1,3,2,0\n"), @r#"2: error: DIR/t.csv: row 1 (line 2): label `click` is "2"; labels must be 0 or 1"#);
    insta::assert_snapshot!(data("user,age,click,conversion\nu1,3,1,0\nu1,3,1\n"), @"2: error: DIR/t.csv: row 2 (line 3): 3 cells, but the header has 4; mend the row (a cell with a comma needs quotes)");
    insta::assert_snapshot!(data("user,age,click,conversion\nu1,old,1,0\n"), @r#"2: error: DIR/t.csv: row 1 (line 2): column `age` holds "old", not a number; mend it or list the column under features.categorical"#);
    insta::assert_snapshot!(data("user,age,click,conversion\nu1,3,0,1\n"), @r#"2: error: DIR/t.csv: row 1 (line 2): `conversion` is 1 where `click` is 0, in 1 row of data.train altogether; mend them or set data.invalid_labels to "drop" or "click""#);
    insta::assert_snapshot!(data("user,click,conversion\nu1,1,0\n"), @"2: error: DIR/t.csv: no column `age`; the columns are user, click, conversion");
    insta::assert_snapshot!(data("user,age,click,conversion\n"), @"2: error: data.train: no rows in DIR/t.csv");
    insta::assert_snapshot!(prepare_error(config, &[("t.csv", good)]), @"2: error: DIR/c.toml: data.valid: `v.csv` matches no file in DIR; check the pattern and data.root");
}

/// An interrupt leaves the dataset that is there, and nothing of the one that was to replace it.
#[cfg(unix)]
#[test]
fn interrupted_prepare() {
    let folder = place().join("interrupted");
    std::fs::create_dir_all(folder.join("long")).unwrap();
    for i in 0..200 {
        std::fs::hard_link(place().join("log-csv/train.csv"), folder.join(format!("long/{i}.csv"))).unwrap();
    }
    let (config, out, long) = (path("c.toml"), path("interrupted/out"), r#"data.train=["../interrupted/long/*.csv"]"#);
    let args = ["prepare", &config, "--out", &out, "-q", "--set", long];
    well(tauten(&args[..5]));
    let mut child = command(&args).spawn().unwrap();
    let names = || std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    while names().len() < 3 {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut left = names();
    left.sort();
    assert_eq!(left, ["long", "out"]);
    assert!(folder.join("out/manifest.json").exists());
}

/// An interrupt of predict leaves nothing beside its output.
#[cfg(unix)]
#[test]
fn interrupted_predict() {
    let (folder, log, run) = (place().join("interrupted-predict"), path("log/test.parquet"), path("run"));
    std::fs::create_dir_all(&folder).unwrap();
    let out = path("interrupted-predict/o.csv");
    let args = [vec!["predict", &run, "--out", &out, "--device", "cpu", "-q"], vec![&*log; 2000]].concat();
    let mut child = command(&args).spawn().unwrap();
    let left = || std::fs::read_dir(&folder).unwrap().count();
    while left() == 0 {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!((child.wait().unwrap().code(), left()), (Some(130), 0));
}

#[test]
fn runs_that_are_none_or_lack_something() {
    std::fs::create_dir_all(place().join("folder")).unwrap();
    let folder = path("folder");
    for args in [
        &["evaluate", &folder][..],
        &["predict", &folder, &path("log/test.parquet"), "--out", "o.csv"],
        &["train", "--resume", &folder],
    ] {
        // Before any device is looked for.
        assert_eq!(error(args), "2: error: PLACE/folder: no run's folder (it has no run.json); `tauten train` makes one\n");
    }
    let (run, off) = (path("run"), path("off"));
    let evaluate = |run: &str, more: &[&str]| error(&[&["evaluate", run, "--device", "cpu", "-q"], more].concat());
    insta::assert_snapshot!(evaluate(&off, &[]), @"2: error: the dataset has no test split; name its files as data.test and prepare again");
    insta::assert_snapshot!(evaluate(&run, &["--data", &folder]), @"2: error: PLACE/folder: no Tauten dataset (it has no manifest.json); run `tauten prepare`");
    insta::assert_snapshot!(evaluate(&run, &["--checkpoint", &path("c.toml")]).split(": no safe").next().unwrap(), @"2: error: PLACE/c.toml");
    insta::assert_snapshot!(evaluate(&run, &["--checkpoint", &path("off/best.safetensors")]).split(" has no ").last().unwrap().split("`; ").last().unwrap(), @"it is of another model");
}

#[test]
fn evaluate_as_json_and_as_text() {
    let keys = |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    for (run, split, rows) in [("run", "test", 600), ("run", "train", 4800), ("off", "valid", 600)] {
        let run_path = path(run);
        let args = ["evaluate", &run_path, "--split", split, "--device", "cpu"];
        let ended = well(tauten(&[&args[..], &["--json", "-q"]].concat()));
        let value: Value = serde_json::from_str(&ended.out).unwrap();
        assert_eq!(keys(&value), ["ctcvr", "ctr", "cvr", "rows", "split", "tau"]);
        assert_eq!((&value["split"], &value["rows"]), (&Value::from(split), &Value::from(rows)));
        for task in ["ctr", "cvr", "ctcvr"] {
            assert_eq!(keys(&value[task]), ["auc", "ece", "log_loss", "pcoc", "rows"]);
            assert!((0.0..=1.0).contains(&value[task]["auc"].as_f64().unwrap()));
        }
        assert_eq!((&value["ctr"]["rows"], &value["ctcvr"]["rows"]), (&value["rows"], &value["rows"]));
        assert!(value["cvr"]["rows"].as_u64() < value["rows"].as_u64());
        if run == "off" {
            assert_eq!(value["tau"], Value::Null);
        } else {
            assert_eq!(keys(&value["tau"]), ["at_bound", "mean", "p5", "p50", "p95", "spearman_pcvr", "std"]);
        }
        // Progress goes elsewhere and changes nothing; without --json a person reads the same.
        let loud = tauten(&[&args[..], &["--json"]].concat());
        assert_eq!((loud.code, &loud.out), (0, &ended.out));
        assert!(loud.err.starts_with("device: cpu") && loud.err.contains("\nparameters: "), "{loud:?}");
        let text = well(tauten(&[&args[..], &["-q"]].concat())).out;
        assert!(text.starts_with(&format!("{split}: {rows} rows\n")), "{text}");
        assert!(text.contains(&format!("{:.5}", value["ctr"]["auc"].as_f64().unwrap())), "{text}");
    }
}

#[test]
fn progress_and_results_go_apart() {
    let (config, data) = (path("c.toml"), path("run/dataset"));
    let args =
        |out: &str| ["train", &config, "--data", &data, "--out", out, "--device", "cpu", "--max-steps", "2"].map(String::from);
    let (loud, quiet) = (path("loud"), path("quiet"));
    let loud = tauten(&args(&loud).each_ref().map(String::as_str));
    assert_eq!(loud.code, 0);
    assert!(loud.err.starts_with("device: cpu (") && loud.err.contains("plan: "), "{loud:?}");
    let quiet = well(tauten(&[&args(&quiet).each_ref().map(String::as_str)[..], &["-q"]].concat()));
    assert_eq!(loud.out.replace("loud", "quiet"), quiet.out);
    let out = quiet.out.replace(&place().display().to_string(), "PLACE");
    insta::assert_snapshot!(out, @r"
    PLACE/quiet: stopped at step 2: not evaluated yet
    go on: tauten train --resume PLACE/quiet --device cpu
    ");
    let prepared = well(tauten(&["prepare", &config, "--out", &path("prepared"), "-q", "--json"]));
    assert!(serde_json::from_str::<Value>(&prepared.out).unwrap()["fingerprint"].is_string());
}

#[test]
fn wrong_predictions() {
    let (run, test) = (path("run"), path("log/test.parquet"));
    let predict = |input: &str, out: &str, more: &[&str]| {
        error(&[&["predict", &run, input, "--out", &path(out), "--device", "cpu", "-q"], more].concat())
    };
    insta::assert_snapshot!(predict(&test, "o.txt", &[]), @"2: error: PLACE/o.txt: unknown ending; the file's name must end in .parquet or .csv");
    insta::assert_snapshot!(predict(&test, "no/o.csv", &[]), @"2: error: PLACE/no/o.csv: there is no folder PLACE/no; make it first");
    std::fs::create_dir_all(place().join("folder.csv")).unwrap();
    insta::assert_snapshot!(predict(&test, "folder.csv", &[]), @"2: error: PLACE/folder.csv: is a folder; name a file");
    insta::assert_snapshot!(predict(&test, "o.csv", &["--keep", "click,user,click"]), @"2: error: --keep click: the output would have two columns of this name");
    insta::assert_snapshot!(predict(&test, "o.csv", &["--keep", "tau"]), @"2: error: --keep tau: the output would have two columns of this name");
    insta::assert_snapshot!(predict(&test, "o.csv", &["--keep", "clik"]), @"2: error: PLACE/log/test.parquet: no column `clik`; the columns are user, item, segment, category, hour, device, slot, price, recency, click, conversion");
    insta::assert_snapshot!(predict(&path("log/none.csv"), "o.csv", &[]), @"2: error: PLACE/log/none.csv: No such file or directory (os error 2)");
    insta::assert_snapshot!(predict(&path("log/truth.json"), "o.csv", &[]), @"2: error: PLACE/log/truth.json: no known kind of file; its name must end in .csv, .csv.gz or .parquet");
    std::fs::write(place().join("narrow.csv"), "user,item\n1,2\n").unwrap();
    insta::assert_snapshot!(predict(&path("narrow.csv"), "o.csv", &[]), @"2: error: PLACE/narrow.csv: no column `segment`; the columns are user, item");
    assert!(!place().join("o.csv").exists());
}

#[test]
fn an_input_is_no_output() {
    let rows = std::fs::read(place().join("log-csv/test.csv")).unwrap();
    std::fs::write(place().join("own.csv"), &rows).unwrap();
    let own = predict("run", &["log/test.parquet", "own.csv"], "own.csv", &[]);
    let text = own.err.replace(&place().display().to_string(), "PLACE");
    insta::assert_snapshot!(text, @"error: --out PLACE/own.csv: is the input PLACE/own.csv; name another file");
    let mut others = vec![predict("run", &["own.csv"], "log/../own.csv", &[])];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(place().join("own.csv"), place().join("link.csv")).unwrap();
        others.push(predict("run", &["own.csv"], "link.csv", &[]));
        others.push(predict("run", &["link.csv"], "own.csv", &[]));
    }
    for ended in others {
        assert!(ended.code == 2 && ended.err.contains(": is the input "), "{ended:?}");
    }
    assert_eq!(std::fs::read(place().join("own.csv")).unwrap(), rows);
}

#[test]
fn a_valid_split_without_the_monitored_metric_is_refused() {
    let text = std::fs::read_to_string(place().join("log-csv/valid.csv")).unwrap();
    let unclicked = text.lines().enumerate().filter(|(i, line)| *i == 0 || line.ends_with(",0,0"));
    let lines: Vec<&str> = unclicked.map(|(_, line)| line).take(11).collect();
    std::fs::write(place().join("log/unclicked.csv"), lines.join("\n")).unwrap();
    let (config, out) = (path("c.toml"), path("unclicked"));
    let args = |monitor| {
        let set = ["--set", "data.valid=[\"unclicked.csv\"]", "--set", monitor];
        [&["train", &config, "--out", &out, "--device", "cpu", "-q", "--max-steps", "1"], &set[..]].concat()
    };
    insta::assert_snapshot!(error(&args("train.monitor=mean-auc")), @"2: error: data.valid: its 10 rows, 0 with a click and 0 with a conversion, have no mean-auc (train.monitor), which takes rows of both classes; give valid other rows, or set train.monitor to another metric (log-loss takes any)");
    assert!(!Path::new(&out).exists());
    well(tauten(&args("train.monitor=log-loss")));
}

#[cfg(target_os = "linux")]
#[test]
fn an_error_that_nobody_can_read_keeps_its_exit_code() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(command(&["train", "none.toml"]).stderr(full).status().unwrap().code(), Some(2));
}

#[test]
fn an_error_in_the_middle_leaves_the_output_as_it_was() {
    let lines = std::fs::read_to_string(place().join("log-csv/train.csv")).unwrap();
    let mut lines: Vec<&str> = lines.lines().collect();
    lines[4300] = "1,2";
    std::fs::create_dir_all(place().join("kept")).unwrap();
    std::fs::write(place().join("ragged.csv"), lines.join("\n")).unwrap();
    for out in ["kept/o.csv", "kept/o.parquet"] {
        std::fs::write(place().join(out), "before").unwrap();
        let ended = predict("run", &["log/test.parquet", "ragged.csv"], out, &[]);
        assert_eq!(ended.code, 2);
        assert!(ended.err.contains("ragged.csv: row 4300 (line 4301): "), "{ended:?}");
        assert_eq!(std::fs::read_to_string(place().join(out)).unwrap(), "before");
    }
    assert_eq!(std::fs::read_dir(place().join("kept")).unwrap().count(), 2);
}

#[test]
fn predictions_have_the_auc_of_the_evaluation() {
    let ended = well(tauten(&["evaluate", &path("run"), "--json", "--device", "cpu", "-q"]));
    let evaluation: Value = serde_json::from_str(&ended.out).unwrap();
    for (input, out) in [("log/test.parquet", "auc.parquet"), ("log/test.parquet", "auc.csv"), ("log-csv/test.csv", "auc2.csv")]
    {
        let ended = well(predict("run", &[input], out, &["--keep", "click,conversion"]));
        assert_eq!(ended.out, format!("{}: 600 rows\n", path(out)));
        let (cells, kinds) = table(out, &["click", "conversion", "pctr", "pcvr", "pctcvr", "tau"]);
        if out.ends_with("parquet") {
            assert_eq!(kinds, [[Kind::Integer; 2].as_slice(), &[Kind::Float; 4]].concat());
        }
        let [ctr, cvr, ctcvr, tau] = ["pctr", "pcvr", "pctcvr", "tau"].map(|name| numbers(&cells[name]));
        let [click, conversion] = ["click", "conversion"].map(|n| cells[n].iter().map(|c| c == "1").collect::<Vec<bool>>());
        let rows = 0..600;
        let measured = [
            auc(rows.clone().map(|i| (ctr[i], click[i]))),
            auc(rows.clone().filter(|&i| click[i]).map(|i| (cvr[i], conversion[i]))),
            auc(rows.clone().map(|i| (ctcvr[i], conversion[i]))),
        ];
        for (task, measured) in ["ctr", "cvr", "ctcvr"].into_iter().zip(measured) {
            let wanted = evaluation[task]["auc"].as_f64().unwrap();
            // Probabilities in f32 may tie where the logits do not.
            assert!((measured.unwrap().unwrap() - wanted).abs() < 1e-5, "{task}");
        }
        for i in rows {
            assert!((ctcvr[i] - ctr[i] * cvr[i]).abs() < 1e-6);
        }
        let mean = tau.iter().sum::<f64>() / 600.0;
        assert!((mean - evaluation["tau"]["mean"].as_f64().unwrap()).abs() < 1e-6);
    }
    // Without an instance temperature, the column is there and empty.
    well(predict("off", &["log/test.parquet"], "off.csv", &[]));
    let (cells, _) = table("off.csv", &["pctr", "tau"]);
    assert!(cells["tau"].iter().all(String::is_empty) && cells["tau"].len() == 600 && numbers(&cells["pctr"])[0] > 0.0);
}

#[test]
fn rows_stay_in_order_over_blocks_and_files() {
    let numbered = |name: &str, from: usize| -> (String, usize) {
        let text = std::fs::read_to_string(place().join(name)).unwrap();
        let mut lines = text.lines();
        let header = format!("row,{}\n", lines.next().unwrap());
        let rows: Vec<String> = lines.enumerate().map(|(i, line)| format!("{},{line}\n", from + i)).collect();
        (header + &rows.concat(), from + rows.len())
    };
    let (test, n) = numbered("log-csv/test.csv", 0);
    // More than a block.
    let (train, n) = numbered("log-csv/train.csv", n);
    let (valid, n) = numbered("log-csv/valid.csv", n);
    assert_eq!(n, 6000);
    std::fs::write(place().join("b.csv"), test).unwrap();
    std::fs::write(place().join("c.csv"), train).unwrap();
    let gz = std::fs::File::create(place().join("a.csv.gz")).unwrap();
    let mut gz = flate2::write::GzEncoder::new(gz, flate2::Compression::fast());
    gz.write_all(valid.as_bytes()).unwrap();
    gz.finish().unwrap();
    // Minibatches that are many in some blocks and less than one in others.
    well(predict("fine", &["b.csv", "c.csv", "a.csv.gz"], "ordered.parquet", &["--keep", "row"]));
    let (cells, kinds) = table("ordered.parquet", &["row", "pctr", "pcvr", "tau"]);
    // A column of a CSV file is text.
    assert_eq!(kinds[0], Kind::Text);
    assert_eq!(cells["row"], (0..6000).map(|i| i.to_string()).collect::<Vec<_>>());
    // Each row's scores are those that its file has on its own, from Parquet too.
    for (name, from) in [("test", 0), ("train", 600), ("valid", 5400)] {
        let out = format!("{name}-alone.csv");
        well(predict("run", &[&format!("log/{name}.parquet")], &out, &[]));
        let (alone, _) = table(&out, &["pctr", "pcvr", "tau"]);
        for column in ["pctr", "pcvr", "tau"] {
            for (i, (one, other)) in numbers(&alone[column]).iter().zip(&numbers(&cells[column])[from..]).enumerate() {
                assert!((one - other).abs() < 1e-6, "{name} {column} {i}: {one} {other}");
            }
        }
    }
}

#[test]
fn kept_columns_keep_types_and_values() {
    let (features, _) = table("log/test.parquet", &["user", "item", "hour", "slot"]);
    let int = |name: &str| Column::Int(features[name][..4].iter().map(|c| Some(c.parse().unwrap())).collect());
    let text = |cells: [Option<&str>; 4]| Column::Text(cells.iter().map(|c| c.map(String::from)).collect());
    let columns = [
        ("yes", Column::Bool(vec![Some(true), None, Some(false), Some(true)])),
        ("big", Column::Unsigned(vec![Some(u64::MAX), Some(0), None, Some(7)])),
        ("small", Column::Int(vec![Some(i64::MIN), None, Some(-1), Some(9)])),
        ("number", Column::F64(vec![Some(0.1), Some(-1e300), None, Some(5e-324)])),
        ("words", text([Some("a,b"), Some("say \"x\""), None, Some("two\nlines")])),
        ("user", int("user")),
        ("item", int("item")),
        ("segment", text([Some("s1"); 4])),
        ("category", text([Some("c1"), None, Some("c2"), Some("unseen")])),
        ("hour", int("hour")),
        ("device", text([Some("tv"); 4])),
        ("slot", int("slot")),
        ("price", Column::F64(vec![Some(3.0), None, Some(1.0), Some(2.0)])),
        ("recency", Column::F32(vec![Some(1.0), Some(2.0), None, Some(0.5)])),
    ];
    let mut writer = TableWriter::create(&place().join("typed.parquet"), &columns).unwrap();
    writer.write(columns.iter().map(|(_, column)| column)).unwrap();
    writer.finish().unwrap();
    let kept = ["user", "words", "yes", "big", "small", "number"];
    let (before, kinds) = table("typed.parquet", &kept);
    assert_eq!(kinds, [Kind::Integer, Kind::Text, Kind::Boolean, Kind::Unsigned, Kind::Integer, Kind::Float]);
    for out in ["kept.parquet", "kept.csv"] {
        well(predict("run", &["typed.parquet"], out, &["--keep", &kept.join(",")]));
        let (after, kept_kinds) = table(out, &kept);
        assert!(out.ends_with(".csv") || kinds == kept_kinds, "{kept_kinds:?}");
        for name in kept {
            if name == "number" {
                let parsed = |cells: &[String]| cells.iter().map(|c| c.parse::<f64>().ok()).collect::<Vec<_>>();
                assert_eq!(parsed(&before[name]), parsed(&after[name]));
            } else {
                assert_eq!(before[name], after[name], "{out} {name}");
            }
        }
        assert_eq!(Reader::columns(&place().join(out)).unwrap(), [&kept[..], &["pctr", "pcvr", "pctcvr", "tau"]].concat());
    }
    // The same column as text and as numbers: text.
    std::fs::write(
        place().join("mixed.csv"),
        "user,item,segment,category,hour,device,slot,price,recency\nx7,1,s1,c1,2,tv,1,1,1\n",
    )
    .unwrap();
    well(predict("run", &["log/test.parquet", "mixed.csv"], "mixed.parquet", &["--keep", "user"]));
    let (cells, kinds) = table("mixed.parquet", &["user"]);
    assert_eq!((kinds[0], cells["user"].len(), cells["user"][600].as_str()), (Kind::Text, 601, "x7"));
}

#[test]
fn unseen_and_missing_values() {
    let rows = "user,item,segment,category,hour,device,slot,price,recency\n,,,,,,,,\nnobody,never,s99,c99,25,fax,9,,\n";
    std::fs::write(place().join("unseen.csv"), rows).unwrap();
    well(predict("run", &["unseen.csv"], "unseen-out.csv", &[]));
    let (cells, _) = table("unseen-out.csv", &["pctr", "pcvr", "pctcvr", "tau"]);
    for (name, cells) in &cells {
        let values = numbers(cells);
        assert!(values.iter().all(|&x| x > 0.0 && x < 1.0), "{name} {values:?}");
        assert_eq!(values[0], values[1], "unseen is as missing: {name}");
    }
    // Infinite is no number that a model was trained on.
    std::fs::write(place().join("infinite.csv"), rows.replace(",,,,,,,,", "1,1,s1,c1,1,tv,1,inf,1")).unwrap();
    let ended = predict("run", &["infinite.csv"], "infinite-out.csv", &[]);
    assert_eq!(ended.code, 2);
    assert!(ended.err.contains("infinite.csv: row 1 (line 2): column `price` holds \"inf\", which is infinite"), "{ended:?}");
    // No rows at all: a table without rows.
    std::fs::write(place().join("empty.csv"), rows.lines().next().unwrap()).unwrap();
    assert!(well(predict("run", &["empty.csv"], "empty-out.csv", &[])).out.ends_with(": 0 rows\n"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut child = command(&["evaluate", &path("run"), "--json", "--device", "cpu", "-q"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{output:?}");
}
