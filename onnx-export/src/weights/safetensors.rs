//! Reads and writes the safetensors format: a JSON header, then the tensors without gaps.
//!
//! The `safetensors` crate parses and checks the header. If a tensor name occurs twice, the crate
//! uses the last one, and its comparison of the header with the length of the file may overflow. So
//! this module checks the names and the length itself.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    fmt,
};

use safetensors::tensor::{Dtype, Metadata, View};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::{DType, Format, StateDict, Tensor, Tensors, WeightsError, limits, nested};
use crate::text::shown;

/// Size in bytes of the field at the start of the file, which holds the length of the header.
const LENGTH: usize = 8;

/// The data types of [`from_dtype`], for an error.
const SUPPORTED: &str = "a data type of F32, F16, BF16, F64, I64, I32, I16, I8, U8 and BOOL";

/// Reads all tensors and the `__metadata__` of the file `bytes`.
///
/// # Errors
/// Returns [`WeightsError`] if the header is damaged or names a tensor twice, a data type is unsupported, or
/// the length of the file does not match the header.
pub(super) fn read(bytes: &[u8]) -> Result<(Tensors, HashMap<String, String>), WeightsError> {
    let (header, data) = split(bytes)?;
    let damaged = |source| WeightsError::Header { source };
    let _: DistinctNames = serde_json::from_slice(header).map_err(damaged)?;
    let header: Metadata = serde_json::from_slice(header).map_err(damaged)?;
    if header.data_len() != data.len() {
        return Err(WeightsError::entry(
            Format::Safetensors,
            "(data)",
            "as many bytes as the header declares",
            format!("{} bytes instead of {}", data.len(), header.data_len()),
        ));
    }
    let mut tensors = Tensors::new();
    for (name, info) in header.tensors() {
        let (start, end) = info.data_offsets;
        let wrong =
            |expected, got: String| WeightsError::entry(Format::Safetensors, &name, expected, got);
        let dtype =
            from_dtype(info.dtype).ok_or_else(|| wrong(SUPPORTED, format!("{:?}", info.dtype)))?;
        let bytes = data
            .get(start..end)
            .ok_or_else(|| wrong("a tensor within the file", format!("bytes {start}..{end}")))?;
        let tensor = Tensor::new(dtype, info.shape.clone(), bytes.to_vec())?;
        tensors.insert(name, tensor);
    }
    let metadata = header.metadata().clone().unwrap_or_default();
    Ok((nested::without_prefixes(tensors), metadata))
}

/// A JSON object in which no key occurs twice. Parsing fails if a key is repeated; the values are
/// skipped.
struct DistinctNames;

impl<'de> Deserialize<'de> for DistinctNames {
    fn deserialize<D: Deserializer<'de>>(header: D) -> Result<Self, D::Error> {
        header.deserialize_map(Self)
    }
}

impl<'de> Visitor<'de> for DistinctNames {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object whose keys are tensor names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut tensors: A) -> Result<Self, A::Error> {
        let mut names = BTreeSet::new();
        while let Some(name) = tensors.next_key::<String>()? {
            tensors.next_value::<IgnoredAny>()?;
            let shown = shown(&name);
            if !names.insert(name) {
                let error = format!("expected distinct tensor names, got `{shown}` twice");
                return Err(A::Error::custom(error));
            }
        }
        Ok(self)
    }
}

/// Splits a file into the bytes of the JSON header and the bytes of the tensors.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), WeightsError> {
    let truncated = |offset: usize, needed| WeightsError::Truncated {
        format: Format::Safetensors,
        offset,
        needed,
        got: bytes.len() - offset,
    };
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else {
        return Err(truncated(0, LENGTH as u64));
    };
    let length = u64::from_le_bytes(*length);
    limits::at_most(
        Format::Safetensors,
        "bytes of the header",
        limits::MAX_HEADER,
        length,
    )?;
    rest.split_at_checked(length as usize)
        .ok_or_else(|| truncated(LENGTH, length))
}

impl StateDict {
    /// Returns the bytes of a safetensors file with the tensors and the metadata.
    ///
    /// Equal state dicts result in equal bytes, unless they have several metadata entries, whose
    /// order may differ.
    ///
    /// # Errors
    /// Returns [`WeightsError::Write`] if the header would be too large, or [`WeightsError::Entry`]
    /// for a quantized tensor, since the format cannot store scales.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, WeightsError> {
        if let Some((name, tensor)) = self.iter().find(|(_, t)| t.quantizer().is_some()) {
            let expected = "a tensor that is not quantized";
            let got = format!("{} with scales", tensor.dtype());
            return Err(WeightsError::entry(
                Format::Safetensors,
                name,
                expected,
                got,
            ));
        }
        let metadata = self.metadata();
        let metadata = (!metadata.is_empty()).then(|| metadata.clone().into_iter().collect());
        let views = self.iter().map(|(name, tensor)| (name, Viewed(tensor)));
        safetensors::serialize(views, metadata).map_err(|source| WeightsError::Write { source })
    }
}

struct Viewed<'a>(&'a Tensor);

impl View for Viewed<'_> {
    fn dtype(&self) -> Dtype {
        to_dtype(self.0.dtype())
    }

    fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.0.bytes())
    }

    fn data_len(&self) -> usize {
        self.0.bytes().len()
    }
}

fn to_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::F64 => Dtype::F64,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}

fn from_dtype(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::F64 => DType::F64,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn damaged_files_are_rejected() {
        let good = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        assert_eq!(read(&file(good, 8)).unwrap().0["a"].shape(), [2]);
        let half = u64::MAX / 2;
        let huge =
            format!(r#"{{"a":{{"dtype":"U8","shape":[{half}],"data_offsets":[0,{half}]}}}}"#);
        let top = format!(
            r#"{{"a":{{"dtype":"U8","shape":[{0}],"data_offsets":[0,{0}]}},
                "b":{{"dtype":"U8","shape":[{1}],"data_offsets":[{0},{2}]}}}}"#,
            1_u64 << 60,
            (1_u64 << 60) - 8,
            (1_u64 << 61) - 8,
        );
        let cases = [
            (
                file(good, 7),
                "expected as many bytes as the header declares, got 7 bytes instead of 8",
            ),
            (
                file(good, 9),
                "expected as many bytes as the header declares, got 9 bytes instead of 8",
            ),
            (
                file(&good.replace("[2]", "[3]"), 8),
                "invalid shape, data type, or offset",
            ),
            (file(&good.replace("[0,8]", "[4,12]"), 12), "invalid offset"),
            (
                file(&good.replace("F32", "U64").replace("[2]", "[1]"), 8),
                "expected a data type of F32, F16, BF16, F64, I64, I32, I16, I8, U8 and BOOL, got U64",
            ),
            (file("{", 0), "EOF while parsing"),
            (
                file(&format!("{},{}", &good[..good.len() - 1], &good[1..]), 8),
                "expected distinct tensor names, got `a` twice",
            ),
            (file(&huge, 0), "safetensors file: "),
            (file(&top, 0), "safetensors file, entry `(data)`"),
            (vec![1, 2, 3], "expected 8 more bytes at offset 0, got 3"),
            (vec![255; 16], "bytes of the header must be at most"),
            (
                file(good, 8)[..20].to_vec(),
                "more bytes at offset 8, got 12",
            ),
        ];
        for (bytes, message) in cases {
            let got = read(&bytes).unwrap_err().to_string();
            assert!(got.contains(message), "{message}: {got}");
        }
    }
}
