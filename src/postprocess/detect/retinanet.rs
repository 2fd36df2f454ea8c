//! `RetinaNet`'s postprocessing: every anchor has class scores and box deltas, without region
//! proposals.

use super::box_coder::BoxCoder;
use super::select::Candidates;
use super::topk::{SigmoidOver, top_of_map};
use super::{
    AnchorGenerator, DetectError, DetectOptions, Detection, HeadLevel, Thresholds, expect_count,
};
use crate::cancel::Cancel;
use crate::image::DetectorSizes;

/// Anchors and thresholds of a `RetinaNet`. Its outputs have no background class.
///
/// Source: torchvision's `models/detection/retinanet.py`, `RetinaNet.postprocess_detections`.
#[derive(Debug, Clone, PartialEq)]
pub struct RetinaNet {
    /// Anchors of each feature map level.
    pub anchors: AnchorGenerator,
    /// Divisors of the box deltas dx, dy, dw and dh, in this order.
    pub box_weights: [f32; 4],
    /// Maximum number of candidates (pairs of an anchor and a class) per feature map level: those
    /// with the highest scores.
    pub topk_candidates: usize,
    /// The model's score threshold, overlap threshold and maximum number of detections.
    pub thresholds: Thresholds,
}

impl RetinaNet {
    /// Returns the detections of one image, best first, in pixels of the original image.
    /// `sizes.padded` is the image's size in the network's input, which the anchors cover.
    ///
    /// # Errors
    /// [`DetectError`] if the feature maps do not fit the anchors, or if the work is cancelled.
    pub fn detect(
        &self,
        levels: &[HeadLevel<'_>],
        sizes: &DetectorSizes,
        options: &DetectOptions,
        cancel: &Cancel,
    ) -> Result<Vec<Detection>, DetectError> {
        let thresholds = self.thresholds.narrowed(options);
        expect_count(
            "number of feature map levels",
            levels.len(),
            self.anchors.levels(),
        )?;
        let scoring = SigmoidOver(thresholds.score);
        let mut candidates = Candidates::default();
        let coder = BoxCoder::new(self.box_weights);
        for (index, level) in levels.iter().enumerate() {
            cancel.check()?;
            let grid = self.anchors.grid(index, level.scores.size, sizes.padded);
            let classes = level.classes(grid.per_point())?;
            for (score, place) in top_of_map(&level.scores, self.topk_candidates, &scoring) {
                let (anchor, class_id) = (place as usize / classes, place as usize % classes);
                let deltas = level.deltas(anchor, grid.per_point());
                let decoded = coder.decode(deltas, grid.anchor(anchor));
                candidates.push(class_id, score, decoded.clipped(sizes.resized));
            }
        }
        cancel.check()?;
        Ok(candidates.select(&thresholds, options, sizes))
    }
}
