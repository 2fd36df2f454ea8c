//! The second stage of Faster R-CNN: what the proposals hold.

use super::boxes::{BoxCoder, clip, is_at_least};
use super::select::Candidates;
use super::{Corners, DetectError, DetectOptions, Detection, Thresholds, expect_count};
use crate::image::DetectorSizes;

/// Shortest side of a detection, in pixels of the resized picture.
const MIN_SIDE: f32 = 1e-2;

/// The thresholds of a box head. Class 0 is the background.
///
/// Source: torchvision's `models/detection/roi_heads.py`, `RoIHeads.postprocess_detections`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxHead {
    /// What the network's deltas are divided by: dx, dy, dw, dh.
    pub box_weights: [f32; 4],
    /// What is kept.
    pub thresholds: Thresholds,
}

impl BoxHead {
    /// The objects of one picture, best first.
    ///
    /// `class_logits` is `[R, K]` and `box_regression` `[R, 4 * K]` for the picture's `R` proposals. A
    /// box is decoded only where its class is likely enough.
    ///
    /// # Errors
    /// [`DetectError`] if they are not that long.
    pub fn detect(
        &self,
        (class_logits, box_regression): (&[f32], &[f32]),
        proposals: &[Corners],
        sizes: &DetectorSizes,
        options: &DetectOptions,
    ) -> Result<Vec<Detection>, DetectError> {
        let thresholds = self.thresholds.narrowed(options);
        let classes = class_logits.len().checked_div(proposals.len()).unwrap_or(0);
        let logits = classes * proposals.len();
        expect_count("class logits", class_logits.len(), logits)?;
        expect_count("box deltas", box_regression.len(), logits.saturating_mul(4))?;
        let mut candidates = Candidates::default();
        let coder = BoxCoder::new(self.box_weights);
        if classes > 0 {
            let rows = class_logits.chunks_exact(classes);
            let deltas = box_regression.chunks_exact(4 * classes);
            for ((logits, deltas), proposal) in rows.zip(deltas).zip(proposals) {
                for (class_id, score) in likely(logits, thresholds.score) {
                    let deltas = std::array::from_fn(|i| deltas[4 * class_id + i]);
                    let decoded = coder.decode(deltas, *proposal);
                    let corners = clip(decoded, sizes.resized);
                    if is_at_least(corners, MIN_SIDE) {
                        candidates.push(class_id, score, corners);
                    }
                }
            }
        }
        Ok(candidates.select(&thresholds, options, sizes))
    }
}

/// The classes, background left out, whose softmax is more than `threshold`, and it.
fn likely(logits: &[f32], threshold: f32) -> impl Iterator<Item = (usize, f32)> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // The sum that divides is at least 1, so that a class needs a logit near the largest. Most
    // proposals show the background alone and end here; a hundredth is far more than rounding.
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
