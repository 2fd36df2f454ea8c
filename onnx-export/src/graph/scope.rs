//! Paths of modules in a state dict, through which layers read their tensors.

use std::fmt::{Display, Write as _};

use super::Loader;

/// The path of a module in the state dict, through which a layer reads the module's tensors.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    pub(super) loader: &'a Loader<'a>,
    pub(super) path: String,
    /// Path of the module in older checkpoints. `None` if all checkpoints have the same path.
    pub(super) former: Option<String>,
}

impl Scope<'_> {
    /// Returns the scope of the child module `name`: the path of child `0` of `features` is
    /// `features.0`.
    #[must_use]
    pub fn sub(&self, name: impl Display) -> Self {
        Self {
            loader: self.loader,
            former: self.former.as_ref().map(|path| join(path, &name)),
            path: join(&self.path, &name),
        }
    }

    /// Returns this scope with a fallback for older checkpoints: a tensor that is missing under this path is
    /// read from the path of `former`.
    #[must_use]
    pub fn formerly(&self, former: &Self) -> Self {
        let former = Some(former.path.clone());
        Self {
            former,
            ..self.clone()
        }
    }

    /// Returns the path of the module, such as `features.0`; empty at the root of the state dict.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Reads the trained tensor `name` of the module, in C order, and adds its elements to the model's
    /// parameter count.
    ///
    /// Returns zeros if the tensor is missing, has another shape or is unusable, so that one walk over the
    /// architecture finds every problem; [`Loader::finish`] then fails.
    pub fn parameter(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        let sizes = shape.iter().map(|size| *size as u64);
        let elements = sizes.fold(1, u64::saturating_mul);
        let parameters = &self.loader.parameters;
        parameters.set(parameters.get().saturating_add(elements));
        self.buffer(name, shape)
    }

    /// Reads the untrained tensor `name` of the module, such as a running mean, in C order.
    ///
    /// Like [`Scope::parameter`], it returns zeros if the tensor cannot be used.
    /// It does not add to the model's parameter count.
    pub fn buffer(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        self.checked_buffer(name, shape, |_| None)
    }

    /// Reads an untrained tensor as [`Scope::buffer`] does. Its values are unusable if `check`
    /// returns a reason; [`Loader::finish`] then fails with the reason.
    pub(crate) fn checked_buffer(
        &self,
        name: &str,
        shape: &[usize],
        check: impl Fn(&[f32]) -> Option<String>,
    ) -> Vec<f32> {
        let former = self.former.as_ref().map(|path| join(path, &name));
        self.loader
            .take(join(&self.path, &name), former, shape, check)
    }
}

/// Returns the path of the child `name` of `path`: `features.0` for `features` and `0`, and `name`
/// alone for the empty path.
fn join(path: &str, name: &impl Display) -> String {
    let mut path = path.to_owned();
    if !path.is_empty() {
        path.push('.');
    }
    // Writing to a String cannot fail.
    let _ = write!(path, "{name}");
    path
}
