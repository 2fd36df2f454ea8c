//! Checks of a user's own ONNX file: what it reads and returns, and what its manifest must state.
//!
//! [`check`] compares the [`Summary`] of a file with its manifest. The store calls it when a model is
//! read, so that `serve`, `predict`, `bench` and `quantize` reject what would be served wrongly;
//! [`Inspection`] is the same check for a file without a manifest, with a manifest to start from.
//!
//! Nothing here runs a network. The values of outputs are checked by the registry when a model is
//! loaded.

mod draft;
mod finding;
mod input;
mod output;

use std::path::Path;

use onnx_export::summary::{Summary, SummaryError};
use onnx_export::{check_weights, reject_external_data};

use crate::manifest::{ModelManifest, Task};
pub use draft::Draft;
pub use finding::Finding;
use output::label_hint;
pub use output::likely_task;

/// Returns what keeps the network of `summary` from being served with `manifest`, the most basic
/// finding first. `labels` is the number of labels. Empty if nothing is known to be wrong.
///
/// A shape that the file does not state is not a finding.
pub fn check(summary: &Summary, manifest: &ModelManifest, labels: usize) -> Vec<Finding> {
    let mut findings = input::check(summary, manifest);
    // The outputs of a detector belong to its architecture, and are checked with its anchors.
    if manifest.task != Task::Detection {
        findings.extend(output::check(summary, manifest, labels));
    }
    findings
}

/// An ONNX file without a manifest: what it states, what is wrong with it, and a manifest to start
/// from.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// What the file states about its network.
    pub summary: Summary,
    /// The task that the outputs suggest. `None` if they suggest no task.
    pub task: Option<Task>,
    /// Reasons why the file cannot be served with any manifest.
    pub problems: Vec<Finding>,
    /// Properties of the file that its manifest must state. [`Inspection::draft`] states them.
    pub notes: Vec<Finding>,
    /// The manifest to start from. `None` if the task is not one of those that a user's own ONNX file
    /// can have.
    pub draft: Option<Draft>,
}

impl Inspection {
    /// Inspects `model`, the bytes of the file at `path`.
    ///
    /// # Errors
    /// [`SummaryError`] if the bytes are not an ONNX file.
    pub fn new(path: &Path, model: &[u8]) -> Result<Self, SummaryError> {
        let summary = Summary::read(model)?;
        let task = likely_task(&summary);
        let mut problems = Vec::new();
        if let Err(error) = reject_external_data(model) {
            problems.push(Finding::External(error));
        }
        if let Err(error) = check_weights(model) {
            problems.push(Finding::NotFinite(error));
        }
        let Some(task) = task.filter(|task| *task != Task::Detection) else {
            problems.push(Finding::Task {
                detector: task.is_some(),
                got: finding::ports(&summary.outputs),
            });
            return Ok(Self {
                summary,
                task,
                problems,
                notes: Vec::new(),
                draft: None,
            });
        };
        let (draft, usual) = (
            Draft::new(path, task, &summary),
            Draft::usual(path, task, &summary),
        );
        let found = |draft: &Draft| check(&summary, &draft.manifest, draft.classes_or_one());
        let fatal = found(&draft);
        let mut notes = found(&usual);
        notes.retain(|note| !fatal.contains(note));
        problems.extend(fatal);
        Ok(Self {
            task: Some(task),
            problems,
            notes,
            draft: Some(draft),
            summary,
        })
    }
}

#[cfg(test)]
mod tests;
