//! The check of an ONNX file's weights, which neither copies nor decodes the file.

use half::{bf16, f16};
use thiserror::Error;

use super::not_finite;
use crate::text::shown;
use crate::wire::{Reader, Value};

/// Number of elements in a block. The loop over a block has no branch, so that the compiler can vectorize
/// it. The check stops only between two blocks.
const BLOCK: usize = 1024;

/// A weight of an ONNX file is NaN or infinite.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("initializer `{}`: {reason}", shown(name))]
pub struct NotFinite {
    /// Name of the initializer.
    pub name: String,
    /// Says how many values are NaN or infinite, and which is the first.
    pub reason: String,
}

/// Checks that the floating-point initializers of an ONNX file's main graph are finite. An
/// initializer of a single element may be infinite, because operators such as `Clip` and `Pad` take
/// infinity as a bound or a filler.
///
/// Damaged files pass this check. The runtime that loads them rejects them.
///
/// # Errors
/// [`NotFinite`] for the first initializer with a value that is NaN or infinite.
pub fn check_weights(model: &[u8]) -> Result<(), NotFinite> {
    let graphs = Reader::new(model).messages(7);
    for tensor in graphs.flat_map(|graph| graph.messages(5)) {
        Tensor::read(tensor).check()?;
    }
    Ok(())
}

/// The fields of a `TensorProto` that hold a floating-point tensor. Elements are little-endian.
#[derive(Default)]
struct Tensor<'a> {
    name: &'a [u8],
    shape: Vec<usize>,
    data_type: u64,
    raw: &'a [u8],
    /// Elements of a float32 tensor without `raw`.
    floats: &'a [u8],
    /// Elements of a float64 tensor without `raw`.
    doubles: &'a [u8],
}

/// A data type of floating-point elements.
#[derive(Clone, Copy)]
enum Float {
    F32,
    F16,
    F64,
    BF16,
}

impl<'a> Tensor<'a> {
    /// Maximum number of axes that [`Tensor::shape`] keeps; a hostile file may state millions.
    const MAX_RANK: usize = 16;

    fn read(message: Reader<'a>) -> Self {
        let mut tensor = Self::default();
        for field in message.fields() {
            match field {
                (1, Value::Varint(size)) => tensor.add_axis(size),
                (1, Value::Bytes(mut sizes)) => {
                    while let Ok(size) = sizes.varint() {
                        tensor.add_axis(size);
                    }
                }
                (2, Value::Varint(data_type)) => tensor.data_type = data_type,
                (4, Value::Bytes(bytes)) => tensor.floats = bytes.rest(),
                (8, Value::Bytes(name)) => tensor.name = name.rest(),
                (9, Value::Bytes(bytes)) => tensor.raw = bytes.rest(),
                (10, Value::Bytes(bytes)) => tensor.doubles = bytes.rest(),
                _ => {}
            }
        }
        tensor
    }

    fn add_axis(&mut self, size: u64) {
        if self.shape.len() < Self::MAX_RANK {
            self.shape.push(usize::try_from(size).unwrap_or(usize::MAX));
        }
    }

    fn check(&self) -> Result<(), NotFinite> {
        // The numbers of `TensorProto.DataType`.
        let (float, unpacked) = match self.data_type {
            1 => (Float::F32, self.floats),
            10 => (Float::F16, &[][..]),
            11 => (Float::F64, self.doubles),
            16 => (Float::BF16, &[][..]),
            _ => return Ok(()),
        };
        let bytes = if self.raw.is_empty() {
            unpacked
        } else {
            self.raw
        };
        if float.all_finite(bytes) {
            return Ok(());
        }
        let mut values = float.values(bytes);
        let first = values.next();
        if first.is_some_and(f32::is_infinite) && values.next().is_none() {
            return Ok(());
        }
        let Some(reason) = not_finite(float.values(bytes), &self.shape) else {
            return Ok(());
        };
        let name = String::from_utf8_lossy(self.name).into_owned();
        Err(NotFinite { name, reason })
    }
}

impl Float {
    fn all_finite(self, bytes: &[u8]) -> bool {
        // A value is NaN or infinite if all bits of its exponent are set.
        match self {
            Self::F32 => every(bytes, |b| {
                u32::from_le_bytes(b) & 0x7f80_0000 != 0x7f80_0000
            }),
            Self::F16 => every(bytes, |b| u16::from_le_bytes(b) & 0x7c00 != 0x7c00),
            Self::BF16 => every(bytes, |b| u16::from_le_bytes(b) & 0x7f80 != 0x7f80),
            Self::F64 => every(bytes, |b| {
                u64::from_le_bytes(b) & (0x7ff << 52) != 0x7ff << 52
            }),
        }
    }

    /// Returns the elements as f32. A float64 that is finite stays finite.
    fn values(self, bytes: &[u8]) -> Box<dyn Iterator<Item = f32> + '_> {
        let narrow = |value: f64| {
            if value.is_finite() {
                value.clamp(f32::MIN.into(), f32::MAX.into()) as f32
            } else {
                value as f32
            }
        };
        match self {
            Self::F32 => Box::new(elements(bytes).map(f32::from_le_bytes)),
            Self::F16 => Box::new(elements(bytes).map(|b| f16::from_le_bytes(b).to_f32())),
            Self::BF16 => Box::new(elements(bytes).map(|b| bf16::from_le_bytes(b).to_f32())),
            Self::F64 => Box::new(elements(bytes).map(move |b| narrow(f64::from_le_bytes(b)))),
        }
    }
}

fn elements<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// Returns whether `holds` is true for every element of `N` bytes.
fn every<const N: usize>(bytes: &[u8], holds: impl Fn([u8; N]) -> bool) -> bool {
    let blocks = bytes.as_chunks::<N>().0.chunks(BLOCK);
    blocks.into_iter().all(|block| {
        block
            .iter()
            .fold(true, |all, element| all & holds(*element))
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto::{GraphProto, ModelProto, TensorProto};

    /// Returns an ONNX file whose second initializer, `w` of shape `[2, 2]`, has these elements.
    fn model(data_type: i32, dims: Vec<i64>, raw_data: Vec<u8>) -> Vec<u8> {
        let tensor = |name: &str, data_type, dims, raw_data| TensorProto {
            name: name.to_owned(),
            data_type,
            dims,
            raw_data,
            ..TensorProto::default()
        };
        let graph = GraphProto {
            initializer: vec![
                tensor("good", 1, vec![1], vec![0; 4]),
                tensor("w\x1b[2J", data_type, dims, raw_data),
            ],
            ..GraphProto::default()
        };
        let model = ModelProto {
            ir_version: 8,
            graph: Some(graph),
            ..ModelProto::default()
        };
        model.encode_to_vec()
    }

    fn bytes<const N: usize>(values: [f64; 4], to: impl Fn(f64) -> [u8; N]) -> Vec<u8> {
        values.into_iter().flat_map(to).collect()
    }

    #[test]
    fn weights_of_every_float_type_are_checked() {
        let nan = "initializer `w\\u001b[2J`: 1 of 4 values are NaN or infinite, the first is NaN at [1, 0]";
        let rows = [
            ([0.5, -1.0, 2.0, 3.0], None),
            ([0.5, -1.0, f64::NAN, 3.0], Some(nan)),
            (
                [0.5, f64::NEG_INFINITY, 0.0, f64::INFINITY],
                Some("2 of 4 values are NaN or infinite, the first is -inf at [0, 1]"),
            ),
        ];
        for (values, expected) in rows {
            let types = [
                (1, bytes(values, |v| (v as f32).to_le_bytes())),
                (10, bytes(values, |v| f16::from_f64(v).to_le_bytes())),
                (11, bytes(values, f64::to_le_bytes)),
                (16, bytes(values, |v| bf16::from_f64(v).to_le_bytes())),
            ];
            for (data_type, raw) in types {
                let got = check_weights(&model(data_type, vec![2, 2], raw));
                let got = got.err().map(|error| error.to_string());
                let same = match (&got, expected) {
                    (Some(got), Some(expected)) => got.contains(expected),
                    (got, expected) => got.is_none() && expected.is_none(),
                };
                assert!(same, "{data_type} {values:?}: {got:?}");
            }
        }
    }

    #[test]
    fn bounds_and_other_types_may_have_any_bits() {
        let infinity = f32::INFINITY.to_le_bytes().to_vec();
        assert_eq!(check_weights(&model(1, vec![], infinity.clone())), Ok(()));
        assert!(check_weights(&model(1, vec![], f32::NAN.to_le_bytes().to_vec())).is_err());
        assert_eq!(check_weights(&model(6, vec![1], vec![0xff; 4])), Ok(()));
        let large = f64::MAX.to_le_bytes().to_vec();
        assert_eq!(check_weights(&model(11, vec![1], large)), Ok(()));
    }

    #[test]
    fn elements_outside_of_raw_data_are_checked() {
        // A `TensorProto` with data type float32, `float_data` [NaN, 0] and the name `w`.
        let mut tensor = b"\x08\x02\x10\x01\x22\x08".to_vec();
        tensor.extend(f32::NAN.to_le_bytes());
        tensor.extend([0; 4]);
        tensor.extend(b"\x42\x01w");
        let graph = [&[0x2a, tensor.len() as u8], &tensor[..]].concat();
        let file = [&[0x3a, graph.len() as u8], &graph[..]].concat();
        assert_eq!(check_weights(&file).unwrap_err().name, "w");
        for end in 0..file.len() {
            let _ = check_weights(&file[..end]);
        }
    }
}
