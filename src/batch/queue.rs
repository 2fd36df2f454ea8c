//! The queue as plain data: no threads, no clock of its own.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::image::{ImageSize, MAX_INPUT_PIXELS};
use crate::metrics::Cut;

/// When a batch is cut, in Triton's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Most pictures in a batch.
    pub max_batch_size: usize,
    /// Longest time that the oldest picture waits for company; zero: it never waits.
    pub max_queue_delay: Duration,
}

impl Policy {
    /// Most pictures of `size` that run together: large ones fill a session's threads alone, and
    /// would only add their activations.
    pub fn batch_size(&self, size: ImageSize) -> usize {
        let fitting = MAX_INPUT_PIXELS / size.pixels().max(1);
        let fitting = usize::try_from(fitting).unwrap_or(usize::MAX);
        self.max_batch_size.min(fitting).max(1)
    }
}

/// A waiting picture.
#[derive(Debug)]
pub(super) struct Pending<T> {
    pub(super) payload: T,
    /// Pictures of one batch share it.
    pub(super) size: ImageSize,
    pub(super) enqueued: Instant,
    pub(super) deadline: Instant,
}

/// What a free worker should do.
#[derive(Debug)]
pub(super) enum Next<T> {
    /// Nothing waits.
    Empty,
    /// The batch is not due before this time.
    Wait(Instant),
    /// Run these.
    Batch(Vec<Pending<T>>, Cut),
}

#[derive(Debug)]
pub(super) struct Queue<T> {
    entries: VecDeque<Pending<T>>,
    policy: Policy,
}

impl<T> Queue<T> {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            entries: VecDeque::new(),
            policy,
        }
    }

    pub(super) fn push(&mut self, pending: Pending<T>) {
        self.entries.push_back(pending);
    }

    /// Removes the entries that nobody waits for any more, so that they take no place in a batch.
    pub(super) fn remove(&mut self, dead: impl Fn(&Pending<T>) -> bool) -> Vec<Pending<T>> {
        if !self.entries.iter().any(&dead) {
            return Vec::new();
        }
        let (gone, rest) = self.entries.drain(..).partition(dead);
        self.entries = rest;
        Vec::from(gone)
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The next batch: the oldest picture and the oldest others of its size.
    pub(super) fn next(&mut self, now: Instant) -> Next<T> {
        let max_queue_delay = self.policy.max_queue_delay;
        let Some(oldest) = self.entries.front() else {
            return Next::Empty;
        };
        let (size, due) = (oldest.size, oldest.enqueued + max_queue_delay);
        let max_batch_size = self.policy.batch_size(size);
        let fitting = self
            .entries
            .iter()
            .filter(|entry| entry.size == size)
            .count();
        let full = fitting >= max_batch_size;
        if !full && now < due {
            return Next::Wait(due);
        }
        let cut = match () {
            () if full => Cut::full,
            () if !max_queue_delay.is_zero() => Cut::delay,
            () if fitting < self.entries.len() => Cut::size,
            () => Cut::worker_free,
        };
        Next::Batch(self.take(size, max_batch_size), cut)
    }

    /// Removes the first `most` entries of `size`; the others keep their order.
    fn take(&mut self, size: ImageSize, most: usize) -> Vec<Pending<T>> {
        let mut batch = Vec::new();
        let mut rest = VecDeque::with_capacity(self.entries.len());
        for entry in self.entries.drain(..) {
            if entry.size == size && batch.len() < most {
                batch.push(entry);
            } else {
                rest.push_back(entry);
            }
        }
        self.entries = rest;
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(max_batch_size: usize, delay_ms: u64, sizes: &[u32]) -> (Queue<usize>, Instant) {
        let max_queue_delay = Duration::from_millis(delay_ms);
        let mut queue = Queue::new(Policy {
            max_batch_size,
            max_queue_delay,
        });
        let start = Instant::now();
        for (payload, side) in sizes.iter().enumerate() {
            let size = ImageSize {
                width: *side,
                height: *side,
            };
            let enqueued = start + Duration::from_millis(payload as u64);
            queue.push(Pending {
                payload,
                size,
                enqueued,
                deadline: start,
            });
        }
        (queue, start)
    }

    fn cut(queue: &mut Queue<usize>, now: Instant) -> (Vec<usize>, Cut) {
        match queue.next(now) {
            Next::Batch(batch, cut) => (batch.iter().map(|p| p.payload).collect(), cut),
            other => panic!("no batch: {other:?}"),
        }
    }

    #[test]
    fn batches_without_delay() {
        let cases: [(usize, &[u32], &[usize], Cut); 5] = [
            (4, &[1], &[0], Cut::worker_free),
            (4, &[1, 1, 1], &[0, 1, 2], Cut::worker_free),
            (2, &[1, 1, 1], &[0, 1], Cut::full),
            (4, &[1, 2, 1], &[0, 2], Cut::size),
            (2, &[1, 2, 1, 1], &[0, 2], Cut::full),
        ];
        for (max_batch_size, sizes, expected, why) in cases {
            let (mut queue, start) = queue(max_batch_size, 0, sizes);
            assert_eq!(
                cut(&mut queue, start),
                (expected.to_vec(), why),
                "{sizes:?}"
            );
        }
    }

    #[test]
    fn large_pictures_make_small_batches() {
        let (mut queue, start) = queue(8, 0, &[600, 600, 600, 600, 600, 1200, 1200]);
        let now = start + Duration::from_millis(10);
        assert_eq!(cut(&mut queue, now), (vec![0, 1, 2, 3], Cut::full));
        assert_eq!(cut(&mut queue, now), (vec![4], Cut::size));
        assert_eq!(cut(&mut queue, now), (vec![5], Cut::full));
    }

    #[test]
    fn entries_that_stay_keep_their_order() {
        let (mut queue, start) = queue(8, 0, &[1, 2, 1, 3, 2]);
        let now = start + Duration::from_millis(10);
        assert_eq!(cut(&mut queue, now).0, [0, 2]);
        assert_eq!(cut(&mut queue, now).0, [1, 4]);
        assert_eq!(cut(&mut queue, now).0, [3]);
        assert!(matches!(queue.next(now), Next::Empty));
    }

    #[test]
    fn the_dead_take_no_place_in_a_batch() {
        let (mut queue, start) = queue(2, 0, &[1, 1, 1, 1]);
        let gone = queue.remove(|pending| pending.payload < 2);
        assert_eq!(gone.iter().map(|p| p.payload).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(cut(&mut queue, start), (vec![2, 3], Cut::full));
        assert!(queue.is_empty());
    }

    #[test]
    fn a_delay_holds_a_partial_batch_until_it_is_due() {
        let (mut queue, start) = queue(4, 10, &[1, 1]);
        let due = start + Duration::from_millis(10);
        assert!(matches!(queue.next(start), Next::Wait(at) if at == due));
        assert_eq!(cut(&mut queue, due), (vec![0, 1], Cut::delay));
    }

    #[test]
    fn a_delay_does_not_hold_a_full_batch() {
        let (mut queue, start) = queue(2, 10, &[1, 1]);
        assert_eq!(cut(&mut queue, start), (vec![0, 1], Cut::full));
    }
}
