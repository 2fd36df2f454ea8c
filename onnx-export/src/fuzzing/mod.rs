//! Functions that read untrusted files from arbitrary bytes. The fuzz targets in `fuzz/` and the
//! tests below call them. Each returns whether its input is valid, and panics if a reader violates
//! a guarantee.
//!
//! Memory is not checked here but by the fuzz targets, which compare the peak of each function with
//! [`MEMORY_FACTOR`] and [`MEMORY_SLACK`].

mod onnx;
mod rewrite;

pub use onnx::read_onnx;
pub use rewrite::rewrite_onnx;

use crate::quantize::Recipes;
use crate::weights::{StateDict, WeightsError, fuzzing::run_pickle};

/// Largest number of bytes of memory that a function of this module uses for each byte of its
/// input. Most of it is for decoded protobuf messages, and for the tensors of a checkpoint.
pub const MEMORY_FACTOR: usize = 1500;
/// Largest number of bytes of memory that a function of this module uses in addition: the slack of
/// the readers for the tensors of tiny checkpoints, twice, and 4 MiB.
pub const MEMORY_SLACK: usize = 36 << 20;

/// Maximum number of characters of an error message, which must not copy unlimited input.
const MAX_MESSAGE: usize = 4000;

/// Reads a checkpoint in any container.
///
/// # Panics
/// If a tensor is invalid, or a message is too long or has control characters.
pub fn read_checkpoint(bytes: &[u8]) -> bool {
    accepted(StateDict::from_bytes(bytes))
}

/// Reads a safetensors file, and writes what is read.
///
/// # Panics
/// As [`read_checkpoint`], or if the written file cannot be read or has other tensors.
pub fn read_safetensors(bytes: &[u8]) -> bool {
    // Other containers have targets of their own.
    if bytes.get(8) != Some(&b'{') {
        return false;
    }
    let state = StateDict::from_bytes(bytes);
    if let Ok(state) = &state
        && let Ok(written) = state.to_safetensors()
    {
        // Removing the prefix of a wrapper twice may leave other names.
        let again = StateDict::from_bytes(&written).map(|again| again.names().count());
        assert_eq!(again.ok(), Some(state.names().count()));
    }
    accepted(state)
}

/// Runs `bytes` as a pickle, without a container. Returns whether the pickle holds a state dict.
///
/// # Panics
/// If the pickle ends outside of `bytes`, or a message is too long or has control characters.
pub fn read_pickle(bytes: &[u8]) -> bool {
    let errors = run_pickle(bytes);
    for error in &errors {
        check_message(&error.to_string());
    }
    errors.len() < 4
}

/// Reads a ranges file, and writes what is read.
///
/// # Panics
/// If the written text is not read back as the same recipes, or a message is too long or has
/// control characters.
pub fn read_ranges(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else {
        return false;
    };
    match Recipes::parse(text) {
        Ok(recipes) => {
            let written = recipes.to_json().ok();
            let again = written.and_then(|text| Recipes::parse(&text).ok());
            assert_eq!(again.as_ref(), Some(&recipes));
            true
        }
        Err(error) => {
            check_message(&error.to_string());
            false
        }
    }
}

fn accepted(state: Result<StateDict, WeightsError>) -> bool {
    match state {
        Ok(state) => {
            for (name, tensor) in state.iter() {
                let elements: usize = tensor.shape().iter().product();
                let bytes = elements * tensor.dtype().size();
                assert_eq!(tensor.bytes().len(), bytes, "{name:?}");
                let values = tensor.to_f32();
                assert!(values.is_ok_and(|v| v.len() == elements) || !tensor.dtype().is_float());
            }
            true
        }
        Err(error) => {
            check_message(&error.to_string());
            false
        }
    }
}

/// Panics if an error message is longer than `MAX_MESSAGE`, or has more than one line or another
/// control character.
fn check_message(message: &str) {
    assert!(message.chars().count() <= MAX_MESSAGE, "{message}");
    assert!(!message.contains(char::is_control), "{message:?}");
}

#[cfg(test)]
mod tests;
