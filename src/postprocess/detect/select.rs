//! The last step of every detector: which of the candidates are answered with.

use std::collections::BTreeSet;

use serde::Serialize;

use super::Corners;
use super::boxes::{is_finite, rescale};
use super::nms::batched_nms;
use crate::image::DetectorSizes;

/// One object in a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Number of the class, as in the model's label file.
    pub class_id: usize,
    /// 0..=1.
    pub score: f32,
    /// `[x1, y1, x2, y2]` in pixels of the picture as uploaded.
    pub corners: Corners,
}

/// A detection as answers write it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LabelledDetection<'a> {
    /// Number of the class, as in the model's label file.
    pub class_id: usize,
    /// Name in the label file.
    pub label: &'a str,
    /// 0..=1.
    pub score: f32,
    /// Its box.
    pub r#box: LabelledBox,
}

/// Opposite corners in pixels of the picture as uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LabelledBox {
    /// Left.
    pub x1: f32,
    /// Top.
    pub y1: f32,
    /// Right.
    pub x2: f32,
    /// Bottom.
    pub y2: f32,
}

impl Detection {
    /// With its class's name of `labels`.
    pub fn labelled<'a>(&self, labels: &'a [String]) -> LabelledDetection<'a> {
        let [x1, y1, x2, y2] = self.corners;
        LabelledDetection {
            class_id: self.class_id,
            label: labels.get(self.class_id).map_or("", String::as_str),
            score: self.score,
            r#box: LabelledBox { x1, y1, x2, y2 },
        }
    }
}

/// What a model keeps of its candidates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// Scores must be more than this.
    pub score: f32,
    /// Of two boxes of a class whose intersection over union is more than this, one stays.
    pub iou: f64,
    /// Most objects of one picture.
    pub max_detections: usize,
}

impl Thresholds {
    /// With the request's score threshold where that is the higher one: a box never changes what
    /// becomes of a better one, so those that would be left out in the end need not compete.
    pub(super) fn narrowed(mut self, options: &DetectOptions) -> Self {
        if options.score_threshold > self.score {
            // Equal scores are answered with, and the comparison is strict.
            self.score = options.score_threshold.next_down();
        }
        self
    }
}

/// What a request asks for instead or on top of its model's thresholds; by default nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DetectOptions {
    /// Least score of an answer, after the model's own threshold.
    pub score_threshold: f32,
    /// Instead of [`Thresholds::iou`].
    pub iou_threshold: Option<f64>,
    /// Instead of [`Thresholds::max_detections`].
    pub max_detections: Option<usize>,
    /// The only classes to answer with. Others do not count among the most objects.
    pub classes: Option<BTreeSet<usize>>,
}

impl DetectOptions {
    fn wants(&self, class_id: usize, score: f32) -> bool {
        let classes = self.classes.as_ref();
        score >= self.score_threshold && classes.is_none_or(|all| all.contains(&class_id))
    }
}

/// Boxes in pixels of the resized picture, with a score and a class each.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    corners: Vec<Corners>,
    scores: Vec<f32>,
    classes: Vec<u32>,
}

impl Candidates {
    /// Takes a box, unless a corner of it is no number.
    pub(super) fn push(&mut self, class_id: usize, score: f32, corners: Corners) {
        if is_finite(corners) {
            self.corners.push(corners);
            self.scores.push(score);
            self.classes.push(class_id as u32);
        }
    }

    /// The best of the boxes that do not overlap, best first.
    ///
    /// The request's own choice comes after the suppression, so that it never changes which boxes
    /// remain of those that it leaves in.
    pub(super) fn select(
        &self,
        thresholds: &Thresholds,
        options: &DetectOptions,
        sizes: &DetectorSizes,
    ) -> Vec<Detection> {
        let iou = options.iou_threshold.unwrap_or(thresholds.iou);
        let most = options.max_detections.unwrap_or(thresholds.max_detections);
        let kept = batched_nms(&self.corners, &self.scores, &self.classes, iou);
        let detections = kept.into_iter().map(|i| Detection {
            class_id: self.classes[i] as usize,
            score: self.scores[i],
            corners: rescale(self.corners[i], sizes.resized, sizes.original),
        });
        detections
            .filter(|detection| options.wants(detection.class_id, detection.score))
            .take(most)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageSize;

    fn classes(options: &DetectOptions) -> Vec<usize> {
        let side = |side| ImageSize {
            width: side,
            height: side,
        };
        let sizes = DetectorSizes {
            original: side(50),
            resized: side(100),
            padded: side(128),
        };
        let mut candidates = Candidates::default();
        for (class_id, score, left) in [(1, 0.9, 0.0), (1, 0.8, 5.0), (2, 0.7, 0.0), (3, 0.2, 0.0)]
        {
            candidates.push(class_id, score, [left, 0.0, left + 20.0, 20.0]);
        }
        candidates.push(1, 1.0, [f32::NAN, 0.0, 1.0, 1.0]);
        let thresholds = Thresholds {
            score: 0.05,
            iou: 0.5,
            max_detections: 2,
        };
        let got = candidates.select(&thresholds, options, &sizes);
        assert!(
            got.iter()
                .all(|d| d.corners[2] <= 12.5 && d.corners[3] == 10.0)
        );
        got.iter().map(|detection| detection.class_id).collect()
    }

    #[test]
    fn a_requests_threshold_counts_where_it_is_the_higher_one() {
        let model = Thresholds {
            score: 0.05,
            iou: 0.5,
            max_detections: 2,
        };
        let asked = |score_threshold| DetectOptions {
            score_threshold,
            ..DetectOptions::default()
        };
        for score in [0.0, 0.01, 0.05] {
            assert_eq!(model.narrowed(&asked(score)), model);
        }
        let narrowed = model.narrowed(&asked(0.5)).score;
        assert!((0.499_999_9..0.5).contains(&narrowed));
    }

    #[test]
    fn a_request_chooses_among_what_remains() {
        let none = DetectOptions::default();
        assert_eq!(classes(&none), [1, 2]);
        let many = DetectOptions {
            max_detections: Some(9),
            ..none.clone()
        };
        assert_eq!(classes(&many), [1, 2, 3]);
        let loose = DetectOptions {
            iou_threshold: Some(0.9),
            ..many.clone()
        };
        assert_eq!(classes(&loose), [1, 1, 2, 3]);
        let sure = DetectOptions {
            score_threshold: 0.7,
            ..many
        };
        assert_eq!(classes(&sure), [1, 2]);
        let third = DetectOptions {
            classes: Some(BTreeSet::from([3, 99])),
            max_detections: Some(1),
            ..none
        };
        assert_eq!(classes(&third), [3]);
    }
}
