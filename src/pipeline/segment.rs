//! Segmentation: logits become masks.

use std::time::Instant;

use super::input::{check_drawable, check_masks};
use super::{Cost, Input, Postprocess, PostprocessInput, Timing, finite};
use crate::draw::{self, Drawing};
use crate::engine::Tensor;
use crate::error::ServeError;
use crate::image::ImageSize;
use crate::metrics::Stage;
use crate::postprocess::segment::{
    ClassShare, EncodedMask, Mask, MaskEncoding, MaskJob, PngError, SegmentError, VOC_PALETTE,
    class_shares, mask_png, mask_rle, segment,
};
use crate::registry::LoadedModel;

/// Whether a mask has the size of the image or of the network's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskSize {
    /// The size of the image after it is decoded and, unless the request disables it, rotated as
    /// its metadata state.
    Input,
    /// The size of the network's output.
    Logits,
}

/// Returns the class of every pixel of each image.
pub struct Segment {
    /// Size of the masks.
    pub size: MaskSize,
    /// Encoding of the masks.
    pub encoding: MaskEncoding,
}

/// The segmentation of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Segmentation {
    /// Size of the image after it is decoded and, unless the request disables it, rotated as its
    /// metadata state.
    pub image: ImageSize,
    /// Size of the mask, as [`Segment::size`] selects it.
    pub size: ImageSize,
    /// Classes that occur in the mask, with their shares of its pixels.
    pub classes: Vec<ClassShare>,
    /// The encoded mask; `None` with [`MaskEncoding::None`].
    pub mask: Option<EncodedMask>,
}

impl Postprocess for Segment {
    type Output = Segmentation;

    fn cost(&self) -> Cost {
        match self.encoding {
            MaskEncoding::Drawn(_) => Cost::Image,
            MaskEncoding::Png | MaskEncoding::Rle | MaskEncoding::None => Cost::Pixels,
        }
    }

    fn check(&self, inputs: &[Input]) -> Result<(), ServeError> {
        match (self.encoding, self.size) {
            (MaskEncoding::Drawn(_), _) => check_drawable(inputs),
            (MaskEncoding::Png | MaskEncoding::Rle, MaskSize::Input) => check_masks(inputs),
            (MaskEncoding::None, _) | (_, MaskSize::Logits) => Ok(()),
        }
    }

    fn run(
        &self,
        model: &LoadedModel,
        mut input: PostprocessInput,
        timing: &mut Timing,
    ) -> Result<Segmentation, ServeError> {
        let started = Instant::now();
        let outputs = std::mem::take(&mut input.outputs);
        let scores = finite(model.manifest.task, &outputs)?;
        let mask = self.mask(model, scores, &input)?;
        drop(outputs);
        let classes = class_shares(&mask, &model.labels);
        let masked = Instant::now();
        let encoded = self.encode(&mask, &classes, &input)?;
        timing[Stage::postprocess] = masked - started;
        timing[Stage::encode] = masked.elapsed();
        Ok(Segmentation {
            image: input.size,
            size: mask.size(),
            classes,
            mask: encoded,
        })
    }

    fn bytes(segmentation: &Segmentation) -> usize {
        segmentation.mask.as_ref().map_or(0, EncodedMask::bytes)
    }
}

/// Returns the class of every pixel of each image, without encoding the mask.
pub struct Masks {
    /// Whether masks have the size of the preprocessed image instead of the image's size.
    pub preprocessed: bool,
}

impl Postprocess for Masks {
    type Output = Mask;

    fn cost(&self) -> Cost {
        Cost::Pixels
    }

    fn check(&self, inputs: &[Input]) -> Result<(), ServeError> {
        check_masks(inputs)
    }

    fn run(
        &self,
        model: &LoadedModel,
        mut input: PostprocessInput,
        timing: &mut Timing,
    ) -> Result<Mask, ServeError> {
        let started = Instant::now();
        let outputs = std::mem::take(&mut input.outputs);
        let size = if self.preprocessed {
            let size = model.preprocessor.output_size(input.size);
            let index = input.index;
            size.map_err(|source| ServeError::Image { index, source })?
        } else {
            input.size
        };
        let scores = finite(model.manifest.task, &outputs)?;
        let mask = mask(model, scores, Some(size), &input)?;
        timing[Stage::postprocess] = started.elapsed();
        Ok(mask)
    }

    fn bytes(mask: &Mask) -> usize {
        mask.classes().len()
    }
}

/// Returns the mask of `size`, or of the size of `scores` if `size` is `None`.
fn mask(
    model: &LoadedModel,
    scores: &Tensor,
    size: Option<ImageSize>,
    input: &PostprocessInput,
) -> Result<Mask, ServeError> {
    let job = MaskJob {
        cancel: &input.cancel,
        helpers: Some(&input.pool),
    };
    segment(scores, size, job).map_err(|error| match error {
        SegmentError::Cancelled(cancelled) => cancelled.into(),
        error => {
            tracing::error!(model = model.id(), %error, "segmentation outputs rejected");
            ServeError::Internal("the model's outputs cannot be decoded to a mask")
        }
    })
}

impl Segment {
    /// Returns the class of every pixel of an image whose network output is `scores`.
    ///
    /// # Errors
    /// [`ServeError::Internal`] if `scores` are not those of a segmentation network, and an error for the deadline if the
    /// work is cancelled.
    pub(crate) fn mask(
        &self,
        model: &LoadedModel,
        scores: &Tensor,
        input: &PostprocessInput,
    ) -> Result<Mask, ServeError> {
        let size = match self.size {
            MaskSize::Input => Some(input.size),
            MaskSize::Logits => None,
        };
        mask(model, scores, size, input)
    }

    fn encode(
        &self,
        mask: &Mask,
        classes: &[ClassShare],
        input: &PostprocessInput,
    ) -> Result<Option<EncodedMask>, ServeError> {
        Ok(match self.encoding {
            MaskEncoding::Png => {
                let png = mask_png(mask, &VOC_PALETTE, &input.cancel);
                let png = png.map_err(|error| match error {
                    PngError::Cancelled(cancelled) => cancelled.into(),
                    PngError::Encoder(_) => ServeError::Internal("the mask is too large for PNG"),
                })?;
                Some(EncodedMask::Png(png))
            }
            MaskEncoding::Rle => Some(EncodedMask::Rle(mask_rle(mask, &input.cancel)?)),
            MaskEncoding::None => None,
            MaskEncoding::Drawn(Drawing { format, style }) => {
                let mut image = input.decode()?;
                draw::segmentation(&mut image, mask, classes, style, &input.cancel)?;
                Some(EncodedMask::Drawn(draw::encode(
                    &image,
                    format,
                    &input.cancel,
                )?))
            }
        })
    }
}
