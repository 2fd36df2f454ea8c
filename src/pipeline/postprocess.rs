//! The last step of the pipeline, which differs by task: a network's outputs become results.

use image::RgbImage;

use super::{EncodedImage, Input, Timing};
use crate::cancel::Cancel;
use crate::engine::Outputs;
use crate::error::ServeError;
use crate::image::DecodeTimes;
use crate::image::ImageSize;
use crate::pool::{ImagePool, JobCost, is_long};
use crate::registry::LoadedModel;

/// Resources that postprocessing needs; each level includes the levels above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cost {
    /// Microseconds of CPU: runs on the thread that receives the outputs.
    Negligible,
    /// A thread of the image pool.
    Thread,
    /// Memory for as many pixels as the image has.
    Pixels,
    /// The decoded image itself, for drawing into it.
    Image,
}

/// The input of postprocessing for one image.
pub struct PostprocessInput {
    /// The network's outputs, without the batch axis.
    pub outputs: Outputs,
    /// Size of the image after it is decoded and, unless the request disables it, rotated as its
    /// metadata state. For a tensor that the client has preprocessed, the size without padding.
    pub size: ImageSize,
    /// Stops the work when the deadline passes or the client disconnects.
    pub cancel: Cancel,
    /// The pool whose idle threads share the work on a large mask.
    pub(super) pool: ImagePool,
    /// Position of the image in the request, from 0, for errors.
    pub(super) index: usize,
    /// The encoded image, for drawing. `None` if the cost is below [`Cost::Image`] or the input was
    /// a tensor.
    pub(super) source: Option<EncodedImage>,
}

/// Predicted time in nanoseconds of the part of postprocessing that does not depend on the number
/// of pixels, such as suppression of boxes.
const THREAD_NANOS: u64 = 1_000_000;
/// Predicted time to compute and encode a mask, in nanoseconds per pixel.
const MASK_NANOS_PER_PIXEL: u64 = 20;
/// Predicted time to draw into an image and to encode it, in nanoseconds per pixel.
const DRAW_NANOS_PER_PIXEL: u64 = 20;
/// Memory of a mask and of the file that it is encoded to, in bytes per pixel.
const MASK_BYTES_PER_PIXEL: u64 = 3;
/// Memory of an image that is drawn into, of its mask, and of the file that the image is encoded
/// to, in bytes per pixel.
const DRAW_BYTES_PER_PIXEL: u64 = 7;

/// Predicts the memory in bytes that drawing into an image of `pixels` pixels and encoding the
/// image take.
pub(super) fn drawing_bytes(pixels: u64) -> u64 {
    pixels.saturating_mul(DRAW_BYTES_PER_PIXEL)
}

impl PostprocessInput {
    /// Predicts the time and the memory of a postprocessing job that needs the resources `cost`.
    /// If the image is decoded again, its decode time is corrected by the measurements in `times`.
    pub(super) fn job_cost(&self, cost: Cost, times: &DecodeTimes) -> JobCost {
        let pixels = self.size.pixels();
        let nanos = THREAD_NANOS.saturating_add(pixels.saturating_mul(MASK_NANOS_PER_PIXEL));
        let mask = JobCost {
            nanos,
            bytes: pixels.saturating_mul(MASK_BYTES_PER_PIXEL),
            pixels,
            long: is_long(pixels, nanos),
        };
        match (cost, &self.source) {
            (Cost::Negligible | Cost::Thread, _) => JobCost::time(THREAD_NANOS),
            (Cost::Pixels, _) | (Cost::Image, None) => mask,
            (Cost::Image, Some(source)) => {
                let decode = source.whole_cost(times);
                let drawing = pixels.saturating_mul(DRAW_NANOS_PER_PIXEL);
                let nanos = mask.nanos.saturating_add(decode.nanos);
                let nanos = nanos.saturating_add(drawing);
                JobCost {
                    nanos,
                    bytes: decode.bytes.max(drawing_bytes(pixels)),
                    pixels,
                    long: mask.long || decode.long || is_long(pixels, drawing),
                }
            }
        }
    }

    /// Decodes the image a second time, at full scale. Its pixels are not kept during inference, because they
    /// would take the memory of images that could be decoded meanwhile.
    ///
    /// # Errors
    /// [`ServeError::Image`] if the image cannot be decoded, [`ServeError::Internal`] if the
    /// encoded image was not kept, and an error for the deadline if the work is cancelled.
    pub(super) fn decode(&self) -> Result<RgbImage, ServeError> {
        let Some(source) = &self.source else {
            return Err(ServeError::Internal(
                "the encoded image was not kept for drawing",
            ));
        };
        let decoded = source.decode_whole(&self.cancel, &self.pool);
        decoded.map_err(|error| ServeError::image(self.index, error))
    }
}

/// Turns a network's outputs into the result of a task. The fields of an implementing type are the
/// options of a request.
pub trait Postprocess: Send + Sync + 'static {
    /// The result for one image.
    type Output: Send + 'static;

    /// Resources that [`Postprocess::run`] needs.
    fn cost(&self) -> Cost;

    /// Checks, before the images are decoded, that their results are small enough to be returned.
    /// Does nothing by default.
    ///
    /// # Errors
    /// [`ServeError`] for the first image whose result would be too large.
    fn check(&self, _: &[Input]) -> Result<(), ServeError> {
        Ok(())
    }

    /// Computes the result for one image and records the time that it takes in `timing`.
    ///
    /// # Errors
    /// [`ServeError`] if the outputs cannot be used or the image cannot be drawn into.
    fn run(
        &self,
        model: &LoadedModel,
        input: PostprocessInput,
        timing: &mut Timing,
    ) -> Result<Self::Output, ServeError>;

    /// Memory of `output` in bytes, which is reserved until the response is sent. 0 if it is
    /// negligible.
    fn bytes(output: &Self::Output) -> usize;
}
