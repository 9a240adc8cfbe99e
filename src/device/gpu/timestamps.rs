//! Timestamps of compute passes: query sets, their readback, and the device's clock held against the host's.

use super::pipelines::nothing;
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
    /// What a pass may do that is there for its time alone.
    pub nothing: wgpu::ComputePipeline,
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
            nothing: nothing(device),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A recording of nodes with these ticks, 10 ns each; the clocks agree at tick 1000, and 20 us later to `late` nanoseconds.
    fn recorded(ticks: &[[u64; 2]], late: u64) -> (Vec<Span>, Clock, Instant) {
        let host = Instant::now();
        let moment = |tick, after| Moment { tick, host: host + Duration::from_nanos(after), error: Duration::from_nanos(7) };
        let raw = |(i, &ticks)| Raw { step: 0, activity: Activity::Node(i), ticks };
        let raw = ticks.iter().enumerate().map(raw).collect();
        let recording = Recording { period: 10.0, raw, first: Ok(moment(1000, 0)) };
        let (spans, clock) = recording.spans(Some(moment(3000, 20_000 + late)));
        (spans, clock, host)
    }

    #[test]
    fn ticks_become_the_hosts_time() {
        let (spans, clock, host) = recorded(&[[1100, 1150], [1150, 1300]], 0);
        let ns = |t: Instant| (t - host).as_nanos();
        let got: Vec<_> = spans.iter().map(|s| (s.activity, ns(s.start), ns(s.end))).collect();
        assert_eq!(got, [(Activity::Node(0), 1000, 1500), (Activity::Node(1), 1500, 3000)]);
        assert_eq!(clock, Clock::Device { error: Duration::from_nanos(7), unusable: 0 });
        // Half of a drift of 100 ns moves all intervals and is part of the error; lengths stay.
        let (spans, clock, host) = recorded(&[[1100, 1150]], 100);
        assert_eq!(((spans[0].start - host).as_nanos(), (spans[0].end - spans[0].start).as_nanos()), (1050, 500));
        assert_eq!(clock, Clock::Device { error: Duration::from_nanos(57), unusable: 0 });
    }

    #[test]
    fn what_makes_no_sense_is_no_time() {
        // Zeros, no length, an end before its beginning, a beginning before the one before.
        let (spans, clock, _) = recorded(&[[0, 0], [1100, 1200], [1200, 1200], [1300, 1250], [1260, 1400], [1500, 1600]], 0);
        let nodes: Vec<Activity> = spans.iter().map(|s| s.activity).collect();
        assert_eq!(nodes, [Activity::Node(1), Activity::Node(5)]);
        assert_eq!(clock, Clock::Device { error: Duration::from_nanos(7), unusable: 4 });
        for ticks in [[[0, 0], [0, 0]], [[5, 5], [5, 5]]] {
            assert_eq!(recorded(&ticks, 0).1, Clock::Missing(NO_TIME.into()));
        }
        let without = Recording { period: 1.0, raw: Vec::new(), first: Err(NO_FEATURE.into()) };
        assert_eq!(without.spans(None).1, Clock::Missing(NO_FEATURE.into()));
    }

    #[test]
    fn a_pass_lies_in_the_middle_of_its_round_trip() {
        let before = Instant::now();
        let after = before + Duration::from_nanos(1000);
        let moment = Moment::new(before, after, [70, 110], 10.0).expect("a moment");
        assert_eq!(
            (moment.tick, moment.host, moment.error),
            (90, before + Duration::from_nanos(500), Duration::from_nanos(300))
        );
        assert!(Moment::new(before, after, [0, 0], 1.0).is_none() && Moment::new(before, after, [9, 8], 1.0).is_none());
    }
}
