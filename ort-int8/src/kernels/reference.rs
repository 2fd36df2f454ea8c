//! A slow depthwise convolution that follows the definition of ONNX `QLinearConv`. Tests compare
//! the kernels with it.

use super::{DepthwiseSpec, Image};

/// Convolves an image `[H, W, C]` and returns the output `[H', W', C]`, whose size depends on
/// `spec`. Source: ONNX `QLinearConv`.
pub(super) fn depthwise(spec: &DepthwiseSpec, image: Image<'_>) -> Vec<u8> {
    let Image {
        data,
        height,
        width,
    } = image;
    let channels = spec.bias.len();
    let window = |axis: usize| (spec.kernel[axis] - 1) * spec.dilations[axis] + 1;
    let mut pads = spec.pads;
    if spec.same_upper {
        for (axis, size) in [height, width].into_iter().enumerate() {
            let last = (size.div_ceil(spec.strides[axis]) - 1) * spec.strides[axis];
            let all = (last + window(axis)).saturating_sub(size);
            (pads[axis], pads[axis + 2]) = (all / 2, all - all / 2);
        }
    }
    let along = |axis: usize, size: usize| {
        (size + pads[axis] + pads[axis + 2] - window(axis)) / spec.strides[axis] + 1
    };
    let mut output = Vec::new();
    for y in 0..along(0, height) {
        for x in 0..along(1, width) {
            for c in 0..channels {
                let mut sum = spec.bias[c];
                for ky in 0..spec.kernel[0] {
                    for kx in 0..spec.kernel[1] {
                        let row = y * spec.strides[0] + ky * spec.dilations[0];
                        let column = x * spec.strides[1] + kx * spec.dilations[1];
                        let inside = |at: usize, pad: usize, size: usize| {
                            at.checked_sub(pad).filter(|at| *at < size)
                        };
                        let row = inside(row, pads[0], height);
                        let column = inside(column, pads[1], width);
                        if let (Some(row), Some(column)) = (row, column) {
                            let pixel = data[(row * width + column) * channels + c];
                            let weight =
                                spec.weights[(c * spec.kernel[0] + ky) * spec.kernel[1] + kx];
                            sum += (i32::from(pixel) - i32::from(spec.input_zero_point))
                                * i32::from(weight);
                        }
                    }
                }
                let scaled = (sum as f32 * spec.multipliers[c]).round_ties_even() as i64;
                let result = (scaled + i64::from(spec.output_zero_point)).clamp(0, 255) as u8;
                output.push(
                    spec.table
                        .as_ref()
                        .map_or(result, |table| table[usize::from(result)]),
                );
            }
        }
    }
    output
}
