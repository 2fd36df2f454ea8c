//! Choosing how a network becomes int8: ranges from photographs, and the layers that stay in float.
//!
//! ```text
//! photographs ─> calibrate ─> Statistics ─> search ─> Recipe ─> onnx_export::quantize ─> .onnx
//!                                              └── measured against the float network ──> report
//! ```
//!
//! What is *not* here: rewriting graphs (`onnx_export::quantize`), files and the terminal (the command).

mod calibrate;
mod compare;
mod cost;
mod histogram;
mod report;
mod search;

use std::sync::Arc;

use onnx_export::quantize::{Network, QuantizeError};
use thiserror::Error;

pub use calibrate::{Statistics, ValueStatistics, calibrate};
pub use compare::{Agreement, Answers, cosine};
pub use histogram::{Histogram, Method};
pub use report::{LayerReport, NetworkReport, Report, Timing};
pub use search::{Choice, Goal, search};

use crate::engine::{Arithmetic, EngineError, OnnxRuntime, Probe, Propose};

/// A network that cannot be quantised.
#[derive(Debug, Error)]
pub enum QuantizeFailure {
    /// The network is of a kind that cannot be rewritten.
    #[error(transparent)]
    Network(#[from] QuantizeError),
    /// ONNX Runtime cannot run it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A second network that no picture gives anything to look at.
    #[error(
        "no region of any picture reaches the box head: calibrate on pictures with objects in them"
    )]
    NothingSeen,
}

/// Told of the steps of long work.
pub trait Progress {
    /// A stage of `steps` steps begins.
    fn start(&self, stage: &str, steps: usize);
    /// One step of it is done.
    fn step(&self);
}

/// One network to be quantised, and how it is run.
pub struct Subject<'a> {
    /// The library.
    pub runtime: &'a OnnxRuntime,
    /// The float network.
    pub network: Network,
    /// For a detector's second network: the first in float, and what chooses regions.
    pub first: Option<(&'a [u8], Arc<dyn Propose>)>,
    /// Threads of its sessions.
    pub threads: usize,
}

impl Subject<'_> {
    /// A session of `model`, a version of this network.
    ///
    /// # Errors
    /// [`EngineError`] if ONNX Runtime refuses it.
    pub fn probe(&self, model: &[u8], arithmetic: Arithmetic) -> Result<Probe, EngineError> {
        let runtime = self.runtime.with_arithmetic(arithmetic);
        match &self.first {
            None => runtime.probe(model, self.threads),
            Some((features, propose)) => {
                let first = (*features, Arc::clone(propose));
                runtime.probe_box_head(first, model, self.threads)
            }
        }
    }
}
