//! Architectures as data: a backbone, the head on it, and the arguments of their builders.

use serde::{Deserialize, Serialize};

use super::heads::{FasterRcnnHead, RetinanetHead, SsdliteHead};

/// A network: which backbone, what reads its feature maps, and how many classes it tells apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Number of classes; of a segmentation network, the background among them.
    pub num_classes: usize,
    /// From the picture to feature maps.
    pub backbone: Backbone,
    /// From feature maps to the answer.
    #[serde(default)]
    pub head: Head,
}

/// A network's trunk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Backbone {
    /// `torchvision.models.mobilenetv3`.
    MobilenetV3(MobileNetV3Config),
    /// `torchvision.models.mobilenetv2`.
    MobilenetV2(MobileNetV2Config),
    /// `torchvision.models.resnet`.
    Resnet(ResNetConfig),
    /// EfficientNet-Lite0.
    EfficientnetLite0(EfficientNetLite0Config),
}

/// What is built on a backbone.
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
        /// Whether the auxiliary head is an output too.
        #[serde(default)]
        aux: bool,
    },
    /// `torchvision.models.segmentation.fcn.FCNHead`.
    Fcn {
        /// Whether the auxiliary head is an output too.
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

/// Which of the two tables of the MobileNetV3 paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MobileNetV3Size {
    /// Table 1.
    Large,
    /// Table 2.
    Small,
}

/// Arguments of MobileNetV3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MobileNetV3Config {
    /// Large or Small.
    pub size: MobileNetV3Size,
    /// Factor on every channel count.
    #[serde(default = "one")]
    pub width_mult: f64,
    /// Halve the channels of the last blocks.
    #[serde(default)]
    pub reduced_tail: bool,
    /// Dilation 2 instead of stride 2 in the last blocks.
    #[serde(default)]
    pub dilated: bool,
    /// Batch-norm epsilon.
    pub bn_eps: f32,
    /// Whether the batch norm is frozen: its four tensors are buffers then, and count no parameters.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bn_frozen: bool,
}

/// Arguments of MobileNetV2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MobileNetV2Config {
    /// Factor on every channel count.
    #[serde(default = "one")]
    pub width_mult: f64,
    /// Batch-norm epsilon.
    pub bn_eps: f32,
    /// Whether activations end at 6; torchvision's quantised networks have a plain `ReLU`.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub relu6: bool,
}

/// The residual block of a `ResNet`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResNetBlock {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3, 1x1 with a fourfold expansion.
    Bottleneck,
}

/// Arguments of `ResNet`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// The residual block.
    pub block: ResNetBlock,
    /// Blocks per stage.
    pub layers: [usize; 4],
    /// Which of the last three stages keep their resolution and dilate instead; bottlenecks only.
    #[serde(default)]
    pub replace_stride_with_dilation: [bool; 3],
    /// Batch-norm epsilon.
    pub bn_eps: f32,
    /// Whether the batch norm is frozen: its four tensors are buffers then, and count no parameters.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bn_frozen: bool,
}

/// Arguments of EfficientNet-Lite0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EfficientNetLite0Config {
    /// Batch-norm epsilon.
    pub bn_eps: f32,
}

fn one() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}
