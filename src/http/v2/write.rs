//! The response to an inference request: JSON, with binary tensors after it if any are wanted.

use std::io;
use std::time::Instant;

use axum::http::HeaderValue;
use serde::ser::{Error as _, SerializeSeq};
use serde::{Serialize, Serializer};

use super::super::respond::{Content, Finished, Served, finish};
use super::HEADER_LENGTH;
use crate::budget::{Exhausted, Permit};
use crate::error::ServeError;
use crate::inference::{DataType, InferResponse, OutputTensor, VERSION};

/// Smallest size of a body that is being written, in bytes.
const FIRST_BYTES: usize = 4 << 10;

/// How a response is written.
pub(super) struct Form {
    /// The name that the client has used for the model.
    pub(super) model: String,
    /// Id of the request. `None` if it has none.
    pub(super) id: Option<String>,
    /// Whether each output is binary, in their order. Outputs after the end are as [`Form::default`].
    pub(super) binary: Vec<bool>,
    /// Whether outputs that the client did not name are binary.
    pub(super) default: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    model_name: &'a str,
    model_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<Output<'a>>,
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinarySize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Elements<'a>>,
}

#[derive(Serialize)]
struct BinarySize {
    binary_data_size: usize,
}

impl<'a> Output<'a> {
    fn new(tensor: &'a OutputTensor, binary: bool) -> Self {
        Self {
            name: &tensor.name,
            datatype: tensor.datatype.as_str(),
            shape: &tensor.shape,
            parameters: binary.then_some(BinarySize {
                binary_data_size: tensor.data.len(),
            }),
            data: (!binary).then_some(Elements(tensor)),
        }
    }
}

/// Writes the response. Its memory is reserved before the body grows.
///
/// # Errors
/// [`ServeError::ResponseMemory`] and [`ServeError::ResponseTooLarge`] if the memory for responses does not suffice.
pub(super) fn write(form: &Form, response: InferResponse) -> Result<Finished, ServeError> {
    let started = Instant::now();
    let InferResponse {
        outputs,
        model,
        mut timing,
        memory,
    } = response;
    let is_binary = |index: usize| form.binary.get(index).copied().unwrap_or(form.default);
    let described = outputs.iter().enumerate();
    let described = described.map(|(index, tensor)| Output::new(tensor, is_binary(index)));
    let body = Body {
        model_name: &form.model,
        model_version: VERSION,
        id: form.id.as_deref(),
        outputs: described.collect(),
    };
    let mut writer = Writer::new(memory);
    if serde_json::to_writer(&mut writer, &body).is_err() {
        return Err(writer.failure());
    }
    let header = writer.body.len();
    let binary = outputs.iter().enumerate();
    let binary = binary.filter(|(index, _)| is_binary(*index));
    let any = binary.clone().next().is_some();
    let total = binary.clone().map(|(_, tensor)| tensor.data.len()).sum();
    writer.reserve(total).map_err(ServeError::response_memory)?;
    for (_, tensor) in binary {
        writer.body.extend_from_slice(&tensor.data);
    }
    drop(outputs);
    timing.add_encoding(started.elapsed());
    let content = Content {
        media_type: if any {
            "application/octet-stream"
        } else {
            "application/json"
        },
        body: writer.body,
        memory: writer.memory,
    };
    let finished = finish(Served { model, timing }, content)?;
    Ok(if any {
        finished.with_header(HEADER_LENGTH, HeaderValue::from(header))
    } else {
        finished
    })
}

/// A body that reserves memory before it grows.
struct Writer {
    body: Vec<u8>,
    memory: Permit,
    /// Memory in bytes that the outputs take in addition to the body.
    outputs: u64,
    exhausted: Option<Exhausted>,
}

impl Writer {
    fn new(memory: Permit) -> Self {
        Self {
            body: Vec::new(),
            outputs: memory.amount(),
            memory,
            exhausted: None,
        }
    }

    /// Makes room for `bytes` more bytes.
    fn reserve(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let needed = self.body.len() + bytes;
        let capacity = self.body.capacity();
        if needed <= capacity {
            return Ok(());
        }
        let grown = needed.max(2 * capacity).max(FIRST_BYTES);
        self.memory.grow_to(self.outputs + grown as u64)?;
        self.body.reserve_exact(grown - self.body.len());
        Ok(())
    }

    /// Returns why writing has failed.
    fn failure(self) -> ServeError {
        match self.exhausted {
            Some(exhausted) => ServeError::response_memory(exhausted),
            None => ServeError::Internal("the outputs cannot be written as JSON"),
        }
    }
}

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.reserve(bytes.len()) {
            Ok(()) => self.body.extend_from_slice(bytes),
            Err(exhausted) => {
                self.exhausted = Some(exhausted);
                return Err(io::ErrorKind::OutOfMemory.into());
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the elements of a tensor as a flat array.
struct Elements<'a>(&'a OutputTensor);

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tensor = self.0;
        match tensor.datatype {
            DataType::Fp32 => array(serializer, tensor, f32::from_le_bytes),
            DataType::Int64 => array(serializer, tensor, i64::from_le_bytes),
            DataType::Int32 => array(serializer, tensor, i32::from_le_bytes),
            DataType::Uint8 => array(serializer, tensor, u8::from_le_bytes),
            DataType::Bytes => {
                let texts = tensor.byte_elements().map(String::from_utf8_lossy);
                serializer.collect_seq(texts)
            }
            _ => Err(S::Error::custom("no output has this data type")),
        }
    }
}

fn array<S: Serializer, T: Serialize, const SIZE: usize>(
    serializer: S,
    tensor: &OutputTensor,
    value: impl Fn([u8; SIZE]) -> T,
) -> Result<S::Ok, S::Error> {
    let (chunks, _) = tensor.data.as_chunks::<SIZE>();
    let mut array = serializer.serialize_seq(Some(chunks.len()))?;
    for chunk in chunks {
        array.serialize_element(&value(*chunk))?;
    }
    array.end()
}
