//! `EfficientNet` B0 to B7.
//!
//! Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019),
//! table 1; torchvision's `models/efficientnet.py`.

use serde::{Deserialize, Serialize};

use super::{FeatureMaps, Trunk, check_width};
use crate::error::{ArgumentError, BuildError, argument};
use crate::graph::ops::Conv;
use crate::graph::{Graph, Scope, Value};
use crate::layers::{
    Activation, ConvNorm, Norm, SqueezeExcitation, conv_norm_activation, make_divisible,
    squeeze_excitation,
};

/// One row of the paper's table: `repeats` mobile inverted bottlenecks. Only the first of them has
/// the stride of the row; the others have stride 1.
#[derive(Debug, Clone, Copy)]
struct Stage {
    expansion: usize,
    kernel: usize,
    stride: usize,
    out: usize,
    repeats: usize,
}

const fn mbconv(
    expansion: usize,
    kernel: usize,
    stride: usize,
    out: usize,
    repeats: usize,
) -> Stage {
    Stage {
        expansion,
        kernel,
        stride,
        out,
        repeats,
    }
}

#[rustfmt::skip]
const STAGES: [Stage; 7] = [
    // Expansion factor t, kernel k, stride s, output channels, repeats n.
    //     t  k  s  out  n
    mbconv(1, 3, 1,  16, 1),
    mbconv(6, 3, 2,  24, 2),
    mbconv(6, 5, 2,  40, 2),
    mbconv(6, 3, 2,  80, 3),
    mbconv(6, 5, 1, 112, 3),
    mbconv(6, 5, 2, 192, 4),
    mbconv(6, 3, 1, 320, 1),
];
const STEM_CHANNELS: usize = 32;
/// Ratio of the output channels to the input channels of the convolution after the last block.
const LAST_EXPANSION: usize = 4;

/// Arguments of `EfficientNet`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EfficientNetConfig {
    /// Factor on every channel count, 0.05 to 8. B0 has 1.
    #[serde(default = "one")]
    pub width_mult: f64,
    /// Factor on the number of blocks of every stage, rounded up; 0.05 to 8. B0 has 1.
    #[serde(default = "one")]
    pub depth_mult: f64,
    /// Epsilon of every batch norm.
    pub bn_eps: f32,
}

fn one() -> f64 {
    1.0
}

impl Trunk for EfficientNetConfig {
    fn name(&self) -> &'static str {
        "efficientnet"
    }

    fn check(&self) -> Result<(), ArgumentError> {
        check_width(self.width_mult)?;
        if (0.05..=8.0).contains(&self.depth_mult) {
            return Ok(());
        }
        Err(argument("depth_mult", "0.05 to 8", &self.depth_mult))
    }

    fn width_mult(&mut self) -> Option<&mut f64> {
        Some(&mut self.width_mult)
    }

    fn norm(&self) -> Option<Norm> {
        Some(Norm::from(self.bn_eps))
    }

    /// Adds the backbone under `scope.0` to `scope.8` and returns one feature map, `[N, C, H/32, W/32]`
    /// after the last convolution.
    fn features(
        &self,
        g: &mut Graph,
        scope: &Scope<'_>,
        x: Value,
    ) -> Result<FeatureMaps, BuildError> {
        let stem = Conv::new(self.adjust(STEM_CHANNELS), 3).stride(2);
        let mut y = conv_norm_activation(g, &scope.sub(0), x, self.layer(stem))?;
        for (index, stage) in STAGES.iter().enumerate() {
            let scope = scope.sub(index + 1);
            let repeats = (stage.repeats as f64 * self.depth_mult).ceil() as usize;
            for block in 0..repeats {
                let stride = if block == 0 { stage.stride } else { 1 };
                let stage = Stage { stride, ..*stage };
                y = self.mbconv(g, &scope.sub(block).sub("block"), y, stage)?;
            }
        }
        let last = Conv::new(LAST_EXPANSION * g.channels(y)?, 1);
        let scope = scope.sub(STAGES.len() + 1);
        y = conv_norm_activation(g, &scope, y, self.layer(last))?;
        Ok(FeatureMaps::new(vec![], y))
    }

    fn classifier(
        &self,
        g: &mut Graph,
        root: &Scope<'_>,
        pooled: Value,
        num_classes: usize,
    ) -> Result<Value, BuildError> {
        g.gemm(&root.sub("classifier").sub(1), pooled, num_classes)
    }
}

impl EfficientNetConfig {
    /// Returns `channels` times `width_mult`, rounded by [`make_divisible`].
    fn adjust(&self, channels: usize) -> usize {
        make_divisible(channels as f64 * self.width_mult)
    }

    fn layer(&self, conv: Conv) -> ConvNorm {
        ConvNorm::new(conv, self.bn_eps, Activation::Silu)
    }

    /// Adds a mobile inverted bottleneck: expansion (if its factor is not 1), depthwise convolution,
    /// squeeze-and-excitation, projection, and a residual if input and output have the same shape.
    ///
    /// Source: torchvision's `models/efficientnet.py`, `MBConv`.
    fn mbconv(
        &self,
        g: &mut Graph,
        scope: &Scope<'_>,
        x: Value,
        block: Stage,
    ) -> Result<Value, BuildError> {
        let input = g.channels(x)?;
        let (expanded, out) = (input * block.expansion, self.adjust(block.out));
        // The layers of a block are numbered from 0 without gaps: without an expansion, the
        // depthwise convolution is layer 0.
        let mut layer = 0;
        let mut next = || {
            layer += 1;
            scope.sub(layer - 1)
        };
        let mut y = x;
        if block.expansion != 1 {
            let expand = self.layer(Conv::new(expanded, 1));
            y = conv_norm_activation(g, &next(), y, expand)?;
        }
        let depthwise = Conv::depthwise(expanded, block.kernel).stride(block.stride);
        y = conv_norm_activation(g, &next(), y, self.layer(depthwise))?;
        let squeeze = SqueezeExcitation {
            channels: (input / 4).max(1),
            activation: Activation::Silu,
            gate: Activation::Sigmoid,
        };
        y = squeeze_excitation(g, &next(), y, squeeze)?;
        let project = ConvNorm::new(Conv::new(out, 1), self.bn_eps, Activation::Identity);
        y = conv_norm_activation(g, &next(), y, project)?;
        if block.stride == 1 && input == out {
            g.add(y, x)
        } else {
            Ok(y)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::{Architecture, Backbone, Head};

    #[test]
    fn parameter_counts_match_torchvision() {
        // Width factor, depth factor, and `num_params` of torchvision's
        // `EfficientNet_B<n>_Weights`.
        let cases = [
            (1.0, 1.0, 5_288_548),
            (1.0, 1.1, 7_794_184),
            (1.2, 1.4, 12_233_232),
        ];
        for (width_mult, depth_mult, expected) in cases {
            let architecture = Architecture {
                num_classes: 1000,
                backbone: Backbone::Efficientnet(EfficientNetConfig {
                    width_mult,
                    depth_mult,
                    bn_eps: 1e-5,
                }),
                head: Head::Classifier,
            };
            let shapes = crate::tensor_shapes(&architecture).unwrap();
            let trained = shapes.iter().filter(|(name, _)| !name.contains("running_"));
            let counts = trained.map(|(_, shape)| shape.iter().product::<usize>());
            assert_eq!(
                counts.sum::<usize>(),
                expected,
                "parameters with width_mult {width_mult} and depth_mult {depth_mult}"
            );
        }
    }
}
