//! A pickle machine for the pickles of weights.
//!
//! It runs the operations that Python's `pickle` writes for dictionaries, lists, numbers, text and the function
//! calls that [`call`] reimplements. No code is imported or run: each allowed class or function is a
//! [`globals::Global`], and a call is a `match` on it.
//! Protocols 2 to 5 are supported.
//!
//! Not here: protocols 0 and 1, extension codes, `__setstate__` (the state of an `OrderedDict` or an opaque object is
//! dropped, that of any other object is rejected),
//! pickled storages outside a checkpoint (`_load_from_bytes`) and pickled modules.

mod call;
pub(super) mod globals;
mod machine;
mod reader;
pub(super) mod rebuild;
pub(super) mod value;

#[cfg(test)]
mod tests;

pub(super) use self::rebuild::Persistent;
use self::{
    machine::{Flow, Machine},
    value::{Arena, Value},
};
use super::{Format, WeightsError, limits};

/// The values that a pickle describes, and the end of the pickle.
#[derive(Debug)]
pub(super) struct Pickled<'a> {
    /// All values that the pickle created.
    pub(super) arena: Arena<'a>,
    /// The top-level value, which Python's `pickle.load` would return.
    pub(super) root: Value,
    /// Offset of the first byte after the pickle.
    pub(super) end: usize,
}

/// Runs the pickle that starts at offset `start` of `bytes` and returns its values. `persistent`
/// determines what the persistent ids in the pickle refer to.
///
/// # Errors
/// Returns [`WeightsError`] if an operation or a name is not in the allow-list, a value has the
/// wrong type, a limit is exceeded, or the bytes end before the pickle does.
pub(super) fn load<'a>(
    bytes: &'a [u8],
    start: usize,
    persistent: Persistent<'_>,
) -> Result<Pickled<'a>, WeightsError> {
    let mut machine = Machine::new(bytes, start, persistent);
    for ops in 1.. {
        limits::at_most(Format::Pickle, "operations", limits::MAX_OPS, ops)?;
        if machine.step()? == Flow::Stop {
            break;
        }
    }
    let end = machine.offset();
    let (root, arena) = machine.finish()?;
    Ok(Pickled { arena, root, end })
}
