//! `RetinaNet` with postprocessing. The pairs of an anchor and a class with the highest scores of
//! every level enter suppression.
//!
//! Source: torchvision's `models/detection/retinanet.py`, `RetinaNet.postprocess_detections`.

use super::super::retinanet;
use super::anchors::{Cells, LevelGrid, anchors_at};
use super::boxes::{clip, decode};
use super::suppress::{by_class, not_above};
use super::{Candidates, Detections, Fused, Image, rows};
use crate::architecture::RetinanetHead;
use crate::error::BuildError;
use crate::graph::ops::NonMaxSuppression;
use crate::graph::{Graph, Scope};

/// Adds `RetinaNet` and its postprocessing, and returns the detections.
pub(super) fn detect(
    g: &mut Graph,
    root: &Scope<'_>,
    image: Image,
    network: &Fused<'_, RetinanetHead>,
) -> Result<Detections, BuildError> {
    let Fused { detector, options } = network;
    let num_classes = detector.num_classes;
    let levels = retinanet(g, root, image.images, detector)?;
    let most = options.topk_candidates.unwrap_or(usize::MAX);
    let (mut boxes, mut scores, mut classes) = (Vec::new(), Vec::new(), Vec::new());
    for (index, level) in levels.into_iter().enumerate() {
        let logits = rows(g, level.scores, num_classes, index)?;
        let logits = g.reshape(logits, &[-1], &format!("pairs_{index}"))?;
        let all = g.sigmoid(logits);
        let [best, indices] = g.top_k(all, most, &format!("candidates_{index}"))?;
        let by = g.whole(num_classes as i64);
        let anchors = g.div(indices, by)?;
        classes.push(g.modulo(indices, by)?);
        scores.push(best);
        let deltas = rows(g, level.boxes, 4, index)?;
        let deltas = g.gather(deltas, anchors)?;
        let cells = Cells::of_level(&detector.head.anchors, index);
        let grid = LevelGrid {
            map: level.scores,
            images: image.images,
        };
        let references = anchors_at(g, anchors, &cells, grid)?;
        let decoded = decode(g, deltas, references, options.box_weights)?;
        boxes.push(clip(g, decoded, image.limits)?);
    }
    let candidates = Candidates {
        boxes: g.concat_rows(&boxes, "candidates")?,
        scores: g.concat_rows(&scores, "candidates")?,
        classes: g.concat_rows(&classes, "candidates")?,
    };
    let config = NonMaxSuppression {
        most: options.max_detections,
        iou_threshold: not_above(options.iou_threshold),
        score_threshold: options.score_threshold as f32,
    };
    by_class(g, candidates, num_classes, config, "detections")
}
