//! Static quantization: turns an fp32 ONNX file and a [`Recipe`] into an int8 ONNX file.
//!
//! ```text
//! fp32 .onnx ─> Network ─┬─> observed, fetching   (what a calibration runs)
//!                        └─> quantize(Recipe)     (QuantizeLinear / DequantizeLinear pairs)
//! ```
//!
//! The int8 file has standard operators only. Activations are uint8 with one scale per tensor,
//! weights int8 with one scale per output channel, biases int32. Runtimes fuse
//! `DequantizeLinear -> Conv -> QuantizeLinear` into integer kernels.
//!
//! This module does not run networks: the caller measures the activation ranges and chooses the
//! layers kept in fp32.
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
pub use observe::{LayerResult, Observed};
pub use recipe::{Recipe, Recipes, Target};

use thiserror::Error;

use crate::external::ExternalDataError;
use crate::proto::UnknownFieldError;
use crate::read::GraphReadError;
use crate::text::{shown, shown_error};

/// The reason why a network cannot be quantized, or a ranges file cannot be read or written.
#[derive(Debug, Error)]
pub enum QuantizeError {
    /// The bytes are not an ONNX file, or a tensor's elements do not match its shape.
    #[error(transparent)]
    Read(#[from] GraphReadError),
    /// A tensor has its elements in another file.
    #[error(transparent)]
    External(#[from] ExternalDataError),
    /// Rewriting the file would lose a field.
    #[error(transparent)]
    Unknown(#[from] UnknownFieldError),
    /// The network is quantized already.
    #[error(
        "the network is quantized already: node `{}` is a {}; expected an fp32 network",
        shown(node),
        shown(op)
    )]
    Quantized {
        /// Name of the first node with an operator of quantized networks.
        node: String,
        /// Operator of the node.
        op: String,
    },
    /// The file holds something that rewriting would lose or misread.
    #[error("{} {}; expected {expected}", shown_error(item), shown_error(found))]
    Unsupported {
        /// The part of the file that cannot be rewritten, such as a node or an attribute of a node.
        item: String,
        /// What is wrong with `item`, as a predicate such as `holds a subgraph`.
        found: String,
        /// What `item` must be, so that the network can be quantized.
        expected: &'static str,
    },
    /// The network has no layer that can be quantized.
    #[error("the network has no Conv and no Gemm with constant f32 weights to quantize")]
    NoLayers,
    /// The recipe has no activation range for a value that is quantized.
    #[error(
        "the ranges file does not match the network: no activation range for `{}`; quantize the model again",
        shown(value)
    )]
    NoRange {
        /// Name of the value in the fp32 network.
        value: String,
    },
    /// The recipe names a layer that the network does not have.
    #[error(
        "the ranges file does not match the network: it has no layer `{}`; quantize the model again",
        shown(layer)
    )]
    NoLayer {
        /// Name of the layer in the recipe.
        layer: String,
    },
    /// A ranges file is not JSON, or one of its fields has a value that is not allowed. The text
    /// says which.
    #[error("not a ranges file: {}", shown_error(.0))]
    Recipe(String),
}

#[cfg(test)]
mod tests;
