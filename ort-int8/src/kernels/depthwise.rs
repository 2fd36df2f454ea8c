//! Depthwise convolutions of uint8 images.

use super::error::KernelError;
use super::rows::Rows;
use super::spec::{DepthwiseSpec, check_length};
use super::{LANES, QUAD};

/// One uint8 image, channels last.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// Elements `[height, width, C]`.
    pub data: &'a [u8],
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// A depthwise convolution of `[H, W, C] u8` images. Its constants are in the order in which the kernel reads them.
///
/// Source: ONNX `QLinearConv` with as many groups as channels.
pub struct Depthwise {
    pub(super) channels: usize,
    pub(super) kernel: [usize; 2],
    pub(super) strides: [usize; 2],
    pads: [usize; 4],
    same_upper: bool,
    pub(super) dilations: [usize; 2],
    pub(super) input_zero_point: u8,
    pub(super) output_zero_point: u8,
    /// Bias, multipliers and weights for the vectors of an output row. The row is cut into vectors of 64 elements, and
    /// the channels of the vectors repeat after `phases.len()` vectors: vector `i` uses phase `i % phases.len()`.
    pub(super) phases: Vec<Phase>,
    pub(super) table: Option<Box<[u8; 256]>>,
}

/// Constants of the channels in one vector, in four parts: part `k` holds elements `4 k` to `4 k + 3` of each group of
/// sixteen. This is the order of the sums after the bytes of four taps have been interleaved.
pub(super) struct Phase {
    pub(super) bias: [[i32; 16]; 4],
    pub(super) multipliers: [[f32; 16]; 4],
    /// Weights of each four consecutive taps, in the four parts.
    pub(super) weights: Vec<[[i8; LANES]; 4]>,
}

/// Buffers that a convolution reuses from call to call.
#[derive(Default)]
pub struct Scratch {
    /// Padded input rows, and the image width that they were allocated for.
    rows: Option<(usize, Rows)>,
    last_row: Vec<[u8; LANES]>,
}

impl Depthwise {
    /// Checks the parameters and reorders the constants for the kernel.
    ///
    /// # Errors
    /// [`KernelError::Window`] if a size is out of range, [`KernelError::Length`] if the tensors have different
    /// numbers of channels.
    pub fn new(spec: DepthwiseSpec) -> Result<Self, KernelError> {
        spec.check()?;
        let channels = spec.bias.len();
        let count = channels / gcd(channels, LANES);
        let phases = (0..count).map(|index| Phase::new(&spec, index * LANES));
        Ok(Self {
            channels,
            phases: phases.collect(),
            kernel: spec.kernel,
            strides: spec.strides,
            pads: spec.pads,
            same_upper: spec.same_upper,
            dilations: spec.dilations,
            input_zero_point: spec.input_zero_point,
            output_zero_point: spec.output_zero_point,
            table: spec.table,
        })
    }

    /// Returns the number of channels, which input and output share.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Returns `[height, width]` of the output for an input of `height` x `width`. `None` if the window does not fit
    /// into the padded input.
    pub fn output_size(&self, [height, width]: [usize; 2]) -> Option<[usize; 2]> {
        Some([self.windows(0, height)?, self.windows(1, width)?])
    }

    /// Returns the number of window positions along `axis` (0: height, 1: width) in an image of `size` pixels. `None`
    /// if the window does not fit into the padded image.
    pub(super) fn windows(&self, axis: usize, size: usize) -> Option<usize> {
        if self.same_upper {
            return Some(size.div_ceil(self.strides[axis]));
        }
        let padded = size + self.pads[axis] + self.pads[axis + 2];
        Some(padded.checked_sub(self.span(axis))? / self.strides[axis] + 1)
    }

    /// Returns the number of padding pixels before the first pixel along `axis` in an image of `size` pixels.
    pub(super) fn pad_before(&self, axis: usize, size: usize) -> usize {
        if !self.same_upper {
            return self.pads[axis];
        }
        let windows = size.div_ceil(self.strides[axis]);
        let last = windows.saturating_sub(1) * self.strides[axis];
        (last + self.span(axis)).saturating_sub(size) / 2
    }

    /// Returns the number of pixels that the dilated kernel spans along `axis`.
    fn span(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilations[axis] + 1
    }

    /// Computes the rows of one image's output from `first_row` on that fit into `output`, `[rows, W, C]`.
    ///
    /// # Errors
    /// [`KernelError`] if `image` has another number of elements than its size requires or is smaller than the dilated
    /// kernel, or if `output` is not a number of whole rows that exist in the output.
    pub fn run(
        &self,
        image: Image<'_>,
        first_row: usize,
        output: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<(), KernelError> {
        let row = self.check_image(image, first_row, output.len())?;
        let width = image.width;
        let rows = scratch.rows.take().filter(|(known, _)| *known == width);
        let mut rows = rows.map_or_else(|| Rows::new(self, width), |(_, rows)| rows);
        rows.clear();
        let vectors = row.div_ceil(LANES);
        scratch.last_row.resize(vectors, [0; LANES]);
        for index in 0..output.len() / row {
            let taps = self.taps(&mut rows, image, first_row + index);
            // The kernel writes whole vectors. What it writes behind the row is overwritten by the next row; where
            // that would be beyond the output, the row goes through a buffer.
            let start = index * row;
            if start + vectors * LANES <= output.len() {
                let vectors_from_start = output[start..].as_chunks_mut().0;
                self.row(&taps, &mut vectors_from_start[..vectors]);
            } else {
                self.row(&taps, &mut scratch.last_row);
                let last_row = scratch.last_row.as_flattened();
                output[start..][..row].copy_from_slice(&last_row[..row]);
            }
        }
        scratch.rows = Some((width, rows));
        Ok(())
    }

    /// Checks that `image` is complete and that its output has the requested rows; returns the number of elements of an
    /// output row.
    fn check_image(
        &self,
        image: Image<'_>,
        first_row: usize,
        output_len: usize,
    ) -> Result<usize, KernelError> {
        let Image {
            data,
            height,
            width,
        } = image;
        check_length("image", height * width * self.channels, data.len())?;
        let size = self.output_size([height, width]);
        let [rows, columns] = size.ok_or(KernelError::SmallImage { height, width })?;
        let row = columns * self.channels;
        let is_whole = row > 0 && output_len.is_multiple_of(row);
        if is_whole && first_row + output_len / row <= rows {
            return Ok(row);
        }
        Err(KernelError::OutputRows {
            first_row,
            got: output_len,
            row,
            rows,
        })
    }

    /// Returns, for each tap, the input bytes that it multiplies for output row `y`, cut into vectors. The number of
    /// taps is padded to a multiple of four; the weights of the added taps are 0.
    pub(super) fn taps<'r>(
        &self,
        rows: &'r mut Rows,
        image: Image<'_>,
        y: usize,
    ) -> Vec<&'r [[u8; LANES]]> {
        let above = self.pad_before(0, image.height);
        let starts: Vec<usize> = (0..self.kernel[0])
            .map(|tap| {
                let padded = y * self.strides[0] + tap * self.dilations[0];
                let row = padded.checked_sub(above);
                rows.load(self, image, row.filter(|row| *row < image.height))
            })
            .collect();
        let rows = &*rows;
        let tap = |start: usize, x: usize| rows.tap(self, start, x).as_chunks().0;
        let mut taps: Vec<_> = starts
            .iter()
            .flat_map(|start| (0..self.kernel[1]).map(|x| tap(*start, x)))
            .collect();
        let spare = taps[0];
        taps.resize(taps.len().next_multiple_of(QUAD), spare);
        taps
    }

    fn row(&self, taps: &[&[[u8; LANES]]], output: &mut [[u8; LANES]]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = fearless_simd::Level::new().as_avx512() {
            super::depthwise_avx512::row(avx512, self, taps, output);
            return;
        }
        self.plain_row(taps, output);
    }

    /// Computes an output row element by element: for CPUs without AVX-512, and as a reference for tests.
    pub(super) fn plain_row(&self, taps: &[&[[u8; LANES]]], output: &mut [[u8; LANES]]) {
        for (index, output) in output.iter_mut().enumerate() {
            let phase = &self.phases[index % self.phases.len()];
            for (lane, output) in output.iter_mut().enumerate() {
                let (part, place) = place(lane);
                let mut sum = phase.bias[part][place];
                for (quad, taps) in phase.weights.iter().zip(taps.as_chunks::<QUAD>().0) {
                    for (tap, pixels) in taps.iter().enumerate() {
                        let weight = quad[part][QUAD * place + tap];
                        let product = i32::from(pixels[index][lane]) * i32::from(weight);
                        sum = sum.wrapping_add(product);
                    }
                }
                let result = self.requantize(sum, phase.multipliers[part][place]);
                let table = self.table.as_ref();
                *output = table.map_or(result, |table| table[usize::from(result)]);
            }
        }
    }

    fn requantize(&self, sum: i32, multiplier: f32) -> u8 {
        let scaled = (sum as f32 * multiplier).round_ties_even();
        (scaled + f32::from(self.output_zero_point)).clamp(0.0, 255.0) as u8
    }
}

/// Returns the part of a [`Phase`] that holds element `lane` of a vector, and the index in that part.
fn place(lane: usize) -> (usize, usize) {
    (lane % 16 / 4, lane / 16 * 4 + lane % 4)
}

impl Phase {
    /// Returns the constants of a vector whose first element belongs to channel `first`, counted without wrapping.
    fn new(spec: &DepthwiseSpec, first: usize) -> Self {
        let channels = spec.bias.len();
        let taps = spec.kernel[0] * spec.kernel[1];
        let mut phase = Self {
            bias: [[0; 16]; 4],
            multipliers: [[0.0; 16]; 4],
            weights: vec![[[0; LANES]; 4]; taps.div_ceil(QUAD)],
        };
        for lane in 0..LANES {
            let (part, place) = place(lane);
            let channel = (first + lane) % channels;
            let weights = &spec.weights[channel * taps..][..taps];
            for (tap, weight) in weights.iter().enumerate() {
                phase.weights[tap / QUAD][part][QUAD * place + tap % QUAD] = *weight;
            }
            // A product includes the input's zero point times the weight. The bias subtracts these terms for all taps.
            let sum: i32 = weights.iter().map(|weight| i32::from(*weight)).sum();
            let zero = i32::from(spec.input_zero_point).wrapping_mul(sum);
            phase.bias[part][place] = spec.bias[channel].wrapping_sub(zero);
            phase.multipliers[part][place] = spec.multipliers[channel];
        }
        phase
    }
}

/// Returns the greatest common divisor.
fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
