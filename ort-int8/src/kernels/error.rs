//! Errors of the kernels.

use thiserror::Error;

/// A depthwise convolution that cannot be computed, or an image that does not fit it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KernelError {
    /// A parameter of the convolution window is out of range.
    #[error("depthwise convolution: `{parameter}` must be {expected}, got {got:?}")]
    Window {
        /// Name of the parameter.
        parameter: &'static str,
        /// Values that the kernel accepts.
        expected: &'static str,
        /// The values found.
        got: Vec<usize>,
    },
    /// The number of elements of a tensor does not match the convolution's parameters.
    #[error("depthwise convolution: `{tensor}` must have {expected} elements, got {got}")]
    Length {
        /// Name of the tensor.
        tensor: &'static str,
        /// Elements that it must have.
        expected: usize,
        /// Elements that it has.
        got: usize,
    },
    /// The dilated kernel is larger than the padded image.
    #[error(
        "depthwise convolution: the dilated kernel does not fit into an image of {height} x {width} pixels with its \
         padding"
    )]
    SmallImage {
        /// Rows of the image, without padding.
        height: usize,
        /// Columns of the image, without padding.
        width: usize,
    },
    /// The output buffer does not hold whole rows of the output.
    #[error(
        "depthwise convolution: the output buffer from row {first_row} on must hold whole rows of {row} elements, \
         at most up to row {rows}, got {got} elements"
    )]
    OutputRows {
        /// First output row that the call computes.
        first_row: usize,
        /// Elements of the buffer.
        got: usize,
        /// Elements of a row.
        row: usize,
        /// Rows of the whole output.
        rows: usize,
    },
}
