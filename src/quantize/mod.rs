//! Choice of the recipe with which a network is quantized: activation ranges from photographs, and the layers kept in
//! fp32.
//!
//! ```text
//! photographs ─> calibrate ─> Statistics ─> search ─> Recipe ─> onnx_export::quantize ─> .onnx
//!                                              └── compared with the fp32 network ──> report
//! ```
//!
//! Not here: rewriting of graphs (`onnx_export::quantize`), files and the terminal (`cli::quantize`).

mod calibrate;
mod compare;
mod cost;
mod histogram;
mod report;
mod search;

use onnx_export::quantize::{Network, QuantizeError};
use thiserror::Error;

pub use calibrate::{Statistics, ValueStatistics, calibrate};
pub use compare::{Agreement, Answers, cosine};
pub use histogram::{Histogram, Method};
pub use report::{LayerReport, NetworkReport, Report, Timing};
pub use search::{Choice, Goal, search};

use crate::engine::{Arithmetic, EngineError, FirstStage, OnnxRuntime, Probe};

/// Failure to quantize a network.
#[derive(Debug, Error)]
pub enum QuantizeFailure {
    /// The network's graph cannot be rewritten to int8.
    #[error(transparent)]
    Network(#[from] QuantizeError),
    /// ONNX Runtime cannot run a network.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The first network of a detector proposed no region in any image, so the second one never ran.
    #[error(
        "cannot calibrate the box head: no image has a region proposal; calibrate on images that show objects"
    )]
    NothingSeen,
}

/// Receives the progress of long work.
pub trait Progress {
    /// Begins a stage of `steps` steps.
    fn start(&self, stage: &str, steps: usize);
    /// Counts one step of the stage as done.
    fn step(&self);
}

/// A network to be quantized, and how it is run.
pub struct Subject<'a> {
    /// ONNX Runtime, with the thread count of the sessions.
    pub runtime: OnnxRuntime,
    /// The fp32 network.
    pub network: Network,
    /// The first stage in fp32, which selects the regions. `None` unless this network is a detector's box head.
    pub first: Option<FirstStage<'a>>,
}

impl Subject<'_> {
    /// Creates a session of `model`, the bytes of an fp32 or int8 ONNX file of this network.
    ///
    /// # Errors
    /// [`EngineError`] if ONNX Runtime rejects `model`.
    pub fn probe(&self, model: &[u8], arithmetic: Arithmetic) -> Result<Probe, EngineError> {
        let runtime = self.runtime.with_arithmetic(arithmetic);
        match &self.first {
            None => runtime.probe(model),
            Some(first) => runtime.probe_box_head(first, model),
        }
    }
}
