//! The lines of a profile: dispatches by kernel and shape, their times against their costs and the device's roofs.

use super::roofs::{Bound, Roofs};
use crate::device::timeline::{Activity, Mode, Span};
use crate::graph::{Phase, Plan, PlannedNode};
use crate::ops::{Cost, Ids};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// Smallest, middle and 95th percentile (nearest rank) of some times, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Times {
    /// The shortest.
    pub min_us: f64,
    /// The middle one.
    pub median_us: f64,
    /// At least 95 of 100 are no longer.
    pub p95_us: f64,
}

impl Times {
    /// Of times in seconds; none of none.
    pub fn of(mut seconds: Vec<f64>) -> Option<Times> {
        seconds.sort_by(f64::total_cmp);
        let rank = |percent: usize| (seconds.len() * percent).div_ceil(100).max(1) - 1;
        let at = |percent: usize| seconds.get(rank(percent)).map(|s| s * 1e6);
        Some(Times { min_us: at(0)?, median_us: at(50)?, p95_us: at(95)? })
    }
}

/// A dispatch as a profile names it.
#[derive(Debug, Clone)]
pub struct Node {
    /// The kernel's name.
    pub kernel: &'static str,
    /// How large the dispatch is: the names and values of its dimensions.
    pub shape: Vec<(&'static str, u64)>,
    /// The files of its shader in one name, and the formats of its activations where one is f16.
    pub module: String,
    /// Values of the shader's constants: the tile of a product.
    pub constants: Vec<(&'static str, f64)>,
    /// Where in the model it stands.
    pub label: String,
    /// Its phase.
    pub phase: Phase,
    /// Its cost model's answer.
    pub cost: Cost,
}

/// Fields of `Params` that say how large a dispatch is, in the order in which shapes are written.
const DIMENSIONS: [&str; 15] = [
    "rows",
    "chunks",
    "vectors",
    "tasks",
    "experts",
    "groups",
    "features",
    "dim",
    "inputs",
    "outputs",
    "gate_outputs",
    "width",
    "count",
    "offsets",
    "rounds",
];

impl Node {
    fn new(node: &PlannedNode) -> Node {
        let (kernel, params) = (node.op.kernel(), node.op.params());
        let size = |i: usize| kernel.fields.get(i + 1).map_or(kernel.params_size, |next| next.1) - kernel.fields[i].1;
        let value = |name: &str| {
            let i = kernel.fields.iter().position(|f| f.0 == name)?;
            // A dimension is one word; the arrays of some `Params` are not.
            let word = params.get(kernel.fields[i].1..)?.first_chunk().filter(|_| size(i) == 4)?;
            Some(u64::from(u32::from_ne_bytes(*word)))
        };
        let mut shape: Vec<(&'static str, u64)> =
            DIMENSIONS.iter().filter_map(|&name| value(name).filter(|&v| v > 0).map(|v| (name, v))).collect();
        // The embedding updates know their rows by the length of the gradient [rows, columns] alone.
        if let (None, Some(columns @ 1..), Some(gradient)) = (value("rows"), value("columns"), node.args.first()) {
            shape.insert(0, ("rows", gradient.len as u64 / columns));
        }
        let (module, constants) = (node.module.name(), node.op.overrides().to_vec());
        Node {
            kernel: kernel.name,
            shape,
            module,
            constants,
            label: node.label.clone(),
            phase: node.phase,
            cost: node.op.cost(),
        }
    }

    /// All of a plan.
    pub fn all(plan: &Plan) -> Vec<Node> {
        plan.nodes.iter().map(Node::new).collect()
    }

    /// Counts what goes by ids, of which a minibatch holds these, by table.
    pub fn count_ids(nodes: &mut [Node], ids: &[Ids]) {
        nodes.iter_mut().for_each(|node| node.cost = node.cost.of(ids));
    }

    /// `2048x4x320x128`.
    pub fn sizes(&self) -> String {
        self.shape.iter().map(|(_, value)| value.to_string()).collect::<Vec<_>>().join("x")
    }

    /// `rows x groups x inputs x outputs`.
    pub fn dimensions(&self) -> String {
        self.shape.iter().map(|&(name, _)| name).collect::<Vec<_>>().join(" x ")
    }
}

/// A line: the dispatches of one kernel and shape, or in cheap mode a phase.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// The kernel, or the phase.
    pub name: String,
    /// Its sizes; empty for a phase.
    pub shape: String,
    /// What the sizes are of.
    pub dimensions: String,
    /// The files of its shader, like `tile+multiply+linear`; empty for a phase.
    pub module: String,
    /// Values of the shader's constants; empty for a phase.
    pub constants: BTreeMap<&'static str, f64>,
    /// Where in the model its dispatches stand.
    pub labels: Vec<String>,
    /// Dispatches in a step; of a phase: 1.
    pub calls: usize,
    /// Of a call, in microseconds; none where the device gave no time.
    #[serde(flatten)]
    pub times: Option<Times>,
    /// Part of the device's own time in a step, by medians.
    pub share: Option<f64>,
    /// Bytes of a call by the cost model.
    pub bytes: f64,
    /// Floating-point operations of a call by the cost model.
    pub flops: f64,
    /// Operations a byte.
    pub flop_per_byte: f64,
    /// Bytes a second by the median, in GB/s.
    pub gb_s: Option<f64>,
    /// Operations a second by the median, in GFLOP/s.
    pub gflop_s: Option<f64>,
    /// Percent of what the lower roof allows, by the median; above 100 where a cache holds what the copy's memory does not.
    pub roof_percent: Option<f64>,
    /// The lower roof.
    pub bound: Bound,
}

impl Line {
    const EMPTY: Line = Line {
        name: String::new(),
        shape: String::new(),
        dimensions: String::new(),
        module: String::new(),
        constants: BTreeMap::new(),
        labels: Vec::new(),
        calls: 0,
        times: None,
        share: None,
        bytes: 0.0,
        flops: 0.0,
        flop_per_byte: 0.0,
        gb_s: None,
        gflop_s: None,
        roof_percent: None,
        bound: Bound::Memory,
    };
}

/// The lines of recorded device intervals, the longest share first; `spans` are those of the same `nodes` step after step.
pub fn lines(nodes: &[Node], spans: &[Span], mode: Mode, roofs: &Roofs) -> Vec<Line> {
    let mut groups: Vec<Group> = Vec::new();
    let mut of_node = Vec::with_capacity(nodes.len());
    for node in nodes {
        let (name, shape) = match mode {
            Mode::Cheap => (node.phase.name(), String::new()),
            Mode::Detailed => (node.kernel, node.sizes()),
        };
        // A kernel's dispatches of one shape may be for activations in another format.
        let is_alike =
            |line: &Line| line.name == name && line.shape == shape && (mode == Mode::Cheap || line.module == node.module);
        let found = groups.iter().position(|g| is_alike(&g.line));
        let at = found.unwrap_or_else(|| {
            let (mut dimensions, mut module, mut constants) = Default::default();
            if mode == Mode::Detailed {
                (dimensions, module) = (node.dimensions(), node.module.clone());
                constants = node.constants.iter().copied().collect();
            }
            let line = Line { name: name.into(), shape, dimensions, module, constants, ..Line::EMPTY };
            groups.push(Group { line, nodes: 0, seconds: Vec::new(), steps: Vec::new() });
            groups.len() - 1
        });
        groups[at].add(node);
        of_node.push(at);
    }
    let mut of_steps: HashMap<(usize, usize), f64> = HashMap::new();
    for span in spans {
        let at = match span.activity {
            Activity::Node(node) => {
                groups[of_node[node]].seconds.push(span.seconds());
                Some(of_node[node])
            }
            Activity::Phase(phase) => groups.iter().position(|g| g.line.name == phase.name()),
            _ => None,
        };
        at.into_iter().for_each(|at| *of_steps.entry((at, span.step)).or_default() += span.seconds());
    }
    of_steps.into_iter().for_each(|((at, _), seconds)| groups[at].steps.push(seconds));
    // By medians, as all else is: an interval in which the machine did other things makes no kernel the one to look at.
    let of_step = |group: &Group| Times::of(group.steps.clone()).map(|times| times.median_us);
    let all: f64 = groups.iter().filter_map(of_step).sum();
    groups.iter_mut().for_each(|group| group.line.share = of_step(group).map(|us| us / all));
    let mut lines: Vec<Line> = groups.into_iter().map(|g| g.finish(mode, roofs)).collect();
    lines.sort_by(|a, b| b.share.unwrap_or(0.0).total_cmp(&a.share.unwrap_or(0.0)));
    lines
}

struct Group {
    line: Line,
    nodes: usize,
    /// Of each dispatch.
    seconds: Vec<f64>,
    /// Of each step, all dispatches or, in cheap mode, the submits of the phase together.
    steps: Vec<f64>,
}

impl Group {
    fn add(&mut self, node: &Node) {
        self.nodes += 1;
        self.line.bytes += node.cost.bytes;
        self.line.flops += node.cost.flops;
        if !node.label.is_empty() && !self.line.labels.contains(&node.label) {
            self.line.labels.push(node.label.clone());
        }
    }

    /// From sums to figures of a call.
    fn finish(self, mode: Mode, roofs: &Roofs) -> Line {
        let Group { mut line, nodes, seconds, steps } = self;
        line.calls = if mode == Mode::Cheap { 1 } else { nodes };
        line.bytes /= line.calls as f64;
        line.flops /= line.calls as f64;
        line.flop_per_byte = line.flops / line.bytes.max(1.0);
        let (least, bound) = roofs.least_seconds(Cost { bytes: line.bytes, flops: line.flops, ..Cost::default() });
        line.bound = bound;
        line.times = Times::of(if mode == Mode::Cheap { steps } else { seconds });
        let median = line.times.map(|t| t.median_us * 1e-6);
        line.gb_s = median.map(|s| line.bytes / s / 1e9);
        line.gflop_s = median.map(|s| line.flops / s / 1e9);
        line.roof_percent = median.map(|s| 100.0 * least / s);
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_the_nearest_rank() {
        assert_eq!(Times::of(Vec::new()), None);
        let of = |seconds: &[f64]| Times::of(seconds.to_vec()).map(|t| [t.min_us, t.median_us, t.p95_us].map(f64::round));
        assert_eq!(of(&[3e-6]), Some([3.0; 3]));
        assert_eq!(of(&[3e-6, 1e-6, 2e-6]), Some([1.0, 2.0, 3.0]));
        let hundred: Vec<f64> = (1..=100).rev().map(|i| f64::from(i) * 1e-6).collect();
        assert_eq!(of(&hundred), Some([1.0, 50.0, 95.0]));
    }
}
