//! Assembles the tensors that a pickle describes from the storages of the file.
//!
//! A pickle describes a tensor by storage, offset, shape and strides; the storages are elsewhere in the
//! file. Only the storages of requested tensors are read.

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    DType, Format, Tensor, Tensors, WeightsError,
    limits::Budget,
    quantized::{Part, Parts, QuantizerRef, assemble},
    tensor::byte_count,
};
use crate::text::shown;

/// A pickle's reference to a storage, an array of elements in the file that several tensors may share. Lengths
/// and offsets count elements of `dtype`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StorageRef<'a> {
    /// Key of the storage in the container.
    pub(super) key: Cow<'a, str>,
    /// Data type of the elements.
    pub(super) dtype: DType,
    /// Whether the elements are the integers of quantized tensors.
    pub(super) quantized: bool,
    /// Number of elements in the whole storage.
    pub(super) numel: usize,
    /// The part of the storage that holds the tensor; `None` if the tensor may lie anywhere in the
    /// storage.
    pub(super) view: Option<View<'a>>,
}

/// A part of a storage. Offset and length count elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View<'a> {
    /// Key of the view in the container, where it shares the keys of the storages.
    pub(super) key: Cow<'a, str>,
    pub(super) offset: usize,
    pub(super) numel: usize,
}

/// A tensor as a pickle describes it. Offset and strides count elements.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TensorRef<'a> {
    pub(super) storage: StorageRef<'a>,
    pub(super) dtype: DType,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
    /// Scales and zero points; `None` if the tensor is not quantized.
    pub(super) quantizer: Option<QuantizerRef<'a>>,
}

/// Access to the storages of a container by key.
pub(super) trait Storages {
    /// Returns the raw bytes of the storage `key`.
    ///
    /// # Errors
    /// Returns [`WeightsError`] if the storage is missing or damaged.
    fn storage(&mut self, key: &str) -> Result<Cow<'_, [u8]>, WeightsError>;
}

/// Reads the tensors `wanted`, a map from names to descriptions, from their storages. `file_len` is
/// the size of the file in bytes; the total size of the tensors may exceed it only by the factor
/// and slack of [`Budget::for_file`].
///
/// # Errors
/// Returns [`WeightsError`] if a storage is missing or too short, a tensor exceeds its storage, the
/// tensors exceed the budget, or a quantizer does not match its tensor.
pub(super) fn materialize(
    wanted: &BTreeMap<String, &TensorRef<'_>>,
    storages: &mut impl Storages,
    format: Format,
    file_len: usize,
) -> Result<Tensors, WeightsError> {
    let mut budget = Budget::for_file(format, "bytes of all tensors", file_len);
    // Grouped by storage: a shared storage is read once, and one storage is in memory at a time.
    let mut groups: BTreeMap<&str, Vec<(&str, Part, &TensorRef<'_>)>> = BTreeMap::new();
    for (name, tensor) in wanted {
        for (part, tensor) in tensor.parts() {
            let group = groups.entry(&tensor.storage.key).or_default();
            group.push((name, part, tensor));
        }
    }
    let mut parts = Parts::new();
    for (key, group) in groups {
        let bytes = storages.storage(key)?;
        for (name, part, tensor) in group {
            let read = Placed::new(tensor, &bytes, name, format)?.read(&mut budget)?;
            parts.insert((name, part), read);
        }
    }
    assemble(wanted, parts, &mut budget, format)
}

/// A tensor and the bytes of its storage. [`Placed::new`] checks that the bytes contain all
/// elements of the tensor.
struct Placed<'a> {
    tensor: &'a TensorRef<'a>,
    /// Bytes of the storage, or of the part that [`StorageRef::view`] selects.
    bytes: &'a [u8],
    /// Size in bytes of the tensor when its elements lie in C order without gaps.
    byte_count: usize,
}

impl<'a> Placed<'a> {
    fn new(
        tensor: &'a TensorRef<'a>,
        storage: &'a [u8],
        name: &str,
        format: Format,
    ) -> Result<Self, WeightsError> {
        let outside = |expected, got: String| WeightsError::Entry {
            format,
            key: shown(name),
            expected,
            got,
        };
        let bytes = viewed(&tensor.storage, storage).ok_or_else(|| {
            let StorageRef {
                dtype, numel, view, ..
            } = &tensor.storage;
            let bytes = storage.len();
            let view = view.as_ref().map(|view| (view.offset, view.numel));
            let got = format!(
                "{bytes} bytes for {numel} elements of {dtype}, view (offset, length) {view:?}"
            );
            outside("a storage as long as the pickle states", shown(&got))
        })?;
        let byte_count = byte_count(tensor.dtype, &tensor.shape)
            .filter(|_| tensor.shape.len() == tensor.strides.len())
            .ok_or_else(|| {
                let got = format!("shape {:?}, strides {:?}", tensor.shape, tensor.strides);
                outside(
                    "a shape with one stride per axis and a size below 2^64 bytes",
                    got,
                )
            })?;
        let fits = byte_count == 0 || end(tensor).is_some_and(|end| end <= bytes.len());
        if !fits {
            let TensorRef {
                offset,
                shape,
                strides,
                ..
            } = tensor;
            let got =
                format!("offset {offset} and strides {strides:?} in elements, shape {shape:?}");
            return Err(outside("a tensor inside its storage", got));
        }
        Ok(Self {
            tensor,
            bytes,
            byte_count,
        })
    }

    fn read(&self, budget: &mut Budget) -> Result<Tensor, WeightsError> {
        let (dtype, shape) = (self.tensor.dtype, &self.tensor.shape);
        let mut out = budget.allocate(self.byte_count)?;
        let start = self.tensor.offset.saturating_mul(dtype.size());
        match self.byte_count {
            // The offset of an empty tensor may be anything, so it must not be used to slice.
            0 => {}
            bytes if self.is_contiguous() => {
                out.extend_from_slice(&self.bytes[start..start + bytes]);
            }
            _ => self.gather(start, &mut out),
        }
        Tensor::new(dtype, shape.clone(), out)
    }

    /// Returns whether the elements lie in C order without gaps. An axis of length 1 may have any
    /// stride.
    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        let axes = self.tensor.shape.iter().zip(&self.tensor.strides);
        for (&n, &stride) in axes.rev() {
            if n != 1 && stride != expected {
                return false;
            }
            expected *= n;
        }
        true
    }

    /// Appends the elements to `out` in C order, for any strides. `start` is the byte offset of the
    /// first element in [`Placed::bytes`].
    fn gather(&self, start: usize, out: &mut Vec<u8>) {
        let size = self.tensor.dtype.size();
        let (shape, strides) = (&self.tensor.shape, &self.tensor.strides);
        let mut index = vec![0; shape.len()];
        let mut at = start;
        loop {
            out.extend_from_slice(&self.bytes[at..at + size]);
            let mut axis = shape.len();
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                index[axis] += 1;
                if index[axis] < shape[axis] {
                    at += strides[axis] * size;
                    break;
                }
                index[axis] = 0;
                at -= (shape[axis] - 1) * strides[axis] * size;
            }
        }
    }
}

/// Returns the part of a storage that its [`StorageRef::view`] selects, or all of it without a
/// view. `bytes` is the storage's content. `None` if the length of `bytes` is not the stated one or
/// the view exceeds the storage.
fn viewed<'b>(storage: &StorageRef<'_>, bytes: &'b [u8]) -> Option<&'b [u8]> {
    let size = storage.dtype.size();
    let all = Some(bytes).filter(|bytes| storage.numel.checked_mul(size) == Some(bytes.len()))?;
    let Some(view) = &storage.view else {
        return Some(all);
    };
    let start = view.offset.checked_mul(size)?;
    all.get(start..start.checked_add(view.numel.checked_mul(size)?)?)
}

/// Returns the number of bytes from the start of the storage, or of its view, to the end of the
/// tensor's last element. `None` on overflow or if the tensor is empty.
pub(super) fn end(tensor: &TensorRef<'_>) -> Option<usize> {
    let axes = tensor.shape.iter().zip(&tensor.strides);
    let last = axes
        .into_iter()
        .try_fold(tensor.offset, |last, (&n, &stride)| {
            last.checked_add(n.checked_sub(1)?.checked_mul(stride)?)
        })?;
    last.checked_add(1)?.checked_mul(tensor.dtype.size())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(Vec<u8>);

    impl Storages for Bytes {
        fn storage(&mut self, _: &str) -> Result<Cow<'_, [u8]>, WeightsError> {
            Ok(Cow::Borrowed(&self.0))
        }
    }

    /// Returns the bytes of a u8 tensor in a storage with the elements 0, 1, .. 11, or the message
    /// of the error.
    fn read(
        view: Option<(usize, usize)>,
        offset: usize,
        shape: &[usize],
        strides: &[usize],
    ) -> Result<Vec<u8>, String> {
        let tensor = TensorRef {
            storage: StorageRef {
                key: "0".into(),
                dtype: DType::U8,
                quantized: false,
                numel: 12,
                view: view.map(|(offset, numel)| View {
                    key: "1".into(),
                    offset,
                    numel,
                }),
            },
            dtype: DType::U8,
            offset,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
            quantizer: None,
        };
        let wanted = BTreeMap::from([("t".to_owned(), &tensor)]);
        let mut storages = Bytes((0..12).collect());
        materialize(&wanted, &mut storages, Format::Zip, 12)
            .map(|tensors| tensors["t"].bytes().to_vec())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn strides_are_gathered_into_c_order() {
        let none = None;
        let cases: &[(_, _, &[usize], &[usize], &[u8])] = &[
            (none, 0, &[2, 3], &[3, 1], &[0, 1, 2, 3, 4, 5]),
            (none, 0, &[3, 2], &[1, 3], &[0, 3, 1, 4, 2, 5]), // a transpose
            (none, 1, &[2, 1, 2], &[6, 99, 1], &[1, 2, 7, 8]), // axis of length 1: any stride
            (none, 11, &[], &[], &[11]),
            (none, 5, &[4], &[0], &[5, 5, 5, 5]), // expanded
            (none, 0, &[0, 5], &[5, 1], &[]),
            (none, 99, &[0], &[1], &[]),
            (Some((4, 6)), 1, &[2, 2], &[1, 2], &[5, 7, 6, 8]),
            (none, 0, &[2, 2, 2], &[1, 2, 4], &[0, 4, 2, 6, 1, 5, 3, 7]),
        ];
        for &(view, offset, shape, strides, expected) in cases {
            let got = read(view, offset, shape, strides);
            assert_eq!(got.as_deref(), Ok(expected), "{shape:?} {strides:?}");
        }
    }

    #[test]
    fn tensors_outside_their_storage_are_rejected() {
        let huge = usize::MAX;
        let inside = "expected a tensor inside its storage";
        let cases: [(_, usize, &[usize], &[usize], &str); 8] = [
            (None, 0, &[13], &[1], inside),
            (None, 12, &[1], &[1], inside),
            (None, huge, &[2], &[1], inside),
            (None, 0, &[2], &[huge], inside),
            (None, 0, &[3, 2], &[huge / 2, 9], inside),
            (
                None,
                0,
                &[huge, 2],
                &[0, 0],
                "expected a shape with one stride per axis",
            ),
            (
                Some((8, 5)),
                0,
                &[1],
                &[1],
                "expected a storage as long as the pickle states",
            ),
            (
                None,
                0,
                &[1 << 40],
                &[0],
                "bytes of all tensors must be at most",
            ),
        ];
        for (view, offset, shape, strides, expected) in cases {
            let got = read(view, offset, shape, strides).unwrap_err();
            assert!(got.contains(expected), "{shape:?} {strides:?}: {got}");
        }
    }
}
