//! Checks of everything that a pickle says about storages, also about those that are not read.
//!
//! torch reads all storages and builds all tensors of a file. A file in which one of them is damaged
//! is not what the author saved, even if the weights look sound.

use std::collections::BTreeMap;

use super::{
    Format, WeightsError,
    layout::{StorageRef, TensorRef, end},
    pickle::{Pickled, value::Node},
    tensor::byte_count,
};

/// Checks that all references of a pickle to one storage agree on its size in bytes, and that all
/// references to one view agree. Returns the size in bytes of each storage by its key.
///
/// Readers differ in which of two contradicting references they follow, so that such a file would
/// have other weights in torch.
///
/// # Errors
/// Returns [`WeightsError::Entry`] for the first storage whose references disagree.
pub(super) fn storage_sizes<'p>(
    pickled: &'p Pickled<'_>,
    format: Format,
) -> Result<BTreeMap<&'p str, usize>, WeightsError> {
    let (mut sizes, mut views) = (BTreeMap::new(), BTreeMap::new());
    let different = |key: &str| {
        let expected = "one size and type in all references to a storage";
        Err(WeightsError::entry(format, key, expected, "several"))
    };
    for node in pickled.arena.nodes() {
        let Node::Storage(storage) = node else {
            continue;
        };
        let key = storage.key.as_ref();
        let size = storage.numel.saturating_mul(storage.dtype.size());
        if *sizes.entry(key).or_insert(size) != size {
            return different(key);
        }
        if let Some(view) = &storage.view
            && *views.entry(view.key.as_ref()).or_insert(storage) != storage
        {
            return different(&view.key);
        }
    }
    match views.keys().find(|key| sizes.contains_key(*key)) {
        Some(key) => different(key),
        None => Ok(sizes),
    }
}

/// Checks that all tensors of a pickle are inside their storages, also tensors that are not weights
/// and are not read.
///
/// # Errors
/// Returns [`WeightsError::Entry`] for the first storage that does not contain one of its tensors.
pub(super) fn check_tensors(pickled: &Pickled<'_>, format: Format) -> Result<(), WeightsError> {
    let mut outside = pickled.arena.nodes().filter_map(|node| match node {
        Node::Tensor(tensor) if !is_inside(tensor) => Some(tensor),
        _ => None,
    });
    let Some(tensor) = outside.next() else {
        return Ok(());
    };
    let TensorRef {
        storage,
        offset,
        shape,
        strides,
        ..
    } = tensor;
    let expected = "a storage that contains its tensors";
    let got = format!("a tensor at offset {offset} of shape {shape:?} and strides {strides:?}");
    Err(WeightsError::entry(format, &storage.key, expected, got))
}

/// Returns whether a tensor is inside its storage or view, which are as long as the pickle states.
fn is_inside(tensor: &TensorRef<'_>) -> bool {
    let StorageRef {
        dtype, numel, view, ..
    } = &tensor.storage;
    let numel = view.as_ref().map_or(*numel, |view| view.numel);
    let Some(bytes) = numel.checked_mul(dtype.size()) else {
        return false;
    };
    let is_empty = byte_count(tensor.dtype, &tensor.shape) == Some(0);
    let is_sound = tensor.shape.len() == tensor.strides.len();
    is_sound && (is_empty || end(tensor).is_some_and(|end| end <= bytes))
}
