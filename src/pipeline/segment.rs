//! Segmentation: logits to masks.

use std::sync::Arc;
use std::time::Instant;

use super::infer::{Finish, Inferred, Source, answer};
use super::{Answer, Images, Timing, finite};
use crate::app::App;
use crate::draw::{self, DrawnFormat};
use crate::engine::Tensor;
use crate::error::ServeError;
use crate::image::{DecodeOptions, ImageSize, Orientation};
use crate::metrics::Stage;
use crate::postprocess::segment::{
    ClassShare, Mask, RleMask, VOC_PALETTE, class_shares, mask_png, mask_rle, segment,
};
use crate::registry::LoadedModel;

/// A validated request for segmentation.
pub struct SegmentRequest {
    /// The model.
    pub model: Arc<LoadedModel>,
    /// Whether EXIF orientation counts.
    pub orientation: Orientation,
    /// At which size the masks are made.
    pub size: MaskSize,
    /// What is made of each mask.
    pub view: SegmentView,
    /// The pictures; one only, if they are drawn into.
    pub images: Images,
}

/// At which size a mask is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskSize {
    /// That of the picture as a viewer shows it.
    Input,
    /// That of the network's output.
    Logits,
}

/// How a mask is written into an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskFormat {
    /// A palette PNG.
    Png,
    /// COCO's compressed runs, per class.
    Rle,
    /// Not at all.
    None,
}

/// What a client gets to see of a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentView {
    /// The mask, among other fields.
    Mask(MaskFormat),
    /// The picture with the mask and a legend drawn in.
    Drawn(DrawnFormat),
}

/// A mask or a picture in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncodedMask {
    /// An image file.
    Image(Vec<u8>),
    /// Runs of each class.
    Rle(Vec<RleMask>),
    /// Nothing was asked for.
    None,
}

/// The answer for one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Segmentation {
    /// Size of the picture as a viewer shows it.
    pub picture: ImageSize,
    /// Size of the mask.
    pub size: ImageSize,
    /// What is in the mask.
    pub classes: Vec<ClassShare>,
    /// The mask.
    pub mask: EncodedMask,
}

/// Segments the pictures of a request.
///
/// # Errors
/// [`ServeError`] for the first picture that fails; the others are dropped from the queue.
pub async fn segment_pictures(
    app: &App,
    request: SegmentRequest,
    deadline: Instant,
) -> Result<Answer<Segmentation>, ServeError> {
    let SegmentRequest {
        model,
        orientation,
        size,
        view,
        images,
    } = request;
    let options = DecodeOptions {
        max_pixels: app.limits.max_pixels,
        orientation,
    };
    let finish = Segment {
        model: Arc::clone(&model),
        size,
        view,
    };
    answer(app, model, images, options, deadline, finish).await
}

struct Segment {
    model: Arc<LoadedModel>,
    size: MaskSize,
    view: SegmentView,
}

impl Finish for Segment {
    type Answer = Segmentation;
    const PIXELS: bool = true;

    fn finish(&self, inferred: Inferred) -> Result<(Segmentation, Timing), ServeError> {
        let Inferred {
            outputs,
            mut timing,
            size: picture,
            source,
            ..
        } = inferred;
        let started = Instant::now();
        let mask = self.mask(finite(&outputs)?, picture)?;
        drop(outputs);
        let classes = class_shares(&mask, &self.model.labels);
        let masked = Instant::now();
        timing[Stage::postprocess] = masked - started;
        let segmentation = Segmentation {
            picture,
            size: mask.size(),
            mask: self.encode(&mask, &classes, &source)?,
            classes,
        };
        timing[Stage::encode] = masked.elapsed();
        Ok((segmentation, timing))
    }

    fn bytes(segmentation: &Segmentation) -> usize {
        match &segmentation.mask {
            EncodedMask::Image(bytes) => bytes.len(),
            EncodedMask::Rle(runs) => runs.iter().map(|run| run.counts.len()).sum(),
            EncodedMask::None => 0,
        }
    }
}

impl Segment {
    fn mask(&self, scores: &Tensor, picture: ImageSize) -> Result<Mask, ServeError> {
        let size = match self.size {
            MaskSize::Input => Some(picture),
            MaskSize::Logits => None,
        };
        let mask = segment(scores, size, self.model.plan.threads());
        mask.map_err(|error| {
            tracing::error!(model = self.model.id(), %error, "no mask");
            ServeError::Internal("no mask can be made of what the network answered")
        })
    }

    fn encode(
        &self,
        mask: &Mask,
        classes: &[ClassShare],
        source: &Source,
    ) -> Result<EncodedMask, ServeError> {
        let failed = |_| ServeError::Internal("the mask has no PNG");
        match self.view {
            SegmentView::Mask(MaskFormat::Png) => {
                let png = mask_png(mask, &VOC_PALETTE).map_err(failed)?;
                Ok(EncodedMask::Image(png))
            }
            SegmentView::Mask(MaskFormat::Rle) => Ok(EncodedMask::Rle(mask_rle(mask))),
            SegmentView::Mask(MaskFormat::None) => Ok(EncodedMask::None),
            SegmentView::Drawn(format) => {
                let mut image = source.decode()?;
                draw::segmentation(&mut image, mask, classes);
                Ok(EncodedMask::Image(draw::encode(&image, format)?))
            }
        }
    }
}
