//! Computes precision, recall and COCO's figures from matches.
//!
//! Source: `COCOeval.accumulate` and `COCOeval.summarize` of pycocotools.

use serde::{Deserialize, Serialize};

use super::matching::Matches;
use super::{AREAS, Evaluation, MAX_DETECTIONS, THRESHOLDS};

/// Number of recall thresholds: 0.00, 0.01, ..., 1.00.
const RECALLS: usize = 101;
/// Names of the figures of [`Figures`], in their order.
pub const FIGURES: [&str; 12] = [
    "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
];

/// COCO's 12 figures in the order of [`FIGURES`], each 0..=1. `None` if no annotation counts for the
/// figure, for which pycocotools prints -1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figures(pub [Option<f64>; 12]);

/// Accuracy on a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct BoxAccuracy {
    /// COCO's 12 figures.
    pub figures: Figures,
    /// Precision of each class that has annotations that count.
    pub classes: Vec<ClassPrecision>,
}

/// Precision of one class, 0..=1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassPrecision {
    /// Class of the annotations.
    pub class_id: usize,
    /// Number of annotations that count.
    pub annotations: u64,
    /// Mean over the IoU thresholds 0.5 to 0.95.
    pub ap: f64,
    /// At the IoU threshold 0.5.
    pub ap50: f64,
}

/// Precision and recall at each IoU threshold.
#[derive(Clone, Copy)]
struct Curve {
    /// Mean of the precision over the recall thresholds.
    precision: [f64; THRESHOLDS],
    recall: [f64; THRESHOLDS],
}

impl Curve {
    fn mean(values: &[f64; THRESHOLDS]) -> f64 {
        values.iter().sum::<f64>() / THRESHOLDS as f64
    }
}

/// A choice of the detections and annotations that count.
#[derive(Clone, Copy)]
struct Selection<'a> {
    /// Index of the area range.
    area: usize,
    /// Maximum number of detections per image.
    max_detections: usize,
    /// Number of times that each image counts. `None` if each counts once.
    weights: Option<&'a [u32]>,
}

impl Selection<'_> {
    fn weight(&self, image: u32) -> u64 {
        let weight = |weights: &[u32]| weights.get(image as usize).copied().unwrap_or_default();
        self.weights.map_or(1, |weights| weight(weights).into())
    }

    /// Returns the number of annotations that count.
    fn annotations(&self, matches: &Matches) -> u64 {
        if self.weights.is_none() {
            return matches.counted[self.area];
        }
        let counts = matches.by_image.iter();
        counts
            .map(|(image, count)| self.weight(*image) * u64::from(*count))
            .sum()
    }

    /// Returns the curve of one class. `None` if no annotation counts.
    fn curve(&self, matches: &Matches) -> Option<Curve> {
        let annotations = self.annotations(matches);
        if annotations == 0 {
            return None;
        }
        let mut curve = Curve {
            precision: [0.0; THRESHOLDS],
            recall: [0.0; THRESHOLDS],
        };
        let mut points = Vec::new();
        for index in 0..THRESHOLDS {
            self.points(matches, index, &mut points);
            let found = points.last().map_or(0, |(found, _)| *found);
            curve.recall[index] = found as f64 / annotations as f64;
            curve.precision[index] = mean_precision(&mut points, annotations);
        }
        Some(curve)
    }

    /// Replaces `points` by the number of correct detections and the precision after each correct
    /// detection, best first, at the IoU threshold `index`.
    fn points(&self, matches: &Matches, index: usize, points: &mut Vec<(u64, f64)>) {
        points.clear();
        let (mut correct, mut wrong) = (0, 0);
        for detection in &matches.detections {
            let is = |set: [u16; AREAS]| set[self.area] >> index & 1 == 1;
            if detection.rank as usize >= self.max_detections || is(detection.ignored) {
                continue;
            }
            let weight = self.weight(detection.image);
            if !is(detection.matched) {
                wrong += weight;
            } else if weight > 0 {
                correct += weight;
                // pycocotools adds the distance from 1 to the next f64 to avoid a division by 0.
                let precision = correct as f64 / (wrong as f64 + correct as f64 + f64::EPSILON);
                points.push((correct, precision));
            }
        }
    }
}

/// Returns the mean over the recall thresholds of the best precision at this or a higher recall; 0 for
/// thresholds above the highest recall. Only correct detections change the recall, so `points` are enough.
fn mean_precision(points: &mut [(u64, f64)], annotations: u64) -> f64 {
    let mut best = 0.0_f64;
    for (_, precision) in points.iter_mut().rev() {
        best = best.max(*precision);
        *precision = best;
    }
    let mut sum = 0.0;
    let mut rest = points.iter().peekable();
    for index in 0..RECALLS {
        let recall = index as f64 * 0.01;
        while rest
            .next_if(|(found, _)| (*found as f64 / annotations as f64) < recall)
            .is_some()
        {}
        match rest.peek() {
            Some((_, precision)) => sum += precision,
            None => break,
        }
    }
    sum / RECALLS as f64
}

/// Returns the mean of `values`, or `None` if there are none.
fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0_u64, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count > 0).then(|| sum / count as f64)
}

impl Evaluation {
    /// Returns COCO's figures and the precision of each class.
    pub fn accuracy(&self) -> BoxAccuracy {
        let of = |area, max_detections| {
            let selection = Selection {
                area,
                max_detections,
                weights: None,
            };
            self.curves(selection)
        };
        let [one, ten, hundred] = MAX_DETECTIONS;
        let all = of(0, hundred);
        let areas = [1, 2, 3].map(|area| of(area, hundred));
        let ap = |curves: &[(usize, Curve)]| {
            mean(
                curves
                    .iter()
                    .map(|(_, curve)| Curve::mean(&curve.precision)),
            )
        };
        let at = |index: usize| mean(all.iter().map(|(_, curve)| curve.precision[index]));
        let ar = |curves: &[(usize, Curve)]| {
            mean(curves.iter().map(|(_, curve)| Curve::mean(&curve.recall)))
        };
        let [small, medium, large] = &areas;
        let figures = Figures([
            ap(&all),
            at(0),
            at(5),
            ap(small),
            ap(medium),
            ap(large),
            ar(&of(0, one)),
            ar(&of(0, ten)),
            ar(&all),
            ar(small),
            ar(medium),
            ar(large),
        ]);
        let counts = |class_id: usize| {
            let found = self.classes.iter().find(|(id, _)| *id == class_id);
            found.map_or(0, |(_, matches)| matches.counted[0])
        };
        let classes = all.iter().map(|(class_id, curve)| ClassPrecision {
            class_id: *class_id,
            annotations: counts(*class_id),
            ap: Curve::mean(&curve.precision),
            ap50: curve.precision[0],
        });
        BoxAccuracy {
            figures,
            classes: classes.collect(),
        }
    }

    /// Returns the figure `AP` of a data set in which the image `i` occurs `weights[i]` times; images
    /// beyond the end of `weights` do not occur. `None` if no annotation counts.
    pub fn weighted_ap(&self, weights: &[u32]) -> Option<f64> {
        let selection = Selection {
            area: 0,
            max_detections: MAX_DETECTIONS[2],
            weights: Some(weights),
        };
        let curves = self.curves(selection);
        mean(
            curves
                .iter()
                .map(|(_, curve)| Curve::mean(&curve.precision)),
        )
    }

    /// Returns the curve of each class that has annotations that count.
    fn curves(&self, selection: Selection<'_>) -> Vec<(usize, Curve)> {
        let classes = self.classes.iter();
        let curves = classes.filter_map(|(id, matches)| Some((*id, selection.curve(matches)?)));
        curves.collect()
    }
}
