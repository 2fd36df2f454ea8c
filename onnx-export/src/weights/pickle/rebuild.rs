//! The parts of tensors in a checkpoint's pickle: sizes, scales and zero points, and the storages to which the pickle
//! refers.
//!
//! Source: `torch/_utils.py` (`_rebuild_qtensor`) and `torch/serialization.py` (`persistent_load`).

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    globals::Global,
    value::{Arena, Node, Value, size},
};
use crate::weights::{
    Format, WeightsError,
    layout::{StorageRef, TensorRef, View},
    limits,
    quantized::{PerChannelRef, QuantizerRef, Values},
};

/// The kind of object to which the persistent ids of a pickle refer.
#[derive(Debug, Clone, Copy)]
pub(in crate::weights) enum Persistent<'p> {
    /// Storages in a zip checkpoint. An id is `('storage', class, key, location, numel)`.
    Storages,
    /// Storages in a legacy checkpoint. An id is `('storage', class, key, location, numel, view)`,
    /// in which the view may be `None`.
    ViewedStorages,
    /// Tensors, in the tar format. An id is a key of the map, as an integer or as its decimal text.
    Numbered(&'p BTreeMap<i64, TensorRef<'static>>),
    /// No objects: persistent ids are rejected.
    Refused,
}

/// Builds a quantizer from `(per_tensor_affine, scale, zero point)` or
/// `(per_channel_affine, scales, zero points, axis)`.
pub(super) fn quantizer<'a>(
    arena: &mut Arena<'a>,
    scheme: Value,
    at: usize,
) -> Result<QuantizerRef<'a>, WeightsError> {
    let read = match *arena.items(scheme).unwrap_or_default() {
        [kind, scale, zero_point] if is(arena, kind, Global::PerTensorAffine) => float(scale)
            .zip(int(zero_point))
            .map(|(scale, zero_point)| QuantizerRef::PerTensor { scale, zero_point }),
        [kind, scales, zero_points, axis] if is(arena, kind, Global::PerChannelAffine) => {
            let scales = values_of(arena, scales, float);
            let zero_points = values_of(arena, zero_points, int);
            let both = scales.zip(zero_points).zip(size(axis));
            both.map(|((scales, zero_points), axis)| {
                QuantizerRef::PerChannel(Box::new(PerChannelRef {
                    scales,
                    zero_points,
                    axis,
                }))
            })
        }
        _ => None,
    };
    let expected = "a quantization scheme, its scales and its zero points";
    read.ok_or_else(|| WeightsError::pickle(at, expected, "another value"))
}

fn is(arena: &Arena<'_>, value: Value, global: Global) -> bool {
    matches!(arena.node(value), Some(Node::Global(got)) if *got == global)
}

/// Returns scales or zero points from a tensor of one axis, or from a list as in pickles of the first versions of
/// torch. `None` if `value` is neither.
fn values_of<'a, T>(
    arena: &mut Arena<'a>,
    value: Value,
    convert: impl Fn(Value) -> Option<T>,
) -> Option<Values<'a, T>> {
    if let Some(items) = arena.take_list(value) {
        let items = items.into_iter();
        return items
            .map(convert)
            .collect::<Option<_>>()
            .map(Values::Listed);
    }
    match arena.node(value)? {
        Node::Tensor(tensor) if tensor.shape.len() == 1 && tensor.quantizer.is_none() => {
            Some(Values::Held(tensor.clone()))
        }
        _ => None,
    }
}

fn float(value: Value) -> Option<f64> {
    match value {
        Value::Float(x) => Some(x),
        Value::Int(n) => Some(n as f64),
        _ => None,
    }
}

fn int(value: Value) -> Option<i64> {
    match value {
        Value::Int(n) => Some(n),
        _ => None,
    }
}

/// Returns the items of a tuple as sizes. `None` if `tuple` is not a tuple or an item is not a non-negative integer.
pub(super) fn sizes(arena: &Arena<'_>, tuple: Value) -> Result<Option<Vec<usize>>, WeightsError> {
    let Some(items) = arena.items(tuple) else {
        return Ok(None);
    };
    let rank = items.len() as u64;
    limits::at_most(Format::Pickle, "axes of a tensor", limits::MAX_RANK, rank)?;
    Ok(items.iter().map(|item| size(*item)).collect())
}

/// Returns the storage or tensor that the persistent id `id` refers to.
///
/// # Errors
/// Returns [`WeightsError::Malformed`] if `id` refers to no object of this `kind`.
pub(super) fn persistent(
    arena: &mut Arena<'_>,
    id: Value,
    kind: Persistent<'_>,
    at: usize,
) -> Result<Value, WeightsError> {
    let found = match kind {
        Persistent::Storages => storage(arena, id, false).map(Node::Storage),
        Persistent::ViewedStorages => storage(arena, id, true).map(Node::Storage),
        Persistent::Numbered(tensors) => number(arena, id)
            .and_then(|id| tensors.get(&id).cloned())
            .map(Node::Tensor),
        Persistent::Refused => None,
    };
    let Some(node) = found else {
        let got = arena.describe(id);
        let expected = "the id of a storage or tensor that this pickle may refer to";
        return Err(WeightsError::pickle(at, expected, got));
    };
    Ok(arena.add(node))
}

fn storage<'a>(arena: &Arena<'a>, id: Value, viewed: bool) -> Option<StorageRef<'a>> {
    let [tag, class, key, _location, numel, rest @ ..] = arena.items(id)? else {
        return None;
    };
    if arena.text(*tag)? != "storage" {
        return None;
    }
    let (dtype, quantized) = match *arena.node(*class)? {
        Node::Global(Global::Storage(dtype)) => (dtype, false),
        Node::Global(Global::QuantizedStorage(dtype)) => (dtype, true),
        _ => return None,
    };
    let view = match rest {
        [] if !viewed => None,
        [Value::None] if viewed => None,
        [view] if viewed => {
            let [key, offset, numel] = arena.items(*view)? else {
                return None;
            };
            Some(View {
                key: key_of(arena, *key)?,
                offset: size(*offset)?,
                numel: size(*numel)?,
            })
        }
        _ => return None,
    };
    Some(StorageRef {
        key: key_of(arena, *key)?,
        dtype,
        quantized,
        numel: size(*numel)?,
        view,
    })
}

/// Returns the key of a storage as text; the first versions of torch write an integer. `None` if `key` is neither.
pub(in crate::weights) fn key_of<'a>(arena: &Arena<'a>, key: Value) -> Option<Cow<'a, str>> {
    match key {
        Value::Int(n) => Some(n.to_string().into()),
        _ => arena.text(key).map(Cow::Borrowed),
    }
}

/// Returns the number of a tensor in a tar checkpoint from the persistent id `id`, which is an
/// integer or its decimal text. `None` if `id` is neither.
fn number(arena: &Arena<'_>, id: Value) -> Option<i64> {
    match id {
        Value::Int(n) => Some(n),
        _ => arena.text(id)?.parse().ok(),
    }
}
