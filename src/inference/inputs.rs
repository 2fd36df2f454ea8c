//! Validation of a request's input tensors: they become the inputs of the pipeline.

use bytes::Bytes;

use super::face::Face;
use super::tensor::{DataType, InputTensor, TensorData, elements, show, split_elements};
use crate::app::Limits;
use crate::error::ServeError;
use crate::image::{DecodeMode, DecodeOptions, ImageSize, Orientation, Preprocessor};
use crate::parameters::{bad, cut};
use crate::pipeline::{Input, RawTensor, check_densities, decode_fast, encoded_images};
use crate::registry::LoadedModel;

/// Maximum number of input names that an error lists.
const LISTED: usize = 4;

/// The checked inputs of a request.
pub(super) struct Inputs {
    /// The face that the name of the input tensor belongs to.
    pub(super) face: Face,
    /// At least one input, one per image.
    pub(super) images: Vec<Input>,
}

/// How encoded images are decoded.
#[derive(Clone, Copy)]
pub(super) struct Decoding {
    pub(super) orientation: Orientation,
    pub(super) mode: DecodeMode,
}

/// How the input tensor is read, and its limits.
pub(super) struct Reader<'a> {
    pub(super) limits: &'a Limits,
    pub(super) preprocessor: &'a Preprocessor,
    pub(super) decoding: Decoding,
}

impl Reader<'_> {
    /// Checks the only tensor of a request and returns its images. The images share the memory of the tensor.
    ///
    /// # Errors
    /// [`ServeError::BadParameter`] if there is not exactly one tensor, or if its name, data type, shape or size is
    /// wrong; [`ServeError::TooManyImages`]; [`ServeError::Image`] for the first encoded image whose headers are not
    /// accepted.
    pub(super) fn read(&self, tensors: Vec<InputTensor>) -> Result<Inputs, ServeError> {
        let tensor = only(tensors)?;
        let face = face_of(&tensor.name)?;
        let images = match face {
            Face::Tensor => self.prepared(tensor)?,
            Face::Image => self.encoded(tensor)?,
        };
        Ok(Inputs { face, images })
    }

    /// Returns the images of the tensor `input`, `[N, 3, H, W] f32`. `H` and `W` are a size that the model's own
    /// preprocessing produces, because the network may fail for others.
    fn prepared(&self, tensor: InputTensor) -> Result<Vec<Input>, ServeError> {
        check_type(&tensor, DataType::Fp32)?;
        let shape = &tensor.shape;
        let wrong = || bad("inputs[0].shape", &self.expected_shape(), &show(shape));
        let (images, size) = match shape[..] {
            [images, 3, height, width] => (images, size_of(width, height).ok_or_else(wrong)?),
            _ => return Err(wrong()),
        };
        if self.preprocessor.output_size(size).ok() != Some(size) {
            return Err(wrong());
        }
        let images = self.count(images)?;
        let bytes = elements("inputs[0].shape", shape)?.saturating_mul(4);
        let TensorData::Raw(mut data) = tensor.data else {
            return Err(bad("inputs[0]", "the bytes of FP32 values", "byte strings"));
        };
        if data.len() as u64 != bytes {
            let expected = format!("{bytes} bytes for FP32 values of shape {}", show(shape));
            return Err(bad(
                "inputs[0]",
                &expected,
                &format!("{} bytes", data.len()),
            ));
        }
        let length = data.len() / images;
        let image = |_| {
            RawTensor::new(size, data.split_to(length))
                .map(Input::Raw)
                .ok_or_else(wrong)
        };
        (0..images).map(image).collect()
    }

    /// Returns the images of the tensor `image`, `[N]` or `[N, 1]` encoded images.
    fn encoded(&self, tensor: InputTensor) -> Result<Vec<Input>, ServeError> {
        check_type(&tensor, DataType::Bytes)?;
        let images = match tensor.shape[..] {
            [images] | [images, 1] => self.count(images)?,
            _ => {
                let got = show(&tensor.shape);
                return Err(bad("inputs[0].shape", "[N] or [N, 1]", &got));
            }
        };
        let files = match tensor.data {
            TensorData::Elements(files) if files.len() == images => files,
            TensorData::Elements(files) => {
                let expected = format!("{images} elements for shape {}", show(&tensor.shape));
                return Err(bad("inputs[0]", &expected, &files.len().to_string()));
            }
            TensorData::Raw(data) => split_elements("inputs[0]", &data, images)?,
        };
        let options = DecodeOptions {
            max_pixels: self.limits.max_pixels,
            orientation: self.decoding.orientation,
        };
        let mut inputs = encoded_images(files, options)?;
        if self.decoding.mode == DecodeMode::Fast {
            decode_fast(&mut inputs, self.preprocessor);
        }
        check_densities(&inputs, self.limits.max_pixels_per_byte)?;
        Ok(inputs)
    }

    /// Checks the size of the batch axis.
    fn count(&self, images: i64) -> Result<usize, ServeError> {
        let limit = self.limits.max_images;
        match usize::try_from(images) {
            Ok(images) if (1..=limit).contains(&images) => Ok(images),
            Ok(images) if images > limit => Err(ServeError::TooManyImages { limit }),
            _ => Err(bad(
                "inputs[0].shape",
                "at least one image",
                &images.to_string(),
            )),
        }
    }

    fn expected_shape(&self) -> String {
        match self.preprocessor.fixed_size() {
            Some(ImageSize { width, height }) => format!("[N, 3, {height}, {width}]"),
            None => "[N, 3, H, W] with a size that the model's preprocessing produces".to_owned(),
        }
    }
}

/// Returns the only tensor of a request.
fn only(tensors: Vec<InputTensor>) -> Result<InputTensor, ServeError> {
    match <[InputTensor; 1]>::try_from(tensors) {
        Ok([tensor]) => Ok(tensor),
        Err(tensors) => {
            let names = tensors.iter().take(LISTED).map(|tensor| cut(&tensor.name));
            let names: Vec<String> = names.collect();
            let got = format!("{} inputs ({})", tensors.len(), names.join(", "));
            Err(bad("inputs", "one input, `input` or `image`", &got))
        }
    }
}

/// Returns the face whose input has the name `name`.
fn face_of(name: &str) -> Result<Face, ServeError> {
    let found = Face::ALL.into_iter().find(|face| face.input() == name);
    found.ok_or_else(|| bad("inputs[0].name", "`input` or `image`", name))
}

fn check_type(tensor: &InputTensor, expected: DataType) -> Result<(), ServeError> {
    if tensor.datatype == expected {
        return Ok(());
    }
    let got = tensor.datatype.as_str();
    Err(bad("inputs[0].datatype", expected.as_str(), got))
}

fn size_of(width: i64, height: i64) -> Option<ImageSize> {
    Some(ImageSize {
        width: u32::try_from(width).ok()?,
        height: u32::try_from(height).ok()?,
    })
}

/// Returns the input tensor of a request whose whole message is `body`: one encoded image, or one FP32 tensor
/// `[1, 3, H, W]` if the model's images have a fixed size.
///
/// # Errors
/// [`ServeError::BadParameter`] for the tensor face of a model whose images have no fixed size.
pub fn whole_body(model: &LoadedModel, face: Face, body: Bytes) -> Result<InputTensor, ServeError> {
    let (datatype, shape, data) = match (face, model.preprocessor.fixed_size()) {
        (Face::Image, _) => {
            let file = TensorData::Elements(vec![body]);
            (DataType::Bytes, vec![1], file)
        }
        (Face::Tensor, Some(size)) => (
            DataType::Fp32,
            vec![1, 3, i64::from(size.height), i64::from(size.width)],
            TensorData::Raw(body),
        ),
        (Face::Tensor, None) => {
            let expected = "a message that states the shape, because the input has no fixed size";
            return Err(bad("inputs[0].shape", expected, ""));
        }
    };
    Ok(InputTensor {
        name: face.input().to_owned(),
        datatype,
        shape,
        data,
    })
}
