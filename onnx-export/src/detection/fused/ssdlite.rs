//! `SSDlite`: boxes of every default box, and the best few of each class.
//!
//! Source: torchvision's `models/detection/ssd.py`, `SSD.postprocess_detections`.

use super::super::ssdlite;
use super::anchors::default_boxes;
use super::boxes::{clip, decode};
use super::suppress::{by_batch, not_above};
use super::{Chosen, FusedOptions, LevelOutputs, Picture, rows};
use crate::architecture::{MobileNetV3Config, SsdliteHead};
use crate::error::BuildError;
use crate::graph::ops::NonMaxSuppression;
use crate::graph::{Dim, Graph, Scope};

/// Adds the network and all that follows it. The picture's size is fixed.
pub(super) fn detect(
    g: &mut Graph,
    root: &Scope<'_>,
    picture: Picture,
    (config, head): (&MobileNetV3Config, &SsdliteHead),
    options: &FusedOptions,
    num_classes: usize,
) -> Result<Chosen, BuildError> {
    let levels = ssdlite(g, root, picture.images, (config, head), num_classes)?;
    let (mut logits, mut deltas, mut grids) = (Vec::new(), Vec::new(), Vec::new());
    for (number, LevelOutputs { scores, boxes }) in levels.into_iter().enumerate() {
        if let [.., Dim::Fixed(height), Dim::Fixed(width)] = *g.shape(scores) {
            grids.push([width, height]);
        }
        logits.push(rows(g, scores, num_classes, number)?);
        deltas.push(rows(g, boxes, 4, number)?);
    }
    let logits = g.concat_rows(&logits, "anchors")?;
    let deltas = g.concat_rows(&deltas, "anchors")?;
    let size = match *g.shape(picture.images) {
        [.., Dim::Fixed(height), Dim::Fixed(width)] => [width, height],
        _ => [0, 0],
    };
    let table = default_boxes(&head.default_boxes, &grids, size);
    let references = g.table("default_boxes", &[table.len() / 4, 4], table);
    let boxes = decode(g, deltas, references, options.box_weights)?;
    let boxes = clip(g, boxes, picture.limits)?;
    let scores = g.softmax(logits);
    let scores = g.transpose(scores, &[1, 0])?;
    // Class 0 is the background.
    let scores = g.slice(scores, 0, 1..num_classes)?;
    let most = options.topk_candidates.unwrap_or(usize::MAX);
    let [scores, places] = g.top_k(scores, most, "candidates")?;
    let boxes = g.gather(boxes, places)?;
    let config = NonMaxSuppression {
        most: options.max_detections,
        iou_threshold: not_above(options.iou_threshold),
        score_threshold: options.score_threshold as f32,
    };
    by_batch(g, (boxes, scores), 1, config, "detections")
}
