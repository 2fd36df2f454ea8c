//! A sign of life for steps that may take longer than a person waits.

use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::log;

/// Time between two frames of the animation.
const TICK: Duration = Duration::from_millis(120);

/// The animation that is shown now.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Runs `write`, which writes to stderr. The animation, if there is one, continues below the text.
pub(super) fn above<T>(write: impl FnOnce() -> T) -> T {
    if let Ok(shown) = SHOWN.lock()
        && let Some(bar) = &*shown
    {
        return bar.suspend(write);
    }
    write()
}

/// An animation on stderr that says what is being done, until it is dropped. Nothing is shown if stderr is
/// not a terminal, or if the command is `serve`, whose log says it.
pub(super) struct Spinner(ProgressBar);

impl Spinner {
    /// Shows `doing`, such as `reading resnet50.pth`.
    pub(super) fn new(doing: impl Into<String>) -> Self {
        if log::is_queued() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.set_message(doing.into());
        bar.enable_steady_tick(TICK);
        if let Ok(mut shown) = SHOWN.lock() {
            *shown = Some(bar.clone());
        }
        Self(bar)
    }

    /// Replaces the text: the next step begins.
    pub(super) fn next(&self, doing: impl Into<String>) {
        self.0.set_message(doing.into());
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Ok(mut shown) = SHOWN.lock() {
            *shown = None;
        }
        self.0.finish_and_clear();
    }
}
