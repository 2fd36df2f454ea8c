//! The result of a model for one image of a data set.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sightline::admission::{Admission, Deadline};
use sightline::app::App;
use sightline::evaluate::classification::{Classified, TOP};
use sightline::evaluate::detection::{BoxXywh, Found};
use sightline::evaluate::segmentation::ConfusionMatrix;
use sightline::image::{DecodeMode, DecodeOptions, ImageSize, Orientation};
use sightline::pipeline::{
    self, Classify, Detect, Masks, Postprocess, Request, decode_fast, encoded_images,
};
use sightline::postprocess::detect::{DetectOptions, Detection};
use sightline::registry::LoadedModel;
use sightline::store::read_regular;

use super::args::MaskSizeName;
use super::dataset::{Dataset, Sample, Truth, read_mask};

/// Maximum size of a mask's file in bytes.
const MAX_MASK_BYTES: u64 = 64 << 20;

/// The result for one image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// Position of the image in the data set.
    pub(super) image: usize,
    /// SHA-256 of the image's name, bytes and annotation.
    pub(super) digest: String,
    pub(super) result: Outcome,
}

/// The result of one image, as far as figures need it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Class(Classified),
    Boxes(Vec<Found>),
    Mask(ConfusionMatrix),
}

impl Record {
    /// Returns the record with the values that it had before it was written as JSON.
    pub(super) fn restored(self) -> Self {
        Self {
            result: self.result.restored(),
            ..self
        }
    }

    /// Returns whether the result is of the kind of the image's annotation and of a model with
    /// `classes` classes. A file of results may have been changed.
    pub(super) fn fits(&self, dataset: &Dataset, classes: usize) -> bool {
        let truth = dataset.samples.get(self.image).map(|sample| &sample.truth);
        match (&self.result, truth) {
            (Outcome::Class(result), Some(Truth::Class(class))) => result.truth == *class,
            (Outcome::Boxes(_), Some(Truth::Boxes(_))) => true,
            (Outcome::Mask(matrix), Some(Truth::Mask(_))) => matrix.classes() == classes,
            _ => false,
        }
    }

    /// Returns whether the result is that of the image and the annotation as they are now. `max_bytes` is the
    /// maximum size of an image.
    pub(super) fn is_of_files(&self, dataset: &Dataset, max_bytes: u64) -> bool {
        let Some(sample) = dataset.samples.get(self.image) else {
            return false;
        };
        let files = read_files(sample, max_bytes);
        files.is_ok_and(|(image, mask)| sample.digest(&image, &mask) == self.digest)
    }
}

/// Reads the image of `sample` and its mask, which is empty if there is none.
fn read_files(sample: &Sample, max_bytes: u64) -> Result<(Vec<u8>, Vec<u8>)> {
    let image = read_regular(&sample.path, max_bytes)?;
    let mask = match &sample.truth {
        Truth::Mask(path) => read_regular(path, MAX_MASK_BYTES)
            .with_context(|| format!("cannot read the mask {}", path.display()))?,
        Truth::Class(_) | Truth::Boxes(_) => Vec::new(),
    };
    Ok((image, mask))
}

impl Outcome {
    /// Returns the result with the values that it had before it was written as JSON, whose reader may
    /// round the last bit. Scores and corners of boxes are f32 values, which survive that.
    fn restored(self) -> Self {
        let exact = |value: f64| f64::from(value as f32);
        match self {
            Self::Class(result) => Self::Class(Classified {
                confidence: exact(result.confidence),
                truth_score: exact(result.truth_score),
                ..result
            }),
            Self::Boxes(found) => {
                let restored = found.into_iter().map(|found| {
                    let b = found.bounding_box;
                    let (x, y) = (exact(b.x), exact(b.y));
                    Found {
                        score: exact(found.score),
                        bounding_box: BoxXywh {
                            x,
                            y,
                            width: exact(b.x + b.width) - x,
                            height: exact(b.y + b.height) - y,
                        },
                        ..found
                    }
                });
                Self::Boxes(restored.collect())
            }
            Self::Mask(matrix) => Self::Mask(matrix),
        }
    }
}

/// A loaded model with the state that its requests share.
pub(super) struct Subject<'a> {
    pub(super) app: &'a App,
    pub(super) model: &'a Arc<LoadedModel>,
    pub(super) dataset: &'a Dataset,
    pub(super) mask_size: MaskSizeName,
}

impl Subject<'_> {
    /// Runs the model on the image at `index` of the data set.
    ///
    /// # Errors
    /// If the image or its mask cannot be read or do not fit together; the error names the image.
    pub(super) async fn record(&self, index: usize) -> Result<Record> {
        let sample = &self.dataset.samples[index];
        let record = self.record_of(index, sample).await;
        record.with_context(|| format!("cannot evaluate {}", sample.path.display()))
    }

    async fn record_of(&self, index: usize, sample: &Sample) -> Result<Record> {
        let (image, mask_file) = read_files(sample, self.app.limits.max_body_bytes as u64)?;
        let image = Bytes::from(image);
        let bytes = image.clone();
        let result = match &sample.truth {
            Truth::Class(truth) => self.class(*truth, bytes).await?,
            Truth::Boxes(_) => self.boxes(bytes).await?,
            Truth::Mask(path) => {
                let result = self.mask(&mask_file, bytes).await;
                result.with_context(|| format!("with the mask {}", path.display()))?
            }
        };
        Ok(Record {
            image: index,
            digest: sample.digest(&image, &mask_file),
            result,
        })
    }

    async fn class(&self, truth: usize, bytes: Bytes) -> Result<Outcome> {
        let top_k = self.model.labels.len();
        let ranked = self.run(bytes, Classify { top_k }).await?;
        let score = |class: usize| {
            let found = ranked
                .iter()
                .find(|prediction| prediction.class_id == class);
            found.map_or(0.0, |prediction| f64::from(prediction.score))
        };
        let best = ranked
            .iter()
            .take(TOP)
            .map(|prediction| prediction.class_id);
        let best: Vec<usize> = best.collect();
        Ok(Outcome::Class(Classified {
            truth,
            confidence: best.first().map_or(0.0, |class| score(*class)),
            truth_score: score(truth),
            ranked: best,
        }))
    }

    async fn boxes(&self, bytes: Bytes) -> Result<Outcome> {
        let detect = Detect {
            options: DetectOptions::default(),
            drawn: None,
        };
        let detected = self.run(bytes, detect).await?;
        let counts = |found: &&Detection| self.dataset.classes.contains(&found.class_id);
        let detections = detected.detections.iter().filter(counts);
        Ok(Outcome::Boxes(detections.map(found).collect()))
    }

    async fn mask(&self, file: &[u8], bytes: Bytes) -> Result<Outcome> {
        let preprocessed = self.mask_size == MaskSizeName::Network;
        let (size, truth) = read_mask(file)?;
        let mask = self.run(bytes, Masks { preprocessed }).await?;
        let truth = if preprocessed {
            resized(&truth, size, mask.size())
        } else if size == mask.size() {
            truth
        } else {
            let (width, height) = (mask.size().width, mask.size().height);
            bail!(
                "the mask has {}x{} pixels, but the image has {width}x{height}",
                size.width,
                size.height
            );
        };
        let mut matrix = ConfusionMatrix::new(self.model.labels.len());
        matrix.add(&truth, mask.classes())?;
        Ok(Outcome::Mask(matrix))
    }

    /// Runs the model on an image file through the server's pipeline.
    pub(super) async fn run<P: Postprocess>(
        &self,
        bytes: Bytes,
        postprocess: P,
    ) -> Result<P::Output> {
        let options = DecodeOptions {
            max_pixels: self.app.limits.max_pixels,
            orientation: Orientation::Apply,
        };
        let mut inputs = encoded_images(vec![bytes], options)?;
        if self.model.plan.decode == DecodeMode::Fast {
            decode_fast(&mut inputs, &self.model.preprocessor);
        }
        postprocess.check(&inputs)?;
        let deadline = Deadline::after(self.app.limits.request_timeout);
        let admission = Admission::new(self.app, Arc::clone(self.model), deadline)?;
        let request = Request {
            inputs,
            postprocess,
        };
        let response = pipeline::run(self.app, admission, request).await?;
        let mut results = response.results.into_iter();
        results
            .next()
            .context("the pipeline returned no result for the image")
    }
}

/// Converts a detection to a box as COCO stores it.
fn found(detection: &Detection) -> Found {
    let b = detection.bounding_box;
    let [x1, y1, x2, y2] = [b.x1, b.y1, b.x2, b.y2].map(f64::from);
    Found {
        class_id: detection.class_id,
        score: detection.score.into(),
        bounding_box: BoxXywh {
            x: x1,
            y: y1,
            width: x2 - x1,
            height: y2 - y1,
        },
    }
}

/// Resizes the mask `classes` of size `from` to the size `to` with the nearest pixel, as Pillow does.
fn resized(classes: &[u8], from: ImageSize, to: ImageSize) -> Vec<u8> {
    let source = |at: u32, from: u32, to: u32| {
        let position = (f64::from(at) + 0.5) * f64::from(from) / f64::from(to);
        (position as usize).min(from.saturating_sub(1) as usize)
    };
    let columns = (0..to.width).map(|x| source(x, from.width, to.width));
    let columns: Vec<usize> = columns.collect();
    let rows = (0..to.height).map(|y| source(y, from.height, to.height) * from.width as usize);
    rows.flat_map(|row| columns.iter().map(move |x| classes[row + x]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_survive_json_bit_by_bit() {
        let mut bits = 1_u32;
        let mut value = || {
            bits = bits.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            (bits >> 8) as f32 / 65_536.0
        };
        let mut boxes = || {
            let (x1, y1) = (value(), value());
            let detection = Detection {
                class_id: 1,
                score: value() / 256.0,
                bounding_box: [x1, y1, x1 + value(), y1 + value()].into(),
            };
            found(&detection)
        };
        let found: Vec<Found> = (0..2000).map(|_| boxes()).collect();
        let text = serde_json::to_string(&Outcome::Boxes(found.clone())).unwrap();
        let read: Outcome = serde_json::from_str(&text).unwrap();
        let Outcome::Boxes(read) = read.restored() else {
            panic!("another kind of result");
        };
        assert_eq!(read, found);
    }

    #[test]
    fn masks_are_resized_to_the_nearest_pixel() {
        let size = |width, height| ImageSize { width, height };
        let mask = [1, 2, 3, 4, 5, 6];
        assert_eq!(resized(&mask, size(3, 2), size(3, 2)), mask);
        assert_eq!(resized(&mask, size(3, 2), size(1, 1)), [5]);
        let twice = resized(&mask, size(3, 2), size(6, 2));
        assert_eq!(twice, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]);
    }
}
