//! Describes the tensors of checkpoints, to compare this reader with another one.
//!
//! Reads one path per line from the standard input. Writes one JSON object per line:
//! `{"tensors": {NAME: [DATA TYPE, SHAPE, DIGEST]}}`, or `{"error": TEXT}` for a file that is rejected.
//! The digest is the SHA-256 of the elements in C order: as f32 if the tensor is quantized or of a
//! floating-point type except f64, with one NaN for all, and else in the tensor's own type.

use std::collections::BTreeMap;
use std::io::{BufRead, Write, stdin, stdout};
use std::path::Path;

use onnx_export::weights::{DType, StateDict, Tensor, sha256};
use serde_json::{Value, json};

fn main() -> anyhow::Result<()> {
    let mut out = stdout().lock();
    for path in stdin().lock().lines() {
        let described = match StateDict::read(Path::new(&path?)) {
            Ok(state) => json!({ "tensors": describe(&state) }),
            Err(error) => json!({ "error": error.to_string() }),
        };
        writeln!(out, "{described}")?;
    }
    Ok(())
}

pub(crate) fn describe(state: &StateDict) -> BTreeMap<&str, Value> {
    let describe = |tensor: &Tensor| {
        let (dtype, shape) = (tensor.dtype().to_string(), tensor.shape());
        json!([dtype, shape, digest(tensor)])
    };
    state.iter().map(|(name, t)| (name, describe(t))).collect()
}

fn digest(tensor: &Tensor) -> String {
    let bytes = tensor.bytes();
    match (tensor.dtype(), tensor.to_f32()) {
        (DType::F64, _) => {
            let (values, _) = bytes.as_chunks::<8>();
            let values = values.iter().map(|bytes| f64::from_le_bytes(*bytes));
            let one_nan = |value: f64| if value.is_nan() { f64::NAN } else { value };
            let bytes: Vec<u8> = values.flat_map(|v| one_nan(v).to_le_bytes()).collect();
            sha256(&bytes)
        }
        (DType::Bool, _) => {
            let bytes: Vec<u8> = bytes.iter().map(|byte| u8::from(*byte != 0)).collect();
            sha256(&bytes)
        }
        (_, Ok(values)) => {
            let one_nan = |value: f32| if value.is_nan() { f32::NAN } else { value };
            let values = values.into_iter();
            let bytes: Vec<u8> = values.flat_map(|v| one_nan(v).to_le_bytes()).collect();
            sha256(&bytes)
        }
        (_, Err(_)) => sha256(bytes),
    }
}
