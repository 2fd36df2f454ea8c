//! Checks the values of a classification network's outputs against the activation that its manifest
//! states.
//!
//! [`crate::inspect`] sees the operators in which a network ends. This check sees what they compute, as
//! for a softmax that is written out as several operators.

use image::{Rgb, RgbImage};
use thiserror::Error;

use super::{LoadReason, USUAL_SIZE};
use crate::engine::{Engine, EngineError, Outputs};
use crate::image::{PreparedImage, Preprocessor};
use crate::manifest::{Activation, ModelManifest, Task};
use crate::postprocess::primary_output;

/// Largest difference from 1 of a sum of probabilities, and of a score from 0..=1.
const TOLERANCE: f32 = 1e-3;
/// Largest difference of a quantized value from a multiple of the step, in steps.
const STEP_TOLERANCE: f64 = 1e-3;

/// The values of a classification network's outputs do not fit the activation in its manifest.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ActivationError {
    /// The manifest states no activation, but all outputs are probabilities.
    #[error(
        "the outputs of the network {file} for {images} test images are all probabilities: expected logits, got values \
         of 0..1 with the sum 1; if the network ends in a softmax, write `activation = \"softmax\"` into model.toml \
         above its first section, else `activation = \"none\"`"
    )]
    Probabilities {
        /// The network's ONNX file, as the manifest names it.
        file: String,
        /// Number of images.
        images: usize,
    },
    /// The manifest states an activation, but an output is not of its range.
    #[error(
        "model.toml states `activation = \"{}\"`, but the outputs of the network {file} for a test image are other \
         values: expected values of 0..1{}, got values of {least}..{most} with the sum {sum}; if they are logits, \
         remove the line",
        .stated.as_str(),
        if *.stated == Activation::Softmax { " with the sum 1" } else { "" }
    )]
    Other {
        /// The network's ONNX file, as the manifest names it.
        file: String,
        /// Activation in the manifest.
        stated: Activation,
        /// Lowest output for the image.
        least: f32,
        /// Highest output for the image.
        most: f32,
        /// Sum of the outputs for the image.
        sum: f32,
    },
}

/// Checks the outputs of a network. `first` are its outputs for the gray test image. Further test images
/// are run with `run` only if `first` does not settle the matter.
///
/// # Errors
/// [`ActivationError`] if the outputs do not fit `manifest.activation`, or the error of `run`.
pub(super) fn check(
    manifest: &ModelManifest,
    preprocessor: &Preprocessor,
    first: &Outputs,
    mut run: impl FnMut(PreparedImage) -> Result<Outputs, EngineError>,
) -> Result<(), LoadReason> {
    let stated = manifest.activation;
    if manifest.task != Task::Classification || stated == Some(Activation::None) {
        return Ok(());
    }
    let mut checked = vec![Spread::of(first)];
    // Logits are recognized by the first image, so that most models run no other.
    if stated.is_some() || checked.iter().all(Spread::is_distribution) {
        for image in test_images() {
            checked.push(Spread::of(&run(preprocessor.run(&image)?)?));
        }
    }
    let file = manifest.stages.first().map(|stage| stage.file.display());
    let file = file.map_or_else(|| manifest.name.clone(), |file| format!("`{file}`"));
    Ok(judge(stated, &checked, file)?)
}

/// Runs `engine` on test images, and checks its outputs against the activation that the manifest states.
/// For commands that do not load the model into a [`super::LoadedModel`].
///
/// # Errors
/// [`LoadReason::Activation`] if the outputs do not fit, or another [`LoadReason`] if the engine fails.
pub fn check_activation(
    manifest: &ModelManifest,
    engine: &mut dyn Engine,
) -> Result<(), LoadReason> {
    let preprocessor = Preprocessor::new(&manifest.preprocess);
    let mut run = |image| Ok(engine.run(vec![image])?.pop().unwrap_or_default());
    let first: Outputs = run(super::gray_image(&preprocessor)?)?;
    check(manifest, &preprocessor, &first, run)
}

/// Compares the outputs for several images with the activation `stated`.
fn judge(
    stated: Option<Activation>,
    checked: &[Spread],
    file: String,
) -> Result<(), ActivationError> {
    let Some(stated) = stated else {
        if checked.iter().all(Spread::is_distribution) {
            let images = checked.len();
            return Err(ActivationError::Probabilities { file, images });
        }
        return Ok(());
    };
    let fits = |spread: &&Spread| match stated {
        Activation::None => true,
        // The rounding of quantized probabilities adds up over the classes.
        Activation::Softmax => spread.is_score() && (spread.is_quantized || spread.sums_to_one()),
        Activation::Sigmoid => spread.is_score(),
    };
    match checked.iter().find(|spread| !fits(spread)) {
        None => Ok(()),
        Some(&Spread {
            least, most, sum, ..
        }) => Err(ActivationError::Other {
            file,
            stated,
            least,
            most,
            sum,
        }),
    }
}

/// Range and sum of the outputs for one image.
struct Spread {
    count: usize,
    least: f32,
    most: f32,
    sum: f32,
    is_quantized: bool,
}

impl Spread {
    fn of(outputs: &Outputs) -> Self {
        let values = primary_output(Task::Classification, outputs);
        let values = values.map_or(&[][..], |tensor| &tensor.data);
        Self {
            count: values.len(),
            least: values.iter().copied().fold(f32::INFINITY, f32::min),
            most: values.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            sum: values.iter().map(|value| f64::from(*value)).sum::<f64>() as f32,
            is_quantized: is_quantized(values),
        }
    }

    fn is_score(&self) -> bool {
        self.least >= -TOLERANCE && self.most <= 1.0 + TOLERANCE
    }

    fn sums_to_one(&self) -> bool {
        (self.sum - 1.0).abs() <= TOLERANCE
    }

    /// Returns whether the values are probabilities of several classes. A single value of 1 can be
    /// anything.
    fn is_distribution(&self) -> bool {
        self.count > 1 && self.is_score() && self.sums_to_one()
    }
}

/// Returns whether all of `values` are multiples of a step of which the highest value is at most 255, as
/// the outputs of a network that quantizes them to 8 bits. `false` for one or two values, which always
/// have nearly such a step.
fn is_quantized(values: &[f32]) -> bool {
    let most = values.iter().copied().fold(0.0, f32::max);
    let has_steps = |steps: u8| {
        values.iter().all(|value| {
            let steps = f64::from(*value) / f64::from(most) * f64::from(steps);
            (steps - steps.round()).abs() <= STEP_TOLERANCE
        })
    };
    values.len() > 2 && most > 0.0 && (1..=u8::MAX).any(has_steps)
}

/// Returns test images whose outputs differ from those of the gray image: gradients and stripes.
fn test_images() -> [RgbImage; 2] {
    let (width, height) = (USUAL_SIZE.width, USUAL_SIZE.height);
    [
        RgbImage::from_fn(width, height, |x, y| {
            Rgb([x * 255 / width, y * 255 / height, 255 - x * 255 / width].map(|v| v as u8))
        }),
        RgbImage::from_fn(width, height, |x, y| match (x / 32 + y / 32) % 3 {
            0 => Rgb([200, 40, 30]),
            1 => Rgb([30, 160, 60]),
            _ => Rgb([90, 90, 220]),
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(values: &[f32]) -> Spread {
        use crate::engine::{Output, Tensor};
        let tensor = Tensor {
            shape: vec![values.len()],
            data: values.to_vec(),
        };
        Spread::of(&Outputs::from_iter([Output::f32("logits", tensor)]))
    }

    #[test]
    fn outputs_are_compared_with_the_stated_activation() {
        let (softmax, sigmoid, none) = (
            Some(Activation::Softmax),
            Some(Activation::Sigmoid),
            Some(Activation::None),
        );
        let (distribution, scores, logits) = ([0.3, 0.7], [0.9, 0.8], [2.5, -1.5]);
        let cases: [(_, &[&[f32]], Option<&str>); 11] = [
            (None, &[&logits, &distribution], None),
            (None, &[&distribution, &scores], None),
            (None, &[&[1.0], &[1.0]], None),
            (
                None,
                &[&distribution, &[0.0, 1.0], &[0.5, 0.5]],
                Some("for 3 test images"),
            ),
            (none, &[&distribution, &distribution], None),
            (softmax, &[&distribution, &[1.0, 0.0004]], None),
            (
                softmax,
                &[&distribution, &logits],
                Some("got values of -1.5..2.5 with the sum 1; "),
            ),
            // Steps of 1/256, and values without a common step.
            (
                softmax,
                &[&[0.988_281_25, 0.003_906_25, 0.003_906_25, 0.0]],
                None,
            ),
            (
                softmax,
                &[&[0.9183, 0.0472, 0.0391]],
                Some("with the sum 1.0045"),
            ),
            (sigmoid, &[&scores, &distribution], None),
            (sigmoid, &[&logits], Some("expected values of 0..1, got")),
        ];
        for (stated, values, expected) in cases {
            let checked: Vec<Spread> = values.iter().map(|values| spread(values)).collect();
            let result = judge(stated, &checked, "`model.onnx`".to_owned());
            let message = result.err().map(|error| error.to_string());
            match (&message, expected) {
                (Some(message), Some(expected)) => {
                    assert!(message.contains(expected), "{message}");
                }
                _ => assert_eq!(message.as_deref(), expected, "{stated:?} {values:?}"),
            }
        }
    }

    #[test]
    fn no_test_image_is_nearly_white() {
        // A network may take long for extreme images, and every image is run while the model loads.
        for image in test_images() {
            let sum: u64 = image.as_raw().iter().map(|v| u64::from(*v)).sum();
            let mean = sum / image.as_raw().len() as u64;
            assert!((80..170).contains(&mean), "{mean}");
        }
    }
}
