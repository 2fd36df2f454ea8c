//! Cooperative cancellation of CPU-bound work on one image.
//!
//! The caller that waits for a result holds a [`Cancel`] and passes a clone to the work. In the
//! work, loops over boxes, image rows or bands of rows call [`Cancel::check`] and stop early once
//! the result is not needed any more. A loop whose iterations differ much in size, or take less
//! time than a check, counts its work with a [`Pace`] instead, which checks after a fixed amount of
//! work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use thiserror::Error;

/// The error of work that stopped early: its deadline passed, or the client that requested it
/// disconnected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("work on an image was cancelled: the deadline passed or the client disconnected")]
pub struct Cancelled;

/// A cancellation flag with an optional deadline. Clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    flag: Arc<AtomicBool>,
    deadline: Option<Instant>,
}

impl Cancel {
    /// Returns a handle without a deadline, for work that always runs to its end unless
    /// [`Cancel::cancel`] is called.
    pub fn never() -> Self {
        Self::default()
    }

    /// Returns a handle that counts as cancelled from `deadline` on.
    pub fn at(deadline: Instant) -> Self {
        Self {
            deadline: Some(deadline),
            ..Self::default()
        }
    }

    /// Cancels the work of this handle and of all its clones.
    pub fn cancel(&self) {
        self.flag.store(true, Ordering::Relaxed);
    }

    /// Returns whether the work should stop. A call takes tens of nanoseconds, so loops call it
    /// once per row or per block of boxes rather than per element.
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
            || self
                .deadline
                .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Returns an error if the work should stop, so that the work can stop with `?`.
    ///
    /// # Errors
    /// [`Cancelled`] after [`Cancel::cancel`] or after the deadline.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() {
            return Err(Cancelled);
        }
        Ok(())
    }

    /// Returns a guard that cancels the work when it is dropped. A future holds it while it waits
    /// for the work, so that dropping the future (the client disconnected) stops the work.
    pub fn on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }
}

/// Units of work (bytes or pixels) between two checks of a [`Pace`]. Processing 65,536 pixels takes
/// well under a millisecond.
const UNITS_PER_CHECK: usize = 1 << 16;

/// A counter of units of work, such as bytes or pixels, that checks a [`Cancel`] about once per
/// 65,536 units.
#[derive(Debug)]
pub struct Pace<'a> {
    cancel: &'a Cancel,
    /// Units of work that may still be counted before the next check.
    left: usize,
}

impl<'a> Pace<'a> {
    /// Returns a counter that checks `cancel`, for the first time after 65,536 units of work.
    pub fn new(cancel: &'a Cancel) -> Self {
        let left = UNITS_PER_CHECK;
        Self { cancel, left }
    }

    /// Counts `units` units of work, and checks for cancellation if more than 65,536 units were
    /// counted since the last check. Called before this work is done.
    ///
    /// # Errors
    /// [`Cancelled`] if the check finds that the work is cancelled.
    #[inline]
    pub fn step(&mut self, units: usize) -> Result<(), Cancelled> {
        if let Some(left) = self.left.checked_sub(units) {
            self.left = left;
            return Ok(());
        }
        self.left = UNITS_PER_CHECK;
        self.cancel.check()
    }
}

/// A guard that cancels the work of its [`Cancel`] when it is dropped.
#[derive(Debug)]
pub struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn clones_share_the_flag() {
        let cancel = Cancel::never();
        let clone = cancel.clone();
        assert_eq!(clone.check(), Ok(()));
        cancel.cancel();
        assert_eq!(clone.check(), Err(Cancelled));
    }

    #[test]
    fn a_passed_deadline_cancels() {
        assert!(Cancel::at(Instant::now()).is_cancelled());
        let later = Instant::now() + Duration::from_hours(1);
        assert!(!Cancel::at(later).is_cancelled());
    }

    #[test]
    fn a_pace_checks_after_a_fixed_amount_of_work() {
        let cancel = Cancel::never();
        cancel.cancel();
        for units in [1, 1000, UNITS_PER_CHECK, UNITS_PER_CHECK + 1] {
            let mut pace = Pace::new(&cancel);
            let limit = UNITS_PER_CHECK / units;
            let steps = (0..=limit).take_while(|_| pace.step(units).is_ok());
            assert_eq!(steps.count(), limit, "steps of {units}");
        }
    }

    #[test]
    fn dropping_the_guard_cancels() {
        let cancel = Cancel::never();
        let guard = cancel.on_drop();
        assert!(!cancel.is_cancelled());
        drop(guard);
        assert!(cancel.is_cancelled());
    }
}
