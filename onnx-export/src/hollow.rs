//! ONNX files without the elements of their large weights.

use std::collections::HashSet;

use crate::proto::FLOAT;
use crate::wire::{Reader, Value};

/// Field numbers of `ModelProto.graph`, `GraphProto.initializer`, and of `data_type`, `name` and `raw_data` of a
/// `TensorProto`.
const GRAPH: u32 = 7;
const INITIALIZER: u32 = 5;
const DATA_TYPE: u32 = 2;
const NAME: u32 = 8;
const RAW_DATA: u32 = 9;

/// An ONNX file without the elements of its large f32 initializers. Programs that hold these elements anyway, as
/// [`read_initializers`](crate::read_initializers) returns them, restore the file from them, so that they do not hold
/// the elements twice.
#[derive(Debug, Clone)]
pub struct HollowFile {
    /// The bytes of the file, except the elements.
    rest: Vec<u8>,
    /// The places in `rest` where elements are missing, in order.
    holes: Vec<Hole>,
}

/// A place where the elements of a tensor are missing.
#[derive(Debug, Clone)]
struct Hole {
    /// Number of bytes of [`HollowFile::rest`] before the elements.
    at: usize,
    /// Name of the initializer.
    tensor: String,
    /// Number of missing bytes.
    bytes: usize,
}

impl HollowFile {
    /// Copies the ONNX file `model` without the elements of the f32 initializers whose `raw_data` has at least
    /// `min_bytes` bytes. Of initializers with the same name, only the first is left out. Fields that cannot be read
    /// are copied.
    pub fn new(model: &[u8], min_bytes: usize) -> Self {
        let mut names = HashSet::new();
        let mut file = Self {
            rest: Vec::new(),
            holes: Vec::new(),
        };
        let mut copied = 0;
        for tensor in Reader::new(model)
            .messages(GRAPH)
            .flat_map(|graph| graph.messages(INITIALIZER))
        {
            let Some((name, elements)) = raw_floats(tensor) else {
                continue;
            };
            let bytes = elements.rest().len();
            if bytes < min_bytes.max(1) || !names.insert(name) {
                continue;
            }
            file.rest.extend(&model[copied..elements.offset()]);
            file.holes.push(Hole {
                at: file.rest.len(),
                tensor: name.to_owned(),
                bytes,
            });
            copied = elements.offset() + bytes;
        }
        file.rest.extend(&model[copied..]);
        file.rest.shrink_to_fit();
        file
    }

    /// Returns the whole file. `elements` returns the elements of the initializer with a name.
    ///
    /// # Errors
    /// The name of a tensor for which `elements` returns `None` or another number of elements.
    pub fn restore<'e>(
        &self,
        elements: impl Fn(&str) -> Option<&'e [f32]>,
    ) -> Result<Vec<u8>, &str> {
        let missing: usize = self.holes.iter().map(|hole| hole.bytes).sum();
        let mut model = Vec::with_capacity(self.rest.len() + missing);
        let mut copied = 0;
        for Hole { at, tensor, bytes } in &self.holes {
            let elements = elements(tensor).filter(|elements| size_of_val(*elements) == *bytes);
            let elements = elements.ok_or(tensor.as_str())?;
            model.extend(&self.rest[copied..*at]);
            let start = model.len();
            model.resize(start + bytes, 0);
            let (places, _) = model[start..].as_chunks_mut();
            for (place, element) in places.iter_mut().zip(elements) {
                *place = element.to_le_bytes();
            }
            copied = *at;
        }
        model.extend(&self.rest[copied..]);
        Ok(model)
    }

    /// Returns the size of the file without the elements, in bytes.
    pub fn size(&self) -> usize {
        self.rest.len()
    }
}

/// Returns the name and `raw_data` of an f32 tensor; `None` if the tensor has another data type or another encoding.
fn raw_floats(tensor: Reader<'_>) -> Option<(&str, Reader<'_>)> {
    let (mut name, mut elements, mut data_type) = (None, None, None);
    for (number, value) in tensor.fields() {
        match (number, value) {
            (NAME, Value::Bytes(text)) => name = Some(std::str::from_utf8(text.rest()).ok()?),
            // Of two fields with this number, a decoder uses the second.
            (RAW_DATA, Value::Bytes(_)) if elements.is_some() => return None,
            (RAW_DATA, Value::Bytes(bytes)) => elements = Some(bytes),
            (DATA_TYPE, Value::Varint(code)) => data_type = Some(code),
            _ => {}
        }
    }
    let is_float = u64::try_from(FLOAT).is_ok_and(|float| data_type == Some(float));
    is_float.then_some((name?, elements?))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use prost::Message;

    use super::*;
    use crate::proto::{GraphProto, ModelProto, TensorProto};
    use crate::read_initializers;

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

    fn restored(file: &HollowFile, model: &[u8], min_bytes: usize) -> Vec<u8> {
        let mut tensors = HashMap::new();
        for tensor in read_initializers(model, min_bytes).unwrap() {
            tensors.entry(tensor.name).or_insert(tensor.data);
        }
        let find = |name: &str| tensors.get(name).map(Vec::as_slice);
        file.restore(find).unwrap()
    }

    #[test]
    fn a_file_is_restored_byte_for_byte() {
        let (large, other) = ([1.5; 100], [f32::NAN; 200]);
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
            let file = HollowFile::new(&model, 100);
            assert_eq!(restored(&file, &model, 100), model, "{count}");
            let expected = [0, 400, 400, 400, 400, 1200][count];
            assert_eq!(model.len() - file.size(), expected, "{count}");
        }
    }

    #[test]
    fn bytes_that_are_no_onnx_file_are_kept() {
        let mut cut = model(vec![tensor("a", FLOAT, &[1.0; 100])]);
        cut.truncate(200);
        for bytes in [&b"not protobuf"[..], b"", &cut] {
            let file = HollowFile::new(bytes, 1);
            assert_eq!(file.restore(|_| None).unwrap(), bytes);
        }
    }

    #[test]
    fn a_tensor_of_another_size_is_named() {
        let model = model(vec![tensor("a", FLOAT, &[1.0; 100])]);
        let file = HollowFile::new(&model, 1);
        assert_eq!(file.restore(|_| Some(&[1.0; 99])), Err("a"));
        assert_eq!(file.restore(|_| None), Err("a"));
    }
}
