//! Accuracy of segmentation: confusion matrix of pixels, mean IoU and pixel accuracy.
//!
//! Source: `ConfusionMatrix` in torchvision's `references/segmentation/utils.py`.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Value of pixels without an annotated class, which do not count.
pub const IGNORED: u8 = 255;

/// The reason why a mask cannot be compared with its annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MaskError {
    /// The masks have different numbers of pixels.
    #[error("expected {expected} pixels, got {got}")]
    Length {
        /// Number of pixels of the annotation.
        expected: usize,
        /// Number of pixels of the mask.
        got: usize,
    },
    /// A pixel has a class that the model does not have.
    #[error(
        "expected pixels with classes below {classes}, or 255 for pixels that do not count, got {got}"
    )]
    Class {
        /// Number of the model's classes.
        classes: usize,
        /// Class of the pixel.
        got: u8,
    },
}

/// Number of pixels for each pair of an annotated and a predicted class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfusionMatrix {
    classes: usize,
    /// `[classes, classes]`: one row per annotated class.
    pixels: Vec<u64>,
}

/// Accuracy of masks. All shares are 0..=1.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskAccuracy {
    /// Mean of the IoU over the classes that occur. torchvision's mean has no value (NaN) if a class
    /// occurs neither in annotations nor in results; otherwise it is this one.
    pub mean_iou: f64,
    /// Share of the annotated pixels whose class is correct.
    pub pixel_accuracy: f64,
    /// Intersection over union of each class. `None` for a class that occurs neither in annotations
    /// nor in results.
    pub iou: Vec<Option<f64>>,
}

impl ConfusionMatrix {
    /// Creates the matrix of `classes` classes without pixels.
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            pixels: vec![0; classes * classes],
        }
    }

    /// Returns the number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Returns the number of pixels of the class `truth` that were predicted as the class `predicted`;
    /// 0 for classes that the matrix does not have.
    pub fn pixels(&self, truth: usize, predicted: usize) -> u64 {
        if predicted >= self.classes {
            return 0;
        }
        let index = truth * self.classes + predicted;
        self.pixels.get(index).copied().unwrap_or_default()
    }

    /// Adds the pixels of a mask `predicted` with the annotation `truth`, both `[height, width]`.
    /// Annotated pixels of the value [`IGNORED`] do not count.
    ///
    /// # Errors
    /// [`MaskError`] if the masks differ in length, or if a pixel has a class that the matrix does not
    /// have. The matrix is then unchanged.
    pub fn add(&mut self, truth: &[u8], predicted: &[u8]) -> Result<(), MaskError> {
        if truth.len() != predicted.len() {
            return Err(MaskError::Length {
                expected: truth.len(),
                got: predicted.len(),
            });
        }
        let classes = self.classes;
        let mut counts = vec![0_u64; 256 * 256];
        for (truth, predicted) in truth.iter().zip(predicted) {
            counts[usize::from(*truth) * 256 + usize::from(*predicted)] += 1;
        }
        let pairs =
            || (0..=u8::MAX).flat_map(|truth| (0..=u8::MAX).map(move |other| (truth, other)));
        let counted = pairs()
            .zip(counts)
            .filter(|((truth, _), count)| *count > 0 && *truth != IGNORED);
        let counted: Vec<((u8, u8), u64)> = counted.collect();
        let unknown = |class: &u8| usize::from(*class) >= classes;
        let found = counted
            .iter()
            .flat_map(|((truth, other), _)| [truth, other]);
        if let Some(got) = found.copied().find(unknown) {
            return Err(MaskError::Class { classes, got });
        }
        for ((truth, predicted), count) in counted {
            self.pixels[usize::from(truth) * classes + usize::from(predicted)] += count;
        }
        Ok(())
    }

    /// Adds `weight` times the pixels of `other`, a matrix of the same classes.
    pub fn add_weighted(&mut self, other: &Self, weight: u64) {
        for (sum, pixels) in self.pixels.iter_mut().zip(&other.pixels) {
            *sum += weight * pixels;
        }
    }

    /// Returns the accuracy, or `None` if no annotated pixel counts.
    pub fn accuracy(&self) -> Option<MaskAccuracy> {
        let total: u64 = self.pixels.iter().sum();
        if total == 0 {
            return None;
        }
        let of_class = |class: usize| {
            let correct = self.pixels(class, class);
            let annotated: u64 = (0..self.classes)
                .map(|other| self.pixels(class, other))
                .sum();
            let predicted: u64 = (0..self.classes)
                .map(|other| self.pixels(other, class))
                .sum();
            let union = annotated + predicted - correct;
            (union > 0).then(|| correct as f64 / union as f64)
        };
        let iou: Vec<Option<f64>> = (0..self.classes).map(of_class).collect();
        let correct: u64 = (0..self.classes)
            .map(|class| self.pixels(class, class))
            .sum();
        let occurring = iou.iter().flatten();
        Some(MaskAccuracy {
            mean_iou: occurring.clone().sum::<f64>() / occurring.count() as f64,
            pixel_accuracy: correct as f64 / total as f64,
            iou,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iou_and_accuracy_ignore_255() {
        let mut matrix = ConfusionMatrix::new(4);
        let truth = [0, 0, 0, 1, 1, IGNORED, 2];
        matrix.add(&truth, &[0, 0, 1, 1, 0, 1, 2]).unwrap();
        let accuracy = matrix.accuracy().unwrap();
        let expected = [Some(0.5), Some(1.0 / 3.0), Some(1.0), None];
        assert_eq!(accuracy.iou, expected);
        assert!((accuracy.mean_iou - (0.5 + 1.0 / 3.0 + 1.0) / 3.0).abs() < 1e-12);
        assert!((accuracy.pixel_accuracy - 4.0 / 6.0).abs() < 1e-12);
        let mut twice = ConfusionMatrix::new(4);
        twice.add_weighted(&matrix, 2);
        assert_eq!(twice.accuracy(), Some(accuracy));
    }

    #[test]
    fn unknown_classes_are_rejected_without_a_change() {
        let mut matrix = ConfusionMatrix::new(2);
        let error = MaskError::Class { classes: 2, got: 9 };
        assert_eq!(matrix.add(&[0, 9], &[0, 0]), Err(error));
        assert_eq!(matrix.add(&[0, 0], &[0, 9]), Err(error));
        let error = MaskError::Length {
            expected: 1,
            got: 2,
        };
        assert_eq!(matrix.add(&[0], &[0, 0]), Err(error));
        assert_eq!(matrix, ConfusionMatrix::new(2));
        matrix.add(&[IGNORED], &[9]).unwrap();
        assert_eq!(matrix.accuracy(), None);
    }
}
