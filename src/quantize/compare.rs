//! Comparison of two versions of a network (fp32 and int8): of their outputs, and of their results
//! for a task.

use crate::cancel::Cancel;
use crate::engine::{Outputs, Tensor};
use crate::image::ImageSize;
use crate::manifest::{ModelManifest, Task};
use crate::postprocess::classify::scores;
use crate::postprocess::detect::{DetectOptions, Detection, Detector};
use crate::postprocess::scores::argmax;
use crate::postprocess::segment::{MaskJob, segment};
use crate::postprocess::{OutputError, primary_output};

/// The outputs of a network for one image. `None` if the network is a box head and the image has no
/// region proposals.
pub(super) type OutputSet = Option<Vec<Tensor>>;

/// Minimum score of a detection for which a match in the other version's results is searched.
const BOX_SCORE: f32 = 0.5;
/// Amount by which the score of the matching detection may be below [`BOX_SCORE`], so that scores
/// near this threshold do not count as disagreement.
const SCORE_SLACK: f32 = 0.1;
/// Intersection over union above which two boxes match. Source: the lowest threshold of COCO's AP.
const BOX_IOU: f32 = 0.5;

/// Returns the cosine similarity of two vectors. 1 if all elements of both vectors are 0; 0 if all
/// elements of only one vector are 0.
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

/// Returns the cosine similarity of two output sets, averaged over their outputs. 1 if both output
/// sets are `None`, 0 if only one of them is `None`.
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

/// Returns the signal-to-noise ratio of `rounded` in decibels, with `exact` as the signal.
pub(super) fn signal_to_noise(exact: &[f32], rounded: &[f32]) -> f64 {
    let square = |value: f64| value * value;
    let signal: f64 = exact.iter().map(|value| square(f64::from(*value))).sum();
    let pairs = exact.iter().zip(rounded);
    let noise: f64 = pairs
        .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
        .sum();
    10.0 * (signal.max(1e-30) / noise.max(1e-30)).log10()
}

/// The result of a network for one image, for the task of the model.
#[derive(Debug, Clone, PartialEq)]
pub enum Answers {
    /// Classification: the score of each class, by class index.
    Scores(Vec<f32>),
    /// Segmentation: the class of every point, at the resolution of the network's output.
    Mask(Vec<u8>),
    /// Detection: detections with a score of at least 0.4, which is `BOX_SCORE` minus
    /// `SCORE_SLACK`.
    Boxes(Vec<Detection>),
}

impl Answers {
    /// Computes the result from the outputs of the model `manifest` for an image of size `original`. `detector`
    /// is the postprocessing of a detection model, `None` for other tasks.
    ///
    /// # Errors
    /// [`OutputError`] if the outputs do not fit the detector or a mask.
    pub fn new(
        manifest: &ModelManifest,
        detector: Option<&Detector>,
        outputs: &Outputs,
        original: ImageSize,
    ) -> Result<Self, OutputError> {
        if let Some(detector) = detector {
            let options = DetectOptions {
                score_threshold: BOX_SCORE - SCORE_SLACK,
                ..DetectOptions::default()
            };
            let detections = detector.detect(outputs, original, &options, &Cancel::never());
            return Ok(Self::Boxes(detections?));
        }
        let output = primary_output(manifest.task, outputs)?;
        if manifest.task == Task::Segmentation {
            let mask = segment(output, None, MaskJob::alone(&Cancel::never()))?;
            return Ok(Self::Mask(mask.classes().to_vec()));
        }
        let activation = manifest.activation.unwrap_or_default();
        Ok(Self::Scores(scores(&output.data, activation)))
    }

    /// Compares the results of two versions of a network for the same image; `self` is the result
    /// of the first version.
    fn compare(&self, other: &Self) -> Comparison {
        match (self, other) {
            (Self::Scores(one), Self::Scores(other)) => {
                let (best, others) = (argmax(one).unwrap_or(0), argmax(other).unwrap_or(0));
                let change = one
                    .get(best)
                    .zip(other.get(best))
                    .map_or(0.0, |(a, b)| (a - b).abs());
                Comparison {
                    agreement: f64::from(u8::from(best == others)),
                    change: f64::from(change),
                }
            }
            (Self::Mask(one), Self::Mask(other)) => {
                let same = one.iter().zip(other).filter(|(a, b)| a == b).count();
                let share = same as f64 / one.len().max(1) as f64;
                Comparison {
                    agreement: share,
                    change: 1.0 - share,
                }
            }
            (Self::Boxes(one), Self::Boxes(other)) => compare_boxes(one, other),
            _ => Comparison {
                agreement: 0.0,
                change: 1.0,
            },
        }
    }
}

/// How much the results of two versions of a network differ for one image.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Comparison {
    /// Classification: 1 if both versions rank the same class first, 0 if they do not.
    /// Segmentation: share of the mask's elements with equal classes. Detection: share of both
    /// versions' detections (score of [`BOX_SCORE`] or more) that have a match in the other
    /// version.
    agreement: f64,
    /// Classification: absolute difference between the two scores of the class that the first
    /// version ranks first. Segmentation: share of the mask's elements with different classes.
    /// Detection: mean absolute score difference of matching detections.
    change: f64,
}

/// Compares the detections of two versions for one image. Two detections match if they have the
/// same class and an intersection over union of more than [`BOX_IOU`].
fn compare_boxes(one: &[Detection], other: &[Detection]) -> Comparison {
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
    Comparison {
        agreement: if all == 0.0 { 1.0 } else { found / all },
        change: change / f64::max(found, 1.0),
    }
}

/// Agreement of the fp32 and the int8 version of a network over several images.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Agreement {
    /// Number of images that were compared.
    #[serde(rename = "pictures")]
    pub images: usize,
    /// Mean agreement per image. Classification: 1 if both versions rank the same class first, 0 if
    /// they do not. Segmentation: share of the mask's elements with equal classes. Detection: share
    /// of both versions' detections with a score of 0.5 or more that have a match in the other
    /// version.
    pub agreement: f64,
    /// Mean change per image. Classification: absolute difference between the two scores of the
    /// class that the fp32 version ranks first. Segmentation: share of the mask's elements with
    /// different classes. Detection: mean absolute score difference of matching detections.
    pub mean_change: f64,
    /// Largest change of a single image, in the unit of `mean_change`.
    pub worst_change: f64,
}

impl Agreement {
    /// Compares the fp32 and int8 results image by image. Both lists have the images in the same
    /// order.
    pub fn of(float: &[Answers], int8: &[Answers]) -> Self {
        let pairs = float.iter().zip(int8);
        let pairs: Vec<Comparison> = pairs.map(|(one, other)| one.compare(other)).collect();
        let count = pairs.len().max(1) as f64;
        Self {
            images: pairs.len(),
            agreement: pairs.iter().map(|pair| pair.agreement).sum::<f64>() / count,
            mean_change: pairs.iter().map(|pair| pair.change).sum::<f64>() / count,
            worst_change: pairs.iter().map(|pair| pair.change).fold(0.0, f64::max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Output;
    use crate::postprocess::scores::softmax;

    #[test]
    fn cosine_similarities() {
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
        let Comparison { agreement, change } = scores(&[1.0, 3.0]).compare(&scores(&[1.0, 2.5]));
        assert!(
            agreement == 1.0 && (0.05..0.1).contains(&change),
            "{change}"
        );
        assert_eq!(
            scores(&[1.0, 3.0]).compare(&scores(&[4.0, 3.0])).agreement,
            0.0
        );
        // The scores of two classes at four points. The classes tie at the third point, and the
        // lower class wins.
        let scores = Tensor {
            shape: vec![2, 1, 4],
            data: vec![1.0, 0.0, 2.0, 0.0, 0.0, 1.0, 2.0, 3.0],
        };
        let size = ImageSize {
            width: 4,
            height: 1,
        };
        let outputs = Outputs::from_iter([Output::f32("out", scores)]);
        let manifest = ModelManifest::parse(
            r#"
            name = "masks"
            task = "segmentation"
            description = "a test"
            labels = "labels.txt"
            [preprocess]
            resize = { mode = "short_side", size = 8, filter = "bilinear" }
            mean = [0.5, 0.5, 0.5]
            std = [0.5, 0.5, 0.5]
            "#,
        );
        let mask = Answers::new(&manifest.unwrap(), None, &outputs, size).unwrap();
        assert_eq!(mask, Answers::Mask(vec![0, 1, 0, 1]));
        let other = Answers::Mask(vec![0, 1, 1, 1]);
        let expected = Comparison {
            agreement: 0.75,
            change: 0.25,
        };
        assert_eq!(mask.compare(&other), expected);
    }

    #[test]
    fn boxes_near_the_threshold_agree() {
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
            let agreement = compare_boxes(&one, &other).agreement;
            assert!(
                (agreement - expected).abs() < 1e-9,
                "{one:?} {other:?}: {agreement}"
            );
        }
    }
}
