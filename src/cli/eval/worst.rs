//! Ranks images by their errors, for the contact sheet.

use sightline::evaluate::classification::Classified;
use sightline::evaluate::detection::{Annotation, Found};
use sightline::evaluate::segmentation::ConfusionMatrix;

use super::dataset::{Dataset, Truth};
use super::figures::label;
use super::record::{Outcome, Record};

/// Score of the detections that count as errors.
pub(super) const SURE: f64 = 0.5;
/// Intersection over union at which a detection counts as correct.
const NEAR: f64 = 0.5;

/// An image with a measure of its errors.
#[derive(Debug, Clone)]
pub(super) struct Ranked {
    /// Position of the image in the data set.
    pub(super) image: usize,
    /// The larger, the worse; 0 for an image without errors.
    pub(super) badness: f64,
    /// What is wrong.
    pub(super) caption: String,
}

/// Returns the images with errors, the worst first.
pub(super) fn worst(dataset: &Dataset, records: &[Record], labels: &[String]) -> Vec<Ranked> {
    let ranked = records.iter().map(|record| {
        let truth = dataset
            .samples
            .get(record.image)
            .map(|sample| &sample.truth);
        let (badness, caption) = match (&record.result, truth) {
            (Outcome::Class(result), _) => wrong_class(result, labels),
            (Outcome::Boxes(found), Some(Truth::Boxes(truth))) => wrong_boxes(truth, found),
            (Outcome::Mask(matrix), _) => wrong_pixels(matrix),
            _ => (0.0, String::new()),
        };
        Ranked {
            image: record.image,
            badness,
            caption,
        }
    });
    let mut ranked: Vec<Ranked> = ranked.filter(|image| image.badness > 0.0).collect();
    ranked.sort_by(|one, other| other.badness.total_cmp(&one.badness));
    ranked
}

/// Wrong results rank by how much more probable the wrong class is.
fn wrong_class(result: &Classified, labels: &[String]) -> (f64, String) {
    if result.is_top1() {
        return (0.0, String::new());
    }
    let got = result
        .ranked
        .first()
        .map_or(String::new(), |class| label(labels, *class));
    let (confidence, truth_score) = (result.confidence * 100.0, result.truth_score * 100.0);
    let caption = format!(
        "{got} {confidence:.0} %, is {} {truth_score:.0} %",
        label(labels, result.truth)
    );
    (
        result.confidence - result.truth_score + f64::EPSILON,
        caption,
    )
}

/// Images with boxes rank by their missed objects and wrong detections.
fn wrong_boxes(truth: &[Annotation], found: &[Found]) -> (f64, String) {
    let mut sure: Vec<&Found> = found.iter().filter(|found| found.score >= SURE).collect();
    let mut missed = 0;
    for object in truth.iter().filter(|object| !object.is_crowd) {
        let matches = |f: &&Found| f.class_id == object.class_id && is_near(object, f);
        match sure.iter().position(matches) {
            Some(index) => {
                sure.swap_remove(index);
            }
            None => missed += 1,
        }
    }
    let crowds = truth.iter().filter(|object| object.is_crowd);
    let in_crowd = |found: &Found| {
        crowds.clone().any(|crowd| {
            let inside = crowd.bounding_box.intersection(&found.bounding_box);
            crowd.class_id == found.class_id && inside >= NEAR * found.bounding_box.area()
        })
    };
    let wrong = sure.iter().filter(|found| !in_crowd(found)).count();
    let caption = format!("{missed} missed, {wrong} wrong");
    ((missed + wrong) as f64, caption)
}

fn wrong_pixels(matrix: &ConfusionMatrix) -> (f64, String) {
    matrix.accuracy().map_or((0.0, String::new()), |accuracy| {
        let (iou, pixels) = (accuracy.mean_iou * 100.0, accuracy.pixel_accuracy * 100.0);
        (
            1.0 - accuracy.mean_iou,
            format!("mIoU {iou:.0} %, pixels {pixels:.0} %"),
        )
    })
}

/// Returns whether the box of `found` overlaps that of `truth` by [`NEAR`] or more.
pub(super) fn is_near(truth: &Annotation, found: &Found) -> bool {
    let (one, other) = (truth.bounding_box, found.bounding_box);
    let intersection = one.intersection(&other);
    intersection >= NEAR * (one.area() + other.area() - intersection)
}
