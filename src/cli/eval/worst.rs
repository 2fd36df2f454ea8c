//! Ranks images by their errors, for the contact sheet.

use std::collections::BTreeMap;
use std::fmt::Write as _;

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
/// Most classes of missed or wrong objects that a caption names.
const NAMED: usize = 3;

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
            (Outcome::Boxes(found), Some(Truth::Boxes(truth))) => {
                wrong_boxes(&BoxErrors::new(truth, found), labels)
            }
            (Outcome::Mask(matrix), _) => wrong_pixels(matrix, labels),
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
fn wrong_boxes(errors: &BoxErrors<'_>, labels: &[String]) -> (f64, String) {
    let (missed, wrong) = (errors.missed.len(), errors.wrong.len());
    let caption = format!(
        "{missed} missed{}, {wrong} wrong{}",
        classes(errors.missed.iter().map(|one| one.class_id), labels),
        classes(errors.wrong.iter().map(|one| one.class_id), labels)
    );
    ((missed + wrong) as f64, caption)
}

/// Returns the most frequent classes with their numbers, in parentheses. Empty if there are none.
fn classes(ids: impl Iterator<Item = usize>, labels: &[String]) -> String {
    let mut counts = BTreeMap::new();
    for id in ids {
        *counts.entry(id).or_insert(0) += 1;
    }
    let mut counts: Vec<(usize, i32)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| -count);
    let named = counts.iter().take(NAMED);
    let mut named: Vec<String> = named
        .map(|(id, count)| format!("{count} {}", label(labels, *id)))
        .collect();
    if counts.len() > NAMED {
        named.push("...".to_owned());
    }
    if named.is_empty() {
        return String::new();
    }
    format!(" ({})", named.join(", "))
}

/// The objects of an image, by whether they were detected. Detections with a score below [`SURE`] do not count.
pub(super) struct BoxErrors<'a> {
    /// Annotated objects that were not detected.
    pub(super) missed: Vec<&'a Annotation>,
    /// Detections without an object, the surest first.
    pub(super) wrong: Vec<&'a Found>,
    /// Annotated objects that were detected, and crowds.
    pub(super) right: Vec<&'a Annotation>,
}

impl<'a> BoxErrors<'a> {
    /// Compares the annotations and the detections of an image.
    pub(super) fn new(truth: &'a [Annotation], found: &'a [Found]) -> Self {
        let mut sure: Vec<&Found> = found.iter().filter(|found| found.score >= SURE).collect();
        sure.sort_by(|one, other| other.score.total_cmp(&one.score));
        let (mut missed, mut right) = (Vec::new(), Vec::new());
        for object in truth.iter().filter(|object| !object.is_crowd) {
            let matches = |f: &&Found| f.class_id == object.class_id && is_near(object, f);
            match sure.iter().position(matches) {
                Some(index) => {
                    sure.remove(index);
                    right.push(object);
                }
                None => missed.push(object),
            }
        }
        let crowds = truth.iter().filter(|object| object.is_crowd);
        right.extend(crowds.clone());
        let in_crowd = |found: &Found| {
            crowds.clone().any(|crowd| {
                let inside = crowd.bounding_box.intersection(&found.bounding_box);
                crowd.class_id == found.class_id && inside >= NEAR * found.bounding_box.area()
            })
        };
        sure.retain(|found| !in_crowd(found));
        Self {
            missed,
            wrong: sure,
            right,
        }
    }
}

/// Masks rank by their mean IoU. The caption names the two classes that were confused most.
fn wrong_pixels(matrix: &ConfusionMatrix, labels: &[String]) -> (f64, String) {
    let Some(accuracy) = matrix.accuracy() else {
        return (0.0, String::new());
    };
    let (iou, pixels) = (accuracy.mean_iou * 100.0, accuracy.pixel_accuracy * 100.0);
    let mut caption = format!("mIoU {iou:.0} %, pixels {pixels:.0} %");
    let all = || 0..matrix.classes();
    let pairs = all().flat_map(|truth| all().map(move |other| (truth, other)));
    let counted = pairs.map(|(truth, other)| (matrix.pixels(truth, other), truth, other));
    let total: u64 = counted.clone().map(|(count, ..)| count).sum();
    let confused = counted.filter(|(count, truth, other)| *count > 0 && truth != other);
    if let Some((count, truth, other)) = confused.max_by_key(|(count, ..)| *count) {
        let share = count as f64 / total as f64 * 100.0;
        let [truth, other] = [truth, other].map(|class| label(labels, class));
        // Writing to a String cannot fail.
        let _ = write!(caption, "; {truth} as {other} {share:.0} %");
    }
    (1.0 - accuracy.mean_iou, caption)
}

/// Returns whether the box of `found` overlaps that of `truth` by [`NEAR`] or more.
pub(super) fn is_near(truth: &Annotation, found: &Found) -> bool {
    let (one, other) = (truth.bounding_box, found.bounding_box);
    let intersection = one.intersection(&other);
    intersection >= NEAR * (one.area() + other.area() - intersection)
}

#[cfg(test)]
mod tests {
    use sightline::evaluate::detection::BoxXywh;

    use super::*;

    #[test]
    fn the_caption_of_a_mask_names_the_confused_classes() {
        let labels = ["background", "cat", "dog"].map(str::to_owned);
        let mut matrix = ConfusionMatrix::new(3);
        assert_eq!(wrong_pixels(&matrix, &labels), (0.0, String::new()));
        matrix.add(&[0, 0, 1, 1], &[0, 0, 1, 1]).unwrap();
        let (badness, caption) = wrong_pixels(&matrix, &labels);
        assert!(badness <= 0.0);
        assert_eq!(caption, "mIoU 100 %, pixels 100 %");
        matrix.add(&[1, 1, 1, 0], &[2, 2, 1, 1]).unwrap();
        let (_, caption) = wrong_pixels(&matrix, &labels);
        assert_eq!(caption, "mIoU 39 %, pixels 62 %; cat as dog 25 %");
    }

    #[test]
    fn missed_and_wrong_objects_are_counted_by_class() {
        let bounding_box = |x: f64| BoxXywh {
            x,
            y: 0.0,
            width: 10.0,
            height: 10.0,
        };
        let object = |class_id, x, is_crowd| Annotation {
            class_id,
            bounding_box: bounding_box(x),
            area: 100.0,
            is_crowd,
        };
        let found = |class_id, x, score| Found {
            class_id,
            score,
            bounding_box: bounding_box(x),
        };
        let truth = [
            object(0, 0.0, false),
            object(0, 50.0, false),
            object(1, 100.0, false),
            object(1, 200.0, true),
        ];
        let detections = [
            found(0, 1.0, 0.9),
            found(1, 50.0, 0.6),
            found(0, 100.0, 0.8),
            found(1, 201.0, 0.7),
            found(1, 100.0, 0.4),
        ];
        let errors = BoxErrors::new(&truth, &detections);
        assert_eq!(errors.right, [&truth[0], &truth[3]]);
        assert_eq!(errors.missed, [&truth[1], &truth[2]]);
        assert_eq!(errors.wrong, [&detections[2], &detections[1]]);
        let labels = ["cat".to_owned(), "dog".to_owned()];
        let (badness, caption) = wrong_boxes(&errors, &labels);
        assert!((badness - 4.0).abs() < 1e-9);
        assert_eq!(caption, "2 missed (1 cat, 1 dog), 2 wrong (1 cat, 1 dog)");
        let many = [3, 2, 2, 0, 1].into_iter();
        let labels: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).into();
        assert_eq!(classes(many, &labels), " (2 c, 1 a, 1 b, ...)");
        let (badness, caption) = wrong_boxes(&BoxErrors::new(&[], &[]), &labels);
        assert!(badness <= 0.0);
        assert_eq!(caption, "0 missed, 0 wrong");
    }
}
