//! The first stage of Faster R-CNN: boxes that may hold something.

use super::boxes::{BoxCoder, clip, is_at_least, is_finite};
use super::nms::batched_nms;
use super::topk::{Raw, sigmoid, top_of_map};
use super::{AnchorGenerator, Corners, DetectError, HeadLevel, expect_count};
use crate::image::DetectorSizes;

/// Shortest side of a proposal, in pixels of the resized picture.
const MIN_SIDE: f32 = 1e-3;

/// A region proposal network's anchors and thresholds.
///
/// Source: torchvision's `models/detection/rpn.py`, `RegionProposalNetwork.filter_proposals`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rpn {
    /// Reference boxes of its levels.
    pub anchors: AnchorGenerator,
    /// Most boxes of one level that are looked at, by objectness.
    pub pre_nms_top_n: usize,
    /// Most proposals of one picture.
    pub post_nms_top_n: usize,
    /// Overlap of two boxes of a level above which one goes.
    pub nms_threshold: f64,
    /// Least objectness of a proposal, 0..=1.
    pub score_threshold: f32,
}

impl Rpn {
    /// The proposals of one picture, best first, in pixels of the resized picture.
    ///
    /// `sizes.padded` is the size of the batch. Without anything to propose the result is empty.
    ///
    /// # Errors
    /// [`DetectError`] for maps that do not fit the anchors.
    pub fn propose(
        &self,
        levels: &[HeadLevel<'_>],
        sizes: &DetectorSizes,
    ) -> Result<Vec<Corners>, DetectError> {
        expect_count("levels", levels.len(), self.anchors.levels())?;
        let (mut boxes, mut scores, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
        for (number, level) in levels.iter().enumerate() {
            let grid = self.anchors.grid(number, level.scores.size, sizes.padded);
            expect_count(
                "anchors at a point",
                level.scores.channels,
                grid.per_point(),
            )?;
            level.classes(grid.per_point())?;
            for (logit, place) in top_of_map(&level.scores, self.pre_nms_top_n, &Raw) {
                let (anchor, score) = (place as usize, sigmoid(logit));
                let deltas = level.deltas(anchor, grid.per_point());
                let decoded = BoxCoder::UNIT.decode(deltas, grid.anchor(anchor));
                let corners = clip(decoded, sizes.resized);
                let large = is_at_least(corners, MIN_SIDE) && is_finite(corners);
                if large && score >= self.score_threshold {
                    boxes.push(corners);
                    scores.push(score);
                    numbers.push(number as u32);
                }
            }
        }
        let kept = batched_nms(&boxes, &scores, &numbers, self.nms_threshold);
        let best = kept.iter().take(self.post_nms_top_n);
        Ok(best.map(|i| boxes[*i]).collect())
    }
}
