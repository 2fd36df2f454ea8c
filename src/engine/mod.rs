//! Inference: runs prepared images through a model's networks and returns their outputs.
//!
//! `batch` owns the queues and threads, `postprocess` interprets the outputs. Only this module and the crate
//! `ort-int8` use `ort`.

mod library;
mod onnx_runtime;
mod outputs;
mod prepare;
mod probe;
mod signature;
mod stop;
mod two_stage;
mod wide;

use std::sync::Arc;

use onnx_export::text::{shown, shown_error};
use thiserror::Error;

pub use library::{LibraryError, find_library};
pub use onnx_export::EMBEDDING;
pub use onnx_runtime::{Arithmetic, OnnxRuntime, OnnxSession};
pub use outputs::{DataType, Output, OutputAccessError, Outputs, Values};
pub use prepare::{OptimizedGraph, PreparedModel, SharedWeight};
pub use probe::{FirstStage, Probe};
pub use stop::{StopRuns, Unstoppable};
pub use two_stage::{
    BOX_REGRESSION, CLASS_LOGITS, ProposalMaps, Propose, REGIONS, Region, TwoStageSession,
};
pub use wide::MeasuredScaling;

use crate::image::PreparedImage;

/// A dense tensor in C order.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor<T = f32> {
    /// Sizes of the axes, the outermost first.
    pub shape: Vec<usize>,
    /// Elements in C order (row-major).
    pub data: Vec<T>,
}

/// A tensor whose elements are borrowed, usually from ONNX Runtime's memory.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorView<'a> {
    /// Sizes of the axes, the outermost first.
    pub shape: Vec<usize>,
    /// Elements in C order.
    pub data: &'a [f32],
}

impl<'a> TensorView<'a> {
    /// Returns the elements of image `index` of a batch of `count` images, without the batch axis.
    ///
    /// # Errors
    /// [`EngineError::Output`] if the size of the outermost axis is not `count`, or if `index` is
    /// not below `count`.
    fn row(&self, index: usize, count: usize) -> Result<TensorView<'a>, EngineError> {
        if self.shape.first() != Some(&count) || index >= count {
            let shape = self.shape.clone();
            return Err(EngineError::Output { count, shape });
        }
        let length = self.data.len() / count;
        Ok(TensorView {
            shape: self.shape[1..].to_vec(),
            data: &self.data[index * length..][..length],
        })
    }

    fn to_tensor(&self) -> Tensor {
        Tensor {
            shape: self.shape.clone(),
            data: self.data.to_vec(),
        }
    }
}

/// A loaded model, run by one worker thread.
pub trait Engine: Send {
    /// Runs images of one size as a batch, and returns the outputs of each image without the batch axis.
    ///
    /// # Errors
    /// [`EngineError::Run`] if ONNX Runtime fails. [`EngineError::Output`],
    /// [`EngineError::OutputType`], [`EngineError::Missing`] or [`EngineError::Propose`] if an
    /// output cannot be used.
    fn run(&mut self, batch: Vec<PreparedImage>) -> Result<Vec<Outputs>, EngineError>;

    /// Runs images as [`Engine::run`] does. The outputs of each image for which `wanted` is true end with its pooled
    /// features, [`EMBEDDING`], if the network is a classification network that has them.
    ///
    /// # Errors
    /// As [`Engine::run`].
    fn embed(
        &mut self,
        batch: Vec<PreparedImage>,
        wanted: &[bool],
    ) -> Result<Vec<Outputs>, EngineError> {
        let _ = wanted;
        self.run(batch)
    }

    /// Returns a handle with which another thread stops the runs of this engine.
    fn stop_handle(&self) -> Arc<dyn StopRuns>;
}

/// Why a model cannot be loaded or run.
#[derive(Debug, Error)]
pub enum EngineError {
    /// No usable ONNX Runtime library was found.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// A tensor of the model has its elements in another file, or the model is not an ONNX file in which
    /// such tensors can be searched for.
    #[error(transparent)]
    External(#[from] onnx_export::ExternalDataError),
    /// ONNX Runtime rejected the model.
    #[error("ONNX Runtime cannot load the model")]
    Load(#[source] ort::Error),
    /// The in-memory file for the optimized graph cannot be created or read.
    #[error("cannot create or read the in-memory file of the optimized graph")]
    Share(#[source] std::io::Error),
    /// The optimized graph cannot be parsed.
    #[error("cannot parse the optimized graph")]
    Graph(#[from] onnx_export::GraphReadError),
    /// An input, an output or a stage of the model has an unsupported shape, data type or name.
    #[error(
        "the model's {what} is not supported: expected {expected}, got {}",
        shown_error(got)
    )]
    Signature {
        /// The part of the model with the wrong signature: `input`, `output`, `embedding` or `box head`.
        what: &'static str,
        /// The shapes, data types or names that the engine supports for `what`.
        expected: &'static str,
        /// The shape, data type or names that `what` has in the model.
        got: String,
    },
    /// The outermost axis of an output does not have one row per image, or per region for a box
    /// head.
    #[error(
        "an output of the model has shape {shape:?}: expected {count} rows along its first axis, \
         one per image or region"
    )]
    Output {
        /// Expected number of rows: the images in the batch, or the regions that a box head
        /// classifies.
        count: usize,
        /// Shape of the output, the outermost axis first.
        shape: Vec<usize>,
    },
    /// An output has a data type that is not supported.
    #[error(
        "the model's output `{}` has data type {got}: expected f32, i64, i32 or u8",
        shown(name)
    )]
    OutputType {
        /// Name of the output.
        name: String,
        /// Data type of the output.
        got: String,
    },
    /// A network of the model lacks an output that its next stage or postprocessing reads.
    #[error(
        "the model has no output `{}`, which its next stage or postprocessing reads",
        shown(name)
    )]
    Missing {
        /// Name of the missing output.
        name: String,
    },
    /// Regions cannot be selected from the outputs of a detector's first stage; the text says why.
    #[error("cannot select regions from the model's proposals: {0}")]
    Propose(String),
    /// The run was stopped at its time limit.
    #[error("inference was stopped: it was not finished at its time limit")]
    Stopped,
    /// The engine panicked. It is not used again.
    #[error("inference panicked; see the server's log")]
    Panicked,
    /// ONNX Runtime failed on a batch.
    #[error("inference failed: {0}")]
    Run(#[source] ort::Error),
}
