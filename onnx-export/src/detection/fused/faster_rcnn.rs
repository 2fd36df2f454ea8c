//! Faster R-CNN: proposals of every level, cut from the map that suits their size, and boxes of
//! what the second stage says of them.
//!
//! Source: torchvision's `models/detection/rpn.py`, `RegionProposalNetwork.filter_proposals`;
//! `ops/poolers.py`, `LevelMapper`; `models/detection/roi_heads.py`, `RoIHeads.postprocess_detections`.

use super::super::faster_rcnn::{classify, proposals};
use super::anchors::{Cells, anchors_at};
use super::boxes::{clip, decode, halves, without_small};
use super::suppress::{by_batch, by_class, not_above};
use super::{Candidates, Chosen, FusedOptions, LevelOutputs, Picture, ProposalOptions, rows};
use crate::architecture::{Anchors, Backbone, FasterRcnnHead};
use crate::check::argument;
use crate::error::BuildError;
use crate::graph::ops::{NonMaxSuppression, Regions};
use crate::graph::{Graph, Scope, Value};

/// Shortest side of a proposal, in pixels of the resized picture.
const MIN_PROPOSAL: f32 = 1e-3;
/// Shortest side of a detection, in pixels of the resized picture.
const MIN_DETECTION: f32 = 1e-2;

/// Adds the network and all that comes between and after its stages.
pub(super) fn detect(
    g: &mut Graph,
    root: &Scope<'_>,
    picture: Picture,
    (backbone, head): (&Backbone, &FasterRcnnHead),
    options: &FusedOptions,
    num_classes: usize,
) -> Result<Chosen, BuildError> {
    let Some(rpn) = &options.proposals else {
        let expected = "the selection of proposals of faster_rcnn";
        return Err(argument("options.proposals", expected, &"none").into());
    };
    let (levels, maps) = proposals(g, root, picture.images, (backbone, head))?;
    let chosen = propose(g, picture, &levels, &head.anchors, rpn)?;
    let (regions, proposals) = by_level(g, chosen, &head.roi_strides)?;
    let maps: Vec<_> = maps.into_iter().zip(regions).collect();
    let (logits, deltas) = classify(g, root, head, &maps, num_classes)?;
    let scores = g.softmax(logits);
    let scores = g.transpose(scores, &[1, 0])?;
    let deltas = g.reshape(deltas, &[0, num_classes as i64, 4], "")?;
    let deltas = g.transpose(deltas, &[1, 0, 2])?;
    // Class 0 is the background.
    let scores = g.slice(scores, 0, 1..num_classes)?;
    let deltas = g.slice(deltas, 0, 1..num_classes)?;
    let boxes = decode(g, deltas, proposals, options.box_weights)?;
    let boxes = clip(g, boxes, picture.limits)?;
    let scores = without_small(g, boxes, scores, MIN_DETECTION)?;
    let config = NonMaxSuppression {
        most: options.max_detections,
        iou_threshold: not_above(options.iou_threshold),
        score_threshold: options.score_threshold as f32,
    };
    by_batch(g, (boxes, scores), 1, config, "detections")
}

/// The proposals `[R, 4]`, best first; boxes of one level suppress only each other.
fn propose(
    g: &mut Graph,
    picture: Picture,
    levels: &[LevelOutputs],
    anchors: &Anchors,
    rpn: &ProposalOptions,
) -> Result<Value, BuildError> {
    let (mut boxes, mut scores, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
    for (number, level) in levels.iter().enumerate() {
        let logits = rows(g, level.scores, 1, number)?;
        let logits = g.reshape(logits, &[-1], &format!("anchors_{number}"))?;
        let count = format!("candidates_{number}");
        let [best, places] = g.top_k(logits, rpn.pre_nms_top_n, &count)?;
        let deltas = rows(g, level.boxes, 4, number)?;
        let deltas = g.gather(deltas, places)?;
        let cells = Cells::of_level(anchors, number);
        let references = anchors_at(g, places, &cells, (level.scores, picture.images))?;
        let decoded = decode(g, deltas, references, [1.0; 4])?;
        let decoded = clip(g, decoded, picture.limits)?;
        let best = g.sigmoid(best);
        scores.push(without_small(g, decoded, best, MIN_PROPOSAL)?);
        boxes.push(decoded);
        let (none, own) = (g.whole(0), g.whole(number as i64));
        let zeros = g.mul_broadcast(places, none)?;
        numbers.push(g.add_broadcast(zeros, own)?);
    }
    let candidates = Candidates {
        boxes: g.concat_rows(&boxes, "candidates")?,
        scores: g.concat_rows(&scores, "candidates")?,
        classes: g.concat_rows(&numbers, "candidates")?,
    };
    let config = NonMaxSuppression {
        most: rpn.post_nms_top_n,
        iou_threshold: not_above(rpn.iou_threshold),
        score_threshold: at_least(rpn.score_threshold as f32),
    };
    Ok(by_class(g, candidates, levels.len(), config, "proposals")?.boxes)
}

/// A threshold that a score of `least` is above, and -1 is not.
fn at_least(least: f32) -> f32 {
    if least > 0.0 { least.next_down() } else { -0.5 }
}

/// The regions to cut from each map, and the proposals in that order, `[R, 4]`.
///
/// The level of a box is `floor(4 + log2(side / 224) + 1e-6)`: compared here with the sides at which
/// it rises, since `log2` is no ONNX operator.
fn by_level(
    g: &mut Graph,
    proposals: Value,
    strides: &[u32],
) -> Result<(Vec<Regions>, Value), BuildError> {
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
        let batch_indices = g.mul_broadcast(column, none)?;
        let boxes = proposals;
        let regions = Regions {
            boxes,
            batch_indices,
        };
        return Ok((vec![regions], proposals));
    }
    let (width, height) = (g.slice(size, 1, 0..1)?, g.slice(size, 1, 1..2)?);
    let area = g.mul_broadcast(width, height)?;
    let side = g.sqrt(area);
    let rises = g.table("rises", &[rises.len()], rises);
    let above = g.greater_or_equal(side, rises)?;
    let above = g.to_i64(above);
    let levels = g.sum_last(above)?;
    let (mut regions, mut order) = (Vec::new(), Vec::new());
    for number in 0..strides.len() {
        let own = g.whole(number as i64);
        let here = g.equal(levels, own)?;
        let name = format!("rois_{number}");
        let here = g.non_zero(here, &name)?;
        let here = g.reshape(here, &[-1], &name)?;
        regions.push(Regions {
            boxes: g.gather(proposals, here)?,
            batch_indices: g.mul_broadcast(here, none)?,
        });
        order.push(here);
    }
    let order = g.concat_rows(&order, "rois")?;
    Ok((regions, g.gather(proposals, order)?))
}
