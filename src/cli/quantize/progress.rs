//! The progress of the stages of `sightline quantize`.

use std::cell::RefCell;

use sightline::quantize::Progress;

use crate::cli::progress::Steps;

/// The progress of the current stage.
pub(super) struct Bars {
    /// Name of the model.
    model: String,
    current: RefCell<Option<Steps>>,
}

impl Bars {
    /// Returns the progress of the model called `model`, before its first stage.
    pub(super) fn new(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            current: RefCell::new(None),
        }
    }

    /// Ends the current stage.
    pub(super) fn finish(&self) {
        self.current.replace(None);
    }
}

impl Progress for Bars {
    fn start(&self, stage: &str, steps: usize) {
        // The earlier stage must end first: it removes what is shown.
        self.finish();
        let name = format!("{}, {stage}", self.model);
        self.current.replace(Some(Steps::new(name, steps, 0)));
    }

    fn step(&self) {
        if let Some(steps) = &*self.current.borrow() {
            steps.step();
        }
    }
}
