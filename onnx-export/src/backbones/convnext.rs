//! `ConvNeXt` Tiny to Large.
//!
//! Source: Liu et al., "A `ConvNet` for the 2020s" (2022), section 3 and table 9; torchvision's
//! `models/convnext.py`.

use serde::{Deserialize, Serialize};

use super::{FeatureMaps, Trunk};
use crate::error::{ArgumentError, BuildError, argument};
use crate::graph::ops::{Conv, ConvData, Padding};
use crate::graph::{Graph, Scope, Value};
use crate::layers::{Activation, conv_bias, layer_norm_2d};

/// Height and width in pixels of the patches that the stem embeds; patches do not overlap.
const PATCH: usize = 4;
/// Height and width of the depthwise kernels.
const KERNEL: usize = 7;
/// Number of channels between the two 1x1 convolutions of a block, as a multiple of the block's
/// input channels.
const EXPANSION: usize = 4;
/// Maximum number of blocks in a stage. It bounds the graph that a bad argument can build.
const MAX_BLOCKS: usize = 64;
/// Maximum number of channels of a stage. It bounds the memory that a bad argument can allocate.
const MAX_CHANNELS: usize = 4096;

/// Arguments of `ConvNeXt`.
///
/// | network | `channels` | `layers` |
/// |---|---|---|
/// | Tiny | 96, 192, 384, 768 | 3, 3, 9, 3 |
/// | Small | 96, 192, 384, 768 | 3, 3, 27, 3 |
/// | Base | 128, 256, 512, 1024 | 3, 3, 27, 3 |
/// | Large | 192, 384, 768, 1536 | 3, 3, 27, 3 |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvNeXtConfig {
    /// Channels of each of the four stages, 1 to 4096.
    pub channels: [usize; 4],
    /// Number of blocks in each of the four stages, 1 to 64.
    pub layers: [usize; 4],
    /// Epsilon of every layer norm.
    pub norm_eps: f32,
}

impl Trunk for ConvNeXtConfig {
    fn name(&self) -> &'static str {
        "convnext"
    }

    fn check(&self) -> Result<(), ArgumentError> {
        let within = |values: &[usize], most: usize| values.iter().all(|n| (1..=most).contains(n));
        if !within(&self.channels, MAX_CHANNELS) {
            let got = format!("{:?}", self.channels);
            return Err(argument("channels", "1 to 4096 channels per stage", &got));
        }
        if !within(&self.layers, MAX_BLOCKS) {
            let got = format!("{:?}", self.layers);
            return Err(argument("layers", "1 to 64 blocks per stage", &got));
        }
        Ok(())
    }

    /// Adds the backbone under `scope.0` to `scope.7`. Its feature maps are the outputs of the four stages,
    /// at strides of 4, 8, 16 and 32.
    fn features(
        &self,
        g: &mut Graph,
        scope: &Scope<'_>,
        x: Value,
    ) -> Result<FeatureMaps, BuildError> {
        let mut y = self.stem(g, &scope.sub(0), x)?;
        let mut maps = Vec::new();
        for (index, blocks) in self.layers.into_iter().enumerate() {
            if index > 0 {
                maps.push(y);
                let scope = scope.sub(2 * index);
                y = self.downsample(g, &scope, y, self.channels[index])?;
            }
            let stage = scope.sub(2 * index + 1);
            for block in 0..blocks {
                y = self.block(g, &stage.sub(block), y)?;
            }
        }
        Ok(FeatureMaps::new(maps, y))
    }

    fn classifier(
        &self,
        g: &mut Graph,
        root: &Scope<'_>,
        pooled: Value,
        num_classes: usize,
    ) -> Result<Value, BuildError> {
        let classifier = root.sub("classifier");
        let normalized = g.layer_norm(&classifier.sub(0), pooled, self.norm_eps)?;
        g.gemm(&classifier.sub(2), normalized, num_classes)
    }
}

impl ConvNeXtConfig {
    /// Adds the stem: the convolution that embeds patches of the image, and a layer norm.
    fn stem(&self, g: &mut Graph, scope: &Scope<'_>, x: Value) -> Result<Value, BuildError> {
        let conv = patches(self.channels[0], PATCH);
        let y = conv_bias(g, &scope.sub(0), x, conv)?;
        layer_norm_2d(g, &scope.sub(1), y, self.norm_eps)
    }

    /// Adds a layer norm and a convolution that halves the resolution.
    fn downsample(
        &self,
        g: &mut Graph,
        scope: &Scope<'_>,
        x: Value,
        out: usize,
    ) -> Result<Value, BuildError> {
        let y = layer_norm_2d(g, &scope.sub(0), x, self.norm_eps)?;
        conv_bias(g, &scope.sub(1), y, patches(out, 2))
    }

    /// Adds a residual block: depthwise convolution, layer norm, expansion, GELU, projection, layer
    /// scale, and the addition of the input `x`.
    ///
    /// Source: torchvision's `models/convnext.py`, `CNBlock`.
    fn block(&self, g: &mut Graph, scope: &Scope<'_>, x: Value) -> Result<Value, BuildError> {
        let channels = g.channels(x)?;
        let block = scope.sub("block");
        let depthwise = Conv::depthwise(channels, KERNEL);
        let y = conv_bias(g, &block.sub(0), x, depthwise)?;
        let y = layer_norm_2d(g, &block.sub(2), y, self.norm_eps)?;
        let expand = linear(&block.sub(3), channels, EXPANSION * channels);
        let y = g.conv(&block.sub(3), y, Conv::new(EXPANSION * channels, 1), expand)?;
        let y = Activation::Gelu.apply(g, y)?;
        let mut project = linear(&block.sub(5), EXPANSION * channels, channels);
        fold_scale(
            &mut project,
            &scope.parameter("layer_scale", &[channels, 1, 1]),
        );
        let y = g.conv(&block.sub(5), y, Conv::new(channels, 1), project)?;
        g.add(y, x)
    }
}

/// Returns the convolution that maps each patch of `side` x `side` elements to `out` channels, without
/// overlap.
fn patches(out: usize, side: usize) -> Conv {
    Conv::new(out, side)
        .stride(side)
        .padding(Padding::Explicit(0))
}

/// Reads a linear layer from `input` to `out` channels, which is applied to every pixel, and
/// returns it as a 1x1 convolution.
fn linear(scope: &Scope<'_>, input: usize, out: usize) -> ConvData {
    let weight = scope.parameter("weight", &[out, input]);
    ConvData::new(weight, scope.parameter("bias", &[out]))
}

/// Multiplies the weight and bias of each output channel of a convolution by the channel's factor, `factors`
/// `[C]`.
fn fold_scale(data: &mut ConvData, factors: &[f32]) {
    let taps = (data.weight.len() / factors.len().max(1)).max(1);
    for (weights, factor) in data.weight.chunks_mut(taps).zip(factors) {
        for weight in weights {
            *weight *= factor;
        }
    }
    for (bias, factor) in data.bias.iter_mut().flatten().zip(factors) {
        *bias *= factor;
    }
}
