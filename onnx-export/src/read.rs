//! Reads weights from an ONNX file, such as a file that a runtime has optimized.

use prost::Message;
use thiserror::Error;

use crate::proto::{FLOAT, ModelProto, TensorProto};
use crate::text::{shown, shown_error};
use crate::wire::ProtobufError;

/// A named f32 tensor of an ONNX file.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightTensor {
    /// Name of the initializer.
    pub name: String,
    /// Sizes of the axes, outermost axis first.
    pub shape: Vec<i64>,
    /// Elements of the tensor in C order.
    pub data: Vec<f32>,
}

/// The reason why the weights of an ONNX file cannot be read.
#[derive(Debug, Error)]
pub enum GraphReadError {
    /// The bytes are not a protobuf message of ONNX's schema.
    #[error("not an ONNX file: {}", shown_error(.0))]
    Protobuf(#[from] prost::DecodeError),
    /// The bytes are not a protobuf message.
    #[error(transparent)]
    Wire(#[from] ProtobufError),
    /// The number of bytes in a tensor's `raw_data` does not fit its shape.
    #[error(
        "tensor `{}` has {bytes} bytes, expected 4 for each element of shape {shape:?}",
        shown(name)
    )]
    Length {
        /// The tensor's name.
        name: String,
        /// The tensor's shape.
        shape: Vec<i64>,
        /// Number of bytes in the tensor's `raw_data`.
        bytes: usize,
    },
}

/// Returns the f32 initializers of an ONNX file whose `raw_data` has at least `min_bytes` bytes.
/// Initializers without `raw_data` are left out, even if `min_bytes` is 0.
///
/// # Errors
/// [`GraphReadError`] if the bytes are not an ONNX file, or the number of bytes in a tensor does
/// not fit its shape.
pub fn read_initializers(
    model: &[u8],
    min_bytes: usize,
) -> Result<Vec<WeightTensor>, GraphReadError> {
    let graph = ModelProto::decode(model)?.graph.unwrap_or_default();
    let tensors = graph.initializer.into_iter();
    let large = tensors
        .filter(|tensor| tensor.data_type == FLOAT && tensor.raw_data.len() >= min_bytes.max(1));
    large
        .map(|mut tensor| {
            let raw_data = std::mem::take(&mut tensor.raw_data);
            weight_tensor(tensor, &raw_data)
        })
        .collect()
}

/// Converts an f32 tensor whose elements are `raw_data`. Returns [`GraphReadError::Length`] if the number of
/// bytes does not fit the shape.
pub(crate) fn weight_tensor(
    tensor: TensorProto,
    raw_data: &[u8],
) -> Result<WeightTensor, GraphReadError> {
    let TensorProto {
        name, dims: shape, ..
    } = tensor;
    let elements = shape.iter().try_fold(1_usize, |product, size| {
        usize::try_from(*size)
            .ok()
            .and_then(|size| product.checked_mul(size))
    });
    let (chunks, rest) = raw_data.as_chunks::<4>();
    if !rest.is_empty() || elements != Some(chunks.len()) {
        return Err(GraphReadError::Length {
            name,
            shape,
            bytes: raw_data.len(),
        });
    }
    let data = chunks
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    Ok(WeightTensor { name, shape, data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::GraphProto;

    /// Returns the bytes of an ONNX file with one f32 initializer, `w`.
    fn model(dims: Vec<i64>, raw_data: Vec<u8>) -> Vec<u8> {
        let tensor = TensorProto {
            name: "w".to_owned(),
            data_type: FLOAT,
            dims,
            raw_data,
            ..TensorProto::default()
        };
        let graph = GraphProto {
            initializer: vec![tensor],
            ..GraphProto::default()
        };
        ModelProto {
            graph: Some(graph),
            ..ModelProto::default()
        }
        .encode_to_vec()
    }

    #[test]
    fn weights_are_read_back() {
        let bytes = [1.5_f32, -2.0]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let tensors = read_initializers(&model(vec![2, 1], bytes), 8).unwrap();
        assert_eq!(tensors[0].data, [1.5, -2.0]);
        assert_eq!(tensors[0].shape, [2, 1]);
    }

    #[test]
    fn lengths_that_do_not_fill_the_shape_are_rejected() {
        let cases = [vec![3], vec![-1], vec![i64::MAX, i64::MAX], vec![2, 2]];
        for shape in cases {
            let error = read_initializers(&model(shape.clone(), vec![0; 8]), 1).unwrap_err();
            assert!(matches!(error, GraphReadError::Length { .. }), "{shape:?}");
        }
        assert!(read_initializers(b"not protobuf", 1).is_err());
    }
}
