//! The error of a checkpoint that does not fit the architecture.

use std::fmt::{self, Display};

use thiserror::Error;

use crate::text::{shown, shown_error};

/// Maximum number of tensors that the message of [`StateDictError`] names for each kind of problem.
/// Further tensors are only counted.
const LISTED: usize = 5;

/// A tensor of the checkpoint that the architecture cannot use: its shape differs from the
/// architecture's, or its elements are unsuitable, such as a data type that cannot be read as f32.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// State dict path of the tensor.
    pub name: String,
    /// Shape that the architecture requires of the tensor.
    pub expected: Vec<usize>,
    /// Shape of the tensor in the checkpoint.
    pub got: Vec<usize>,
    /// Reason why the elements of the tensor are unsuitable; `None` if the problem is its shape.
    pub reason: Option<String>,
}

/// Every tensor in which a checkpoint differs from the architecture.
#[derive(Debug, Clone, Default, PartialEq, Eq, Error)]
pub struct StateDictError {
    /// Names of the tensors that the architecture reads and the checkpoint lacks.
    pub missing: Vec<String>,
    /// Names of the tensors in the checkpoint that the architecture does not read.
    pub unexpected: Vec<String>,
    /// Tensors whose shape differs from the architecture's or whose elements are unsuitable.
    pub misshapen: Vec<Mismatch>,
}

impl StateDictError {
    /// Returns whether no tensor is missing or unexpected.
    pub fn has_all_names(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty()
    }

    /// Returns the class count of the checkpoint if it explains every difference from an
    /// architecture with `expected` classes: no tensor is missing or unexpected, and axis 0 of
    /// every misshapen tensor has the length `expected` in the architecture and one other length,
    /// the returned one, in the checkpoint. `None` if anything else differs.
    pub fn num_classes_hint(&self, expected: usize) -> Option<usize> {
        let rows = |shape: &[usize]| shape.first().copied();
        let first = rows(&self.misshapen.first()?.got)?;
        let only_rows = self.misshapen.iter().all(|mismatch| {
            let Mismatch {
                expected: wanted,
                got,
                ..
            } = mismatch;
            rows(wanted) == Some(expected)
                && rows(got) == Some(first)
                && wanted.get(1..) == got.get(1..)
        });
        (only_rows && self.has_all_names() && first != expected).then_some(first)
    }
}

impl Display for StateDictError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unusable, misshapen): (Vec<_>, Vec<_>) = self
            .misshapen
            .iter()
            .partition(|tensor| tensor.reason.is_some());
        let fits = self.has_all_names() && misshapen.is_empty();
        f.write_str(if fits {
            "the checkpoint has tensors that cannot be used"
        } else {
            "the checkpoint does not fit the architecture"
        })?;
        list(f, "missing", &self.missing, |name| shown(name))?;
        list(f, "unexpected", &self.unexpected, |name| shown(name))?;
        list(f, "misshapen", &misshapen, ToString::to_string)?;
        list(f, "unusable", &unusable, ToString::to_string)
    }
}

impl Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            expected,
            got,
            reason,
        } = self;
        let name = shown(name);
        match reason {
            Some(reason) => write!(f, "{name}: {}", shown_error(reason)),
            None => write!(f, "{name} has shape {got:?}, expected {expected:?}"),
        }
    }
}

/// Writes a line with the problem `kind`, the number of `tensors` and the first [`LISTED`] of them,
/// each as the text that `show` returns. Writes nothing if `tensors` is empty.
fn list<T>(
    f: &mut fmt::Formatter<'_>,
    kind: &str,
    tensors: &[T],
    show: impl Fn(&T) -> String,
) -> fmt::Result {
    if tensors.is_empty() {
        return Ok(());
    }
    let listed: Vec<String> = tensors.iter().take(LISTED).map(show).collect();
    let (count, listed) = (tensors.len(), listed.join(", "));
    write!(f, "\n  {kind} tensors ({count}): {listed}")?;
    if count > LISTED {
        write!(f, ", and {} more", count - LISTED)?;
    }
    Ok(())
}
