//! Strict loading: weights by state dict path, with every disagreement reported at once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::{self, Display, Write as _};

use thiserror::Error;

use crate::weights::StateDict;

/// Names listed per kind of problem before "and N more".
const LISTED: usize = 8;

/// A tensor whose shape or element type is not the architecture's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Its state dict path.
    pub name: String,
    /// The architecture's shape.
    pub expected: Vec<usize>,
    /// The checkpoint's shape.
    pub got: Vec<usize>,
    /// Why it cannot be read as floats, where that is the problem.
    pub reason: Option<String>,
}

/// A checkpoint that does not fit the architecture: all that is missing, unexpected and misshapen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Error)]
pub struct StateDictError {
    /// Tensors of the architecture that the checkpoint lacks.
    pub missing: Vec<String>,
    /// Tensors of the checkpoint that the architecture has no use for.
    pub unexpected: Vec<String>,
    /// Tensors of another shape.
    pub misshapen: Vec<Mismatch>,
}

impl StateDictError {
    /// The class count of the checkpoint, if that is all that differs: every misshapen tensor has
    /// `expected` rows where the checkpoint has one other number of them.
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

fn list(f: &mut fmt::Formatter<'_>, kind: &str, names: &[String]) -> fmt::Result {
    if names.is_empty() {
        return Ok(());
    }
    write!(
        f,
        "\n  {kind} ({}): {}",
        names.len(),
        names[..names.len().min(LISTED)].join(", ")
    )?;
    if names.len() > LISTED {
        write!(f, ", and {} more", names.len() - LISTED)?;
    }
    Ok(())
}

/// Hands out a checkpoint's tensors and keeps account of what was asked for.
#[derive(Debug)]
pub struct Loader<'a> {
    state: &'a StateDict,
    taken: RefCell<BTreeMap<String, Vec<usize>>>,
    problems: RefCell<StateDictError>,
    parameters: Cell<u64>,
}

impl<'a> Loader<'a> {
    /// A loader of `state` that has handed out nothing yet.
    pub fn new(state: &'a StateDict) -> Self {
        Self {
            state,
            taken: RefCell::default(),
            problems: RefCell::default(),
            parameters: Cell::new(0),
        }
    }

    /// The scope of the whole state dict.
    pub fn root(&self) -> Scope<'_> {
        Scope {
            loader: self,
            path: String::new(),
            former: None,
        }
    }

    /// Ends loading; gives the name and shape of every tensor that was asked for.
    pub fn into_shapes(self) -> BTreeMap<String, Vec<usize>> {
        self.taken.into_inner()
    }

    /// Ends loading; gives the number of parameters handed out, buffers excluded.
    ///
    /// # Errors
    /// [`StateDictError`] with every missing, unexpected and misshapen tensor. Batch norm's
    /// `num_batches_tracked` counts training steps and is never unexpected.
    pub fn finish(self) -> Result<u64, StateDictError> {
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

    /// Hands out `name`, or what older checkpoints call `former` where only that is there.
    fn take(&self, name: String, former: Option<String>, shape: &[usize]) -> Vec<f32> {
        let old =
            former.filter(|old| self.state.get(&name).is_none() && self.state.get(old).is_some());
        let name = old.unwrap_or(name);
        let found = self.state.get(&name);
        let problems = &mut *self.problems.borrow_mut();
        let elements = shape.iter().product();
        let data = match found {
            None => {
                problems.missing.push(name.clone());
                None
            }
            Some(tensor) if tensor.shape() != shape => {
                let got = tensor.shape().to_vec();
                let expected = shape.to_vec();
                problems.misshapen.push(Mismatch {
                    name: name.clone(),
                    expected,
                    got,
                    reason: None,
                });
                None
            }
            Some(tensor) => match tensor.to_f32() {
                Ok(data) => Some(data),
                Err(error) => {
                    let (expected, got) = (shape.to_vec(), shape.to_vec());
                    let reason = Some(error.to_string());
                    problems.misshapen.push(Mismatch {
                        name: name.clone(),
                        expected,
                        got,
                        reason,
                    });
                    None
                }
            },
        };
        self.taken.borrow_mut().insert(name, shape.to_vec());
        // Zeros stand in so that the rest of the architecture is still walked and all problems
        // are told together; `finish` then refuses the graph.
        data.unwrap_or_else(|| vec![0.0; elements])
    }
}

/// A module's path in the state dict, and the way to its tensors.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    loader: &'a Loader<'a>,
    path: String,
    former: Option<String>,
}

impl Scope<'_> {
    /// The child module `name`: `features` and `0` give `features.0`.
    #[must_use]
    pub fn sub(&self, name: impl Display) -> Self {
        Self {
            loader: self.loader,
            former: self.former.as_ref().map(|path| join(path, &name)),
            path: join(&self.path, &name),
        }
    }

    /// The same module, whose tensors older checkpoints hold under `former`'s path.
    #[must_use]
    pub fn formerly(&self, former: &Self) -> Self {
        let former = Some(former.path.clone());
        Self {
            former,
            ..self.clone()
        }
    }

    /// The path itself.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A trained tensor of the module. Problems are told by [`Loader::finish`]; zeros stand in until then.
    pub fn parameter(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        let elements = shape.iter().product::<usize>() as u64;
        self.loader
            .parameters
            .set(self.loader.parameters.get() + elements);
        self.buffer(name, shape)
    }

    /// A tensor that is not trained, such as a running mean; otherwise as [`Scope::parameter`].
    pub fn buffer(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        let former = self.former.as_ref().map(|path| join(path, &name));
        self.loader.take(join(&self.path, &name), former, shape)
    }
}

/// `features` and `0` give `features.0`.
fn join(path: &str, name: &impl Display) -> String {
    let mut path = path.to_owned();
    if !path.is_empty() {
        path.push('.');
    }
    // Writing to a String cannot fail.
    let _ = write!(path, "{name}");
    path
}
