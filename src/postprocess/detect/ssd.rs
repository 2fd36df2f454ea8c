//! Postprocessing of SSD and `SSDlite`: every default box has class scores and box deltas.

use super::box_coder::BoxCoder;
use super::select::Candidates;
use super::softmax::Softmax;
use super::topk::TopK;
use super::{
    DefaultBoxes, DetectError, DetectOptions, Detection, FeatureMap, HeadLevel, Thresholds,
    expect_count,
};
use crate::cancel::Cancel;
use crate::image::DetectorSizes;

/// Default boxes, settings and thresholds of an SSD. Class 0 of its outputs is the background.
///
/// Source: torchvision's `models/detection/ssd.py`, `SSD.postprocess_detections`.
#[derive(Debug, Clone, PartialEq)]
pub struct Ssd {
    /// Default boxes of each feature map level.
    pub boxes: DefaultBoxes,
    /// Divisors of the box deltas dx, dy, dw and dh, in this order.
    pub box_weights: [f32; 4],
    /// Maximum number of candidates per class over all feature map levels: those with the highest
    /// scores.
    pub topk_candidates: usize,
    /// The model's score threshold, overlap threshold and maximum number of detections.
    pub thresholds: Thresholds,
}

impl Ssd {
    /// Returns the detections of one image, best first, in pixels of the original image.
    ///
    /// # Errors
    /// [`DetectError`] if the feature maps do not fit the default boxes, or if the work is
    /// cancelled.
    pub fn detect(
        &self,
        levels: &[HeadLevel<'_>],
        sizes: &DetectorSizes,
        options: &DetectOptions,
        cancel: &Cancel,
    ) -> Result<Vec<Detection>, DetectError> {
        let thresholds = self.thresholds.narrowed(options);
        let best = self.best_of_each_class(levels, thresholds.score, cancel)?;
        let coder = BoxCoder::new(self.box_weights);
        let mut candidates = Candidates::default();
        for (class_id, class) in best.classes.into_iter().enumerate() {
            cancel.check()?;
            for (score, place) in class.into_sorted() {
                let index = best
                    .starts
                    .partition_point(|start| *start <= place as usize)
                    - 1;
                let (level, anchor) = (&levels[index], place as usize - best.starts[index]);
                let deltas = level.deltas(anchor, self.boxes.per_point(index));
                let grid = self.boxes.grid(index, level.scores.size, sizes.padded);
                let decoded = coder.decode(deltas, grid.anchor(anchor));
                candidates.push(class_id, score, decoded.clipped(sizes.resized));
            }
        }
        Ok(candidates.select(&thresholds, options, sizes))
    }

    /// Returns the `topk_candidates` best scores of each class over all levels; every score is
    /// above `threshold`.
    fn best_of_each_class(
        &self,
        levels: &[HeadLevel<'_>],
        threshold: f32,
        cancel: &Cancel,
    ) -> Result<BestScores, DetectError> {
        expect_count(
            "number of feature map levels",
            levels.len(),
            self.boxes.levels(),
        )?;
        let mut best = BestScores::default();
        let mut start = 0;
        for (index, level) in levels.iter().enumerate() {
            cancel.check()?;
            let per_point = self.boxes.per_point(index);
            let classes = level.classes(per_point)?;
            if best.classes.is_empty() {
                let class = || TopK::new(self.topk_candidates);
                best.classes.resize_with(classes, class);
            }
            expect_count(
                "number of classes of a feature map level",
                classes,
                best.classes.len(),
            )?;
            best.starts.push(start);
            best.add_level(&level.scores, per_point, threshold);
            start += level.scores.points() * per_point;
        }
        Ok(best)
    }
}

/// The best scores of each class, each with the index of its default box. Default boxes are counted
/// over all feature map levels.
#[derive(Default)]
struct BestScores {
    /// The best scores of each class, by class index; none for the background.
    classes: Vec<TopK>,
    /// Index of the first default box of each level.
    starts: Vec<usize>,
}

impl BestScores {
    /// Adds the scores above `threshold` of one level with `per_point` default boxes per point. The
    /// caller has added the index of the level's first default box to `starts`.
    fn add_level(&mut self, map: &FeatureMap<'_>, per_point: usize, threshold: f32) {
        let start = self.starts.last().copied().unwrap_or(0);
        let classes = self.classes.len();
        let mut softmax = Softmax::default();
        for a in 0..per_point {
            let channels = a * classes..(a + 1) * classes;
            softmax.load(channels.map(|channel| map.plane(channel)), map.points());
            for (class, best) in self.classes.iter_mut().enumerate().skip(1) {
                for (point, score) in softmax.over(class, threshold) {
                    best.push(score, (start + point * per_point + a) as u32);
                }
            }
        }
    }
}
