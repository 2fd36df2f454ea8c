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
    /// An argument has a value that is not allowed.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    /// An operand has a shape that the operator does not accept.
    #[error("{op} in module `{scope}`: shape of `{operand}` must be {expected}, got {got}")]
    Shape {
        /// Name of the ONNX operator, such as `Conv`.
        op: &'static str,
        /// State dict path of the module that adds the operator; empty at the root and for
        /// operators on inputs of the network.
        scope: String,
        /// Name of the operand: its ONNX name, or the name of a tensor of the module.
        operand: String,
        /// Shapes that the operator accepts, in words.
        expected: String,
        /// Shape of the operand, or the number of its elements if they do not fill the expected
        /// shape.
        got: String,
    },
    /// An operand has a data type that the operator does not accept.
    #[error("{op} in module `{scope}`: data type of `{operand}` must be {expected}, got {got}")]
    Type {
        /// Name of the ONNX operator, such as `Conv`.
        op: &'static str,
        /// State dict path of the module that computes the operand; empty for constants and inputs
        /// of the network.
        scope: String,
        /// Name of the operand: its ONNX name, or the name of a tensor of the module.
        operand: String,
        /// Data type that the operator accepts.
        expected: &'static str,
        /// Data type of the operand.
        got: &'static str,
    },
    /// An attribute of an operator is out of range.
    #[error("{op} in module `{scope}`: attribute `{attribute}` must be {expected}, got {got}")]
    Attribute {
        /// Name of the ONNX operator, such as `Conv`.
        op: &'static str,
        /// State dict path of the module that adds the operator; empty at the root and for
        /// operators on inputs of the network.
        scope: String,
        /// Name of the attribute in ONNX, or `stride` for the inverse of the `spatial_scale` of
        /// `RoiAlign`.
        attribute: &'static str,
        /// Values that the attribute allows, in words.
        expected: String,
        /// Value that the attribute has.
        got: String,
    },
    /// An operator that joins values, such as `Concat`, has no operands.
    #[error("{op} in module `{scope}`: expected at least one operand, got none")]
    NoOperands {
        /// Name of the ONNX operator, such as `Conv`.
        op: &'static str,
        /// State dict path of the module that adds the operator; empty at the root and for
        /// operators on inputs of the network.
        scope: String,
    },
    /// The weights of the checkpoint are finite, but a weight of the network computed from them, such as by
    /// folding a batch norm into a convolution, is not.
    #[error("weight `{name}` of the network with batch norm folded: {reason}")]
    NotFinite {
        /// ONNX name of the weight.
        name: String,
        /// How many values are NaN or infinite, and which is the first.
        reason: String,
    },
    /// A head reads a feature map that the backbone does not have.
    #[error(
        "the head reads feature map {stage}, counted from the end; the backbone has {got} feature maps"
    )]
    FeatureMap {
        /// Position of the feature map that the head reads, counted from the end; 1 is the last.
        stage: usize,
        /// Number of feature maps that the backbone has.
        got: usize,
    },
}

/// An argument of a function that builds a network has a value that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("argument `{argument}`: expected {expected}, got {got}")]
#[non_exhaustive]
pub struct ArgumentError {
    /// Name of the argument: its path in an [`Architecture`](crate::architecture::Architecture),
    /// such as `head.anchors.sizes`, the field of a backbone or head, such as `width_mult`, or the
    /// argument of a function, such as `opset`.
    pub argument: &'static str,
    /// Values that the argument allows, in words.
    pub expected: String,
    /// Value that the argument has.
    pub got: String,
}

impl ArgumentError {
    /// Creates the error for the argument named `argument`, whose value is `got` instead of
    /// `expected`.
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

/// Creates an [`ArgumentError`]; a shorter name for [`ArgumentError::new`] within this crate.
pub(crate) fn argument(
    argument: &'static str,
    expected: impl Into<String>,
    got: &dyn std::fmt::Display,
) -> ArgumentError {
    ArgumentError::new(argument, expected, got)
}

/// Returns `Ok` if `holds` is true, and the error of [`argument()`] for the argument `name` if it
/// is false.
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
