//! ONNX files whose large weights are kept apart, so that several programs or sessions share one copy of them.

use std::collections::HashSet;

use prost::Message;

use crate::proto::{FLOAT, TensorProto};
use crate::read::{GraphReadError, WeightTensor, weight_tensor};
use crate::wire::{ProtobufError, Reader, Value, push_bytes};

/// Field numbers of `ModelProto.graph`, `GraphProto.initializer` and `TensorProto.raw_data`.
const GRAPH: u32 = 7;
const INITIALIZER: u32 = 5;
const RAW_DATA: u32 = 9;

/// The field `external_data` of a tensor whose elements are kept apart: its location is the folder of the file, from
/// which no elements can be read. ONNX Runtime requires that the location exists.
pub(crate) const LOCATION: &[u8] = b"\x0a\x08location\x12\x01.";
/// The fields at the end of such a tensor: `external_data` with [`LOCATION`], and `data_location`.
const MARK: &[u8] = b"\x6a\x0d\x0a\x08location\x12\x01.\x70\x01";

/// An ONNX file without the elements of its large f32 initializers, and these elements. A runtime loads the file if the
/// caller provides the elements by the names of the initializers.
#[derive(Debug, Clone, PartialEq)]
pub struct DetachedFile {
    /// The ONNX file. Each tensor of `weights` has no elements in it, and `.` as the location of its external data.
    pub graph: Vec<u8>,
    /// The initializers whose elements are kept apart, in the order of the file. Their names are unique.
    pub weights: Vec<WeightTensor>,
}

impl DetachedFile {
    /// Takes the elements of each f32 initializer whose `raw_data` has at least `min_bytes` bytes out of the ONNX file
    /// `model`. Of initializers with the same name, only the first is taken out. All other fields are copied.
    ///
    /// # Errors
    /// [`GraphReadError`] if the bytes are not an ONNX file, or the number of bytes in a tensor does not fit its shape.
    pub fn new(model: &[u8], min_bytes: usize) -> Result<Self, GraphReadError> {
        let (mut names, mut weights) = (HashSet::new(), Vec::new());
        let graph = edited_initializers(model, |tensor| {
            let Some(Split { rest, elements }) = split(tensor)? else {
                return Ok(None);
            };
            let tensor = TensorProto::decode(&rest[..])?;
            let is_large = elements.len() >= min_bytes.max(1);
            if tensor.data_type != FLOAT || !is_large || !names.insert(tensor.name.clone()) {
                return Ok(None);
            }
            weights.push(weight_tensor(tensor, elements)?);
            Ok::<_, GraphReadError>(Some([&rest, MARK].concat()))
        })?;
        Ok(Self { graph, weights })
    }
}

/// Returns the ONNX file that has the elements of `weights`, which are names and elements, in its own tensors again.
/// `graph` is the file of a [`DetachedFile`]. Tensors without elements in `weights` stay as they are.
///
/// # Errors
/// [`GraphReadError::Wire`] if `graph` is not an ONNX file.
pub fn attach<'w>(
    graph: &[u8],
    weights: impl Fn(&str) -> Option<&'w [f32]>,
) -> Result<Vec<u8>, GraphReadError> {
    edited_initializers(graph, |tensor| {
        let Some(rest) = tensor.rest().strip_suffix(MARK) else {
            return Ok(None);
        };
        let name = TensorProto::decode(rest)?.name;
        let Some(elements) = weights(&name) else {
            return Ok(None);
        };
        let bytes: Vec<u8> = elements.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut tensor = rest.to_vec();
        push_bytes(&mut tensor, RAW_DATA, &bytes);
        Ok(Some(tensor))
    })
}

/// Copies an ONNX file. `change` returns the new content of an initializer, or `None` to copy the initializer.
fn edited_initializers<'m>(
    model: &'m [u8],
    mut change: impl FnMut(Reader<'m>) -> Result<Option<Vec<u8>>, GraphReadError>,
) -> Result<Vec<u8>, GraphReadError> {
    edited(Reader::new(model), GRAPH, |graph| {
        edited(graph, INITIALIZER, &mut change).map(Some)
    })
}

/// Copies a message. `change` returns the new content of a field with the number `number`, or `None` to copy the field.
fn edited<'m>(
    mut message: Reader<'m>,
    number: u32,
    mut change: impl FnMut(Reader<'m>) -> Result<Option<Vec<u8>>, GraphReadError>,
) -> Result<Vec<u8>, GraphReadError> {
    let mut copy = Vec::new();
    loop {
        let before = message.rest();
        let Some((found, value)) = message.next_field()? else {
            return Ok(copy);
        };
        let changed = match value {
            Value::Bytes(content) if found == number => change(content)?,
            _ => None,
        };
        match changed {
            Some(content) => push_bytes(&mut copy, number, &content),
            None => copy.extend(&before[..before.len() - message.rest().len()]),
        }
    }
}

/// An encoded tensor without its elements, and its elements.
struct Split<'a> {
    /// All fields but `raw_data`.
    rest: Vec<u8>,
    /// The bytes of `raw_data`.
    elements: &'a [u8],
}

/// Separates an encoded tensor and its elements. Returns `None` if the tensor has no `raw_data`, or several.
fn split(mut tensor: Reader<'_>) -> Result<Option<Split<'_>>, ProtobufError> {
    let (mut rest, mut elements) = (Vec::new(), None);
    loop {
        let before = tensor.rest();
        let Some((number, value)) = tensor.next_field()? else {
            return Ok(elements.map(|elements| Split { rest, elements }));
        };
        match value {
            // Of two fields with this number, a decoder uses the second.
            Value::Bytes(_) if number == RAW_DATA && elements.is_some() => return Ok(None),
            Value::Bytes(bytes) if number == RAW_DATA => elements = Some(bytes.rest()),
            _ => rest.extend(&before[..before.len() - tensor.rest().len()]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{GraphProto, ModelProto};
    use crate::reject_external_data;

    fn tensor(name: &str, data_type: i32, values: &[f32]) -> TensorProto {
        TensorProto {
            name: name.to_owned(),
            data_type,
            dims: vec![values.len() as i64],
            raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ..TensorProto::default()
        }
    }

    fn model(tensors: Vec<TensorProto>) -> Vec<u8> {
        let graph = GraphProto {
            name: "graph".to_owned(),
            initializer: tensors,
            ..GraphProto::default()
        };
        let model = ModelProto {
            graph: Some(graph),
            producer_name: "test".to_owned(),
            ..ModelProto::default()
        };
        model.encode_to_vec()
    }

    fn attached(file: &DetachedFile) -> Vec<u8> {
        let find = |name: &str| {
            let found = file.weights.iter().find(|tensor| tensor.name == name)?;
            Some(&found.data[..])
        };
        attach(&file.graph, find).unwrap()
    }

    #[test]
    fn a_file_is_attached_again_with_equal_tensors() {
        let (large, other) = ([1.5; 100], [f32::MIN; 200]);
        let tensors = [
            tensor("a", FLOAT, &large),
            tensor("small", FLOAT, &[1.0]),
            tensor("integers", 6, &other),
            // Files with two tensors of one name are not valid, but must not become others.
            tensor("a", FLOAT, &other),
            tensor("b", FLOAT, &other),
        ];
        for count in 0..=tensors.len() {
            let model = model(tensors[..count].to_vec());
            let file = DetachedFile::new(&model, 100).unwrap();
            let decoded = |bytes: &[u8]| ModelProto::decode(bytes).unwrap();
            assert_eq!(decoded(&attached(&file)), decoded(&model), "{count}");
            let names: Vec<&str> = file.weights.iter().map(|t| t.name.as_str()).collect();
            assert_eq!(names, ["a", "b"][..[0, 1, 1, 1, 1, 2][count]], "{count}");
            let left = [0, 0, 4, 804, 1604, 1604][count];
            assert!(file.graph.len() < left + 300, "{}", file.graph.len());
        }
    }

    #[test]
    fn detached_tensors_have_external_data_that_is_not_foreign() {
        let bytes = model(vec![tensor("a", FLOAT, &[1.0; 100])]);
        let file = DetachedFile::new(&bytes, 1).unwrap();
        assert!(reject_external_data(&file.graph).is_err());
        crate::reject_foreign_data(&file.graph).unwrap();
        let graph = ModelProto::decode(&file.graph[..]).unwrap().graph.unwrap();
        assert_eq!(graph.initializer[0].dims, [100]);
        assert!(graph.initializer[0].raw_data.is_empty());
    }

    #[test]
    fn bytes_that_are_no_onnx_file_are_errors() {
        let mut cut = model(vec![tensor("a", FLOAT, &[1.0; 100])]);
        cut.truncate(200);
        for bytes in [&b"not protobuf"[..], &cut] {
            assert!(DetachedFile::new(bytes, 1).is_err());
        }
        let mut wrong = tensor("a", FLOAT, &[1.0; 4]);
        wrong.dims = vec![5];
        assert!(DetachedFile::new(&model(vec![wrong]), 1).is_err());
    }
}
