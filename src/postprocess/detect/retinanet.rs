//! `RetinaNet`: every anchor tells its classes and its box.

use super::boxes::{BoxCoder, clip};
use super::select::Candidates;
use super::topk::{SigmoidOver, top_of_map};
use super::{
    AnchorGenerator, DetectError, DetectOptions, Detection, HeadLevel, Thresholds, expect_count,
};
use crate::image::DetectorSizes;

/// A `RetinaNet`'s anchors and thresholds. It has no background class.
///
/// Source: torchvision's `models/detection/retinanet.py`, `RetinaNet.postprocess_detections`.
#[derive(Debug, Clone, PartialEq)]
pub struct RetinaNet {
    /// Reference boxes of its levels.
    pub anchors: AnchorGenerator,
    /// What the network's deltas are divided by: dx, dy, dw, dh.
    pub box_weights: [f32; 4],
    /// Most pairs of an anchor and a class of one level that are looked at.
    pub topk_candidates: usize,
    /// What is kept.
    pub thresholds: Thresholds,
}

impl RetinaNet {
    /// The objects of one picture, best first. `sizes.padded` is the size of the batch.
    ///
    /// # Errors
    /// [`DetectError`] for maps that do not fit the anchors.
    pub fn detect(
        &self,
        levels: &[HeadLevel<'_>],
        sizes: &DetectorSizes,
        options: &DetectOptions,
    ) -> Result<Vec<Detection>, DetectError> {
        let thresholds = self.thresholds.narrowed(options);
        expect_count("levels", levels.len(), self.anchors.levels())?;
        let scoring = SigmoidOver(thresholds.score);
        let mut candidates = Candidates::default();
        let coder = BoxCoder::new(self.box_weights);
        for (number, level) in levels.iter().enumerate() {
            let grid = self.anchors.grid(number, level.scores.size, sizes.padded);
            let classes = level.classes(grid.per_point())?;
            for (score, place) in top_of_map(&level.scores, self.topk_candidates, &scoring) {
                let (anchor, class_id) = (place as usize / classes, place as usize % classes);
                let deltas = level.deltas(anchor, grid.per_point());
                let decoded = coder.decode(deltas, grid.anchor(anchor));
                candidates.push(class_id, score, clip(decoded, sizes.resized));
            }
        }
        Ok(candidates.select(&thresholds, options, sizes))
    }
}
