//! A profile as a trace for Perfetto (<https://ui.perfetto.dev>) and `chrome://tracing`: the Trace Event Format's JSON, complete events
//! ("X") of host threads and device on one clock.

use super::{Profile, name};
use crate::device::timeline::{Activity, Span};
use serde_json::{Value, json};
use std::time::Instant;

/// Process and thread of an activity: the host is one process, the device another.
const MAIN: (u32, u32) = (1, 1);
const BUILDER: (u32, u32) = (1, 2);
const DEVICE: (u32, u32) = (2, 1);

fn lane(activity: Activity) -> (u32, u32) {
    match activity {
        Activity::Build => BUILDER,
        Activity::Phase(_) | Activity::Node(_) => DEVICE,
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
        let mut events = vec![
            metadata("process_name", MAIN, "tauten"),
            metadata("thread_name", MAIN, "training"),
            metadata("thread_name", BUILDER, "minibatches"),
            metadata("process_name", DEVICE, &self.device),
            metadata("thread_name", DEVICE, "queue"),
        ];
        // An interval before those that it holds.
        spans.sort_by_key(|(span, ..)| (lane(span.activity), span.start, std::cmp::Reverse(span.end)));
        // Ends of what is open in the lane: an interval that would outlast what holds it is cut, by the nanoseconds of rounding.
        let (mut current, mut open): (_, Vec<u128>) = (MAIN, Vec::new());
        for (span, title, args) in spans {
            let (pid, tid) = lane(span.activity);
            if (pid, tid) != current {
                (current, open) = ((pid, tid), Vec::new());
            }
            let at = |t: Instant| (t - zero).as_nanos();
            let (start, mut end) = (at(span.start), at(span.end));
            while open.last().is_some_and(|&last| last <= start) {
                open.pop();
            }
            end = open.last().map_or(end, |&last| end.min(last));
            open.push(end);
            events.push(json!({
                "name": title, "cat": if current == DEVICE { "device" } else { "host" }, "ph": "X",
                "ts": start as f64 / 1e3, "dur": (end - start) as f64 / 1e3, "pid": pid, "tid": tid, "args": args,
            }));
        }
        json!({
            "traceEvents": events, "displayTimeUnit": "ms",
            "otherData": { "device": self.device, "clock_error_us": self.clock_error_us, "missing": self.missing },
        })
    }
}

/// Lengthens the last of the phases by an interval within it, or begins the next phase.
fn extend(phases: &mut Vec<Span>, span: Span) {
    match phases.last_mut() {
        Some(last) if (last.step, last.activity) == (span.step, span.activity) => last.end = last.end.max(span.end),
        _ => phases.push(span),
    }
}
