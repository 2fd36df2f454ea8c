//! Segmentation: logits to masks.

use std::time::Instant;

use super::{Finish, Inferred, Need, Timing, finite};
use crate::draw::{self, DrawnFormat};
use crate::engine::Tensor;
use crate::error::ServeError;
use crate::image::ImageSize;
use crate::metrics::Stage;
use crate::postprocess::segment::{
    ClassShare, Mask, RleMask, VOC_PALETTE, class_shares, mask_png, mask_rle, segment,
};
use crate::registry::LoadedModel;

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

/// The class of every pixel of each picture.
pub struct Segment {
    /// At which size the masks are made.
    pub size: MaskSize,
    /// What is made of each mask.
    pub view: SegmentView,
}

impl Finish for Segment {
    type Answer = Segmentation;

    fn need(&self) -> Need {
        match self.view {
            SegmentView::Drawn(_) => Need::Picture,
            SegmentView::Mask(_) => Need::Pixels,
        }
    }

    fn finish(
        &self,
        model: &LoadedModel,
        mut inferred: Inferred,
    ) -> Result<(Segmentation, Timing), ServeError> {
        let started = Instant::now();
        let outputs = std::mem::take(&mut inferred.outputs);
        let mask = self.mask(model, finite(&outputs)?, inferred.size)?;
        drop(outputs);
        let classes = class_shares(&mask, &model.labels);
        let masked = Instant::now();
        let encoded = self.encode(&mask, &classes, &inferred)?;
        let mut timing = inferred.timing;
        timing[Stage::postprocess] = masked - started;
        timing[Stage::encode] = masked.elapsed();
        let segmentation = Segmentation {
            picture: inferred.size,
            size: mask.size(),
            classes,
            mask: encoded,
        };
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
    fn mask(
        &self,
        model: &LoadedModel,
        scores: &Tensor,
        picture: ImageSize,
    ) -> Result<Mask, ServeError> {
        let size = match self.size {
            MaskSize::Input => Some(picture),
            MaskSize::Logits => None,
        };
        let mask = segment(scores, size, model.plan.threads());
        mask.map_err(|error| {
            tracing::error!(model = model.id(), %error, "no mask");
            ServeError::Internal("no mask can be made of what the network answered")
        })
    }

    fn encode(
        &self,
        mask: &Mask,
        classes: &[ClassShare],
        inferred: &Inferred,
    ) -> Result<EncodedMask, ServeError> {
        match self.view {
            SegmentView::Mask(MaskFormat::Png) => {
                let png = mask_png(mask, &VOC_PALETTE);
                let png = png.map_err(|_| ServeError::Internal("the mask has no PNG"))?;
                Ok(EncodedMask::Image(png))
            }
            SegmentView::Mask(MaskFormat::Rle) => Ok(EncodedMask::Rle(mask_rle(mask))),
            SegmentView::Mask(MaskFormat::None) => Ok(EncodedMask::None),
            SegmentView::Drawn(format) => {
                let mut image = inferred.decode()?;
                draw::segmentation(&mut image, mask, classes);
                Ok(EncodedMask::Image(draw::encode(&image, format)?))
            }
        }
    }
}
