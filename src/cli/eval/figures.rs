//! Figures of an evaluation, computed from the results of its images.

use serde::Serialize;
use sightline::evaluate::classification::{Classified, accuracy};
use sightline::evaluate::detection::{Annotation, Evaluation, FIGURES, ImageBoxes};
use sightline::evaluate::segmentation::ConfusionMatrix;

use super::dataset::{Dataset, Truth};
use super::record::{Outcome, Record};
use super::worst::{SURE, is_near};

/// Number of pairs of confused classes in a report.
const CONFUSIONS: usize = 50;

/// A figure in percent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    /// `None` if no annotation counts for the figure.
    pub(super) percent: Option<f64>,
}

/// The figures of one class.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ClassFigures {
    pub(super) class_id: usize,
    pub(super) label: String,
    /// Number of the class's images, objects or, for segmentation, pixels.
    pub(super) count: u64,
    pub(super) figures: Vec<Figure>,
}

/// Two classes that were confused.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ConfusedPair {
    pub(super) truth: String,
    pub(super) predicted: String,
    /// Number of images or, for segmentation, pixels.
    pub(super) count: u64,
}

/// Everything that a report has.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Summary {
    pub(super) figures: Vec<Figure>,
    pub(super) classes: Vec<ClassFigures>,
    pub(super) confusions: Vec<ConfusedPair>,
}

fn figure(name: &'static str, share: Option<f64>) -> Figure {
    let percent = share.map(|share| share * 100.0);
    Figure { name, percent }
}

/// Returns the classification results in `records`.
pub(super) fn classified(records: &[Record]) -> Vec<Classified> {
    let results = records.iter().filter_map(|record| match &record.result {
        Outcome::Class(result) => Some(result.clone()),
        _ => None,
    });
    results.collect()
}

/// Returns the annotated and detected boxes of `records`.
pub(super) fn boxes(dataset: &Dataset, records: &[Record]) -> Vec<ImageBoxes> {
    let images = records.iter().filter_map(|record| {
        let truth = &dataset.samples.get(record.image)?.truth;
        match (truth, &record.result) {
            (Truth::Boxes(annotations), Outcome::Boxes(found)) => Some(ImageBoxes {
                annotations: annotations.clone(),
                found: found.clone(),
            }),
            _ => None,
        }
    });
    images.collect()
}

/// Returns the confusion matrices of `records`.
pub(super) fn matrices(records: &[Record]) -> Vec<&ConfusionMatrix> {
    let results = records.iter().filter_map(|record| match &record.result {
        Outcome::Mask(matrix) => Some(matrix),
        _ => None,
    });
    results.collect()
}

/// Returns the figures of `records`, which must be in the order of the images. Empty if there are no
/// records.
pub(super) fn figures(dataset: &Dataset, records: &[Record], labels: &[String]) -> Vec<Figure> {
    summary(dataset, records, labels).figures
}

/// Returns the figures of `records`, which must be in the order of the images, and of each class.
pub(super) fn summary(dataset: &Dataset, records: &[Record], labels: &[String]) -> Summary {
    match records.first().map(|record| &record.result) {
        None => Summary {
            figures: Vec::new(),
            classes: Vec::new(),
            confusions: Vec::new(),
        },
        Some(Outcome::Class(_)) => of_classes(&classified(records), labels),
        Some(Outcome::Boxes(_)) => of_boxes(&boxes(dataset, records), labels),
        Some(Outcome::Mask(_)) => of_masks(&matrices(records), labels),
    }
}

pub(super) fn label(labels: &[String], class_id: usize) -> String {
    labels.get(class_id).cloned().unwrap_or_default()
}

fn of_classes(images: &[Classified], labels: &[String]) -> Summary {
    let accuracy = accuracy(images);
    let get = |share: fn(&sightline::evaluate::classification::Accuracy) -> f64| {
        accuracy.as_ref().map(share)
    };
    let figures = vec![
        figure("acc1", get(|accuracy| accuracy.top1)),
        figure("acc5", get(|accuracy| accuracy.top5)),
        figure("ece", get(|accuracy| accuracy.calibration_error)),
    ];
    let classes = accuracy.iter().flat_map(|accuracy| &accuracy.classes);
    let confusions = accuracy.iter().flat_map(|accuracy| &accuracy.confusions);
    Summary {
        figures,
        classes: classes
            .map(|class| ClassFigures {
                class_id: class.class_id,
                label: label(labels, class.class_id),
                count: class.images,
                figures: vec![
                    figure("acc1", Some(class.top1 as f64 / class.images as f64)),
                    figure("acc5", Some(class.top5 as f64 / class.images as f64)),
                ],
            })
            .collect(),
        confusions: confusions
            .take(CONFUSIONS)
            .map(|pair| ConfusedPair {
                truth: label(labels, pair.truth),
                predicted: label(labels, pair.predicted),
                count: pair.images,
            })
            .collect(),
    }
}

fn of_boxes(images: &[ImageBoxes], labels: &[String]) -> Summary {
    let accuracy = Evaluation::new(images).accuracy();
    let figures = FIGURES.into_iter().zip(accuracy.figures.0);
    let classes = accuracy.classes.iter().map(|class| ClassFigures {
        class_id: class.class_id,
        label: label(labels, class.class_id),
        count: class.annotations,
        figures: vec![
            figure("AP", Some(class.ap)),
            figure("AP50", Some(class.ap50)),
        ],
    });
    Summary {
        figures: figures.map(|(name, share)| figure(name, share)).collect(),
        classes: classes.collect(),
        confusions: confused_boxes(images, labels),
    }
}

/// Returns the pairs of classes for which a sure detection overlaps an object of another class, but none
/// of its own.
fn confused_boxes(images: &[ImageBoxes], labels: &[String]) -> Vec<ConfusedPair> {
    let mut pairs = std::collections::BTreeMap::new();
    for image in images {
        for found in image.found.iter().filter(|found| found.score >= SURE) {
            let near = image
                .annotations
                .iter()
                .filter(|truth| is_near(truth, found));
            let near: Vec<&Annotation> = near.collect();
            let is_found = near.iter().any(|truth| truth.class_id == found.class_id);
            if let (Some(truth), false) = (near.first(), is_found) {
                *pairs.entry((truth.class_id, found.class_id)).or_insert(0) += 1;
            }
        }
    }
    most_frequent(pairs.into_iter().collect(), labels)
}

/// Returns the most frequent pairs of annotated and predicted classes.
fn most_frequent(mut pairs: Vec<((usize, usize), u64)>, labels: &[String]) -> Vec<ConfusedPair> {
    pairs.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    pairs.truncate(CONFUSIONS);
    let pairs = pairs
        .into_iter()
        .map(|((truth, predicted), count)| ConfusedPair {
            truth: label(labels, truth),
            predicted: label(labels, predicted),
            count,
        });
    pairs.collect()
}

fn of_masks(images: &[&ConfusionMatrix], labels: &[String]) -> Summary {
    let mut total = ConfusionMatrix::new(labels.len());
    for matrix in images {
        total.add_weighted(matrix, 1);
    }
    let accuracy = total.accuracy();
    let classes = 0..labels.len();
    let pixels = |class: usize| -> u64 { classes.clone().map(|p| total.pixels(class, p)).sum() };
    let iou = |class: usize| *accuracy.as_ref()?.iou.get(class)?;
    let figures_of = |class: usize| {
        Some(ClassFigures {
            class_id: class,
            label: label(labels, class),
            count: pixels(class),
            figures: vec![figure("iou", Some(iou(class)?))],
        })
    };
    let pairs = classes
        .clone()
        .flat_map(|truth| classes.clone().map(move |p| (truth, p)));
    let pairs = pairs.filter(|(truth, predicted)| truth != predicted);
    let pairs = pairs.map(|pair| (pair, total.pixels(pair.0, pair.1)));
    let pairs = pairs.filter(|(_, count)| *count > 0).collect();
    Summary {
        figures: vec![
            figure("miou", accuracy.as_ref().map(|accuracy| accuracy.mean_iou)),
            figure(
                "pixel_acc",
                accuracy.as_ref().map(|accuracy| accuracy.pixel_accuracy),
            ),
        ],
        classes: classes.clone().filter_map(figures_of).collect(),
        confusions: most_frequent(pairs, labels),
    }
}
