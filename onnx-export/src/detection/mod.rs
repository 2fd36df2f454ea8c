//! Detection networks: raw scores and corrections for every anchor, level by level.
//!
//! The graphs end before anything that depends on how many boxes there are. Anchors, decoding,
//! top-k and suppression are the server's work: in a graph they tie it to batches of one, as `fused`
//! does for other runtimes.
//!
//! Source: `torchvision.models.detection`.

mod faster_rcnn;
mod fused;
mod pyramid;
mod retinanet;
mod ssdlite;

pub(crate) use faster_rcnn::{box_head, proposals};
pub(crate) use fused::fused;
pub use fused::{FusedOptions, ProposalOptions};
pub(crate) use retinanet::retinanet;
pub(crate) use ssdlite::ssdlite;

use crate::graph::{Graph, Value};

/// What a head says of the anchors of one level.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LevelOutputs {
    /// Scores `[N, A * K, h, w]`: the classes of the first anchor, of the second, ...
    scores: Value,
    /// Corrections `[N, A * 4, h, w]`: x, y, width, height of the first anchor, of the second, ...
    boxes: Value,
}

/// Makes the levels outputs: first all scores, then all boxes, as `<name>_<level>`.
pub(crate) fn output_levels(g: &mut Graph, levels: &[LevelOutputs], [scores, boxes]: [&str; 2]) {
    for (index, level) in levels.iter().enumerate() {
        g.output(level.scores, &format!("{scores}_{index}"));
    }
    for (index, level) in levels.iter().enumerate() {
        g.output(level.boxes, &format!("{boxes}_{index}"));
    }
}
