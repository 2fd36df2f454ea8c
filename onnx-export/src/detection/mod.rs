//! Detection networks: class scores and box deltas for every anchor, one pair of outputs per level.
//!
//! The graphs end with these outputs. Anchors, decoding, top-k and suppression are left to the
//! caller, because in a graph these steps work only for a batch of one image.
//! [`build_fused`](crate::build_fused) includes them in the graph, for runtimes without native
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

/// A detection network: a backbone and the detection head that reads its feature maps.
pub struct Detector<'a, H> {
    /// Backbone, which computes the feature maps.
    pub trunk: &'a dyn Trunk,
    /// Arguments of the head.
    pub head: &'a H,
    /// Number of classes, including the background if the head has one.
    pub num_classes: usize,
}

/// Outputs of a detection head for one level, whose feature map is `h` x `w` with A anchors at each
/// location.
#[derive(Debug, Clone, Copy)]
pub struct LevelOutputs {
    /// Scores `[N, A * classes, h, w]`. The channels are the class scores of the first anchor, then
    /// of the second anchor, and so on.
    pub scores: Value,
    /// Box deltas `[N, A * 4, h, w]`. The channels are dx, dy, dw, dh of the first anchor, then of
    /// the second anchor, and so on.
    pub boxes: Value,
}

/// Prefixes of the names of a detector's outputs: the outputs of level `i` are called
/// `<scores>_<i>` and `<boxes>_<i>`.
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
