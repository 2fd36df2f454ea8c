//! Errors of the int8 kernels.

use thiserror::Error;

/// The reason why a convolution cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KernelError {
    /// A parameter of the convolution window is out of range.
    #[error("convolution: `{parameter}` must be {expected}, got {got:?}")]
    Window {
        /// Name of the parameter.
        parameter: &'static str,
        /// Values that the kernel accepts for the parameter.
        expected: &'static str,
        /// Values of the parameter, one per axis or side.
        got: Vec<usize>,
    },
    /// A tensor does not have the number of elements that the convolution's parameters require.
    #[error("convolution: `{tensor}` must have {expected} elements, got {got}")]
    Length {
        /// Name of the tensor: `image`, `output`, `weights`, `bias` or `multipliers`.
        tensor: &'static str,
        /// Number of elements that the parameters require.
        expected: usize,
        /// Number of elements that the tensor has.
        got: usize,
    },
    /// The number of input channels is not supported.
    #[error(
        "convolution: the number of input channels must be a positive multiple of 4, got {got}"
    )]
    Depth {
        /// Number of input channels.
        got: usize,
    },
    /// The dilated kernel is larger than the padded image.
    #[error(
        "convolution: the dilated kernel does not fit into an image of {height} x {width} pixels with its \
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
        "convolution: the output buffer must hold whole rows of {row} elements, \
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

/// Returns [`KernelError::Length`] unless `got`, the number of elements of a tensor, is `expected`.
pub(super) fn check_length(
    tensor: &'static str,
    expected: usize,
    got: usize,
) -> Result<(), KernelError> {
    if expected == got {
        return Ok(());
    }
    Err(KernelError::Length {
        tensor,
        expected,
        got,
    })
}
