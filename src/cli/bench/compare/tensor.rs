//! Requests of the Open Inference Protocol with images: as files in a tensor of bytes, or as pixels.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use onnx_export::text::shown;
use serde::Deserialize;
use serde_json::{Value, json};
use sightline::image::{DecodeOptions, Orientation, Preprocessor, decode};
use sightline::manifest::{Preprocess, Resize};

use super::super::images::Image;
use super::contender::with_tensor;

/// Size of an axis that the server leaves open.
const OPEN: u32 = 224;
/// Largest height and width of a tensor.
const MAX_SIDE: u32 = 4096;
/// Most elements of all tensors of a comparison.
const MAX_ELEMENTS: usize = 256 << 20;

/// The description of a model.
#[derive(Deserialize)]
pub(super) struct ModelMetadata {
    #[serde(default)]
    inputs: Vec<TensorMetadata>,
}

#[derive(Deserialize)]
struct TensorMetadata {
    name: String,
    datatype: String,
    shape: Vec<i64>,
}

/// The input of a model that accepts images.
#[derive(Debug, PartialEq)]
pub(super) struct Input {
    name: String,
    kind: Kind,
    /// Whether the first axis is that of the batch.
    has_batch: bool,
}

#[derive(Debug, PartialEq)]
enum Kind {
    /// Files of images.
    Files,
    /// Pixels, normalized as for ImageNet.
    Pixels {
        height: u32,
        width: u32,
        /// Whether the channels are the last axis.
        channels_last: bool,
    },
}

impl Input {
    /// Returns the input of the model that `metadata` describes.
    ///
    /// # Errors
    /// If the model does not accept images in a known form.
    pub(super) fn of(metadata: &ModelMetadata) -> Result<Self> {
        let [input] = &metadata.inputs[..] else {
            bail!(
                "expected a model with one input, got {}",
                metadata.inputs.len()
            );
        };
        let unsupported = || {
            format!(
                "expected an input of image files (BYTES) or of FP32 pixels with 3 channels, got {} {:?}",
                shown(&input.datatype),
                input.shape
            )
        };
        let (kind, has_batch) = match (input.datatype.as_str(), &input.shape[..]) {
            ("BYTES", [_]) => (Kind::Files, false),
            ("BYTES", [_, 1 | -1]) => (Kind::Files, true),
            ("FP32", [3, height, width]) => (pixels(*height, *width, false)?, false),
            ("FP32", [height, width, 3]) => (pixels(*height, *width, true)?, false),
            ("FP32", [_, 3, height, width]) => (pixels(*height, *width, false)?, true),
            ("FP32", [_, height, width, 3]) => (pixels(*height, *width, true)?, true),
            _ => bail!(unsupported()),
        };
        Ok(Self {
            name: input.name.clone(),
            kind,
            has_batch,
        })
    }

    /// Returns a request for each of `images`, with binary tensors if `is_binary`.
    ///
    /// # Errors
    /// If an image cannot be decoded, or if the server would need image files in JSON.
    pub(super) fn requests(&self, images: &[Image], is_binary: bool) -> Result<Vec<Image>> {
        let mut elements = 0;
        let requests = images.iter().map(|image| {
            let cannot = || format!("cannot make a tensor of {}", image.name);
            match self.kind {
                Kind::Files if !is_binary => {
                    bail!(
                        "the server has no binary tensors, without which image files have no form"
                    )
                }
                Kind::Files => Ok(self.file(image)),
                Kind::Pixels {
                    height,
                    width,
                    channels_last,
                } => {
                    let tensor = prepared(image, height, width).with_context(cannot)?;
                    elements += tensor.len();
                    if elements > MAX_ELEMENTS {
                        bail!("the tensors of all images take more than 1 GiB: use fewer images");
                    }
                    let tensor = if channels_last {
                        interleaved(&tensor)
                    } else {
                        tensor
                    };
                    self.tensor(image, &tensor, is_binary)
                }
            }
        });
        requests.collect()
    }

    fn file(&self, image: &Image) -> Image {
        let length = u32::try_from(image.content.len()).unwrap_or(u32::MAX);
        let tensor = [&length.to_le_bytes()[..], &image.content].concat();
        let shape: &[u32] = if self.has_batch { &[1, 1] } else { &[1] };
        let head = self.head("BYTES", &json!(shape), Some(tensor.len()));
        with_tensor(&image.name, head.to_string().as_bytes(), &tensor)
    }

    fn tensor(&self, image: &Image, tensor: &[f32], is_binary: bool) -> Result<Image> {
        let Kind::Pixels {
            height,
            width,
            channels_last,
        } = self.kind
        else {
            bail!("the input has no pixels");
        };
        let mut shape = if channels_last {
            vec![height, width, 3]
        } else {
            vec![3, height, width]
        };
        if self.has_batch {
            shape.insert(0, 1);
        }
        let shape = json!(shape);
        if is_binary {
            let bytes: Vec<u8> = tensor
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            let head = self.head("FP32", &shape, Some(bytes.len())).to_string();
            return Ok(with_tensor(&image.name, head.as_bytes(), &bytes));
        }
        let mut body = self.head("FP32", &shape, None);
        body["inputs"][0]["data"] = json!(tensor);
        Ok(Image::new(&image.name, Bytes::from(body.to_string())))
    }

    /// Returns the JSON of a request whose tensor has `bytes`, or will be in the JSON.
    fn head(&self, datatype: &str, shape: &Value, bytes: Option<usize>) -> Value {
        let mut input = json!({ "name": self.name, "datatype": datatype, "shape": shape });
        let mut head = json!({});
        if let Some(bytes) = bytes {
            input["parameters"] = json!({ "binary_data_size": bytes });
            head["parameters"] = json!({ "binary_data_output": true });
        }
        head["inputs"] = json!([input]);
        head
    }
}

/// Returns an input of pixels with sides that the server states, or leaves open with -1.
fn pixels(height: i64, width: i64, channels_last: bool) -> Result<Kind> {
    let side = |side: i64| {
        let known = if side == -1 { i64::from(OPEN) } else { side };
        let known = u32::try_from(known).ok();
        let known = known.filter(|side| (1..=MAX_SIDE).contains(side));
        known.with_context(|| format!("expected a side of 1..={MAX_SIDE} or -1, got {side}"))
    };
    Ok(Kind::Pixels {
        height: side(height)?,
        width: side(width)?,
        channels_last,
    })
}

/// Returns the pixels of `image` as `[3, height, width]` f32, normalized as for ImageNet.
fn prepared(image: &Image, height: u32, width: u32) -> Result<Vec<f32>> {
    let options = DecodeOptions {
        max_pixels: 100_000_000,
        orientation: Orientation::Apply,
    };
    let pixels = decode(&image.content, &options)?;
    let preprocess = Preprocess {
        resize: Resize::Fixed { width, height },
        crop: None,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
        scale: None,
        channel_order: None,
        pad_to: 1,
    };
    Ok(Preprocessor::new(&preprocess).run(&pixels)?.data.to_vec())
}

/// Converts `[3, H, W]` to `[H, W, 3]`.
fn interleaved(planes: &[f32]) -> Vec<f32> {
    let plane = planes.len() / 3;
    let pixels = 0..plane;
    pixels
        .flat_map(|at| [planes[at], planes[plane + at], planes[2 * plane + at]])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(datatype: &str, shape: &[i64]) -> Result<Input> {
        Input::of(&ModelMetadata {
            inputs: vec![TensorMetadata {
                name: "x".to_owned(),
                datatype: datatype.to_owned(),
                shape: shape.to_vec(),
            }],
        })
    }

    #[test]
    fn inputs_of_files_and_pixels_are_recognized() {
        let pixels = |height, width, channels_last| Kind::Pixels {
            height,
            width,
            channels_last,
        };
        let cases = [
            ("BYTES", &[-1][..], Kind::Files, false),
            ("BYTES", &[-1, 1], Kind::Files, true),
            ("FP32", &[-1, 3, 224, 192], pixels(224, 192, false), true),
            ("FP32", &[1, -1, -1, 3], pixels(224, 224, true), true),
            ("FP32", &[3, 32, 32], pixels(32, 32, false), false),
        ];
        for (datatype, shape, kind, has_batch) in cases {
            let expected = Input {
                name: "x".to_owned(),
                kind,
                has_batch,
            };
            assert_eq!(input(datatype, shape).unwrap(), expected);
        }
        for (datatype, shape) in [
            ("FP32", &[1, 1000][..]),
            ("INT64", &[1, 3, 8, 8]),
            ("FP32", &[1, 3, 0, 8]),
            ("FP32", &[1, 3, 1_000_000, 8]),
            ("FP32", &[]),
        ] {
            assert!(input(datatype, shape).is_err(), "{datatype} {shape:?}");
        }
    }

    #[test]
    fn requests_have_the_sizes_of_their_tensors() {
        let photo = include_bytes!("../../../../tests/photos/coffee_500x375.jpg");
        let images = [Image::new("a", Bytes::from_static(photo))];
        let head = |image: &Image| -> Value {
            serde_json::from_slice(&image.content[..image.json_bytes.unwrap()]).unwrap()
        };
        let files = input("BYTES", &[-1, 1]).unwrap();
        let request = &files.requests(&images, true).unwrap()[0];
        let size = &head(request)["inputs"][0]["parameters"]["binary_data_size"];
        assert_eq!(*size, photo.len() + 4);
        assert!(files.requests(&images, false).is_err());

        let pixels = input("FP32", &[-1, 8, 6, 3]).unwrap();
        let request = &pixels.requests(&images, true).unwrap()[0];
        assert_eq!(head(request)["inputs"][0]["shape"], json!([1, 8, 6, 3]));
        assert_eq!(
            request.content.len(),
            request.json_bytes.unwrap() + 8 * 6 * 3 * 4
        );
        let text = &pixels.requests(&images, false).unwrap()[0];
        let body: Value = serde_json::from_slice(&text.content).unwrap();
        assert_eq!(body["inputs"][0]["data"].as_array().unwrap().len(), 144);
        assert_eq!(
            interleaved(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]
        );
    }
}
