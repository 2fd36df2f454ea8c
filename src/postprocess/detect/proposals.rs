//! The first stage of Faster R-CNN: from the outputs of the region proposal network to region
//! proposals.

use super::box_coder::BoxCoder;
use super::nms::batched_nms;
use super::topk::{Raw, sigmoid, top_of_map};
use super::{AnchorGenerator, BoxXyxy, DetectError, HeadLevel, expect_count};
use crate::image::DetectorSizes;

/// Minimum width and height of a proposal, in pixels of the resized image.
const MIN_SIDE: f32 = 1e-3;

/// A region proposal network's anchors and thresholds.
///
/// Source: torchvision's `models/detection/rpn.py`, `RegionProposalNetwork.filter_proposals`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rpn {
    /// Anchors of each feature map level.
    pub anchors: AnchorGenerator,
    /// Maximum number of candidates per feature map level that take part in suppression: those with
    /// the highest objectness.
    pub pre_nms_top_n: usize,
    /// Maximum number of region proposals per image, after suppression.
    pub post_nms_top_n: usize,
    /// Intersection over union above which the lower-scoring of two boxes of a level is suppressed.
    pub nms_threshold: f64,
    /// Minimum objectness of a region proposal, 0..=1.
    pub score_threshold: f32,
}

impl Rpn {
    /// Returns the region proposals of one image, best first, in pixels of the resized image; empty
    /// if no anchor passes the thresholds. `sizes.padded` is the image's size in the network's
    /// input, which the anchors cover.
    ///
    /// # Errors
    /// [`DetectError`] if the feature maps do not fit the anchors.
    pub fn propose(
        &self,
        levels: &[HeadLevel<'_>],
        sizes: &DetectorSizes,
    ) -> Result<Vec<BoxXyxy>, DetectError> {
        expect_count(
            "number of feature map levels",
            levels.len(),
            self.anchors.levels(),
        )?;
        let (mut boxes, mut scores, mut level_ids) = (Vec::new(), Vec::new(), Vec::new());
        for (index, level) in levels.iter().enumerate() {
            let grid = self.anchors.grid(index, level.scores.size, sizes.padded);
            expect_count(
                "number of channels of a level's objectness map",
                level.scores.channels,
                grid.per_point(),
            )?;
            level.classes(grid.per_point())?;
            for (logit, place) in top_of_map(&level.scores, self.pre_nms_top_n, &Raw) {
                let (anchor, score) = (place as usize, sigmoid(logit));
                let deltas = level.deltas(anchor, grid.per_point());
                let decoded = BoxCoder::UNIT.decode(deltas, grid.anchor(anchor));
                let clipped = decoded.clipped(sizes.resized);
                let large = clipped.is_at_least(MIN_SIDE) && clipped.is_finite();
                if large && score >= self.score_threshold {
                    boxes.push(clipped);
                    scores.push(score);
                    level_ids.push(index as u32);
                }
            }
        }
        let kept = batched_nms(&boxes, &scores, &level_ids, self.nms_threshold);
        let best = kept.iter().take(self.post_nms_top_n);
        Ok(best.map(|i| boxes[*i]).collect())
    }
}
