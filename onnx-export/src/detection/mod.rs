//! Detection networks: raw scores and box deltas for every anchor, level by level.
//!
//! The graphs end before anything that depends on the number of boxes. Anchors, decoding, top-k and
//! suppression are left to the caller: in a graph they only work for batches of one.
//! [`build_fused`](crate::build_fused) writes such a graph for runtimes that have no caller to do them.
//!
//! Source: `torchvision.models.detection`.

mod faster_rcnn;
mod fused;
mod pyramid;
mod retinanet;
mod ssdlite;

pub use faster_rcnn::{Proposals, box_head, proposals};
pub(crate) use fused::fused;
pub use fused::{FusedOptions, ProposalOptions};
pub use retinanet::retinanet;
pub use ssdlite::ssdlite;

use crate::backbones::Trunk;
use crate::graph::{Graph, Value};

/// A detection network: a backbone and a head on it.
pub struct Detector<'a, H> {
    /// Backbone.
    pub trunk: &'a dyn Trunk,
    /// Arguments of the head.
    pub head: &'a H,
    /// Number of classes, including the background if the head has one.
    pub num_classes: usize,
}

/// Outputs of a head for the A anchors at each point of one level.
#[derive(Debug, Clone, Copy)]
pub struct LevelOutputs {
    /// Scores `[N, A * classes, h, w]`: the classes of the first anchor, of the second, ...
    pub scores: Value,
    /// Box deltas `[N, A * 4, h, w]`: dx, dy, dw, dh of the first anchor, of the second, ...
    pub boxes: Value,
}

/// Names of the outputs of every level, which end in `_<level>`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutputNames {
    pub(crate) scores: &'static str,
    pub(crate) boxes: &'static str,
}

/// Makes the levels outputs of the network: the scores of all levels, then the boxes of all levels.
pub(crate) fn output_levels(g: &mut Graph, levels: &[LevelOutputs], names: OutputNames) {
    for (index, level) in levels.iter().enumerate() {
        g.output(level.scores, &format!("{}_{index}", names.scores));
    }
    for (index, level) in levels.iter().enumerate() {
        g.output(level.boxes, &format!("{}_{index}", names.boxes));
    }
}
