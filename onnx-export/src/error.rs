//! What can go wrong between a checkpoint and its graph.

use thiserror::Error;

use crate::graph::StateDictError;
use crate::weights::WeightsError;

/// A graph that cannot be built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The checkpoint does not hold the architecture's tensors.
    #[error(transparent)]
    StateDict(#[from] StateDictError),
    /// A checkpoint that cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// An architecture argument outside what it allows.
    #[error("`{argument}`: expected {expected}, got {got}")]
    Argument {
        /// The argument's name.
        argument: &'static str,
        /// The values it allows, in words.
        expected: &'static str,
        /// The value found.
        got: String,
    },
    /// An operand whose shape the operator cannot take.
    #[error("{op} in `{scope}`: {operand} must be {expected}, got {got}")]
    Shape {
        /// The ONNX operator.
        op: &'static str,
        /// Path of the module that adds it.
        scope: String,
        /// Which operand.
        operand: &'static str,
        /// What the operator takes, in words.
        expected: String,
        /// The operand's shape.
        got: String,
    },
}
