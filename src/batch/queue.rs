//! The queue of images and the rules for cutting batches, as plain data: without threads and locks,
//! and with the current time as an argument.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::QueueEntry;
use crate::image::{ImageSize, MAX_INPUT_PIXELS};
use crate::metrics::Cut;

/// Limits that decide when a batch is cut from the queue. The names are those of NVIDIA Triton's
/// dynamic batching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Maximum number of images in a batch.
    pub max_batch_size: usize,
    /// Maximum time that the oldest image waits until its batch is full. Zero to cut a batch as
    /// soon as a worker is free.
    pub max_queue_delay: Duration,
}

impl Policy {
    /// Returns the maximum number of images of `size` in one batch, at least 1.
    ///
    /// Fewer large images than small images fit in a batch: a single large image keeps all threads
    /// of a session busy, so that a larger batch would only need more memory for activations.
    pub fn batch_size(&self, size: ImageSize) -> usize {
        let fitting = MAX_INPUT_PIXELS / size.pixels().max(1);
        let fitting = usize::try_from(fitting).unwrap_or(usize::MAX);
        self.max_batch_size.min(fitting).max(1)
    }
}

/// What a free worker does next.
#[derive(Debug)]
pub(super) enum Next {
    /// The queue is empty.
    Empty,
    /// No batch is due before this time.
    Wait(Instant),
    /// A batch is due: its images, which all have the same size, and the reason why it was cut, for
    /// the metrics.
    Batch(Vec<QueueEntry>, Cut),
}

/// Images that wait for a worker, oldest first.
#[derive(Debug)]
pub(super) struct Queue {
    entries: VecDeque<QueueEntry>,
    policy: Policy,
}

impl Queue {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            entries: VecDeque::new(),
            policy,
        }
    }

    pub(super) fn push(&mut self, entry: QueueEntry) {
        self.entries.push_back(entry);
    }

    /// Removes and returns the entries for which `dead` returns `true`, so that they are not put in
    /// a batch. The remaining entries keep their order.
    pub(super) fn remove(&mut self, dead: impl Fn(&QueueEntry) -> bool) -> Vec<QueueEntry> {
        if !self.entries.iter().any(&dead) {
            return Vec::new();
        }
        let (removed, kept) = self.entries.drain(..).partition(dead);
        self.entries = kept;
        Vec::from(removed)
    }

    /// Returns the number of entries that are cancelled.
    #[cfg(test)]
    pub(super) fn cancelled(&self) -> usize {
        let cancelled = |entry: &&QueueEntry| entry.reply.is_closed();
        self.entries.iter().filter(cancelled).count()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns what a free worker does at time `now`. The images of a returned batch are removed
    /// from the queue.
    ///
    /// The batch has images of the oldest image's size if enough of them wait for a full batch or
    /// the oldest image is due. If neither is the case, it is a full batch of another size, if
    /// there is one. If `last`, no image arrives before a batch is cut, and the oldest image is due.
    pub(super) fn next(&mut self, now: Instant, last: bool) -> Next {
        let max_queue_delay = self.policy.max_queue_delay;
        let Some(oldest) = self.entries.front() else {
            return Next::Empty;
        };
        let (size, due) = (oldest.image.size, oldest.enqueued + max_queue_delay);
        let max_batch_size = self.policy.batch_size(size);
        let same_size = |entry: &&QueueEntry| entry.image.size == size;
        let fitting = self.entries.iter().filter(same_size).count();
        let full = fitting >= max_batch_size;
        if !full && now < due && !last {
            let Some(size) = self.first_full() else {
                return Next::Wait(due);
            };
            return Next::Batch(self.take(size, self.policy.batch_size(size)), Cut::full);
        }
        let cut = match () {
            () if full => Cut::full,
            () if !max_queue_delay.is_zero() && now >= due => Cut::delay,
            () if fitting < self.entries.len() => Cut::size,
            () => Cut::worker_free,
        };
        Next::Batch(self.take(size, max_batch_size), cut)
    }

    /// Returns the image size of which enough images for a full batch were queued first; `None` if
    /// no size has enough images.
    fn first_full(&self) -> Option<ImageSize> {
        let mut waiting = HashMap::new();
        self.entries
            .iter()
            .map(|entry| entry.image.size)
            .find(|size| {
                let images = waiting.entry(*size).or_insert(0);
                *images += 1;
                *images >= self.policy.batch_size(*size)
            })
    }

    /// Removes and returns the oldest entries whose image has `size`, at most `most` entries. The
    /// remaining entries keep their order.
    fn take(&mut self, size: ImageSize, most: usize) -> Vec<QueueEntry> {
        let mut batch = Vec::new();
        let mut rest = VecDeque::with_capacity(self.entries.len());
        for entry in self.entries.drain(..) {
            if entry.image.size == size && batch.len() < most {
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
    use tokio::sync::oneshot;
    use tracing::Span;

    use super::super::{Slot, Turn};
    use super::*;
    use crate::budget::Budget;
    use crate::image::PreparedImage;
    use crate::metrics::ImageProgress;
    use crate::metrics::Stage;
    use crate::telemetry::Trace;

    /// Returns a queue of square images with the given side lengths in pixels, enqueued one per
    /// millisecond, and the time at which the first image was enqueued. The first element of an
    /// image's tensor is its index in `sides`.
    fn queue(max_batch_size: usize, delay_ms: u64, sides: &[u32]) -> (Queue, Instant) {
        let mut queue = Queue::new(Policy {
            max_batch_size,
            max_queue_delay: Duration::from_millis(delay_ms),
        });
        let start = Instant::now();
        let budget = Budget::new("queue", 1, 1);
        for (position, side) in sides.iter().enumerate() {
            let size = ImageSize {
                width: *side,
                height: *side,
            };
            queue.push(QueueEntry {
                image: PreparedImage::whole(size, vec![position as f32]),
                slot: Slot {
                    place: budget.empty(),
                    turn: Turn::uncounted(),
                    memory: budget.empty(),
                    trace: Trace::default(),
                    progress: ImageProgress::default(),
                    embed: false,
                },
                enqueued: start + Duration::from_millis(position as u64),
                deadline: start,
                span: Span::none(),
                waiting: Trace::default().begin(Stage::queue),
                reply: oneshot::channel().0,
            });
        }
        (queue, start)
    }

    fn positions(entries: &[QueueEntry]) -> Vec<usize> {
        let position = |entry: &QueueEntry| entry.image.data[0] as usize;
        entries.iter().map(position).collect()
    }

    fn cut(queue: &mut Queue, now: Instant) -> (Vec<usize>, Cut) {
        match queue.next(now, false) {
            Next::Batch(batch, cut) => (positions(&batch), cut),
            other => panic!("expected a batch from the queue, got {other:?}"),
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
        for (max_batch_size, sides, expected, why) in cases {
            let (mut queue, start) = queue(max_batch_size, 0, sides);
            let got = cut(&mut queue, start);
            assert_eq!(got, (expected.to_vec(), why), "{sides:?}");
        }
    }

    #[test]
    fn large_images_make_small_batches() {
        let (mut queue, start) = queue(8, 0, &[600, 600, 600, 600, 600, 1200, 1200]);
        let now = start + Duration::from_millis(10);
        assert_eq!(cut(&mut queue, now), (vec![0, 1, 2, 3], Cut::full));
        assert_eq!(cut(&mut queue, now), (vec![4], Cut::size));
        assert_eq!(cut(&mut queue, now), (vec![5], Cut::full));
    }

    #[test]
    fn remaining_entries_keep_their_order() {
        let (mut queue, start) = queue(8, 0, &[1, 2, 1, 3, 2]);
        let now = start + Duration::from_millis(10);
        assert_eq!(cut(&mut queue, now).0, [0, 2]);
        assert_eq!(cut(&mut queue, now).0, [1, 4]);
        assert_eq!(cut(&mut queue, now).0, [3]);
        assert!(matches!(queue.next(now, false), Next::Empty));
    }

    #[test]
    fn removed_entries_take_no_place_in_a_batch() {
        let (mut queue, start) = queue(2, 0, &[1, 1, 1, 1]);
        let removed = queue.remove(|entry| entry.image.data[0] < 2.0);
        assert_eq!(positions(&removed), [0, 1]);
        assert_eq!(cut(&mut queue, start), (vec![2, 3], Cut::full));
        assert!(queue.is_empty());
    }

    #[test]
    fn a_delay_holds_a_partial_batch_until_it_is_due() {
        let (mut queue, start) = queue(4, 10, &[1, 1]);
        let due = start + Duration::from_millis(10);
        assert!(matches!(queue.next(start, false), Next::Wait(at) if at == due));
        assert_eq!(cut(&mut queue, due), (vec![0, 1], Cut::delay));
    }

    #[test]
    fn a_delay_does_not_hold_a_batch_that_cannot_grow() {
        let (mut queue, start) = queue(4, 10, &[1, 2]);
        assert!(matches!(queue.next(start, false), Next::Wait(_)));
        assert!(
            matches!(queue.next(start, true), Next::Batch(batch, Cut::size) if batch.len() == 1)
        );
    }

    #[test]
    fn a_delay_does_not_hold_a_full_batch() {
        let (mut queue, start) = queue(2, 10, &[1, 1]);
        assert_eq!(cut(&mut queue, start), (vec![0, 1], Cut::full));
    }

    /// What a free worker is expected to get: the queue positions of a batch's images and the
    /// reason why it was cut, or `None` if the worker has to wait.
    type Expected<'a> = Option<(&'a [usize], Cut)>;

    #[test]
    fn a_full_batch_does_not_wait_behind_a_partial_one_of_another_size() {
        // Each case has the side lengths of the queued images, the time in milliseconds, and what
        // is expected. A full batch has 2 images. The oldest image, enqueued at 0 ms, is due at 10
        // ms.
        let cases: [(&[u32], u64, Expected<'_>); 8] = [
            (&[1, 2], 9, None),
            (&[1, 2, 2], 9, Some((&[1, 2], Cut::full))),
            (&[1, 2, 2, 2], 9, Some((&[1, 2], Cut::full))),
            // The second image of size 3 comes before the second image of size 2, so size 3 is full
            // first.
            (&[1, 2, 3, 3, 2], 9, Some((&[2, 3], Cut::full))),
            // A full batch of the oldest image's size is cut first, even if another size was full
            // earlier.
            (&[1, 2, 2, 1], 9, Some((&[0, 3], Cut::full))),
            // Once due, the oldest image is next, however many full batches wait behind it.
            (&[1, 2, 2], 10, Some((&[0], Cut::delay))),
            (&[1, 2, 2, 3, 3, 2, 2], 10, Some((&[0], Cut::delay))),
            // An image of 1200x1200 pixels is a full batch alone, because a second one would exceed
            // the maximum number of pixels in a batch.
            (&[1, 1200], 9, Some((&[1], Cut::full))),
        ];
        for (sides, milliseconds, expected) in cases {
            let (mut queue, start) = queue(2, 10, sides);
            let got = match queue.next(start + Duration::from_millis(milliseconds), false) {
                Next::Batch(batch, cut) => Some((positions(&batch), cut)),
                _ => None,
            };
            let expected = expected.map(|(positions, cut)| (positions.to_vec(), cut));
            assert_eq!(got, expected, "{sides:?} at {milliseconds} ms");
        }
    }

    #[test]
    fn full_batches_of_another_size_delay_the_oldest_image_until_it_is_due_at_most() {
        let (mut queue, start) = queue(2, 10, &[&[1][..], &[2; 40]].concat());
        let mut batches = 0;
        for milliseconds in 0..=10 {
            let now = start + Duration::from_millis(milliseconds);
            let (batch, _) = cut(&mut queue, now);
            batches += 1;
            assert_eq!(batch.contains(&0), milliseconds == 10, "{batch:?}");
        }
        assert_eq!(batches, 11);
    }
}
