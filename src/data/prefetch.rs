//! Builds minibatches ahead of the device, in threads of their own, over bounded channels. Threads take turns, so that minibatches come in order however many
//! there are.

use super::batch::{BatchBuilder, BatchLayout, Minibatch, RowSource};
use crate::error::panic_message;
use crate::random::{Permutation, Purpose, Stream};
use crate::{Error, Result};
use std::any::Any;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

/// Minibatches that wait ready: so many of one thread, of each of several their part, rounded up.
const DEPTH: usize = 3;

/// A place in the endless sequence of training minibatches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Minibatch within the epoch, from 0.
    pub batch: u64,
}

/// Minibatches in an epoch of `rows` rows, the last short one included.
pub fn batches_per_epoch(rows: usize, batch_size: usize) -> u64 {
    rows.div_ceil(batch_size.max(1)) as u64
}

/// The receiving end of threads that build minibatches ahead. Dropping it ends them.
#[derive(Debug)]
pub struct Prefetch {
    /// Empty once the sequence has ended.
    builders: Vec<Builder>,
    /// Minibatches that were taken, and given back.
    taken: usize,
    returned: usize,
    built: Range<Instant>,
}

/// A thread, and the channels from and to it.
#[derive(Debug)]
struct Builder {
    ready: Receiver<Built>,
    used: Sender<Minibatch>,
    thread: JoinHandle<()>,
}

/// A minibatch, and from when to when it was built.
type Built = (Result<Minibatch>, Range<Instant>);

impl Prefetch {
    /// Endless minibatches for training, from `start` on. Each epoch is a permutation of the rows of its own, drawn from `seed`,
    /// cut into minibatches of `batch_size` rows and a last one of what is left.
    ///
    /// What a minibatch holds depends on the seed and its position alone, so a run that stopped goes on where it was, with any number of threads (0 counts as 1). Fails if
    /// there are no rows or if `start` lies beyond its epoch, as after a change of the batch size.
    pub fn train(
        source: Arc<dyn RowSource>,
        layout: BatchLayout,
        batch_size: usize,
        seed: u64,
        start: Position,
        threads: usize,
    ) -> Result<Prefetch> {
        let batch_size = positive(batch_size)?;
        let batches = batches_per_epoch(source.len(), batch_size);
        if batches == 0 {
            return Err(Error::user("no rows to train on; data.train must name files with rows"));
        }
        if start.batch > batches {
            return Err(Error::user(format!(
                "minibatch {} of epoch {} to go on from, but an epoch has {batches}; resume with the same data and batch size",
                start.batch, start.epoch
            )));
        }
        let n = source.len();
        let positions = (start.epoch..).flat_map(move |epoch| {
            let first = if epoch == start.epoch { start.batch } else { 0 };
            (first..batches).map(move |batch| Position { epoch, batch })
        });
        let order = move |epoch| {
            let permutation = Permutation::new(n, Stream::new(seed, Purpose::Shuffle, epoch));
            move |rows: &mut [usize]| permutation.apply(rows)
        };
        Prefetch::spawn(source, || BatchBuilder::new(layout.clone(), true), batch_size, positions, order, threads)
    }

    /// All rows once in their order, as minibatches without segments: for evaluation and prediction.
    pub fn sequential(source: Arc<dyn RowSource>, layout: BatchLayout, batch_size: usize, threads: usize) -> Result<Prefetch> {
        let batch_size = positive(batch_size)?;
        let positions = (0..batches_per_epoch(source.len(), batch_size)).map(|batch| Position { epoch: 0, batch });
        let builder = || BatchBuilder::new(layout.clone(), false);
        Prefetch::spawn(source, builder, batch_size, positions, |_| |_: &mut [usize]| (), threads)
    }

    /// The next minibatch, waiting for it if need be; None after the last. An error ends the sequence.
    #[expect(
        clippy::should_implement_trait,
        reason = "`?` comes before the end: an iterator would have it the other way round"
    )]
    pub fn next(&mut self) -> Result<Option<Minibatch>> {
        if self.builders.is_empty() {
            return Ok(None);
        }
        let turn = self.taken % self.builders.len();
        match self.builders[turn].ready.recv() {
            Ok((Ok(batch), built)) => {
                self.taken += 1;
                self.built = built;
                Ok(Some(batch))
            }
            Ok((Err(e), _)) => {
                self.end(turn);
                Err(e)
            }
            // The thread is gone: at the end of the sequence, or by a panic.
            Err(_) => match self.end(turn) {
                Some(panic) => {
                    let message = panic_message(&*panic);
                    Err(Error::system(format!("the thread that builds minibatches stopped: {message}")))
                }
                None => Ok(None),
            },
        }
    }

    /// From when to when its thread built the minibatch that [`Prefetch::next`] gave last.
    pub fn built(&self) -> Range<Instant> {
        self.built.clone()
    }

    /// Gives a minibatch back, so that its memory is used again.
    pub fn recycle(&mut self, batch: Minibatch) {
        // No one takes it after the end: then it is simply freed.
        if let Some(turn) = self.returned.checked_rem(self.builders.len()) {
            let _ = self.builders[turn].used.send(batch);
            self.returned += 1;
        }
    }

    /// Ends the threads: closing the channels wakes those that wait to send, which end with the minibatch they are at. What the thread whose turn it is
    /// panicked with.
    fn end(&mut self, turn: usize) -> Option<Box<dyn Any + Send>> {
        let threads: Vec<_> = self.builders.drain(..).map(|builder| builder.thread).collect();
        let ended: Vec<_> = threads.into_iter().map(JoinHandle::join).collect();
        ended.into_iter().nth(turn)?.err()
    }

    /// Starts the threads. `order(epoch)` puts rows in place of their places in the epoch.
    fn spawn<O: Fn(&mut [usize])>(
        source: Arc<dyn RowSource>,
        builder: impl Fn() -> BatchBuilder,
        batch_size: usize,
        positions: impl Iterator<Item = Position> + Clone + Send + 'static,
        order: impl Fn(u64) -> O + Clone + Send + 'static,
        threads: usize,
    ) -> Result<Prefetch> {
        let (threads, now) = (threads.max(1), Instant::now());
        let mut prefetch = Prefetch { builders: Vec::new(), taken: 0, returned: 0, built: now..now };
        for thread in 0..threads {
            let positions = positions.clone().skip(thread).step_by(threads);
            let depth = DEPTH.div_ceil(threads);
            prefetch.builders.push(Builder::start(
                Arc::clone(&source),
                builder(),
                batch_size,
                positions,
                order.clone(),
                depth,
            )?);
        }
        Ok(prefetch)
    }
}

impl Builder {
    fn start<O: Fn(&mut [usize])>(
        source: Arc<dyn RowSource>,
        mut builder: BatchBuilder,
        batch_size: usize,
        positions: impl Iterator<Item = Position> + Send + 'static,
        order: impl Fn(u64) -> O + Send + 'static,
        depth: usize,
    ) -> Result<Builder> {
        let (sender, ready): (SyncSender<Built>, _) = sync_channel(depth);
        let (used, recycled) = channel::<Minibatch>();
        let work = move || {
            let mut rows = Vec::with_capacity(batch_size.min(source.len()));
            let mut spare: Vec<Minibatch> = Vec::new();
            let mut of_epoch: Option<(u64, O)> = None;
            for Position { epoch, batch: index } in positions {
                let start = Instant::now();
                let first = index as usize * batch_size;
                of_epoch = of_epoch.filter(|of| of.0 == epoch);
                let (_, order) = of_epoch.get_or_insert_with(|| (epoch, order(epoch)));
                rows.clear();
                rows.extend(first..source.len().min(first + batch_size));
                order(&mut rows);
                // The one that came last first: most of it may still be in a cache.
                spare.extend(recycled.try_iter());
                let mut batch = spare.pop().unwrap_or_default();
                (batch.epoch, batch.index) = (epoch, index);
                let built = builder.fill(&*source, &rows, &mut batch).map(|()| batch);
                let last = built.is_err();
                // A closed channel: the receiver was dropped.
                if sender.send((built, start..Instant::now())).is_err() || last {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("prefetch".into())
            .spawn(work)
            .map_err(|e| Error::system(format!("cannot start the thread that builds minibatches: {e}")))?;
        Ok(Builder { ready, used, thread })
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.end(0);
    }
}

fn positive(batch_size: usize) -> Result<usize> {
    if batch_size == 0 { Err(Error::user("a minibatch of 0 rows; the batch size must be at least 1")) } else { Ok(batch_size) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batch::{RowBlock, table_layouts, tests::Made};

    const SIZES: [usize; 2] = [7, 500];

    fn source(rows: usize) -> Arc<dyn RowSource> {
        Arc::new(Made { rows, vocabulary_sizes: SIZES.to_vec(), seed: 5 })
    }

    fn layout() -> BatchLayout {
        BatchLayout { tables: table_layouts(&[4, 8], &SIZES, usize::MAX).unwrap(), numeric: 1, mask: None }
    }

    /// Numbers of threads: one, two, more than minibatches wait.
    const THREADS: [usize; 3] = [1, 2, 5];

    fn take(prefetch: &mut Prefetch, count: usize) -> Vec<Minibatch> {
        let mut batches = Vec::new();
        for _ in 0..count {
            let batch = prefetch.next().unwrap().unwrap();
            batches.push(batch.clone());
            prefetch.recycle(batch);
        }
        batches
    }

    /// The rows of a minibatch: the made source gives a row's number as its numeric feature.
    fn rows(batches: &[Minibatch]) -> Vec<usize> {
        batches.iter().flat_map(|b| b.numeric.iter().map(|&r| r as usize)).collect()
    }

    #[test]
    fn an_epoch_holds_every_row_once() {
        for (n, size, threads) in [(1, 1, 1), (1, 8, 2), (64, 64, 1), (1001, 100, 2), (1000, 100, 5), (3, 1000, 1)] {
            let mut prefetch = Prefetch::train(source(n), layout(), size, 1, Position::default(), threads).unwrap();
            let batches = batches_per_epoch(n, size) as usize;
            let mut orders = Vec::new();
            for epoch in 0..3 {
                let epoch_batches = take(&mut prefetch, batches);
                assert!(epoch_batches.iter().enumerate().all(|(i, b)| (b.epoch, b.index) == (epoch, i as u64)));
                let sizes: Vec<usize> = epoch_batches.iter().map(|b| b.rows).collect();
                assert!(sizes[..batches - 1].iter().all(|&s| s == size));
                assert_eq!(sizes.iter().sum::<usize>(), n);
                let order = rows(&epoch_batches);
                let mut sorted = order.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..n).collect::<Vec<_>>());
                orders.push(order);
            }
            assert!(n < 64 || (orders[0] != orders[1] && orders[1] != orders[2]));
        }
    }

    #[test]
    fn the_middle_is_the_same_from_wherever_it_is_reached() {
        let from = |start, threads| Prefetch::train(source(205), layout(), 50, 9, start, threads);
        let all = take(&mut from(Position::default(), 1).unwrap(), 15);
        for threads in THREADS {
            for start in 0..=10 {
                let position = Position { epoch: start / 5, batch: start % 5 };
                let some = take(&mut from(position, threads).unwrap(), 4);
                assert_eq!(some, all[start as usize..start as usize + 4]);
            }
            // The end of an epoch is the start of the next.
            let some = take(&mut from(Position { epoch: 0, batch: 5 }, threads).unwrap(), 1);
            assert_eq!(some, all[5..6]);
        }
        assert!(from(Position { epoch: 0, batch: 6 }, 1).is_err());
    }

    #[test]
    fn evaluation_reads_in_order_and_ends() {
        for (n, threads) in [0, 1, 10, 11].into_iter().flat_map(|n| THREADS.map(|threads| (n, threads))) {
            let mut prefetch = Prefetch::sequential(source(n), layout(), 5, threads).unwrap();
            let batches = take(&mut prefetch, n.div_ceil(5));
            assert_eq!(rows(&batches), (0..n).collect::<Vec<_>>());
            assert!(batches.iter().flat_map(|b| &b.tables).all(|t| t.segments.is_empty() && t.occurrences.is_empty()));
            assert_eq!(prefetch.next().unwrap(), None);
            assert_eq!(prefetch.next().unwrap(), None);
        }
    }

    #[test]
    fn dropping_in_mid_stream_ends_the_threads() {
        for (taken, threads) in (0..6).flat_map(|taken| THREADS.map(|threads| (taken, threads))) {
            let source = source(1000);
            let start = Position::default();
            let mut prefetch = Prefetch::train(Arc::clone(&source), layout(), 10, 1, start, threads).unwrap();
            take(&mut prefetch, taken);
            drop(prefetch);
            assert_eq!(Arc::strong_count(&source), 1);
        }
    }

    #[test]
    fn a_panic_or_an_error_in_the_thread_is_an_error() {
        struct Broken;
        impl RowSource for Broken {
            fn len(&self) -> usize {
                100
            }
            fn read(&self, rows: &[usize], _: &mut RowBlock) {
                assert!(rows.iter().all(|&row| row < 50), "page gone");
            }
        }
        for threads in THREADS {
            let mut prefetch = Prefetch::sequential(Arc::new(Broken), layout(), 25, threads).unwrap();
            take(&mut prefetch, 2);
            let e = prefetch.next().unwrap_err();
            assert!(e.to_string().contains("page gone"), "{e}");
            assert_eq!(prefetch.next().unwrap(), None);
            prefetch.recycle(Minibatch::default());

            let narrow = BatchLayout { tables: table_layouts(&[4, 8], &[7, 2], usize::MAX).unwrap(), ..layout() };
            let mut prefetch = Prefetch::train(source(1000), narrow, 100, 1, Position::default(), threads).unwrap();
            assert!(prefetch.next().unwrap_err().to_string().contains("beyond its vocabulary"));
            assert_eq!(prefetch.next().unwrap(), None);
        }

        // One thread fails while the others wait to send what comes after; all that comes before arrives.
        struct WithoutOneRow;
        impl RowSource for WithoutOneRow {
            fn len(&self) -> usize {
                100
            }
            fn read(&self, rows: &[usize], _: &mut RowBlock) {
                assert!(!rows.contains(&77), "row 77 gone");
            }
        }
        for threads in THREADS {
            let mut prefetch = Prefetch::sequential(Arc::new(WithoutOneRow), layout(), 5, threads).unwrap();
            for index in 0..15 {
                assert_eq!(prefetch.next().unwrap().unwrap().index, index);
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(prefetch.next().unwrap_err().to_string().contains("row 77 gone"));
            assert_eq!(prefetch.next().unwrap(), None);
        }

        assert!(Prefetch::train(source(0), layout(), 10, 1, Position::default(), 1).is_err());
        assert!(Prefetch::train(source(10), layout(), 0, 1, Position::default(), 1).is_err());
    }
}
