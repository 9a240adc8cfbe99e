//! Graphs of ops for one minibatch size: tensors, nodes in order, reverse mode; and the plan that places every tensor.

mod plan;
mod state;

pub use plan::{Place, Plan, PlannedArg, PlannedNode, shared_slots};
pub use state::{Initial, Parameter, ParameterKind, Part, StateBuffer, StateId, StateLayout, Words};

use crate::device::Limits;
use crate::ops::{Access, Kernel, Module, Op};
use std::collections::HashMap;

/// A tensor of a graph: numbers with a place that the plan decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorId(usize);

/// What the host uploads before each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Input {
    /// [`Step`]: the step's scalars.
    Step,
    /// Click and conversion, [B, 2].
    Labels,
    /// Numeric features, [B, N].
    Numeric,
    /// Id of the mask feature, `[B]`.
    MaskKey,
    /// Offsets of the sampled negatives, `[K]`.
    Offsets,
    /// Table rows of a table's features, [B, F].
    Ids(usize),
    /// A table's header and segments, [1 + B * F] x 4.
    Segments(usize),
    /// A table's occurrences, [B * F].
    Occurrences(usize),
    /// A table's chunks of hot rows, x 2.
    Chunks(usize),
    /// Anything else, by number: the inputs of op checks.
    Other(usize),
}

/// The step's scalars, a uniform of every kernel that needs one of them.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Step {
    /// Learning rate of dense parameters.
    pub dense_lr: f32,
    /// Learning rate of embedding rows.
    pub embedding_lr: f32,
    /// 1 - beta1^t of the dense AdamW.
    pub correction1: f32,
    /// 1 - beta2^t of the dense AdamW.
    pub correction2: f32,
    /// 1 / clicked rows of the minibatch, 0 without any.
    pub inverse_clicks: f32,
    /// Number of the step, low and high word.
    pub number: [u32; 2],
    /// Factor of the contrastive loss's weight.
    pub contrast: f32,
}

/// Where a tensor's words come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Uploaded by the host before each step.
    Input(Input),
    /// Words `offset..offset + len` of a buffer that lives from step to step.
    State(StateId, usize),
    /// Written and read within a step.
    Transient,
}

/// How a tensor's numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// 32 bits each.
    #[default]
    F32,
    /// 16 bits each (IEEE 754 binary16): half the memory on a GPU (the CPU computes with copies), rounded by at most 2^-11 of a number between
    /// 6.1e-5 and 65,504; smaller ones are rounded to a multiple of 6e-8 or to 0, larger ones end a run as a loss does that is not finite.
    F16,
}

impl Format {
    /// 32-bit words that `len` numbers take.
    pub fn words(self, len: usize) -> usize {
        match self {
            Format::F32 => len,
            Format::F16 => len.div_ceil(2),
        }
    }
}

/// A tensor's description.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// What it is, for errors and debuggers.
    pub name: String,
    /// Number of numbers.
    pub len: usize,
    /// How they are stored.
    pub format: Format,
    /// Where the words come from.
    pub source: Source,
}

/// Part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// From inputs to losses.
    Forward,
    /// From losses to gradients.
    Backward,
    /// From gradients to parameters.
    Update,
}

impl Phase {
    /// Its name in debuggers, profiles and traces.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Forward => "forward",
            Phase::Backward => "backward",
            Phase::Update => "update",
        }
    }
}

/// Numbers `from..from + len` of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The tensor.
    pub tensor: TensorId,
    /// First number, at the start of a word.
    pub from: usize,
    /// Number of numbers.
    pub len: usize,
}

/// An argument of an op that can be run on some rows of the minibatch alone.
#[derive(Debug, Clone, Copy)]
pub enum Arg {
    /// The same for all rows.
    Whole(TensorId),
    /// [B, columns]: the op on some rows reads and writes these rows of it.
    Rows(TensorId),
}

/// Rows of a minibatch that one dispatch handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// First row.
    pub first: usize,
    /// Number of rows.
    pub rows: usize,
}

/// One op of a graph with its arguments.
pub struct Node {
    /// The op.
    pub op: Box<dyn Op>,
    /// Its arguments, in the order of the kernel's bindings.
    pub args: Vec<Range>,
    /// What is compiled for it.
    pub module: Module,
    /// Its phase.
    pub phase: Phase,
    /// Where in the model it stands, like `towers.0`.
    pub label: String,
}

type Backward = Box<dyn FnOnce(&mut Graph)>;

/// Rows of a block are a multiple of this, so that a block of any tensor starts at a multiple of 256 bytes, WebGPU's alignment of
/// bindings, whatever its format.
pub(crate) const BLOCK_ROWS: usize = 128;

/// A graph under construction, for one minibatch size.
pub struct Graph {
    limits: Limits,
    tensors: Vec<Tensor>,
    nodes: Vec<Node>,
    tape: Vec<(String, Backward)>,
    gradients: HashMap<TensorId, TensorId>,
    targets: HashMap<TensorId, TensorId>,
    inputs: HashMap<Input, TensorId>,
    outputs: Vec<TensorId>,
    scope: String,
    phase: Option<Phase>,
    forward_only: bool,
    storage: Format,
}

impl Default for Graph {
    /// An empty graph whose tensors may be of any size.
    fn default() -> Self {
        Graph::new(Limits::NONE)
    }
}

impl Graph {
    /// An empty graph for a device of these limits.
    pub fn new(limits: Limits) -> Self {
        Graph {
            limits,
            tensors: Vec::new(),
            nodes: Vec::new(),
            tape: Vec::new(),
            gradients: HashMap::new(),
            targets: HashMap::new(),
            inputs: HashMap::new(),
            outputs: Vec::new(),
            scope: String::new(),
            phase: None,
            forward_only: false,
            storage: Format::F32,
        }
    }

    /// Says that there will be no backward pass, so that ops need not write what only that would read.
    pub fn forward_only(mut self) -> Self {
        self.forward_only = true;
        self
    }

    /// Stores activations in this format; gradients, parameters and all that is summed stay f32.
    pub fn storing(mut self, format: Format) -> Self {
        self.storage = format;
        self
    }

    /// Whether a backward pass may follow.
    pub fn may_go_backward(&self) -> bool {
        !self.forward_only
    }

    fn tensor(&mut self, name: String, len: usize, source: Source) -> TensorId {
        assert!(len > 0, "tensor {name} is empty");
        self.tensors.push(Tensor { name, len, format: Format::F32, source });
        TensorId(self.tensors.len() - 1)
    }

    /// A tensor of `len` numbers that lives within the step.
    pub fn transient(&mut self, name: &str, len: usize) -> TensorId {
        let name = if self.scope.is_empty() { name.to_string() } else { format!("{}.{name}", self.scope) };
        self.tensor(name, len, Source::Transient)
    }

    /// As [`Graph::transient`], in a format of its own.
    pub fn transient_as(&mut self, name: &str, len: usize, format: Format) -> TensorId {
        let id = self.transient(name, len);
        self.tensors[id.0].format = format;
        id
    }

    /// An activation of `len` numbers: a tensor that lives within the step, in the format of [`Graph::storing`].
    pub fn activation(&mut self, name: &str, len: usize) -> TensorId {
        self.transient_as(name, len, self.storage)
    }

    /// The format of activations.
    pub fn storage(&self) -> Format {
        self.storage
    }

    /// The tensor of `len` numbers at most that the host uploads as `input`; the same one when asked again.
    pub fn input(&mut self, input: Input, len: usize) -> TensorId {
        if let Some(&id) = self.inputs.get(&input) {
            assert_eq!(self.tensors[id.0].len, len, "{input:?} asked for with two lengths");
            return id;
        }
        let id = self.tensor(format!("{input:?}").to_lowercase(), len, Source::Input(input));
        self.inputs.insert(input, id);
        id
    }

    /// The step's scalars.
    pub fn step(&mut self) -> TensorId {
        self.input(Input::Step, std::mem::size_of::<Step>() / 4)
    }

    /// Words `offset..offset + len` of a state buffer.
    pub fn state(&mut self, name: &str, id: StateId, offset: usize, len: usize) -> TensorId {
        self.tensor(name.to_string(), len, Source::State(id, offset))
    }

    /// A dense parameter as a tensor whose gradient goes to `gradients`, the flat buffer laid out as the parameters' own.
    pub fn parameter(&mut self, parameter: &Parameter, gradients: Option<StateId>) -> TensorId {
        let part = parameter.parts[0];
        let id = self.state(&parameter.name, part.state, part.offset, part.len);
        if let Some(gradients) = gradients {
            let name = format!("gradient of {}", parameter.name);
            let target = self.state(&name, gradients, part.offset, part.len);
            self.targets.insert(id, target);
        }
        id
    }

    /// The description of a tensor.
    pub fn get(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.0]
    }

    /// Names what is put into the graph from now on, like `towers.0`.
    pub fn scope(&mut self, scope: &str) {
        self.scope = scope.to_string();
    }

    /// Puts an op into the graph. `args` follow the kernel's bindings.
    pub fn push(&mut self, op: impl Op + 'static, args: &[TensorId]) {
        let args = args.iter().map(|&t| self.whole(t)).collect();
        self.push_node(Box::new(op), args);
    }

    /// As [`Graph::push`] for an op that can be run on some rows of the minibatch alone: a dispatch over all `rows`, or, where an
    /// argument is larger than a binding, one for each block of rows, in ascending order.
    pub fn push_rows<O: Op + 'static>(&mut self, rows: usize, args: &[Arg], op: impl Fn(Block) -> O) {
        let whole: Vec<Range> = args.iter().map(|&(Arg::Whole(t) | Arg::Rows(t))| self.whole(t)).collect();
        let columns: Vec<Option<usize>> =
            args.iter().zip(&whole).map(|(arg, range)| matches!(arg, Arg::Rows(_)).then_some(range.len / rows)).collect();
        let most = self.block_rows(rows, columns.iter().flatten().copied().max().unwrap_or(0));
        for first in (0..rows).step_by(most) {
            let block = Block { first, rows: most.min(rows - first) };
            let part = |(&range, columns): (&Range, &Option<usize>)| match columns {
                Some(columns) => Range { from: first * columns, len: block.rows * columns, ..range },
                None => range,
            };
            self.push_node(Box::new(op(block)), whole.iter().zip(&columns).map(part).collect());
        }
    }

    /// Rows of a block, so that those of a tensor of `columns` columns fit a binding.
    fn block_rows(&self, rows: usize, columns: usize) -> usize {
        let most = self.binding_words() / columns.max(1);
        if rows <= most { rows } else { (most / BLOCK_ROWS).max(1) * BLOCK_ROWS }
    }

    /// What the graph must stay under, and what chooses its tiles.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn binding_words(&self) -> usize {
        usize::try_from(self.limits.binding_bytes / 4).unwrap_or(usize::MAX)
    }

    /// Whether a tensor of `len` words is too large for one binding.
    pub fn exceeds_binding(&self, len: usize) -> bool {
        len > self.binding_words()
    }

    fn whole(&self, tensor: TensorId) -> Range {
        Range { tensor, from: 0, len: self.get(tensor).len }
    }

    fn push_node(&mut self, op: Box<dyn Op>, args: Vec<Range>) {
        assert_eq!(args.len(), op.kernel().bindings.len(), "arguments of {}", op.kernel().name);
        let phase = self.phase.unwrap_or(Phase::Forward);
        let module = Module { shader: op.shader(), formats: self.formats(op.kernel(), &args) };
        self.nodes.push(Node { op, args, module, phase, label: self.scope.clone() });
    }

    /// The formats of what a kernel reads and writes as `In` and `Out`; f32 where nothing is bound.
    fn formats(&self, kernel: &Kernel, args: &[Range]) -> [Format; 2] {
        let mut formats = [None; 2];
        for (arg, (binding, _)) in args.iter().zip(kernel.bindings) {
            let Tensor { name, format, .. } = self.get(arg.tensor);
            match kernel.stored.iter().position(|bindings| bindings.contains(binding)) {
                Some(side) => assert_eq!(*formats[side].get_or_insert(*format), *format, "{}: format of {name}", kernel.name),
                None => assert_eq!(*format, Format::F32, "{} cannot read or write {name} as it is stored", kernel.name),
            }
        }
        formats.map(Option::unwrap_or_default)
    }

    /// As [`Graph::push`], run when the whole backward pass has been.
    pub fn push_update(&mut self, op: impl Op + 'static, args: &[TensorId]) {
        let phase = self.phase.replace(Phase::Update);
        self.push(op, args);
        self.phase = phase;
    }

    /// Says how the gradients of what was just computed are passed back; run in reverse order by [`Graph::backward`].
    pub fn on_backward(&mut self, f: impl FnOnce(&mut Graph) + 'static) {
        if self.forward_only {
            return;
        }
        self.tape.push((self.scope.clone(), Box::new(f)));
    }

    /// The gradient that has reached `tensor`, if any has.
    pub fn gradient(&self, tensor: TensorId) -> Option<TensorId> {
        self.gradients.get(&tensor).copied()
    }

    /// Declares `gradient`, which an op has written, to be the gradient of `tensor`; only before any other reaches it.
    pub fn seed(&mut self, tensor: TensorId, gradient: TensorId) {
        let before = self.gradients.insert(tensor, gradient);
        assert!(before.is_none(), "{} has a gradient already", self.get(tensor).name);
    }

    /// Where an op writes its share of the gradient of `tensor`, and whether it must add to what stands there.
    pub fn gradient_target(&mut self, tensor: TensorId) -> (TensorId, bool) {
        if let Some(&id) = self.gradients.get(&tensor) {
            return (id, true);
        }
        let id = match self.targets.get(&tensor) {
            Some(&id) => id,
            None => {
                let (name, len) = (format!("gradient of {}", self.get(tensor).name), self.get(tensor).len);
                self.tensor(name, len, Source::Transient)
            }
        };
        self.gradients.insert(tensor, id);
        (id, false)
    }

    /// Reverse mode: appends the backward pass of all that has been put into the graph.
    pub fn backward(&mut self) {
        assert!(!self.forward_only, "the graph was made for a forward pass alone");
        self.phase = Some(Phase::Backward);
        while let Some((scope, f)) = self.tape.pop() {
            self.scope = scope;
            f(self);
        }
        self.phase = Some(Phase::Update);
        self.scope.clear();
    }

    /// Takes the updates that the backward pass has put in out again, so that gradients can be looked at.
    pub fn discard_updates(&mut self) {
        self.nodes.retain(|n| n.phase != Phase::Update);
    }

    /// Has the host receive `tensor`, of f32 or u32, after each step, in the order of these calls.
    pub fn output(&mut self, tensor: TensorId) {
        assert_eq!(self.get(tensor).format, Format::F32, "{} as an output", self.get(tensor).name);
        self.outputs.push(tensor);
    }

    /// The access of each argument of `node` with its words.
    fn uses<'a>(node: &'a Node) -> impl Iterator<Item = (Range, Access)> + 'a {
        node.args.iter().zip(node.op.kernel().bindings).map(|(&range, &(_, access))| (range, access))
    }
}
