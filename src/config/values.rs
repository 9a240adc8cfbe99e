//! Every key of the configuration, its type and its default.

use crate::graph::Format;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The whole configuration of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The seed of everything random: initial parameters, shuffling, sampled negatives, dropout.
    #[serde(default = "one")]
    pub seed: u64,
    /// Input files and labels.
    pub data: Data,
    /// Columns that the model reads.
    pub features: Features,
    /// Encoder and towers.
    #[serde(default)]
    pub model: Model,
    /// Alignment of the two task representations and its temperature.
    #[serde(default)]
    pub contrast: Contrast,
    /// Weights of the supervised losses.
    #[serde(default)]
    pub loss: Loss,
    /// Optimizers of dense parameters and embedding tables.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// The training loop.
    #[serde(default)]
    pub train: Train,
    /// Evaluation beside the standard metrics.
    #[serde(default)]
    pub evaluate: Evaluate,
}

/// `[data]`: input files and labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// The folder that the globs below are relative to; itself relative to the configuration's folder, which is the default.
    #[serde(default)]
    pub root: PathBuf,
    /// Globs of the training files (`.csv`, `.csv.gz`, `.parquet`), read in order of their sorted names.
    pub train: Vec<String>,
    /// Globs of the validation files.
    pub valid: Vec<String>,
    /// Globs of the test files; may be left out.
    #[serde(default)]
    pub test: Vec<String>,
    /// The column of the click label, 0 or 1.
    #[serde(default = "click")]
    pub click: String,
    /// The column of the conversion label, 0 or 1, 1 only where the click is 1.
    #[serde(default = "conversion")]
    pub conversion: String,
    /// What a row with a conversion but no click does.
    #[serde(default)]
    pub invalid_labels: InvalidLabels,
}

/// What to do with rows that have a conversion without a click.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InvalidLabels {
    /// Refuse the data with the count and the first such row.
    #[default]
    Error,
    /// Leave such rows out.
    Drop,
    /// Count such rows as clicked.
    Click,
}

/// `[features]`: the columns that the model reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Features {
    /// Embedding width of categorical features that name none.
    #[serde(default = "sixteen")]
    pub dim: usize,
    /// Values seen fewer times in train become id 0; default of categorical features that name none.
    #[serde(default = "one")]
    pub min_count: u64,
    /// Transform of numeric features that name none.
    #[serde(default)]
    pub transform: Transform,
    /// Categorical columns: a name, or `{ name, dim, min_count }`.
    pub categorical: Vec<Categorical>,
    /// Numeric columns: a name, or `{ name, transform }`.
    #[serde(default)]
    pub numeric: Vec<Numeric>,
}

/// A categorical column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "CategoricalEntry")]
#[serde(deny_unknown_fields)]
pub struct Categorical {
    /// The column's name.
    pub name: String,
    /// Embedding width; the section's default if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dim: Option<usize>,
    /// Values seen fewer times in train become id 0; the section's default if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_count: Option<u64>,
}

/// A numeric column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "NumericEntry")]
#[serde(deny_unknown_fields)]
pub struct Numeric {
    /// The column's name.
    pub name: String,
    /// The transform, fitted on train; the section's default if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transform: Option<Transform>,
}

/// The transform of a numeric column; all statistics are of train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transform {
    /// As it is.
    #[default]
    None,
    /// sign(x) * ln(1 + |x|).
    Log1p,
    /// (x - mean) / standard deviation.
    Standardize,
    /// `log1p`, then `standardize`.
    Log1pStandardize,
}

/// `[model]`: encoder and towers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// How the two task representations are made of the features.
    pub encoder: Encoder,
    /// Number of experts (`mmoe`), or of shared experts in a level (`ple`).
    pub experts: usize,
    /// Number of each task's own experts in a level (`ple`).
    pub task_experts: usize,
    /// Levels (`ple`).
    pub levels: usize,
    /// Layer widths of an expert (`mmoe`, `ple`), of the shared bottom (`shared-bottom`), or of each task's network (the others;
    /// may be empty for `esmm` and `single-task`).
    pub hidden: Vec<usize>,
    /// Layer widths of each task's tower.
    pub tower: Vec<usize>,
    /// Activation of hidden layers.
    pub activation: Activation,
    /// What stands between product and activation of a hidden layer (encoder and towers; not the relatedness network).
    pub norm: Norm,
    /// Probability that a hidden layer's output is dropped in training (encoder and towers; not the relatedness network).
    pub dropout: f32,
    /// Standard deviation of the initial embeddings (normal, mean 0).
    pub embedding_std: f32,
}

impl Default for Model {
    fn default() -> Self {
        Model {
            encoder: Encoder::Mmoe,
            experts: 4,
            task_experts: 2,
            levels: 1,
            hidden: vec![128, 64],
            tower: vec![64, 32],
            activation: Activation::Relu,
            norm: Norm::None,
            dropout: 0.0,
            embedding_std: 0.01,
        }
    }
}

/// How the task representations are made of the features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoder {
    /// A network a task, nothing shared, not even embeddings.
    SingleTask,
    /// A network a task over shared embeddings (Ma et al., SIGIR 2018).
    Esmm,
    /// One MLP for both tasks (Caruana 1997).
    SharedBottom,
    /// Experts mixed by a gate per task (Ma et al., KDD 2018).
    Mmoe,
    /// Levels of experts of each task's own and shared ones (Tang et al., RecSys 2020).
    Ple,
    /// A network a task, mixed after each layer by a 2 x 2 matrix (Misra et al., CVPR 2016).
    CrossStitch,
    /// A network a task, the CVR side attending to the CTR side; its second output is CTCVR (Xi et al., KDD 2021).
    Aitm,
}

/// Activation of hidden layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// None.
    Identity,
    /// max(x, 0).
    #[default]
    Relu,
    /// tanh(x).
    Tanh,
    /// x Phi(x), Phi the standard normal distribution: the exact form, not that by tanh (Hendrycks and Gimpel 2016).
    Gelu,
    /// x s(x), s the logistic function (Elfwing et al. 2018).
    Silu,
}

/// Normalization of hidden layers: linear, norm, activation, dropout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Norm {
    /// None.
    #[default]
    None,
    /// To mean 0 and variance 1 over the columns of each row and network, then a learned gain and offset (Ba et al. 2016).
    Layer,
    /// Each column to mean 0 and variance 1 over the rows of a minibatch, in evaluation by running moments, then a learned gain and
    /// offset (Ioffe and Szegedy, ICML 2015), in place of the layer's bias. A minibatch of one row (the last of an epoch may be) gives
    /// the offset alone and leaves the running moments as they are.
    Batch,
}

/// `[contrast]`: alignment of the two task representations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Contrast {
    /// `"off"`, `"instance"` (predicted for each row), `"task"` (one learned number) or a fixed number.
    pub temperature: Temperature,
    /// Weight of the contrastive loss.
    pub weight: f32,
    /// Steps over which the weight rises linearly to its full size.
    pub warmup_steps: u64,
    /// Width of the projected representations.
    pub width: usize,
    /// Hidden layer widths of the projection.
    pub projection: Vec<usize>,
    /// `"in-batch"` or the number of other rows drawn per step.
    pub negatives: Negatives,
    /// Which representation is the anchor.
    pub direction: Direction,
    /// Which rows are anchors; the loss's mean is over all rows all the same.
    pub anchors: Anchors,
    /// `infonce` or `robust`.
    pub objective: Objective,
    /// Weight of tau in the robust objective.
    pub rho: f32,
    /// Lowest temperature, within [`TEMPERATURES`].
    pub tau_min: f32,
    /// Highest temperature, within [`TEMPERATURES`].
    pub tau_max: f32,
    /// Temperature at the start, strictly between the two.
    pub tau_init: f32,
    /// Input of the relatedness network.
    pub input: RelatednessInput,
    /// Hidden layer widths of the relatedness network.
    pub hidden: Vec<usize>,
    /// Whether the relatedness network's input passes no gradient back.
    pub stop_gradient: bool,
    /// Learning rate of what the temperature is learned by (the relatedness network, or the task's number), in parts of
    /// `optimizer.dense.lr`.
    pub temperature_lr_scale: f32,
    /// Weight of a loss that trains the relatedness network's s(r) to predict that a row's two labels disagree, so that tau falls
    /// where they are likely to agree; `warmup_steps` does not apply to it. 0: none. Needs an instance temperature.
    pub relatedness_supervision: f32,
    /// Whether the contrastive loss passes a gradient to tau; without, `relatedness_supervision` alone shapes it.
    pub temperature_gradient: bool,
    /// A categorical feature; rows that share its value with the anchor are no negatives of it. Unknown values equal nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
}

impl Default for Contrast {
    fn default() -> Self {
        Contrast {
            temperature: Temperature::Instance,
            weight: 0.05,
            warmup_steps: 0,
            width: 32,
            projection: Vec::new(),
            negatives: Negatives::InBatch,
            direction: Direction::Both,
            // By measurement (docs/temperature.md): with all rows as anchors the AUCs on KuaiRand fall, with these they do not.
            anchors: Anchors::Clicked,
            objective: Objective::Robust,
            rho: 1.0,
            tau_min: 0.05,
            tau_max: 1.0,
            tau_init: 0.2,
            input: RelatednessInput::Towers,
            hidden: vec![32],
            stop_gradient: true,
            temperature_lr_scale: 1.0,
            relatedness_supervision: 0.0,
            temperature_gradient: true,
            mask: None,
        }
    }
}

/// The least and the highest temperature that there may be: f32 holds scores divided by the least with three digits behind the point.
pub const TEMPERATURES: [f32; 2] = [1e-4, 1e4];

/// Where the temperature of the contrastive loss comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Temperature {
    /// No contrastive loss; no kernel of it runs.
    Off,
    /// Predicted for each row by the relatedness network.
    Instance,
    /// One learned scalar.
    Task,
    /// A fixed number, within [`TEMPERATURES`].
    Fixed(f32),
}

/// Which rows are the negatives of an anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Negatives {
    /// All other rows of the minibatch.
    InBatch,
    /// Rows (i + c_k) mod B at this many distinct offsets c_k drawn per step.
    Sampled(usize),
}

/// Which representation is the anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// CTR rows are anchors, CVR rows candidates.
    CtrToCvr,
    /// CVR rows are anchors, CTR rows candidates.
    CvrToCtr,
    /// The mean of both.
    Both,
}

/// Which rows are anchors of the contrastive loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Anchors {
    /// All rows of the minibatch.
    All,
    /// Clicked rows; the others are candidates alone.
    Clicked,
}

/// The contrastive objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// -S_ii/tau + log sum_j exp(S_ij/tau).
    Infonce,
    /// tau log(mean_j exp((S_ij - S_ii)/tau)) + rho tau.
    Robust,
}

/// Input of the relatedness network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RelatednessInput {
    /// [a_ctr, a_cvr, a_ctr * a_cvr].
    Towers,
    /// The features x.
    Embedding,
}

/// `[loss]`: the supervised losses and their weights; at least one of `ctcvr` and `cvr` is above 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Loss {
    /// How the losses are weighted against each other.
    pub weighting: Weighting,
    /// Weight of the click loss over all rows.
    pub ctr: f32,
    /// Weight of the entire-space loss of click and conversion over all rows (ESMM).
    pub ctcvr: f32,
    /// Weight of the conversion loss.
    pub cvr: f32,
    /// The conversion loss.
    pub cvr_kind: CvrLoss,
    /// Lowest propensity that `ipw` and `dr` divide by.
    pub propensity_floor: f32,
    /// Weight, within the CTCVR loss, of how far pCTCVR exceeds pCTR (`aitm`).
    pub calibrator: f32,
}

impl Default for Loss {
    fn default() -> Self {
        Loss {
            weighting: Weighting::Fixed,
            ctr: 1.0,
            ctcvr: 1.0,
            cvr: 0.5,
            cvr_kind: CvrLoss::Clicked,
            propensity_floor: 0.05,
            calibrator: 0.6,
        }
    }
}

/// How the supervised losses L are weighted against each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weighting {
    /// The sum of w L, w the configured weights.
    Fixed,
    /// The sum of w (e^-s L + s / 2), each s learned: the logarithm of a task's variance (Kendall et al., CVPR 2018).
    Uncertainty,
}

/// The conversion loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CvrLoss {
    /// Over clicked rows.
    Clicked,
    /// Over all rows, clicked ones weighted by 1 / pCTR (ESCM2-IPW, Wang et al., SIGIR 2022).
    Ipw,
    /// `ipw` of what an imputation tower leaves unexplained (ESCM2-DR).
    Dr,
}

/// `[optimizer]`: one section for dense parameters, one for embedding tables.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Optimizer {
    /// Optimizer of all dense parameters.
    pub dense: DenseOptimizer,
    /// Optimizer of embedding rows; only the rows in the minibatch are touched.
    pub embedding: EmbeddingOptimizer,
    /// The course of both learning rates.
    pub schedule: Schedule,
}

/// `[optimizer.schedule]`: a factor of both learning rates for each step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// The course after the warm-up.
    pub kind: ScheduleKind,
    /// Steps over which the factor rises linearly to 1; 0: none.
    pub warmup_steps: u64,
    /// The step at which the final fraction is reached, warm-up counted (`cosine`); 0: the steps of all `train.epochs`.
    pub total_steps: u64,
    /// The factor at the end (`cosine`).
    pub final_fraction: f32,
    /// Steps from one change to the next (`step`).
    pub every: u64,
    /// What each change multiplies the factor by (`step`).
    pub gamma: f32,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule { kind: ScheduleKind::Constant, warmup_steps: 0, total_steps: 0, final_fraction: 0.0, every: 1000, gamma: 0.5 }
    }
}

/// The course of the learning rates after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Always 1.
    Constant,
    /// Half a cosine from 1 to the final fraction.
    Cosine,
    /// Multiplied by gamma every so many steps.
    Step,
}

/// `[optimizer.dense]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DenseOptimizer {
    /// The update rule.
    pub kind: DenseRule,
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment (`adamw`).
    pub beta1: f32,
    /// Decay of the second moment (`adamw`).
    pub beta2: f32,
    /// Added to the root in the denominator.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Most that the norm of all dense parameters' gradients together may be, before the update; 0: no bound. The gradients of
    /// embeddings neither count nor are they held back: that of a table, summed over the rows of the minibatch, is never formed.
    pub clip_norm: f32,
}

impl Default for DenseOptimizer {
    fn default() -> Self {
        DenseOptimizer {
            kind: DenseRule::Adamw,
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            clip_norm: 0.0,
        }
    }
}

/// Update rule of dense parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DenseRule {
    /// Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019).
    Adamw,
    /// Adagrad (Duchi et al., JMLR 2011).
    Adagrad,
    /// Plain gradient descent.
    Sgd,
}

/// `[optimizer.embedding]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddingOptimizer {
    /// The update rule.
    pub kind: EmbeddingRule,
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment (`adam`).
    pub beta1: f32,
    /// Decay of the second moment (`adam`).
    pub beta2: f32,
    /// Added to the root in the denominator.
    pub eps: f32,
    /// This times a row is added to its gradient, once for each minibatch that holds it.
    pub l2: f32,
}

impl Default for EmbeddingOptimizer {
    fn default() -> Self {
        // By measurement on KuaiRand (docs/figures.md); it also has the smallest state of the adaptive rules.
        EmbeddingOptimizer { kind: EmbeddingRule::RowwiseAdagrad, lr: 0.05, beta1: 0.9, beta2: 0.999, eps: 1e-8, l2: 0.0 }
    }
}

/// Update rule of embedding rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmbeddingRule {
    /// Lazy Adam: a row's moments and step count change only in minibatches that hold it.
    Adam,
    /// Adagrad with an accumulator an element.
    Adagrad,
    /// Adagrad with one accumulator a row, fed with the mean square of the row's gradient.
    RowwiseAdagrad,
    /// Plain gradient descent.
    Sgd,
}

/// `[train]`: the training loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// Rows in a minibatch.
    pub batch_size: usize,
    /// Epochs at most.
    pub epochs: u64,
    /// Evaluations without improvement before training stops.
    pub patience: u64,
    /// The metric that early stopping and the best checkpoint go by, on valid.
    pub monitor: Monitor,
    /// Evaluate on valid every so many steps beside each epoch's end; 0: at the end of epochs only.
    pub evaluate_every: u64,
    /// Write the last checkpoint every so many steps beside each evaluation; 0: at evaluations only.
    pub checkpoint_every: u64,
    /// Rows in an evaluation or prediction minibatch.
    pub evaluate_batch_size: usize,
    /// Most device memory that the plan may take, in MiB; 0: what the device has.
    pub memory_mib: u64,
    /// How training stores activations: `f32`, or `f16` on devices whose shaders have 16-bit numbers. Gradients, parameters, sums and
    /// what is evaluated or predicted are f32 either way.
    pub activation_storage: Format,
    /// An experiment: whether linear layers of a training step, with the gates beside them, are multiplied by cooperative matrices, 16-bit numbers
    /// with sums in f32, on devices that have them.
    pub cooperative_matrices: bool,
}

impl Default for Train {
    fn default() -> Self {
        Train {
            batch_size: 1024,
            epochs: 20,
            patience: 1,
            monitor: Monitor::MeanAuc,
            evaluate_every: 0,
            checkpoint_every: 0,
            evaluate_batch_size: 4096,
            memory_mib: 0,
            activation_storage: Format::F32,
            cooperative_matrices: false,
        }
    }
}

/// The metric on valid that decides which checkpoint is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Monitor {
    /// The mean of CTR AUC and CTCVR AUC.
    MeanAuc,
    /// AUC of pCTR over all rows.
    CtrAuc,
    /// AUC of pCVR over clicked rows.
    CvrAuc,
    /// AUC of pCTCVR over all rows.
    CtcvrAuc,
    /// The sum of CTR and CTCVR log loss (lower is better).
    LogLoss,
}

/// `[evaluate]`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluate {
    /// Categorical feature to group by for GAUC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gauc: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a column name or { name, dim, min_count }")]
enum CategoricalEntry {
    Name(String),
    Table(CategoricalTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CategoricalTable {
    name: String,
    dim: Option<usize>,
    min_count: Option<u64>,
}

impl From<CategoricalEntry> for Categorical {
    fn from(entry: CategoricalEntry) -> Self {
        match entry {
            CategoricalEntry::Name(name) => Categorical { name, dim: None, min_count: None },
            CategoricalEntry::Table(CategoricalTable { name, dim, min_count }) => Categorical { name, dim, min_count },
        }
    }
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a column name or { name, transform }, transform one of none, log1p, standardize, log1p-standardize"
)]
enum NumericEntry {
    Name(String),
    Table(NumericTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NumericTable {
    name: String,
    transform: Option<Transform>,
}

impl From<NumericEntry> for Numeric {
    fn from(entry: NumericEntry) -> Self {
        match entry {
            NumericEntry::Name(name) => Numeric { name, transform: None },
            NumericEntry::Table(NumericTable { name, transform }) => Numeric { name, transform },
        }
    }
}

impl Serialize for Temperature {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Temperature::Off => s.serialize_str("off"),
            Temperature::Instance => s.serialize_str("instance"),
            Temperature::Task => s.serialize_str("task"),
            Temperature::Fixed(t) => s.serialize_f32(*t),
        }
    }
}

impl<'de> Deserialize<'de> for Temperature {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match Word::deserialize(d)? {
            Word::Text(t) if t == "off" => Ok(Temperature::Off),
            Word::Text(t) if t == "instance" => Ok(Temperature::Instance),
            Word::Text(t) if t == "task" => Ok(Temperature::Task),
            Word::Number(t) => Ok(Temperature::Fixed(t as f32)),
            Word::Text(t) => Err(serde::de::Error::custom(format!(
                "unknown temperature `{t}`, expected `off`, `instance`, `task` or a number"
            ))),
        }
    }
}

impl Serialize for Negatives {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Negatives::InBatch => s.serialize_str("in-batch"),
            Negatives::Sampled(k) => s.serialize_u64(*k as u64),
        }
    }
}

impl<'de> Deserialize<'de> for Negatives {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match Word::deserialize(d)? {
            Word::Text(t) if t == "in-batch" => Ok(Negatives::InBatch),
            Word::Number(k) if k >= 1.0 && k.fract() == 0.0 => Ok(Negatives::Sampled(k as usize)),
            Word::Text(t) => Err(serde::de::Error::custom(format!(
                "unknown negatives `{t}`, expected `in-batch` or a whole number of at least 1"
            ))),
            Word::Number(k) => {
                Err(serde::de::Error::custom(format!("negatives = {k}, expected `in-batch` or a whole number of at least 1")))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a word or a number")]
enum Word {
    Text(String),
    Number(f64),
}

fn one() -> u64 {
    1
}
fn sixteen() -> usize {
    16
}
fn click() -> String {
    "click".into()
}
fn conversion() -> String {
    "conversion".into()
}
