//! The second stage of Faster R-CNN: from class scores and box deltas of the region proposals to
//! detections.

use super::box_coder::BoxCoder;
use super::select::Candidates;
use super::{BoxXyxy, DetectError, DetectOptions, Detection, Thresholds, expect_count};
use crate::cancel::Cancel;
use crate::image::DetectorSizes;
use crate::postprocess::scores::largest;

/// Minimum width and height of a detection, in pixels of the resized image.
const MIN_SIDE: f32 = 1e-2;
/// Number of region proposals that are decoded between two checks for cancellation, which takes
/// well under a millisecond.
const PROPOSALS_PER_CHECK: usize = 64;

/// The settings with which the outputs of Faster R-CNN's box head are decoded. Class 0 is the
/// background.
///
/// Source: torchvision's `models/detection/roi_heads.py`, `RoIHeads.postprocess_detections`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxHead {
    /// Divisors of the box deltas dx, dy, dw and dh, in this order.
    pub box_weights: [f32; 4],
    /// The model's score threshold, overlap threshold and maximum number of detections.
    pub thresholds: Thresholds,
}

/// The outputs of Faster R-CNN's two sessions for one image with `R` region proposals and a model
/// with `K` classes.
#[derive(Debug, Clone, Copy)]
pub struct BoxHeadOutputs<'a> {
    /// Region proposals `[R, 4]`: x1, y1, x2, y2 in pixels of the resized image.
    pub proposals: &'a [[f32; 4]],
    /// Class logits `[R, K]`; class 0 is the background.
    pub class_logits: &'a [f32],
    /// Box deltas `[R, 4 * K]`: dx, dy, dw, dh of each class.
    pub box_regression: &'a [f32],
}

impl BoxHeadOutputs<'_> {
    /// Checks that the lengths of the three outputs fit each other, and returns the number of
    /// classes `K`; 0 if there are no region proposals.
    fn classes(&self) -> Result<usize, DetectError> {
        let proposals = self.proposals.len();
        let classes = self.class_logits.len().checked_div(proposals).unwrap_or(0);
        let logits = classes * proposals;
        let deltas = logits.saturating_mul(4);
        expect_count(
            "number of class logits of the proposals",
            self.class_logits.len(),
            logits,
        )?;
        expect_count(
            "number of box deltas of the proposals",
            self.box_regression.len(),
            deltas,
        )?;
        Ok(classes)
    }
}

impl BoxHead {
    /// Returns the detections of one image, best first, in pixels of the original image.
    ///
    /// # Errors
    /// [`DetectError`] if the lengths of `outputs` do not fit each other, or if the work is
    /// cancelled.
    pub fn detect(
        &self,
        outputs: &BoxHeadOutputs<'_>,
        sizes: &DetectorSizes,
        options: &DetectOptions,
        cancel: &Cancel,
    ) -> Result<Vec<Detection>, DetectError> {
        let thresholds = self.thresholds.narrowed(options);
        let classes = outputs.classes()?;
        let mut candidates = Candidates::default();
        let coder = BoxCoder::new(self.box_weights);
        let logits = outputs.class_logits.chunks_exact(classes.max(1));
        let deltas = outputs.box_regression.chunks_exact(4 * classes.max(1));
        let proposals = outputs.proposals.iter().zip(logits).zip(deltas);
        for (i, ((proposal, logits), deltas)) in proposals.enumerate() {
            if i % PROPOSALS_PER_CHECK == 0 {
                cancel.check()?;
            }
            let proposal = BoxXyxy::from(*proposal);
            for (class_id, score) in likely_classes(logits, thresholds.score) {
                let deltas = std::array::from_fn(|i| deltas[4 * class_id + i]);
                let decoded = coder.decode(deltas, proposal).clipped(sizes.resized);
                if decoded.is_at_least(MIN_SIDE) {
                    candidates.push(class_id, score, decoded);
                }
            }
        }
        cancel.check()?;
        Ok(candidates.select(&thresholds, options, sizes))
    }
}

/// Returns `(class, softmax)` of each class whose softmax is more than `threshold`, without the
/// background (class 0). `logits` is `[K]`, the class logits of one region proposal.
fn likely_classes(logits: &[f32], threshold: f32) -> impl Iterator<Item = (usize, f32)> {
    let largest = largest(logits);
    // With `largest`, the largest logit, the softmax of a class is `exp(logit - largest)` divided
    // by a sum of at least 1. It is above the threshold only if the logit is above
    // `largest + ln(threshold)`. Most proposals show only the background and have no other class
    // above this bound, which saves the sum. The margin of 0.01 is far more than rounding errors.
    let least = largest + threshold.ln() - 0.01;
    let objects = logits.iter().enumerate().skip(1);
    let possible = objects.filter(move |(_, logit)| **logit >= least || threshold <= 0.0);
    let mut possible = possible.peekable();
    let sum: f32 = match possible.peek() {
        Some(_) => logits.iter().map(|logit| (logit - largest).exp()).sum(),
        None => 1.0,
    };
    possible
        .map(move |(class_id, logit)| (class_id, (logit - largest).exp() / sum))
        .filter(move |(_, score)| *score > threshold)
}
