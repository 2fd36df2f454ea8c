//! Stopping the runs of an engine from another thread.

use std::sync::Arc;

use ort::session::RunOptions;

/// Stops the runs of one engine from another thread.
pub trait StopRuns: Send + Sync {
    /// Makes the run in progress and all later runs fail as soon as possible. Returns immediately.
    fn stop(&self);

    /// Allows runs again after [`StopRuns::stop`].
    fn allow(&self);
}

/// The handle of an engine whose runs cannot be stopped.
#[derive(Debug, Clone, Copy)]
pub struct Unstoppable;

impl StopRuns for Unstoppable {
    fn stop(&self) {}

    fn allow(&self) {}
}

/// The options of a worker's runs, with the flag that stops a run. ONNX Runtime checks the flag before each node and
/// before each iteration of a loop, but not while it executes a node.
pub(super) struct SharedOptions {
    /// Options of a run that keeps its memory for later runs.
    pub(super) keeping: RunOptions,
    /// Options of a run that returns its memory to the operating system.
    pub(super) shrinking: RunOptions,
}

impl SharedOptions {
    pub(super) fn new() -> ort::Result<Arc<Self>> {
        let mut shrinking = RunOptions::new()?;
        shrinking.set("memory.enable_memory_arena_shrinkage", "cpu:0")?;
        Ok(Arc::new(Self {
            keeping: RunOptions::new()?,
            shrinking,
        }))
    }
}

impl StopRuns for SharedOptions {
    fn stop(&self) {
        report(self.keeping.terminate());
        report(self.shrinking.terminate());
    }

    fn allow(&self) {
        report(self.keeping.unterminate());
        report(self.shrinking.unterminate());
    }
}

/// Logs the error if a flag could not be set. ONNX Runtime documents no case in which this fails.
fn report(set: ort::Result<()>) {
    if let Err(error) = set {
        tracing::error!(%error, "cannot set the flag that stops a run");
    }
}
