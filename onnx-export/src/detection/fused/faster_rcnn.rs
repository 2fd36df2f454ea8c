//! Faster R-CNN with postprocessing: selects region proposals on every level, assigns each to the
//! feature map that suits its size, and selects the detections from the outputs of the second
//! stage.
//!
//! Source: torchvision's `models/detection/rpn.py`, `RegionProposalNetwork.filter_proposals`;
//! `ops/poolers.py`, `LevelMapper`; `models/detection/roi_heads.py`,
//! `RoIHeads.postprocess_detections`.

use super::super::faster_rcnn::{Proposals, RegionMap, classify, proposals};
use super::anchors::{Cells, LevelGrid, anchors_at};
use super::boxes::{clip, decode, halves, without_small};
use super::suppress::{ClassBoxes, by_batch, by_class, not_above};
use super::{Candidates, Detections, Fused, Image, LevelOutputs, ProposalOptions, rows};
use crate::architecture::{Anchors, FasterRcnnHead};
use crate::error::{BuildError, argument};
use crate::graph::ops::{NonMaxSuppression, Regions};
use crate::graph::{Graph, Scope, Value};

/// Minimum side of a region proposal, in pixels of the resized image. Smaller proposals are
/// removed.
const MIN_PROPOSAL: f32 = 1e-3;
/// Minimum side of a detected box, in pixels of the resized image. Smaller boxes are removed.
const MIN_DETECTION: f32 = 1e-2;

/// Adds the first stage, the selection of region proposals, the second stage and the
/// postprocessing, and returns the detections.
pub(super) fn detect(
    g: &mut Graph,
    root: &Scope<'_>,
    image: Image,
    network: &Fused<'_, FasterRcnnHead>,
) -> Result<Detections, BuildError> {
    let Fused { detector, options } = network;
    let (head, num_classes) = (detector.head, detector.num_classes);
    let Some(selection) = &options.proposals else {
        let expected = "the proposal options that faster_rcnn requires";
        return Err(argument("options.proposals", expected, &"none").into());
    };
    let Proposals { levels, maps } = proposals(g, root, image.images, detector)?;
    let selected = propose(g, image, &levels, &head.anchors, selection)?;
    let sorted = by_level(g, selected, &head.roi_strides)?;
    let maps = maps.into_iter().zip(sorted.regions);
    let maps: Vec<_> = maps
        .map(|(map, regions)| RegionMap { map, regions })
        .collect();
    let outputs = classify(g, root, head, &maps, num_classes)?;
    let deltas = outputs.deltas;
    let scores = g.softmax(outputs.logits);
    let scores = g.transpose(scores, &[1, 0])?;
    let deltas = g.reshape(deltas, &[0, num_classes as i64, 4], "")?;
    let deltas = g.transpose(deltas, &[1, 0, 2])?;
    // Class 0 is the background, which is never a detection.
    let scores = g.slice(scores, 0, 1..num_classes)?;
    let deltas = g.slice(deltas, 0, 1..num_classes)?;
    let boxes = decode(g, deltas, sorted.proposals, options.box_weights)?;
    let boxes = clip(g, boxes, image.limits)?;
    let scores = without_small(g, boxes, scores, MIN_DETECTION)?;
    let config = NonMaxSuppression {
        most: options.max_detections,
        iou_threshold: not_above(options.iou_threshold),
        score_threshold: options.score_threshold as f32,
    };
    let table = ClassBoxes {
        boxes,
        scores,
        first_label: 1,
    };
    by_batch(g, table, config, "detections")
}

/// Adds the selection of region proposals and returns them, `[R, 4]` (x1, y1, x2, y2 in pixels), highest
/// score first. A proposal is suppressed only by proposals of its own level.
fn propose(
    g: &mut Graph,
    image: Image,
    levels: &[LevelOutputs],
    anchors: &Anchors,
    selection: &ProposalOptions,
) -> Result<Value, BuildError> {
    let (mut boxes, mut scores, mut classes) = (Vec::new(), Vec::new(), Vec::new());
    for (index, level) in levels.iter().enumerate() {
        let logits = rows(g, level.scores, 1, index)?;
        let logits = g.reshape(logits, &[-1], &format!("anchors_{index}"))?;
        let count = format!("candidates_{index}");
        let [best, indices] = g.top_k(logits, selection.pre_nms_top_n, &count)?;
        let deltas = rows(g, level.boxes, 4, index)?;
        let deltas = g.gather(deltas, indices)?;
        let cells = Cells::of_level(anchors, index);
        let grid = LevelGrid {
            map: level.scores,
            images: image.images,
        };
        let references = anchors_at(g, indices, &cells, grid)?;
        let decoded = decode(g, deltas, references, [1.0; 4])?;
        let decoded = clip(g, decoded, image.limits)?;
        let best = g.sigmoid(best);
        scores.push(without_small(g, decoded, best, MIN_PROPOSAL)?);
        boxes.push(decoded);
        let (none, own) = (g.whole(0), g.whole(index as i64));
        let zeros = g.mul(indices, none)?;
        classes.push(g.add(zeros, own)?);
    }
    let candidates = Candidates {
        boxes: g.concat_rows(&boxes, "candidates")?,
        scores: g.concat_rows(&scores, "candidates")?,
        classes: g.concat_rows(&classes, "candidates")?,
    };
    let config = NonMaxSuppression {
        most: selection.post_nms_top_n,
        iou_threshold: not_above(selection.iou_threshold),
        score_threshold: at_least(selection.score_threshold as f32),
    };
    Ok(by_class(g, candidates, levels.len(), config, "proposals")?.boxes)
}

/// Returns the score threshold for `NonMaxSuppression`, which keeps scores above its threshold,
/// such that scores of at least `least` are kept. The score -1 of removed boxes is never kept.
fn at_least(least: f32) -> f32 {
    if least > 0.0 { least.next_down() } else { -0.5 }
}

/// Region proposals, grouped by the feature map from which they are pooled.
struct Sorted {
    /// Regions to pool from each feature map, one element per map.
    regions: Vec<Regions>,
    /// All proposals `[R, 4]`: first those that are pooled from the first feature map, then those
    /// of the second map, and so on.
    proposals: Value,
}

/// Groups `proposals` `[R, 4]` by the feature map that suits their size. `strides` are the strides
/// of the feature maps in pixels, each twice the one before.
///
/// A box with sides of geometric mean `side` belongs to the map of stride 2^k with k =
/// `floor(4 + log2(side / 224) + 1e-6)`, or to the closest stride if no map has this one. ONNX has
/// no `log2`, so `side` is compared with the lengths at which k rises by one.
fn by_level(g: &mut Graph, proposals: Value, strides: &[u32]) -> Result<Sorted, BuildError> {
    let none = g.whole(0);
    let rises = strides.iter().skip(1).map(|stride| {
        let level = f64::from(*stride).log2();
        (224.0 * (level - 4.0 - 1e-6).exp2()) as f32
    });
    let rises: Vec<f32> = rises.collect();
    let [upper, lower] = halves(g, proposals)?;
    let size = g.sub(lower, upper)?;
    if rises.is_empty() {
        let whole = g.slice(size, 1, 0..1)?;
        let column = g.reshape(whole, &[0], "")?;
        let column = g.to_i64(column);
        let batch_indices = g.mul(column, none)?;
        let boxes = proposals;
        let regions = Regions {
            boxes,
            batch_indices,
        };
        return Ok(Sorted {
            regions: vec![regions],
            proposals,
        });
    }
    let (width, height) = (g.slice(size, 1, 0..1)?, g.slice(size, 1, 1..2)?);
    let area = g.mul(width, height)?;
    let side = g.sqrt(area);
    let rises = g.table("rises", &[rises.len()], rises);
    let above = g.greater_or_equal(side, rises)?;
    let above = g.to_i64(above);
    let levels = g.sum_last(above)?;
    let (mut regions, mut order) = (Vec::new(), Vec::new());
    for level in 0..strides.len() {
        let own = g.whole(level as i64);
        let here = g.equal(levels, own)?;
        let name = format!("rois_{level}");
        let here = g.non_zero(here, &name)?;
        let here = g.reshape(here, &[-1], &name)?;
        regions.push(Regions {
            boxes: g.gather(proposals, here)?,
            batch_indices: g.mul(here, none)?,
        });
        order.push(here);
    }
    let order = g.concat_rows(&order, "rois")?;
    let proposals = g.gather(proposals, order)?;
    Ok(Sorted { regions, proposals })
}
