//! Choice of the recipe with which a network is quantized: activation ranges from photographs, and
//! the layers kept in fp32.
//!
//! ```text
//! photographs ─> calibrate ─> Statistics ─> search ─> Recipe ─> onnx_export::quantize ─> .onnx
//! others held out ──────────────> compared with the fp32 network <──────────────────────────┘
//! ```
//!
//! This module neither rewrites graphs (`onnx_export::quantize`) nor uses files and the terminal
//! (`cli::quantize`).

mod calibrate;
mod compare;
mod cost;
mod held_out;
mod histogram;
mod report;
mod search;

use onnx_export::quantize::{Network, QuantizeError};
use thiserror::Error;

pub use calibrate::{Statistics, ValueStatistics, calibrate};
pub use compare::{Agreement, Answers, cosine};
pub use held_out::HeldOut;
pub use histogram::{Histogram, Method};
pub use report::{ImageCounts, LayerReport, NetworkReport, Report, Timing};
pub use search::{Choice, Goal, search};

use crate::engine::{Arithmetic, EngineError, FirstStage, OnnxRuntime, Probe};

/// The failure to quantize a network.
#[derive(Debug, Error)]
pub enum QuantizeFailure {
    /// The network's graph cannot be rewritten to int8.
    #[error(transparent)]
    Network(#[from] QuantizeError),
    /// ONNX Runtime cannot load or run a network.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No value of the network has a finite activation range. For the box head of a detector, this
    /// means that no image has a region proposal.
    #[error(
        "cannot calibrate the network: it has no finite values on any image; a detector's box head \
         needs calibration images that show objects"
    )]
    NothingSeen,
}

/// Receives the progress of calibration and search, which may take minutes.
pub trait Progress {
    /// Begins the stage `stage`, which has `steps` steps.
    fn start(&self, stage: &str, steps: usize);
    /// Counts one step of the current stage as done.
    fn step(&self);
}

/// A network to be quantized, and how it is run.
pub struct Subject<'a> {
    /// ONNX Runtime, configured with the thread count of the sessions.
    pub runtime: OnnxRuntime,
    /// The fp32 network.
    pub network: Network,
    /// The detector's first stage in fp32, which selects the regions. `None` unless this network is
    /// a detector's box head.
    pub first: Option<FirstStage<'a>>,
}

impl Subject<'_> {
    /// Creates a session of `model`, the bytes of an fp32 or int8 ONNX file of this network.
    /// `arithmetic` is the way in which int8 layers are computed.
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
