//! Timestamps of compute passes: query sets, their readback, and the device's clock held against the host's.

use super::{ALIGN, Ring};
use crate::device::RING;
use crate::device::timeline::{Activity, Clock, Span};
use std::time::{Duration, Instant};

/// Bytes of a resolved query.
const QUERY: u64 = wgpu::QUERY_SIZE as u64;
/// Passes whose two queries fit a query set.
const PASSES: usize = wgpu::QUERY_SET_MAX_QUERIES as usize / 2;

/// The timestamps of one program's steps: made with the device, for as many passes as the program has nodes.
pub(super) struct Timestamps {
    sets: Vec<wgpu::QuerySet>,
    resolved: wgpu::Buffer,
    pub readback: Ring,
    /// For each buffer of the ring what the passes of its step did; empty where nothing was recorded.
    pub passes: [Vec<Activity>; RING],
}

impl Timestamps {
    /// For steps of at most `passes` passes.
    pub fn new(device: &wgpu::Device, passes: usize) -> Timestamps {
        let set = |first: usize| {
            device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2 * PASSES.min(passes.max(1) - first) as u32,
            })
        };
        let bytes = Timestamps::bytes(passes).max(ALIGN);
        Timestamps {
            sets: (0..passes.max(1)).step_by(PASSES).map(set).collect(),
            resolved: device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("resolved timestamps"),
                size: bytes,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            }),
            readback: Ring::new(device, "timestamps", bytes, wgpu::MapMode::Read),
            passes: Default::default(),
        }
    }

    /// What has pass number `pass` of a step write its beginning and end.
    pub fn writes(&self, pass: usize) -> wgpu::ComputePassTimestampWrites<'_> {
        let first = 2 * (pass % PASSES) as u32;
        wgpu::ComputePassTimestampWrites {
            query_set: &self.sets[pass / PASSES],
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        }
    }

    /// Has the timestamps of a step's first `passes` passes stand in the buffer that is returned; [`Timestamps::bytes`] of them.
    pub fn resolve(&self, encoder: &mut wgpu::CommandEncoder, passes: usize) -> &wgpu::Buffer {
        for (i, set) in self.sets.iter().enumerate().take(passes.div_ceil(PASSES)) {
            let first = i * PASSES;
            let queries = 2 * PASSES.min(passes - first) as u32;
            encoder.resolve_query_set(set, 0..queries, &self.resolved, Timestamps::bytes(first));
        }
        &self.resolved
    }

    /// Bytes of the timestamps of `passes` passes.
    pub fn bytes(passes: usize) -> u64 {
        passes as u64 * 2 * QUERY
    }
}

/// The beginning and end of each pass in ticks.
pub(super) fn ticks(bytes: &[u8]) -> impl Iterator<Item = [u64; 2]> + '_ {
    bytes.chunks_exact(2 * QUERY as usize).map(bytemuck::pod_read_unaligned)
}

/// An interval of the device's own work, as it wrote it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw {
    pub step: usize,
    pub activity: Activity,
    pub ticks: [u64; 2],
}

/// A moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub tick: u64,
    pub host: Instant,
    /// Most that the two may be apart.
    pub error: Duration,
}

impl Moment {
    /// Of the ticks that a pass wrote between two moments of the host: their middles are the same, give or take what the round trip
    /// took beyond the pass. None where the device wrote no time.
    pub fn new(before: Instant, after: Instant, [begin, end]: [u64; 2], period: f64) -> Option<Moment> {
        if begin == 0 || end < begin {
            return None;
        }
        let trip = after - before;
        let pass = nanoseconds((end - begin) as f64 * period);
        Some(Moment { tick: begin + (end - begin) / 2, host: before + trip / 2, error: trip.saturating_sub(pass) / 2 })
    }
}

/// Recording of a device that has timestamps, or why there are none.
pub(super) struct Recording {
    /// Nanoseconds a tick.
    pub period: f64,
    pub raw: Vec<Raw>,
    /// At the beginning; none where timestamps are missing, and why.
    pub first: Result<Moment, String>,
}

impl Recording {
    /// The intervals on the host's clock, `last` a moment at the end of recording.
    pub fn spans(&self, last: Option<Moment>) -> (Vec<Span>, Clock) {
        let (first, last) = match (&self.first, last) {
            (Ok(first), Some(last)) => (first, last),
            (Err(why), _) => return (Vec::new(), Clock::Missing(why.clone())),
            (_, None) => return (Vec::new(), Clock::Missing(NO_TIME.into())),
        };
        // In ns after the first moment: the device's clock, and how far the host's was from it at the end.
        let device = |tick: u64| (i128::from(tick) - i128::from(first.tick)) as f64 * self.period;
        let drift = (last.host - first.host).as_nanos() as f64 - device(last.tick);
        let error = first.error.max(last.error) + nanoseconds(drift.abs() / 2.0);
        let at = |tick: u64| {
            let after = device(tick) + drift / 2.0;
            if after >= 0.0 {
                first.host + nanoseconds(after)
            } else {
                first.host.checked_sub(nanoseconds(-after)).unwrap_or(first.host)
            }
        };
        let (mut spans, mut unusable, mut before) = (Vec::with_capacity(self.raw.len()), 0, 0);
        for &Raw { step, activity, ticks: [begin, end] } in &self.raw {
            // A device that has no time to write leaves zeros, or the same number everywhere.
            let usable = begin >= before && begin > 0 && end > begin;
            before = begin;
            if !usable {
                unusable += 1;
                continue;
            }
            let start = at(begin);
            spans.push(Span { step, activity, start, end: start + nanoseconds((end - begin) as f64 * self.period) });
        }
        if spans.is_empty() && unusable > 0 {
            return (spans, Clock::Missing(NO_TIME.into()));
        }
        (spans, Clock::Device { error, unusable })
    }
}

/// Why there is no time where the device writes none.
pub(super) const NO_TIME: &str = "the adapter's timestamps are zero or do not grow";
/// Why there is no time where the device cannot write any.
pub(super) const NO_FEATURE: &str = "the adapter has no timestamp queries";

fn nanoseconds(n: f64) -> Duration {
    Duration::from_nanos(n.max(0.0) as u64)
}
