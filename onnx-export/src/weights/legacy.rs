//! Reads the stream of pickles that torch wrote from 0.1.10 to 1.5, and still writes with
//! `_use_new_zipfile_serialization=False`.
//!
//! Five pickles follow each other: a magic number, the protocol 1001, properties of the machine
//! that wrote the file, the saved object, and the list of the keys of its storages. The storages
//! follow the pickles in the order of that list, each as its number of elements (i64) and its
//! elements.
//!
//! Source: `torch/serialization.py:_legacy_load`.

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    DType, Format, Tensors, WeightsError,
    layout::{self, Storages},
    limits, nested,
    pickle::{
        self, Persistent, Pickled,
        rebuild::key_of,
        value::{Node, Value},
    },
    references,
};

/// Torch's `MAGIC_NUMBER` 0x1950a86a20f9469cfc6c, the value of the first pickle, little-endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Torch's `PROTOCOL_VERSION`, the value of the second pickle.
const PROTOCOL: i64 = 1001;

/// Reads the state dict in the stream `bytes`.
///
/// # Errors
/// Returns [`WeightsError`] if the stream is truncated or malformed, or if the saved object or a
/// tensor is rejected.
pub(super) fn read(bytes: &[u8]) -> Result<Tensors, WeightsError> {
    // The file does not store the lengths of its pickles, so each pickle is read from this prefix
    // of the file, whose length is the size limit of a pickle.
    let head = &bytes[..bytes.len().min(limits::MAX_PICKLE as usize)];
    let magic = pickle::load(head, 0, Persistent::Refused)?;
    if !matches!(magic.arena.node(magic.root), Some(Node::BigInt(n)) if *n == MAGIC) {
        return Err(WeightsError::plain_pickle());
    }
    let protocol = pickle::load(head, magic.end, Persistent::Refused)?;
    if protocol.root != Value::Int(PROTOCOL) {
        return Err(malformed(
            magic.end,
            "torch's protocol 1001",
            "another protocol",
        ));
    }
    let machine = pickle::load(head, protocol.end, Persistent::Refused)?;
    check_byte_order(&machine, Format::Legacy)?;
    let object = pickle::load(head, machine.end, Persistent::ViewedStorages)?;
    let sizes = references::storage_sizes(&object, Format::Legacy)?;
    let wanted = nested::select(&object)?;
    let keys = pickle::load(head, object.end, Persistent::Refused)?;
    let mut storages = Stream::scan(bytes, &keys, &element_types(&object), &sizes)?;
    let tensors = layout::materialize(&wanted, &mut storages, Format::Legacy, bytes.len())?;
    references::check_tensors(&object, Format::Legacy)?;
    Ok(tensors)
}

/// Rejects files that a big-endian machine wrote. `machine` holds the properties of that machine: the third pickle
/// of a legacy file, or the member `sys_info` of a tar.
pub(super) fn check_byte_order(machine: &Pickled<'_>, format: Format) -> Result<(), WeightsError> {
    match machine.arena.lookup(machine.root, "little_endian") {
        Some(Value::Bool(true)) => Ok(()),
        got => {
            let got = match got {
                Some(Value::Bool(false)) => "big-endian values",
                _ => "no byte order",
            };
            let expected = "little-endian values";
            Err(WeightsError::entry(format, "little_endian", expected, got))
        }
    }
}

/// Returns the data type of every storage that the saved object refers to, by storage key. A
/// storage is written once, with the data type of its first reference.
fn element_types<'p>(object: &'p Pickled<'_>) -> BTreeMap<&'p str, DType> {
    let mut types = BTreeMap::new();
    for node in object.arena.nodes() {
        if let Node::Storage(storage) = node {
            types.entry(storage.key.as_ref()).or_insert(storage.dtype);
        }
    }
    types
}

/// The bytes of the storages, which follow the pickles, by storage key.
struct Stream<'a>(BTreeMap<Cow<'a, str>, &'a [u8]>);

impl<'a> Stream<'a> {
    fn scan(
        bytes: &'a [u8],
        keys: &Pickled<'a>,
        types: &BTreeMap<&str, DType>,
        sizes: &BTreeMap<&str, usize>,
    ) -> Result<Self, WeightsError> {
        let Some(items) = keys.arena.items(keys.root) else {
            let got = keys.arena.describe(keys.root);
            return Err(malformed(keys.end, "a list of storage keys", got));
        };
        let mut storages = BTreeMap::new();
        let mut at = keys.end;
        for item in items {
            let Some(key) = key_of(&keys.arena, *item) else {
                let got = keys.arena.describe(*item);
                return Err(malformed(keys.end, "a storage key", got));
            };
            let Some(dtype) = types.get(key.as_ref()) else {
                let expected = "a storage that a tensor refers to";
                return Err(WeightsError::entry(
                    Format::Legacy,
                    &key,
                    expected,
                    "an unused storage",
                ));
            };
            let data = read_storage(bytes, &mut at, *dtype, Format::Legacy)?;
            let wrong = |expected, got: String| {
                Err(WeightsError::entry(Format::Legacy, &key, expected, got))
            };
            if sizes.get(key.as_ref()) != Some(&data.len()) {
                let expected = "a storage as long as the pickle states";
                return wrong(expected, format!("{} bytes", data.len()));
            }
            if storages.contains_key(&key) {
                return wrong("distinct storage keys", "one key twice".to_owned());
            }
            storages.insert(key, data);
        }
        Ok(Self(storages))
    }
}

impl Storages for Stream<'_> {
    fn storage(&mut self, key: &str) -> Result<Cow<'_, [u8]>, WeightsError> {
        match self.0.get(key) {
            Some(data) => Ok(Cow::Borrowed(data)),
            None => Err(WeightsError::entry(
                Format::Legacy,
                key,
                "a storage of this key",
                "none",
            )),
        }
    }
}

/// Returns the bytes of the elements of the storage at offset `at`, and moves `at` to the end of
/// the storage. A storage is the number of its elements (i64), then the elements. Tar checkpoints
/// use the same format.
///
/// Source: `torch/csrc/generic/serialization.cpp`.
pub(super) fn read_storage<'a>(
    bytes: &'a [u8],
    at: &mut usize,
    dtype: DType,
    format: Format,
) -> Result<&'a [u8], WeightsError> {
    let numel = take(bytes, at, 8, format)?;
    let numel = numel
        .iter()
        .rev()
        .fold(0_u64, |n, b| n << 8 | u64::from(*b));
    // A negative number of elements, read as u64, exceeds the length of any file.
    let needed = numel.saturating_mul(dtype.size() as u64);
    take(bytes, at, needed, format)
}

/// Returns the `n` bytes at offset `at`, and moves `at` to their end.
pub(super) fn take<'a>(
    bytes: &'a [u8],
    at: &mut usize,
    n: u64,
    format: Format,
) -> Result<&'a [u8], WeightsError> {
    let rest = bytes.get(*at..).unwrap_or_default();
    let taken = usize::try_from(n).ok().and_then(|n| rest.get(..n));
    let Some(taken) = taken else {
        return Err(WeightsError::Truncated {
            format,
            offset: *at,
            needed: n,
            got: rest.len(),
        });
    };
    *at += taken.len();
    Ok(taken)
}

fn malformed(offset: usize, expected: &'static str, got: &str) -> WeightsError {
    WeightsError::Malformed {
        format: Format::Legacy,
        offset,
        expected,
        got: got.to_owned(),
    }
}
