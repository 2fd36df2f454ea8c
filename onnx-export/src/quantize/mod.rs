//! Static quantisation: a float ONNX file and a [`Recipe`] become an int8 one.
//!
//! ```text
//! float .onnx ─> Network ─┬─> observed, fetching   (what a calibration runs)
//!                         └─> quantize(Recipe)     (QuantizeLinear / DequantizeLinear pairs)
//! ```
//!
//! The result holds standard operators alone: activations U8 with one scale a tensor, weights S8 with
//! one scale an output channel, biases S32. Runtimes turn `DequantizeLinear -> Conv -> QuantizeLinear`
//! into integer kernels. What is *not* here: running anything, so neither ranges nor the choice of the
//! layers that stay in float are found here.
//!
//! Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
//! Integer-Arithmetic-Only Inference" (2017), section 2; the ONNX operators' specifications.

mod affine;
mod check;
mod correct;
mod domain;
mod emit;
mod gate;
mod network;
mod observe;
mod recipe;
mod rewrite;
mod steps;
mod sums;

pub use affine::{Affine, Range};
pub use network::{Layer, Network};
pub use observe::Observed;
pub use recipe::{Recipe, Recipes, Target};

use thiserror::Error;

use crate::read::GraphReadError;

/// A network that cannot be quantised.
#[derive(Debug, Error)]
pub enum QuantizeError {
    /// Bytes that are no ONNX file, or one that contradicts itself.
    #[error(transparent)]
    Read(#[from] GraphReadError),
    /// A network that is in int8 already.
    #[error("the network is quantised already: node `{node}` is a {op}")]
    Quantized {
        /// The node.
        node: String,
        /// Its operator.
        op: String,
    },
    /// Something that cannot be carried over into another file.
    #[error("{what} is not supported: expected a plain float network of ONNX's own operators")]
    Unsupported {
        /// What it is.
        what: String,
    },
    /// A network without anything to quantise.
    #[error("the network has no Conv and no Gemm with constant f32 weights to quantise")]
    NoLayers,
    /// A value that becomes 8-bit, of which the recipe does not say between which numbers it lies.
    #[error("the ranges do not fit this network: none is given for `{value}`")]
    NoRange {
        /// The value.
        value: String,
    },
    /// A layer that the network does not have.
    #[error("the ranges do not fit this network: it has no layer `{layer}`")]
    NoLayer {
        /// The layer.
        layer: String,
    },
    /// A recipe that is not JSON, or has a field outside what it allows.
    #[error("not a ranges file: {0}")]
    Recipe(String),
}

#[cfg(test)]
mod tests;
