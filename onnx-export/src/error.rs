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
    /// An argument is out of range.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
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

/// An argument of a builder is out of range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{argument}`: expected {expected}, got {got}")]
pub struct ArgumentError {
    /// Path of the argument in an [`Architecture`](crate::architecture::Architecture), such as
    /// `head.anchors.sizes`, or the name of a function's argument.
    pub argument: &'static str,
    /// The allowed values, in words.
    pub expected: &'static str,
    /// The rejected value.
    pub got: String,
}
