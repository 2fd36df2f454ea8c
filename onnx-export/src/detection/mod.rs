//! Detection networks: class scores and box deltas for every anchor, one pair of outputs per level.
//!
//! The graphs end before anything that depends on the number of boxes. Anchors, decoding, top-k and
//! suppression are left to the caller: in a graph they only work for batches of one.
//! [`build_fused`](crate::build_fused) includes these steps in the graph, for runtimes without native
//! postprocessing.
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

/// Outputs of a head for one level, whose feature map is `h` x `w` with A anchors at each location.
#[derive(Debug, Clone, Copy)]
pub struct LevelOutputs {
    /// Scores `[N, A * classes, h, w]`: channels are the classes of the first anchor, then of the second, ...
    pub scores: Value,
    /// Box deltas `[N, A * 4, h, w]`: channels are dx, dy, dw, dh of the first anchor, then of the second,
    /// ...
    pub boxes: Value,
}

/// Prefixes of the names of every level's outputs; the names end in `_<level>`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutputNames {
    pub(crate) scores: &'static str,
    pub(crate) boxes: &'static str,
}

/// Adds the outputs of all levels to the network's outputs: first the scores of each level, then the box
/// deltas of each level.
pub(crate) fn output_levels(g: &mut Graph, levels: &[LevelOutputs], names: OutputNames) {
    for (index, level) in levels.iter().enumerate() {
        g.output(level.scores, &format!("{}_{index}", names.scores));
    }
    for (index, level) in levels.iter().enumerate() {
        g.output(level.boxes, &format!("{}_{index}", names.boxes));
    }
}
