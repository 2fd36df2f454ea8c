//! Limits on encoded requests, which are checked before they are decoded.
//!
//! A decoded message can take hundreds of times as much memory as its encoding: an empty tensor takes 2 bytes on the wire
//! and 300 bytes in memory. And the elements of tensors share the memory of the whole message, so that a long unknown field
//! would stay in memory with them. So the encoding of a request is read without allocations, and its parts are counted.
//!
//! Source of the encoding: <https://protobuf.dev/programming-guides/encoding/>.

use std::fmt;

use crate::{
    ModelConfigRequest, ModelInferRequest, ModelMetadataRequest, ModelReadyRequest,
    ModelStatisticsRequest, RepositoryIndexRequest, RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest, ServerLiveRequest, ServerMetadataRequest, ServerReadyRequest,
};

/// Maximum number of parts of a request for inference: parameters, tensors, axes and elements of BYTES together.
pub const MAX_PARTS: usize = 4096;
/// Maximum size in bytes of a request that has no tensors, and of a request for inference without the elements of its
/// tensors.
pub const MAX_SMALL_BYTES: usize = 64 << 10;

/// Maximum size in bytes of an id and of a name.
pub const MAX_NAME_BYTES: usize = 1 << 10;
/// Maximum size in bytes of a parameter.
pub const MAX_TEXT_BYTES: usize = 16 << 10;

/// A request whose encoding is checked before it is decoded.
pub trait Bounded {
    /// Checks the encoding of a request.
    ///
    /// # Errors
    /// [`LimitError`] if decoding could take much more memory than the encoding, or if the encoding is damaged.
    fn check(encoded: &[u8]) -> Result<(), LimitError>;
}

/// The encoding of a request exceeds a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitError {
    /// The bytes are not a protobuf message.
    Malformed,
    /// A request without tensors has too many bytes.
    Bytes,
    /// A request for inference has too many parts.
    Parts,
    /// A request for inference has too many bytes that are not elements of tensors.
    Rest,
    /// An id or a name has too many bytes.
    Name,
    /// A parameter has too many bytes.
    Text,
    /// The elements of a tensor are in a field of a data type that no model reads.
    Contents,
}

impl fmt::Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("cannot decode the request: expected a protobuf message"),
            Self::Bytes => write!(f, "the request has more than {MAX_SMALL_BYTES} bytes"),
            Self::Parts => write!(
                f,
                "the request has more than {MAX_PARTS} parameters, tensors, axes and elements"
            ),
            Self::Rest => write!(
                f,
                "the request has more than {MAX_SMALL_BYTES} bytes besides the elements of its tensors"
            ),
            Self::Name => write!(f, "an id or a name has more than {MAX_NAME_BYTES} bytes"),
            Self::Text => write!(f, "a parameter has more than {MAX_TEXT_BYTES} bytes"),
            Self::Contents => f.write_str(
                "`contents`: expected fp32_contents or bytes_contents, or raw_input_contents of the request, got \
                 another data type",
            ),
        }
    }
}

impl std::error::Error for LimitError {}

/// Limits the size of requests without tensors.
macro_rules! small {
    ($($request:ident),*) => {
        $(impl Bounded for $request {
            fn check(encoded: &[u8]) -> Result<(), LimitError> {
                if encoded.len() > MAX_SMALL_BYTES {
                    return Err(LimitError::Bytes);
                }
                Ok(())
            }
        })*
    };
}

small!(
    ServerLiveRequest,
    ServerReadyRequest,
    ServerMetadataRequest,
    ModelReadyRequest,
    ModelMetadataRequest,
    ModelConfigRequest,
    ModelStatisticsRequest,
    RepositoryIndexRequest,
    RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest
);

impl Bounded for ModelInferRequest {
    fn check(encoded: &[u8]) -> Result<(), LimitError> {
        let mut parts = Parts {
            left: MAX_PARTS,
            elements: 0,
        };
        let mut fields = Fields(encoded);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                // model_name, model_version, id
                (1..=3, Value::Bytes(text)) => name(text)?,
                (4, Value::Bytes(entry)) => parts.parameter(entry)?,
                (5, Value::Bytes(input)) => parts.input(input)?,
                (6, Value::Bytes(output)) => parts.output(output)?,
                (7, Value::Bytes(raw)) => parts.element(raw)?,
                _ => {}
            }
        }
        if encoded.len() - parts.elements > MAX_SMALL_BYTES {
            return Err(LimitError::Rest);
        }
        Ok(())
    }
}

/// The parts of a request.
struct Parts {
    /// The number of parts that the request may still have.
    left: usize,
    /// Bytes of the elements of tensors so far.
    elements: usize,
}

impl Parts {
    fn take(&mut self, count: usize) -> Result<(), LimitError> {
        let left = self.left.checked_sub(count);
        self.left = left.ok_or(LimitError::Parts)?;
        Ok(())
    }

    /// Counts a raw tensor, or an element of BYTES.
    fn element(&mut self, element: &[u8]) -> Result<(), LimitError> {
        self.take(1)?;
        self.elements += element.len();
        Ok(())
    }

    /// Counts an entry of a map of parameters: its name, and an `InferParameter`.
    fn parameter(&mut self, entry: &[u8]) -> Result<(), LimitError> {
        self.take(1)?;
        let mut fields = Fields(entry);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(text)) => name(text)?,
                (2, Value::Bytes(value)) if value.len() > MAX_TEXT_BYTES => {
                    return Err(LimitError::Text);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Counts an `InferInputTensor`.
    fn input(&mut self, input: &[u8]) -> Result<(), LimitError> {
        self.take(1)?;
        let mut fields = Fields(input);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                // shape: each axis takes at least a byte.
                (3, Value::Bytes(axes)) => self.take(axes.len())?,
                (3, _) => self.take(1)?,
                (1 | 2, Value::Bytes(text)) => name(text)?,
                (4, Value::Bytes(entry)) => self.parameter(entry)?,
                (5, Value::Bytes(contents)) => self.contents(contents)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Counts an `InferTensorContents`, whose fp32 values take as many bytes as their encoding.
    fn contents(&mut self, contents: &[u8]) -> Result<(), LimitError> {
        let mut fields = Fields(contents);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1..=5 | 7, _) => return Err(LimitError::Contents),
                (6, Value::Bytes(packed)) => self.elements += packed.len(),
                // With its key: a value that is not packed takes at least 5 bytes.
                (6, Value::Fixed32) => self.elements += 5,
                (8, Value::Bytes(element)) => self.element(element)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Counts an `InferRequestedOutputTensor`.
    fn output(&mut self, output: &[u8]) -> Result<(), LimitError> {
        self.take(1)?;
        let mut fields = Fields(output);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(text)) => name(text)?,
                (2, Value::Bytes(entry)) => self.parameter(entry)?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Checks the length of an id or a name.
fn name(text: &[u8]) -> Result<(), LimitError> {
    if text.len() > MAX_NAME_BYTES {
        return Err(LimitError::Name);
    }
    Ok(())
}

/// Reads the fields of one encoded message.
struct Fields<'a>(&'a [u8]);

/// The value of a field.
enum Value<'a> {
    /// The content of a length-delimited field.
    Bytes(&'a [u8]),
    Fixed32,
    Other,
}

impl<'a> Fields<'a> {
    /// Returns the number and the value of the next field; `None` at the end of the message.
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, LimitError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => {
                self.varint()?;
                Value::Other
            }
            1 => {
                self.take(8)?;
                Value::Other
            }
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Value::Fixed32
            }
            _ => return Err(LimitError::Malformed),
        };
        Ok(Some((key >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, LimitError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(LimitError::Malformed)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7F) << shift;
            if *byte < 0x80 {
                return Ok(value);
            }
        }
        Err(LimitError::Malformed)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], LimitError> {
        let length = usize::try_from(length).map_err(|_| LimitError::Malformed)?;
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(LimitError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;

    use super::*;
    use crate::infer_parameter::ParameterChoice;
    use crate::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
    use crate::{InferParameter, InferTensorContents};

    fn check(request: &ModelInferRequest) -> Result<(), LimitError> {
        ModelInferRequest::check(&request.encode_to_vec())
    }

    fn with_input(input: InferInputTensor) -> ModelInferRequest {
        ModelInferRequest {
            inputs: vec![input],
            ..ModelInferRequest::default()
        }
    }

    #[test]
    fn parts_that_take_more_memory_than_bytes_are_limited() {
        let many = MAX_PARTS + 1;
        let contents = |contents| {
            with_input(InferInputTensor {
                contents: Some(contents),
                ..InferInputTensor::default()
            })
        };
        let empty = ModelInferRequest::default;
        let over = [
            ModelInferRequest {
                inputs: vec![InferInputTensor::default(); many],
                ..empty()
            },
            ModelInferRequest {
                outputs: vec![InferRequestedOutputTensor::default(); many],
                ..empty()
            },
            ModelInferRequest {
                raw_input_contents: vec![Bytes::new(); many],
                ..empty()
            },
            ModelInferRequest {
                parameters: (0..many)
                    .map(|n| (n.to_string(), InferParameter::default()))
                    .collect(),
                ..empty()
            },
            with_input(InferInputTensor {
                shape: vec![1; many],
                ..InferInputTensor::default()
            }),
            contents(InferTensorContents {
                bytes_contents: vec![Bytes::new(); many],
                ..InferTensorContents::default()
            }),
        ];
        for request in over {
            assert_eq!(check(&request), Err(LimitError::Parts));
        }
        let integers = contents(InferTensorContents {
            int64_contents: vec![1],
            ..InferTensorContents::default()
        });
        assert_eq!(check(&integers), Err(LimitError::Contents));
        let usual = contents(InferTensorContents {
            fp32_contents: vec![0.5; 3 * 224 * 224],
            bytes_contents: vec![Bytes::from_static(b"x"); 32],
            ..InferTensorContents::default()
        });
        assert_eq!(check(&usual), Ok(()));
    }

    #[test]
    fn only_elements_may_be_long() {
        let elements = vec![0; 4 * MAX_SMALL_BYTES];
        let mut request = ModelInferRequest {
            raw_input_contents: vec![elements.clone().into()],
            ..ModelInferRequest::default()
        };
        let contents = InferTensorContents {
            bytes_contents: vec![elements.into()],
            fp32_contents: vec![0.5; MAX_SMALL_BYTES],
            ..InferTensorContents::default()
        };
        request.inputs.push(InferInputTensor {
            contents: Some(contents),
            ..InferInputTensor::default()
        });
        let usual = request.encode_to_vec();
        assert_eq!(ModelInferRequest::check(&usual), Ok(()));
        // Field 15, which the protocol does not have, of the message and of its input.
        let unknown = |length: usize| {
            let mut field = vec![0x7a];
            prost::encode_length_delimiter(length, &mut field).unwrap();
            field.resize(field.len() + length, 0);
            field
        };
        let inner = unknown(MAX_SMALL_BYTES);
        let mut input = vec![0x2a];
        prost::encode_length_delimiter(inner.len(), &mut input).unwrap();
        for field in [inner.clone(), [input, inner].concat()] {
            let message = [usual.clone(), field].concat();
            assert_eq!(ModelInferRequest::check(&message), Err(LimitError::Rest));
        }
        let short = [usual, unknown(1 << 10)].concat();
        assert_eq!(ModelInferRequest::check(&short), Ok(()));
        let unpacked = [0x35, 0, 0, 0, 0].repeat(MAX_SMALL_BYTES);
        let mut parts = Parts {
            left: 0,
            elements: 0,
        };
        parts.contents(&unpacked).unwrap();
        assert_eq!(parts.elements, unpacked.len());
    }

    #[test]
    fn ids_names_and_parameters_are_short() {
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        let text = |length| InferParameter {
            parameter_choice: Some(ParameterChoice::StringParam("x".repeat(length))),
        };
        let empty = ModelInferRequest::default;
        let named = [
            ModelInferRequest {
                id: long.clone(),
                ..empty()
            },
            ModelInferRequest {
                model_name: long.clone(),
                ..empty()
            },
            ModelInferRequest {
                parameters: [(long.clone(), text(1))].into(),
                ..empty()
            },
            with_input(InferInputTensor {
                name: long.clone(),
                ..InferInputTensor::default()
            }),
            ModelInferRequest {
                outputs: vec![InferRequestedOutputTensor {
                    name: long.clone(),
                    ..InferRequestedOutputTensor::default()
                }],
                ..empty()
            },
        ];
        for request in named {
            assert_eq!(check(&request), Err(LimitError::Name));
        }
        let with_text = |length| ModelInferRequest {
            id: long[1..].to_owned(),
            parameters: [("top_k".to_owned(), text(length))].into(),
            ..empty()
        };
        assert_eq!(check(&with_text(MAX_TEXT_BYTES - 4)), Ok(()));
        assert_eq!(check(&with_text(MAX_TEXT_BYTES + 1)), Err(LimitError::Text));
    }

    #[test]
    fn damaged_and_long_requests_are_rejected() {
        for damaged in [
            &[0x0a][..],
            &[0x0a, 5, 1],
            &[0xff; 11],
            &[0x0b],
            &[0x0d, 1],
            &[0x2a, 1, 0x0a],
        ] {
            assert_eq!(
                ModelInferRequest::check(damaged),
                Err(LimitError::Malformed)
            );
        }
        let long = vec![0; MAX_SMALL_BYTES + 1];
        assert_eq!(ServerLiveRequest::check(&long), Err(LimitError::Bytes));
        assert_eq!(ServerLiveRequest::check(&long[1..]), Ok(()));
    }
}
