//! Says whether a checkpoint fits an architecture by the names and shapes of its tensors, and why it
//! almost fits. No values are read.

use std::collections::BTreeSet;

use crate::architecture::Architecture;
use crate::assemble::compare;
use crate::error::BuildError;
use crate::graph::StateDictError;
use crate::weights::StateDict;

/// Maximum number of levels of a prefix that are tried, and of prefixes that are guessed from a
/// tensor's name. Each try walks over the whole network.
const MAX_TRIES: usize = 4;

/// A reason why a checkpoint does not fit although all tensors of the network are in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlmostFits {
    /// The tensors with the prefix `prefix` fit, but the checkpoint also has others.
    Others {
        /// Start of the names of the tensors that fit, with a dot at the end.
        prefix: String,
        /// Name of a tensor without the prefix.
        other: String,
    },
    /// One module is a `Sequential` that contains the network's module, as after
    /// `model.classifier[3] = Sequential(Dropout(), Linear())`. The names do not say what the other
    /// modules of the `Sequential` compute.
    Nested {
        /// Path of the module in the checkpoint, such as `classifier.3.1`.
        module: String,
        /// Path that the module must have, such as `classifier.3`.
        expected: String,
    },
}

/// Returns how the names and shapes of the tensors in `state` differ from those of `architecture`.
/// The result is empty if the checkpoint fits. A tensor of integers counts as a fit.
///
/// # Errors
/// [`BuildError::Argument`] if an argument of `architecture` is out of range.
pub fn differences(
    state: &StateDict,
    architecture: &Architecture,
) -> Result<StateDictError, BuildError> {
    Ok(compare(state, "", architecture)?.0)
}

/// Removes the prefix that all names in `state` share, such as Lightning's `model.`, if the rest are
/// exactly the names of `architecture`. Returns the state dict and the prefix, or the unchanged state
/// dict and `None`.
///
/// # Errors
/// [`BuildError::Argument`] if an argument of `architecture` is out of range.
pub fn strip_prefix(
    state: StateDict,
    architecture: &Architecture,
) -> Result<(StateDict, Option<String>), BuildError> {
    let prefixes = common_prefixes(&state);
    // A network may have a module to which all of its tensors belong.
    if prefixes.is_empty() || differences(&state, architecture)?.has_all_names() {
        return Ok((state, None));
    }
    for prefix in prefixes {
        if compare(&state, &prefix, architecture)?.0.has_all_names() {
            return Ok((state.without_prefix(&prefix), Some(prefix)));
        }
    }
    Ok((state, None))
}

/// Returns why a checkpoint that does not fit `architecture` almost does. `None` if it does not
/// contain the tensors of the network under other names, or if that is ambiguous.
///
/// # Errors
/// [`BuildError::Argument`] if an argument of `architecture` is out of range.
pub fn almost(
    state: &StateDict,
    architecture: &Architecture,
) -> Result<Option<AlmostFits>, BuildError> {
    let mut prefixes = vec![String::new()];
    prefixes.extend(common_prefixes(state));
    let (found, _) = compare(state, "", architecture)?;
    if let Some(missing) = found.missing.first() {
        let ending = format!(".{missing}");
        let guessed = state.names().filter_map(|name| name.strip_suffix(&ending));
        prefixes.extend(guessed.take(MAX_TRIES).map(|prefix| format!("{prefix}.")));
    }
    let prefixes: BTreeSet<String> = prefixes.into_iter().collect();
    let mut reasons = Vec::new();
    for prefix in prefixes {
        reasons.extend(reason(state, prefix, architecture)?);
    }
    Ok(reasons.pop().filter(|_| reasons.is_empty()))
}

/// Returns why the tensors of `state` with the prefix `prefix` almost fit.
fn reason(
    state: &StateDict,
    prefix: String,
    architecture: &Architecture,
) -> Result<Option<AlmostFits>, BuildError> {
    let (found, shapes) = compare(state, &prefix, architecture)?;
    let classes = architecture.num_classes;
    let only_classes = StateDictError {
        misshapen: found.misshapen.clone(),
        ..StateDictError::default()
    };
    if !found.misshapen.is_empty() && only_classes.num_classes_hint(classes).is_none() {
        return Ok(None);
    }
    if found.missing.is_empty() {
        let inside = found
            .unexpected
            .iter()
            .any(|name| name.starts_with(&prefix));
        let other = found.unexpected.into_iter().next().filter(|_| !inside);
        return Ok(other.map(|other| AlmostFits::Others { prefix, other }));
    }
    let Some((expected, module)) = nested(&found, &prefix) else {
        return Ok(None);
    };
    // The first axis of a classifier is the number of classes, of which the error of the builder says
    // more.
    let columns = |shape: &[usize]| shape.get(1..).map(<[usize]>::to_vec);
    let fits = found.missing.iter().all(|name| {
        let leaf = name.strip_prefix(&expected).unwrap_or_default();
        let tensor = state.get(&format!("{module}{leaf}"));
        let wanted = shapes.get(name).and_then(|shape| columns(shape));
        wanted.is_some() && tensor.and_then(|tensor| columns(tensor.shape())) == wanted
    });
    let expected = format!("{prefix}{expected}");
    Ok(fits.then_some(AlmostFits::Nested { module, expected }))
}

/// Returns the path of the module to which all missing tensors belong, and the path of the only
/// module one level deeper to which all unexpected tensors belong, with the same tensors. `None` if
/// there are no such modules.
fn nested(found: &StateDictError, prefix: &str) -> Option<(String, String)> {
    let (missing, unexpected) = (split(&found.missing)?, split(&found.unexpected)?);
    let (inner, index) = unexpected.0.rsplit_once('.')?;
    let is_index = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
    let same = inner.strip_prefix(prefix) == Some(missing.0) && missing.1 == unexpected.1;
    (is_index && same).then(|| (missing.0.to_owned(), unexpected.0.to_owned()))
}

/// Splits names of tensors into the module that all of them belong to and their names in the module.
fn split(names: &[String]) -> Option<(&str, BTreeSet<&str>)> {
    let (module, _) = names.first()?.rsplit_once('.')?;
    let leaves = names.iter().map(|name| {
        let (of, leaf) = name.rsplit_once('.')?;
        (of == module).then_some(leaf)
    });
    Some((module, leaves.collect::<Option<_>>()?))
}

/// Returns the prefixes that all names share and that end in a dot, the shortest first.
fn common_prefixes(state: &StateDict) -> Vec<String> {
    // Names are sorted, so all of them share what the first and the last share.
    let (Some(first), Some(last)) = (state.names().next(), state.names().last()) else {
        return Vec::new();
    };
    let shared = first
        .bytes()
        .zip(last.bytes())
        .take_while(|(a, b)| a == b)
        .count();
    let dots = first.match_indices('.').map(|(at, _)| at + 1);
    let prefixes = dots.filter(|end| *end <= shared).take(MAX_TRIES);
    prefixes.map(|end| first[..end].to_owned()).collect()
}
