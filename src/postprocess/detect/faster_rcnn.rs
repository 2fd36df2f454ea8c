//! The second stage of Faster R-CNN: class scores and boxes of the region proposals.

use super::box_coder::BoxCoder;
use super::select::Candidates;
use super::{BoxXyxy, DetectError, DetectOptions, Detection, Thresholds, expect_count};
use crate::cancel::Cancel;
use crate::image::DetectorSizes;
use crate::postprocess::scores::largest;

/// Minimum width and height of a detection, in pixels of the resized image.
const MIN_SIDE: f32 = 1e-2;
/// Number of proposals that are processed between two checks for cancellation: well under a
/// millisecond of work.
const PROPOSALS_PER_CHECK: usize = 64;

/// The settings of Faster R-CNN's box head. Class 0 is the background.
///
/// Source: torchvision's `models/detection/roi_heads.py`, `RoIHeads.postprocess_detections`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxHead {
    /// Divisors of the network's box deltas: dx, dy, dw, dh.
    pub box_weights: [f32; 4],
    /// The model's thresholds.
    pub thresholds: Thresholds,
}

/// The outputs of Faster R-CNN's two sessions for the `R` region proposals of one image.
#[derive(Debug, Clone, Copy)]
pub struct BoxHeadOutputs<'a> {
    /// The proposals, `[R, 4]`: x1, y1, x2, y2 in pixels of the resized image.
    pub proposals: &'a [[f32; 4]],
    /// Class logits `[R, K]`.
    pub class_logits: &'a [f32],
    /// Box deltas `[R, 4 * K]`: dx, dy, dw, dh per class.
    pub box_regression: &'a [f32],
}

impl BoxHeadOutputs<'_> {
    /// Checks the lengths and returns the number of classes `K`, 0 without proposals.
    fn classes(&self) -> Result<usize, DetectError> {
        let proposals = self.proposals.len();
        let classes = self.class_logits.len().checked_div(proposals).unwrap_or(0);
        let logits = classes * proposals;
        let deltas = logits.saturating_mul(4);
        expect_count("number of class logits", self.class_logits.len(), logits)?;
        expect_count("number of box deltas", self.box_regression.len(), deltas)?;
        Ok(classes)
    }
}

impl BoxHead {
    /// Returns the detections of one image, best first.
    ///
    /// # Errors
    /// [`DetectError`] if the lengths of `outputs` do not fit each other, or if the work is cancelled.
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

/// Returns index and softmax of each class, except the background, whose softmax is more than
/// `threshold`.
fn likely_classes(logits: &[f32], threshold: f32) -> impl Iterator<Item = (usize, f32)> {
    let largest = largest(logits);
    // The divisor of the softmax is at least 1, so a class needs a logit near the largest. Most
    // proposals show only the background and end here. The margin of 0.01 is far more than rounding
    // errors.
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
