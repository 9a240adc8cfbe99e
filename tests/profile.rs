//! Profiles: every kernel has its line, times add up or are n/a, the trace keeps the format's rules. No time decides a test.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod common;
#[path = "common/command.rs"]
mod process;

use common::for_each_adapter;
use process::{Ended, command, home, tauten};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::Duration;
use tauten::config::{Config, Loaded};
use tauten::data::dataset::Dataset;
use tauten::data::prepare::prepare;
use tauten::data::simulate::simulate;
use tauten::data::write::Format;
use tauten::device::Choice;
use tauten::device::gpu::tuned::{self, Choices};
use tauten::device::timeline::{Activity, Clock, Mode};
use tauten::ops::check::Setup;
use tauten::ops::tile::{Product, Tiles};
use tauten::profile::lines::{Node, lines};
use tauten::profile::roofs::{Rate, Roofs};
use tauten::profile::tune::{Work, tune, work};
use tauten::profile::{Profile, Recorded, sweep, train};
use tauten::report::progress::Progress;

const CONFIG: &str =
    concat!(include_str!("common/log.toml"), "[contrast]\nwidth = 8\nhidden = [8]\n[train]\nbatch_size = 128\nepochs = 3\n");

/// The folder with `c.toml`, its `log` and the prepared `dataset` of 800 training rows: 6 minibatches and a short one.
fn place() -> &'static Path {
    static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
        let place = home("profile");
        simulate(1000, 3, &place.join("log"), Format::Csv, &mut |_| ()).unwrap();
        let config = CONFIG.replace(".parquet", ".csv");
        std::fs::write(place.join("c.toml"), config).unwrap();
        prepare(&loaded(&place), &place.join("dataset"), &Progress::new(true)).unwrap();
        place
    });
    &PLACE
}

fn loaded(place: &Path) -> Loaded {
    Loaded::read(&place.join("c.toml"), &[]).unwrap()
}

fn profile(choice: Choice, steps: usize, mode: Mode) -> (Config, Profile) {
    let config = loaded(place()).config;
    let dataset = Dataset::open(&place().join("dataset")).unwrap();
    let profile = train(&config, &dataset, choice, steps, mode, &Progress::new(true)).unwrap();
    (config, profile)
}

/// The rules of the Trace Event Format that complete events and metadata must keep, and that intervals of a thread nest.
fn check_trace(trace: &Value) {
    let events = trace["traceEvents"].as_array().unwrap();
    let mut named: BTreeSet<(&str, u64, u64)> = BTreeSet::new();
    // By thread: ends of what is open, and the beginning before.
    let mut threads: BTreeMap<(u64, u64), (Vec<f64>, f64)> = BTreeMap::new();
    for event in events {
        let name = event["name"].as_str().unwrap();
        let (pid, tid) = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
        assert!(!name.is_empty() && event["args"].is_object(), "{event}");
        match event["ph"].as_str().unwrap() {
            "M" => {
                assert!(!event["args"]["name"].as_str().unwrap().is_empty(), "{event}");
                named.insert((name, pid, tid));
            }
            "X" => {
                let (start, length) = (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
                assert!(start >= 0.0 && length >= 0.0 && event["cat"].is_string(), "{event}");
                assert!(named.contains(&("thread_name", pid, tid)), "thread {tid} of {pid} has no name");
                assert!(named.iter().any(|n| n.0 == "process_name" && n.1 == pid), "process {pid} has no name");
                let (open, last) = threads.entry((pid, tid)).or_default();
                assert!(start >= *last, "{event} comes before its predecessor");
                *last = start;
                // Times are whole nanoseconds as decimal fractions of microseconds.
                open.retain(|&end| end > start + 1e-4);
                assert!(open.iter().all(|&end| start + length <= end + 1e-4), "{event} outlasts what holds it");
                open.push(start + length);
            }
            other => panic!("{other}: no phase of this trace"),
        }
    }
}

/// What must be true of a training profile on whatever device.
fn check(config: &Config, profile: &Profile, mode: Mode) {
    let nodes = &profile.recorded.nodes;
    assert_eq!(config.train.batch_size, profile.step.as_ref().unwrap().rows);
    match mode {
        Mode::Detailed => {
            let wanted: BTreeSet<(String, String)> = nodes.iter().map(|n| (n.kernel.to_string(), n.sizes())).collect();
            let got: BTreeSet<(String, String)> = profile.kernels.iter().map(|l| (l.name.clone(), l.shape.clone())).collect();
            assert_eq!(wanted, got);
            assert_eq!(profile.kernels.len(), wanted.len());
            assert_eq!(profile.kernels.iter().map(|l| l.calls).sum::<usize>(), nodes.len());
        }
        Mode::Cheap => {
            let names: BTreeSet<&str> = profile.kernels.iter().map(|l| l.name.as_str()).collect();
            assert_eq!(names, BTreeSet::from(["backward", "forward", "update"]));
        }
    }
    // Each byte and operation of the plan is in one line.
    let bytes: f64 = profile.kernels.iter().map(|l| l.bytes * l.calls as f64).sum();
    let flops: f64 = profile.kernels.iter().map(|l| l.flops * l.calls as f64).sum();
    let (all_bytes, all_flops) =
        nodes.iter().fold((0.0, 0.0), |sum: (f64, f64), n| (sum.0 + n.cost.bytes, sum.1 + n.cost.flops));
    assert!((bytes / all_bytes - 1.0).abs() < 1e-9 && (flops / all_flops - 1.0).abs() < 1e-9);

    let text = profile.to_text();
    for line in &profile.kernels {
        let of_line = |l: &&str| l.starts_with(&format!("{} ", line.name)) && l.contains(&format!(" {} ", line.shape));
        let row = text.lines().find(of_line).unwrap_or_else(|| panic!("{} {} is not in\n{text}", line.name, line.shape));
        match line.times {
            Some(t) => assert!(t.min_us > 0.0 && t.min_us <= t.median_us && t.median_us <= t.p95_us, "{line:?}"),
            None => assert!(row.contains("n/a") && line.share.is_none() && line.roof_percent.is_none(), "{row}"),
        }
    }
    let shares: f64 = profile.kernels.iter().filter_map(|l| l.share).sum();
    if profile.missing.is_none() {
        assert!((shares - 1.0).abs() < 1e-6, "the shares sum to {shares}");
        let timed: usize = profile.kernels.iter().filter(|l| l.times.is_some()).map(|l| l.calls).sum();
        assert!(timed > 0, "{text}");
    } else {
        assert_eq!(shares, 0.0);
        assert!(text.contains("device times: n/a"), "{text}");
    }
    for name in ["build a minibatch", "wait for a minibatch", "read back", "upload"] {
        assert!(text.lines().any(|l| l.starts_with(name)), "{name} is not in\n{text}");
    }
    assert!(text.contains("overhead ") && text.contains("mode: "), "{text}");
    let advice = &profile.step.as_ref().unwrap().advice;
    let who = ["the device", "the device or its driver", "the host", "the disk", "the host or the disk"];
    assert!(who.iter().any(|who| advice.starts_with(&format!("{who} holds the step back"))), "{advice}");
    assert!(text.trim_end().ends_with(advice.as_str()) && !advice.contains('\n'));

    check_trace(&profile.to_trace());
    let svg = profile.to_svg();
    assert_eq!(svg.matches("<circle").count(), profile.kernels.iter().filter(|l| l.times.is_some()).count());
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("inf"));
    let json: Value = serde_json::from_str(&serde_json::to_string(profile).unwrap()).unwrap();
    assert_eq!(json["kernels"].as_array().unwrap().len(), profile.kernels.len());
    assert!(json["roofs"]["copy"]["best"].as_f64().unwrap() > 0.0 && json["step"]["advice"].is_string());
}

#[test]
fn a_profile_of_the_twins_is_whole() {
    for mode in [Mode::Cheap, Mode::Detailed] {
        let (config, profile) = profile(Choice::Cpu, 5, mode);
        check(&config, &profile, mode);
        // The host's own clock never fails, and measures each node of each step.
        assert!(profile.missing.is_none() && profile.unusable_timestamps == 0);
        assert!(profile.adapter.is_none());
    }
}

#[test]
fn a_profile_of_an_adapter_is_whole() {
    for_each_adapter(|name, adapter| {
        for mode in [Mode::Cheap, Mode::Detailed] {
            let (config, profile) = profile(Choice::Gpu(Box::new(adapter())), 2, mode);
            println!(
                "{name}: {:?}, {} unusable, error {:?} us",
                profile.missing, profile.unusable_timestamps, profile.clock_error_us
            );
            check(&config, &profile, mode);
            assert_eq!(profile.adapter.as_ref().unwrap()["name"].as_str(), Some(adapter().name()));
        }
    });
}

#[test]
fn without_timestamps_there_is_no_time() {
    for_each_adapter(|_, adapter| {
        let mut setup = Setup::default();
        let from = setup.input(&[1f32; 64]);
        let to = setup.graph.transient("to", 64);
        tauten::ops::probe::copy(&mut setup.graph, from, to);
        setup.graph.output(to);
        let mut nodes = Vec::new();
        // Opened as training opens it: without the feature.
        let open = |state: &tauten::graph::StateLayout, plans: Vec<tauten::graph::Plan>| {
            nodes = plans.iter().flat_map(Node::all).collect();
            Choice::Gpu(Box::new(adapter())).open(&state.buffers, plans)
        };
        let (mut device, inputs) = setup.open(open).unwrap();
        let bytes: Vec<&[u8]> = inputs.iter().map(|words| bytemuck::cast_slice(words)).collect();
        let mut outputs = Vec::new();
        let mut step = |device: &mut dyn tauten::device::Device| {
            device.submit(0, &bytes).unwrap();
            device.receive(0, &mut outputs).unwrap();
        };
        step(&mut *device);
        device.record(Mode::Detailed).unwrap();
        (0..3).for_each(|_| step(&mut *device));
        let timeline = device.timeline().unwrap();
        assert_eq!(timeline.clock, Clock::Missing("the adapter has no timestamp queries".into()));
        for activity in [Activity::Upload, Activity::Encode, Activity::Submit, Activity::Wait, Activity::Readback] {
            assert_eq!(timeline.spans.iter().filter(|s| s.activity == activity).count(), 3, "{activity:?}");
        }
        assert!(timeline.spans.iter().all(|s| !matches!(s.activity, Activity::Node(_) | Activity::Phase(_))));
        let rate = || Rate { best: 10.0, median: 10.0, how: String::new() };
        let roofs = Roofs { copy: rate(), multiply_add: rate() };
        let kernels = lines(&nodes, &timeline.spans, Mode::Detailed, &roofs);
        let profile = Profile {
            device: "a device".into(),
            adapter: None,
            mode: Mode::Detailed,
            missing: Some("it has no clock".into()),
            clock_error_us: None,
            unusable_timestamps: 0,
            roofs,
            kernels,
            step: None,
            recorded: Recorded::default(),
        };
        insta::allow_duplicates! {
            insta::assert_snapshot!(profile.to_text(), @"
            device: a device
            roofs: copy 10.0 GB/s (median 10.0), multiply-add 10.0 GFLOP/s (median 10.0)
            device times: n/a, it has no clock

            kernel      shape  calls  min us  median us  p95 us        MB  MFLOP  GB/s  GFLOP/s  FLOP/B  roof  bound
            probe_copy  16         1     n/a        n/a     n/a  0.000512      0   n/a      n/a       0   n/a  memory
              count: probe_copy
            ");
        }
        // A device that was not recorded, or is no longer, has nothing to tell.
        step(&mut *device);
        assert!(device.timeline().is_err());
    });
}

#[test]
fn a_kernel_alone_has_a_line_a_shape() {
    let shapes = ["64x1x8x4".to_string(), "128x2x8x4".to_string()];
    let sweep = |choice| sweep::sweep(&[("linear_weight_gradient", &shapes)], choice, 2, &Progress::new(true)).unwrap();
    let check = |profile: Profile| {
        let got: Vec<(&str, &str)> = profile.kernels.iter().map(|l| (l.name.as_str(), l.shape.as_str())).collect();
        assert_eq!(got, [("linear_weight_gradient", "64x1x8x4"), ("linear_weight_gradient", "128x2x8x4")]);
        assert!(profile.step.is_none() && profile.kernels.iter().all(|l| l.times.is_some() == profile.missing.is_none()));
        // x, dy, y and the gradients of w and bias are read or written once: 4 (rows * groups * (inputs + 2 outputs) + groups * outputs *
        // (inputs + 1)).
        assert_eq!(profile.kernels[0].bytes, f64::from(4 * (64 * 16 + 4 * 9)));
        // No step of a shape is one of another's.
        let steps: BTreeSet<usize> = profile.recorded.spans.iter().map(|span| span.step).collect();
        assert_eq!(steps.len(), 2 * 2);
        check_trace(&profile.to_trace());
    };
    check(sweep(Choice::Cpu));
    for_each_adapter(|_, adapter| check(sweep(Choice::Gpu(Box::new(adapter())))));
}

fn path(name: &str) -> String {
    place().join(name).display().to_string()
}

#[test]
fn the_command_prints_and_writes() {
    let (config, out) = (path("c.toml"), path("out"));
    let common = ["profile", &config, "--device", "cpu", "--steps", "2", "-q"];
    let ended = tauten(&[&common[..], &["--out", &out]].concat());
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{ended:?}");
    let read = |name: &str| std::fs::read_to_string(Path::new(&out).join(name)).unwrap();
    assert_eq!(read("table.txt"), ended.out);
    let json: Value = serde_json::from_str(&read("profile.json")).unwrap();
    for key in ["device", "mode", "roofs", "kernels", "step", "clock_error_us"] {
        assert!(!json[key].is_null(), "{key}");
    }
    for key in ["overhead", "host", "rows_per_second", "memory", "advice", "plain", "recorded"] {
        assert!(!json["step"][key].is_null(), "step.{key}");
    }
    check_trace(&serde_json::from_str(&read("trace.json")).unwrap());
    assert!(read("roofline.svg").starts_with("<svg "));
    let mut files: Vec<String> =
        std::fs::read_dir(&out).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["profile.json", "roofline.svg", "table.txt", "trace.json"]);

    // With a named dataset, as JSON, again into the same folder.
    let data = path("dataset");
    let ended = tauten(&[&common[..], &["--data", &data, "--mode", "cheap", "--json", "--out", &out]].concat());
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{ended:?}");
    let json: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((json["mode"].as_str(), json["kernels"].as_array().unwrap().len()), (Some("cheap"), 3));
}

/// A dataset that was prepared for a profile alone is gone in the end, however it ends.
#[cfg(unix)]
#[test]
fn an_interrupt_leaves_nothing_behind() {
    let folder = place().join("temporary");
    std::fs::create_dir(&folder).unwrap();
    let mut child = command(&["profile", &path("c.toml"), "--device", "cpu", "--steps", "100000", "-q"]);
    let mut child = child.env("TMPDIR", &folder).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let prepared = || {
        let made = std::fs::read_dir(&folder).unwrap().next();
        made.is_some_and(|made| made.unwrap().path().join("new/dataset/manifest.json").exists())
    };
    while !prepared() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

/// Exit code and standard error of what must fail without a result.
fn error(Ended { code, out, err }: Ended) -> String {
    assert!(code != 0 && out.is_empty(), "{out}");
    format!("{code}: {}", err.replace(&place().display().to_string(), "PLACE"))
}

#[test]
fn wrong_arguments_are_refused_before_anything_runs() {
    let config = path("c.toml");
    let first = |args: &[&str]| error(tauten(&[&["profile"], args].concat())).lines().take(2).collect::<String>();
    insta::assert_snapshot!(first(&[]), @"2: error: the following required arguments were not provided:  <CONFIG>");
    insta::assert_snapshot!(first(&[&config, "--steps", "0"]), @"2: error: invalid value '0' for '--steps <N>': 0 is not in 1..=100000");
    insta::assert_snapshot!(first(&[&config, "--mode", "fast"]), @"2: error: invalid value 'fast' for '--mode <MODE>'  [possible values: cheap, detailed]");
    insta::assert_snapshot!(first(&[&config, "--kernel", "linear"]), @"2: error: the argument '[CONFIG]' cannot be used with '--kernel <NAME>'");
    insta::assert_snapshot!(first(&[&config, "--shape", "2"]), @"2: error: the argument '[CONFIG]' cannot be used with '--shape <SIZES>'");
    insta::assert_snapshot!(first(&[&config, "--data", &path("log"), "-q"]), @"2: error: PLACE/log: no Tauten dataset (it has no manifest.json); run `tauten prepare`");
    insta::assert_snapshot!(first(&["--kernel", "linear", "--shape", "64x8", "-q"]), @"2: error: --shape 64x8: linear takes rows x groups x inputs x outputs, like 2048x1x320x512");
    insta::assert_snapshot!(first(&["--kernel", "mix", "--shape", "64x5x2x2", "-q"]), @"2: error: --shape 64x5x2x2: there are at most 4 tasks");
    insta::assert_snapshot!(first(&["--kernel", "gather", "--shape", "4294967295x4294967295x1x10", "-q"]), @"2: error: --shape 4294967295x4294967295x1x10: an array would have 18446744065119617000 numbers, and more than 134217728 are not measured; take smaller sizes");
    insta::assert_snapshot!(first(&["--kernel", "linear_merge", "--shape", "1x1x1x1", "--device", "cpu", "--steps", "1", "-q"]), @"2: error: --shape 1x1x1x1: linear_merge is not run at so small a size on this device; take larger sizes");
    insta::assert_snapshot!(first(&["--kernel", "list", "--shape", "2", "-q"]), @"2: error: --kernel list measures nothing: leave --shape and --out away");
    let file = path("c.toml");
    insta::assert_snapshot!(first(&[&config, "--out", &file, "-q"]), @"2: error: --out PLACE/c.toml: File exists (os error 17); name another folder");
    let unknown = first(&["--kernel", "lineal", "-q"]);
    assert!(unknown.starts_with("2: error: --kernel lineal: there is none of this name; there are: "), "{unknown}");
    let list = tauten(&["profile", "--kernel", "list"]);
    assert_eq!((list.code, list.err.as_str()), (0, ""));
    assert!(
        list.out.lines().any(|l| l.starts_with("linear ") && l.ends_with("rows x groups x inputs x outputs")),
        "{}",
        list.out
    );
    let json = tauten(&["profile", "--kernel", "list", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    let linear = json.as_array().unwrap().iter().find(|kernel| kernel["name"] == "linear").unwrap();
    assert_eq!(
        (&linear["dimensions"], &linear["shapes"][0]),
        (&"rows x groups x inputs x outputs".into(), &"2048x1x320x512".into())
    );
}

#[test]
fn shaders_are_read_from_a_folder_in_a_debug_build() {
    for_each_adapter(|_, adapter| {
        let device = adapter().name().to_string();
        let folder = place().join(format!("shaders of {device}"));
        std::fs::create_dir_all(&folder).unwrap();
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders")).unwrap() {
            let file = entry.unwrap();
            std::fs::copy(file.path(), folder.join(file.file_name())).unwrap();
        }
        let run = || {
            let args = ["profile", "--kernel", "probe_copy", "--shape", "64", "--steps", "1", "--device", &device];
            let mut command = command(&args);
            let output = command.env("TAUTEN_SHADERS", &folder).output().unwrap();
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&folder.display().to_string(), "DIR");
            (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
        };
        let (code, out, err) = run();
        assert!(code == 0 && out.contains("\nprobe_copy "), "{out}{err}");
        if !cfg!(debug_assertions) {
            assert!(err.contains("TAUTEN_SHADERS is ignored"), "{err}");
            return;
        }
        assert!(err.contains("; shaders: DIR\n"), "{err}");
        let file = folder.join("probe.wgsl");
        let text = std::fs::read_to_string(&file).unwrap();
        let failure = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let (code, out, err) = run();
            assert!(out.is_empty(), "{out}");
            format!("{code}: {}", err.lines().last().unwrap())
        };
        insta::allow_duplicates! {
            insta::assert_snapshot!(failure(&text.replace("to[i] = source[i];", "to[i] = sauce[i];")), @"2: error: DIR/probe.wgsl:33: Shader 'probe' parsing error: no definition in scope for identifier: `sauce`");
            insta::assert_snapshot!(failure(&text.replace("fn copy(", "fn cope(")), @"2: error: TAUTEN_SHADERS: kernel probe_copy does not fit the program: Validation Error Caused by: In Device::create_compute_pipeline, label = 'probe_copy' Error matching shader requirements against the pipeline Unable to find entry point 'copy'");
        }
        std::fs::remove_file(&file).unwrap();
        let (code, _, err) = run();
        assert_eq!((code, err.lines().last().unwrap()), (2, "error: DIR/probe.wgsl: No such file or directory (os error 2)"));
    });
}

#[test]
fn tiles_are_measured_kept_and_taken() {
    let file = place().join("tiles.json");
    for_each_adapter(|_, adapter| {
        let adapter = adapter();
        let all = [Work::Layer([70, 2, 9, 5]), Work::Contrast([70, 5])];
        let found = tune(&adapter, &all, 1, &Progress::new(true)).unwrap();
        let products: Vec<Product> = found.iter().map(|f| f.tuned.shape.product).collect();
        assert_eq!(products, [Product::Forward, Product::InputGradient, Product::WeightGradient, Product::Contrast]);
        for f in &found {
            assert!(f.tuned.chosen.is_possible(f.tuned.shape) && f.best_us > 0.0 && f.best_us <= f.fixed_us, "{f:?}");
        }
        let choices = Choices { driver: adapter.driver(), tiles: found.iter().map(|f| f.tuned).collect() };
        tuned::write(&file, &choices).unwrap();
        assert_eq!(tuned::read(&file).unwrap(), choices);
        let tiles = Tiles { tuned: Some(choices.tiles.clone().into()), ..adapter.limits().tiles };
        assert_eq!(tiles.choose(choices.tiles[2].shape), choices.tiles[2].chosen);

        let settings = place().join(format!("settings of {}", adapter.name()));
        let own = settings.join("tauten").join(adapter.tuned_file().unwrap().file_name().unwrap());
        let line = |driver: String| {
            tuned::write(&own, &Choices { driver, ..choices.clone() }).unwrap();
            let args = ["profile", "--kernel", "probe_copy", "--shape", "64", "--steps", "1", "--device", adapter.name()];
            let output = command(&args).env("XDG_CONFIG_HOME", &settings).output().unwrap();
            let err = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{err}");
            let after = err.split(&format!("; tiles: {}", own.display())).nth(1).and_then(|after| after.lines().next());
            after.unwrap_or_else(|| panic!("{err}")).to_string()
        };
        assert_eq!(line(adapter.driver()), "");
        assert_eq!(line("of 1999".into()), " (measured with driver of 1999; `tauten tune` measures them with this one)");
    });
    // The layers of a model need no data: experts, hidden layers, towers, heads.
    let work = work(&loaded(place()).config, Choice::Cpu.limits()).unwrap();
    assert!(work.iter().all(|w| w.shapes()[0].rows == 128) && work.len() > 4, "{work:?}");
    assert_eq!(work.iter().filter(|w| matches!(w, Work::Contrast(_))).count(), 1, "{work:?}");
}

#[test]
fn a_damaged_choice_of_tiles_is_the_users_error() {
    let file = place().join("damaged.json");
    let failure = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let e = tuned::read(&file).unwrap_err();
        assert_eq!(e.exit_code(), 2);
        e.to_string().replace(&place().display().to_string(), "PLACE")
    };
    insta::assert_snapshot!(failure("{"), @"PLACE/damaged.json: no choice of tiles (EOF while parsing an object at line 1 column 1); delete it, or run `tauten tune` again");
    let shape = r#"{ "product": "forward", "rows": 1, "groups": 1, "inputs": 1, "outputs": 1 }"#;
    let tile = r#"{ "height": 9, "width": 9, "rows": 1, "columns": 1, "depth": 16 }"#;
    let text = format!(r#"{{ "driver": "", "tiles": [{{ "shape": {shape}, "chosen": {{ "tile": {tile}, "slices": 1 }} }}] }}"#);
    insta::assert_snapshot!(failure(&text), @"PLACE/damaged.json: there is no tile of 9 x 9 invocations, 1 x 1 blocks, depth 16 in 1 slices; delete the file, or run `tauten tune` again");
    let cpu = tauten(&["tune", "--device", "cpu", "-q"]);
    insta::assert_snapshot!(error(cpu), @"2: error: the CPU has no tiles to choose; name an adapter with --device");
}
