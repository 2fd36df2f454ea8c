//! Progress bars of `sightline quantize`.

use std::cell::RefCell;

use indicatif::{ProgressBar, ProgressStyle};
use sightline::quantize::Progress;

/// The progress bar of the current stage, shown if standard error is a terminal.
pub(super) struct Bars {
    bar: RefCell<ProgressBar>,
}

impl Bars {
    pub(super) fn new() -> Self {
        Self {
            bar: RefCell::new(ProgressBar::hidden()),
        }
    }

    /// Removes the progress bar of the current stage from the terminal, if it is shown.
    pub(super) fn finish(&self) {
        self.bar.borrow().finish_and_clear();
    }
}

impl Progress for Bars {
    fn start(&self, stage: &str, steps: usize) {
        self.finish();
        let bar = ProgressBar::new(steps as u64);
        let style = ProgressStyle::with_template("{prefix:12} {wide_bar} {pos}/{len} {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(stage.to_owned());
        self.bar.replace(bar);
    }

    fn step(&self) {
        self.bar.borrow().inc(1);
    }
}
