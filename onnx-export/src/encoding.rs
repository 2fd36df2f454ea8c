//! Encodes protobuf messages without a schema, for tests.

use prost::encoding::encode_varint;

/// Returns a field with the key of `number` and the wire type 2, and `content` as its value.
pub(crate) fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = varint(u64::from(number << 3 | 2));
    bytes.extend(varint(content.len() as u64));
    bytes.extend(content);
    bytes
}

/// Returns `value` as a varint.
pub(crate) fn varint(value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_varint(value, &mut bytes);
    bytes
}

/// Nests `content` in the fields `numbers`, of which the first is the outermost.
pub(crate) fn nested(numbers: &[u32], content: Vec<u8>) -> Vec<u8> {
    numbers
        .iter()
        .rev()
        .fold(content, |content, number| field(*number, &content))
}
