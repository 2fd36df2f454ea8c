//! Errors of the int8 kernels.

use thiserror::Error;

/// The reason why a depthwise convolution cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KernelError {
    /// A parameter of the convolution window is out of range.
    #[error("depthwise convolution: `{parameter}` must be {expected}, got {got:?}")]
    Window {
        /// Name of the parameter.
        parameter: &'static str,
        /// Values that the kernel accepts for the parameter.
        expected: &'static str,
        /// Values of the parameter, one per axis or side.
        got: Vec<usize>,
    },
    /// A tensor does not have the number of elements that the convolution's parameters require.
    #[error("depthwise convolution: `{tensor}` must have {expected} elements, got {got}")]
    Length {
        /// Name of the tensor: `image`, `weights`, `bias` or `multipliers`.
        tensor: &'static str,
        /// Number of elements that the parameters require.
        expected: usize,
        /// Number of elements that the tensor has.
        got: usize,
    },
    /// The dilated kernel is larger than the padded image.
    #[error(
        "depthwise convolution: the dilated kernel does not fit into an image of {height} x {width} pixels with its \
         padding"
    )]
    SmallImage {
        /// Height of the image in pixels, without padding.
        height: usize,
        /// Width of the image in pixels, without padding.
        width: usize,
    },
    /// The output buffer does not hold whole rows, or holds rows beyond the end of the output.
    #[error(
        "depthwise convolution: the output buffer must hold whole rows of {row} elements, \
         from row {first_row} on and within the {rows} rows of the output, got {got} elements"
    )]
    OutputRows {
        /// Index of the first output row that the call computes.
        first_row: usize,
        /// Number of elements of the output buffer.
        got: usize,
        /// Number of elements of an output row.
        row: usize,
        /// Number of rows of the whole output.
        rows: usize,
    },
}
