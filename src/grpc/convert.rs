//! Converts a request for inference to the types of [`crate::inference`], which check its values.

use std::collections::HashMap;

use bytes::Bytes;
use open_inference::infer_parameter::ParameterChoice;
use open_inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use open_inference::{InferParameter, InferTensorContents, ModelInferRequest};

use crate::error::ServeError;
use crate::inference::{
    DataType, InferRequest, InputTensor, Parameter, Parameters, RequestedOutput, TensorData,
};
use crate::parameters::{bad, cut};

/// Start of the names of the parameters that place a tensor in shared memory. Other parameters have no effect.
const SHARED_MEMORY: &str = "shared_memory_";
/// Parameter of an output with the number of classes to return.
const CLASSIFICATION: &str = "classification";
/// Maximum number of classes to return.
const MAX_CLASSES: u64 = 100_000;

/// Returns the number of bytes that the elements of a message take in memory. Typed FP32 elements take twice their size,
/// because they are converted to bytes; each typed BYTES element has an entry in a list, even if it is empty.
pub(super) fn bytes(message: &ModelInferRequest) -> usize {
    let raw = message.raw_input_contents.iter().map(Bytes::len);
    let typed = message.inputs.iter().filter_map(|input| {
        let contents = input.contents.as_ref()?;
        let elements: usize = contents.bytes_contents.iter().map(Bytes::len).sum();
        let entries = contents.bytes_contents.capacity() * size_of::<Bytes>();
        let values = contents.fp32_contents.capacity() + contents.fp32_contents.len();
        Some(elements + entries + values * size_of::<f32>())
    });
    raw.chain(typed).sum()
}

/// Returns the number of bytes of a message that its conversion copies.
pub(super) fn copied(message: &ModelInferRequest) -> usize {
    let contents = message.inputs.iter().filter_map(|i| i.contents.as_ref());
    contents.map(|c| size_of_val(&c.fp32_contents[..])).sum()
}

/// Converts a message. The elements of tensors share its memory.
///
/// # Errors
/// [`ServeError::BadParameter`] if raw and typed elements are mixed, if a raw tensor is missing, if a data type is
/// unknown, if a tensor is in shared memory, or if a parameter has no value.
pub(super) fn request(message: ModelInferRequest) -> Result<InferRequest, ServeError> {
    let raw = message.raw_input_contents;
    let count = message.inputs.len();
    if !raw.is_empty() && raw.len() != count {
        let expected = format!("one for each of the {count} inputs, or none");
        return Err(bad("raw_input_contents", &expected, &raw.len().to_string()));
    }
    let mut raw = raw.into_iter();
    let inputs = message.inputs.into_iter().enumerate();
    let inputs = inputs.map(|(index, tensor)| input(index, tensor, raw.next()));
    Ok(InferRequest {
        inputs: inputs.collect::<Result<_, _>>()?,
        parameters: parameters(message.parameters)?,
        outputs: message
            .outputs
            .into_iter()
            .map(output)
            .collect::<Result<_, _>>()?,
    })
}

/// Converts the input tensor `index`. `raw` are its elements, if they are raw.
fn input(
    index: usize,
    tensor: InferInputTensor,
    raw: Option<Bytes>,
) -> Result<InputTensor, ServeError> {
    let field = |part: &str| format!("inputs[{index}].{part}");
    no_shared_memory(&field("parameters"), tensor.parameters.keys())?;
    let datatype = DataType::parse(&field("datatype"), &tensor.datatype)?;
    let data = match (tensor.contents, raw) {
        (None, Some(raw)) => TensorData::Raw(raw),
        (Some(contents), None) => typed(&field("contents"), datatype, contents)?,
        (None, None) => {
            let expected = "elements here or in raw_input_contents";
            return Err(bad(&field("contents"), expected, ""));
        }
        (Some(_), Some(_)) => {
            let expected = "no elements, because the request has raw_input_contents";
            return Err(bad(&field("contents"), expected, "elements"));
        }
    };
    Ok(InputTensor {
        name: tensor.name,
        datatype,
        shape: tensor.shape,
        data,
    })
}

/// Converts the elements of a tensor of `datatype`. Fields of other data types than FP32 and BYTES do not pass the
/// limits of the message.
fn typed(
    field: &str,
    datatype: DataType,
    contents: InferTensorContents,
) -> Result<TensorData, ServeError> {
    let InferTensorContents {
        fp32_contents: values,
        bytes_contents: elements,
        ..
    } = contents;
    match datatype {
        DataType::Fp32 if elements.is_empty() => {
            let mut bytes = Vec::with_capacity(size_of_val(&values[..]));
            for value in values {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
            Ok(TensorData::Raw(Bytes::from(bytes)))
        }
        DataType::Bytes if values.is_empty() => Ok(TensorData::Elements(elements)),
        _ => Err(bad(
            field,
            "fp32_contents for FP32, or bytes_contents for BYTES",
            &format!("other elements for {}", datatype.as_str()),
        )),
    }
}

fn output(output: InferRequestedOutputTensor) -> Result<RequestedOutput, ServeError> {
    let InferRequestedOutputTensor {
        name,
        mut parameters,
    } = output;
    let classes = parameters.remove(CLASSIFICATION);
    let field = format!("outputs[{}].{CLASSIFICATION}", cut(&name));
    let classes = classes.map(|value| match value.parameter_choice {
        Some(ParameterChoice::Int64Param(count)) => classes_of(&field, u64::try_from(count).ok()),
        Some(ParameterChoice::Uint64Param(count)) => classes_of(&field, Some(count)),
        _ => classes_of(&field, None),
    });
    let field = format!("outputs[{}].parameters", cut(&name));
    no_shared_memory(&field, parameters.keys())?;
    Ok(RequestedOutput {
        name,
        classes: classes.transpose()?.flatten(),
    })
}

/// Returns the number of classes to return as text. `None` for 0, which asks for values.
fn classes_of(field: &str, count: Option<u64>) -> Result<Option<usize>, ServeError> {
    let count = count.filter(|count| *count <= MAX_CLASSES);
    let count = count.and_then(|count| usize::try_from(count).ok());
    let expected = "a whole number from 0 to 100000";
    let count = count.ok_or_else(|| bad(field, expected, "another value"))?;
    Ok((count > 0).then_some(count))
}

/// Rejects tensors in shared memory, which would let clients name memory of the server's machine.
fn no_shared_memory<'a>(
    field: &str,
    mut names: impl Iterator<Item = &'a String>,
) -> Result<(), ServeError> {
    match names.find(|name| name.starts_with(SHARED_MEMORY)) {
        None => Ok(()),
        Some(name) => Err(bad(field, "a tensor in the message", name)),
    }
}

fn parameters(pairs: HashMap<String, InferParameter>) -> Result<Parameters, ServeError> {
    let parameter = |(name, value): (String, InferParameter)| {
        let value = match value.parameter_choice {
            Some(ParameterChoice::BoolParam(value)) => Parameter::Bool(value),
            Some(ParameterChoice::Int64Param(value)) => Parameter::Int(value),
            Some(ParameterChoice::StringParam(value)) => Parameter::Text(value),
            Some(ParameterChoice::DoubleParam(value)) => Parameter::Double(value),
            Some(ParameterChoice::Uint64Param(value)) => Parameter::Uint(value),
            None => return Err(bad(&name, "a value", "")),
        };
        Ok((name, value))
    };
    pairs.into_iter().map(parameter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a tensor whose elements are not in it.
    fn bare(datatype: &str) -> InferInputTensor {
        InferInputTensor {
            name: "input".to_owned(),
            datatype: datatype.to_owned(),
            shape: vec![1],
            ..InferInputTensor::default()
        }
    }

    fn tensor(datatype: &str, contents: InferTensorContents) -> InferInputTensor {
        InferInputTensor {
            contents: Some(contents),
            ..bare(datatype)
        }
    }

    fn values(values: &[f32]) -> InferTensorContents {
        InferTensorContents {
            fp32_contents: values.to_vec(),
            ..InferTensorContents::default()
        }
    }

    fn elements(elements: &[&'static [u8]]) -> InferTensorContents {
        InferTensorContents {
            bytes_contents: elements.iter().map(|e| Bytes::from_static(e)).collect(),
            ..InferTensorContents::default()
        }
    }

    fn message(inputs: Vec<InferInputTensor>, raw: &[&'static [u8]]) -> ModelInferRequest {
        ModelInferRequest {
            inputs,
            raw_input_contents: raw.iter().map(|raw| Bytes::from_static(raw)).collect(),
            ..ModelInferRequest::default()
        }
    }

    #[test]
    fn raw_and_typed_elements_are_converted() {
        let one = 1.0_f32.to_le_bytes().to_vec();
        let cases = [
            (
                message(vec![bare("FP32")], &[b"\0\0\x80\x3f"]),
                TensorData::Raw(Bytes::from(one.clone())),
            ),
            (
                message(vec![tensor("FP32", values(&[1.0]))], &[]),
                TensorData::Raw(Bytes::from(one)),
            ),
            (
                message(vec![tensor("BYTES", elements(&[b"a", b""]))], &[]),
                TensorData::Elements(vec![Bytes::from_static(b"a"), Bytes::new()]),
            ),
        ];
        for (message, expected) in cases {
            let inputs = request(message).unwrap().inputs;
            assert_eq!(inputs[0].data, expected);
        }
    }

    #[test]
    fn typed_values_take_the_memory_of_their_conversion() {
        let typed = message(vec![tensor("FP32", values(&[1.0; 10]))], &[]);
        assert_eq!(bytes(&typed), 80);
        assert_eq!(bytes(&message(vec![bare("FP32")], &[b"\0\0\x80\x3f"])), 4);
        let empty = message(vec![tensor("BYTES", elements(&[b"".as_slice(); 10]))], &[]);
        assert!(bytes(&empty) >= 10 * size_of::<Bytes>());
    }

    #[test]
    fn elements_in_the_wrong_place_are_rejected() {
        let cases = [
            (
                message(vec![tensor("FP32", values(&[1.0]))], &[b"x"]),
                "contents",
            ),
            (message(vec![bare("FP32")], &[]), "contents"),
            (message(vec![bare("FP32")], &[b"x", b"y"]), "raw_input"),
            (message(vec![], &[b"x"]), "raw_input"),
            (
                message(vec![tensor("FP32", elements(&[b"x"]))], &[]),
                "contents",
            ),
            (
                message(vec![tensor("BYTES", values(&[1.0]))], &[]),
                "contents",
            ),
            (
                message(vec![tensor("FP16", values(&[1.0]))], &[]),
                "contents",
            ),
            (message(vec![bare("FP33")], &[b"x"]), "datatype"),
        ];
        for (message, field) in cases {
            let error = request(message).unwrap_err().to_string();
            let blamed = error.split('`').nth(1).unwrap_or_default();
            assert!(blamed.contains(field), "{error}");
        }
    }

    #[test]
    fn parameters_have_values_and_known_names() {
        let parameter = |choice| InferParameter {
            parameter_choice: choice,
        };
        let shared = parameter(Some(ParameterChoice::StringParam("region".to_owned())));
        let mut message = message(vec![tensor("FP32", values(&[1.0]))], &[]);
        message.inputs[0].parameters = [("shared_memory_region".to_owned(), shared)].into();
        assert!(request(message.clone()).is_err());
        let other = parameter(Some(ParameterChoice::StringParam("str".to_owned())));
        message.inputs[0].parameters = [("content_type".to_owned(), other)].into();
        assert!(request(message.clone()).is_ok());
        message.inputs.clear();
        message.parameters = [("timeout".to_owned(), parameter(None))].into();
        assert!(request(message.clone()).is_err());
        message.parameters.clear();
        for (count, expected) in [
            (3, Ok(Some(3))),
            (0, Ok(None)),
            (-1, Err(())),
            (100_001, Err(())),
        ] {
            let count = parameter(Some(ParameterChoice::Int64Param(count)));
            message.outputs = vec![InferRequestedOutputTensor {
                name: "logits".to_owned(),
                parameters: [(CLASSIFICATION.to_owned(), count)].into(),
            }];
            let outputs = request(message.clone()).map(|request| request.outputs);
            let classes = outputs.map(|outputs| outputs[0].classes);
            assert_eq!(classes.map_err(drop), expected);
        }
    }
}
