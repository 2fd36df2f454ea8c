//! Architectures as data: a backbone, the head on it, and the arguments of their builders.
//!
//! Every type here can be serialized, so that an architecture can be part of a configuration file. The
//! backbones and their arguments are defined in [`backbones`](crate::backbones), each next to its table.

mod check;
mod heads;

use serde::{Deserialize, Serialize};

pub use crate::backbones::{
    Backbone, ConvNeXtConfig, EfficientNetConfig, EfficientNetLite0Config, MobileNetV2Config,
    MobileNetV3Config, MobileNetV3Size, ResNetBlock, ResNetConfig,
};
pub use heads::{Anchors, DefaultBoxes, FasterRcnnHead, RetinanetHead, SsdliteHead};

/// A network: a backbone, the head that reads its feature maps, and the number of classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Number of classes. For segmentation and detection the count includes the background.
    pub num_classes: usize,
    /// Computes feature maps from the image.
    pub backbone: Backbone,
    /// Computes the outputs from the feature maps.
    #[serde(default)]
    pub head: Head,
}

/// The layers on top of a backbone, which produce the outputs of the network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Head {
    /// Global average pooling and the backbone's own classifier.
    #[default]
    Classifier,
    /// `torchvision.models.segmentation.lraspp.LRASPPHead`.
    Lraspp {
        /// Channels of the high-level branch.
        inter_channels: usize,
    },
    /// `torchvision.models.segmentation.deeplabv3.DeepLabHead`.
    Deeplabv3 {
        /// Whether the auxiliary head is exported as a second output, `aux`.
        #[serde(default)]
        aux: bool,
    },
    /// `torchvision.models.segmentation.fcn.FCNHead`.
    Fcn {
        /// Whether the auxiliary head is exported as a second output, `aux`.
        #[serde(default)]
        aux: bool,
    },
    /// `torchvision.models.detection.FasterRCNN`.
    FasterRcnn(FasterRcnnHead),
    /// `torchvision.models.detection.RetinaNet`.
    Retinanet(RetinanetHead),
    /// `torchvision.models.detection.ssdlite`.
    Ssdlite(SsdliteHead),
}
