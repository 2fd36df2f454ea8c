//! `RetinaNet`: the best pairs of an anchor and a class of every level.
//!
//! Source: torchvision's `models/detection/retinanet.py`, `RetinaNet.postprocess_detections`.

use super::super::retinanet;
use super::anchors::{Cells, anchors_at};
use super::boxes::{clip, decode};
use super::suppress::{by_class, not_above};
use super::{Candidates, Chosen, FusedOptions, Picture, rows};
use crate::architecture::{Backbone, RetinanetHead};
use crate::error::BuildError;
use crate::graph::ops::NonMaxSuppression;
use crate::graph::{Graph, Scope};

/// Adds the network and all that follows it.
pub(super) fn detect(
    g: &mut Graph,
    root: &Scope<'_>,
    picture: Picture,
    (backbone, head): (&Backbone, &RetinanetHead),
    options: &FusedOptions,
    num_classes: usize,
) -> Result<Chosen, BuildError> {
    let levels = retinanet(g, root, picture.images, (backbone, head), num_classes)?;
    let most = options.topk_candidates.unwrap_or(usize::MAX);
    let (mut boxes, mut scores, mut classes) = (Vec::new(), Vec::new(), Vec::new());
    for (number, level) in levels.into_iter().enumerate() {
        let logits = rows(g, level.scores, num_classes, number)?;
        let logits = g.reshape(logits, &[-1], &format!("pairs_{number}"))?;
        let all = g.sigmoid(logits);
        let [best, places] = g.top_k(all, most, &format!("candidates_{number}"))?;
        let by = g.whole(num_classes as i64);
        let anchors = g.div(places, by)?;
        classes.push(g.modulo(places, by)?);
        scores.push(best);
        let deltas = rows(g, level.boxes, 4, number)?;
        let deltas = g.gather(deltas, anchors)?;
        let cells = Cells::of_level(&head.anchors, number);
        let references = anchors_at(g, anchors, &cells, (level.scores, picture.images))?;
        let decoded = decode(g, deltas, references, options.box_weights)?;
        boxes.push(clip(g, decoded, picture.limits)?);
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
