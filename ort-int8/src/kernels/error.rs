//! Errors of the kernels.

use thiserror::Error;

/// A depthwise convolution that cannot be computed, or an image that does not fit it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KernelError {
    /// A parameter of the window is out of range.
    #[error("depthwise convolution: `{parameter}` must be {expected}, got {got:?}")]
    Window {
        /// Name of the parameter.
        parameter: &'static str,
        /// Values that the kernel accepts.
        expected: &'static str,
        /// The values found.
        got: Vec<usize>,
    },
    /// A tensor has another number of elements than the convolution's other parameters require.
    #[error("depthwise convolution: `{tensor}` must have {expected} elements, got {got}")]
    Length {
        /// Name of the tensor.
        tensor: &'static str,
        /// Elements that it must have.
        expected: usize,
        /// Elements that it has.
        got: usize,
    },
    /// The window does not fit into the padded image.
    #[error("depthwise convolution: the window does not fit into an image of {height} x {width}")]
    SmallImage {
        /// Rows of the image.
        height: usize,
        /// Columns of the image.
        width: usize,
    },
    /// The output buffer does not hold whole rows of the output.
    #[error(
        "depthwise convolution: {got} elements of output from row {first_row} on are not whole rows \
         of {row} elements, {rows} in all"
    )]
    OutputRows {
        /// First row that was asked for.
        first_row: usize,
        /// Elements of the buffer.
        got: usize,
        /// Elements of a row.
        row: usize,
        /// Rows of the whole output.
        rows: usize,
    },
}
