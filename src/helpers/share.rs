//! A job in parts, which several threads compute together.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Helpers;

/// Calls `part` once with each number below `parts`, on this thread and on up to `most` idle threads
/// of `helpers`. Returns when no call is running any more.
///
/// If a call on another thread panics, the other calls still run; `part` must keep account of the
/// results that exist.
pub(crate) fn share(
    helpers: &dyn Helpers,
    most: usize,
    parts: usize,
    part: impl Fn(usize) + Send + Sync + 'static,
) {
    let shared = Arc::new(Shared {
        part,
        parts,
        state: Mutex::default(),
        ended: Condvar::new(),
    });
    let helping = Arc::clone(&shared);
    // Waits also if a part panics on this thread, so that no part outlives the memory that the job has reserved.
    let _waiting = Waiting(&shared);
    helpers.start(most, Arc::new(move || helping.work()));
    shared.work();
}

/// Waits, when it is dropped, until no call is running.
struct Waiting<'a, P: Fn(usize)>(&'a Shared<P>);

impl<P: Fn(usize)> Drop for Waiting<'_, P> {
    fn drop(&mut self) {
        self.0.wait();
    }
}

/// Parts of a job that several threads compute together, one part at a time.
struct Shared<P> {
    part: P,
    parts: usize,
    state: Mutex<State>,
    /// Signaled when a call has ended.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// The next part.
    next: usize,
    /// Number of calls that are running now.
    running: usize,
}

impl<P: Fn(usize)> Shared<P> {
    /// Computes parts until none is left.
    fn work(&self) {
        while let Some(running) = self.take() {
            (self.part)(running.part);
        }
    }

    /// Reserves the next part for the calling thread. `None` if no part is left.
    fn take(&self) -> Option<Running<'_>> {
        let mut state = self.lock();
        if state.next == self.parts {
            return None;
        }
        state.next += 1;
        state.running += 1;
        Some(Running {
            state: &self.state,
            ended: &self.ended,
            part: state.next - 1,
        })
    }

    /// Waits until no call is running.
    fn wait(&self) {
        let mut state = self.lock();
        while state.running > 0 {
            let woken = self.ended.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// A part that a thread is computing. When it is dropped, also by a panic, the thread that waits is
/// woken.
struct Running<'a> {
    state: &'a Mutex<State>,
    ended: &'a Condvar,
    part: usize,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(self.state).running -= 1;
        self.ended.notify_all();
    }
}

/// Locks the state, even if the lock is poisoned: no panic can leave the state inconsistent.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    use super::*;

    /// Starts a new thread for each helper, which ignores panics.
    struct Threads;

    impl Helpers for Threads {
        fn start(&self, most: usize, job: Arc<dyn Fn() + Send + Sync>) {
            for _ in 0..most {
                let job = Arc::clone(&job);
                thread::spawn(move || catch_unwind(AssertUnwindSafe(|| job())));
            }
        }
    }

    #[test]
    fn every_part_is_computed_once_before_the_return() {
        for (most, parts) in [(0, 5), (3, 0), (3, 1), (3, 100)] {
            let calls = Arc::new(Mutex::new(vec![0; parts]));
            let counted = Arc::clone(&calls);
            share(&Threads, most, parts, move |part| {
                thread::yield_now();
                counted.lock().unwrap()[part] += 1;
            });
            assert_eq!(*calls.lock().unwrap(), vec![1; parts]);
        }
    }

    #[test]
    fn a_panic_of_a_helper_does_not_hang_the_job() {
        let caller = thread::current().id();
        let done = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&done);
        share(&Threads, 2, 50, move |_| {
            thread::yield_now();
            assert_eq!(thread::current().id(), caller, "a helper panics");
            *counted.lock().unwrap() += 1;
        });
        assert!((48..=50).contains(&*done.lock().unwrap()));
    }
}
