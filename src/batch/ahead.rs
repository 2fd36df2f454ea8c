//! How many images of a model are decoded before a worker can take them.
//!
//! An encoded image takes a tenth of the memory of its tensor. If every image in a full queue were decoded, their
//! tensors would leave the CPU's caches, and the memory of each would be new, until a worker takes them. So an image waits
//! for its [`Turn`] before it is decoded, and a turn ends when a worker takes the image.
//!
//! Turns are given in the order in which the image pool starts its jobs, so that images which are cheap to decode
//! overtake others here as well.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::pool::JobCost;

/// Number of full batches for each worker that are decoded ahead: one that waits while the worker runs another one, and
/// one that is being decoded meanwhile.
const BATCHES: usize = 2;

/// The turns of one model. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Ahead(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    turns: Mutex<Turns>,
    /// Moment from which the times of places count.
    started: Instant,
}

#[derive(Debug)]
struct Turns {
    free: usize,
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
    /// Returns a turn that is not counted, for a tensor.
    pub fn uncounted() -> Self {
        Self(None)
    }
}

impl Ahead {
    /// Creates the turns of a model with `workers` workers and batches of up to `max_batch_size` images, which `threads`
    /// threads decode: as many as all of them can work on, so that no worker and no thread waits.
    pub(super) fn new(workers: usize, max_batch_size: usize, threads: usize) -> Self {
        let turns = Turns {
            free: BATCHES * workers.max(1) * max_batch_size.max(1) + threads,
            waiting: BTreeMap::new(),
            arrivals: 0,
        };
        Self(Arc::new(Shared {
            turns: Mutex::new(turns),
            started: Instant::now(),
        }))
    }

    /// Returns the turn of an image that costs `cost` to decode, if it need not wait for it. The turn of an image that takes
    /// long is not counted: such images are few, and must not take the turns of others for so long.
    pub(super) fn try_turn(&self, cost: JobCost) -> Option<Turn> {
        if cost.long {
            return Some(Turn::uncounted());
        }
        let mut turns = self.0.lock();
        turns.free = turns.free.checked_sub(1)?;
        drop(turns);
        Some(Turn(Some(Arc::clone(&self.0))))
    }

    /// Waits for the turn of an image that costs `cost` to decode.
    pub(super) async fn turn(&self, cost: JobCost) -> Turn {
        if let Some(turn) = self.try_turn(cost) {
            return turn;
        }
        let (sender, receiver) = oneshot::channel();
        let place = self.0.wait(cost, sender);
        let _leave = Leave(&self.0, place);
        // The sender is dropped without a turn only when this future is.
        receiver.await.unwrap_or_else(|_| Turn::uncounted())
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
        if turns.free > 0 {
            turns.free -= 1;
            drop(turns);
            drop(Turn(Some(Arc::clone(self))));
        }
        place
    }

    /// Takes the image whose turn is next. If none waits, counts the turn as free.
    fn next(&self) -> Option<oneshot::Sender<Turn>> {
        let mut turns = self.lock();
        let next = turns.waiting.pop_first().map(|(_, waiter)| waiter);
        turns.free += usize::from(next.is_none());
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

    #[test]
    fn turns_are_for_two_batches_of_each_worker_and_the_threads() {
        let ahead = Ahead::new(3, 4, 2);
        let turn = || taken(pin!(ahead.turn(JobCost::time(1))));
        let turns: Vec<_> = std::iter::from_fn(turn).collect();
        assert_eq!(turns.len(), 26);
        drop(turns);
        assert!(turn().is_some());
    }

    #[test]
    fn cheap_images_overtake_others_that_wait() {
        let ahead = Ahead::new(0, 0, 0);
        let first = [(); 2].map(|()| taken(pin!(ahead.turn(JobCost::time(1)))));
        let turn = |milliseconds| ahead.turn(JobCost::time(milliseconds * MILLISECOND));
        let (mut slow, mut cheap, mut late) = (pin!(turn(50)), pin!(turn(1)), pin!(turn(1)));
        for waiting in [&mut slow, &mut cheap] {
            assert!(taken(waiting.as_mut()).is_none());
        }
        assert!(taken(late.as_mut()).is_none());
        let [first, second] = first;
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
        let ahead = Ahead::new(0, 0, 0);
        let turn = || ahead.turn(JobCost::time(1));
        let first = [(); 2].map(|()| taken(pin!(turn())));
        assert!(first.iter().all(Option::is_some));
        {
            // One leaves while it waits, another one when its turn was given, but not yet taken.
            let (mut waiting, mut given) = (Box::pin(turn()), Box::pin(turn()));
            assert!(taken(waiting.as_mut()).is_none() && taken(given.as_mut()).is_none());
            drop(waiting);
            let mut last = pin!(turn());
            assert!(taken(last.as_mut()).is_none());
            let [first, second] = first;
            drop(first);
            drop(given);
            let last = taken(last);
            assert!(last.is_some());
            drop(second);
        }
        let turns: Vec<_> = std::iter::from_fn(|| taken(pin!(turn()))).collect();
        assert_eq!(turns.len(), 2);
    }

    #[test]
    fn long_jobs_need_no_turn() {
        let ahead = Ahead::new(0, 0, 0);
        let long = JobCost::time(1000 * MILLISECOND);
        for _ in 0..5 {
            let turn = ahead.try_turn(long);
            assert!(turn.is_some_and(|turn| turn.0.is_none()));
        }
    }
}
