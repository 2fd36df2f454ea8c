//! Compares two models on the same images, with confidence intervals and p-values.

use serde::Serialize;
use sightline::evaluate::classification::Classified;
use sightline::evaluate::detection::{Evaluation, ImageBoxes};
use sightline::evaluate::segmentation::{ConfusionMatrix, MaskAccuracy};
use sightline::evaluate::significance::{Difference, mcnemar, paired_bootstrap};

use super::dataset::Dataset;
use super::figures::{boxes, classified, matrices};
use super::record::Record;

/// Number of samples of the bootstrap.
const RESAMPLES: usize = 2000;
/// Smallest number of samples for large data sets.
const FEWEST_RESAMPLES: usize = 200;
/// Number of detections in all samples of the bootstrap after which fewer samples are drawn.
const MOST_DETECTIONS: usize = 400_000_000;

/// The difference of a figure between two models, in percentage points.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Compared {
    pub(super) name: &'static str,
    #[serde(flatten)]
    pub(super) points: Difference,
    /// Test that the p-value comes from.
    pub(super) test: &'static str,
}

const MCNEMAR: &str = "McNemar";
const BOOTSTRAP: &str = "paired bootstrap";

/// Returns the differences of the main figures, the second model's minus the first model's. Both lists have
/// the same images in the same order. Figures that have no value are left out.
pub(super) fn compare(dataset: &Dataset, one: &[Record], other: &[Record]) -> Vec<Compared> {
    let (first, second) = (classified(one), classified(other));
    if !first.is_empty() {
        return [
            accuracy("acc1", &first, &second, Classified::is_top1),
            accuracy("acc5", &first, &second, Classified::is_top5),
        ]
        .into_iter()
        .flatten()
        .collect();
    }
    let (first, second) = (matrices(one), matrices(other));
    if !first.is_empty() {
        return [
            masks("miou", &first, &second, |accuracy| accuracy.mean_iou),
            masks("pixel_acc", &first, &second, |accuracy| {
                accuracy.pixel_accuracy
            }),
        ]
        .into_iter()
        .flatten()
        .collect();
    }
    precision(&boxes(dataset, one), &boxes(dataset, other))
        .into_iter()
        .collect()
}

fn in_points(difference: Difference) -> Difference {
    Difference {
        difference: difference.difference * 100.0,
        low: difference.low * 100.0,
        high: difference.high * 100.0,
        p_value: difference.p_value,
    }
}

/// Compares the share of correct images. The p-value is that of `McNemar`'s test.
fn accuracy(
    name: &'static str,
    one: &[Classified],
    other: &[Classified],
    is_correct: fn(&Classified) -> bool,
) -> Option<Compared> {
    let pairs = one.iter().zip(other);
    let pairs: Vec<(bool, bool)> = pairs.map(|(a, b)| (is_correct(a), is_correct(b))).collect();
    let changes: Vec<i64> = pairs
        .iter()
        .map(|(a, b)| i64::from(*b) - i64::from(*a))
        .collect();
    let points = paired_bootstrap(pairs.len(), RESAMPLES, |weights| {
        let sum = changes
            .iter()
            .zip(weights)
            .map(|(change, weight)| change * i64::from(*weight));
        Some(sum.sum::<i64>() as f64 / changes.len() as f64)
    })?;
    let only = |pair| pairs.iter().filter(|each| **each == pair).count() as u64;
    let p_value = mcnemar(only((true, false)), only((false, true)));
    Some(Compared {
        name,
        points: in_points(Difference { p_value, ..points }),
        test: MCNEMAR,
    })
}

/// Compares a figure of masks.
fn masks(
    name: &'static str,
    one: &[&ConfusionMatrix],
    other: &[&ConfusionMatrix],
    figure: fn(&MaskAccuracy) -> f64,
) -> Option<Compared> {
    let of = |matrices: &[&ConfusionMatrix], weights: &[u32]| {
        let mut total = ConfusionMatrix::new(matrices.first()?.classes());
        for (matrix, weight) in matrices
            .iter()
            .zip(weights)
            .filter(|(_, weight)| **weight > 0)
        {
            total.add_weighted(matrix, u64::from(*weight));
        }
        total.accuracy().as_ref().map(figure)
    };
    let points = paired_bootstrap(one.len(), RESAMPLES, |weights| {
        Some(of(other, weights)? - of(one, weights)?)
    })?;
    Some(Compared {
        name,
        points: in_points(points),
        test: BOOTSTRAP,
    })
}

/// Compares the average precision of boxes.
fn precision(one: &[ImageBoxes], other: &[ImageBoxes]) -> Option<Compared> {
    let found = |images: &[ImageBoxes]| images.iter().map(|image| image.found.len()).sum::<usize>();
    let work = (found(one) + found(other)).max(1);
    let resamples = (MOST_DETECTIONS / work).clamp(FEWEST_RESAMPLES, RESAMPLES);
    let (first, second) = (Evaluation::new(one), Evaluation::new(other));
    let points = paired_bootstrap(one.len(), resamples, |weights| {
        Some(second.weighted_ap(weights)? - first.weighted_ap(weights)?)
    })?;
    Some(Compared {
        name: "AP",
        points: in_points(points),
        test: BOOTSTRAP,
    })
}
