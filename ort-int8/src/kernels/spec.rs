//! Parameters of a depthwise convolution.

use super::error::KernelError;

/// Largest kernel size, stride and dilation.
const MAX_SIZE: usize = 16;
/// Largest padding.
const MAX_PAD: usize = 256;

/// Parameters of a depthwise convolution. Sizes are `[height, width]`.
///
/// The caller makes sure that sums of products stay within 31 bits, before and after they are multiplied by
/// `multipliers`; otherwise results differ from ONNX Runtime's.
#[derive(Debug, Clone)]
pub struct DepthwiseSpec {
    /// Size of the kernel, 1 to 16 per axis.
    pub kernel: [usize; 2],
    /// Strides of the kernel, 1 to 16 per axis.
    pub strides: [usize; 2],
    /// Padding above, left, below, right, at most 256. Ignored if `same_upper` is true.
    pub pads: [usize; 4],
    /// Whether to pad to an output size of `ceil(input size / stride)`. If the padding is odd, the smaller half comes
    /// first.
    ///
    /// Source: ONNX `auto_pad` `SAME_UPPER`.
    pub same_upper: bool,
    /// Dilations of the kernel, 1 to 16 per axis.
    pub dilations: [usize; 2],
    /// Zero point of the input, which is also the value of padded elements.
    pub input_zero_point: u8,
    /// Zero point of the output.
    pub output_zero_point: u8,
    /// Weights `[C, kernel height, kernel width]`, with zero point 0.
    pub weights: Vec<i8>,
    /// Bias `[C]`, quantized with the scale `input scale * weight scale`.
    pub bias: Vec<i32>,
    /// Requantization factors `[C]`: `input scale * weight scale / output scale`.
    pub multipliers: Vec<f32>,
    /// Lookup table that is applied to the requantized output. `None` to store the output as it is.
    pub table: Option<Box<[u8; 256]>>,
}

impl DepthwiseSpec {
    /// Checks that all sizes are in range and that the tensors have the same number of channels.
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
        // Without channels the output would have no elements, and its rows could not be counted.
        check_length("bias", channels.max(1), channels)?;
        check_length("multipliers", channels, self.multipliers.len())?;
        check_length("weights", weights, self.weights.len())
    }
}

/// Returns [`KernelError::Length`] unless a tensor has the expected number of elements.
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
