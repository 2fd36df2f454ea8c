//! Accuracy of classification: top-k accuracy, accuracy per class, confusions and calibration.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Number of classes that count for the top-5 accuracy.
pub const TOP: usize = 5;
/// Number of confidence intervals of equal width for the calibration error.
const BINS: usize = 15;

/// The result of classification for one image, with the annotated class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Classified {
    /// Annotated class.
    pub truth: usize,
    /// The most probable classes, best first, up to [`TOP`].
    pub ranked: Vec<usize>,
    /// Score of the first ranked class, 0..=1.
    pub confidence: f64,
    /// Score of the annotated class, 0..=1.
    pub truth_score: f64,
}

impl Classified {
    /// Returns whether the most probable class is the annotated one.
    pub fn is_top1(&self) -> bool {
        self.ranked.first() == Some(&self.truth)
    }

    /// Returns whether the annotated class is among the [`TOP`] most probable ones.
    pub fn is_top5(&self) -> bool {
        self.ranked.iter().take(TOP).any(|id| *id == self.truth)
    }
}

/// Accuracy on a data set. All shares are 0..=1.
#[derive(Debug, Clone, PartialEq)]
pub struct Accuracy {
    /// Share of the images whose most probable class is correct.
    pub top1: f64,
    /// Share of the images whose class is among the [`TOP`] most probable ones.
    pub top5: f64,
    /// Expected calibration error: mean distance between confidence and accuracy over 15 intervals of
    /// the confidence, weighted by the images in each. Source: Guo et al., "On Calibration of Modern
    /// Neural Networks", section 2.
    pub calibration_error: f64,
    /// Accuracy of each annotated class, in the order of the class indices.
    pub classes: Vec<ClassAccuracy>,
    /// Wrong results by annotated and returned class, the most frequent first.
    pub confusions: Vec<Confusion>,
}

/// Accuracy on the images of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassAccuracy {
    /// Annotated class.
    pub class_id: usize,
    /// Number of images of the class.
    pub images: u64,
    /// Number of these images whose most probable class is correct.
    pub top1: u64,
    /// Number of these images whose class is among the [`TOP`] most probable ones.
    pub top5: u64,
}

/// A pair of classes that were confused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confusion {
    /// Annotated class.
    pub truth: usize,
    /// Class that was returned as the most probable one.
    pub predicted: usize,
    /// Number of images.
    pub images: u64,
}

/// Returns the accuracy on `images`, or `None` if there are no images.
pub fn accuracy(images: &[Classified]) -> Option<Accuracy> {
    if images.is_empty() {
        return None;
    }
    let mut classes = BTreeMap::new();
    let mut confusions = BTreeMap::new();
    for image in images {
        let class = classes.entry(image.truth).or_insert(ClassAccuracy {
            class_id: image.truth,
            images: 0,
            top1: 0,
            top5: 0,
        });
        class.images += 1;
        class.top1 += u64::from(image.is_top1());
        class.top5 += u64::from(image.is_top5());
        if let (Some(predicted), false) = (image.ranked.first(), image.is_top1()) {
            *confusions.entry((image.truth, *predicted)).or_insert(0) += 1;
        }
    }
    let classes: Vec<ClassAccuracy> = classes.into_values().collect();
    let mut confusions: Vec<Confusion> = confusions
        .into_iter()
        .map(|((truth, predicted), images)| Confusion {
            truth,
            predicted,
            images,
        })
        .collect();
    confusions.sort_by_key(|pair| std::cmp::Reverse(pair.images));
    let count = images.len() as f64;
    Some(Accuracy {
        top1: classes.iter().map(|class| class.top1).sum::<u64>() as f64 / count,
        top5: classes.iter().map(|class| class.top5).sum::<u64>() as f64 / count,
        calibration_error: calibration_error(images),
        classes,
        confusions,
    })
}

/// Returns the expected calibration error of at least one image.
fn calibration_error(images: &[Classified]) -> f64 {
    // Sums of the confidences and of the correct results in each interval.
    let mut bins = [(0.0, 0.0); BINS];
    for image in images {
        // The intervals include their upper ends, so that a confidence of 1 is in the last one.
        let bin = (image.confidence * BINS as f64).ceil() as usize;
        let (confidence, correct) = &mut bins[bin.saturating_sub(1).min(BINS - 1)];
        *confidence += image.confidence;
        *correct += f64::from(u8::from(image.is_top1()));
    }
    let distances = bins
        .iter()
        .map(|(confidence, correct)| confidence - correct);
    distances.map(f64::abs).sum::<f64>() / images.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(truth: usize, ranked: &[usize], confidence: f64) -> Classified {
        Classified {
            truth,
            ranked: ranked.to_vec(),
            confidence,
            truth_score: 0.0,
        }
    }

    #[test]
    fn accuracy_counts_ranks_classes_and_confusions() {
        let images = [
            image(0, &[0, 1, 2, 3, 4], 0.9),
            image(0, &[1, 0, 2, 3, 4], 0.8),
            image(0, &[1, 2, 3, 4, 5, 0], 0.7),
            image(7, &[2, 7, 3, 4, 5], 1.0),
        ];
        let accuracy = accuracy(&images).unwrap();
        assert_eq!((accuracy.top1, accuracy.top5), (0.25, 0.75));
        let of_class = |class_id, images, top1, top5| ClassAccuracy {
            class_id,
            images,
            top1,
            top5,
        };
        assert_eq!(
            accuracy.classes,
            [of_class(0, 3, 1, 2), of_class(7, 1, 0, 1)]
        );
        let pairs = accuracy.confusions.iter();
        let pairs: Vec<_> = pairs.map(|c| (c.truth, c.predicted, c.images)).collect();
        assert_eq!(pairs, [(0, 1, 2), (7, 2, 1)]);
        // Each image is alone in its interval: 0.1 + 0.8 + 0.7 + 1.0.
        assert!((accuracy.calibration_error - 2.6 / 4.0).abs() < 1e-12);
    }

    #[test]
    fn calibration_compares_means_within_an_interval() {
        let images = [
            image(1, &[1], 0.95),
            image(1, &[1], 0.95),
            image(1, &[0], 0.95),
            image(1, &[1], 0.0),
        ];
        let expected = (0.75 * (0.95 - 2.0 / 3.0_f64)).abs() + 0.25;
        let error = accuracy(&images).unwrap().calibration_error;
        assert!((error - expected).abs() < 1e-12, "{error} {expected}");
    }

    #[test]
    fn no_images_have_no_accuracy() {
        assert_eq!(accuracy(&[]), None);
        assert!(!image(3, &[], 0.0).is_top1());
    }
}
