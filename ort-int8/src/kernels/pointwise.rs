//! Pointwise (1x1) convolutions and fully connected layers of uint8 pixels.

use std::collections::VecDeque;

use super::error::{KernelError, check_length};
use super::isa::Isa;
use super::lookup;
use super::requantize::{pairs_fit, requantize};
use super::{LANES, QUAD, Weights};

/// Number of output channels of a [`Block`].
pub(super) const COLUMNS: usize = 16;
/// Number of pixels that the vector kernel computes together. With 16 channels, the sums of four pixels
/// fill 8 of the 16 registers.
pub(super) const TILE: usize = 4;
/// Approximate size in bytes of the pixels that are convolved by all blocks before the next pixels,
/// inputs and outputs together: they stay in the first-level cache.
const PANEL: usize = 24 * 1024;
/// Number of blocks that the AVX-512 kernel computes together.
pub(super) const WIDE: usize = 4;
/// Multiple of the numbers of pixels that the AVX-512 kernel computes together, 6 and 8.
const WIDE_TILES: usize = 24;
/// Minimum number of pixels that are convolved by all blocks before the next pixels. All weights are
/// read for each panel, and those of layers with many channels come from a slow cache.
const MIN_PANEL: usize = 64;

/// Number of weights among which a partner is searched for each: it bounds the time in which a layer is
/// created.
const CANDIDATES: usize = 32;

/// Parameters of a pointwise convolution.
///
/// The caller makes sure that the sums of products stay within 31 bits, before and after they are
/// multiplied by `multipliers`. If they do not, results differ from ONNX Runtime's.
#[derive(Debug, Clone)]
pub struct PointwiseSpec {
    /// Number of input channels, a positive multiple of 4.
    pub inputs: usize,
    /// Zero point of the input.
    pub input_zero_point: u8,
    /// Zero point of the output, before `table` is applied.
    pub output_zero_point: u8,
    /// Weights `[output channels, inputs]`, quantized with a zero point of 0.
    pub weights: Vec<i8>,
    /// Bias `[output channels]`, quantized with the scale `input scale * weight scale`.
    pub bias: Vec<i32>,
    /// Factors `[output channels]` that requantize the sums: `input scale * weight scale / output
    /// scale`.
    pub multipliers: Vec<f32>,
    /// Lookup table that maps the requantized output to the stored output. `None` to store the
    /// requantized output.
    pub table: Option<Box<[u8; 256]>>,
}

/// A pointwise convolution of `[pixels, C] u8`. The weights, biases and multipliers are stored in the
/// order in which the kernel reads them.
///
/// Source: ONNX `QLinearConv` with a kernel of one pixel.
pub struct Pointwise {
    isa: Isa,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) output_zero_point: u8,
    pub(super) table: Option<Box<[u8; 256]>>,
    /// Empty if the kernel of `isa` computes wide blocks.
    blocks: Vec<Block>,
    /// Empty if the kernel of `isa` computes blocks of 16 channels.
    wide: Vec<WideBlock>,
}

/// Constants for 16 output channels, which the kernel computes together. Channels beyond the last one
/// have weights of 0.
pub(super) struct Block {
    /// Index of the block's first output channel.
    pub(super) first: usize,
    /// Bias, from which the input's zero point times the sum of the weights was subtracted.
    pub(super) bias: [i32; COLUMNS],
    pub(super) multipliers: [f32; COLUMNS],
    /// Weights of the 16 output channels by four consecutive input channels: the four weights of an
    /// output channel lie next to each other.
    pub(super) weights: Vec<Weights>,
    /// Index of the four input channels of each element of `weights`, divided by 4.
    pub(super) order: Vec<u32>,
    /// Number of pairs of consecutive elements at the beginning of `weights` whose sums of products
    /// may be added in 16 bits: see [`add_in_16_bits`].
    pub(super) pairs: usize,
}

/// Constants for up to four blocks, whose 16 to 64 output channels the AVX-512 kernel computes
/// together.
pub(super) struct WideBlock {
    /// Index of the first output channel.
    pub(super) first: usize,
    /// [`Block::bias`] of each block.
    pub(super) bias: Vec<[i32; COLUMNS]>,
    /// [`Block::multipliers`] of each block.
    pub(super) multipliers: Vec<[f32; COLUMNS]>,
    /// Weights by four consecutive input channels, and then by block.
    pub(super) weights: Vec<Weights>,
}

impl Pointwise {
    /// Checks the parameters and reorders the constants for the kernels of `isa`. The scalar kernel is
    /// used on AVX2 if a sum of two products might exceed 16 bits; weights of 7 bits are small enough.
    ///
    /// # Errors
    /// [`KernelError::Depth`] if the number of input channels is not supported,
    /// [`KernelError::Length`] if the tensors have different numbers of channels.
    pub fn new(spec: PointwiseSpec, isa: Isa) -> Result<Self, KernelError> {
        let outputs = spec.bias.len();
        if spec.inputs == 0 || !spec.inputs.is_multiple_of(QUAD) {
            return Err(KernelError::Depth { got: spec.inputs });
        }
        check_length("bias", outputs.max(1), outputs)?;
        check_length("multipliers", outputs, spec.multipliers.len())?;
        let weights = outputs.saturating_mul(spec.inputs);
        check_length("weights", weights, spec.weights.len())?;
        let isa = isa.for_weights(pairs_fit(&spec.weights, spec.inputs));
        let blocks = (0..outputs).step_by(COLUMNS);
        let mut blocks: Vec<Block> = blocks.map(|first| Block::new(&spec, first)).collect();
        let mut wide = Vec::new();
        if isa.is_avx512() {
            wide = blocks.chunks(WIDE).map(WideBlock::new).collect();
            blocks.clear();
        } else {
            blocks.iter_mut().for_each(Block::pair);
        }
        Ok(Self {
            isa,
            inputs: spec.inputs,
            outputs,
            output_zero_point: spec.output_zero_point,
            blocks,
            wide,
            table: spec.table,
        })
    }

    /// Returns the number of input channels.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Returns the number of output channels.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Returns the number of pixels that are convolved together, given the total number of `pixels`.
    /// Always at least 1.
    pub fn panel(&self, pixels: usize) -> usize {
        let largest = (PANEL / (self.inputs + self.outputs)).max(MIN_PANEL);
        let panels = pixels.div_ceil(largest).max(1);
        let tile = if self.isa.is_avx512() {
            WIDE_TILES
        } else {
            TILE
        };
        pixels.div_ceil(panels).max(1).next_multiple_of(tile)
    }

    /// Convolves `pixels`, `[pixels, input channels] u8`, to `output`, `[pixels, output channels] u8`.
    ///
    /// # Errors
    /// [`KernelError::Length`] if `output` does not hold whole pixels, or if `pixels` does not hold
    /// as many pixels as `output`.
    pub fn run(&self, pixels: &[u8], output: &mut [u8]) -> Result<(), KernelError> {
        self.check_lengths(pixels.len(), output.len())?;
        #[cfg(target_arch = "x86_64")]
        if let Isa::Avx512(avx512) = self.isa {
            for block in self.wide.iter().rev() {
                super::pointwise_avx512::run(avx512, self, block, pixels, output);
            }
            return Ok(());
        }
        for block in &self.blocks {
            match self.isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2(avx2) => super::pointwise_avx2::run(avx2, self, block, pixels, output),
                _ => self.plain_run(block, pixels, output),
            }
        }
        if let Some(table) = &self.table {
            lookup::replace(self.isa, table, output);
        }
        Ok(())
    }

    /// Multiplies `pixels` as [`Pointwise::run`] does, and writes the sums times the multipliers to `output`,
    /// `[pixels, output channels] f32`, without rounding them. The output's zero point and the table are not used.
    ///
    /// Source: `com.microsoft` `QGemm` without an output scale.
    ///
    /// # Errors
    /// As [`Pointwise::run`].
    pub fn run_to_f32(&self, pixels: &[u8], output: &mut [f32]) -> Result<(), KernelError> {
        self.check_lengths(pixels.len(), output.len())?;
        #[cfg(target_arch = "x86_64")]
        if let Isa::Avx512(avx512) = self.isa {
            for block in &self.wide {
                super::linear_avx512::run(avx512, self, block, pixels, output);
            }
            return Ok(());
        }
        let pixels = pixels.chunks_exact(self.inputs);
        for (pixel, output) in pixels.zip(output.chunks_exact_mut(self.outputs)) {
            for (block, output) in self.blocks.iter().zip(output.chunks_mut(COLUMNS)) {
                for (column, output) in output.iter_mut().enumerate() {
                    *output = block.plain_sum(pixel, column) as f32 * block.multipliers[column];
                }
            }
        }
        Ok(())
    }

    /// Checks that `output` elements of the output are whole pixels, and `pixels` elements of the input as many pixels.
    fn check_lengths(&self, pixels: usize, output: usize) -> Result<(), KernelError> {
        let count = output / self.outputs;
        check_length("output", count * self.outputs, output)?;
        check_length("image", count * self.inputs, pixels)
    }

    /// Computes the output channels of a block element by element, without the table.
    fn plain_run(&self, block: &Block, pixels: &[u8], output: &mut [u8]) {
        let pixels = pixels.chunks_exact(self.inputs);
        for (pixel, output) in pixels.zip(output.chunks_exact_mut(self.outputs)) {
            let output = output[block.first..].iter_mut().take(COLUMNS);
            for (column, output) in output.enumerate() {
                let sum = block.plain_sum(pixel, column);
                *output = requantize(sum, block.multipliers[column], self.output_zero_point);
            }
        }
    }
}

impl Block {
    /// Returns the constants of the output channels from channel `first` on.
    fn new(spec: &PointwiseSpec, first: usize) -> Self {
        let quads = spec.inputs / QUAD;
        let mut block = Self {
            first,
            bias: [0; COLUMNS],
            multipliers: [0.0; COLUMNS],
            weights: vec![Weights([0; LANES]); quads],
            order: (0..quads as u32).collect(),
            pairs: 0,
        };
        for column in 0..COLUMNS.min(spec.bias.len() - first) {
            let channel = first + column;
            let weights = &spec.weights[channel * spec.inputs..][..spec.inputs];
            for (packed, weights) in block.weights.iter_mut().zip(weights.as_chunks::<QUAD>().0) {
                packed.0[QUAD * column..][..QUAD].copy_from_slice(weights);
            }
            // The kernel multiplies weights by input values from which the zero point was not
            // subtracted, so the bias subtracts the zero point times the sum of the weights.
            let sum: i32 = weights.iter().map(|weight| i32::from(*weight)).sum();
            let zero = i32::from(spec.input_zero_point).wrapping_mul(sum);
            block.bias[column] = spec.bias[channel].wrapping_sub(zero);
            block.multipliers[column] = spec.multipliers[channel];
        }
        block
    }

    /// Returns the sum of a pixel for the output channel at `column`.
    fn plain_sum(&self, pixel: &[u8], column: usize) -> i32 {
        let mut sum = self.bias[column];
        let values = pixel.as_chunks::<QUAD>().0;
        for (quad, weights) in self.order.iter().zip(&self.weights) {
            let (values, weights) = (&values[*quad as usize], &weights.0[QUAD * column..][..QUAD]);
            for (value, weight) in values.iter().zip(weights) {
                sum = sum.wrapping_add(i32::from(*value) * i32::from(*weight));
            }
        }
        sum
    }

    /// Moves weights that can be added in 16 bits to the beginning, each next to its partner.
    fn pair(&mut self) {
        let (mut paired, mut single) = (Vec::new(), Vec::new());
        let mut open: VecDeque<u32> = self.order.iter().copied().collect();
        while let Some(first) = open.pop_front() {
            let weights = |quad: u32| &self.weights[quad as usize];
            let mut candidates = open.iter().take(CANDIDATES);
            let partner =
                candidates.position(|quad| add_in_16_bits(weights(first), weights(*quad)));
            match partner.and_then(|index| open.remove(index)) {
                Some(second) => paired.extend([first, second]),
                None => single.push(first),
            }
        }
        self.pairs = paired.len() / 2;
        paired.extend(single);
        let weights = paired.iter().map(|quad| self.weights[*quad as usize]);
        self.weights = weights.collect();
        self.order = paired;
    }
}

impl WideBlock {
    /// Joins up to four consecutive blocks whose weights were not paired.
    fn new(blocks: &[Block]) -> Self {
        let quads = blocks.first().map_or(0, |block| block.weights.len());
        let weights =
            (0..quads).flat_map(|quad| blocks.iter().map(move |block| block.weights[quad]));
        Self {
            first: blocks.first().map_or(0, |block| block.first),
            bias: blocks.iter().map(|block| block.bias).collect(),
            multipliers: blocks.iter().map(|block| block.multipliers).collect(),
            weights: weights.collect(),
        }
    }
}

/// Returns whether no sum of the products of uint8 values with the first two weights of a channel in
/// `a` and its first two weights in `b` exceeds 16 bits, and likewise the last two. AVX2 computes sums
/// of two products in 16 bits; if this function returns `true`, two of these sums can be added before
/// they are extended to 32 bits.
fn add_in_16_bits(a: &Weights, b: &Weights) -> bool {
    let pairs = a.0.as_chunks::<2>().0.iter().zip(b.0.as_chunks::<2>().0);
    pairs.into_iter().all(|(a, b)| {
        let weights = || a.iter().chain(b).map(|weight| 255 * i32::from(*weight));
        let most: i32 = weights().map(|product| product.max(0)).sum();
        let least: i32 = weights().map(|product| product.min(0)).sum();
        most <= i16::MAX.into() && least >= i16::MIN.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::uniform;

    /// Returns an endless iterator of pseudo-random integers of 24 bits that depend on `seed` alone.
    fn noise(seed: u64) -> impl Iterator<Item = u32> {
        uniform(seed).map(|value| ((value + 1.0) * 8_388_607.0) as u32)
    }

    fn spec(inputs: usize, outputs: usize) -> PointwiseSpec {
        let mut values = noise((inputs * 1000 + outputs) as u64);
        let mut next = || values.next().unwrap();
        PointwiseSpec {
            inputs,
            input_zero_point: next() as u8,
            output_zero_point: next() as u8,
            // Weights of 8 bits, 7 bits or 6 bits, so that no, some or all weights can be paired.
            weights: (0..inputs * outputs)
                .map(|_| next() as i8 / [1, 2, 4][inputs / 4 % 3])
                .collect(),
            bias: (0..outputs)
                .map(|_| next() as i32 % 20_000 - 10_000)
                .collect(),
            // Some of the results saturate at either end.
            multipliers: (0..outputs)
                .map(|_| (next() % 1000) as f32 * 2e-5)
                .collect(),
            table: outputs
                .is_multiple_of(3)
                .then(|| Box::new(std::array::from_fn(|_| next() as u8))),
        }
    }

    /// Returns the sums of all pixels and output channels, with the bias.
    fn sums(spec: &PointwiseSpec, pixels: &[u8]) -> impl Iterator<Item = i32> {
        let channels = || spec.weights.chunks(spec.inputs).zip(&spec.bias);
        pixels.chunks(spec.inputs).flat_map(move |pixel| {
            channels().map(move |(weights, bias)| {
                let products = pixel.iter().zip(weights).map(|(value, weight)| {
                    (i32::from(*value) - i32::from(spec.input_zero_point)) * i32::from(*weight)
                });
                bias + products.sum::<i32>()
            })
        })
    }

    /// Convolves `pixels` as ONNX `QLinearConv` defines it.
    fn reference(spec: &PointwiseSpec, pixels: &[u8]) -> Vec<u8> {
        let results = sums(spec, pixels).zip(spec.multipliers.iter().cycle());
        let results = results.map(|(sum, multiplier)| {
            let scaled = (sum as f32 * multiplier).round_ties_even() as i64;
            let result = (scaled + i64::from(spec.output_zero_point)).clamp(0, 255) as u8;
            let table = spec.table.as_ref();
            table.map_or(result, |table| table[usize::from(result)])
        });
        results.collect()
    }

    #[test]
    fn every_instruction_set_equals_the_definition() {
        for inputs in [4, 8, 12, 16, 20, 36, 100] {
            for outputs in [
                1, 2, 7, 8, 15, 16, 17, 24, 32, 40, 48, 49, 72, 80, 112, 120, 160, 184,
            ] {
                let spec = spec(inputs, outputs);
                for count in [0, 1, 2, 3, 4, 5, 7, 13, 15, 16, 29, 49, 64, 71, 72, 80] {
                    let pixels = noise(count as u64).map(|value| value as u8);
                    let pixels: Vec<u8> = pixels.take(count * inputs).collect();
                    let expected = reference(&spec, &pixels);
                    for isa in Isa::available() {
                        let layer = Pointwise::new(spec.clone(), isa).unwrap();
                        let mut output = vec![0; count * outputs];
                        layer.run(&pixels, &mut output).unwrap();
                        let case = format!("{isa:?}: {count} pixels, {inputs} to {outputs}");
                        assert!(output == expected, "{case}");
                    }
                }
            }
        }
    }

    #[test]
    fn results_in_fp32_equal_the_definition() {
        for (inputs, outputs) in [(4, 1), (20, 16), (36, 40), (100, 112), (960, 72), (8, 96)] {
            let spec = spec(inputs, outputs);
            for count in [0, 1, 2, 3, 4, 5, 7, 9] {
                let pixels: Vec<u8> = noise(9)
                    .map(|value| value as u8)
                    .take(count * inputs)
                    .collect();
                let expected: Vec<u32> = sums(&spec, &pixels)
                    .zip(spec.multipliers.iter().cycle())
                    .map(|(sum, multiplier)| (sum as f32 * multiplier).to_bits())
                    .collect();
                for isa in Isa::available() {
                    let layer = Pointwise::new(spec.clone(), isa).unwrap();
                    let mut output = vec![0.0; count * outputs];
                    layer.run_to_f32(&pixels, &mut output).unwrap();
                    let got: Vec<u32> = output.iter().map(|value| value.to_bits()).collect();
                    assert!(
                        got == expected,
                        "{isa:?}: {count} pixels, {inputs} to {outputs}"
                    );
                }
            }
        }
    }

    #[test]
    fn largest_and_smallest_values_are_exact() {
        let extremes = [127, 64, 32, -32, -64, -128];
        for (value, weight) in extremes.into_iter().flat_map(|w| [(255, w), (0, w)]) {
            let mut spec = spec(960, 48);
            spec.input_zero_point = 255 - value;
            spec.weights.fill(weight);
            spec.multipliers.fill(1e-6);
            let pixels = vec![value; 960 * 14];
            let expected = reference(&spec, &pixels);
            for isa in Isa::available() {
                let layer = Pointwise::new(spec.clone(), isa).unwrap();
                let mut output = vec![0; 48 * 14];
                layer.run(&pixels, &mut output).unwrap();
                assert!(output == expected, "{isa:?}: {value} times {weight}");
            }
        }
    }

    #[test]
    fn parameters_and_buffers_of_other_sizes_are_rejected() {
        type Change = fn(&mut PointwiseSpec);
        let changes: [(Change, &str); 6] = [
            (|spec| spec.inputs = 0, "a positive multiple of 4, got 0"),
            (|spec| spec.inputs = 6, "a positive multiple of 4, got 6"),
            (|spec| spec.inputs = usize::MAX - 3, "`weights` must have"),
            (|spec| spec.bias.clear(), "`bias` must have 1 elements"),
            (|spec| spec.weights.push(0), "128 elements, got 129"),
            (|spec| spec.multipliers.truncate(1), "16 elements, got 1"),
        ];
        for (change, expected) in changes {
            let mut changed = spec(8, 16);
            change(&mut changed);
            let error = Pointwise::new(changed, Isa::Scalar).err().unwrap();
            assert!(error.to_string().contains(expected), "{expected}: {error}");
        }
        let layer = Pointwise::new(spec(8, 16), Isa::detect()).unwrap();
        assert!(layer.run(&[0; 16], &mut [0; 32]).is_ok());
        assert!(layer.run(&[0; 16], &mut [0; 33]).is_err());
        assert!(layer.run(&[0; 17], &mut [0; 32]).is_err());
        assert!(layer.run(&[0; 8], &mut [0; 32]).is_err());
        assert!(layer.run_to_f32(&[0; 16], &mut [0.0; 32]).is_ok());
        assert!(layer.run_to_f32(&[0; 16], &mut [0.0; 33]).is_err());
        assert!(layer.run_to_f32(&[0; 17], &mut [0.0; 32]).is_err());
    }

    #[test]
    fn panels_divide_the_pixels_evenly() {
        let layer = Pointwise::new(spec(40, 112), Isa::Scalar).unwrap();
        for (pixels, expected) in [(0, 4), (1, 4), (49, 52), (196, 100), (12_544, 164)] {
            assert_eq!(layer.panel(pixels), expected, "{pixels} pixels");
        }
        for isa in Isa::available() {
            let layer = Pointwise::new(spec(40, 112), isa).unwrap();
            let tile = if isa.is_avx512() { WIDE_TILES } else { TILE };
            assert!(layer.panel(49).is_multiple_of(tile), "{isa:?}");
        }
    }
}
