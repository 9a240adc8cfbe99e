//! Training step times on synthetic minibatches: `cargo bench --bench steps -- --help`; benches/README.md says how to compare.

mod registers;

use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime};
use tauten::config::{Config, Loaded};
use tauten::data::batch::{BatchBuilder, Minibatch, RowBlock, RowSource};
use tauten::data::dataset::Split;
use tauten::data::prefetch::{Position, Prefetch};
use tauten::data::prepare::prepare;
use tauten::device::cpu::start_threads;
use tauten::device::timeline::{Activity, Clock, Mode};
use tauten::device::{Choice, Limits};
use tauten::graph::Plan;
use tauten::model::{Model, Schema};
use tauten::profile::lines::Node;
use tauten::profile::sweep::sweep;
use tauten::random::{Purpose, Stream};
use tauten::report::progress::Progress;
use tauten::train::run::schema;
use tauten::train::session::{Role, Session, batch_layout};
use tauten::{Error, Result};

/// Step times, their independence of the table's size, and the batch builder's speed.
#[derive(clap::Parser)]
struct Options {
    /// Which parts run: any of `kuairand`, `design`, `infer`, `kernels`, `table`, `batch`, `loader`, all of these by default; `registers`.
    parts: Vec<String>,
    /// `cpu`, `gpu`, `auto` or part of an adapter's name.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads of the CPU twins; 0: one a core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Threads of the loader.
    #[arg(long, default_value = "1")]
    builders: std::num::NonZeroUsize,
    /// Seconds that a figure may take.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Steps of a kernel alone.
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Say where a step's time goes, by op and place in the model.
    #[arg(long)]
    profile: bool,
    /// Rows of a minibatch of the KuaiRand shape.
    #[arg(long, default_value_t = 1024)]
    rows: usize,
    /// Write all figures here.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Minibatches that a figure cycles through.
const BATCHES: usize = 32;
/// Steps before the clock counts: the first ones touch memory for the first time and fill the pipeline.
const WARM_UP: usize = 5;

/// What is trained.
#[derive(Clone)]
struct Shape {
    name: String,
    /// Ids of each categorical feature, id 0 included.
    vocabulary: Vec<usize>,
    numeric: usize,
    rows: usize,
    /// The configuration after `[features]`.
    rest: &'static str,
}

impl Shape {
    /// 36 categorical features of 60,000 ids in all, most of them tiny, and five numeric ones.
    fn kuairand(rows: usize) -> Shape {
        let mut vocabulary = vec![28_000, 7_500, 6_500, 16, 25, 8, 5, 30, 10, 15_700, 12, 7, 3, 3, 9, 10, 8, 9];
        vocabulary.extend([3, 8, 50, 1_400, 16, 35, 4, 110, 450, 8, 6, 4, 3, 3, 3, 3, 3, 3]);
        Shape {
            name: format!("kuairand, B = {rows}"),
            vocabulary,
            numeric: 5,
            rows,
            rest: "[model]\nencoder = \"mmoe\"\nexperts = 4\nhidden = [128, 64]\ntower = [64, 32]\n\
                   [contrast]\ntemperature = \"off\"\n[optimizer.embedding]\nkind = \"adam\"\nlr = 0.001\n",
        }
    }

    /// 20 features of 50,000 ids, an alignment with a temperature an instance over in-batch negatives.
    fn design(rows: usize) -> Shape {
        Shape {
            name: format!("design, B = {rows}"),
            vocabulary: vec![50_000; 20],
            numeric: 0,
            rows,
            rest: "[model]\nencoder = \"mmoe\"\nexperts = 4\nhidden = [128, 64]\ntower = [64]\n\
                   [contrast]\ntemperature = \"instance\"\nanchors = \"all\"\nwidth = 64\nnegatives = \"in-batch\"\n[optimizer.embedding]\nkind = \"adam\"\nlr = 0.001\n",
        }
    }

    /// As the KuaiRand shape, its 20 features sharing `rows_of_table` table rows evenly.
    fn table(rows_of_table: usize) -> Shape {
        Shape {
            name: format!("{rows_of_table} table rows"),
            vocabulary: vec![rows_of_table / 20; 20],
            numeric: 0,
            ..Shape::kuairand(1024)
        }
    }

    fn config(&self) -> Result<Config> {
        let list = |prefix: &str, n: usize| {
            let names: Vec<String> = (0..n).map(|i| format!("\"{prefix}{i}\"")).collect();
            names.join(", ")
        };
        let text = format!(
            "[data]\ntrain = [\"-\"]\nvalid = [\"-\"]\n[features]\ndim = 16\ncategorical = [{}]\nnumeric = [{}]\n{}",
            list("c", self.vocabulary.len()),
            list("n", self.numeric),
            self.rest
        );
        toml::from_str(&text).map_err(|e| Error::system(format!("{}: {e}", self.name)))
    }

    fn schema(&self) -> Schema {
        let categorical = self.vocabulary.iter().enumerate().map(|(i, &n)| (format!("c{i}"), n)).collect();
        Schema { categorical, numeric: self.numeric }
    }
}

/// Rows held in memory: Zipf ids (exponent 1) below `most` of each feature, normal numbers, clicks of 40 %.
struct Rows {
    ids: Vec<u32>,
    numeric: Vec<f32>,
    labels: Vec<(u8, u8)>,
}

impl Rows {
    fn zipf(rows: usize, most: &[usize], numeric: usize) -> Rows {
        Rows::draw(rows, most, numeric, |u, most| ((most as f32).powf(u) as usize).min(most) - 1)
    }

    fn uniform(rows: usize, most: &[usize], numeric: usize) -> Rows {
        Rows::draw(rows, most, numeric, |u, most| ((u * most as f32) as usize).min(most - 1))
    }

    fn draw(rows: usize, most: &[usize], numeric: usize, id: impl Fn(f32, usize) -> usize + Sync) -> Rows {
        let stream = |step| Stream::new(1, Purpose::Check, step);
        let (a, b, c) = (stream(1), stream(2), stream(3));
        let features = most.len();
        let mut ids = vec![0u32; rows * features];
        ids.par_iter_mut().enumerate().for_each(|(i, to)| *to = id(a.uniform(i as u64), most[i % features]) as u32);
        let labels = (0..rows as u64)
            .map(|row| {
                let u = c.uniform(row);
                (u8::from(u < 0.4), u8::from(u < 0.1))
            })
            .collect();
        Rows { ids, numeric: (0..(rows * numeric) as u64).map(|i| b.normal(i)).collect(), labels }
    }
}

impl RowSource for Rows {
    fn len(&self) -> usize {
        self.labels.len()
    }
    fn read(&self, rows: &[usize], to: &mut RowBlock) {
        let [features, numeric] = [self.ids.len(), self.numeric.len()].map(|all| all / self.len());
        for feature in 0..features {
            let [to] = to.ids(feature);
            to.iter_mut().zip(rows).for_each(|(id, &row)| *id = self.ids[row * features + feature]);
        }
        for (i, &row) in rows.iter().enumerate() {
            to.numeric[i * numeric..][..numeric].copy_from_slice(&self.numeric[row * numeric..][..numeric]);
            let (click, conversion) = self.labels[row];
            to.labels[2 * i..][..2].copy_from_slice(&[f32::from(click), f32::from(conversion)]);
        }
    }
}

/// A session over its minibatches, stepped one by one.
struct Trainer {
    session: Session,
    batches: Vec<Minibatch>,
    step: u64,
    outputs: Vec<Vec<f32>>,
    seconds: Vec<f64>,
    last: Instant,
}

impl Trainer {
    fn new(shape: &Shape, source: &Rows, options: &Options, roles: &[Role]) -> Result<Trainer> {
        let (choice, line) = Choice::new(&options.device)?;
        let config = shape.config()?;
        let model = Model::new(&config, &shape.schema(), choice.limits())?;
        let mut builder = BatchBuilder::new(batch_layout(&model), true);
        let numbers: Vec<usize> = (0..source.len()).collect();
        let batches = numbers
            .chunks_exact(shape.rows)
            .map(|rows| {
                let mut batch = Minibatch::default();
                builder.fill(source, rows, &mut batch)?;
                Ok(batch)
            })
            .collect::<Result<Vec<_>>>()?;
        let choice = if options.profile { choice.with_timestamps() } else { choice };
        let mut plan_line = |text: String| println!("{}: {line}; {text}", shape.name);
        let mut session = Session::open(&config, &shape.schema(), choice, roles, &mut plan_line)?;
        session.initialize()?;
        let mut trainer = Trainer { session, batches, step: 0, outputs: Vec::new(), seconds: Vec::new(), last: Instant::now() };
        for _ in 0..WARM_UP {
            trainer.step()?;
        }
        trainer.seconds.clear();
        Ok(trainer)
    }

    /// One more step is started, and the one before the last received: what lies between two calls is a step's time, uploads and
    /// readbacks included.
    fn step(&mut self) -> Result<()> {
        let batch = &self.batches[self.step as usize % self.batches.len()];
        self.session.train(0, self.step, batch)?;
        self.step += 1;
        if self.session.in_flight(0) > 1 {
            self.session.receive(0, &mut self.outputs)?;
        }
        self.seconds.push(self.last.elapsed().as_secs_f64());
        self.last = Instant::now();
        Ok(())
    }

    /// Steps until the time is up, at least five.
    fn run(&mut self, seconds: f64) -> Result<()> {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        let from = self.seconds.len();
        // The clock of the first step starts here, not where the last call ended.
        self.last = Instant::now();
        while self.seconds.len() < from + 5 || (Instant::now() < end && self.seconds.len() < from + 2000) {
            self.step()?;
        }
        Ok(())
    }

    fn figures(&mut self, rows: usize) -> Value {
        let (best, median) = best_and_median(&mut self.seconds);
        let loss = self.outputs.first().and_then(|o| o.get(4)).copied();
        json!({
            "device": self.session.device_name(), "rows": rows, "steps": self.seconds.len(), "best_ms": best * 1e3,
            "median_ms": median * 1e3, "rows_per_second": rows as f64 / median, "last_loss": loss,
        })
    }

    /// Further steps, recorded: where their time goes, by op and place in the model.
    fn profile(&mut self, seconds: f64) -> Result<Value> {
        self.drain()?;
        self.session.record(Mode::Detailed)?;
        let before = self.step;
        self.run(seconds)?;
        self.drain()?;
        let timeline = self.session.timeline()?;
        if let Clock::Missing(why) = &timeline.clock {
            println!("  no profile: {why}");
        }
        let nodes = Node::all(&self.session.model().training_plan(self.batches[0].rows));
        let mut times: BTreeMap<String, f64> = BTreeMap::new();
        for span in &timeline.spans {
            if let Activity::Node(node) = span.activity {
                let Node { kernel, label, .. } = &nodes[node];
                *times.entry(format!("{kernel:<28} {label}")).or_default() += span.seconds();
            }
        }
        let mut list: Vec<(String, f64)> = times.into_iter().collect();
        list.sort_by(|a, b| b.1.total_cmp(&a.1));
        let steps = (self.step - before) as f64;
        let all: f64 = list.iter().map(|l| l.1).sum();
        for (name, seconds) in list.iter().take(30) {
            println!("  {:8.3} ms {:5.1} %  {name}", seconds / steps * 1e3, 100.0 * seconds / all);
        }
        println!("  {:8.3} ms in all", all / steps * 1e3);
        Ok(list.iter().map(|(name, s)| json!({ "op": name, "ms": s / steps * 1e3 })).collect())
    }

    fn drain(&mut self) -> Result<()> {
        while self.session.in_flight(0) > 0 {
            self.session.receive(0, &mut self.outputs)?;
        }
        Ok(())
    }
}

fn best_and_median(seconds: &mut [f64]) -> (f64, f64) {
    seconds.sort_by(f64::total_cmp);
    (seconds[0], seconds[seconds.len() / 2])
}

fn whole_step(shape: &Shape, options: &Options) -> Result<Value> {
    let source = Rows::zipf(BATCHES.min(65_536 / shape.rows).max(2) * shape.rows, &shape.vocabulary, shape.numeric);
    let mut trainer = Trainer::new(shape, &source, options, &[Role::Train(shape.rows)])?;
    trainer.run(options.seconds)?;
    let mut figures = trainer.figures(shape.rows);
    println!(
        "{}: median {:.2} ms, best {:.2} ms a step of {}; {:.0} rows/s",
        shape.name, figures["median_ms"], figures["best_ms"], figures["steps"], figures["rows_per_second"]
    );
    if options.profile {
        figures["profile"] = trainer.profile(options.seconds)?;
    }
    figures["name"] = shape.name.clone().into();
    Ok(figures)
}

/// Training steps and inference over the same rows, in turns.
fn inference(shape: &Shape, options: &Options) -> Result<Value> {
    let source = Rows::zipf(BATCHES * shape.rows, &shape.vocabulary, shape.numeric);
    let mut trainer = Trainer::new(shape, &source, options, &[Role::Train(shape.rows), Role::Infer(shape.rows)])?;
    let mut seconds = Vec::new();
    let turns = 10;
    for _ in 0..turns {
        trainer.run(options.seconds / f64::from(turns) / 2.0)?;
        trainer.drain()?;
        let end = Instant::now() + Duration::from_secs_f64(options.seconds / f64::from(turns) / 2.0);
        let mut last = Instant::now();
        while Instant::now() < end {
            trainer.session.infer(1, &trainer.batches[seconds.len() % trainer.batches.len()])?;
            if trainer.session.in_flight(1) > 1 {
                trainer.session.receive(1, &mut trainer.outputs)?;
            }
            seconds.push(last.elapsed().as_secs_f64());
            last = Instant::now();
        }
        while trainer.session.in_flight(1) > 0 {
            trainer.session.receive(1, &mut trainer.outputs)?;
        }
    }
    let (_, training) = best_and_median(&mut trainer.seconds);
    let (_, inference) = best_and_median(&mut seconds);
    let [training, inference] = [training, inference].map(|s| shape.rows as f64 / s);
    let ratio = inference / training;
    println!("{}: training {training:.0} rows/s, inference {inference:.0}, {ratio:.2} times as many", shape.name);
    Ok(
        json!({ "name": shape.name, "device": trainer.session.device_name(), "training_rows_per_second": training, "inference_rows_per_second": inference, "ratio": ratio }),
    )
}

/// The same minibatches against a small and a large table, step times taken in turns, and the large table's own.
fn table_size(options: &Options) -> Result<Value> {
    let (small, large) = (Shape::table(100_000), Shape::table(10_000_000));
    let same = Rows::uniform(BATCHES * small.rows, &small.vocabulary, 0);
    let spread = Rows::uniform(BATCHES * small.rows, &large.vocabulary, 0);
    let mut list = [(&small, &same), (&large, &same), (&large, &spread)]
        .map(|(shape, source)| Trainer::new(shape, source, options, &[Role::Train(shape.rows)]));
    // In turns, so that whatever else the machine does meets all alike.
    let turns = 20;
    for _ in 0..turns {
        for trainer in &mut list {
            match trainer {
                Ok(trainer) => trainer.run(options.seconds / f64::from(turns))?,
                Err(e) => return Err(e.clone()),
            }
        }
    }
    let mut figures = Vec::new();
    for trainer in list {
        figures.push(trainer?.figures(small.rows));
    }
    let median = |i: usize| figures[i]["median_ms"].as_f64().unwrap_or(f64::NAN);
    let (ratio, spread_ratio) = (median(1) / median(0), median(2) / median(0));
    println!("10^5 table rows: median {:.2} ms; 10^7 with the same ids: {:.2} ms, ratio {ratio:.3}", median(0), median(1));
    println!("10^7 with ids spread over all rows: {:.2} ms, ratio {spread_ratio:.3}", median(2));
    Ok(json!({ "small": figures[0], "large_same_ids": figures[1], "large_spread_ids": figures[2], "ratio_same_ids": ratio,
        "ratio_spread_ids": spread_ratio }))
}

/// The kernels that a step of the design shape spends its time in, each alone at its sizes (those of B = 2048 and 8192), against the
/// device's roofs; layers without gates at the sizes of those with them as well.
fn kernels(options: &Options) -> Result<Value> {
    const KERNELS: [&str; 10] = [
        "linear_with_gates",
        "linear_input_gradient_with_gates",
        "linear_weight_gradient_with_gates",
        "linear",
        "linear_input_gradient",
        "linear_weight_gradient",
        "contrast",
        "contrast backward",
        "gather",
        "embedding_adam",
    ];
    let (choice, line) = Choice::new(&options.device)?;
    println!("kernels: {line}");
    let kernels = KERNELS.map(|name| (name, [].as_slice()));
    let profile = sweep(&kernels, choice, options.steps, &Progress::new(true))?;
    println!("{}", profile.to_text());
    serde_json::to_value(&profile).map_err(|e| Error::system(format!("kernels: {e}")))
}

/// Rows a second of shuffled minibatches from a dataset on disk, by the threads that build them ahead of a device.
fn loader(shape: &Shape, options: &Options) -> Result<Value> {
    const ROWS: usize = 1 << 19;
    let failed = |e: std::io::Error| Error::system(format!("{}: the log on disk: {e}", shape.name));
    let folder = tempfile::tempdir().map_err(failed)?;
    let source = Rows::zipf(ROWS, &shape.vocabulary, 0);
    let features = shape.vocabulary.len();
    let mut text = (0..features).map(|f| format!("c{f},")).collect::<String>() + "click,conversion\n";
    for (ids, (click, conversion)) in source.ids.chunks_exact(features).zip(&source.labels) {
        ids.iter().for_each(|id| text += &format!("{id},"));
        text += &format!("{click},{conversion}\n");
    }
    std::fs::write(folder.path().join("log.csv"), text).map_err(failed)?;
    let names: Vec<String> = (0..features).map(|f| format!("\"c{f}\"")).collect();
    let config = format!(
        "[data]\ntrain = [\"log.csv\"]\nvalid = [\"log.csv\"]\nclick = \"click\"\nconversion = \"conversion\"\n\
         [features]\ncategorical = [{}]\n",
        names.join(", ")
    );
    std::fs::write(folder.path().join("log.toml"), config).map_err(failed)?;
    let loaded = Loaded::read(&folder.path().join("log.toml"), &[])?;
    let dataset = prepare(&loaded, &folder.path().join("dataset"), &Progress::new(true))?;
    let schema = schema(dataset.encoding());
    let layout = batch_layout(&Model::new(&loaded.config, &schema, Choice::Cpu.limits())?);
    let mut prefetch =
        Prefetch::train(dataset.split(Split::Train), layout, shape.rows, 1, Position::default(), options.builders.get())?;
    let mut seconds = Vec::new();
    let end = Instant::now() + Duration::from_secs_f64(options.seconds.min(5.0));
    while seconds.len() < 5 || Instant::now() < end {
        let start = Instant::now();
        for _ in 0..ROWS / shape.rows {
            if let Some(batch) = prefetch.next()? {
                prefetch.recycle(batch);
            }
        }
        seconds.push(start.elapsed().as_secs_f64());
    }
    let (best, median) = best_and_median(&mut seconds);
    let [best, median] = [best, median].map(|s| (ROWS / shape.rows * shape.rows) as f64 / s);
    println!(
        "loader, {}, {} threads: median {:.2}, best {:.2} million rows/s from disk",
        shape.name,
        options.builders,
        median / 1e6,
        best / 1e6
    );
    Ok(json!({ "name": shape.name, "builders": options.builders, "rows_per_second": median, "best_rows_per_second": best }))
}

/// Rows a second that one thread makes minibatches of.
fn batches(shape: &Shape, options: &Options) -> Result<Value> {
    let source = Rows::zipf(BATCHES * shape.rows, &shape.vocabulary, shape.numeric);
    let model = Model::new(&shape.config()?, &shape.schema(), Choice::Cpu.limits())?;
    let mut builder = BatchBuilder::new(batch_layout(&model), true);
    let mut batch = Minibatch::default();
    let numbers: Vec<usize> = (0..source.len()).collect();
    let mut seconds = Vec::new();
    let end = Instant::now() + Duration::from_secs_f64(options.seconds.min(3.0));
    while seconds.len() < 5 || Instant::now() < end {
        let start = Instant::now();
        for rows in numbers.chunks_exact(shape.rows) {
            builder.fill(&source, rows, &mut batch)?;
        }
        seconds.push(start.elapsed().as_secs_f64());
    }
    let (best, median) = best_and_median(&mut seconds);
    let (best, median) = (source.len() as f64 / best, source.len() as f64 / median);
    println!("batch builder, {}: median {:.2}, best {:.2} million rows/s", shape.name, median / 1e6, best / 1e6);
    Ok(json!({ "name": shape.name, "rows_per_second": median, "best_rows_per_second": best }))
}

/// Commit, device with its driver and limits, threads, date: what figures are worth nothing without. The commit is that of the sources where it
/// runs.
fn machine(options: &Options) -> Result<Value> {
    // `registers` opens devices that are not there.
    let adapter = match (options.device.as_str(), options.parts.as_slice()) {
        ("cpu", _) => None,
        (_, [part]) if part == "registers" => None,
        (name, _) => match Choice::new(name)?.0 {
            Choice::Gpu(adapter) => Some(adapter.to_json()),
            Choice::Cpu => None,
        },
    };
    let command = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("model name"))?;
        line.split_once(':').map(|(_, name)| name.trim().to_string())
    });
    Ok(json!({
        "adapter": adapter, "commit": command("git", &["rev-parse", "HEAD"]),
        "uncommitted_changes": command("git", &["status", "--porcelain", "-uno"]).map(|s| !s.is_empty()),
        "version": env!("CARGO_PKG_VERSION"), "os": std::env::consts::OS, "architecture": std::env::consts::ARCH, "cpu": cpu,
        "cores": std::thread::available_parallelism().map(usize::from).ok(), "threads": rayon::current_num_threads(),
        "debug_assertions": cfg!(debug_assertions), "date": date(),
    }))
}

/// Now, in UTC.
fn date() -> String {
    let seconds = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs());
    // Days to the civil calendar by eras of 400 years that begin in March (Hinnant, "chrono-compatible low-level date algorithms").
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute) = (seconds / 3_600 % 24, seconds / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}Z")
}

fn run(options: &Options) -> Result<()> {
    const PARTS: [&str; 8] = ["kuairand", "design", "infer", "kernels", "table", "batch", "loader", "registers"];
    if let Some(wrong) = options.parts.iter().find(|p| !PARTS.contains(&p.as_str())) {
        return Err(Error::user(format!("{wrong}: no part of this bench; there are {}", PARTS.join(", "))));
    }
    start_threads(options.threads)?;
    let wanted = |part: &str| options.parts.is_empty() || options.parts.iter().any(|p| p == part);
    let mut results = json!({ "machine": machine(options)? });
    if wanted("kuairand") {
        results["kuairand"] = whole_step(&Shape::kuairand(options.rows), options)?;
    }
    if wanted("design") {
        results["design"] =
            [2048, 8192].map(|rows| whole_step(&Shape::design(rows), options)).into_iter().collect::<Result<Value>>()?;
    }
    if wanted("infer") {
        let shapes = [Shape::kuairand(options.rows), Shape::design(2048)];
        results["inference"] = shapes.iter().map(|shape| inference(shape, options)).collect::<Result<Value>>()?;
    }
    if wanted("table") {
        results["table_size"] = table_size(options)?;
    }
    if wanted("batch") {
        let shapes = [Shape::kuairand(options.rows), Shape::design(2048)];
        results["batch_builder"] = shapes.iter().map(|shape| batches(shape, options)).collect::<Result<Value>>()?;
    }
    if wanted("kernels") {
        results["kernels"] = kernels(options)?;
    }
    if wanted("loader") {
        results["loader"] =
            [2048, 8192].map(|rows| loader(&Shape::design(rows), options)).into_iter().collect::<Result<Value>>()?;
    }
    if options.parts.iter().any(|part| part == "registers") {
        let device = Some(options.device.as_str()).filter(|name| !["cpu", "gpu", "auto"].contains(name));
        let plans = |limits: Limits| {
            let plan = |rows: usize| {
                let shape = Shape::design(rows);
                Ok(Model::new(&shape.config()?, &shape.schema(), limits.clone())?.training_plan(rows))
            };
            [2048, 8192].into_iter().map(plan).collect::<Result<Vec<Plan>>>()
        };
        results["registers"] = registers::registers(device, plans)?;
    }
    if let Some(file) = &options.json {
        let text = format!("{results:#}\n");
        std::fs::write(file, text).map_err(|e| Error::user(format!("{}: {e}", file.display())))?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(&<Options as clap::Parser>::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}
