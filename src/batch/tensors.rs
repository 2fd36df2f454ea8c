//! Memory for the tensors of one model: the network's input and outputs for every image that is decoded and waits
//! in the model's queue, or is in a running batch.

use crate::engine::{Output, Outputs, Values};
use crate::image::ImageSize;
use crate::memory::{Demand, TENSOR_BYTES_PER_MODEL};

/// The predicted memory of one image's tensors, which are the input and the outputs of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorCost {
    /// Size in bytes of the outputs for one input of `pixels` pixels, or of any input if `pixels`
    /// is 0.
    outputs: u64,
    /// Pixels of the input whose outputs have `outputs` bytes. 0 if the size of the outputs does
    /// not depend on the size of the input.
    pixels: u64,
    /// Pixels of the largest input that the model can receive.
    largest: u64,
}

impl TensorCost {
    /// Returns the cost of a network that returned `outputs` for one input of `size`, and whose
    /// inputs have at most `largest` pixels.
    ///
    /// `regions` is the maximum number of regions per image for a two-stage detector: its outputs
    /// have one row per region and are counted with `regions` rows each. `None` for all other
    /// networks, whose outputs grow in proportion to the pixels of the input.
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

    /// Returns the memory in bytes for one input `[3, H, W] f32` of `size` and for the outputs that
    /// the network computes from this input.
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

    /// Returns the demand of the model's tensors: at least the tensors of one input of the largest
    /// size, and at most `TENSOR_BYTES_PER_MODEL` unless the tensors of this input take more.
    pub fn demand(&self) -> Demand {
        let largest = self.bytes_of(self.largest);
        Demand::new(largest, largest, TENSOR_BYTES_PER_MODEL)
    }
}

/// Returns the size in bytes of one row of `output`: the elements with the same index on its first
/// axis.
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
        // The output of a dense detector, with 95 values for each 8x8 pixels of the input, measured
        // on an input of 64x64 pixels.
        let dense = TensorCost::measured(&outputs(&[&[95, 8, 8]]), square(64), 128 * 128, None);
        // The outputs of a two-stage detector with 91 classes, measured on an image with 0 regions
        // and on an image with 3 regions.
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
