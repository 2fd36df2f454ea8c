//! Bias correction: a layer's bias compensates for the error that rounding the weight adds to the
//! mean of each output channel.
//!
//! Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction"
//! (2019), section 4.2. The means of the input channels are measured in calibration, not derived
//! from batch norms.

use super::rewrite::RoundedWeight;
use crate::read::WeightTensor;

/// Returns how much the mean of each output channel of a Conv or Gemm decreases when the layer's
/// `weight` is replaced by `rounded`. `means` are the means of the layer's input channels. Empty if
/// `means` does not have one element per input channel.
///
/// The padding of a Conv is ignored, since it affects only the pixels at the borders.
pub(super) fn lost_means(
    weight: &WeightTensor,
    groups: usize,
    rounded: &RoundedWeight,
    means: &[f32],
) -> Vec<f64> {
    let RoundedWeight { rounded, scales } = rounded;
    let (inputs, taps) = match weight.shape.as_slice() {
        [_, inputs, taps @ ..] => (
            *inputs as usize,
            taps.iter().map(|size| *size as usize).product::<usize>(),
        ),
        _ => return Vec::new(),
    };
    let per_channel = inputs * taps;
    if per_channel == 0 || Some(means.len()) != inputs.checked_mul(groups) {
        return Vec::new();
    }
    let per_group = (scales.len() / groups).max(1);
    let channels = weight.data.chunks(per_channel);
    let channels = channels.zip(rounded.chunks(per_channel)).zip(scales);
    let mut lost = Vec::with_capacity(scales.len());
    for (channel, ((exact, rounded), scale)) in channels.enumerate() {
        let means = &means[(channel / per_group).min(groups - 1) * inputs..][..inputs];
        let pairs = exact.chunks(taps).zip(rounded.chunks(taps)).zip(means);
        let of_input = pairs.map(|((exact, rounded), mean)| {
            let errors = exact.iter().zip(rounded);
            let error = errors.map(|(w, q)| f64::from(*w) - f64::from(*q) * f64::from(*scale));
            error.sum::<f64>() * f64::from(*mean)
        });
        lost.push(of_input.sum());
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_uses_the_means_of_its_inputs() {
        let weight = WeightTensor {
            name: "w".to_owned(),
            shape: vec![4, 1, 1, 2],
            data: vec![1.25, 1.0, 2.0, 1.5, 0.0, 0.0, -1.0, -1.25],
        };
        let rounded = RoundedWeight {
            rounded: vec![1, 1, 2, 1, 0, 0, -1, -1],
            scales: vec![1.0; 4],
        };
        // Two groups, each with one input channel and two output channels.
        let lost = lost_means(&weight, 2, &rounded, &[10.0, 100.0]);
        assert_eq!(lost, [2.5, 5.0, 0.0, -25.0]);
        assert!(lost_means(&weight, 2, &rounded, &[1.0]).is_empty());
    }
}
