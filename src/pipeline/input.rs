//! The two forms in which an image enters the pipeline: a compressed file or a ready tensor.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use image::RgbImage;

use super::postprocess::drawing_bytes;
use crate::budget::Permit;
use crate::cancel::Cancel;
use crate::error::ServeError;
use crate::helpers::Helpers;
use crate::image::{
    DecodeCost, DecodeJob, DecodeOptions, DecodeTimes, DecodedImage, ImageError, ImageHeader,
    ImageSize, MAX_INPUT_PIXELS, Orientation, PreparedImage, Preprocessor, Scale, check_density,
    check_pixels, decode_scaled, probe,
};
use crate::pool::{ImagePool, JobCost, is_long};

/// Maximum number of pixels of an image into which boxes or masks are drawn. The resulting PNG
/// takes up to 3 bytes per pixel.
pub const MAX_DRAWN_PIXELS: u64 = 25_000_000;

/// Maximum number of pixels of a mask in a response. The PNG of a mask takes up to 1 byte per
/// pixel, and a third more as base64 in JSON.
pub const MAX_MASK_PIXELS: u64 = 25_000_000;

/// One image of a request.
#[derive(Debug, Clone)]
pub enum Input {
    /// A compressed file, which the pipeline decodes and preprocesses.
    Encoded(EncodedImage),
    /// A tensor `[3, H, W] f32` that the client has preprocessed, which goes straight into the
    /// queue. Boxes and masks are in pixels of the tensor.
    Prepared(PreparedImage),
}

/// A compressed image whose header is valid and states no more pixels than allowed.
#[derive(Debug, Clone)]
pub struct EncodedImage {
    bytes: Bytes,
    header: ImageHeader,
    options: DecodeOptions,
    /// Scale at which the image is decoded for the network.
    scale: Scale,
    /// Memory of the request's body, reserved in the budget for bodies. All images of the request
    /// share it, and the last one that is dropped releases it. `None` until the pipeline runs.
    pub(super) memory: Option<Arc<Permit>>,
}

impl Input {
    /// Predicts the cost of decoding the image. A tensor costs nothing.
    pub(super) fn decode_cost(&self, times: &DecodeTimes) -> JobCost {
        match self {
            Self::Encoded(image) => image.decode_cost(times),
            Self::Prepared(_) => JobCost::time(0),
        }
    }
}

impl EncodedImage {
    /// Reads the headers of the image file `bytes` and checks the size that they state.
    ///
    /// # Errors
    /// [`ImageError`] if the format is unknown, if a header is damaged, or if the headers state
    /// more pixels than `options` allow.
    pub fn new(bytes: Bytes, options: DecodeOptions) -> Result<Self, ImageError> {
        let header = probe(&bytes)?;
        check_pixels(header.size, options.max_pixels)?;
        Ok(Self {
            bytes,
            header,
            options,
            scale: Scale::Full,
            memory: None,
        })
    }

    /// Lets the image be decoded at a reduced scale if the input of `preprocessor` is much smaller.
    /// Results stay in pixels of the whole image.
    fn decode_fast(&mut self, preprocessor: &Preprocessor) {
        self.scale = self
            .header
            .scale(preprocessor.fast_scale(self.upright_size()));
    }

    /// Returns the size of the decoded image at full scale: after its orientation is applied, unless
    /// the request disables it.
    pub(super) fn upright_size(&self) -> ImageSize {
        match self.options.orientation {
            Orientation::Apply => self.header.upright_size(),
            Orientation::Ignore => self.header.size,
        }
    }

    /// Size that the image's headers state, before any rotation.
    pub fn size(&self) -> ImageSize {
        self.header.size
    }

    /// Predicts the CPU time and the memory of decoding the image for the network. The time is
    /// corrected by the measurements in `times`.
    pub(super) fn decode_cost(&self, times: &DecodeTimes) -> JobCost {
        self.cost_at(self.scale, times)
    }

    /// Predicts the cost of [`EncodedImage::decode_whole`] as [`EncodedImage::decode_cost`] does.
    pub(super) fn whole_cost(&self, times: &DecodeTimes) -> JobCost {
        self.cost_at(Scale::Full, times)
    }

    fn cost_at(&self, scale: Scale, times: &DecodeTimes) -> JobCost {
        let cost = self.predicted_cost(scale);
        JobCost {
            nanos: times.corrected(self.header.coding, scale, cost.nanos),
            bytes: cost.peak_bytes,
            pixels: cost.pixels,
            long: is_long(cost.pixels, cost.nanos),
        }
    }

    /// Records in `times` that decoding the image for the network took the CPU time `time`.
    pub(super) fn record_decode(&self, times: &DecodeTimes, time: Duration) {
        let predicted = self.predicted_cost(self.scale).nanos;
        times.record(self.header.coding, self.scale, predicted, time);
    }

    fn predicted_cost(&self, scale: Scale) -> DecodeCost {
        let turned = self.options.orientation == Orientation::Apply;
        self.header.decode_cost(self.bytes.len(), turned, scale)
    }

    /// Decodes the image for the network, possibly at a reduced scale. Idle threads of `helpers`
    /// share the work on a large image. A panic of the decoder is logged and reported as a damaged
    /// image.
    ///
    /// # Errors
    /// [`ImageError`] if the file is damaged or uses an unsupported feature, or if the work is
    /// cancelled.
    pub(super) fn decode(
        &self,
        cancel: &Cancel,
        helpers: &dyn Helpers,
    ) -> Result<DecodedImage, ImageError> {
        self.decode_at(self.scale, cancel, helpers)
    }

    /// Decodes the image at full scale as [`EncodedImage::decode`] does.
    ///
    /// # Errors
    /// As [`EncodedImage::decode`].
    pub(super) fn decode_whole(
        &self,
        cancel: &Cancel,
        helpers: &dyn Helpers,
    ) -> Result<RgbImage, ImageError> {
        let decoded = self.decode_at(Scale::Full, cancel, helpers)?;
        Ok(decoded.pixels)
    }

    fn decode_at(
        &self,
        scale: Scale,
        cancel: &Cancel,
        helpers: &dyn Helpers,
    ) -> Result<DecodedImage, ImageError> {
        let job = DecodeJob {
            scale,
            cancel,
            helpers: Some(helpers),
        };
        let decode = || decode_scaled(&self.bytes, &self.options, job);
        let decoded = catch_unwind(AssertUnwindSafe(decode));
        decoded.unwrap_or_else(|_| {
            let format = self.header.format;
            tracing::error!(%format, bytes = self.bytes.len(), "image decoder panicked");
            Err(ImageError::Damaged {
                format,
                reason: "the decoder failed unexpectedly".to_owned(),
            })
        })
    }
}

/// Lets images be decoded at reduced scales that suffice for the input of `preprocessor`.
pub fn decode_fast(inputs: &mut [Input], preprocessor: &Preprocessor) {
    for input in inputs {
        if let Input::Encoded(image) = input {
            image.decode_fast(preprocessor);
        }
    }
}

/// Reads the headers of all images of a request, in order.
///
/// # Errors
/// [`ServeError::Image`], with the image's index, for the first image that [`EncodedImage::new`]
/// rejects.
pub fn encoded_images(
    images: Vec<Bytes>,
    options: DecodeOptions,
) -> Result<Vec<Input>, ServeError> {
    let encoded = |(index, bytes)| match EncodedImage::new(bytes, options) {
        Ok(image) => Ok(Input::Encoded(image)),
        Err(source) => Err(ServeError::Image { index, source }),
    };
    images.into_iter().enumerate().map(encoded).collect()
}

/// Checks that no compressed image has more than `limit` pixels for each byte of its file.
///
/// # Errors
/// [`ServeError::Image`] for the first image over the limit, with its index.
pub fn check_densities(inputs: &[Input], limit: u64) -> Result<(), ServeError> {
    for (index, input) in inputs.iter().enumerate() {
        if let Input::Encoded(image) = input {
            check_density(image.size(), image.bytes.len(), limit)
                .map_err(|source| ServeError::Image { index, source })?;
        }
    }
    Ok(())
}

/// Returns the position in the request and the size of the first compressed image of more than
/// `limit` pixels. Returns `None` if no compressed image has more.
fn first_above(inputs: &[Input], limit: u64) -> Option<(usize, ImageSize)> {
    let size = |(index, input): (usize, &Input)| match input {
        Input::Encoded(image) => Some((index, image.size())),
        Input::Prepared(_) => None,
    };
    let mut sizes = inputs.iter().enumerate().filter_map(size);
    sizes.find(|(_, size)| size.pixels() > limit)
}

/// Checks that every compressed image is small enough to be drawn into.
///
/// # Errors
/// [`ServeError::TooLargeToDraw`] for the first image of more than [`MAX_DRAWN_PIXELS`] pixels.
pub(super) fn check_drawable(inputs: &[Input]) -> Result<(), ServeError> {
    let limit = MAX_DRAWN_PIXELS;
    match first_above(inputs, limit) {
        None => Ok(()),
        Some((index, size)) => Err(ServeError::TooLargeToDraw { index, size, limit }),
    }
}

/// Checks that a mask of the size of the image can be returned for every compressed image.
///
/// # Errors
/// [`ServeError::MaskTooLarge`] for the first image of more than [`MAX_MASK_PIXELS`] pixels.
pub(super) fn check_masks(inputs: &[Input]) -> Result<(), ServeError> {
    let limit = MAX_MASK_PIXELS;
    match first_above(inputs, limit) {
        None => Ok(()),
        Some((index, size)) => Err(ServeError::MaskTooLarge { index, size, limit }),
    }
}

/// Checks for each compressed image that the memory of `pool` suffices for decoding the image, and
/// for drawing into the image if `drawn` is true. An image that needs more memory than the pool has
/// could never be processed within the server's memory limit.
///
/// # Errors
/// [`ServeError::TooMuchMemory`] for the first image that needs more memory than the pool has.
pub fn check_memory(inputs: &[Input], pool: &ImagePool, drawn: bool) -> Result<(), ServeError> {
    for (index, input) in inputs.iter().enumerate() {
        let Input::Encoded(image) = input else {
            continue;
        };
        let cost = image.predicted_cost(if drawn { Scale::Full } else { image.scale });
        let bytes = cost.peak_bytes;
        let drawing = if drawn {
            drawing_bytes(image.size().pixels())
        } else {
            0
        };
        let limit = pool.most_bytes(cost.pixels);
        if bytes.max(drawing) > limit {
            return Err(ServeError::TooMuchMemory {
                index,
                work: if drawing > bytes {
                    "drawing into"
                } else {
                    "decoding"
                },
                size: image.size(),
                progressive: bytes > limit && image.header.coding.keeps_coefficients(),
                needed: bytes.max(drawing),
                limit,
            });
        }
    }
    Ok(())
}

/// Checks that a client's tensor has as many values as its shape `[3, H, W]` states, and 1 to
/// [`MAX_INPUT_PIXELS`] pixels.
///
/// # Errors
/// [`ServeError::BadParameter`] with the index of the image.
pub(super) fn check_prepared(index: usize, image: &PreparedImage) -> Result<(), ServeError> {
    let pixels = image.size.pixels();
    let expected = pixels.saturating_mul(3);
    if (1..=MAX_INPUT_PIXELS).contains(&pixels) && image.data.len() as u64 == expected {
        return Ok(());
    }
    let ImageSize { width, height } = image.size;
    Err(ServeError::BadParameter {
        field: format!("inputs[{index}]"),
        expected: format!("a tensor [3, H, W] with H * W of 1 to {MAX_INPUT_PIXELS}"),
        got: format!("{} values for [3, {height}, {width}]", image.data.len()),
    })
}
