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

/// An SSD's default boxes, settings and thresholds. Class 0 is the background.
///
/// Source: torchvision's `models/detection/ssd.py`, `SSD.postprocess_detections`.
#[derive(Debug, Clone, PartialEq)]
pub struct Ssd {
    /// Default boxes of each level.
    pub boxes: DefaultBoxes,
    /// Divisors of the network's box deltas: dx, dy, dw, dh.
    pub box_weights: [f32; 4],
    /// Most candidates per class over all levels; those with the highest scores are chosen.
    pub topk_candidates: usize,
    /// The model's thresholds.
    pub thresholds: Thresholds,
}

impl Ssd {
    /// Returns the detections of one image, best first.
    ///
    /// # Errors
    /// [`DetectError`] if the feature maps do not fit the default boxes, or if the work is cancelled.
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

    /// Returns the best scores of each class over all levels.
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
            expect_count("number of classes of a level", classes, best.classes.len())?;
            best.starts.push(start);
            best.add_level(&level.scores, per_point, threshold);
            start += level.scores.points() * per_point;
        }
        Ok(best)
    }
}

/// The best scores of each class. Each score has the index of its default box, counted over all
/// levels.
#[derive(Default)]
struct BestScores {
    /// The selection of each class, by class index.
    classes: Vec<TopK>,
    /// Index of each level's first default box.
    starts: Vec<usize>,
}

impl BestScores {
    /// Adds the scores above `threshold` of one level, whose start the caller has pushed to `starts`.
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
