//! Elements of tensors in JSON: nested or flat arrays of numbers, or of texts.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, SeqAccess, Visitor};

use super::message::{Data, Input, unreadable};
use crate::error::ServeError;
use crate::inference::{DataType, InputTensor, TensorData, elements};
use crate::parameters::bad;

/// Returns the memory in bytes that the elements of `input` take in addition to the body, or an error if the JSON text
/// is too short for the number of elements that the shape states.
pub(super) fn memory(input: &Input) -> Result<usize, ServeError> {
    let Data::Json(text) = &input.data else {
        return Ok(0);
    };
    let count = elements("shape", &input.shape)?;
    // Every element takes a character and a comma at least.
    if count > (text.len() as u64).div_ceil(2) {
        let expected = format!("{count} elements for shape {:?}", input.shape);
        return Err(bad(&input.name, &expected, "fewer"));
    }
    Ok(match input.datatype {
        DataType::Fp32 => count as usize * size_of::<f32>(),
        DataType::Bytes => text.len() + count as usize * size_of::<Bytes>(),
        _ => 0,
    })
}

/// Reads the elements of `input`, for which [`memory`] states the memory.
///
/// # Errors
/// [`ServeError::BadBody`] if the JSON is not an array of as many elements of the data type as the shape states.
pub(super) fn read(input: Input) -> Result<InputTensor, ServeError> {
    let Input {
        name,
        datatype,
        shape,
        data,
    } = input;
    let data = match (data, datatype) {
        (Data::Binary(bytes), _) => TensorData::Raw(bytes),
        (Data::Json(text), DataType::Fp32) => {
            TensorData::Raw(floats(&text, elements("shape", &shape)? as usize)?)
        }
        (Data::Json(text), DataType::Bytes) => {
            TensorData::Elements(files(&text, elements("shape", &shape)? as usize)?)
        }
        // No model has an input of another data type, so that its elements are not read.
        (Data::Json(_), _) => TensorData::Raw(Bytes::new()),
    };
    Ok(InputTensor {
        name,
        datatype,
        shape,
        data,
    })
}

/// Reads `count` numbers as the little-endian bytes of FP32 values.
fn floats(text: &[u8], count: usize) -> Result<Bytes, ServeError> {
    let mut bytes = Vec::with_capacity(count * size_of::<f32>());
    let push = |value: f64| {
        let expected = bytes.len() < count * size_of::<f32>();
        if expected {
            bytes.extend_from_slice(&(value as f32).to_le_bytes());
        }
        expected
    };
    flatten(text, &mut Numbers(push))?;
    complete(bytes.len() / size_of::<f32>(), count)?;
    Ok(Bytes::from(bytes))
}

/// Reads `count` files in base64.
fn files(text: &[u8], count: usize) -> Result<Vec<Bytes>, ServeError> {
    let mut files = Vec::with_capacity(count);
    let mut wrong = None;
    let push = |value: &str| {
        if files.len() == count {
            return false;
        }
        // Browsers encode files as data URLs, so the prefix of a data URL is removed.
        let encoded = match value.strip_prefix("data:") {
            Some(url) => url.split_once(',').map_or("", |(_, data)| data),
            None => value,
        };
        match STANDARD.decode(encoded) {
            Ok(file) => files.push(Bytes::from(file)),
            Err(error) => wrong = Some(error),
        }
        wrong.is_none()
    };
    let read = flatten(text, &mut Texts(push));
    if let Some(error) = wrong {
        return Err(ServeError::BadBody {
            field: "inputs[0].data".to_owned(),
            expected: "image files in base64, or binary elements",
            reason: format!("not base64: {error}"),
        });
    }
    read?;
    complete(files.len(), count)?;
    Ok(files)
}

/// Checks that `read` elements are all that the shape states, `count`.
fn complete(read: usize, count: usize) -> Result<(), ServeError> {
    if read == count {
        return Ok(());
    }
    let expected = format!("{count} elements, as the shape states");
    Err(bad("inputs[0].data", &expected, &read.to_string()))
}

/// Takes the elements of an array. Its methods return whether an element was expected.
trait Sink {
    /// The expected elements, for error messages.
    const EXPECTED: &'static str;

    fn number(&mut self, _: f64) -> bool {
        false
    }

    fn text(&mut self, _: &str) -> bool {
        false
    }
}

struct Numbers<F>(F);

impl<F: FnMut(f64) -> bool> Sink for Numbers<F> {
    const EXPECTED: &'static str = "numbers, in arrays, as many as the shape states";

    fn number(&mut self, value: f64) -> bool {
        (self.0)(value)
    }
}

struct Texts<F>(F);

impl<F: FnMut(&str) -> bool> Sink for Texts<F> {
    const EXPECTED: &'static str = "texts in base64, in arrays, as many as the shape states";

    fn text(&mut self, value: &str) -> bool {
        (self.0)(value)
    }
}

/// Passes all elements of the nested arrays in `text` to `sink`, in their order. The depth was checked before.
fn flatten<S: Sink>(text: &[u8], sink: &mut S) -> Result<(), ServeError> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let read = Flat(sink).deserialize(&mut json).and_then(|()| json.end());
    read.map_err(|error| unreadable(&error.to_string()))
}

struct Flat<'a, S>(&'a mut S);

impl<'de, S: Sink> DeserializeSeed<'de> for Flat<'_, S> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<S: Sink> Flat<'_, S> {
    fn taken<E: Error>(taken: bool) -> Result<(), E> {
        if taken {
            return Ok(());
        }
        Err(E::custom(format!("expected {}", S::EXPECTED)))
    }
}

impl<'de, S: Sink> Visitor<'de> for Flat<'_, S> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(S::EXPECTED)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        Self::taken(self.0.number(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        Self::taken(self.0.number(value as f64))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        Self::taken(self.0.number(value as f64))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        Self::taken(self.0.text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements.next_element_seed(Flat(&mut *self.0))?.is_some() {}
        Ok(())
    }
}
