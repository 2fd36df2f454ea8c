//! How near two versions of a network are to each other: their numbers, and their answers.

use crate::cancel::Cancel;
use crate::engine::Tensor;
use crate::image::ImageSize;
use crate::manifest::Task;
use crate::postprocess::detect::{DetectError, DetectOptions, Detection, Detector};
use crate::postprocess::scores::{argmax, softmax};

/// The outputs of a network for one picture, if it had anything to look at.
pub(super) type OutputSet = Option<Vec<Tensor>>;

/// A detection counts from this score.
const BOX_SCORE: f32 = 0.5;
/// The other network's may score this much less: what lies on the threshold is no disagreement.
const SCORE_SLACK: f32 = 0.1;
/// Two boxes are one if they overlap so much. Source: the first threshold of COCO's AP.
const BOX_IOU: f32 = 0.5;

/// Cosine similarity of two lists of numbers; 1 for two lists of zeros.
pub fn cosine(one: &[f32], other: &[f32]) -> f64 {
    let (mut dot, mut one_square, mut other_square) = (0.0, 0.0, 0.0);
    for (a, b) in one.iter().zip(other) {
        let (a, b) = (f64::from(*a), f64::from(*b));
        dot += a * b;
        one_square += a * a;
        other_square += b * b;
    }
    if one_square == 0.0 && other_square == 0.0 {
        return 1.0;
    }
    let product = (one_square * other_square).sqrt();
    if product > 0.0 { dot / product } else { 0.0 }
}

/// Mean over the outputs of their cosine similarity.
pub(super) fn mean_cosine(one: &OutputSet, other: &OutputSet) -> f64 {
    let (Some(one), Some(other)) = (one, other) else {
        return f64::from(u8::from(one.is_none() && other.is_none()));
    };
    let pairs = one.iter().zip(other);
    let sum: f64 = pairs
        .map(|(one, other)| cosine(&one.data, &other.data))
        .sum();
    sum / one.len().max(1) as f64
}

/// Signal over noise in decibels: how far `rounded` is from `exact`.
pub(super) fn signal_to_noise(exact: &[f32], rounded: &[f32]) -> f64 {
    let square = |number: f64| number * number;
    let signal: f64 = exact.iter().map(|number| square(f64::from(*number))).sum();
    let pairs = exact.iter().zip(rounded);
    let noise: f64 = pairs
        .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
        .sum();
    10.0 * (signal.max(1e-30) / noise.max(1e-30)).log10()
}

/// What a network says of one picture.
#[derive(Debug, Clone, PartialEq)]
pub enum Answers {
    /// Softmax scores by class.
    Scores(Vec<f32>),
    /// The class of every point at the head's resolution.
    Mask(Vec<u8>),
    /// Boxes that count, and those that score a little less.
    Boxes(Vec<Detection>),
}

impl Answers {
    /// From the outputs of a model's networks for a picture of size `original`.
    ///
    /// # Errors
    /// [`DetectError`] for outputs that do not fit the detector.
    pub fn new(
        task: Task,
        detector: Option<&Detector>,
        outputs: &[Tensor],
        original: ImageSize,
    ) -> Result<Self, DetectError> {
        if let Some(detector) = detector {
            let options = DetectOptions {
                score_threshold: BOX_SCORE - SCORE_SLACK,
                ..DetectOptions::default()
            };
            return Ok(Self::Boxes(detector.detect(
                outputs,
                original,
                &options,
                &Cancel::never(),
            )?));
        }
        let numbers = outputs
            .first()
            .map_or(&[][..], |output| output.data.as_slice());
        Ok(match task {
            Task::Segmentation => {
                let classes = outputs.first().and_then(|output| output.shape.first());
                Self::Mask(best_classes(numbers, classes.copied().unwrap_or(1)))
            }
            _ => Self::Scores(softmax(numbers)),
        })
    }

    /// How far `other` agrees with these answers, 0 to 1, and by how much a score changes: that
    /// of the best class, the share of points, or those of boxes that both have.
    fn compare(&self, other: &Self) -> (f64, f64) {
        match (self, other) {
            (Self::Scores(one), Self::Scores(other)) => {
                let (best, others) = (argmax(one).unwrap_or(0), argmax(other).unwrap_or(0));
                let change = one
                    .get(best)
                    .zip(other.get(best))
                    .map_or(0.0, |(a, b)| (a - b).abs());
                (f64::from(u8::from(best == others)), f64::from(change))
            }
            (Self::Mask(one), Self::Mask(other)) => {
                let same = one.iter().zip(other).filter(|(a, b)| a == b).count();
                let share = same as f64 / one.len().max(1) as f64;
                (share, 1.0 - share)
            }
            (Self::Boxes(one), Self::Boxes(other)) => compare_boxes(one, other),
            _ => (0.0, 1.0),
        }
    }
}

fn best_classes(scores: &[f32], classes: usize) -> Vec<u8> {
    let points = scores.len() / classes.max(1);
    let class = |point: usize| {
        let score = |class: &usize| scores[class * points + point];
        (0..classes).max_by(|one, other| score(one).total_cmp(&score(other)).then(other.cmp(one)))
    };
    (0..points)
        .map(|point| class(point).unwrap_or_default() as u8)
        .collect()
}

/// Boxes that have a partner on the other side, over all; and the mean change of their scores.
fn compare_boxes(one: &[Detection], other: &[Detection]) -> (f64, f64) {
    let (mut all, mut found, mut change) = (0.0, 0.0, 0.0);
    for (from, to) in [(one, other), (other, one)] {
        for detection in from.iter().filter(|detection| detection.score >= BOX_SCORE) {
            all += 1.0;
            let same = |partner: &&Detection| {
                partner.class_id == detection.class_id
                    && partner.bounding_box.iou(detection.bounding_box) > BOX_IOU
            };
            if let Some(partner) = to.iter().find(same) {
                found += 1.0;
                change += f64::from((partner.score - detection.score).abs());
            }
        }
    }
    if all == 0.0 {
        (1.0, 0.0)
    } else {
        (found / all, change / f64::max(found, 1.0))
    }
}

/// Agreement over a number of pictures.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Agreement {
    /// Pictures that were compared.
    pub pictures: usize,
    /// Mean agreement of a picture's answers: 1 where the best class is the same, the share of equal
    /// points of masks, the share of boxes that both find.
    pub agreement: f64,
    /// Mean change of a score; of masks, the share of points that differ.
    pub mean_change: f64,
    /// The largest of any picture.
    pub worst_change: f64,
}

impl Agreement {
    /// Compares answers picture by picture.
    pub fn of(float: &[Answers], int8: &[Answers]) -> Self {
        let pairs: Vec<(f64, f64)> = float.iter().zip(int8).map(|(f, q)| f.compare(q)).collect();
        let count = pairs.len().max(1) as f64;
        Self {
            pictures: pairs.len(),
            agreement: pairs.iter().map(|(same, _)| same).sum::<f64>() / count,
            mean_change: pairs.iter().map(|(_, change)| change).sum::<f64>() / count,
            worst_change: pairs.iter().map(|(_, change)| *change).fold(0.0, f64::max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines() {
        let cases = [
            (vec![1.0, 2.0], vec![2.0, 4.0], 1.0),
            (vec![1.0, 0.0], vec![0.0, 1.0], 0.0),
            (vec![1.0], vec![-3.0], -1.0),
            (vec![0.0], vec![0.0], 1.0),
            (vec![0.0], vec![1.0], 0.0),
        ];
        for (one, other, expected) in cases {
            assert!(
                (cosine(&one, &other) - expected).abs() < 1e-12,
                "{one:?} {other:?}"
            );
        }
        let (some, none) = (Some(vec![]), None);
        assert_eq!(mean_cosine(&none, &none), 1.0);
        assert_eq!(mean_cosine(&some, &none), 0.0);
    }

    #[test]
    fn scores_and_masks_agree_by_their_best_class() {
        let scores = |logits: &[f32]| Answers::Scores(softmax(logits));
        let (same, change) = scores(&[1.0, 3.0]).compare(&scores(&[1.0, 2.5]));
        assert!(same == 1.0 && (0.05..0.1).contains(&change), "{change}");
        assert_eq!(scores(&[1.0, 3.0]).compare(&scores(&[4.0, 3.0])).0, 0.0);
        // Two classes over four points; a tie goes to the lower class.
        let mask = best_classes(&[1.0, 0.0, 2.0, 0.0, 0.0, 1.0, 2.0, 3.0], 2);
        assert_eq!(mask, [0, 1, 0, 1]);
        let other = Answers::Mask(vec![0, 1, 1, 1]);
        assert_eq!(Answers::Mask(mask).compare(&other), (0.75, 0.25));
    }

    #[test]
    fn boxes_near_the_threshold_are_no_disagreement() {
        let found = |class_id, score, x| Detection {
            class_id,
            score,
            bounding_box: [x, 0.0, x + 10.0, 10.0].into(),
        };
        let cases = [
            (vec![], vec![], 1.0),
            (vec![found(1, 0.55, 0.0)], vec![found(1, 0.45, 1.0)], 1.0),
            (vec![found(1, 0.9, 0.0)], vec![found(2, 0.9, 0.0)], 0.0),
            (vec![found(1, 0.9, 0.0)], vec![found(1, 0.9, 9.0)], 0.0),
            (
                vec![found(1, 0.9, 0.0), found(1, 0.8, 30.0)],
                vec![found(1, 0.9, 0.0)],
                2.0 / 3.0,
            ),
        ];
        for (one, other, expected) in cases {
            let (agreement, _) = compare_boxes(&one, &other);
            assert!(
                (agreement - expected).abs() < 1e-9,
                "{one:?} {other:?}: {agreement}"
            );
        }
    }
}
