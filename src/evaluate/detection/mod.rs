//! Accuracy of detection: COCO's 12 figures, as `pycocotools.cocoeval` computes them.
//!
//! A detection matches an annotated box if their IoU reaches a threshold. Precision and recall are computed for 10
//! thresholds, four ranges of the box area, and at most 1, 10 or 100 detections per image and class. Annotations of
//! crowds match any number of detections, and neither these nor boxes outside of the area range count.

mod accumulate;
mod matching;

use serde::{Deserialize, Serialize};

pub use accumulate::{BoxAccuracy, ClassPrecision, FIGURES, Figures};
use matching::Matches;

/// Number of IoU thresholds: 0.50, 0.55, ..., 0.95.
const THRESHOLDS: usize = 10;
/// Number of area ranges: all, small, medium and large boxes.
const AREAS: usize = 4;
/// Numbers of detections per image and class that recall is computed for.
const MAX_DETECTIONS: [usize; 3] = [1, 10, 100];

/// A box as COCO files store it, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BoxXywh {
    /// Left edge.
    pub x: f64,
    /// Top edge.
    pub y: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

impl BoxXywh {
    /// Returns the area in square pixels.
    pub fn area(&self) -> f64 {
        self.width * self.height
    }

    /// Returns the area of the intersection with `other`, in square pixels.
    pub fn intersection(&self, other: &Self) -> f64 {
        let width = (self.x + self.width).min(other.x + other.width) - self.x.max(other.x);
        let height = (self.y + self.height).min(other.y + other.height) - self.y.max(other.y);
        if width <= 0.0 || height <= 0.0 {
            return 0.0;
        }
        width * height
    }
}

/// An annotated object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Annotation {
    /// Class of the object.
    pub class_id: usize,
    /// Box around the object.
    pub bounding_box: BoxXywh,
    /// Area of the object in square pixels; COCO's annotations state the area of the object's mask.
    pub area: f64,
    /// Whether the box holds a crowd of objects, which are not annotated one by one.
    pub is_crowd: bool,
}

/// A detected object.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Class of the object.
    pub class_id: usize,
    /// Confidence, 0..=1.
    pub score: f64,
    /// Box around the object.
    pub bounding_box: BoxXywh,
}

/// The annotated and the detected objects of one image.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageBoxes {
    /// The annotations, in the order of the data set.
    pub annotations: Vec<Annotation>,
    /// The detections. Detections of equal scores rank in this order.
    pub found: Vec<Found>,
}

/// The matches between annotations and detections of a data set, from which figures are computed.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// One element per class that has annotations or detections, in the order of the class indices.
    classes: Vec<(usize, Matches)>,
    images: usize,
}

impl Evaluation {
    /// Matches the detections of `images` with their annotations. pycocotools orders images by their
    /// id, which decides the rank of detections of equal scores. The classes of detections must be
    /// classes of the data set: detections of other classes would count as errors.
    pub fn new(images: &[ImageBoxes]) -> Self {
        let classes = matching::by_class(images);
        let classes = classes.into_iter().map(|(class_id, groups)| {
            let mut matches = Matches::default();
            for group in groups {
                matches.add(&group);
            }
            matches.sort();
            (class_id, matches)
        });
        Self {
            classes: classes.collect(),
            images: images.len(),
        }
    }

    /// Returns the number of images.
    pub fn images(&self) -> usize {
        self.images
    }
}

#[cfg(test)]
mod tests;
