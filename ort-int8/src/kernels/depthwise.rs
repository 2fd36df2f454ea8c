//! Depthwise convolutions of uint8 images.

#[cfg(target_arch = "x86_64")]
use super::blocked::{self, Columns};
use super::error::{KernelError, check_length};
use super::isa::Isa;
use super::phase::{Order, Phase};
use super::requantize::{pairs_fit, requantize};
use super::rows::Rows;
use super::spec::DepthwiseSpec;
#[cfg(target_arch = "x86_64")]
use super::stacked::{self, Stack};
use super::{LANES, QUAD};

/// One uint8 image, channels last.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// Elements `[height, width, C]`.
    pub data: &'a [u8],
    /// Number of rows of pixels.
    pub height: usize,
    /// Number of pixels in a row.
    pub width: usize,
}

/// A depthwise convolution of `[H, W, C] u8` images. The weights, biases and multipliers are stored
/// in the order in which the kernel reads them.
///
/// Source: ONNX `QLinearConv` with as many groups as channels.
pub struct Depthwise {
    isa: Isa,
    order: Order,
    pub(super) channels: usize,
    pub(super) kernel: [usize; 2],
    pub(super) strides: [usize; 2],
    pads: [usize; 4],
    same_upper: bool,
    pub(super) dilations: [usize; 2],
    pub(super) input_zero_point: u8,
    pub(super) output_zero_point: u8,
    /// Bias, multipliers and weights for each element of a vector. The kernel processes an output
    /// row, `[W, C]`, in vectors of 64 elements, so vector `i` begins at channel `64 * i % C` of
    /// some pixel. The first channel repeats after `phases.len()` vectors: vector `i` uses phase
    /// `i % phases.len()`. With [`Order::Stacked`] and [`Order::Blocked`], there is a phase for each block of
    /// 64 channels.
    pub(super) phases: Vec<Phase>,
    pub(super) table: Option<Box<[u8; 256]>>,
}

/// Buffers that a convolution reuses in its next call. Each convolution needs its own.
#[derive(Default)]
pub struct Scratch {
    /// `None` before the first call, and with an order other than [`Order::Interleaved`].
    input: Option<Input>,
    last_row: Vec<[u8; LANES]>,
    /// Empty unless the order is [`Order::Blocked`].
    #[cfg(target_arch = "x86_64")]
    columns: Columns,
    /// Empty unless the order is [`Order::Stacked`].
    #[cfg(target_arch = "x86_64")]
    stack: Stack,
}

/// The padded rows of an input image.
struct Input {
    /// Width in pixels of the images for which the rows were allocated.
    width: usize,
    rows: Rows,
}

impl Depthwise {
    /// Checks the parameters and reorders the constants for the kernels of `isa`. The scalar kernel
    /// is used on AVX2 if a sum of two products might exceed 16 bits; weights of 7 bits are small
    /// enough.
    ///
    /// # Errors
    /// [`KernelError::Window`] if a size, stride, padding or dilation is out of range,
    /// [`KernelError::Length`] if the tensors have different numbers of channels.
    pub fn new(spec: DepthwiseSpec, isa: Isa) -> Result<Self, KernelError> {
        spec.check()?;
        let isa = isa.for_weights(pairs_fit(&spec.weights, spec.kernel[0] * spec.kernel[1]));
        let channels = spec.bias.len();
        let order = Order::of(&spec, isa);
        let phases = order.first_channels(channels).into_iter();
        let phases = phases.map(|first| Phase::new(&spec, order, first));
        Ok(Self {
            isa,
            order,
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

    /// Returns `[height, width]` of the output, in pixels, for an input of `height` x `width`
    /// pixels. `None` if the dilated kernel does not fit into the padded input.
    pub fn output_size(&self, [height, width]: [usize; 2]) -> Option<[usize; 2]> {
        Some([self.windows(0, height)?, self.windows(1, width)?])
    }

    /// Returns the number of output pixels along `axis` (0: height, 1: width) for an image of
    /// `size` pixels along it. `None` if the dilated kernel does not fit into the padded image.
    pub(super) fn windows(&self, axis: usize, size: usize) -> Option<usize> {
        if self.same_upper {
            return Some(size.div_ceil(self.strides[axis]));
        }
        let padded = size + self.pads[axis] + self.pads[axis + 2];
        Some(padded.checked_sub(self.span(axis))? / self.strides[axis] + 1)
    }

    /// Returns the number of padding pixels before the first pixel along `axis` (0: height, 1:
    /// width) of an image of `size` pixels along it.
    pub(super) fn pad_before(&self, axis: usize, size: usize) -> usize {
        if !self.same_upper {
            return self.pads[axis];
        }
        let windows = size.div_ceil(self.strides[axis]);
        let last = windows.saturating_sub(1) * self.strides[axis];
        (last + self.span(axis)).saturating_sub(size) / 2
    }

    /// Returns the number of pixels that the dilated kernel spans along `axis` (0: height, 1:
    /// width).
    fn span(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilations[axis] + 1
    }

    /// Computes output rows of one image, from row `first_row` on, and writes them to `output`,
    /// `[rows, W, C] u8`. The length of `output` determines the number of rows.
    ///
    /// # Errors
    /// [`KernelError`] if `image.data` has another length than the size of `image` requires, if the
    /// dilated kernel does not fit into the padded `image`, or if `output` does not hold whole rows
    /// that exist in the image's output.
    pub fn run(
        &self,
        image: Image<'_>,
        first_row: usize,
        output: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<(), KernelError> {
        let row = self.check_image(image, first_row, output.len())?;
        #[cfg(target_arch = "x86_64")]
        if let (Isa::Avx512(avx512), Order::Blocked) = (self.isa, self.order) {
            let columns = &mut scratch.columns;
            blocked::run(avx512, self, image, (first_row, row), output, columns);
            return Ok(());
        }
        #[cfg(target_arch = "x86_64")]
        if let (Isa::Avx512(avx512), Order::Stacked) = (self.isa, self.order) {
            let stack = &mut scratch.stack;
            stacked::run(avx512, self, image, (first_row, row), output, stack);
            return Ok(());
        }
        let input = scratch.input.take();
        let input = input.filter(|input| input.width == image.width);
        let mut input = input.unwrap_or_else(|| Input::new(self, image.width));
        input.clear();
        let vectors = row.div_ceil(LANES);
        scratch.last_row.resize(vectors, [0; LANES]);
        for index in 0..output.len() / row {
            let y = first_row + index;
            // The kernel writes whole vectors, so it may write beyond the end of a row. There it
            // overwrites the next row, which is computed afterwards. If it would write beyond
            // `output`, it writes to `last_row` and the row is copied.
            let start = index * row;
            if start + vectors * LANES <= output.len() {
                let vectors_from_start = output[start..].as_chunks_mut().0;
                self.row(&mut input, image, y, &mut vectors_from_start[..vectors]);
            } else {
                self.row(&mut input, image, y, &mut scratch.last_row);
                let last_row = scratch.last_row.as_flattened();
                output[start..][..row].copy_from_slice(&last_row[..row]);
            }
        }
        scratch.input = Some(input);
        Ok(())
    }

    /// Returns the number of elements of an output row.
    ///
    /// # Errors
    /// [`KernelError`] if `image` is incomplete or too small, or if `output_len` elements from row
    /// `first_row` on are not whole rows of the image's output.
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

    /// Returns, for each tap of the kernel, the input bytes that the weights of the tap multiply in
    /// output row `y`, cut into vectors of 64 bytes in the order of the output's elements. Copies
    /// of the first tap pad the list to a multiple of four taps; their weights are 0.
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

    /// Computes output row `y`, in whole vectors.
    fn row(&self, input: &mut Input, image: Image<'_>, y: usize, output: &mut [[u8; LANES]]) {
        let taps = &self.taps(&mut input.rows, image, y);
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(avx512) => super::depthwise_avx512::row(avx512, self, taps, output),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(avx2) => super::depthwise_avx2::row(avx2, self, taps, output),
            Isa::Scalar => self.plain_row(taps, output),
        }
    }

    /// Computes an output row element by element, on CPUs without AVX2 and in tests.
    pub(super) fn plain_row(&self, taps: &[&[[u8; LANES]]], output: &mut [[u8; LANES]]) {
        for (index, output) in output.iter_mut().enumerate() {
            let phase = &self.phases[index % self.phases.len()];
            for (lane, output) in output.iter_mut().enumerate() {
                let (part, place) = self.order.place(lane);
                let mut sum = phase.bias[part][place];
                for (quad, taps) in phase.weights.iter().zip(taps.as_chunks::<QUAD>().0) {
                    for (tap, pixels) in taps.iter().enumerate() {
                        let weight = quad[part].0[QUAD * place + tap];
                        let product = i32::from(pixels[index][lane]) * i32::from(weight);
                        sum = sum.wrapping_add(product);
                    }
                }
                let multiplier = phase.multipliers[part][place];
                let result = requantize(sum, multiplier, self.output_zero_point);
                let table = self.table.as_ref();
                *output = table.map_or(result, |table| table[usize::from(result)]);
            }
        }
    }
}

impl Input {
    /// Allocates the rows for images of `width` pixels.
    fn new(layer: &Depthwise, width: usize) -> Self {
        Self {
            width,
            rows: Rows::new(layer, width),
        }
    }

    /// Removes all rows, before those of another image are loaded.
    fn clear(&mut self) {
        self.rows.clear();
    }
}
