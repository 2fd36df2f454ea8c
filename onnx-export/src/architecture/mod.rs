//! Architectures as data: a backbone, the head on it, and the arguments of their builders.
//!
//! Every type here can be serialized, so that an architecture can be a part of a configuration file.
//! `check` holds the ranges of the arguments and the combinations of backbone and head that can be built.

mod heads;

use serde::{Deserialize, Serialize};

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

/// The feature extractor of a network.
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

/// Selects one of the two MobileNetV3 networks of the paper (Howard et al. 2019).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MobileNetV3Size {
    /// MobileNetV3-Large, table 1 of the paper.
    Large,
    /// MobileNetV3-Small, table 2 of the paper.
    Small,
}

/// Arguments of MobileNetV3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MobileNetV3Config {
    /// The table that the network is built from.
    pub size: MobileNetV3Size,
    /// Factor on every channel count, 0.05 to 8.
    #[serde(default = "one")]
    pub width_mult: f64,
    /// Whether the last blocks have half as many channels.
    #[serde(default)]
    pub reduced_tail: bool,
    /// Whether the last blocks use dilation 2 instead of stride 2.
    #[serde(default)]
    pub dilated: bool,
    /// Epsilon of every batch norm.
    pub bn_eps: f32,
    /// Whether the batch norm is frozen. The tensors of a frozen batch norm are buffers and do not count as parameters.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bn_frozen: bool,
}

/// Arguments of MobileNetV2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MobileNetV2Config {
    /// Factor on every channel count, 0.05 to 8.
    #[serde(default = "one")]
    pub width_mult: f64,
    /// Epsilon of every batch norm.
    pub bn_eps: f32,
    /// Whether activations are clipped at 6. torchvision's quantized networks use a plain `ReLU` instead.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub relu6: bool,
}

/// The residual block that a `ResNet` repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResNetBlock {
    /// Two 3x3 convolutions (ResNet-18 and ResNet-34).
    Basic,
    /// 1x1, 3x3 and 1x1 convolutions with a fourfold expansion (ResNet-50 and deeper).
    Bottleneck,
}

/// Arguments of `ResNet`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// The residual block that every stage repeats.
    pub block: ResNetBlock,
    /// Number of blocks in each of the four stages, 1 to 64.
    pub layers: [usize; 4],
    /// For each of the last three stages, whether dilation replaces the stride. Requires bottleneck blocks.
    #[serde(default)]
    pub replace_stride_with_dilation: [bool; 3],
    /// Epsilon of every batch norm.
    pub bn_eps: f32,
    /// Whether the batch norm is frozen. The tensors of a frozen batch norm are buffers and do not count as parameters.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bn_frozen: bool,
}

/// Arguments of EfficientNet-Lite0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EfficientNetLite0Config {
    /// Epsilon of every batch norm.
    pub bn_eps: f32,
}

fn one() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}
