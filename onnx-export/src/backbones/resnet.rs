//! `ResNet` with basic blocks (ResNet-18 and 34) or bottleneck blocks (ResNet-50 and deeper).
//!
//! Source: He et al., "Deep Residual Learning for Image Recognition" (2015), table 1; torchvision's
//! `models/resnet.py`, which moves the stride of a bottleneck block from its first 1x1 convolution
//! to its 3x3 convolution.

use serde::{Deserialize, Serialize};

use super::{FeatureMaps, Trunk};
use crate::error::{ArgumentError, BuildError, argument};
use crate::graph::ops::{Conv, MaxPool};
use crate::graph::{Graph, Scope, Value};
use crate::heads::Head;
use crate::layers::{Activation, ConvNorm, ConvNormScopes, Norm, conv_bn};

/// Number of output channels of the stem, the 7x7 convolution before the first stage.
const STEM_CHANNELS: usize = 64;
/// State dict name of each stage, the channels of its 3x3 convolutions, and its stride.
#[rustfmt::skip]
const STAGES: [(&str, usize, usize); 4] = [
    // name    width  stride
    ("layer1",    64, 1), // C2
    ("layer2",   128, 2), // C3
    ("layer3",   256, 2), // C4
    ("layer4",   512, 2), // C5
];
/// Maximum number of blocks in a stage. It bounds the graph that a bad argument can build.
const MAX_BLOCKS: usize = 64;

/// The residual block that a `ResNet` repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResNetBlock {
    /// Two 3x3 convolutions (ResNet-18 and ResNet-34).
    Basic,
    /// A 1x1, a 3x3 and a 1x1 convolution, where the last has four times as many output channels as
    /// the others (ResNet-50 and deeper).
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
    /// Whether dilation replaces the stride in each of the last three stages. Values of true
    /// require bottleneck blocks.
    #[serde(default)]
    pub replace_stride_with_dilation: [bool; 3],
    /// Epsilon of every batch norm.
    pub bn_eps: f32,
    /// Whether the batch norms are frozen. The tensors of a frozen batch norm are buffers and do
    /// not count as parameters.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bn_frozen: bool,
}

impl ResNetBlock {
    /// Returns the ratio of the block's output channels to the channels of its 3x3 convolutions.
    fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
}

impl Trunk for ResNetConfig {
    fn name(&self) -> &'static str {
        "resnet"
    }

    fn check(&self) -> Result<(), ArgumentError> {
        if self.layers.iter().any(|n| !(1..=MAX_BLOCKS).contains(n)) {
            let got = format!("{:?}", self.layers);
            return Err(argument("layers", "1 to 64 blocks per stage", &got));
        }
        let dilates = self.replace_stride_with_dilation.contains(&true);
        if dilates && self.block == ResNetBlock::Basic {
            let name = "replace_stride_with_dilation";
            return Err(argument(
                name,
                "false in all stages for basic blocks",
                &"true",
            ));
        }
        Ok(())
    }

    fn module(&self) -> &'static str {
        ""
    }

    fn supports(&self, head: &Head) -> bool {
        !matches!(head, Head::Lraspp { .. } | Head::Ssdlite(_))
    }

    fn norm(&self) -> Option<Norm> {
        Some(Norm {
            eps: self.bn_eps,
            frozen: self.bn_frozen,
        })
    }

    fn auxiliary_stage(&self) -> Option<usize> {
        Some(2)
    }

    /// Adds the backbone with the weights under `scope`. Its feature maps are the outputs of `layer1` (C2, at
    /// a stride of 4) to `layer4` (C5, at a stride of 32, or 8 if the last two stages are dilated).
    fn features(
        &self,
        g: &mut Graph,
        scope: &Scope<'_>,
        x: Value,
    ) -> Result<FeatureMaps, BuildError> {
        let stem = Conv::new(STEM_CHANNELS, 7).stride(2);
        let scopes = ConvNormScopes::of(scope, "conv1", "bn1");
        let mut y = conv_bn(g, &scopes, x, self.layer(stem, Activation::Relu))?;
        let pool = MaxPool {
            kernel: 3,
            stride: 2,
            padding: 1,
        };
        y = g.max_pool(y, pool)?;
        let mut maps = Vec::new();
        let mut dilation = 1;
        for (index, (name, width, stride)) in STAGES.into_iter().enumerate() {
            let stage = Stage::new(width, stride, dilation, self.dilates(index));
            for block in 0..self.layers[index] {
                let scope = scope.sub(name).sub(block);
                y = self.residual_block(g, &scope, y, stage.conv(block))?;
            }
            dilation = stage.dilation;
            maps.push(y);
        }
        maps.pop();
        Ok(FeatureMaps::new(maps, y))
    }

    fn classifier(
        &self,
        g: &mut Graph,
        root: &Scope<'_>,
        pooled: Value,
        num_classes: usize,
    ) -> Result<Value, BuildError> {
        g.gemm(&root.sub("fc"), pooled, num_classes)
    }
}

impl ResNetConfig {
    fn layer(&self, conv: Conv, activation: Activation) -> ConvNorm {
        let norm = Norm {
            eps: self.bn_eps,
            frozen: self.bn_frozen,
        };
        ConvNorm::new(conv, norm, activation)
    }

    /// Returns whether dilation replaces the stride of stage `stage`, counted from 0.
    fn dilates(&self, stage: usize) -> bool {
        stage > 0 && self.replace_stride_with_dilation[stage - 1]
    }

    /// Adds one residual block: its convolutions, the shortcut, the sum of both, and a `Relu`.
    /// `conv` is the convolution that has the stride and the dilation of the block.
    ///
    /// Source: torchvision's `models/resnet.py`, `BasicBlock` and `Bottleneck`.
    fn residual_block(
        &self,
        g: &mut Graph,
        scope: &Scope<'_>,
        x: Value,
        conv: Conv,
    ) -> Result<Value, BuildError> {
        let out = conv.out * self.block.expansion();
        let convs = match self.block {
            ResNetBlock::Basic => vec![conv, Conv::new(out, 3)],
            ResNetBlock::Bottleneck => vec![Conv::new(conv.out, 1), conv, Conv::new(out, 1)],
        };
        let mut y = x;
        for (index, conv) in convs.iter().enumerate() {
            let number = index + 1;
            let scopes =
                ConvNormScopes::of(scope, &format!("conv{number}"), &format!("bn{number}"));
            let activation = if number == convs.len() {
                Activation::Identity
            } else {
                Activation::Relu
            };
            y = conv_bn(g, &scopes, y, self.layer(*conv, activation))?;
        }
        let identity = if conv.stride != 1 || g.channels(x)? != out {
            let shortcut = Conv::new(out, 1).stride(conv.stride);
            let scopes = ConvNormScopes::of(&scope.sub("downsample"), "0", "1");
            conv_bn(g, &scopes, x, self.layer(shortcut, Activation::Identity))?
        } else {
            x
        };
        let sum = g.add(y, identity)?;
        Ok(g.relu(sum))
    }
}

/// Channels, stride and dilation of the 3x3 convolutions in the blocks of a stage.
///
/// Source: torchvision's `models/resnet.py`, `ResNet._make_layer`.
#[derive(Debug, Clone, Copy)]
struct Stage {
    width: usize,
    stride: usize,
    /// Dilation of the first block of the stage: the `dilation` of the stage before.
    first_dilation: usize,
    /// Dilation of all blocks of the stage but the first.
    dilation: usize,
}

impl Stage {
    /// Creates a stage. `before` is the dilation of the stage before. If `dilates` is true, the
    /// stage has stride 1, and its blocks after the first have the dilation `before * stride`.
    fn new(width: usize, stride: usize, before: usize, dilates: bool) -> Self {
        let (stride, dilation) = if dilates {
            (1, before * stride)
        } else {
            (stride, before)
        };
        Self {
            width,
            stride,
            first_dilation: before,
            dilation,
        }
    }

    /// Returns the 3x3 convolution that has the stride and the dilation of block `block` of the
    /// stage, counted from 0.
    fn conv(&self, block: usize) -> Conv {
        let conv = Conv::new(self.width, 3);
        match block {
            0 => conv.stride(self.stride).dilation(self.first_dilation),
            _ => conv.dilation(self.dilation),
        }
    }
}
