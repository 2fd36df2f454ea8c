//! `SSDlite` with postprocessing. The boxes with the highest scores of each class enter
//! suppression.
//!
//! Source: torchvision's `models/detection/ssd.py`, `SSD.postprocess_detections`.

use super::super::ssdlite;
use super::anchors::default_boxes;
use super::boxes::{clip, decode};
use super::suppress::{ClassBoxes, by_batch, not_above};
use super::{Detections, Fused, Image, LevelOutputs, rows};
use crate::architecture::SsdliteHead;
use crate::error::BuildError;
use crate::graph::ops::NonMaxSuppression;
use crate::graph::{Dim, Graph, Scope};

/// Adds `SSDlite` and its postprocessing, and returns the detections. The height and width of
/// `image` must be fixed.
pub(super) fn detect(
    g: &mut Graph,
    root: &Scope<'_>,
    image: Image,
    network: &Fused<'_, SsdliteHead>,
) -> Result<Detections, BuildError> {
    let Fused { detector, options } = network;
    let num_classes = detector.num_classes;
    let levels = ssdlite(g, root, image.images, detector)?;
    let (mut logits, mut deltas, mut grids) = (Vec::new(), Vec::new(), Vec::new());
    for (index, LevelOutputs { scores, boxes }) in levels.into_iter().enumerate() {
        if let [.., Dim::Fixed(height), Dim::Fixed(width)] = *g.shape(scores) {
            grids.push([width, height]);
        }
        logits.push(rows(g, scores, num_classes, index)?);
        deltas.push(rows(g, boxes, 4, index)?);
    }
    let logits = g.concat_rows(&logits, "anchors")?;
    let deltas = g.concat_rows(&deltas, "anchors")?;
    let size = match *g.shape(image.images) {
        [.., Dim::Fixed(height), Dim::Fixed(width)] => [width, height],
        _ => [0, 0],
    };
    let table = default_boxes(&detector.head.default_boxes, &grids, size);
    let references = g.table("default_boxes", &[table.len() / 4, 4], table);
    let boxes = decode(g, deltas, references, options.box_weights)?;
    let boxes = clip(g, boxes, image.limits)?;
    let scores = g.softmax(logits);
    let scores = g.transpose(scores, &[1, 0])?;
    // Class 0 is the background, which is never a detection.
    let scores = g.slice(scores, 0, 1..num_classes)?;
    let most = options.topk_candidates.unwrap_or(usize::MAX);
    let [scores, indices] = g.top_k(scores, most, "candidates")?;
    let boxes = g.gather(boxes, indices)?;
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
