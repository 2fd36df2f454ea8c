//! Segmentation: logits to masks.

use std::sync::Arc;
use std::time::Instant;

use super::infer::{Inferred, Keep, Pixels, infer};
use super::{Answer, Images, Timing, finite, record};
use crate::app::App;
use crate::draw::{self, DrawnFormat, EncodeError};
use crate::engine::Tensor;
use crate::error::ServeError;
use crate::image::{DecodeOptions, ImageSize, Orientation};
use crate::metrics::Stage;
use crate::pool::joined;
use crate::postprocess::segment::{
    ClassShare, Mask, RleMask, VOC_PALETTE, class_shares, mask_png, mask_rle, segment,
};
use crate::registry::LoadedModel;

/// Pixels of a mask that are worth a thread of their own: a few milliseconds of work.
const PIXELS_PER_THREAD: u64 = 1 << 20;

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
    let keep = match view {
        SegmentView::Drawn(_) => Keep::Pixels,
        SegmentView::Mask(_) => Keep::Size,
    };
    let pending = infer(app, &model, images, options, deadline, keep).await?;
    let mut jobs = Vec::with_capacity(pending.len());
    for picture in pending {
        let inferred = picture.outputs().await?;
        // What is drawn into has its room already. A mask is smaller than its picture was.
        let room = match &inferred.pixels {
            Some(_) => None,
            None => Some(app.pixel_room(inferred.size.pixels()).await?),
        };
        let finish = Finish {
            model: Arc::clone(&model),
            size,
            view,
        };
        let job = move || {
            let finished = finish.run(inferred);
            drop(room);
            finished
        };
        jobs.push(app.pool.start(job).await?);
    }
    let mut timing = Timing::default();
    let mut results = Vec::with_capacity(jobs.len());
    for job in jobs {
        let (segmentation, stages) = joined(job).await??;
        record(&model, stages);
        results.push(segmentation);
        timing = timing + stages;
    }
    Ok(Answer {
        model,
        results,
        timing,
    })
}

/// The work after the network, for one picture. Runs on the picture pool.
struct Finish {
    model: Arc<LoadedModel>,
    size: MaskSize,
    view: SegmentView,
}

impl Finish {
    fn run(&self, inferred: Inferred) -> Result<(Segmentation, Timing), ServeError> {
        let Inferred {
            outputs,
            mut timing,
            size: picture,
            pixels,
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
            mask: self.encode(&mask, &classes, pixels)?,
            classes,
        };
        timing[Stage::encode] = masked.elapsed();
        Ok((segmentation, timing))
    }

    fn mask(&self, scores: &Tensor, picture: ImageSize) -> Result<Mask, ServeError> {
        let threads = picture.pixels().div_ceil(PIXELS_PER_THREAD);
        let threads = usize::try_from(threads).unwrap_or(usize::MAX);
        let size = match self.size {
            MaskSize::Input => Some(picture),
            MaskSize::Logits => None,
        };
        let mask = segment(scores, size, threads.min(self.model.plan.threads()));
        mask.map_err(|error| {
            tracing::error!(model = self.model.id(), %error, "no mask");
            ServeError::Internal("no mask can be made of what the network answered")
        })
    }

    fn encode(
        &self,
        mask: &Mask,
        classes: &[ClassShare],
        pixels: Option<Pixels>,
    ) -> Result<EncodedMask, ServeError> {
        let failed = |_| ServeError::Internal("the mask has no PNG");
        match (self.view, pixels) {
            (SegmentView::Mask(MaskFormat::Png), _) => Ok(EncodedMask::Image(
                mask_png(mask, &VOC_PALETTE).map_err(failed)?,
            )),
            (SegmentView::Mask(MaskFormat::Rle), _) => Ok(EncodedMask::Rle(mask_rle(mask))),
            (SegmentView::Drawn(format), Some(Pixels { mut image, .. })) => {
                draw::segmentation(&mut image, mask, classes);
                let drawn = draw::encode(&image, format).map_err(|error| match error {
                    EncodeError::Size { .. } => ServeError::BadParameter {
                        field: "accept".to_owned(),
                        expected: "image/png for a picture of this size".to_owned(),
                        got: format.media_type().to_owned(),
                    },
                    EncodeError::Encoder { .. } => {
                        tracing::error!(model = self.model.id(), %error, "no drawn picture");
                        ServeError::Internal("the drawn picture cannot be encoded")
                    }
                });
                drawn.map(EncodedMask::Image)
            }
            (SegmentView::Mask(MaskFormat::None) | SegmentView::Drawn(_), _) => {
                Ok(EncodedMask::None)
            }
        }
    }
}
