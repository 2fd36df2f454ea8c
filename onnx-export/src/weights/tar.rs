//! Reads the tar container that torch wrote before 0.1.10.
//!
//! Its members are `sys_info`, `storages`, `tensors` and `pickle`. The members `storages` and
//! `tensors` start with the number of their entries; each entry is a pickle followed by raw bytes.
//! The saved object, in the member `pickle`, refers to the tensors by number. Members are slices of
//! the file: nothing is unpacked.
//!
//! Source: `torch/serialization.py:legacy_load`.

use std::{borrow::Cow, collections::BTreeMap, io::Cursor};

use super::{
    DType, Format, Tensors, WeightsError,
    layout::{self, StorageRef, Storages, TensorRef},
    legacy::{check_byte_order, read_storage, take},
    limits, nested,
    pickle::{
        self, Persistent,
        globals::Global,
        value::{Node, Value, size},
    },
};

/// Name of the member with the properties of the machine that wrote the file. Every tar checkpoint
/// has it.
const MACHINE: &str = "sys_info";

/// Reads the state dict in the tar file `bytes`.
///
/// # Errors
/// Returns [`WeightsError`] if the container or a member is damaged, or a pickle or tensor is rejected.
pub(super) fn read(bytes: &[u8]) -> Result<Tensors, WeightsError> {
    let members = Members::scan(bytes)?;
    let machine = pickle::load(members.get(MACHINE)?, 0, Persistent::Refused)?;
    check_byte_order(&machine, Format::Tar)?;
    let mut storages = read_storages(members.get("storages")?)?;
    let tensors = read_tensors(members.get("tensors")?, &storages)?;
    let object = pickle::load(members.get("pickle")?, 0, Persistent::Numbered(&tensors))?;
    let wanted = nested::select(&object)?;
    layout::materialize(&wanted, &mut storages, Format::Tar, bytes.len())
}

/// The contents of the tar members that are regular files, by name.
struct Members<'a>(BTreeMap<String, &'a [u8]>);

impl<'a> Members<'a> {
    fn scan(bytes: &'a [u8]) -> Result<Self, WeightsError> {
        let failed = |source| WeightsError::Tar { source };
        let mut archive = tar::Archive::new(Cursor::new(bytes));
        let mut members = BTreeMap::new();
        for (count, entry) in (1..).zip(archive.entries().map_err(failed)?) {
            let few = limits::at_most(Format::Tar, "members", limits::MAX_MEMBERS, count);
            if few.is_err() && !members.contains_key(MACHINE) {
                break;
            }
            few?;
            let entry = entry.map_err(failed)?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let mut at = usize::try_from(entry.raw_file_position()).unwrap_or(usize::MAX);
            let data = take(bytes, &mut at, entry.size(), Format::Tar)?;
            if members.insert(name.clone(), data).is_some() {
                let expected = "distinct names";
                return Err(WeightsError::entry(
                    Format::Tar,
                    &name,
                    expected,
                    "one name twice",
                ));
            }
        }
        if !members.contains_key(MACHINE) {
            return Err(WeightsError::plain_tar());
        }
        Ok(Self(members))
    }

    fn get(&self, name: &str) -> Result<&'a [u8], WeightsError> {
        let missing = || WeightsError::entry(Format::Tar, name, "a member of this name", "none");
        self.0.get(name).copied().ok_or_else(missing)
    }
}

/// The elements of a storage, or of a view into another storage.
struct Storage<'a> {
    dtype: DType,
    data: &'a [u8],
}

type Numbered<'a> = BTreeMap<i64, Storage<'a>>;

impl Storages for Numbered<'_> {
    fn storage(&mut self, key: &str) -> Result<Cow<'_, [u8]>, WeightsError> {
        let found = key.parse().ok().and_then(|key: i64| self.get(&key));
        match found {
            Some(storage) => Ok(Cow::Borrowed(storage.data)),
            None => Err(wrong("storages", "the key of a storage", key)),
        }
    }
}

/// Reads the member `storages`: the number of storages, then for each of them the pickle
/// `(key, location, class)` and the elements, then a pickle with the views
/// `[(key, root key, offset, numel), ..]`. Returns the storages and views by key.
fn read_storages(bytes: &[u8]) -> Result<Numbered<'_>, WeightsError> {
    let name = "storages";
    let (count, mut at) = read_count(bytes, name)?;
    let mut storages = BTreeMap::new();
    for _ in 0..count {
        let entry = pickle::load(bytes, at, Persistent::Refused)?;
        let expected = "the tuple (key, location, storage class) of a storage";
        let Some([Value::Int(key), _, class]) = entry.arena.items(entry.root) else {
            return Err(wrong(name, expected, entry.arena.describe(entry.root)));
        };
        let Some(Node::Global(Global::Storage(dtype))) = entry.arena.node(*class) else {
            return Err(wrong(name, expected, entry.arena.describe(*class)));
        };
        at = entry.end;
        let data = read_storage(bytes, &mut at, *dtype, Format::Tar)?;
        storages.insert(
            *key,
            Storage {
                dtype: *dtype,
                data,
            },
        );
    }
    let views = pickle::load(bytes, at, Persistent::Refused)?;
    for view in views.arena.items(views.root).unwrap_or_default() {
        let view = views.arena.items(*view).unwrap_or_default();
        let Some((key, storage)) = read_view(view, &storages) else {
            return Err(wrong(
                name,
                "the tuple (key, root key, offset, numel) of a view",
                "another value or a view outside its storage",
            ));
        };
        storages.insert(key, storage);
    }
    Ok(storages)
}

fn read_view<'a>(view: &[Value], storages: &Numbered<'a>) -> Option<(i64, Storage<'a>)> {
    let [Value::Int(key), Value::Int(root), offset, numel] = view else {
        return None;
    };
    let root = storages.get(root)?;
    let width = root.dtype.size();
    let start = size(*offset)?.checked_mul(width)?;
    let end = start.checked_add(size(*numel)?.checked_mul(width)?)?;
    let data = root.data.get(start..end)?;
    let dtype = root.dtype;
    Some((*key, Storage { dtype, data }))
}

/// Reads the member `tensors`: the number of tensors, then for each of them the pickle
/// `(key, storage key, class)`, rank (i32), four unused bytes, shape and strides (i64 each), and
/// offset (i64). Returns the tensors by key.
fn read_tensors(
    bytes: &[u8],
    storages: &Numbered<'_>,
) -> Result<BTreeMap<i64, TensorRef<'static>>, WeightsError> {
    let name = "tensors";
    let (count, mut at) = read_count(bytes, name)?;
    let mut tensors = BTreeMap::new();
    for _ in 0..count {
        let (key, storage_key) = read_tensor_key(bytes, &mut at)?;
        let Some(storage) = storages.get(&storage_key) else {
            return Err(wrong(name, "the key of a storage in the file", storage_key));
        };
        let rank = u64::from(read_u32(bytes, &mut at)?);
        limits::at_most(Format::Tar, "axes of a tensor", limits::MAX_RANK, rank)?;
        take(bytes, &mut at, 4, Format::Tar)?;
        let tensor = TensorRef {
            storage: StorageRef {
                key: storage_key.to_string().into(),
                dtype: storage.dtype,
                quantized: false,
                numel: storage.data.len() / storage.dtype.size(),
                view: None,
            },
            dtype: storage.dtype,
            shape: read_sizes(bytes, &mut at, rank)?,
            strides: read_sizes(bytes, &mut at, rank)?,
            offset: read_size(bytes, &mut at)?,
            quantizer: None,
        };
        tensors.insert(key, tensor);
    }
    Ok(tensors)
}

fn read_tensor_key(bytes: &[u8], at: &mut usize) -> Result<(i64, i64), WeightsError> {
    // The third item, a class such as `torch.FloatTensor`, is ignored: it repeats the data type of
    // the storage.
    let entry = pickle::load(bytes, *at, Persistent::Refused)?;
    *at = entry.end;
    let Some([Value::Int(key), Value::Int(storage), _]) = entry.arena.items(entry.root) else {
        let got = entry.arena.describe(entry.root);
        return Err(wrong(
            "tensors",
            "the tuple (key, storage key, tensor class) of a tensor",
            got,
        ));
    };
    Ok((*key, *storage))
}

fn read_count(bytes: &[u8], name: &str) -> Result<(usize, usize), WeightsError> {
    let count = pickle::load(bytes, 0, Persistent::Refused)?;
    match size(count.root) {
        Some(n) => Ok((n, count.end)),
        None => Err(wrong(
            name,
            "the number of entries",
            count.arena.describe(count.root),
        )),
    }
}

fn read_u32(bytes: &[u8], at: &mut usize) -> Result<u32, WeightsError> {
    let mut out = [0; 4];
    out.copy_from_slice(take(bytes, at, 4, Format::Tar)?);
    Ok(u32::from_le_bytes(out))
}

fn read_size(bytes: &[u8], at: &mut usize) -> Result<usize, WeightsError> {
    let mut out = [0; 8];
    out.copy_from_slice(take(bytes, at, 8, Format::Tar)?);
    let value = i64::from_le_bytes(out);
    usize::try_from(value)
        .map_err(|_| wrong("tensors", "a non-negative length, stride or offset", value))
}

fn read_sizes(bytes: &[u8], at: &mut usize, rank: u64) -> Result<Vec<usize>, WeightsError> {
    (0..rank).map(|_| read_size(bytes, at)).collect()
}

fn wrong(name: &str, expected: &'static str, got: impl std::fmt::Display) -> WeightsError {
    WeightsError::entry(Format::Tar, name, expected, got)
}
