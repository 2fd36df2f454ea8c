//! Architectures as data: a backbone, a head that is built on it, and the arguments of both.
//!
//! Every type here can be serialized, so that an architecture can be part of a configuration file. The
//! backbones and their arguments are defined in [`backbones`](crate::backbones), each next to its table.

mod check;

use serde::{Deserialize, Serialize};

pub use crate::backbones::{
    Backbone, ConvNeXtConfig, EfficientNetConfig, EfficientNetLite0Config, MobileNetV2Config,
    MobileNetV3Config, MobileNetV3Size, ResNetBlock, ResNetConfig,
};
pub use crate::heads::{Anchors, DefaultBoxes, FasterRcnnHead, Head, RetinanetHead, SsdliteHead};

/// A network: a backbone, the head that reads its feature maps, and the number of classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Number of classes. For segmentation and detection the count includes the background.
    pub num_classes: usize,
    /// Backbone, which computes feature maps from images.
    pub backbone: Backbone,
    /// Head, which computes the outputs of the network from the feature maps. A classifier if the
    /// serialized architecture has no `head`.
    #[serde(default)]
    pub head: Head,
}
