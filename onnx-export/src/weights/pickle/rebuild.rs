//! The functions that a checkpoint's pickle may call, reimplemented without running any code of the pickle.
//!
//! Source: `torch/_utils.py` (`_rebuild_*`) and `torch/serialization.py` (`persistent_load`).

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    globals::Global,
    value::{Arena, Node, Value, size},
};
use crate::weights::{
    DType, Format, WeightsError,
    layout::{StorageRef, TensorRef},
    limits,
    quantized::{PerChannelRef, QuantizerRef, Values},
};

/// The kind of object to which the persistent ids of a pickle refer.
#[derive(Debug, Clone, Copy)]
pub(in crate::weights) enum Persistent<'p> {
    /// Storages, in zip and legacy checkpoints. An id is `('storage', class, key, location, numel[, view])`.
    Storages,
    /// Tensors, in the tar format. An id is a key of the map, as an integer or as its decimal text.
    Numbered(&'p BTreeMap<i64, TensorRef<'static>>),
    /// No objects: persistent ids are rejected.
    Refused,
}

/// Returns the result of `function(*arguments)`. `at` is the offset of the call in the pickle, for errors.
pub(super) fn call(
    arena: &mut Arena<'_>,
    function: Value,
    arguments: Value,
    at: usize,
) -> Result<Value, WeightsError> {
    let global = match arena.node(function) {
        Some(Node::Global(global)) => *global,
        // The result of calling an opaque object is opaque too.
        Some(Node::Opaque(name)) => Global::Opaque(name),
        _ => {
            let got = arena.describe(function);
            return Err(WeightsError::pickle(at, "a class or function to call", got));
        }
    };
    let Some(Node::Tuple(args)) = arena.node(arguments) else {
        let got = arena.describe(arguments);
        return Err(WeightsError::pickle(at, "a tuple of arguments", got));
    };
    match global {
        Global::Opaque(name) => Ok(arena.add(Node::Opaque(name))),
        Global::Dict => dict(arena, arguments, at),
        // The first argument, the wrapped tensor or the tuple of sizes, is the result.
        Global::Size | Global::Parameter => match args.first() {
            Some(value) => Ok(*value),
            None => Err(WeightsError::pickle(at, "an argument of the call", "none")),
        },
        Global::Tensor => {
            let tensor = tensor(arena, args, None, at)?;
            Ok(arena.add(Node::Tensor(tensor)))
        }
        Global::TensorV3 => {
            let dtype = match args.get(6).and_then(|value| arena.node(*value)) {
                Some(Node::Global(Global::DType(dtype))) => *dtype,
                _ => return Err(WeightsError::pickle(at, "a data type", "another value")),
            };
            let tensor = tensor(arena, args, Some(dtype), at)?;
            Ok(arena.add(Node::Tensor(tensor)))
        }
        Global::Quantized => {
            let scheme = args.get(4).copied().unwrap_or(Value::None);
            let mut tensor = tensor(arena, args, None, at)?;
            tensor.quantizer = Some(quantizer(arena, scheme, at)?);
            Ok(arena.add(Node::Tensor(tensor)))
        }
        Global::Storage(_)
        | Global::DType(_)
        | Global::PerTensorAffine
        | Global::PerChannelAffine => {
            let got = "a data type, a storage class or a quantization scheme";
            Err(WeightsError::pickle(at, "a function to call", got))
        }
    }
}

/// Returns the dictionary that a pickle makes with `OrderedDict()` (written by Python 3) or
/// `OrderedDict([[key, value], ..])` (written by Python 2).
fn dict(arena: &mut Arena<'_>, arguments: Value, at: usize) -> Result<Value, WeightsError> {
    let list = arena
        .items(arguments)
        .and_then(|args| args.first())
        .copied();
    let mut pairs = Vec::new();
    if let Some(list) = list
        && let Some(Node::List(items)) = arena.node_mut(list)
    {
        // The items are moved: copies would exhaust memory if a pickle passed the same list a
        // million times.
        for item in std::mem::take(items) {
            let Some([key, value]) = arena.items(item) else {
                let got = arena.describe(item);
                return Err(WeightsError::pickle(at, "a pair of key and value", got));
            };
            pairs.push((*key, *value));
        }
    }
    Ok(arena.add(Node::Dict(pairs)))
}

/// Builds a tensor from the arguments `(storage, offset, shape, strides, ..)`. If `dtype` is `None`, the data type
/// is that of the storage.
fn tensor<'a>(
    arena: &Arena<'a>,
    args: &[Value],
    dtype: Option<DType>,
    at: usize,
) -> Result<TensorRef<'a>, WeightsError> {
    let expected = "arguments (storage, offset, shape, strides), the last two tuples of sizes";
    let wrong = |got: &str| WeightsError::pickle(at, expected, got);
    let [storage, offset, shape, strides, ..] = args else {
        return Err(wrong("fewer arguments"));
    };
    let Some(Node::Storage(storage)) = arena.node(*storage) else {
        return Err(wrong(arena.describe(*storage)));
    };
    Ok(TensorRef {
        dtype: dtype.unwrap_or(storage.dtype),
        storage: storage.clone(),
        offset: size(*offset).ok_or_else(|| wrong(arena.describe(*offset)))?,
        shape: sizes(arena, *shape)?.ok_or_else(|| wrong("another value as the shape"))?,
        strides: sizes(arena, *strides)?.ok_or_else(|| wrong("another value as the strides"))?,
        quantizer: None,
    })
}

/// Builds a quantizer from `(per_tensor_affine, scale, zero point)` or
/// `(per_channel_affine, scales, zero points, axis)`.
fn quantizer<'a>(
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
    match arena.node_mut(value)? {
        // The items are moved: copies would exhaust memory if a pickle passed the same list a
        // million times.
        Node::List(items) => {
            let items = std::mem::take(items).into_iter();
            items
                .map(convert)
                .collect::<Option<_>>()
                .map(Values::Listed)
        }
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
fn sizes(arena: &Arena<'_>, tuple: Value) -> Result<Option<Vec<usize>>, WeightsError> {
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
        Persistent::Storages => storage(arena, id).map(Node::Storage),
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

fn storage<'a>(arena: &Arena<'a>, id: Value) -> Option<StorageRef<'a>> {
    let [tag, class, key, _location, numel, rest @ ..] = arena.items(id)? else {
        return None;
    };
    if arena.text(*tag)? != "storage" {
        return None;
    }
    let Node::Global(Global::Storage(dtype)) = *arena.node(*class)? else {
        return None;
    };
    let view = match rest {
        [] | [Value::None] => None,
        [view] => {
            let [_key, offset, numel] = arena.items(*view)? else {
                return None;
            };
            Some((size(*offset)?, size(*numel)?))
        }
        _ => return None,
    };
    Some(StorageRef {
        key: key_of(arena, *key)?,
        dtype,
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
