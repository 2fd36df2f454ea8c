//! Strict loading: tensors by state dict path, and one error with every difference.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::{Mismatch, Scope, StateDictError};
use crate::weights::StateDict;

/// Hands out the tensors of a checkpoint and records which were read.
///
/// A [`Model`](crate::Model) is made only by [`Loader::finish`], so no graph is written whose weights do not all
/// come from the checkpoint.
#[derive(Debug)]
pub struct Loader<'a> {
    state: &'a StateDict,
    taken: RefCell<BTreeMap<String, Vec<usize>>>,
    problems: RefCell<StateDictError>,
    pub(super) parameters: Cell<u64>,
}

impl<'a> Loader<'a> {
    /// Creates a loader of `state` that has handed out nothing yet.
    pub fn new(state: &'a StateDict) -> Self {
        Self {
            state,
            taken: RefCell::default(),
            problems: RefCell::default(),
            parameters: Cell::new(0),
        }
    }

    /// Returns the checkpoint's SHA-256, 64 hexadecimal digits.
    pub(crate) fn sha256(&self) -> &str {
        self.state.sha256()
    }

    /// Returns the scope of the whole state dict.
    pub fn root(&self) -> Scope<'_> {
        Scope {
            loader: self,
            path: String::new(),
            former: None,
        }
    }

    /// Ends loading and returns name and shape of every tensor that was read.
    pub fn into_shapes(self) -> BTreeMap<String, Vec<usize>> {
        self.taken.into_inner()
    }

    /// Returns the number of parameters read, buffers excluded.
    ///
    /// # Errors
    /// [`StateDictError`] with every missing, unexpected and misshapen tensor.
    pub(crate) fn check(self) -> Result<u64, StateDictError> {
        let mut problems = self.problems.into_inner();
        let taken = self.taken.into_inner();
        problems.unexpected = self
            .state
            .names()
            .filter(|name| !taken.contains_key(*name) && !name.ends_with("num_batches_tracked"))
            .map(str::to_owned)
            .collect();
        if problems == StateDictError::default() {
            Ok(self.parameters.get())
        } else {
            Err(problems)
        }
    }

    /// Reads the tensor `name`, or the tensor `former` if the checkpoint only has that one.
    pub(super) fn take(&self, name: String, former: Option<String>, shape: &[usize]) -> Vec<f32> {
        let old =
            former.filter(|old| self.state.get(&name).is_none() && self.state.get(old).is_some());
        let name = old.unwrap_or(name);
        let data = self.read(&name, shape);
        self.taken.borrow_mut().insert(name, shape.to_vec());
        let mut sizes = shape.iter();
        let elements = sizes.try_fold(1_usize, |n, size| n.checked_mul(*size));
        // A shape without a size gives too few elements, which the operator that reads them rejects.
        data.unwrap_or_else(|| vec![0.0; elements.unwrap_or_default()])
    }

    /// Reads the tensor `name`. Records a problem and returns `None` if it is missing, misshapen or
    /// cannot be read as f32.
    fn read(&self, name: &str, shape: &[usize]) -> Option<Vec<f32>> {
        let problems = &mut *self.problems.borrow_mut();
        let Some(tensor) = self.state.get(name) else {
            problems.missing.push(name.to_owned());
            return None;
        };
        let mut mismatch = |reason| {
            problems.misshapen.push(Mismatch {
                name: name.to_owned(),
                expected: shape.to_vec(),
                got: tensor.shape().to_vec(),
                reason,
            });
        };
        if tensor.shape() != shape {
            mismatch(None);
            return None;
        }
        match tensor.to_f32() {
            Ok(data) => Some(data),
            Err(error) => {
                mismatch(Some(error.to_string()));
                None
            }
        }
    }
}
