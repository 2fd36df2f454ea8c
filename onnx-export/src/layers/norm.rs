//! Batch norm, which is folded into the convolution before it, and layer norm over channels.

use crate::error::BuildError;
use crate::graph::ops::ConvData;
use crate::graph::{Graph, Scope, Value};

/// Arguments of a batch norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Epsilon that is added to the variance before its square root is taken.
    pub eps: f32,
    /// Whether the batch norm is torchvision's `FrozenBatchNorm2d`, whose four tensors are buffers
    /// and do not count as parameters.
    pub frozen: bool,
}

/// Creates the arguments of a batch norm that is not frozen; the `f32` is its epsilon.
impl From<f32> for Norm {
    fn from(eps: f32) -> Self {
        let frozen = false;
        Self { eps, frozen }
    }
}

/// Adds layer normalization of `x`, `[N, C, H, W]`, over the channels of each pixel.
///
/// Source: torchvision's `models/convnext.py`, `LayerNorm2d`.
///
/// # Errors
/// [`BuildError::Shape`] if `x` is not `[N, C, H, W]`.
pub fn layer_norm_2d(
    g: &mut Graph,
    scope: &Scope<'_>,
    x: Value,
    eps: f32,
) -> Result<Value, BuildError> {
    let channels_last = g.transpose(x, &[0, 2, 3, 1])?;
    let normalized = g.layer_norm(scope, channels_last, eps)?;
    g.transpose(normalized, &[0, 3, 1, 2])
}

/// The four tensors of an inference-time batch norm, each `[C] f32`.
#[derive(Debug)]
pub(super) struct BatchNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    running_mean: Vec<f32>,
    running_var: Vec<f32>,
}

impl BatchNorm {
    /// Reads the weight, bias, running mean and running variance of a batch norm, `[channels]`
    /// each, from `scope`.
    pub(super) fn load(scope: &Scope<'_>, channels: usize, kind: Norm) -> Self {
        let affine = |name| {
            if kind.frozen {
                scope.buffer(name, &[channels])
            } else {
                scope.parameter(name, &[channels])
            }
        };
        Self {
            weight: affine("weight"),
            bias: affine("bias"),
            running_mean: scope.buffer("running_mean", &[channels]),
            running_var: scope.checked_buffer("running_var", &[channels], |variances| {
                not_positive(variances, kind.eps)
            }),
        }
    }

    /// Folds the batch norm into the weight `[C, ...]` of the convolution before it. Returns the
    /// weight `[C, ...]` and bias `[C]` of one convolution that computes both layers.
    ///
    /// The channel's factor and the bias are rounded where torch rounds them: `FrozenBatchNorm2d`
    /// rounds after every operation, `BatchNorm2d` rounds a product and the sum after it once. More
    /// precise arithmetic would be further from torch's results, because MobileNetV3-Large
    /// amplifies errors that all weights of a channel share: the region proposals of its Faster
    /// R-CNN would differ from torch's by 2e-4 of their standard deviation instead of 3e-5.
    pub(super) fn fold(&self, mut weight: Vec<f32>, kind: Norm) -> ConvData {
        let per_channel = weight.len() / self.weight.len().max(1);
        let mut bias = Vec::with_capacity(self.weight.len());
        for (channel, taps) in weight.chunks_mut(per_channel.max(1)).enumerate() {
            let scale =
                self.weight[channel] * (1.0 / (self.running_var[channel] + kind.eps).sqrt());
            for tap in taps {
                *tap *= scale;
            }
            let (mean, own) = (self.running_mean[channel], self.bias[channel]);
            bias.push(if kind.frozen {
                own - mean * scale
            } else {
                (-mean).mul_add(scale, own)
            });
        }
        ConvData::new(weight, bias)
    }
}

/// Describes the first of the running variances `variances` that is not positive after `eps` is added: torch's
/// batch norm returns NaN or infinite values for its channel. Returns `None` if all are positive.
fn not_positive(variances: &[f32], eps: f32) -> Option<String> {
    let channel = variances.iter().position(|value| value + eps <= 0.0)?;
    let value = variances[channel];
    Some(format!(
        "the variance of channel {channel} plus the batch norm's epsilon {eps} must be positive, \
         the variance is {value}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_equals_convolution_then_batch_norm() {
        let norm = BatchNorm {
            weight: vec![2.0, 0.5],
            bias: vec![1.0, -1.0],
            running_mean: vec![0.25, -3.0],
            running_var: vec![4.0, 0.01],
        };
        let folded = norm.fold(vec![1.0, -2.0, 3.0, 0.5], Norm::from(1e-3));
        let (weight, bias) = (folded.weight, folded.bias.unwrap());
        let input = [0.7_f32, -1.3];
        let plain = [input[0] - 2.0 * input[1], 3.0 * input[0] + 0.5 * input[1]];
        for channel in 0..2 {
            let folded = weight[2 * channel] * input[0] + weight[2 * channel + 1] * input[1];
            let normalized = (plain[channel] - norm.running_mean[channel])
                / (norm.running_var[channel] + 1e-3).sqrt();
            let expected = normalized * norm.weight[channel] + norm.bias[channel];
            assert!((folded + bias[channel] - expected).abs() < 1e-4 * expected.abs());
        }
    }
}
