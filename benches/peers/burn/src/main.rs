//! The design shape's training step (`cargo bench --bench steps -- design`) in burn, float32 over wgpu: what Tauten's step
//! times on an adapter are held against. It is the step of benches/peers/design.py.
//!
//!     cd benches/peers/burn
//!     VK_DRIVER_FILES=/usr/share/vulkan/icd.d/lvp_icd.x86_64.json cargo run --release -- --rows 2048 --steps 3
//!
//! `--lookup select` gathers the embeddings as burn's own `Embedding` does, whose gradient one thread per column adds up;
//! `--lookup gather` has a gradient of atomic additions, where the adapter adds float32 atomically. `--json` prints one line of
//! JSON. Kernels are fused and become WGSL, without autotuning; burn compiles them in the first two steps (Adam's first differs
//! from its others), which are not timed.
//!
//! The contrast's matrix S takes 4 rows^2 bytes in one buffer, which burn does not split: where an adapter binds less (128 MiB in
//! Mesa 22.3's lavapipe: up to 5792 rows) the step ends in burn's 'can't allocate buffer' when the loss is read.
//!
//! Otherwise than design.py: the table's gradient is dense, as burn has no other, and so its Adam updates all rows in every step
//! (design.py's mode `dense`); S's diagonal is a sum of products, not taken from S; the logarithms of S's sums need no
//! maximum taken off; experts are mixed by broadcasting, not by a small product of matrices a row.

use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::activation::{log_sigmoid, relu, sigmoid, softmax};
use burn::tensor::wgpu::WgpuBackend;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use std::time::Instant;

const FEATURES: usize = 20;
const IDS: usize = 50_000; // of a feature
const DIM: usize = 16;
const X: usize = FEATURES * DIM;
const EXPERTS: usize = 4;
const HIDDEN: [usize; 2] = [128, 64];
const TOWER: usize = 64;
const WIDTH: usize = 64; // of the contrast
const RELATEDNESS: usize = 32;
const TAU: [f64; 3] = [0.05, 1.0, 0.2]; // least, most, initial
const RHO: f64 = 1.0;
const RATE: f64 = 1e-3;
const WARM_UP: usize = 2; // steps
const CVR_WEIGHT: f64 = 0.5;
const CONTRAST_WEIGHT: f64 = 0.05;

fn uniform<const D: usize>(shape: [usize; D], inputs: usize, device: &Device) -> Param<Tensor<D>> {
    let bound = 1.0 / (inputs as f64).sqrt();
    Initializer::Uniform { min: -bound, max: bound }.init(shape, device)
}

/// Layers that read an input of their own each: [groups, B, inputs] to [groups, B, outputs].
#[derive(Module, Debug)]
struct Layers {
    weight: Param<Tensor<3>>,
    bias: Param<Tensor<3>>,
}

impl Layers {
    fn new(groups: usize, inputs: usize, outputs: usize, device: &Device) -> Layers {
        let weight = uniform([groups, inputs, outputs], inputs, device);
        Layers { weight, bias: uniform([groups, 1, outputs], inputs, device) }
    }

    fn forward(&self, h: Tensor<3>) -> Tensor<3> {
        h.matmul(self.weight.val()) + self.bias.val()
    }
}

#[derive(Module, Debug)]
struct Model {
    table: Param<Tensor<2>>,
    experts_0: Linear, // side by side
    experts_1: Layers,
    gates: Linear,
    towers: Layers,
    heads: Layers,
    projection: Param<Tensor<3>>,
    relatedness_0: Linear,
    relatedness_1: Linear,
}

/// [B, groups * outputs] as [groups, B, outputs].
fn split(h: Tensor<2>, groups: usize) -> Tensor<3> {
    let [rows, columns] = h.dims();
    h.reshape([rows, groups, columns / groups]).swap_dims(0, 1)
}

/// Row `i` of [2, B, outputs].
fn task(h: &Tensor<3>, i: usize) -> Tensor<2> {
    h.clone().narrow(0, i, 1).squeeze_dim(0)
}

/// Binary cross-entropy of each row.
fn cross_entropy(logit: Tensor<2>, label: Tensor<2>) -> Tensor<2> {
    (label.neg() + 1.0) * logit.clone() - log_sigmoid(logit)
}

impl Model {
    fn new(device: &Device) -> Model {
        let [wide, narrow] = HIDDEN;
        let linear = |inputs, outputs| LinearConfig::new(inputs, outputs).init(device);
        let [least, most, first] = TAU;
        let mut relatedness_1 = linear(RELATEDNESS, 1);
        relatedness_1.bias = Some(Initializer::Constant { value: ((first - least) / (most - first)).ln() }.init([1], device));
        Model {
            table: Initializer::Normal { mean: 0.0, std: 0.01 }.init([FEATURES * IDS, DIM], device),
            experts_0: linear(X, EXPERTS * wide),
            experts_1: Layers::new(EXPERTS, wide, narrow, device),
            gates: linear(X, 2 * EXPERTS),
            towers: Layers::new(2, narrow, TOWER, device),
            heads: Layers::new(2, TOWER, 1, device),
            projection: uniform([2, TOWER, WIDTH], TOWER, device),
            relatedness_0: linear(3 * TOWER, RELATEDNESS),
            relatedness_1,
        }
    }

    /// Logits [2, B, 1] and the towers' last layers [2, B, TOWER].
    fn forward(&self, ids: Tensor<2, Int>, gather: bool) -> (Tensor<3>, Tensor<3>) {
        let rows = ids.dims()[0];
        let found = if gather {
            self.table.val().gather(0, ids.reshape([rows * FEATURES, 1]).expand([rows * FEATURES, DIM]))
        } else {
            self.table.val().select(0, ids.reshape([rows * FEATURES]))
        };
        let x = found.reshape([rows, X]);
        let h = relu(self.experts_1.forward(split(relu(self.experts_0.forward(x.clone())), EXPERTS)));
        let gates = softmax(split(self.gates.forward(x), 2), 2);
        let gates: Tensor<4> = gates.swap_dims(1, 2).unsqueeze_dim(3); // [2, EXPERTS, B, 1]
        let mixed = (gates * h.unsqueeze_dim(0)).sum_dim(1).squeeze_dim(1);
        let a = relu(self.towers.forward(mixed));
        (self.heads.forward(a.clone()), a)
    }

    /// A temperature for each row: [B, 1].
    fn temperature(&self, a: [Tensor<2>; 2]) -> Tensor<2> {
        let [ctr, cvr] = a.map(Tensor::detach);
        let u = Tensor::cat(vec![ctr.clone(), cvr.clone(), ctr * cvr], 1);
        let r = self.relatedness_1.forward(relu(self.relatedness_0.forward(u)));
        sigmoid(r) * (TAU[1] - TAU[0]) + TAU[0]
    }

    /// In-batch negatives, the mean of both directions.
    fn contrast(&self, a: Tensor<3>) -> Tensor<1> {
        let tau = self.temperature([task(&a, 0), task(&a, 1)]);
        let z = a.matmul(self.projection.val());
        let z = z.clone() / z.square().sum_dim(2).sqrt().clamp_min(1e-6);
        let [ctr, cvr] = [task(&z, 0), task(&z, 1)];
        let inverse = tau.clone().recip();
        let own = (ctr.clone() * cvr.clone()).sum_dim(1) * inverse.clone() + (ctr.dims()[0] as f64).ln();
        let s = ctr.matmul(cvr.transpose());
        // Cosines over at least 0.05: the exponents are at most 20, whose sum no float32 overflows.
        let by_row = (s.clone() * inverse.clone()).exp().sum_dim(1).log();
        let by_column = (s * inverse.transpose()).exp().sum_dim(0).log().transpose();
        let both = (by_row + by_column) * 0.5 - own;
        (tau.clone() * both + tau * RHO).mean()
    }

    /// The weighted total and the contrast.
    fn loss(&self, ids: Tensor<2, Int>, labels: Tensor<2>, gather: bool) -> [Tensor<1>; 2] {
        let (logits, a) = self.forward(ids, gather);
        let [ctr, cvr] = [task(&logits, 0), task(&logits, 1)];
        let [y, v] = [labels.clone().narrow(1, 0, 1), labels.narrow(1, 1, 1)];
        let both = y.clone() * v.clone();
        let log_p = log_sigmoid(ctr.clone()) + log_sigmoid(cvr.clone());
        let negative = Tensor::cat(vec![ctr.clone().neg(), cvr.clone().neg(), (ctr.clone() + cvr.clone()).neg()], 1);
        let most = negative.clone().detach().max_dim(1);
        let log_not_p = (negative - most.clone()).exp().sum_dim(1).log() + most + log_p.clone();
        let ctcvr = (both.clone() * log_p + (both.neg() + 1.0) * log_not_p).mean().neg();
        let clicked = (cross_entropy(cvr, v) * y.clone()).sum() / y.clone().sum().clamp_min(1.0);
        let contrast = self.contrast(a);
        let total = cross_entropy(ctr, y).mean() + ctcvr + clicked * CVR_WEIGHT + contrast.clone() * CONTRAST_WEIGHT;
        [total, contrast]
    }
}

/// Uniform numbers in [0, 1) (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A minibatch's ids, by Zipf's law with exponent 1, and labels.
fn minibatch(rows: usize, random: &mut Random) -> (TensorData, TensorData) {
    let mut id = |i| (IDS as f64).powf(random.next()) as usize - 1 + i % FEATURES * IDS;
    let ids: Vec<i32> = (0..rows * FEATURES).map(|i| id(i) as i32).collect();
    let labels: Vec<f32> = (0..rows).map(|_| random.next()).flat_map(|u| [u < 0.4, u < 0.1].map(f32::from)).collect();
    (TensorData::new(ids, [rows, FEATURES]), TensorData::new(labels, [rows, 2]))
}

fn main() {
    let (mut rows, mut steps, mut gather, mut json) = (2048, 3, false, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
        match argument.as_str() {
            "--rows" => rows = value().parse().expect("--rows: a number"),
            "--steps" => steps = value().parse::<usize>().expect("--steps: a number").max(1),
            "--lookup" => {
                let name = value();
                gather = name == "gather";
                assert!(gather || name == "select", "--lookup: select or gather");
            }
            "--json" => json = true,
            _ => panic!("unknown argument {argument}; known are --rows N, --steps N, --lookup select|gather, --json"),
        }
    }
    // Left to choose, burn would prefer another API's GPU to a software adapter of Vulkan's.
    let (device, setup) = Device::wgpu_options().graphics_api(WgpuBackend::Vulkan).init_with_setup().expect("a Vulkan adapter");
    let info = setup.adapter.get_info();
    let device = device.autodiff();
    device.seed(1);
    let mut model = Model::new(&device);
    let mut adam = AdamConfig::new().with_epsilon(1e-8).init();
    let mut random = Random(1);
    let batches: Vec<_> = (0..(65_536 / rows).clamp(2, 32)).map(|_| minibatch(rows, &mut random)).collect();

    let (mut milliseconds, mut losses) = (Vec::new(), Vec::new());
    for step in 0..WARM_UP + steps {
        let start = Instant::now();
        let (ids, labels) = batches[step % batches.len()].clone();
        let ids = Tensor::<2, Int>::from_data(ids, (&device, DType::I32));
        let [total, contrast] = model.loss(ids, Tensor::from_data(labels, &device), gather);
        let gradients = GradientsParams::from_grads(total.backward(), &model);
        model = adam.step(RATE, model, gradients);
        losses.push(Tensor::cat(vec![total, contrast], 0).into_data().try_to_vec::<f32>().expect("float32"));
        if step >= WARM_UP {
            milliseconds.push(1e3 * start.elapsed().as_secs_f64());
        }
    }
    let mut sorted = milliseconds.clone();
    sorted.sort_by(f64::total_cmp);
    let (median, best) = (sorted[steps / 2], sorted[0]);
    let lookup = if gather { "gather" } else { "select" };
    if json {
        println!(
            "{{\"adapter\": {:?}, \"driver\": {:?}, \"rows\": {rows}, \"lookup\": {lookup:?}, \
             \"median_ms\": {median:.2}, \"best_ms\": {best:.2}, \"steps_ms\": {milliseconds:.2?}, \"losses_and_contrasts\": {losses:?}}}",
            info.name, info.driver_info
        );
    } else {
        println!("{}, {}; B = {rows}, {lookup}: median {median:.1} ms, best {best:.1} ms", info.name, info.driver_info);
        println!("loss and contrast of each step, those before the clock included: {losses:?}");
    }
    assert!(losses.iter().flatten().all(|l| l.is_finite()), "a loss is not finite");
}
