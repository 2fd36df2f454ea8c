//! Finds the state dict in a checkpoint.
//!
//! A plain checkpoint is a state dict. A training checkpoint keeps it under one of the keys [`HOLDERS`],
//! next to the optimizer state and the epoch. If a checkpoint holds the weights and their moving
//! average, the weights are taken. The prefixes of wrappers ([`PREFIXES`]) are removed if all names have
//! them. The packed weights and biases of quantized linear layers become tensors of the layer
//! ([`PACKED`]).
//!
//! Kept: prefixes such as the `model.` of Lightning, since a network may have a layer of this name.
//! [`fit`](crate::fit) removes them if the rest fits an architecture.

use std::collections::BTreeMap;

use super::{
    WeightsError,
    layout::TensorRef,
    pickle::{
        Pickled,
        value::{Node, Value},
    },
};
use crate::text::shown;

/// Keys of training checkpoints that hold a state dict, in order of preference.
const HOLDERS: &[&str] = &[
    "model",
    "state_dict",
    "model_state_dict",
    "net",
    "network",
    "model_ema",
    "state_dict_ema",
    "ema",
];

/// Prefixes that `DataParallel` and `torch.compile` add to every tensor name.
const PREFIXES: &[&str] = &["module.", "_orig_mod."];

/// Infix in the names of the tensors in a quantized linear layer, which packs its weight and bias
/// into a module of this name. In a layer `fc`, the tensors `fc._packed_params.weight` and
/// `fc._packed_params.bias`, or the items of the tuple `fc._packed_params._packed_params`, become
/// `fc.weight` and `fc.bias`.
/// Source: `torch/ao/nn/quantized/modules/linear.py`.
const PACKED: &str = "_packed_params.";

/// Name of the tuple `(weight, bias)` in the module [`PACKED`].
const PAIR: &str = "_packed_params";

/// Maximum number of nested levels of [`HOLDERS`] that are searched. Checkpoints have one level,
/// rarely two; the limit also ends the search in a dictionary that contains itself.
const MAX_DEPTH: usize = 3;

/// Maximum number of prefixes that are removed from the names of the tensors.
const MAX_PREFIXES: usize = 4;

/// Maximum number of top-level keys that [`WeightsError::NoTensors`] lists.
const LISTED: usize = 20;

/// Finds the state dict in a pickle and returns its tensors, by name without the prefixes of
/// wrappers.
///
/// # Errors
/// Returns [`WeightsError::NoTensors`], which lists the keys of the top level, if there is no state
/// dict.
pub(super) fn select<'p, 'a>(
    pickled: &'p Pickled<'a>,
) -> Result<BTreeMap<String, &'p TensorRef<'a>>, WeightsError> {
    let missing = || WeightsError::NoTensors {
        found: top_level(pickled),
    };
    let named = find(pickled, pickled.root, MAX_DEPTH).ok_or_else(missing)?;
    Ok(without_prefixes(named))
}

/// Returns the tensors with the prefixes of wrappers ([`PREFIXES`]) removed that all names have.
pub(super) fn without_prefixes<T>(mut named: BTreeMap<String, T>) -> BTreeMap<String, T> {
    // Each removal of a prefix copies all names, so the number of removals is bounded: wrappers
    // nest a few levels deep, but a hostile file could repeat a prefix thousands of times.
    for _ in 0..MAX_PREFIXES {
        let Some(prefix) = common_prefix(&named) else {
            break;
        };
        named = named
            .into_iter()
            .map(|(name, tensor)| (name[prefix.len()..].to_owned(), tensor))
            .collect();
    }
    named
}

/// Returns the tensors below the first key of [`HOLDERS`] in `dict` that has any, or else the
/// tensors directly in `dict`. `depth` is the number of levels to search. `None` if there are no
/// tensors.
fn find<'p, 'a>(
    pickled: &'p Pickled<'a>,
    dict: Value,
    depth: usize,
) -> Option<BTreeMap<String, &'p TensorRef<'a>>> {
    let depth = depth.checked_sub(1)?;
    let held = HOLDERS.iter().find_map(|key| {
        let inner = pickled.arena.lookup(dict, key)?;
        find(pickled, inner, depth)
    });
    held.or_else(|| {
        let named = tensors(pickled, dict);
        (!named.is_empty()).then_some(named)
    })
}

fn tensors<'p, 'a>(pickled: &'p Pickled<'a>, dict: Value) -> BTreeMap<String, &'p TensorRef<'a>> {
    let arena = &pickled.arena;
    let pairs = arena.pairs(dict).unwrap_or_default().iter();
    // The last of equal keys wins, also if its value is not a tensor.
    let items: BTreeMap<&str, &Value> = pairs
        .filter_map(|(key, value)| Some((arena.text(*key)?, value)))
        .collect();
    let mut named = BTreeMap::new();
    for (name, value) in items {
        let (layer, tensor) = match name.rsplit_once(PACKED) {
            Some((layer, tensor @ ("weight" | "bias" | PAIR))) => (layer, tensor),
            _ => ("", name),
        };
        match arena.node(*value) {
            Some(Node::Tensor(held)) => {
                named.insert(format!("{layer}{tensor}"), held);
            }
            // In a layer without bias, the second item is Python's `None` and is skipped.
            Some(Node::Tuple(pair)) if tensor == PAIR => {
                for (name, part) in ["weight", "bias"].iter().zip(pair) {
                    if let Some(Node::Tensor(held)) = arena.node(*part) {
                        named.insert(format!("{layer}{name}"), held);
                    }
                }
            }
            _ => {}
        }
    }
    named
}

fn common_prefix<T>(named: &BTreeMap<String, T>) -> Option<&'static str> {
    let all = |prefix: &&&str| named.keys().all(|name| name.starts_with(**prefix));
    PREFIXES.iter().find(all).copied()
}

fn top_level(pickled: &Pickled<'_>) -> Vec<String> {
    let arena = &pickled.arena;
    let Some(pairs) = arena.pairs(pickled.root) else {
        return vec![arena.describe(pickled.root).to_owned()];
    };
    if pairs.is_empty() {
        return vec!["an empty dict".to_owned()];
    }
    let mut found: Vec<_> = pairs
        .iter()
        .take(LISTED)
        .map(|(key, value)| {
            let key = arena.text(*key).unwrap_or_else(|| arena.describe(*key));
            format!("`{}` ({})", shown(key), arena.describe(*value))
        })
        .collect();
    if pairs.len() > LISTED {
        found.push(format!("and {} more", pairs.len() - LISTED));
    }
    found
}
