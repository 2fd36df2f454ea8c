//! Architectures as data: which network, and the arguments of its builder.

use serde::{Deserialize, Serialize};

/// A network of a known family, with the arguments that its builder takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Architecture {
    /// `torchvision.models.mobilenetv3`.
    MobilenetV3(MobileNetV3Config),
    /// `torchvision.models.mobilenetv2`.
    MobilenetV2(MobileNetV2Config),
    /// `torchvision.models.resnet`.
    Resnet(ResNetConfig),
    /// EfficientNet-Lite0.
    EfficientnetLite0(EfficientNetLite0Config),
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
    /// Number of classes.
    pub num_classes: usize,
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
    /// Number of classes.
    pub num_classes: usize,
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
    /// Batch-norm epsilon.
    pub bn_eps: f32,
    /// Number of classes.
    pub num_classes: usize,
}

/// Arguments of EfficientNet-Lite0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EfficientNetLite0Config {
    /// Batch-norm epsilon.
    pub bn_eps: f32,
    /// Number of classes.
    pub num_classes: usize,
}

fn one() -> f64 {
    1.0
}
