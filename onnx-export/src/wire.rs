//! A reader of protobuf's wire format that borrows from the encoded bytes and allocates nothing, and a writer of fields.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/>.

use prost::encoding::{WireType, encode_key, encode_varint};
use thiserror::Error;

/// The bytes are not a protobuf message, or use an encoding that ONNX files do not need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not an ONNX file: malformed protobuf: expected {expected} at byte {offset}")]
pub struct ProtobufError {
    /// What the encoding requires at the offset.
    pub expected: &'static str,
    /// Byte offset in the file.
    pub offset: usize,
}

/// Reads the fields of one encoded message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// Offset of `rest` in the file.
    offset: usize,
}

/// The value of a field.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    /// An integer, boolean or enum.
    Varint(u64),
    /// A value of 4 or 8 bytes.
    Fixed,
    /// The content of a length-delimited field: a string, bytes, packed values, or a message.
    Bytes(Reader<'a>),
}

/// Appends a length-delimited field with the number `number` to an encoded message.
pub(crate) fn push_bytes(message: &mut Vec<u8>, number: u32, content: &[u8]) {
    encode_key(number, WireType::LengthDelimited, message);
    encode_varint(content.len() as u64, message);
    message.extend(content);
}

impl<'a> Reader<'a> {
    /// Creates a reader of the file `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            offset: 0,
        }
    }

    /// Returns the bytes that are not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Returns the number and value of the next field; `None` at the end of the message.
    ///
    /// # Errors
    /// [`ProtobufError`] if the bytes are not a field, or if the field is a group, which ONNX files do not
    /// use.
    pub(crate) fn next_field(&mut self) -> Result<Option<(u32, Value<'a>)>, ProtobufError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let start = *self;
        // Readers disagree on keys of more than 32 bits: some drop the upper bits and see another field.
        let key = u32::try_from(self.varint()?)
            .map_err(|_| start.malformed("the key of a field, at most 32 bits"))?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(start.malformed("a field of wire type 0, 1, 2 or 5")),
        };
        match key >> 3 {
            0 => Err(start.malformed("a field number of at least 1")),
            number => Ok(Some((number, value))),
        }
    }

    /// Reads an integer.
    ///
    /// # Errors
    /// [`ProtobufError`] if the bytes end early, or if the integer has more than 10 bytes.
    pub(crate) fn varint(&mut self) -> Result<u64, ProtobufError> {
        let start = *self;
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?.rest[0];
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(start.malformed("an integer of at most 10 bytes"))
    }

    /// Splits off the next `length` bytes.
    fn take(&mut self, length: u64) -> Result<Self, ProtobufError> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some((taken, rest)) = self.rest.split_at_checked(length) else {
            return Err(self.malformed("the rest of a field"));
        };
        let taken = Self {
            rest: taken,
            offset: self.offset,
        };
        self.rest = rest;
        self.offset += length;
        Ok(taken)
    }

    /// Returns the fields up to the first that is malformed.
    pub(crate) fn fields(mut self) -> impl Iterator<Item = (u32, Value<'a>)> {
        std::iter::from_fn(move || self.next_field().ok().flatten())
    }

    /// Returns the contents of the length-delimited fields `number`, up to the first field that is
    /// malformed.
    pub(crate) fn messages(self, number: u32) -> impl Iterator<Item = Self> {
        self.fields().filter_map(move |field| match field {
            (found, Value::Bytes(content)) if found == number => Some(content),
            _ => None,
        })
    }

    fn malformed(&self, expected: &'static str) -> ProtobufError {
        ProtobufError {
            expected,
            offset: self.offset,
        }
    }
}
