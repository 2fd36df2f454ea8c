//! Comparison of an int8 network with its fp32 network on images that neither calibration nor search have used.

use onnx_export::quantize::{Recipe, Target};
use serde::Serialize;

use super::compare::{OutputSet, mean_cosine};
use super::{QuantizeFailure, Subject};
use crate::cpu::int8_target;
use crate::engine::{Arithmetic, Tensor};
use crate::image::PreparedImage;

/// Number of elements in the sorted samples by which outputs of different shapes are compared.
const SAMPLES: usize = 256;

/// How close the outputs of an int8 network are to those of the fp32 network on held-out images, and whether both
/// depend on the image.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct HeldOut {
    /// Mean cosine similarity between the int8 and the fp32 outputs.
    pub cosine: f64,
    /// Difference between the fp32 outputs for two images, divided by the size of the outputs, for the output with the
    /// largest quotient. About 0 if the network ignores the image. `None` if there are no two different images.
    pub variation: Option<f64>,
    /// Difference between the int8 outputs for two images, divided by the difference between the fp32 outputs, for the
    /// output with the smallest quotient: about 1 for a good int8 network, 0 if an output ignores the image. `None` if
    /// there are no two different images, or if the fp32 network ignores the image.
    pub kept_variation: Option<f64>,
}

impl HeldOut {
    /// Share of the size of its outputs by which a network's outputs for two images differ at least if the network
    /// depends on the image. Outputs of the same values differ by rounding errors, which are smaller.
    pub const MIN_VARIATION: f64 = 1e-6;

    /// Compares the fp32 network with the network that `recipe` quantizes for `target`, in the arithmetic of `target`.
    /// `images` are held-out images. `other` is one more image, which is only compared with the last of `images`, to
    /// find outputs that do not depend on the image.
    ///
    /// # Errors
    /// [`QuantizeFailure`] if a network cannot be quantized or run.
    pub fn measure(
        subject: &Subject<'_>,
        recipe: &Recipe,
        target: Target,
        images: &[PreparedImage],
        other: Option<&PreparedImage>,
    ) -> Result<Self, QuantizeFailure> {
        let outputs: Vec<String> = subject.network.outputs().map(str::to_owned).collect();
        let float = subject.network.fetching(&outputs);
        let int8 = subject.network.quantize(recipe, target)?;
        let arithmetic = if target == int8_target() {
            Arithmetic::Kernels
        } else {
            Arithmetic::Simulated
        };
        let mut float = subject.probe(&float, Arithmetic::Kernels)?;
        let mut int8 = subject.probe(&int8, arithmetic)?;
        let mut differences = Differences::default();
        let (mut sum, mut previous) = (0.0, None);
        for (index, image) in images.iter().chain(other).enumerate() {
            let outputs = [float.run(image.clone())?, int8.run(image.clone())?];
            if index < images.len() {
                sum += mean_cosine(&outputs[0], &outputs[1]);
            }
            // Equal photographs say nothing about a network that gives them equal outputs.
            if previous != Some(image) {
                differences.add(outputs);
                previous = Some(image);
            }
        }
        let (variation, kept_variation) = differences.finish();
        Ok(Self {
            cosine: sum / images.len().max(1) as f64,
            variation,
            kept_variation,
        })
    }
}

/// Differences between the outputs for consecutive images.
#[derive(Default)]
struct Differences {
    /// Outputs of the fp32 and the int8 network for the last image that had outputs.
    last: Option<[Vec<Tensor>; 2]>,
    /// Sums of each output over the pairs of images. Empty if there was no pair.
    sums: Vec<Sums>,
}

/// Sums of squares of one output.
#[derive(Clone, Copy, Default)]
struct Sums {
    /// Elements of the fp32 outputs.
    size: f64,
    /// Differences of the fp32 outputs between the images of a pair.
    float: f64,
    /// Differences of the int8 outputs between the images of a pair.
    int8: f64,
}

impl Differences {
    /// Adds the outputs of the fp32 and the int8 network for one image.
    fn add(&mut self, outputs: [OutputSet; 2]) {
        let [Some(float), Some(int8)] = outputs else {
            return;
        };
        if let Some(last) = &self.last {
            self.sums.resize(float.len(), Sums::default());
            let pairs = last[0].iter().zip(&float).zip(last[1].iter().zip(&int8));
            for (sums, ((f0, f1), (i0, i1))) in self.sums.iter_mut().zip(pairs) {
                let (difference, size) = difference(f0, f1);
                sums.float += difference;
                sums.size += size;
                sums.int8 += self::difference(i0, i1).0;
            }
        }
        self.last = Some([float, int8]);
    }

    /// Returns [`HeldOut::variation`] and [`HeldOut::kept_variation`].
    fn finish(self) -> (Option<f64>, Option<f64>) {
        let quotient = |part: f64, whole: f64| {
            if part == 0.0 {
                0.0
            } else {
                (part / whole).sqrt()
            }
        };
        let variation = |sums: &Sums| quotient(sums.float, sums.size).abs();
        let largest = self.sums.iter().map(variation).max_by(f64::total_cmp);
        // An output may be constant by design, such as a detector's anchors.
        let varying = self
            .sums
            .iter()
            .filter(|sums| variation(sums) > HeldOut::MIN_VARIATION);
        // `max` replaces NaN.
        let kept = varying.map(|sums| quotient(sums.int8, sums.float).max(0.0));
        (largest, kept.min_by(f64::total_cmp))
    }
}

/// Returns the squared difference of an output for two images, and the squared size of both. Outputs of different
/// shapes, which images of different sizes have, are compared by sorted samples of their elements.
fn difference(one: &Tensor, other: &Tensor) -> (f64, f64) {
    let squares = |one: &[f32], other: &[f32]| {
        let pairs = one.iter().zip(other);
        let pairs = pairs.map(|(a, b)| (f64::from(*a), f64::from(*b)));
        pairs.fold((0.0, 0.0), |(difference, size), (a, b)| {
            (difference + (a - b) * (a - b), size + a * a + b * b)
        })
    };
    if one.shape == other.shape {
        squares(&one.data, &other.data)
    } else {
        squares(&sample(&one.data), &sample(&other.data))
    }
}

/// Returns [`SAMPLES`] elements at even distances of the sorted elements. Empty if there are no elements.
fn sample(elements: &[f32]) -> Vec<f32> {
    let mut sorted = elements.to_vec();
    sorted.sort_by(f32::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let positions = (0..SAMPLES).map(|index| index * last / (SAMPLES - 1));
    positions
        .filter_map(|position| sorted.get(position).copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(images: &[[OutputSet; 2]]) -> (Option<f64>, Option<f64>) {
        let mut differences = Differences::default();
        for outputs in images {
            differences.add(outputs.clone());
        }
        differences.finish()
    }

    /// Returns outputs of one dimension.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "an image without outputs has none"
    )]
    fn outputs(outputs: &[&[f32]]) -> OutputSet {
        let tensor = |data: &&[f32]| Tensor {
            shape: vec![data.len()],
            data: data.to_vec(),
        };
        Some(outputs.iter().map(tensor).collect())
    }

    #[test]
    fn variations_of_outputs() {
        let one = |float: &[f32], int8: &[f32]| [outputs(&[float]), outputs(&[int8])];
        let close = |value: Option<f64>, expected: f64| {
            let value = value.unwrap();
            assert!(
                (value - expected).abs() < 1e-6,
                "{value}, expected {expected}"
            );
        };
        // One image, and images without outputs.
        assert_eq!(finished(&[one(&[1.0], &[1.0])]), (None, None));
        assert_eq!(
            finished(&[[None, None], one(&[1.0], &[1.0]), [None, None]]),
            (None, None)
        );
        let same = [one(&[1.0, 0.0], &[1.0, 0.0]), one(&[0.0, 1.0], &[0.0, 1.0])];
        let (variation, kept) = finished(&same);
        close(variation, 1.0);
        close(kept, 1.0);
        // The int8 network ignores the image.
        let dead = [one(&[1.0, 0.0], &[0.5, 0.5]), one(&[0.0, 1.0], &[0.5, 0.5])];
        close(finished(&dead).1, 0.0);
        // A small variation beside a large offset.
        let offset = [one(&[1e3], &[1e3]), one(&[1e3 + 0.25], &[1e3 + 0.25])];
        assert!(finished(&offset).0.unwrap() > HeldOut::MIN_VARIATION);
        close(finished(&offset).1, 1.0);
        // The fp32 network ignores the image.
        let constant = [one(&[1.0], &[1.0]), one(&[1.0], &[2.0])];
        assert_eq!(finished(&constant), (Some(0.0), None));
        let zero = [one(&[0.0], &[0.0]), one(&[0.0], &[0.0])];
        assert_eq!(finished(&zero), (Some(0.0), None));
    }

    #[test]
    fn one_dead_output_of_several_is_found() {
        let image = |x: f32, y: f32| {
            [
                outputs(&[&[x, 1.0], &[y], &[7.0]]),
                outputs(&[&[x, 1.0], &[2.0], &[7.0]]),
            ]
        };
        let (variation, kept) = finished(&[image(1.0, 1.0), image(-1.0, 3.0)]);
        assert!(variation.unwrap() > 0.5);
        assert_eq!(kept, Some(0.0));
        let (_, kept) = finished(&[image(1.0, 2.0), image(-1.0, 2.0)]);
        assert_eq!(kept, Some(1.0));
    }

    #[test]
    fn nan_outputs_keep_no_variation() {
        let image = |x: f32, y: f32| [outputs(&[&[x]]), outputs(&[&[y]])];
        assert_eq!(
            finished(&[image(1.0, 1.0), image(2.0, f32::NAN)]).1,
            Some(0.0)
        );
        assert!(
            finished(&[image(1.0, 1.0), image(f32::NAN, 2.0)])
                .0
                .unwrap()
                .is_nan()
        );
    }

    #[test]
    fn outputs_of_different_shapes_are_compared_by_their_elements() {
        let image = |length: usize, float: f32, int8: f32| {
            let pattern = |value: f32| -> Vec<f32> {
                let signs = [value, -1.0].into_iter().cycle();
                signs.take(length).collect()
            };
            [outputs(&[&pattern(float)]), outputs(&[&pattern(int8)])]
        };
        let alive = [image(1000, 1.0, 1.0), image(600, 3.0, 3.0)];
        let (variation, kept) = finished(&alive);
        assert!(variation.unwrap() > 0.5 && kept.unwrap() > 0.99);
        let dead = [image(1000, 1.0, 2.0), image(600, 3.0, 2.0)];
        assert!(finished(&dead).1.unwrap() < 0.1);
        assert!(sample(&[]).is_empty());
        assert_eq!(sample(&[2.0]), [2.0; SAMPLES]);
    }
}
