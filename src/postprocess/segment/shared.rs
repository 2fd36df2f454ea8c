//! Upsampling of a large mask on several threads, band by band.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::upsample::Band;
use super::{Logits, Mask, SegmentError};
use crate::cancel::Cancel;
use crate::image::ImageSize;

/// A mask that several threads compute together. Each thread computes one band of rows at a time.
pub(super) struct SharedMask {
    scores: Vec<f32>,
    classes: usize,
    from: ImageSize,
    to: ImageSize,
    /// Number of rows of a band; the last band may have fewer.
    band_rows: usize,
    cancel: Cancel,
    state: Mutex<State>,
    /// Signaled when a thread has finished a band or panicked in it.
    finished: Condvar,
}

struct State {
    /// The class of each pixel of the mask, `[height, width]`; 0 in bands that are not done.
    classes: Vec<u8>,
    /// Index of the band to be computed next.
    next: usize,
    /// Number of bands that threads are computing now.
    running: usize,
    /// Number of bands that are complete in `classes`.
    done: usize,
}

impl SharedMask {
    /// Returns the shared computation of `mask` from `logits`, in bands of `band_rows` rows.
    /// `logits` are copied, since helper threads may outlive the caller's borrow.
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

    /// Locks the state, even if a thread panicked while it held the lock: no panic can leave the
    /// state inconsistent.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Computes bands until none is left or the work is cancelled. Every thread that takes part
    /// calls this method.
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

    /// Reserves the next band for the calling thread. `None` if no band is left, or if the work is
    /// cancelled.
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

    /// Waits for the bands that other threads are computing, and returns the mask. `None` if a band
    /// is missing because the thread that computed it panicked.
    ///
    /// # Errors
    /// [`SegmentError::Cancelled`] if the work was cancelled before all bands were computed.
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

/// A band that a thread is computing. When it is dropped, also by a panic, the thread that waits
/// for the mask is woken.
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
