//! One kernel alone, over sizes.

use super::lines::{Line, Node, lines};
use super::roofs::Roofs;
use super::tune::Work;
use super::{Mode, Profile, Recorded};
use crate::config::{
    Activation, CvrLoss, DenseOptimizer, DenseRule, Direction, EmbeddingOptimizer, EmbeddingRule, Loss, Objective,
};
use crate::device::timeline::{Activity, Clock, Timeline};
use crate::device::{Choice, Device, Limits};
use crate::graph::{Graph, Input, Plan, Step, TensorId};
use crate::ops::agreement::agreement;
use crate::ops::batch_norm::{Moments, batch_norm};
use crate::ops::check::{Setup, integers, normals};
use crate::ops::contrast::{Contrast, Contrasted, contrast};
use crate::ops::dropout::{Dropout, dropout};
use crate::ops::embedding_update::{self, ShardState, embedding_update};
use crate::ops::gather::{Columns, Shard, gather};
use crate::ops::layer_norm::{LayerNorm, layer_norm};
use crate::ops::linear::{GateLayer, Linear, linear, linear_with_gates};
use crate::ops::losses::{Logits, losses};
use crate::ops::mixture::{Gates, MOST, Mixture, mixture};
use crate::ops::report::{ContrastPart, report};
use crate::ops::temperature::{constant, temperature};
use crate::ops::tile::{Chosen, TILES, Tiles};
use crate::ops::{activation, clip, columns, conditional, dense_update, interact, normalize, probe, transfer};
use crate::report::progress::Progress;
use crate::{Error, Result};
use bytemuck::Zeroable;
use serde::Serialize;

/// Ops that are put into a graph together at one size.
struct Family {
    /// What the sizes are of.
    dimensions: &'static str,
    /// Sizes that are taken where none are named.
    sizes: &'static [&'static [usize]],
    build: fn(&mut Setup, &[usize]),
}

/// A minibatch's rows twice, and wide enough for a device to be busy.
const ROWS: &[&[usize]] = &[&[2048], &[8192], &[65_536]];
const ROWS_WIDTH: &[&[usize]] = &[&[2048, 64], &[8192, 64], &[8192, 512]];
/// Of dim 64 as many rows as fit the 128 MiB that WebGPU promises a binding, with both moments.
const EMBEDDING: &[&[usize]] = &[&[2048, 20, 16, 1_000_000], &[8192, 20, 16, 1_000_000], &[8192, 20, 64, 250_000]];
const DENSE: &[&[usize]] = &[&[65_536], &[1_048_576], &[8_388_608]];
const WITH_GATES: &[&[usize]] = &[&[2048, 1, 320, 512, 8], &[8192, 1, 320, 512, 8]];
const LINEAR: &[&[usize]] =
    &[&[2048, 1, 320, 512], &[8192, 1, 320, 512], &[2048, 4, 128, 64], &[8192, 4, 128, 64], &[8192, 2, 64, 1]];

/// Most numbers that an array may have, 512 MiB of them: a size that was meant otherwise should not take all memory.
const MOST_NUMBERS: f64 = (1u64 << 27) as f64;

/// Slices in which [`slice`] has sums cut.
const SLICED: usize = 8;

/// Every kernel is in at least one of them; the first is taken.
const FAMILIES: &[Family] = &[
    Family { dimensions: "rows x groups x inputs x outputs", sizes: LINEAR, build: |s, d| dense_layer(s, d, Activation::Relu) },
    Family { dimensions: "rows x groups x inputs x outputs", sizes: LINEAR, build: |s, d| dense_layer(s, d, Activation::Gelu) },
    Family {
        dimensions: "rows x groups x inputs x outputs",
        sizes: LINEAR,
        build: |s, d| {
            slice(s);
            dense_layer(s, d, Activation::Relu);
        },
    },
    Family {
        dimensions: "rows x groups x inputs x outputs x gates",
        sizes: WITH_GATES,
        build: |s, d| dense_layer(s, d, Activation::Relu),
    },
    Family {
        dimensions: "rows x groups x inputs x outputs x gates",
        sizes: WITH_GATES,
        build: |s, d| dense_layer(s, d, Activation::Gelu),
    },
    Family {
        dimensions: "rows x groups x columns",
        sizes: &[&[2048, 1, 64], &[8192, 1, 64], &[8192, 1, 512]],
        build: |s, d| {
            by_rows(s, d[0], d[1] * d[2], |g, x| activation::activation(g, x, d[0], Activation::Gelu));
        },
    },
    Family {
        dimensions: "numbers",
        sizes: DENSE,
        build: |s, d| {
            s.input_as(Input::Step, &[Step::zeroed()]);
            by_rows(s, d[0], 1, |g, x| dropout(g, x, d[0], Dropout { rate: 0.2, seed: 1, layer: 0 }));
        },
    },
    Family {
        dimensions: "rows x groups x columns",
        sizes: &[&[2048, 4, 128], &[8192, 4, 128]],
        build: |s, d| {
            let (gain, offset) =
                (s.state_tensor("gain", &vec![1f32; d[1] * d[2]]), s.state_tensor("offset", &vec![0f32; d[1] * d[2]]));
            let shape = LayerNorm { rows: d[0], groups: d[1], width: d[2] };
            by_rows(s, d[0], d[1] * d[2], |g, x| layer_norm(g, x, gain, offset, shape));
        },
    },
    Family {
        dimensions: "rows x columns",
        sizes: &[&[2048, 512], &[8192, 512]],
        build: |s, d| {
            let [gain, variance] = ["gain", "variance"].map(|name| s.state_tensor(name, &vec![1f32; d[1]]));
            let [offset, mean] = ["offset", "mean"].map(|name| s.state_tensor(name, &vec![0f32; d[1]]));
            let health = s.state_tensor("health", &[0u32]);
            by_rows(s, d[0], d[1], |g, x| batch_norm(g, x, gain, offset, d[0], Moments { mean, variance }, health));
        },
    },
    Family {
        dimensions: "rows x columns",
        sizes: ROWS_WIDTH,
        build: |s, d| {
            let from = s.input(&normals(1, d[0] * d[1], 1.0));
            let to = s.graph.transient("to", d[0] * d[1]);
            columns::copy(&mut s.graph, d[0], (from, 0), (to, 0), d[1], false);
            s.graph.output(to);
        },
    },
    Family {
        dimensions: "rows x columns",
        sizes: ROWS_WIDTH,
        build: |s, d| {
            by_rows(s, d[0], 2 * d[1], |g, x| interact::interact(g, x, d[0], d[1], true));
        },
    },
    Family {
        dimensions: "vectors x columns",
        sizes: &[&[4096, 64], &[16_384, 64]],
        build: |s, d| {
            by_rows(s, d[0], d[1], |g, x| normalize::normalize(g, x, d[0], 1, d[1]));
        },
    },
    Family {
        dimensions: "rows x columns",
        sizes: ROWS_WIDTH,
        build: |s, d| {
            by_rows(s, d[0], 6 * d[1], |g, x| transfer::transfer(g, x, d[0], d[1]));
        },
    },
    Family {
        dimensions: "rows x tasks x experts x columns",
        sizes: &[&[2048, 2, 4, 64], &[8192, 2, 4, 64]],
        build: |s, d| {
            let gates = Gates::all(d[1], d[2]);
            let logits = s.state_tensor("logits", &normals(2, d[0] * gates.columns(), 1.0));
            let shape = Mixture { rows: d[0], experts: d[2], width: d[3], gates };
            by_rows(s, d[0], d[2] * d[3], |g, x| mixture(g, logits, x, shape));
        },
    },
    Family {
        dimensions: "rows x features x dim x table rows",
        sizes: EMBEDDING,
        build: |s, d| {
            let ids = s.input_as(Input::Ids(0), &zipf(d[0] * d[1], d[3]));
            let table = s.state_tensor("table", &normals(2, d[3] * d[2], 1.0));
            let x = s.graph.transient("x", d[0] * d[1] * d[2]);
            gather(&mut s.graph, table, ids, x, whole_columns(d), Shard { first: 0, count: d[3], of: d[3] });
            s.graph.output(x);
        },
    },
    Family {
        dimensions: "rows x features x dim x table rows",
        sizes: EMBEDDING,
        build: |s, d| embedding(s, d, EmbeddingRule::RowwiseAdagrad),
    },
    Family {
        dimensions: "rows x features x dim x table rows",
        sizes: EMBEDDING,
        build: |s, d| embedding(s, d, EmbeddingRule::Adam),
    },
    Family {
        dimensions: "rows x features x dim x table rows",
        sizes: EMBEDDING,
        build: |s, d| embedding(s, d, EmbeddingRule::Adagrad),
    },
    Family {
        dimensions: "rows x features x dim x table rows",
        sizes: EMBEDDING,
        build: |s, d| embedding(s, d, EmbeddingRule::Sgd),
    },
    Family { dimensions: "rows x columns", sizes: &[&[2048, 64], &[8192, 64]], build: |s, d| contrasted(s, d, 0) },
    Family {
        dimensions: "rows x columns",
        sizes: &[&[2048, 64], &[8192, 64]],
        build: |s, d| {
            slice(s);
            contrasted(s, d, 0);
        },
    },
    Family {
        dimensions: "rows x columns x sampled rows",
        sizes: &[&[2048, 64, 64], &[8192, 64, 64]],
        build: |s, d| contrasted(s, d, d[2]),
    },
    Family {
        dimensions: "rows",
        sizes: ROWS,
        build: |s, d| {
            by_rows(s, d[0], 1, |g, r| temperature(g, r, d[0], false, 0.05, 1.0));
            let filled = constant(&mut s.graph, d[0], 0.2);
            s.graph.output(filled);
        },
    },
    Family { dimensions: "rows", sizes: ROWS, build: |s, d| by_rows(s, 1, 1, |g, r| temperature(g, r, d[0], true, 0.05, 1.0)) },
    Family {
        dimensions: "rows",
        sizes: ROWS,
        build: |s, d| {
            s.input_as(Input::Labels, &labels(d[0]));
            by_rows(s, d[0], 1, |g, r| agreement(g, r, d[0], 1.0));
        },
    },
    Family {
        dimensions: "rows",
        sizes: ROWS,
        build: |s, d| {
            let direct = s.input(&normals(1, 2 * d[0], 1.0));
            let logits = conditional::conditional(&mut s.graph, direct, d[0]);
            s.graph.output(logits);
        },
    },
    Family { dimensions: "rows", sizes: ROWS, build: |s, d| supervised(s, d[0], CvrLoss::Clicked) },
    Family { dimensions: "rows", sizes: ROWS, build: |s, d| supervised(s, d[0], CvrLoss::Dr) },
    Family { dimensions: "rows", sizes: ROWS, build: |s, d| reported(s, d[0], false) },
    Family { dimensions: "rows", sizes: ROWS, build: |s, d| reported(s, d[0], true) },
    Family {
        dimensions: "weights",
        sizes: DENSE,
        build: |s, d| {
            let gradients = s.input(&normals(1, d[0], 1.0));
            let factor = clip::clip_factor(&mut s.graph, &[gradients], 1.0);
            s.graph.output(factor);
        },
    },
    Family { dimensions: "weights", sizes: DENSE, build: |s, d| dense(s, d[0], DenseRule::Adamw) },
    Family { dimensions: "weights", sizes: DENSE, build: |s, d| dense(s, d[0], DenseRule::Adagrad) },
    Family { dimensions: "weights", sizes: DENSE, build: |s, d| dense(s, d[0], DenseRule::Sgd) },
    Family {
        dimensions: "vectors of four",
        sizes: DENSE,
        build: |s, d| {
            let from = s.state_tensor("from", &normals(1, 4 * d[0], 1.0));
            let to = s.state_tensor("to", &vec![0f32; 4 * d[0]]);
            probe::copy(&mut s.graph, from, to);
        },
    },
    Family {
        dimensions: "vectors of four x rounds",
        sizes: &[&[65_536, 64], &[65_536, 1024]],
        build: |s, d| {
            let from = s.state_tensor("from", &normals(1, 4 * d[0], 1.0));
            let to = s.state_tensor("to", &vec![0f32; 4 * d[0]]);
            probe::multiply_add(&mut s.graph, from, to, d[1]);
        },
    },
];

/// An op over x [rows, columns], with a gradient of its result and, where it has one, its backward pass.
fn by_rows(s: &mut Setup, rows: usize, columns: usize, op: impl Fn(&mut Graph, TensorId) -> TensorId) {
    let x = s.state_tensor("x", &normals(1, rows * columns, 1.0));
    let y = op(&mut s.graph, x);
    let dy = s.state_tensor("dy", &normals(3, s.graph.get(y).len, 1.0));
    s.graph.seed(y, dy);
    s.graph.backward();
    s.graph.output(y);
}

/// A layer, and where there is a fifth size, so many gates beside it.
fn dense_layer(s: &mut Setup, d: &[usize], activation: Activation) {
    let &[rows, groups, inputs, outputs, ref gates @ ..] = d else { return };
    let mut of = |name: &str, seed, len| s.state_tensor(name, &normals(seed, len, 0.1));
    let (w, bias) = (of("w", 2, groups * inputs * outputs), of("bias", 4, groups * outputs));
    let gates = gates.first().map(|&outputs| {
        let (w, bias) = (of("gate w", 5, inputs * outputs), of("gate bias", 6, outputs));
        (GateLayer { w, bias, outputs }, of("dz", 7, rows * outputs))
    });
    let shape = Linear { rows, groups, inputs, outputs, activation, input_gradient: true };
    by_rows(s, rows, groups * inputs, |g, x| {
        let Some((gates, dz)) = gates else { return linear(g, x, w, Some(bias), shape) };
        let (y, z) = linear_with_gates(g, x, w, Some(bias), shape, gates);
        g.seed(z, dz);
        y
    });
}

/// Has products summed in slices, whatever the device.
fn slice(s: &mut Setup) {
    let tiles = Tiles::always(Chosen { tile: TILES[1], slices: SLICED });
    s.graph = Graph::new(Limits { tiles, ..s.graph.limits().clone() });
}

/// Clicks and conversions, a third of the rows with a click alone, another with both.
fn labels(rows: usize) -> Vec<[f32; 2]> {
    integers(2, rows, 3).iter().map(|&l| [f32::from(l > 0), f32::from(l > 1)]).collect()
}

/// `n` ids below `most` by Zipf's law with exponent 1.
fn zipf(n: usize, most: usize) -> Vec<u32> {
    let id = |word: u32| ((most as f64).powf(f64::from(word) / f64::from(1 << 24)) as u32).clamp(1, most as u32) - 1;
    integers(1, n, 1 << 24).into_iter().map(id).collect()
}

fn whole_columns(d: &[usize]) -> Columns {
    Columns { rows: d[0], columns: d[1] * d[2], offset: 0, features: d[1], dim: d[2] }
}

fn embedding(s: &mut Setup, d: &[usize], kind: EmbeddingRule) {
    let (dim, count) = (d[2], d[3]);
    embedding_update::put_minibatch(s, &zipf(d[0] * d[1], count));
    s.input_as(Input::Step, &[Step { embedding_lr: 0.01, ..Step::zeroed() }]);
    let dx = s.state_tensor("dx", &normals(2, d[0] * d[1] * dim, 0.1));
    let health = s.state_tensor("health", &[0u32]);
    let width = embedding_update::moment_width(kind, dim);
    let state = ShardState {
        shard: Shard { first: 0, count, of: count },
        table: s.state_tensor("table", &normals(3, count * dim, 1.0)),
        moments: (width > 0).then(|| s.state_tensor("moments", &vec![0f32; count * width])),
        steps: (kind == EmbeddingRule::Adam).then(|| s.state_tensor("steps", &vec![0u32; count])),
    };
    let optimizer = EmbeddingOptimizer { kind, ..EmbeddingOptimizer::default() };
    embedding_update(&mut s.graph, 0, dx, health, whole_columns(d), &[state], &optimizer);
}

fn contrasted(s: &mut Setup, d: &[usize], negatives: usize) {
    let (rows, width) = (d[0], d[1]);
    let spec = Contrast {
        rows,
        width,
        weight: 0.05,
        direction: Direction::Both,
        objective: Objective::Robust,
        rho: 1.0,
        negatives,
        clicked_anchors: true,
        masked: false,
        tau_gradient: true,
    };
    // Rows of about unit length.
    let z = s.state_tensor("z", &normals(1, rows * 2 * width, (width as f32).sqrt().recip()));
    let tau = s.state_tensor("tau", &vec![0.2f32; rows]);
    s.input_as(Input::Labels, &labels(rows));
    s.input_as(Input::Step, &[Step { contrast: 1.0, ..Step::zeroed() }]);
    if negatives > 0 {
        s.input_as(Input::Offsets, &(1..=negatives as u32).collect::<Vec<u32>>());
    }
    let Contrasted { losses, pairing } = contrast(&mut s.graph, z, tau, spec);
    s.graph.backward();
    s.graph.output(losses);
    s.graph.output(pairing);
}

fn supervised(s: &mut Setup, rows: usize, cvr_kind: CvrLoss) {
    let tasks = s.state_tensor("logits", &normals(1, 2 * rows, 1.0));
    let imputation = (cvr_kind == CvrLoss::Dr).then(|| s.state_tensor("imputation", &normals(3, rows, 1.0)));
    s.input_as(Input::Labels, &labels(rows));
    s.input_as(Input::Step, &[Step { inverse_clicks: 1.5 / rows as f32, ..Step::zeroed() }]);
    let loss = Loss { cvr_kind, ..Loss::default() };
    let losses = losses(&mut s.graph, Logits { tasks, direct: false, imputation }, rows, &loss, None);
    s.graph.output(losses);
}

fn reported(s: &mut Setup, rows: usize, with_contrast: bool) {
    let losses = s.state_tensor("losses", &normals(1, 3 * rows, 1.0));
    s.input_as(Input::Step, &[Step { inverse_clicks: 1.5 / rows as f32, contrast: 1.0, ..Step::zeroed() }]);
    let health = s.state_tensor("health", &[0u32]);
    let contrast = with_contrast.then(|| ContrastPart {
        losses: s.state_tensor("contrast", &normals(2, rows, 1.0)),
        tau: s.state_tensor("tau", &vec![0.2f32; rows]),
        weight: 0.05,
        pairing: s.state_tensor("pairing", &vec![1f32; 2 * rows]),
        relatedness: None,
    });
    let uncertainty = s.state_tensor("uncertainty", &[0f32; 3]);
    let report = report(&mut s.graph, losses, contrast, health, rows, &Loss::default(), Some(uncertainty));
    s.graph.output(report);
    s.graph.backward();
}

fn dense(s: &mut Setup, count: usize, kind: DenseRule) {
    let weights = s.state_tensor("weights", &normals(1, count, 1.0));
    let gradients = s.state_tensor("gradients", &normals(2, count, 0.1));
    let moments = match kind {
        DenseRule::Adamw => 2,
        DenseRule::Adagrad => 1,
        DenseRule::Sgd => 0,
    };
    let state: Vec<TensorId> = (0..moments).map(|_| s.state_tensor("moments", &vec![0f32; count])).collect();
    let health = s.state_tensor("health", &[0u32]);
    s.input_as(Input::Step, &[Step { dense_lr: 0.001, correction1: 0.1, correction2: 0.001, ..Step::zeroed() }]);
    let optimizer = DenseOptimizer { kind, ..DenseOptimizer::default() };
    dense_update::dense_update(&mut s.graph, weights, gradients, &state, health, None, &optimizer, 1.0);
}

/// A kernel that can be profiled alone.
#[derive(Debug, Clone, Serialize)]
pub struct Kernel {
    /// Its name.
    pub name: &'static str,
    /// What its sizes are of.
    pub dimensions: &'static str,
    /// Sizes that are taken where none are named.
    pub shapes: Vec<String>,
    #[serde(skip)]
    family: usize,
}

/// A small size: but rows enough for slices of them, and one group, beside which gates may stand.
fn few(dimension: &str) -> usize {
    match dimension {
        "rows" => 32,
        "groups" => 1,
        _ => 2,
    }
}

/// Every kernel that there is, by name.
pub fn kernels() -> Vec<Kernel> {
    let mut kernels: Vec<Kernel> = Vec::new();
    for (family, Family { dimensions, sizes, build }) in FAMILIES.iter().enumerate() {
        let mut setup = Setup::default();
        let smallest: Vec<usize> = dimensions.split(" x ").map(few).collect();
        build(&mut setup, &smallest);
        for node in Plan::new(setup.graph).nodes {
            let name = node.op.kernel().name;
            if kernels.iter().all(|k| k.name != name) {
                let shape = |sizes: &&[usize]| sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
                kernels.push(Kernel { name, dimensions, shapes: sizes.iter().map(shape).collect(), family });
            }
        }
    }
    kernels.sort_by_key(|k| k.name);
    kernels
}

/// A line a kernel: name, what its sizes are of, an example.
pub fn list() -> String {
    let line = |k: Kernel| format!("{:<34} --shape {:<28} {}\n", k.name, k.shapes[0], k.dimensions);
    kernels().into_iter().map(line).collect()
}

/// Sizes like `2048x1x320x128` for a kernel.
///
/// # Errors
///
/// Another number of sizes than the kernel has; one that is no number above 0.
fn sizes(text: &str, kernel: &Kernel) -> Result<Vec<usize>> {
    let sizes: Vec<usize> =
        text.split('x').filter_map(|size| Some(size.parse::<u32>().ok().filter(|&n| n > 0)? as usize)).collect();
    let wanted = kernel.dimensions.split(" x ").count();
    if sizes.len() != wanted || text.split('x').count() != wanted {
        let (name, dimensions, example) = (kernel.name, kernel.dimensions, &kernel.shapes[0]);
        return Err(Error::user(format!("--shape {text}: {name} takes {dimensions}, like {example}")));
    }
    if kernel.dimensions.ends_with("sampled rows") && sizes.last() >= sizes.first() {
        return Err(Error::user(format!("--shape {text}: fewer rows must be sampled than there are")));
    }
    if kernel.dimensions.starts_with("rows x tasks") && sizes[1] > MOST {
        return Err(Error::user(format!("--shape {text}: there are at most {MOST} tasks")));
    }
    if kernel.dimensions.ends_with("gates") && sizes[1] != 1 {
        return Err(Error::user(format!("--shape {text}: gates stand beside a layer of one group, like {}", kernel.shapes[0])));
    }
    let numbers = numbers(kernel.dimensions, &sizes);
    if numbers > MOST_NUMBERS {
        return Err(Error::user(format!(
            "--shape {text}: an array would have {numbers} numbers, and more than {MOST_NUMBERS} are not measured; take smaller sizes"
        )));
    }
    Ok(sizes)
}

/// Numbers in the largest array at these sizes.
fn numbers(dimensions: &str, sizes: &[usize]) -> f64 {
    let product = |names: &[&str]| -> f64 {
        let of = dimensions.split(" x ").zip(sizes).filter(|(name, _)| names.contains(name));
        of.map(|(_, &size)| size as f64).product()
    };
    let across = product(&["inputs"]).max(product(&["outputs"])).max(product(&["gates"]));
    let rows = across * product(&["rows", "vectors", "groups", "tasks", "experts", "columns", "features", "dim"]);
    let weights = product(&["groups", "inputs"]) * product(&["outputs"]).max(product(&["gates"]));
    let others = product(&["dim", "table rows"]).max(product(&["numbers", "weights"])).max(4.0 * product(&["vectors of four"]));
    rows.max(weights).max(others)
}

/// The kernel called `name`, its family and the sizes that `shapes` are, or its family's own where there are none.
///
/// # Errors
///
/// A name or shape that fits nothing.
fn find(name: &str, shapes: &[String]) -> Result<(&'static Family, Vec<Vec<usize>>)> {
    let kernel = kernels().into_iter().find(|k| k.name == name).ok_or_else(|| {
        let names: Vec<&str> = kernels().into_iter().map(|k| k.name).collect();
        Error::user(format!("--kernel {name}: there is none of this name; there are: {}", names.join("; ")))
    })?;
    let family = &FAMILIES[kernel.family];
    let shapes = match shapes {
        [] => family.sizes.iter().map(|sizes| sizes.to_vec()).collect(),
        shapes => shapes.iter().map(|text| sizes(text, &kernel)).collect::<Result<_>>()?,
    };
    Ok((family, shapes))
}

/// Refuses what [`sweep`] would refuse, before a device is looked for.
///
/// # Errors
///
/// A name or shape that fits nothing.
pub fn check(name: &str, shapes: &[String]) -> Result<()> {
    find(name, shapes).map(|_| ())
}

/// Opens a device with what `build` puts together and records `steps` steps, one by one.
fn record(choice: &Choice, limits: Limits, steps: usize, build: impl FnOnce(&mut Setup)) -> Result<(Vec<Node>, Timeline)> {
    let mut setup = Setup::default();
    setup.graph = Graph::new(limits);
    build(&mut setup);
    let ids = setup.ids();
    let mut nodes = Vec::new();
    let (mut device, inputs) = setup.open(|state, plans| {
        nodes = plans.iter().flat_map(Node::all).collect();
        Node::count_ids(&mut nodes, &ids);
        choice.clone().open(&state.buffers, plans)
    })?;
    let bytes: Vec<&[u8]> = inputs.iter().map(|words| bytemuck::cast_slice(words)).collect();
    let mut outputs = Vec::new();
    let mut run = |device: &mut dyn Device, steps: usize| {
        for _ in 0..steps {
            device.submit(0, &bytes)?;
            device.receive(0, &mut outputs)?;
        }
        Ok::<(), Error>(())
    };
    // The first step is the device's own measuring, the next touches everything once more.
    run(&mut *device, 2)?;
    device.record(Mode::Detailed)?;
    run(&mut *device, steps)?;
    Ok((nodes, device.timeline()?))
}

/// Median seconds of the products of `work`, in the order of [`Work::shapes`], each with what merges its slices.
///
/// # Errors
///
/// A device that gives no time; what it reports.
pub fn product_times(choice: &Choice, limits: Limits, work: Work, steps: usize) -> Result<Vec<f64>> {
    let (nodes, timeline) = record(choice, limits, steps, |setup| match work {
        Work::Layer(sizes) => dense_layer(setup, &sizes, Activation::Relu),
        Work::Contrast(sizes) => contrasted(setup, &sizes, 0),
    })?;
    let missing = |why| Error::user(format!("{}: {why}, so its kernels cannot be timed", choice.describe()));
    if let Clock::Missing(why) = timeline.clock {
        return Err(missing(why));
    }
    // A dispatch whose timestamps cannot be used has no time: its step is left out.
    let median = |kernels: &&[&str]| {
        let is_of = |node: &Node| kernels.contains(&node.kernel);
        let dispatches = nodes.iter().filter(|node| is_of(node)).count();
        let mut of_steps = vec![(0, 0.0); steps];
        for span in &timeline.spans {
            if let Activity::Node(node) = span.activity
                && is_of(&nodes[node])
            {
                let (timed, seconds) = &mut of_steps[span.step - 2];
                (*timed, *seconds) = (*timed + 1, *seconds + span.seconds());
            }
        }
        let mut times: Vec<f64> = of_steps.into_iter().filter(|of| of.0 == dispatches).map(|of| of.1).collect();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied().ok_or_else(|| missing("no step has usable timestamps".to_string()))
    };
    let kernels: &[&[&str]] = match work {
        Work::Layer(_) => &[&["linear"], &["linear_input_gradient"], &["linear_weight_gradient", "linear_merge"]],
        Work::Contrast(_) => &[&["contrast", "contrast losses", "contrast backward", "contrast merge"]],
    };
    kernels.iter().map(median).collect()
}

/// Profiles kernels, each a name with its shapes, or with the kernel's own where there are none: `steps` steps at each.
///
/// # Errors
///
/// A name or shape that fits nothing; what the device reports.
pub fn sweep(kernels: &[(&str, &[String])], choice: Choice, steps: usize, progress: &Progress) -> Result<Profile> {
    let mut runs = Vec::new();
    for &(name, shapes) in kernels {
        let (family, shapes) = find(name, shapes)?;
        runs.extend(shapes.into_iter().map(|shape| (name, family, shape)));
    }
    let choice = choice.with_timestamps();
    let task = progress.task("measuring", 2, "roofs");
    let roofs = Roofs::measure(&choice, &task)?;
    drop(task);
    let names: Vec<&str> = kernels.iter().map(|kernel| kernel.0).collect();
    let task = progress.task(&names.join(", "), runs.len() as u64, "shapes");
    let mut all = Recorded::default();
    let mut found: Vec<Line> = Vec::new();
    for (name, family, shape) in runs {
        let first = all.spans.iter().map(|span| span.step + 1).max().unwrap_or(0);
        let (nodes, mut timeline) = record(&choice, choice.limits(), steps, |setup| (family.build)(setup, &shape))?;
        let of_kernel = lines(&nodes, &timeline.spans, Mode::Detailed, &roofs).into_iter().filter(|l| l.name == name);
        let before = found.len();
        let sizes = shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
        found.extend(of_kernel.map(|line| {
            // Sizes of the dispatch that are not those that were asked for would not tell one from the other.
            if check(name, std::slice::from_ref(&line.shape)).is_ok() {
                return Line { share: None, ..line };
            }
            Line { share: None, shape: sizes.clone(), dimensions: family.dimensions.into(), ..line }
        }));
        if found.len() == before {
            return Err(Error::user(format!(
                "--shape {sizes}: {name} is not run at so small a size on this device; take larger sizes"
            )));
        }
        // The nodes and steps of shape after shape stand in one list.
        timeline.spans.iter_mut().for_each(|span| {
            span.step += first;
            if let Activity::Node(node) = &mut span.activity {
                *node += all.nodes.len();
            }
        });
        all.nodes.extend(nodes);
        all.add(timeline, |_| true);
        task.advance(1);
    }
    Ok(all.profile(&choice, Mode::Detailed, roofs, found, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::cases;
    use std::collections::BTreeSet;

    #[test]
    fn every_kernel_can_be_profiled_alone() {
        let mut used = BTreeSet::new();
        for case in cases() {
            used.extend(Plan::new(case.setup().graph).nodes.iter().map(|n| n.op.kernel().name));
        }
        let listed: BTreeSet<&str> = kernels().iter().map(|k| k.name).collect();
        assert!(listed == used, "only in one: {:?}", listed.symmetric_difference(&used).collect::<Vec<_>>());
    }

    #[test]
    fn sizes_are_as_many_as_dimensions() {
        let of = |name: &str| kernels().into_iter().find(|k| k.name == name).expect("a kernel");
        assert_eq!(sizes("7x1x3x2", &of("linear")), Ok(vec![7, 1, 3, 2]));
        for wrong in ["", "7", "7x1x3", "7x1x3x2x1", "7x1x3x0", "7x1x3xa"] {
            let message = format!("--shape {wrong}: linear takes rows x groups x inputs x outputs, like 2048x1x320x512");
            assert_eq!(sizes(wrong, &of("linear")), Err(Error::user(message)));
        }
        assert!(sizes("64x8x64", &of("contrast, sampled")).is_err());
        assert!(sizes("64x2x8x8x4", &of("linear_with_gates")).is_err());
        assert_eq!(sizes("64x1x8x8x4", &of("linear_with_gates")), Ok(vec![64, 1, 8, 8, 4]));
        assert_eq!(sizes("64x8x63", &of("contrast, sampled")), Ok(vec![64, 8, 63]));
    }

    #[test]
    fn sizes_of_too_many_numbers_are_refused() {
        let of = |name: &str| kernels().into_iter().find(|k| k.name == name).expect("a kernel");
        for (name, shape) in [
            ("gather", "4294967295x4294967295x1x10"),
            ("gather", "1x1x4294967295x4294967295"),
            ("interact", "4294967295x4294967295"),
            ("linear", "4294967295x4294967295x4294967295x4294967295"),
            ("linear", "1x1x1x4294967295"),
            ("linear_with_gates", "1x1x1x1x4294967295"),
            ("dense_adamw", "4294967295"),
            ("dropout", "4294967295"),
            ("norm_sums", "2x1x4294967295"),
            ("normalize", "4294967295x1"),
            ("mix", "1x1x4294967295x1"),
            ("probe_fma", "4294967295x1"),
            ("losses", "4294967295"),
        ] {
            let message = sizes(shape, &of(name)).expect_err("too many").to_string();
            assert!(message.contains("numbers"), "{name} {shape}: {message}");
        }
        for kernel in kernels() {
            assert!(kernel.shapes.iter().all(|shape| sizes(shape, &kernel).is_ok()), "{}", kernel.name);
        }
    }

    /// So a table's shape can be taken for `--shape`.
    #[test]
    fn sizes_are_those_of_the_table() {
        for kernel in kernels() {
            let smallest: Vec<usize> = kernel.dimensions.split(" x ").map(few).collect();
            let mut setup = Setup::default();
            (FAMILIES[kernel.family].build)(&mut setup, &smallest);
            let nodes = Node::all(&Plan::new(setup.graph));
            let shown = nodes.iter().find(|node| node.kernel == kernel.name).expect("a node").sizes();
            let asked = smallest.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
            // These are of what others have computed, or of a part of it.
            if !["clip_finish", "embedding_chunk_sums", "norm_sums"].contains(&kernel.name) {
                assert_eq!(shown, asked, "{}", kernel.name);
            }
        }
    }

    #[test]
    fn ids_of_zipf_are_in_range_and_skewed() {
        let ids = zipf(10_000, 1000);
        assert!(ids.iter().all(|&id| id < 1000));
        let low = ids.iter().filter(|&&id| id < 30).count();
        assert!((4000..6000).contains(&low), "{low} of 10,000 ids are below 30: half of them are, by the law");
    }
}
