//! Bias correction: what the rounding of weights takes from the mean of each channel goes into the bias.
//!
//! Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019),
//! section 4.2, with means that were measured.

use crate::read::WeightTensor;

/// The mean that rounding takes from every output channel of a Conv or Gemm: of the exact weight less
/// `rounded` times `scales`, over an input whose channels have these `means`.
///
/// Zeros of padding are not counted: they concern the borders alone. Nothing is lost where the
/// means are another network's.
pub(super) fn lost_means(
    weight: &WeightTensor,
    groups: usize,
    rounded: &[i8],
    scales: &[f32],
    means: &[f32],
) -> Vec<f64> {
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
        let numbers = exact.chunks(taps).zip(rounded.chunks(taps)).zip(means);
        let of_input = numbers.map(|((exact, rounded), mean)| {
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
    fn groups_have_means_of_their_own() {
        let weight = WeightTensor {
            name: "w".to_owned(),
            shape: vec![4, 1, 1, 2],
            data: vec![1.25, 1.0, 2.0, 1.5, 0.0, 0.0, -1.0, -1.25],
        };
        let rounded = [1, 1, 2, 1, 0, 0, -1, -1];
        // Two groups of two channels.
        let lost = lost_means(&weight, 2, &rounded, &[1.0; 4], &[10.0, 100.0]);
        assert_eq!(lost, [2.5, 5.0, 0.0, -25.0]);
        assert!(lost_means(&weight, 2, &rounded, &[1.0; 4], &[1.0]).is_empty());
    }
}
