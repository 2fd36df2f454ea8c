//! Parameters of a depthwise convolution.

use super::error::{KernelError, check_length};

/// Largest accepted kernel size, stride and dilation along an axis, in pixels.
const MAX_SIZE: usize = 16;
/// Largest accepted padding on a side, in pixels.
const MAX_PAD: usize = 256;

/// Parameters of a depthwise convolution. Pairs of sizes are `[height, width]` in pixels.
///
/// The caller makes sure that the sums of products stay within 31 bits, before and after they are
/// multiplied by `multipliers`. If they do not, results differ from ONNX Runtime's.
#[derive(Debug, Clone)]
pub struct DepthwiseSpec {
    /// Height and width of the kernel in pixels, 1 to 16 each.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride of the kernel in pixels, 1 to 16 each.
    pub strides: [usize; 2],
    /// Padding above, left, below and right in pixels, at most 256 each. Ignored if `same_upper` is
    /// true.
    pub pads: [usize; 4],
    /// Whether to pad each axis to an output size of `ceil(input size / stride)`. If the padding of
    /// an axis is odd, the smaller half comes first (above or left).
    ///
    /// Source: ONNX `auto_pad` `SAME_UPPER`.
    pub same_upper: bool,
    /// Vertical and horizontal dilation of the kernel in pixels, 1 to 16 each; 1 is a dense kernel.
    pub dilations: [usize; 2],
    /// Zero point of the input image, which is also the value of the pixels that pad it.
    pub input_zero_point: u8,
    /// Zero point of the output, before `table` is applied.
    pub output_zero_point: u8,
    /// Weights `[C, kernel height, kernel width]`, quantized with a zero point of 0.
    pub weights: Vec<i8>,
    /// Bias `[C]`, quantized with the scale `input scale * weight scale`.
    pub bias: Vec<i32>,
    /// Factors `[C]` that requantize the sums: `input scale * weight scale / output scale`.
    pub multipliers: Vec<f32>,
    /// Lookup table that maps the requantized output to the stored output. `None` to store the
    /// requantized output.
    pub table: Option<Box<[u8; 256]>>,
}

impl DepthwiseSpec {
    /// Checks that all sizes are in range and that weights, bias and multipliers have the same
    /// number of channels.
    ///
    /// # Errors
    /// [`KernelError::Window`] for a size, [`KernelError::Length`] for a tensor.
    pub(super) fn check(&self) -> Result<(), KernelError> {
        let sizes = [
            ("kernel", self.kernel),
            ("strides", self.strides),
            ("dilations", self.dilations),
        ];
        for (parameter, sizes) in sizes {
            if !sizes.iter().all(|size| (1..=MAX_SIZE).contains(size)) {
                return Err(KernelError::Window {
                    parameter,
                    expected: "1 to 16",
                    got: sizes.to_vec(),
                });
            }
        }
        if self.pads.iter().any(|pad| *pad > MAX_PAD) {
            return Err(KernelError::Window {
                parameter: "pads",
                expected: "at most 256",
                got: self.pads.to_vec(),
            });
        }
        let channels = self.bias.len();
        let weights = channels * self.kernel[0] * self.kernel[1];
        // A convolution without channels is rejected: its output rows would be empty, so their
        // number would not follow from the length of the output.
        check_length("bias", channels.max(1), channels)?;
        check_length("multipliers", channels, self.multipliers.len())?;
        check_length("weights", weights, self.weights.len())
    }
}
