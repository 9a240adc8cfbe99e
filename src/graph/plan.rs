//! The plan: nodes in their order, every tensor placed. Transient tensors whose lives don't overlap share a slot.

use super::{Format, Graph, Input, Node, Phase, Range, Source, StateId, Tensor, TensorId};
use crate::ops::{Access, Module, Op};

/// Where a tensor lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The plan's input of this index, from this word on.
    Input(usize, usize),
    /// A state buffer, from this word on.
    State(StateId, usize),
    /// A shared slot, from this word on.
    Slot(usize, usize),
}

/// An argument of a planned node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedArg {
    /// Where it lies.
    pub place: Place,
    /// First number of its tensor that the op sees.
    pub from: usize,
    /// How many numbers it sees.
    pub len: usize,
    /// How they are stored.
    pub format: Format,
    /// How the op uses it.
    pub access: Access,
}

impl PlannedArg {
    /// Number of 32-bit words that the op sees.
    pub fn words(&self) -> usize {
        self.format.words(self.len)
    }
}

/// A node of a plan.
pub struct PlannedNode {
    /// The op.
    pub op: Box<dyn Op>,
    /// What is compiled for it.
    pub module: Module,
    /// Its arguments, in the order of the kernel's bindings.
    pub args: Vec<PlannedArg>,
    /// Names of the arguments' tensors.
    pub names: Vec<String>,
    /// Its phase.
    pub phase: Phase,
    /// Where in the model it stands.
    pub label: String,
}

impl PlannedNode {
    /// Kernel and place in the model, as debuggers show them.
    pub fn title(&self) -> String {
        format!("{} {}", self.op.kernel().name, self.label).trim_end().to_string()
    }
}

/// A graph made ready to run: fixed order, every tensor placed.
pub struct Plan {
    /// The nodes in the order in which they run.
    pub(crate) nodes: Vec<PlannedNode>,
    /// The inputs with their capacity in words; the host uploads them in this order.
    pub(crate) inputs: Vec<(Input, usize)>,
    /// The outputs with their lengths in words, in the order in which the host receives them.
    pub(crate) outputs: Vec<(Place, usize)>,
    /// Words of each slot.
    pub(crate) slots: Vec<usize>,
    /// Words that the transient tensors would take without sharing.
    pub(crate) transient_words: usize,
}

impl Plan {
    /// The nodes in the order in which they run.
    pub fn nodes(&self) -> &[PlannedNode] {
        &self.nodes
    }

    /// Plans a graph: forward and backward in the order of construction, then the updates.
    pub fn new(graph: Graph) -> Plan {
        let Graph { tensors, mut nodes, outputs, .. } = graph;
        // Stable: updates queued during the backward pass go last, the rest keeps its order.
        nodes.sort_by_key(|n| n.phase == Phase::Update);
        let lives = lives(&tensors, &nodes, &outputs);
        let (slot_of, slots) = assign_slots(&tensors, &lives);

        let mut inputs: Vec<(Input, usize, usize)> = tensors
            .iter()
            .enumerate()
            .filter_map(|(i, t)| match t.source {
                Source::Input(input) => Some((input, t.format.words(t.len), i)),
                _ => None,
            })
            .collect();
        inputs.sort();
        let place = |id: TensorId, from: usize| {
            let word = tensors[id.0].format.words(from);
            assert!(
                tensors[id.0].format == Format::F32 || from.is_multiple_of(2),
                "{}: a range within a word",
                tensors[id.0].name
            );
            match tensors[id.0].source {
                Source::Input(_) => {
                    Place::Input(inputs.iter().position(|&(.., i)| i == id.0).expect("every input is listed"), word)
                }
                Source::State(state, offset) => Place::State(state, offset + word),
                Source::Transient => Place::Slot(slot_of[id.0].expect("every used transient tensor has a slot"), word),
            }
        };
        let words = |tensor: &Tensor| tensor.format.words(tensor.len);
        let outputs = outputs.iter().map(|&id| (place(id, 0), words(&tensors[id.0]))).collect();
        let planned: Vec<PlannedNode> = nodes
            .into_iter()
            .map(|node| {
                let args = Graph::uses(&node)
                    .map(|(Range { tensor, from, len }, access)| {
                        let format = tensors[tensor.0].format;
                        PlannedArg { place: place(tensor, from), from, len, format, access }
                    })
                    .collect();
                let names = node.args.iter().map(|arg| tensors[arg.tensor.0].name.clone()).collect();
                PlannedNode { op: node.op, module: node.module, args, names, phase: node.phase, label: node.label }
            })
            .collect();
        for node in &planned {
            check_aliasing(node);
        }
        let transient_words = tensors.iter().enumerate().filter(|(i, _)| slot_of[*i].is_some()).map(|(_, t)| words(t)).sum();
        let inputs = inputs.into_iter().map(|(input, len, _)| (input, len)).collect();
        Plan { nodes: planned, inputs, outputs, slots, transient_words }
    }

    /// The largest binding of any node, in bytes.
    pub fn largest_binding(&self) -> u64 {
        let args = self.nodes.iter().flat_map(|node| &node.args);
        args.map(|arg| arg.words() as u64 * 4).max().unwrap_or(0)
    }
}

/// The sizes in words of the slots that programs share, since they run one after the other.
pub fn shared_slots(plans: &[Plan]) -> Vec<usize> {
    let most = plans.iter().map(|p| p.slots.len()).max().unwrap_or(0);
    (0..most).map(|i| plans.iter().filter_map(|p| p.slots.get(i)).max().copied().unwrap_or(0)).collect()
}

/// First and last node that use each transient tensor; an output lives to the end.
fn lives(tensors: &[Tensor], nodes: &[Node], outputs: &[TensorId]) -> Vec<Option<(usize, usize)>> {
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; tensors.len()];
    for (i, node) in nodes.iter().enumerate() {
        for (Range { tensor: id, .. }, access) in Graph::uses(node) {
            if tensors[id.0].source != Source::Transient {
                continue;
            }
            match &mut lives[id.0] {
                Some((_, last)) => *last = i,
                none => {
                    let name = &tensors[id.0].name;
                    assert!(access.writes(), "{} of {} is read before it is written", name, node.op.kernel().name);
                    *none = Some((i, i));
                }
            }
        }
    }
    for id in outputs {
        if let Some((_, last)) = &mut lives[id.0] {
            *last = nodes.len();
        }
    }
    lives
}

/// Greedy interval colouring in order of first use: the free slot that fits best, or the largest free one grown, or a new one.
fn assign_slots(tensors: &[Tensor], lives: &[Option<(usize, usize)>]) -> (Vec<Option<usize>>, Vec<usize>) {
    let mut order: Vec<usize> = (0..tensors.len()).filter(|&i| lives[i].is_some()).collect();
    order.sort_by_key(|&i| lives[i]);
    let mut slots: Vec<(usize, usize)> = Vec::new(); // (words, last use)
    let mut slot_of = vec![None; tensors.len()];
    for i in order {
        let Some((first, last)) = lives[i] else { continue };
        let len = tensors[i].format.words(tensors[i].len);
        let free = (0..slots.len()).filter(|&s| slots[s].1 < first);
        let best = free.min_by_key(|&s| {
            let words = slots[s].0;
            if words >= len { (0, words - len) } else { (1, len - words) }
        });
        let slot = best.unwrap_or_else(|| {
            slots.push((0, 0));
            slots.len() - 1
        });
        slots[slot] = (slots[slot].0.max(len), last);
        slot_of[i] = Some(slot);
    }
    // Largest first, so that plans that share their slots waste little.
    let mut by_size: Vec<usize> = (0..slots.len()).collect();
    by_size.sort_by_key(|&s| std::cmp::Reverse(slots[s].0));
    let mut rank = vec![0; slots.len()];
    by_size.iter().enumerate().for_each(|(r, &s)| rank[s] = r);
    let slot_of = slot_of.into_iter().map(|slot: Option<usize>| slot.map(|s| rank[s])).collect();
    (slot_of, by_size.into_iter().map(|s| slots[s].0).collect())
}

/// A written argument overlaps no other argument of its op, and no buffer is bound read-only and writable at once: the
/// first is what CPU twins rely on, the second is WebGPU's rule.
fn check_aliasing(node: &PlannedNode) {
    for (i, a) in node.args.iter().enumerate() {
        for (j, b) in node.args.iter().enumerate().skip(i + 1) {
            if !a.access.writes() && !b.access.writes() {
                continue;
            }
            let clash = match (a.place, b.place) {
                (Place::Slot(x, _), Place::Slot(y, _)) => x == y,
                (Place::Input(x, _), Place::Input(y, _)) => x == y,
                (Place::State(x, s), Place::State(y, t)) => {
                    x == y && (a.access.writes() != b.access.writes() || (s < t + b.len && t < s + a.len))
                }
                _ => false,
            };
            let kernel = node.op.kernel().name;
            assert!(!clash, "{kernel}: arguments {} and {} overlap", node.names[i], node.names[j]);
        }
    }
}
