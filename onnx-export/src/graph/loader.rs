//! Strict loading of a checkpoint: tensors are read by their path in the state dict, and one error
//! lists every missing, unexpected and misshapen tensor.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::{Mismatch, Scope, StateDictError};
use crate::finite::not_finite;
use crate::weights::{StateDict, Tensor};

/// Reads the tensors of a checkpoint for the builders of layers, and records which tensors were
/// requested.
///
/// Only [`Loader::finish`] and [`Loader::finish_stages`] create a [`Model`](crate::Model). They fail if a
/// requested tensor is not in the checkpoint, so every weight of a written graph comes from the checkpoint.
#[derive(Debug)]
pub struct Loader<'a> {
    state: &'a StateDict,
    /// Prefix that the names of the checkpoint have before the architecture's names.
    prefix: &'a str,
    /// Whether only names and shapes are compared. All tensors are then read as zeros.
    compares: bool,
    /// Shape with which each tensor was requested, by the name of the tensor.
    taken: RefCell<BTreeMap<String, Vec<usize>>>,
    /// Problems found so far: tensors that were requested but are missing or misshapen.
    problems: RefCell<StateDictError>,
    /// Number of elements of the trained tensors that were requested; tensors that are not trained
    /// (buffers) do not count.
    pub(super) parameters: Cell<u64>,
}

impl<'a> Loader<'a> {
    /// Creates a loader for the tensors of `state`.
    pub fn new(state: &'a StateDict) -> Self {
        Self {
            state,
            prefix: "",
            compares: false,
            taken: RefCell::default(),
            problems: RefCell::default(),
            parameters: Cell::new(0),
        }
    }

    /// Creates a loader that compares names and shapes with those of `state`, whose names start with
    /// `prefix`. All tensors are read as zeros.
    pub(crate) fn comparing(state: &'a StateDict, prefix: &'a str) -> Self {
        Self {
            prefix,
            compares: true,
            ..Self::new(state)
        }
    }

    /// Returns the checkpoint's SHA-256, 64 hexadecimal digits.
    pub(crate) fn sha256(&self) -> &str {
        self.state.sha256()
    }

    /// Returns the scope at the root of the state dict, whose path is empty.
    pub fn root(&self) -> Scope<'_> {
        Scope {
            loader: self,
            path: String::new(),
            former: None,
        }
    }

    /// Ends loading and returns the name and requested shape of every tensor that was requested, whether or
    /// not the checkpoint has it.
    pub fn into_shapes(self) -> BTreeMap<String, Vec<usize>> {
        self.taken.into_inner()
    }

    /// Ends loading and returns the number of elements of the trained tensors that were requested;
    /// tensors that are not trained (buffers) do not count.
    ///
    /// # Errors
    /// [`StateDictError`] that lists all missing, unexpected and misshapen tensors, if there are
    /// any.
    pub(crate) fn check(self) -> Result<u64, StateDictError> {
        let parameters = self.parameters.get();
        let (problems, _) = self.into_comparison();
        if problems == StateDictError::default() {
            Ok(parameters)
        } else {
            Err(problems)
        }
    }

    /// Ends loading and returns all missing, unexpected and misshapen tensors, and the shape with
    /// which each tensor was requested. The names of missing and misshapen tensors are without the
    /// prefix, those of unexpected tensors are complete.
    pub(crate) fn into_comparison(self) -> (StateDictError, BTreeMap<String, Vec<usize>>) {
        let mut problems = self.problems.into_inner();
        let taken = self.taken.into_inner();
        let is_taken = |name: &str| {
            let name = name.strip_prefix(self.prefix);
            name.is_some_and(|name| taken.contains_key(name))
        };
        let names = self.state.names();
        problems.unexpected = names
            .filter(|name| !is_taken(name) && !name.ends_with("num_batches_tracked"))
            .map(str::to_owned)
            .collect();
        (problems, taken)
    }

    /// Returns the tensor `name` of the checkpoint.
    fn tensor(&self, name: &str) -> Option<&'a Tensor> {
        if self.prefix.is_empty() {
            return self.state.get(name);
        }
        self.state.get(&format!("{}{name}", self.prefix))
    }

    /// Reads the tensor `name`, or the tensor `former` if the checkpoint has `former` but not
    /// `name`. Returns zeros if the tensor cannot be read, or if `check` returns a reason why its
    /// values cannot be used; the problem is then recorded.
    pub(super) fn take(
        &self,
        name: String,
        former: Option<String>,
        shape: &[usize],
        check: impl Fn(&[f32]) -> Option<String>,
    ) -> Vec<f32> {
        let old = former.filter(|old| self.tensor(&name).is_none() && self.tensor(old).is_some());
        let name = old.unwrap_or(name);
        let data = self.read(&name, shape, check);
        self.taken.borrow_mut().insert(name, shape.to_vec());
        let mut sizes = shape.iter();
        let elements = sizes.try_fold(1_usize, |n, size| n.checked_mul(*size));
        // If the element count overflows, the result is empty, and the method of `Graph` that adds
        // the tensor returns an error.
        data.unwrap_or_else(|| vec![0.0; elements.unwrap_or_default()])
    }

    /// Reads the tensor `name`. Records a problem and returns `None` if it is missing, misshapen,
    /// cannot be read as f32, has NaN or infinite values, or fails `check`.
    fn read(
        &self,
        name: &str,
        shape: &[usize],
        check: impl Fn(&[f32]) -> Option<String>,
    ) -> Option<Vec<f32>> {
        let problems = &mut *self.problems.borrow_mut();
        let Some(tensor) = self.tensor(name) else {
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
        if self.compares {
            return None;
        }
        let data = tensor.to_f32().map_err(|error| error.to_string());
        let checked = data.and_then(|data| {
            let reason = not_finite(data.iter().copied(), shape).or_else(|| check(&data));
            reason.map_or(Ok(data), Err)
        });
        checked.map_err(|reason| mismatch(Some(reason))).ok()
    }
}
