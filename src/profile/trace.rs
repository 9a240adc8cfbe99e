//! A profile as a trace for Perfetto (<https://ui.perfetto.dev>) and `chrome://tracing`: the Trace Event Format's JSON, complete events
//! ("X") of host threads and device on one clock.

use super::{Profile, name};
use crate::device::timeline::{Activity, Span};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;

/// Process and thread of an activity: the host is one process, the device another.
const MAIN: (u32, u32) = (1, 1);
const BUILDER: (u32, u32) = (1, 2);
const PHASES: (u32, u32) = (2, 1);
const KERNELS: (u32, u32) = (2, 2);
/// From a thread to the one for what overlaps it.
const BESIDE: u32 = 10;
/// Nanoseconds by which an interval may seem to outlast the one that holds it.
const ROUNDING: u128 = 100;

fn lane(activity: Activity) -> (u32, u32) {
    match activity {
        Activity::Build => BUILDER,
        Activity::Phase(_) => PHASES,
        Activity::Node(_) => KERNELS,
        _ => MAIN,
    }
}

impl Profile {
    /// The trace of all recorded steps. Times are microseconds from the first interval on, of whole nanoseconds.
    pub fn to_trace(&self) -> Value {
        let nodes = &self.recorded.nodes;
        let mut spans: Vec<(Span, String, Value)> = Vec::new();
        let mut phases: Vec<Span> = Vec::new();
        for &span in &self.recorded.spans {
            let step = json!({ "step": span.step });
            let (title, args) = match span.activity {
                Activity::Phase(phase) => (phase.name().to_string(), step),
                Activity::Node(node) => {
                    let node = &nodes[node];
                    extend(&mut phases, Span { activity: Activity::Phase(node.phase), ..span });
                    let args = json!({
                        "step": span.step, "shape": node.sizes(), "dimensions": node.dimensions(), "where": node.label,
                        "bytes": node.cost.bytes, "flops": node.cost.flops,
                    });
                    (node.kernel.to_string(), args)
                }
                other => (name(other).unwrap_or_default().to_string(), step),
            };
            spans.push((span, title, args));
        }
        spans.extend(phases.into_iter().map(|span| {
            let title = match span.activity {
                Activity::Phase(phase) => phase.name(),
                _ => "",
            };
            (span, title.to_string(), json!({ "step": span.step }))
        }));
        let zero = spans.iter().map(|(span, ..)| span.start).min().unwrap_or_else(Instant::now);
        let metadata = |name: &str, (pid, tid): (u32, u32), value: &str| json!({ "name": name, "ph": "M", "pid": pid, "tid": tid, "args": { "name": value } });
        let mut events = vec![metadata("process_name", MAIN, "tauten"), metadata("process_name", PHASES, &self.device)];
        // An interval before those that it holds.
        spans.sort_by_key(|(span, ..)| (lane(span.activity), span.start, std::cmp::Reverse(span.end)));
        let mut lanes = Lanes::default();
        let mut intervals = Vec::new();
        for (span, title, args) in spans {
            let [start, end] = [span.start, span.end].map(|t| (t - zero).as_nanos());
            let ((pid, tid), end) = lanes.place(lane(span.activity), start, end);
            intervals.push(json!({
                "name": title, "cat": if pid == PHASES.0 { "device" } else { "host" }, "ph": "X",
                "ts": start as f64 / 1e3, "dur": (end - start) as f64 / 1e3, "pid": pid, "tid": tid, "args": args,
            }));
        }
        let names = [(MAIN, "training"), (BUILDER, "minibatches"), (PHASES, "phases"), (KERNELS, "kernels")];
        for (pid, tid) in lanes.0.into_keys() {
            let beside = if tid > BESIDE { ", at the same time" } else { "" };
            let name = names.iter().find(|(lane, _)| *lane == (pid, tid % BESIDE)).map_or("", |(_, name)| name);
            events.push(metadata("thread_name", (pid, tid), &format!("{name}{beside}")));
        }
        events.extend(intervals);
        json!({
            "traceEvents": events, "displayTimeUnit": "ms",
            "otherData": { "device": self.device, "clock_error_us": self.clock_error_us, "missing": self.missing },
        })
    }
}

/// Ends of what is open in each lane.
#[derive(Default)]
struct Lanes(BTreeMap<(u32, u32), Vec<u128>>);

impl Lanes {
    /// Where an interval goes that begins no earlier than those before it in `lane`, and its end. Intervals of a thread must hold each other: what outlasts the
    /// one that it begins in by no more than a rounding is cut, and what really ran beside it has a lane beside it. Minibatches are
    /// built by several threads: one within another's time is none of its parts.
    fn place(&mut self, (pid, mut tid): (u32, u32), start: u128, end: u128) -> ((u32, u32), u128) {
        let holds = (pid, tid) != BUILDER;
        loop {
            let open = self.0.entry((pid, tid)).or_default();
            while open.last().is_some_and(|&last| last <= start) {
                open.pop();
            }
            let most = open.last().copied().unwrap_or(end);
            if open.is_empty() || (holds && end <= most + ROUNDING) {
                open.push(end.min(most));
                return ((pid, tid), end.min(most));
            }
            tid += BESIDE;
        }
    }
}

/// Lengthens the last of the phases by an interval within it, or begins the next phase.
fn extend(phases: &mut Vec<Span>, span: Span) {
    match phases.last_mut() {
        Some(last) if (last.step, last.activity) == (span.step, span.activity) => last.end = last.end.max(span.end),
        _ => phases.push(span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_has_a_lane_of_its_own() {
        let beside = (KERNELS.0, KERNELS.1 + BESIDE);
        let mut lanes = Lanes::default();
        for (start, end, lane, placed) in [
            (0, 5000, KERNELS, 5000),
            (0, 2000, KERNELS, 2000),
            (1000, 3000, beside, 3000),
            (1500, 2500, beside, 2500),
            (3000, 5000 + ROUNDING, KERNELS, 5000),
            (5000, 6000, KERNELS, 6000),
        ] {
            assert_eq!(lanes.place(KERNELS, start, end), (lane, placed), "from {start} to {end}");
        }
        let beside = (BUILDER.0, BUILDER.1 + BESIDE);
        for (start, end, lane) in [(0, 5000, BUILDER), (1000, 2000, beside), (3000, 6000, beside), (5000, 7000, BUILDER)] {
            assert_eq!(lanes.place(BUILDER, start, end), (lane, end), "from {start} to {end}");
        }
    }
}
