//! Inference: pictures in, the network's output tensors out.
//!
//! What is *not* here: queues and threads (`batch`), and what the outputs mean (`postprocess`).
//! Only this folder and the crate `ort-int8` name `ort`.

mod library;
mod onnx_runtime;
mod prepare;
mod probe;
mod signature;
mod two_stage;

use thiserror::Error;

pub use library::{LibraryError, find_library};
pub use onnx_runtime::{Arithmetic, OnnxRuntime, OnnxSession};
pub use prepare::PreparedModel;
pub use probe::Probe;
pub use two_stage::{ProposalMaps, Propose, Region, TwoStageSession};

use crate::image::PreparedImage;

/// A dense tensor in C order.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Sizes, outermost axis first.
    pub shape: Vec<usize>,
    /// Elements.
    pub data: Vec<f32>,
}

/// A tensor that somebody else holds.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorView<'a> {
    /// Sizes, outermost axis first.
    pub shape: Vec<usize>,
    /// Elements in C order.
    pub data: &'a [f32],
}

impl<'a> TensorView<'a> {
    /// The part of picture `index` in a batch of `count`, without the batch axis.
    ///
    /// # Errors
    /// [`EngineError::Output`] if the outermost axis is not the batch.
    fn row(&self, index: usize, count: usize) -> Result<TensorView<'a>, EngineError> {
        let shape = || self.shape.iter().map(|size| *size as i64).collect();
        if self.shape.first() != Some(&count) || index >= count {
            return Err(EngineError::Output {
                count,
                shape: shape(),
            });
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

/// A network that one thread runs.
pub trait Engine: Send {
    /// Runs pictures of one size together; gives each picture's outputs, without the batch axis.
    ///
    /// # Errors
    /// [`EngineError::Run`] if the runtime fails.
    fn run(&mut self, batch: Vec<PreparedImage>) -> Result<Vec<Vec<Tensor>>, EngineError>;
}

/// A model that cannot be loaded or run.
#[derive(Debug, Error)]
pub enum EngineError {
    /// No usable ONNX Runtime library.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// ONNX Runtime refused the model.
    #[error("ONNX Runtime cannot load the model")]
    Load(#[source] ort::Error),
    /// The optimised graph could not be handed from one session to the next.
    #[error("cannot share the optimised graph")]
    Share(#[source] std::io::Error),
    /// The optimised graph could not be read back.
    #[error("cannot read the optimised graph")]
    Graph(#[from] onnx_export::GraphReadError),
    /// A network whose inputs or outputs are not what pictures need.
    #[error("the model's {what}: expected {expected}, got {got}")]
    Signature {
        /// Which part of the signature.
        what: &'static str,
        /// What Sightline can serve.
        expected: &'static str,
        /// What the model has.
        got: String,
    },
    /// An output that does not have one row per picture.
    #[error("the network answered {count} pictures with a tensor of shape {shape:?}")]
    Output {
        /// Pictures in the batch.
        count: usize,
        /// The output's shape.
        shape: Vec<i64>,
    },
    /// An output that the network should have and has not.
    #[error("the network has no output `{name}`")]
    Missing {
        /// Its name.
        name: String,
    },
    /// No regions can be made of the network's outputs.
    #[error("no regions can be proposed: {0}")]
    Propose(String),
    /// ONNX Runtime failed on a batch.
    #[error("inference failed: {0}")]
    Run(#[source] ort::Error),
}
