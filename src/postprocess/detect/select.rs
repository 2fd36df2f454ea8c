//! The last step of every detector: suppression, then the selection of detections by the request's
//! options.

use std::collections::BTreeSet;

use serde::Serialize;

use super::BoxXyxy;
use super::nms::batched_nms;
use crate::image::DetectorSizes;

/// One detected object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Index of the class in the model's label file.
    pub class_id: usize,
    /// Confidence that the box holds an object of the class, 0..=1.
    pub score: f32,
    /// The object's box in pixels of the original image.
    pub bounding_box: BoxXyxy,
}

/// A detection as responses contain it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LabeledDetection<'a> {
    /// Index of the class in the model's label file.
    pub class_id: usize,
    /// Name of the class, read from the model's label file; empty if the file has too few lines.
    pub label: &'a str,
    /// Confidence that the box holds an object of the class, 0..=1.
    pub score: f32,
    /// The object's box in pixels of the original image.
    pub r#box: BoxXyxy,
}

impl Detection {
    /// Returns the detection with the name of its class, read from `labels`, which has one name per
    /// class. The name is empty if `labels` is too short.
    pub fn labeled<'a>(&self, labels: &'a [String]) -> LabeledDetection<'a> {
        LabeledDetection {
            class_id: self.class_id,
            label: labels.get(self.class_id).map_or("", String::as_str),
            score: self.score,
            r#box: self.bounding_box,
        }
    }
}

/// A model's thresholds for detections.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// A detection must have a score above this value, 0..=1.
    pub score: f32,
    /// Intersection over union above which the lower-scoring of two boxes of a class is suppressed.
    pub iou: f64,
    /// Maximum number of detections per image.
    pub max_detections: usize,
}

impl Thresholds {
    /// Returns the thresholds with the higher of two score thresholds: the model's and the
    /// request's. A box only suppresses boxes of lower scores, so boxes below the request's
    /// threshold need not take part in suppression.
    pub(super) fn narrowed(mut self, options: &DetectOptions) -> Self {
        if options.score_threshold > self.score {
            // A score equal to the request's threshold passes, but a score equal to the model's
            // threshold does not. So the model's threshold is set to the next lower f32.
            self.score = options.score_threshold.next_down();
        }
        self
    }
}

/// A request's detection options, which override or narrow the model's thresholds. The default
/// options leave the model's thresholds unchanged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DetectOptions {
    /// Minimum score of a detection, applied in addition to [`Thresholds::score`].
    pub score_threshold: f32,
    /// Intersection over union that replaces [`Thresholds::iou`]. `None` to use the model's value.
    pub iou_threshold: Option<f64>,
    /// Number of detections that replaces [`Thresholds::max_detections`]. `None` to use the model's
    /// value.
    pub max_detections: Option<usize>,
    /// Indices of the classes to return; `None` to return all classes. Detections of other classes
    /// do not count towards `max_detections`.
    pub classes: Option<BTreeSet<usize>>,
}

impl DetectOptions {
    fn includes(&self, class_id: usize, score: f32) -> bool {
        let classes = self.classes.as_ref();
        score >= self.score_threshold && classes.is_none_or(|all| all.contains(&class_id))
    }
}

/// Boxes before suppression, in pixels of the resized image, each with a score and a class.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    boxes: Vec<BoxXyxy>,
    scores: Vec<f32>,
    classes: Vec<u32>,
}

impl Candidates {
    /// Adds a box, unless one of its edges is NaN or infinite.
    pub(super) fn push(&mut self, class_id: usize, score: f32, bounding_box: BoxXyxy) {
        if bounding_box.is_finite() {
            self.boxes.push(bounding_box);
            self.scores.push(score);
            self.classes.push(class_id as u32);
        }
    }

    /// Suppresses overlapping boxes and returns the remaining detections that match the request's
    /// options, best first, in pixels of the original image.
    ///
    /// The request's classes, score threshold and maximum number of detections are applied after
    /// suppression.
    pub(super) fn select(
        &self,
        thresholds: &Thresholds,
        options: &DetectOptions,
        sizes: &DetectorSizes,
    ) -> Vec<Detection> {
        let iou = options.iou_threshold.unwrap_or(thresholds.iou);
        let most = options.max_detections.unwrap_or(thresholds.max_detections);
        let kept = batched_nms(&self.boxes, &self.scores, &self.classes, iou);
        let detections = kept.into_iter().map(|i| Detection {
            class_id: self.classes[i] as usize,
            score: self.scores[i],
            bounding_box: self.boxes[i].rescaled(sizes.resized, sizes.original),
        });
        detections
            .filter(|detection| options.includes(detection.class_id, detection.score))
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
            let bounding_box = BoxXyxy::new(left, 0.0, left + 20.0, 20.0);
            candidates.push(class_id, score, bounding_box);
        }
        candidates.push(1, 1.0, BoxXyxy::new(f32::NAN, 0.0, 1.0, 1.0));
        let thresholds = Thresholds {
            score: 0.05,
            iou: 0.5,
            max_detections: 2,
        };
        let got = candidates.select(&thresholds, options, &sizes);
        let scaled = |d: &Detection| d.bounding_box.x2 <= 12.5 && d.bounding_box.y2 == 10.0;
        assert!(got.iter().all(scaled));
        got.iter().map(|detection| detection.class_id).collect()
    }

    #[test]
    fn the_higher_of_two_score_thresholds_counts() {
        let model = Thresholds {
            score: 0.05,
            iou: 0.5,
            max_detections: 2,
        };
        let with_threshold = |score_threshold| DetectOptions {
            score_threshold,
            ..DetectOptions::default()
        };
        for score in [0.0, 0.01, 0.05] {
            assert_eq!(model.narrowed(&with_threshold(score)), model);
        }
        let narrowed = model.narrowed(&with_threshold(0.5)).score;
        assert!((0.499_999_9..0.5).contains(&narrowed));
    }

    #[test]
    fn request_options_select_among_the_remaining_boxes() {
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
