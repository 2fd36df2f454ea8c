//! SSD and `SSDlite`: every default box tells its classes and its box.

use super::boxes::{BoxCoder, clip};
use super::select::Candidates;
use super::softmax::Softmax;
use super::topk::TopK;
use super::{
    DefaultBoxes, DetectError, DetectOptions, Detection, FeatureMap, HeadLevel, Thresholds,
    expect_count,
};
use crate::image::DetectorSizes;

/// An SSD's default boxes and thresholds. Class 0 is the background.
///
/// Source: torchvision's `models/detection/ssd.py`, `SSD.postprocess_detections`.
#[derive(Debug, Clone, PartialEq)]
pub struct Ssd {
    /// Reference boxes of its levels.
    pub boxes: DefaultBoxes,
    /// What the network's deltas are divided by: dx, dy, dw, dh.
    pub box_weights: [f32; 4],
    /// Most boxes of one class that are looked at.
    pub topk_candidates: usize,
    /// What is kept.
    pub thresholds: Thresholds,
}

impl Ssd {
    /// The objects of one picture, best first.
    ///
    /// # Errors
    /// [`DetectError`] for maps that do not fit the default boxes.
    pub fn detect(
        &self,
        levels: &[HeadLevel<'_>],
        sizes: &DetectorSizes,
        options: &DetectOptions,
    ) -> Result<Vec<Detection>, DetectError> {
        let thresholds = self.thresholds.narrowed(options);
        expect_count("levels", levels.len(), self.boxes.levels())?;
        let mut best: Vec<TopK> = Vec::new();
        let mut starts = Vec::with_capacity(levels.len());
        let mut start = 0;
        for (number, level) in levels.iter().enumerate() {
            let per_point = self.boxes.per_point(number);
            let classes = level.classes(per_point)?;
            if best.is_empty() {
                best.resize_with(classes, || TopK::new(self.topk_candidates));
            }
            expect_count("classes of a level", classes, best.len())?;
            let from = (start, thresholds.score);
            score(&level.scores, per_point, from, &mut best);
            starts.push(start);
            start += level.scores.points() * per_point;
        }
        let mut candidates = Candidates::default();
        let coder = BoxCoder::new(self.box_weights);
        for (class_id, best) in best.into_iter().enumerate() {
            for (score, place) in best.into_sorted() {
                let number = starts.partition_point(|start| *start <= place as usize) - 1;
                let anchor = place as usize - starts[number];
                let points = levels[number].scores.size;
                let deltas = levels[number].deltas(anchor, self.boxes.per_point(number));
                let reference = self.boxes.anchor(number, points, sizes.padded, anchor);
                let decoded = coder.decode(deltas, reference);
                candidates.push(class_id, score, clip(decoded, sizes.resized));
            }
        }
        Ok(candidates.select(&thresholds, options, sizes))
    }
}

/// Hands what passes `threshold` to each class, numbered from `start` in the order (h, w, a).
fn score(
    map: &FeatureMap<'_>,
    per_point: usize,
    (start, threshold): (usize, f32),
    best: &mut [TopK],
) {
    let mut softmax = Softmax::default();
    for a in 0..per_point {
        let channels = a * best.len()..(a + 1) * best.len();
        softmax.load(channels.map(|channel| map.plane(channel)), map.points());
        for (class, best) in best.iter_mut().enumerate().skip(1) {
            for (point, score) in softmax.over(class, threshold) {
                best.push(score, (start + point * per_point + a) as u32);
            }
        }
    }
}
