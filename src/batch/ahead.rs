//! How many images of a model are decoded before a worker can take them.
//!
//! An encoded image takes a tenth of the memory of its tensor. If every image in a full queue were decoded, their
//! tensors would leave the CPU's caches, and the memory of each would be new, until a worker takes them. So an image waits
//! for its [`Turn`] before it is decoded, and a turn ends when a worker takes the image.
//!
//! Turns are given in the order in which the image pool starts its jobs, so that images which are cheap to decode
//! overtake others here as well. Both waits have this order, each from the time at which the image began to wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::pool::JobCost;

/// Number of full batches for each worker that are decoded ahead: one that waits while the worker runs another one, and
/// one that is being decoded meanwhile.
const BATCHES: usize = 2;

/// The turns of one model.
#[derive(Debug)]
pub(super) struct Ahead(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    turns: Mutex<Turns>,
    /// Moment from which the times of places count.
    started: Instant,
}

#[derive(Debug)]
struct Turns {
    /// Number of images that have a turn.
    taken: usize,
    /// Number of turns for the next batches.
    batches: usize,
    /// Number of turns in addition to those, one for each thread of the image pool; 0 before the first image.
    threads: usize,
    /// The images that wait, in the order of their turns. The number is that of their arrival.
    waiting: BTreeMap<Place, oneshot::Sender<Turn>>,
    arrivals: u64,
}

/// The time by which an image should have its turn, and the number of its arrival.
type Place = (Duration, u64);

/// The right of one image to be decoded and to wait in the queue. Dropping it gives the turn to another image.
#[derive(Debug)]
pub struct Turn(Option<Arc<Shared>>);

impl Turn {
    /// Returns a turn that is not counted: for a tensor, or for an image that takes long to decode.
    pub fn uncounted() -> Self {
        Self(None)
    }
}

impl Ahead {
    /// Creates the turns of a model with `workers` workers and batches of up to `max_batch_size` images.
    pub(super) fn new(workers: usize, max_batch_size: usize) -> Self {
        let turns = Turns {
            taken: 0,
            batches: BATCHES * workers.max(1) * max_batch_size.max(1),
            threads: 0,
            waiting: BTreeMap::new(),
            arrivals: 0,
        };
        Self(Arc::new(Shared {
            turns: Mutex::new(turns),
            started: Instant::now(),
        }))
    }

    /// Returns the turn of an image that costs `cost` to decode, on one of `threads` threads, if it need not wait for it:
    /// there are turns for the next batches, and one for each thread, so that no worker and no thread has to wait.
    ///
    /// The turn of an image that takes long is not counted. Such images have places of their own in the queue, and must
    /// not take the turns of others for so long.
    pub(super) fn try_turn(&self, cost: JobCost, threads: usize) -> Option<Turn> {
        if cost.long {
            return Some(Turn::uncounted());
        }
        let mut turns = self.0.lock();
        turns.threads = threads;
        turns.take().then(|| Turn(Some(Arc::clone(&self.0))))
    }

    /// Waits for the turn of an image for which [`Ahead::try_turn`] has none.
    pub(super) async fn turn(&self, cost: JobCost) -> Turn {
        let (sender, receiver) = oneshot::channel();
        let place = self.0.wait(cost, sender);
        let _leave = Leave(&self.0, place);
        // The sender is dropped without a turn only when this future is.
        receiver.await.unwrap_or_else(|_| Turn::uncounted())
    }

    /// Returns whether every turn is taken, so that no further image arrives in the queue before a batch is cut.
    pub(super) fn is_exhausted(&self) -> bool {
        self.0.lock().is_exhausted()
    }
}

impl Turns {
    fn is_exhausted(&self) -> bool {
        self.taken >= self.batches + self.threads
    }

    /// Takes a turn. Returns whether there was one.
    fn take(&mut self) -> bool {
        let free = !self.is_exhausted();
        self.taken += usize::from(free);
        free
    }
}

/// Removes an image that waits when its future is dropped.
struct Leave<'a>(&'a Shared, Place);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting.remove(&self.1);
    }
}

impl Shared {
    /// No code panics while it holds this lock.
    fn lock(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets an image wait. A turn that has become free meanwhile is given to it at once.
    fn wait(self: &Arc<Self>, cost: JobCost, waiter: oneshot::Sender<Turn>) -> Place {
        let mut turns = self.lock();
        turns.arrivals += 1;
        let place = (cost.due(self.started.elapsed()), turns.arrivals);
        turns.waiting.insert(place, waiter);
        let free = turns.take();
        drop(turns);
        if free {
            drop(Turn(Some(Arc::clone(self))));
        }
        place
    }

    /// Takes the image whose turn is next. If none waits, the turn is free.
    fn next(&self) -> Option<oneshot::Sender<Turn>> {
        let mut turns = self.lock();
        let next = turns.waiting.pop_first().map(|(_, waiter)| waiter);
        turns.taken -= usize::from(next.is_none());
        next
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take()
            && let Some(waiter) = turns.next()
        {
            // If the image has just left, its turn is dropped here, which gives it to the next one.
            let _ = waiter.send(Self(Some(turns)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn taken(future: Pin<&mut impl Future<Output = Turn>>) -> Option<Turn> {
        match poll(future) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    /// Two turns: for two batches of one image.
    fn two() -> Ahead {
        Ahead::new(0, 0)
    }

    fn cost(milliseconds: u64) -> JobCost {
        JobCost::time(milliseconds * MILLISECOND)
    }

    #[test]
    fn turns_are_for_two_batches_of_each_worker_and_the_threads() {
        let ahead = Ahead::new(3, 4);
        let turns: Vec<_> = std::iter::from_fn(|| ahead.try_turn(cost(1), 2)).collect();
        assert_eq!(turns.len(), 26);
        assert!(ahead.is_exhausted());
        drop(turns);
        assert!(!ahead.is_exhausted());
        assert!(ahead.try_turn(cost(1), 2).is_some());
    }

    #[test]
    fn cheap_images_overtake_others_that_wait() {
        let ahead = two();
        let [first, second] = [(); 2].map(|()| ahead.try_turn(cost(1), 0));
        assert!(second.is_some() && ahead.try_turn(cost(1), 0).is_none());
        let turn = |milliseconds| ahead.turn(cost(milliseconds));
        let (mut slow, mut cheap, mut late) = (pin!(turn(50)), pin!(turn(1)), pin!(turn(1)));
        assert!(taken(slow.as_mut()).is_none() && taken(cheap.as_mut()).is_none());
        assert!(taken(late.as_mut()).is_none());
        drop(first);
        let cheap = taken(cheap);
        assert!(
            cheap.is_some() && taken(late.as_mut()).is_none() && taken(slow.as_mut()).is_none()
        );
        drop(second);
        let late = taken(late);
        assert!(late.is_some() && taken(slow.as_mut()).is_none());
        drop(cheap);
        assert!(taken(slow).is_some());
    }

    #[test]
    fn images_that_leave_pass_their_turns_on() {
        let ahead = two();
        let [first, second] = [(); 2].map(|()| ahead.try_turn(cost(1), 0));
        // One leaves while it waits, another one when its turn was given, but not yet taken.
        let turn = || Box::pin(ahead.turn(cost(1)));
        let (mut waiting, mut given, mut last) = (turn(), turn(), turn());
        assert!(taken(waiting.as_mut()).is_none() && taken(given.as_mut()).is_none());
        assert!(taken(last.as_mut()).is_none());
        drop(waiting);
        drop(first);
        drop(given);
        let turns = (taken(last.as_mut()), second);
        assert!(turns.0.is_some() && ahead.is_exhausted());
        drop(turns);
        let turns: Vec<_> = std::iter::from_fn(|| ahead.try_turn(cost(1), 0)).collect();
        assert_eq!(turns.len(), 2);
    }

    #[test]
    fn a_turn_that_became_free_meanwhile_is_given_at_once() {
        let ahead = two();
        assert!(taken(pin!(ahead.turn(cost(1)))).is_some());
    }

    #[test]
    fn long_jobs_need_no_turn() {
        let ahead = two();
        for _ in 0..5 {
            let turn = ahead.try_turn(cost(1000), 0);
            assert!(turn.is_some_and(|turn| turn.0.is_none()));
        }
    }
}
