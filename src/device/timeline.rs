//! What a device records of its steps: the intervals that the host and the device spend, on the host's clock.

use crate::graph::Phase;
use std::time::{Duration, Instant};

/// How finely a device's own work is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One interval a phase: forward, backward, update.
    Cheap,
    /// One interval a node, hence a dispatch.
    Detailed,
}

/// What an interval of a step was spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Activity {
    /// A thread that builds minibatches builds one.
    Build,
    /// The host waits for a minibatch.
    Data,
    /// The host moves inputs to where the device takes them, and waits where an earlier step still needs the room.
    Upload,
    /// The host puts the step's commands together.
    Encode,
    /// The host hands commands to the driver.
    Submit,
    /// The host waits for a step's end.
    Wait,
    /// The host copies outputs.
    Readback,
    /// The device works on a part of this phase.
    Phase(Phase),
    /// The device works on this node of the plan.
    Node(usize),
}

/// An interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Number of the step among those of its program, from 0.
    pub step: usize,
    /// What it was spent on.
    pub activity: Activity,
    /// Its beginning.
    pub start: Instant,
    /// Its end.
    pub end: Instant,
}

impl Span {
    /// Its length in seconds.
    pub fn seconds(&self) -> f64 {
        (self.end - self.start).as_secs_f64()
    }
}

/// How a device's own intervals came to the host's clock.
#[derive(Debug, Clone, PartialEq)]
pub enum Clock {
    /// The host's clock measured them.
    Host,
    /// The device's clock did, which was held against the host's before and after.
    Device {
        /// Most that an interval's place on the host's clock may be wrong by; its length is the device's own.
        error: Duration,
        /// Intervals left out, since the device wrote no time, or an end that is not after its beginning.
        unusable: usize,
    },
    /// There are none: why.
    Missing(String),
}

/// What was recorded of some steps.
#[derive(Debug, Clone)]
pub struct Timeline {
    /// The intervals, of each [`Activity`] in the order of time.
    pub spans: Vec<Span>,
    /// How those of the device's own work were measured.
    pub clock: Clock,
}

/// Collects the host's intervals while recording is on.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    pub mode: Option<Mode>,
    pub spans: Vec<Span>,
}

impl Recorder {
    /// Now; what lies between `start` and now is an interval, where recording is on.
    pub fn mark(&mut self, step: usize, activity: Activity, start: Instant) -> Instant {
        let end = Instant::now();
        if self.mode.is_some() {
            self.spans.push(Span { step, activity, start, end });
        }
        end
    }
}
