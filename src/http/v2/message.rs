//! The JSON part of an inference request, and the division of a body into it and the binary tensors.

use axum::http::HeaderMap;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::HEADER_LENGTH;
use super::values::{Bounded, MAX_ITEMS, Name, Object, Values};
use crate::error::ServeError;
use crate::inference::{DataType, Parameter, Parameters, RequestedOutput};
use crate::parameters::{bad, cut};

/// Maximum nesting of a JSON message.
const MAX_DEPTH: usize = 100;
/// Maximum number of axes of a tensor.
const MAX_AXES: usize = 8;
/// What a JSON message must be, for error messages.
const EXPECTED: &str =
    r#"{"inputs": [{"name", "shape", "datatype", "data"}]} of the Open Inference Protocol"#;

/// How a body is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// The whole body is JSON.
    Json,
    /// The first bytes are JSON, the others are binary tensors.
    Binary { header: usize },
    /// The whole body is one tensor.
    Tensor,
}

/// Returns how the body is divided, by the header `Inference-Header-Content-Length`.
///
/// # Errors
/// [`ServeError::BadParameter`] if the header is not one unsigned integer.
pub(super) fn framing(headers: &HeaderMap) -> Result<Framing, ServeError> {
    let mut values = headers.get_all(HEADER_LENGTH).iter();
    let Some(value) = values.next() else {
        return Ok(Framing::Json);
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    let wrong = |got: &str| bad(HEADER_LENGTH.as_str(), "one number of bytes", got);
    if values.next().is_some() {
        return Err(wrong("several values"));
    }
    // `parse` would accept a sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(0) if digits => Ok(Framing::Tensor),
        Ok(header) if digits => Ok(Framing::Binary { header }),
        _ => Err(wrong(&text)),
    }
}

/// One input of a message, whose elements are not yet read.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) name: String,
    pub(super) datatype: DataType,
    pub(super) shape: Vec<i64>,
    pub(super) data: Data,
}

/// The elements of an input.
#[derive(Debug)]
pub(super) enum Data {
    /// JSON text, usually of an array.
    Json(Bytes),
    /// Binary elements.
    Binary(Bytes),
}

/// An output that a message asks for.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) requested: RequestedOutput,
    /// Whether the output is wanted in binary form. `None` for the default of the message.
    pub(super) binary: Option<bool>,
}

/// An inference request, whose elements are not yet read.
#[derive(Debug)]
pub(super) struct Message {
    /// Id of the request, which the response repeats. `None` if there is none.
    pub(super) id: Option<String>,
    /// Parameters, without those of the message itself.
    pub(super) parameters: Parameters,
    pub(super) inputs: Vec<Input>,
    pub(super) outputs: Vec<Output>,
    /// Whether outputs are binary unless they state otherwise.
    pub(super) binary_outputs: bool,
}

/// Parses the JSON part of `body`, and finds the binary tensors after it, which share the memory of the body.
///
/// # Errors
/// [`ServeError::BadBody`] and [`ServeError::BadParameter`] for a message that is wrong.
pub(super) fn parse(body: Bytes, header: Option<usize>) -> Result<Message, ServeError> {
    let length = header.unwrap_or(body.len());
    if length > body.len() {
        let expected = format!("at most {} bytes, the length of the body", body.len());
        return Err(bad(HEADER_LENGTH.as_str(), &expected, &length.to_string()));
    }
    let mut binary = body;
    let json = binary.split_to(length);
    let document: Document<'_> = object(&json)?;
    let alone = document.inputs.0.len() == 1;
    let inputs = document.inputs.0.into_iter().enumerate();
    let inputs =
        inputs.map(|(index, Object(input))| input.read(index, alone, (&json, &mut binary)));
    let inputs: Vec<Input> = inputs.collect::<Result<_, _>>()?;
    if !binary.is_empty() {
        let expected = "sizes of binary inputs that add up to the bytes after the JSON";
        let got = format!("{} bytes more", binary.len());
        return Err(bad("binary_data_size", expected, &got));
    }
    let mut parameters = document.parameters.unwrap_or_default().0;
    let outputs = document.outputs.map(|outputs| outputs.0);
    let outputs = outputs.unwrap_or_default().into_iter().enumerate();
    let outputs = outputs.map(|(index, Object(output))| output.read(index));
    Ok(Message {
        id: document.id.map(|Name(id)| id),
        binary_outputs: flag(&mut parameters, "binary_data_output")?.unwrap_or(false),
        parameters,
        inputs,
        outputs: outputs.collect::<Result<_, _>>()?,
    })
}

/// Reads the JSON object `json`.
///
/// # Errors
/// [`ServeError::BadBody`] if it is no object with the fields of `T`, or nested more than [`MAX_DEPTH`] deep.
pub(super) fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, ServeError> {
    check_depth(json)?;
    let object: Result<Object<T>, _> = serde_json::from_slice(json);
    object
        .map(|Object(fields)| fields)
        .map_err(|error| unreadable(&error.to_string()))
}

/// Checks that the JSON text `json` is not nested more than [`MAX_DEPTH`] deep. Other errors in it are not found.
///
/// # Errors
/// [`ServeError::BadBody`] if it is.
fn check_depth(json: &[u8]) -> Result<(), ServeError> {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => depth += 1,
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(ServeError::BadBody {
                field: "body".to_owned(),
                expected: "JSON of at most 100 levels",
                reason: format!("it is nested more than {MAX_DEPTH} levels deep"),
            });
        }
    }
    Ok(())
}

/// Returns the error for JSON that cannot be read for `reason`.
pub(super) fn unreadable(reason: &str) -> ServeError {
    ServeError::BadBody {
        field: "body".to_owned(),
        expected: EXPECTED,
        // The message is cut because it may quote text of any length.
        reason: reason.chars().take(200).collect(),
    }
}

#[derive(Deserialize)]
#[serde(expecting = "an object with the field `inputs`, a list")]
struct Document<'a> {
    id: Option<Name>,
    parameters: Option<Values>,
    #[serde(borrow)]
    inputs: Bounded<Object<RawInput<'a>>, MAX_ITEMS>,
    outputs: Option<Bounded<Object<RawOutput>, MAX_ITEMS>>,
}

#[derive(Deserialize)]
#[serde(expecting = "an input with the fields `name`, `shape`, `datatype` and `data`")]
struct RawInput<'a> {
    name: Name,
    shape: Bounded<i64, MAX_AXES>,
    datatype: Name,
    parameters: Option<Values>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(expecting = "an output with the field `name`")]
struct RawOutput {
    name: Name,
    parameters: Option<Values>,
}

impl RawInput<'_> {
    /// Finds the elements of input `index`: in `json`, the JSON of the message, or at the start of `binary`, from which they are removed. The only
    /// input of a message need not state its binary size.
    fn read(
        self,
        index: usize,
        alone: bool,
        (json, binary): (&Bytes, &mut Bytes),
    ) -> Result<Input, ServeError> {
        let mut parameters = self.parameters.unwrap_or_default().0;
        let field = format!("inputs[{index}]");
        no_shared_memory(&field, &parameters)?;
        let datatype = DataType::parse(&format!("{field}.datatype"), &self.datatype.0)?;
        let size = parameters.remove("binary_data_size");
        let size = size.map(|size| match size {
            Parameter::Uint(size) => Ok(size),
            other => {
                let field = format!("{field}.binary_data_size");
                Err(bad(&field, "a number of bytes", &format!("{other:?}")))
            }
        });
        let data = match (self.data, size.transpose()?) {
            (Some(data), None) => Data::Json(json.slice_ref(data.get().as_bytes())),
            (Some(_), Some(_)) => {
                let got = "`data` and `binary_data_size`";
                return Err(bad(&field, "JSON or binary elements", got));
            }
            (None, None) if !alone => {
                let expected = "the field `data` or the parameter `binary_data_size`";
                return Err(bad(&field, expected, "neither"));
            }
            (None, size) => {
                let left = binary.len() as u64;
                let size = size.unwrap_or(left);
                if size > left {
                    let field = format!("{field}.binary_data_size");
                    let expected = format!("at most {left} bytes, those left in the body");
                    return Err(bad(&field, &expected, &size.to_string()));
                }
                Data::Binary(binary.split_to(size as usize))
            }
        };
        Ok(Input {
            name: self.name.0,
            datatype,
            shape: self.shape.0,
            data,
        })
    }
}

impl RawOutput {
    fn read(self, index: usize) -> Result<Output, ServeError> {
        let mut parameters = self.parameters.unwrap_or_default().0;
        let field = format!("outputs[{index}]");
        no_shared_memory(&field, &parameters)?;
        let classes = match parameters.remove("classification") {
            None | Some(Parameter::Uint(0)) => None,
            Some(Parameter::Uint(classes)) => Some(usize::try_from(classes).unwrap_or(usize::MAX)),
            Some(other) => {
                let field = format!("{field}.classification");
                return Err(bad(&field, "a number of classes", &format!("{other:?}")));
            }
        };
        Ok(Output {
            requested: RequestedOutput {
                name: self.name.0,
                classes,
            },
            binary: flag(&mut parameters, "binary_data")?,
        })
    }
}

/// Removes the truth value `name` from `parameters`. Returns `None` if it is not there.
fn flag(parameters: &mut Parameters, name: &str) -> Result<Option<bool>, ServeError> {
    match parameters.remove(name) {
        None => Ok(None),
        Some(Parameter::Bool(value)) => Ok(Some(value)),
        Some(other) => Err(bad(name, "true or false", &format!("{other:?}"))),
    }
}

/// Rejects tensors in shared memory, which would let clients name memory of the server's machine.
fn no_shared_memory(field: &str, parameters: &Parameters) -> Result<(), ServeError> {
    let mut names = parameters.keys();
    match names.find(|name| name.starts_with("shared_memory_")) {
        None => Ok(()),
        Some(name) => Err(bad(field, "a tensor in the message", &cut(name))),
    }
}
