//! Upsampling of a large mask on several threads, band by band.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::upsample::Band;
use super::{Logits, Mask, SegmentError};
use crate::cancel::Cancel;
use crate::image::ImageSize;

/// A pool whose idle threads can take over part of a job.
pub trait Helpers: Sync {
    /// Calls `job` once on each of up to `most` threads that are idle now. Returns without waiting,
    /// neither for a thread nor for `job`.
    fn start(&self, most: usize, job: Arc<dyn Fn() + Send + Sync>);
}

/// A mask that several threads compute together. The unit of work is a band of rows.
pub(super) struct SharedMask {
    scores: Vec<f32>,
    classes: usize,
    from: ImageSize,
    to: ImageSize,
    /// Number of rows of a band; the last band may have fewer.
    band_rows: usize,
    cancel: Cancel,
    state: Mutex<State>,
    /// Signaled when a thread finishes a band.
    finished: Condvar,
}

struct State {
    /// The mask, `[height, width]`.
    classes: Vec<u8>,
    /// Index of the band to be computed next.
    next: usize,
    /// Number of bands that threads are computing now.
    running: usize,
    /// Number of bands that are complete in `classes`.
    done: usize,
}

impl SharedMask {
    /// Returns the shared work. Copies `logits`, since helper threads may outlive the caller's borrow.
    pub(super) fn new(
        logits: &Logits<'_>,
        mask: Mask,
        band_rows: usize,
        cancel: &Cancel,
    ) -> Arc<Self> {
        Arc::new(Self {
            scores: logits.data.to_vec(),
            classes: logits.classes,
            from: logits.size,
            to: mask.size(),
            band_rows,
            cancel: cancel.clone(),
            state: Mutex::new(State {
                classes: mask.into_classes(),
                next: 0,
                running: 0,
                done: 0,
            }),
            finished: Condvar::new(),
        })
    }

    fn bands(&self) -> usize {
        (self.to.height as usize).div_ceil(self.band_rows)
    }

    /// Locks the state, also after a panic: no panic can leave it inconsistent.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Computes bands until none are left. Every thread that takes part calls this.
    pub(super) fn work(&self) {
        let width = self.to.width as usize;
        let logits = Logits {
            data: &self.scores,
            classes: self.classes,
            size: self.from,
        };
        let mut out = Vec::new();
        while let Some(running) = self.take_band() {
            let top = running.band * self.band_rows;
            let rows = self.band_rows.min(self.to.height as usize - top);
            out.resize(rows * width, 0);
            Band::compute(&logits, self.to, top, &mut out);
            let mut state = self.state();
            state.classes[top * width..][..rows * width].copy_from_slice(&out);
            state.done += 1;
        }
    }

    /// Reserves the next band for this thread. `None` if none are left or the work is cancelled.
    fn take_band(&self) -> Option<Running<'_>> {
        let mut state = self.state();
        if state.next == self.bands() || self.cancel.is_cancelled() {
            return None;
        }
        state.next += 1;
        state.running += 1;
        Some(Running {
            shared: self,
            band: state.next - 1,
        })
    }

    /// Waits for the bands that other threads are computing, and returns the mask. `None` if a band is
    /// missing because its thread panicked.
    ///
    /// # Errors
    /// [`SegmentError::Cancelled`] if the work is cancelled.
    pub(super) fn wait(&self) -> Result<Option<Mask>, SegmentError> {
        let mut state = self.state();
        while state.running > 0 {
            let woken = self.finished.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        if state.done == self.bands() {
            let classes = std::mem::take(&mut state.classes);
            return Mask::new(self.to, classes).map(Some);
        }
        self.cancel.check()?;
        Ok(None)
    }
}

/// A band that a thread is computing. Dropping it, also in a panic, wakes the waiting thread.
struct Running<'a> {
    shared: &'a SharedMask,
    band: usize,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.shared.state().running -= 1;
        self.shared.finished.notify_all();
    }
}
