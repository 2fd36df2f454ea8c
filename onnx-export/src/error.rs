//! Errors of building a graph from an architecture and a checkpoint.

use thiserror::Error;

use crate::state_error::StateDictError;
use crate::weights::WeightsError;

/// The reason why a graph cannot be built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Tensors of the checkpoint are missing, unexpected or misshapen.
    #[error(transparent)]
    StateDict(#[from] StateDictError),
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// An argument is out of range.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    /// An operand has a shape that the operator does not accept.
    #[error("{op} in `{scope}`: `{operand}` must be {expected}, got {got}")]
    Shape {
        /// Name of the ONNX operator, such as `Conv`.
        op: &'static str,
        /// State dict path of the module that adds the operator.
        scope: String,
        /// Name of the operand.
        operand: String,
        /// Shapes that the operator accepts, in words.
        expected: String,
        /// Shape of the operand.
        got: String,
    },
    /// An operand has a data type that the operator does not accept.
    #[error("{op} in `{scope}`: `{operand}` must be {expected}, got {got}")]
    Type {
        /// Name of the ONNX operator, such as `Conv`.
        op: &'static str,
        /// State dict path of the module that adds the operator.
        scope: String,
        /// Name of the operand.
        operand: String,
        /// Data type that the operator accepts.
        expected: &'static str,
        /// Data type of the operand.
        got: &'static str,
    },
    /// An attribute of an operator is out of range.
    #[error("{op} in `{scope}`: attribute `{attribute}` must be {expected}, got {got}")]
    Attribute {
        /// Name of the ONNX operator, such as `Conv`.
        op: &'static str,
        /// State dict path of the module that adds the operator.
        scope: String,
        /// Name of the attribute.
        attribute: &'static str,
        /// Values that the attribute allows, in words.
        expected: String,
        /// Value of the attribute.
        got: String,
    },
    /// An operator that joins values has no operands.
    #[error("{op} in `{scope}`: expected at least one operand, got none")]
    NoOperands {
        /// Name of the ONNX operator, such as `Conv`.
        op: &'static str,
        /// State dict path of the module that adds the operator.
        scope: String,
    },
    /// A head reads a feature map that the backbone does not have.
    #[error(
        "the head reads feature map {stage}, counted from the end; the backbone has {got} feature maps"
    )]
    FeatureMap {
        /// Position of the feature map, counted from the end; 1 is the last.
        stage: usize,
        /// Number of feature maps that the backbone has.
        got: usize,
    },
}

/// An argument of a builder is out of range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{argument}`: expected {expected}, got {got}")]
#[non_exhaustive]
pub struct ArgumentError {
    /// Path of the argument in an [`Architecture`](crate::architecture::Architecture), such as
    /// `head.anchors.sizes`, or the name of a function's argument.
    pub argument: &'static str,
    /// The allowed values, in words.
    pub expected: String,
    /// Value of the argument.
    pub got: String,
}

impl ArgumentError {
    /// Creates the error of an argument whose value `got` is not `expected`.
    pub fn new(
        argument: &'static str,
        expected: impl Into<String>,
        got: &dyn std::fmt::Display,
    ) -> Self {
        Self {
            argument,
            expected: expected.into(),
            got: got.to_string(),
        }
    }
}

/// Returns an [`ArgumentError`]; a short form of [`ArgumentError::new`].
pub(crate) fn argument(
    argument: &'static str,
    expected: impl Into<String>,
    got: &dyn std::fmt::Display,
) -> ArgumentError {
    ArgumentError::new(argument, expected, got)
}

/// Returns `Ok` if `holds`, and the error of [`argument()`] if not.
pub(crate) fn require(
    holds: bool,
    name: &'static str,
    expected: &str,
    got: &dyn std::fmt::Display,
) -> Result<(), ArgumentError> {
    if holds {
        return Ok(());
    }
    Err(argument(name, expected, got))
}
