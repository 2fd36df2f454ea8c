//! A function that reads an encoded request for inference of any content. The fuzz target `grpc` and the test below call
//! it.

use open_inference::ModelInferRequest;
use open_inference::limits::{Bounded, MAX_PARTS};
use prost::Message as _;

use super::convert;
use crate::error::ServeError;

/// Maximum number of characters of an error message.
const MAX_MESSAGE: usize = 400;

/// Reads a `ModelInferRequest`. Returns whether it is valid.
///
/// # Panics
/// If a message within the limits has more parts than these allow, if the elements of its tensors have more than three
/// times as many bytes as it has, or if an error does not blame the client or is long.
pub fn read_request(encoded: &[u8]) -> bool {
    if ModelInferRequest::check(encoded).is_err() {
        return false;
    }
    let Ok(message) = ModelInferRequest::decode(encoded) else {
        return false;
    };
    let parts = message.inputs.len() + message.outputs.len() + message.parameters.len();
    let axes: usize = message.inputs.iter().map(|input| input.shape.len()).sum();
    assert!(parts + axes + message.raw_input_contents.len() <= MAX_PARTS);
    // The lists of typed elements of BYTES take memory of their own, within the limit on the number of parts.
    let lists = message.inputs.iter().filter_map(|input| {
        let contents = input.contents.as_ref()?;
        Some(contents.bytes_contents.capacity() * size_of::<bytes::Bytes>())
    });
    let lists: usize = lists.sum();
    assert!(lists <= 4 * MAX_PARTS * size_of::<bytes::Bytes>());
    // A list of typed FP32 elements that arrives in parts has room for twice as many, and is converted to bytes once.
    assert!(convert::bytes(&message) <= 3 * encoded.len() + lists);
    match convert::request(message) {
        Ok(request) => request.inputs.len() <= MAX_PARTS,
        Err(error) => {
            assert!(matches!(error, ServeError::BadParameter { .. }), "{error}");
            let text = error.to_string();
            assert!(text.chars().count() <= MAX_MESSAGE, "{text}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fuzz::check;

    #[test]
    fn mutated_requests() {
        check("grpc", read_request);
    }
}
