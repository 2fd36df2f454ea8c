//! Depthwise convolutions of 8-bit numbers.

use thiserror::Error;

use super::rows::Rows;
use super::{LANES, QUAD};

/// Largest side, step and dilation of a window.
const MAX_SIZE: usize = 16;
/// Widest padding.
const MAX_PAD: usize = 256;

/// What makes a depthwise convolution. Sizes are `[height, width]`.
///
/// Its sums are to stay within 31 bits, also in steps of the output: `onnx_export::lower` sees to it.
#[derive(Debug, Clone)]
pub struct DepthwiseSpec {
    /// Size of the window.
    pub kernel: [usize; 2],
    /// Steps of the window.
    pub strides: [usize; 2],
    /// Padding above, left, below, right.
    pub pads: [usize; 4],
    /// Instead of `pads`: as much as one output for every stride takes, half of it, or the smaller half, in
    /// front. Source: ONNX `auto_pad` `SAME_UPPER`.
    pub same_upper: bool,
    /// Distance of the taps.
    pub dilations: [usize; 2],
    /// The input's zero point: what padding is made of.
    pub input_zero: u8,
    /// The output's zero point.
    pub output_zero: u8,
    /// `[C, kernel height, kernel width]`, without zero points.
    pub weights: Vec<i8>,
    /// `[C]`, in steps of input scale times weight scale.
    pub bias: Vec<i32>,
    /// `[C]`: input scale times weight scale over output scale.
    pub multipliers: Vec<f32>,
    /// What becomes of each number of the result.
    pub table: Option<Box<[u8; 256]>>,
}

/// A convolution that cannot be computed, or a picture that does not fit it.
#[derive(Debug, Error)]
#[error("depthwise convolution: {0}")]
pub struct DepthwiseError(&'static str);

/// A depthwise convolution, its weights in the order in which they are read:
/// `[N, H, W, C] u8` in and out. Source: ONNX `QLinearConv` with as many groups as channels.
pub struct Depthwise {
    pub(super) channels: usize,
    pub(super) kernel: [usize; 2],
    pub(super) strides: [usize; 2],
    pads: [usize; 4],
    same_upper: bool,
    pub(super) dilations: [usize; 2],
    pub(super) input_zero: u8,
    pub(super) output_zero: u8,
    /// A row of output is cut into vectors of 64 numbers; vector `i` has the channels of phase `i % phases`.
    pub(super) phases: Vec<Phase>,
    pub(super) table: Option<Box<[u8; 256]>>,
}

/// The constants of the channels in one vector, in the order in which bytes of four taps are interleaved:
/// part `k` has, of each group of sixteen numbers, those from `4 k` to `4 k + 3`.
pub(super) struct Phase {
    pub(super) bias: [[i32; 16]; 4],
    pub(super) multipliers: [[f32; 16]; 4],
    /// For every four taps.
    pub(super) weights: Vec<[[i8; LANES]; 4]>,
}

/// Memory that a convolution uses again and again.
#[derive(Default)]
pub struct Scratch {
    rows: Option<(usize, Rows)>,
    last_row: Vec<[u8; LANES]>,
}

impl Depthwise {
    /// Puts the constants in order.
    ///
    /// # Errors
    /// [`DepthwiseError`] if they do not fit each other.
    pub fn new(spec: DepthwiseSpec) -> Result<Self, DepthwiseError> {
        let channels = spec.bias.len();
        let taps = spec.kernel[0] * spec.kernel[1];
        let sizes = [spec.kernel, spec.strides, spec.dilations].concat();
        let out_of_bounds = |size: &usize| !(1..=MAX_SIZE).contains(size);
        if channels == 0
            || sizes.iter().any(out_of_bounds)
            || spec.pads.iter().any(|pad| *pad > MAX_PAD)
        {
            return Err(DepthwiseError("a window of unusual size"));
        }
        if spec.multipliers.len() != channels || spec.weights.len() != channels * taps {
            return Err(DepthwiseError("constants of different numbers of channels"));
        }
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
            input_zero: spec.input_zero,
            output_zero: spec.output_zero,
            table: spec.table,
        })
    }

    /// Channels of the input and of the output.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Height and width of the output for an input of `height` x `width`; nothing where the window does not
    /// fit in.
    pub fn output_size(&self, [height, width]: [usize; 2]) -> Option<[usize; 2]> {
        Some([self.windows(0, height)?, self.windows(1, width)?])
    }

    /// How many windows there are along an axis.
    pub(super) fn windows(&self, axis: usize, size: usize) -> Option<usize> {
        if self.same_upper {
            return Some(size.div_ceil(self.strides[axis]));
        }
        let padded = size + self.pads[axis] + self.pads[axis + 2];
        Some(padded.checked_sub(self.span(axis))? / self.strides[axis] + 1)
    }

    /// The padding before the first pixel along an axis.
    pub(super) fn pad_before(&self, axis: usize, size: usize) -> usize {
        if !self.same_upper {
            return self.pads[axis];
        }
        let windows = size.div_ceil(self.strides[axis]);
        let last = windows.saturating_sub(1) * self.strides[axis];
        (last + self.span(axis)).saturating_sub(size) / 2
    }

    /// Pixels from the first tap to the last.
    fn span(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilations[axis] + 1
    }

    /// Computes rows of the output, from row `first` on and as many as `output` has room for, `[rows, W, C]`.
    ///
    /// # Errors
    /// [`DepthwiseError`] if `picture` is not `[H, W, C]`, or there are no such rows.
    pub fn run(
        &self,
        picture: &[u8],
        [height, width]: [usize; 2],
        first: usize,
        output: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<(), DepthwiseError> {
        let size = self.output_size([height, width]);
        let [output_height, output_width] =
            size.ok_or(DepthwiseError("the window does not fit in"))?;
        let length = output_width * self.channels;
        if picture.len() != height * width * self.channels
            || length == 0
            || !output.len().is_multiple_of(length)
            || first + output.len() / length > output_height
        {
            return Err(DepthwiseError("a picture of another size"));
        }
        let rows = scratch.rows.take().filter(|(known, _)| *known == width);
        let mut rows = rows.map_or_else(|| Rows::new(self, width), |(_, rows)| rows);
        rows.forget();
        let vectors = length.div_ceil(LANES);
        scratch.last_row.resize(vectors, [0; LANES]);
        for index in 0..output.len() / length {
            let taps = self.taps(&mut rows, picture, [height, width], first + index);
            // Whole vectors: what they write beyond the row, the next row overwrites.
            let start = index * length;
            if start + vectors * LANES <= output.len() {
                let row = output[start..].as_chunks_mut().0;
                self.row(&taps, &mut row[..vectors]);
            } else {
                self.row(&taps, &mut scratch.last_row);
                let row = scratch.last_row.as_flattened();
                output[start..][..length].copy_from_slice(&row[..length]);
            }
        }
        scratch.rows = Some((width, rows));
        Ok(())
    }

    /// For output row `y`, what every tap reads; as many taps as are multiplied, those without weight too.
    pub(super) fn taps<'r>(
        &self,
        rows: &'r mut Rows,
        picture: &[u8],
        [height, width]: [usize; 2],
        y: usize,
    ) -> Vec<&'r [[u8; LANES]]> {
        let above = self.pad_before(0, height);
        let starts: Vec<usize> = (0..self.kernel[0])
            .map(|tap| {
                let padded = y * self.strides[0] + tap * self.dilations[0];
                let row = padded.checked_sub(above).filter(|row| *row < height);
                rows.hold(self, picture, width, row)
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

    /// The same, number by number: what a CPU without AVX-512 would do, which is not given any, and to compare
    /// with.
    pub(super) fn plain_row(&self, taps: &[&[[u8; LANES]]], output: &mut [[u8; LANES]]) {
        let zero = f32::from(self.output_zero);
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
                let scaled = (sum as f32 * phase.multipliers[part][place]).round_ties_even();
                let number = (scaled + zero).clamp(0.0, 255.0) as u8;
                *output = self
                    .table
                    .as_ref()
                    .map_or(number, |table| table[usize::from(number)]);
            }
        }
    }
}

/// Of number `lane` in a vector, the part that it is in and its place there.
fn place(lane: usize) -> (usize, usize) {
    (lane % 16 / 4, lane / 16 * 4 + lane % 4)
}

impl Phase {
    /// Of the vector whose first number is of channel `first`, or that many beyond the last.
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
            // The zero point of the input, which every tap has in it, is taken away once.
            let sum: i32 = weights.iter().map(|weight| i32::from(*weight)).sum();
            let zero = i32::from(spec.input_zero).wrapping_mul(sum);
            phase.bias[part][place] = spec.bias[channel].wrapping_sub(zero);
            phase.multipliers[part][place] = spec.multipliers[channel];
        }
        phase
    }
}

/// Greatest common divisor.
fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
