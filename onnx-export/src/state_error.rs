//! The error of a checkpoint that does not fit the architecture.

use std::fmt::{self, Display};

use thiserror::Error;

/// Maximum number of tensors that the message names per kind of problem; the others are only counted.
const LISTED: usize = 8;

/// A tensor of the checkpoint whose shape differs from the architecture's, or whose data type cannot be read
/// as f32.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// State dict path of the tensor.
    pub name: String,
    /// Shape in the architecture.
    pub expected: Vec<usize>,
    /// Shape in the checkpoint.
    pub got: Vec<usize>,
    /// Why the tensor cannot be read as f32; `None` if the shapes differ.
    pub reason: Option<String>,
}

/// Every tensor in which a checkpoint differs from the architecture.
#[derive(Debug, Clone, Default, PartialEq, Eq, Error)]
pub struct StateDictError {
    /// Tensors that the architecture reads and the checkpoint lacks.
    pub missing: Vec<String>,
    /// Tensors of the checkpoint that the architecture does not read.
    pub unexpected: Vec<String>,
    /// Tensors whose shape differs from the architecture's or that cannot be read as f32.
    pub misshapen: Vec<Mismatch>,
}

impl StateDictError {
    /// Returns the checkpoint's class count if it is the only difference from the architecture, whose class
    /// count is `expected`: every misshapen tensor has `expected` rows in the architecture, and all of them
    /// have the returned count in the checkpoint. `None` if anything else differs.
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
        let alone = self.missing.is_empty() && self.unexpected.is_empty();
        (only_rows && alone && first != expected).then_some(first)
    }
}

impl Display for StateDictError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the checkpoint does not fit the architecture")?;
        list(f, "missing", &self.missing)?;
        list(f, "unexpected", &self.unexpected)?;
        let misshapen: Vec<String> = self.misshapen.iter().map(Mismatch::to_string).collect();
        list(f, "misshapen", &misshapen)
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
        match reason {
            Some(reason) => write!(f, "{name}: {reason}"),
            None => write!(f, "{name}: expected {expected:?}, got {got:?}"),
        }
    }
}

/// Writes a line with the first [`LISTED`] of `names` under the heading `kind`, if there are any.
fn list(f: &mut fmt::Formatter<'_>, kind: &str, names: &[String]) -> fmt::Result {
    if names.is_empty() {
        return Ok(());
    }
    let shown = names[..names.len().min(LISTED)].join(", ");
    write!(f, "\n  {kind} ({}): {shown}", names.len())?;
    if names.len() > LISTED {
        write!(f, ", and {} more", names.len() - LISTED)?;
    }
    Ok(())
}
