//! Memory of the tensors of one model: the input and the outputs of every image that is in its queue or that
//! runs.

use crate::engine::{Output, Outputs, Values};
use crate::image::ImageSize;
use crate::memory::{Demand, TENSOR_BYTES_PER_MODEL};

/// Predicts the memory of an image's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorCost {
    /// Bytes of the outputs for an input of `pixels` pixels.
    outputs: u64,
    /// Pixels of the input that `outputs` belongs to; 0 if the outputs do not grow with the input.
    pixels: u64,
    /// Pixels of the largest input.
    largest: u64,
}

impl TensorCost {
    /// Returns the cost of a network whose `outputs` for an input of `size` were measured, and whose inputs have at
    /// most `largest` pixels. `regions` is the most regions of an image in a two-stage detector, `None` for
    /// other networks: the outputs of a two-stage detector grow with the number of regions, others with the
    /// input.
    pub fn measured(
        outputs: &Outputs,
        size: ImageSize,
        largest: u64,
        regions: Option<usize>,
    ) -> Self {
        let bytes = |output: &Output| match regions {
            None => output.bytes() as u64,
            Some(regions) => row_bytes(output).saturating_mul(regions as u64),
        };
        Self {
            outputs: outputs.iter().map(bytes).sum(),
            pixels: regions.map_or(size.pixels(), |_| 0),
            largest: largest.max(size.pixels()),
        }
    }

    /// Returns the memory in bytes of the input `[3, H, W] f32` of `size` and of its outputs.
    pub fn bytes(&self, size: ImageSize) -> u64 {
        self.bytes_of(size.pixels())
    }

    fn bytes_of(&self, pixels: u64) -> u64 {
        let input = pixels.saturating_mul(3 * size_of::<f32>() as u64);
        let outputs = match self.pixels {
            0 => self.outputs,
            measured => self.outputs.saturating_mul(pixels).div_ceil(measured),
        };
        input.saturating_add(outputs)
    }

    /// Returns the memory that the model's tensors need: at least that of the largest image.
    pub fn demand(&self) -> Demand {
        let largest = self.bytes_of(self.largest);
        Demand::new(largest, largest, TENSOR_BYTES_PER_MODEL)
    }
}

/// Returns the size in bytes of one row along the outermost axis.
fn row_bytes(output: &Output) -> u64 {
    let element = match output.values {
        Values::F32(_) | Values::I32(_) => 4,
        Values::I64(_) => 8,
        Values::U8(_) => 1,
    };
    let row: usize = output.shape().iter().skip(1).product();
    (row * element) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Tensor;

    const fn square(side: u32) -> ImageSize {
        ImageSize {
            width: side,
            height: side,
        }
    }

    fn outputs(shapes: &[&[usize]]) -> Outputs {
        let output = |shape: &&[usize]| {
            let tensor = Tensor {
                shape: shape.to_vec(),
                data: vec![0.0; shape.iter().product()],
            };
            Output::f32("output", tensor)
        };
        shapes.iter().map(output).collect()
    }

    #[test]
    fn outputs_are_charged_with_the_input() {
        // Maps of 95 values for each 8x8 pixels, as a dense detector has, measured on 64x64 pixels.
        let dense = TensorCost::measured(&outputs(&[&[95, 8, 8]]), square(64), 128 * 128, None);
        // A box head with 91 classes, measured on an image without regions, and one with three regions.
        let heads = [0, 3].map(|regions| {
            let outputs = outputs(&[&[regions, 4], &[regions, 91], &[regions, 364]]);
            TensorCost::measured(&outputs, square(64), 64 * 64, Some(1000))
        });
        let cases = [
            (dense, 64, 12 * 4096 + 95 * 64 * 4),
            (dense, 128, 4 * (12 * 4096 + 95 * 64 * 4)),
            (dense, 32, (12 * 4096 + 95 * 64 * 4) / 4),
            (heads[0], 64, 12 * 4096 + 459 * 4 * 1000),
            (heads[1], 64, 12 * 4096 + 459 * 4 * 1000),
            (heads[0], 32, 12 * 1024 + 459 * 4 * 1000),
        ];
        for (cost, side, expected) in cases {
            assert_eq!(cost.bytes(square(side)), expected, "{cost:?} {side}");
        }
        let demand = dense.demand();
        assert_eq!(demand, Demand::new(294_144, 294_144, 256 << 20));
    }
}
