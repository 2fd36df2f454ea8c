//! Extracts the tensors and trained scales from a quantized checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use super::affine::{self, Named};
use super::{FAKE_QUANT, Layout, QatError, Trained};
use crate::architecture::Architecture;
use crate::error::BuildError;
use crate::graph::{Mismatch, StateDictError};
use crate::quantize::Affine;
use crate::weights::{Quantizer, StateDict, Tensor, WeightsError};

/// Name of the observer, the submodule in which quantization-aware training keeps the scale of a
/// module's output.
pub(super) const OBSERVER: &str = "activation_post_process";

/// State of the import: the checkpoint, the tensors and scales read so far, and the problems found.
pub(super) struct Import<'a> {
    pub(super) state: &'a StateDict,
    layout: Layout,
    taken: BTreeSet<String>,
    problems: StateDictError,
    tensors: BTreeMap<String, Tensor>,
    activations: BTreeMap<String, Affine>,
    pub(super) weights: BTreeMap<String, Quantizer>,
}

impl<'a> Import<'a> {
    pub(super) fn new(state: &'a StateDict, layout: Layout) -> Self {
        Self {
            state,
            layout,
            taken: BTreeSet::new(),
            problems: StateDictError::default(),
            tensors: BTreeMap::new(),
            activations: BTreeMap::new(),
            weights: BTreeMap::new(),
        }
    }

    /// Reads the scale and zero point of every module output for which the checkpoint stores a
    /// scale.
    ///
    /// # Errors
    /// [`QatError::Scale`] if a scale or zero point is out of range.
    pub(super) fn activations(&mut self) -> Result<(), QatError> {
        for (name, scale) in self.state.iter() {
            let Some(holder) = name.strip_suffix(".scale") else {
                continue;
            };
            let Some(module) = self.observed(holder) else {
                continue;
            };
            self.taken.insert(name.to_owned());
            let pair = format!("{holder}.zero_point");
            if let Some(zero_point) = self.take(&pair) {
                let scale = Named {
                    name,
                    tensor: scale,
                };
                let zero_point = Named {
                    name: &pair,
                    tensor: zero_point,
                };
                let affine = affine::read(scale, zero_point)?;
                self.activations.insert(module.to_owned(), affine);
            }
        }
        Ok(())
    }

    /// Returns the path of the module whose output has the scale `holder.scale`. In a converted
    /// checkpoint, that module is `holder` itself; in a prepared checkpoint, `holder` is an
    /// observer and the module is its parent. `None` if `holder` is in a prepared checkpoint and is
    /// not the observer of a module's output.
    fn observed<'n>(&self, holder: &'n str) -> Option<&'n str> {
        let own_part = |module: &&str| {
            let last = module.rsplit('.').next();
            last != Some(OBSERVER) && last != Some(FAKE_QUANT)
        };
        match self.layout {
            Layout::Converted => Some(holder),
            // Skips observers inside an observer or a weight's quantizer, which have the name of an
            // output's observer, too.
            Layout::Prepared => holder
                .strip_suffix(OBSERVER)?
                .strip_suffix('.')
                .filter(own_part),
        }
    }

    /// Marks the scale of the output of `module` as used. If the checkpoint lacks the scale,
    /// [`Import::finish`] reports it as missing.
    pub(super) fn expect_activation(&mut self, module: &str) {
        let holder = match self.layout {
            Layout::Converted => module.to_owned(),
            Layout::Prepared => format!("{module}.{OBSERVER}"),
        };
        if self.take(&format!("{holder}.scale")).is_none() {
            self.taken.insert(format!("{holder}.zero_point"));
        }
    }

    /// Returns the tensor `name` and marks it as used. `None` if the checkpoint lacks the tensor,
    /// which [`Import::finish`] then reports as missing.
    pub(super) fn take(&mut self, name: &str) -> Option<&'a Tensor> {
        self.taken.insert(name.to_owned());
        let tensor = self.state.get(name);
        if tensor.is_none() {
            self.problems.missing.push(name.to_owned());
        }
        tensor
    }

    /// Returns the tensor `name`, converted to f32 or dequantized, and marks it as used. `None` if
    /// the tensor is missing, has another shape than `shape` or cannot be read as f32;
    /// [`Import::finish`] then reports the problem.
    pub(super) fn float(
        &mut self,
        name: &str,
        shape: &[usize],
    ) -> Result<Option<Tensor>, WeightsError> {
        let Some(tensor) = self.take(name) else {
            return Ok(None);
        };
        if tensor.shape() != shape {
            self.mismatch(name, shape, None);
            return Ok(None);
        }
        match tensor.to_f32() {
            Ok(values) => Tensor::from_f32(shape, &values).map(Some),
            Err(error) => {
                self.mismatch(name, shape, Some(error.to_string()));
                Ok(None)
            }
        }
    }

    /// Records for [`Import::finish`] that the shape of the tensor `name` is not `shape`, or that
    /// its content cannot be used, as `reason` says.
    pub(super) fn mismatch(&mut self, name: &str, shape: &[usize], reason: Option<String>) {
        let got = self.state.get(name).map(Tensor::shape).unwrap_or_default();
        self.problems.misshapen.push(Mismatch {
            name: name.to_owned(),
            expected: shape.to_vec(),
            got: got.to_vec(),
            reason,
        });
    }

    /// Adds `tensor` to the fp32 network's tensors under the name `module.name`. Does nothing if
    /// `tensor` is `None`.
    pub(super) fn insert(&mut self, module: &str, name: &str, tensor: Option<Tensor>) {
        if let Some(tensor) = tensor {
            self.tensors.insert(format!("{module}.{name}"), tensor);
        }
    }

    /// Returns whether the tensor `name` may remain unused: it counts the training steps of a batch
    /// norm, or belongs to an observer or weight quantizer of a prepared checkpoint.
    fn is_spare(&self, name: &str) -> bool {
        let in_observer = || {
            name.split('.')
                .any(|part| part == OBSERVER || part == FAKE_QUANT)
        };
        name.ends_with("num_batches_tracked") || (self.layout == Layout::Prepared && in_observer())
    }

    /// Returns the extracted tensors and scales, together with the trained network's
    /// `architecture`.
    ///
    /// # Errors
    /// [`QatError::Build`] with every missing, unexpected and misshapen tensor.
    pub(super) fn finish(self, architecture: Architecture) -> Result<Trained, QatError> {
        let names = self.state.names();
        let unexpected = names
            .filter(|name| !self.taken.contains(*name) && !self.is_spare(name))
            .map(str::to_owned)
            .collect();
        let problems = StateDictError {
            unexpected,
            ..self.problems
        };
        if problems != StateDictError::default() {
            return Err(BuildError::StateDict(problems).into());
        }
        Ok(Trained {
            layout: self.layout,
            architecture,
            state: self.state.replaced(self.tensors),
            activations: self.activations,
            weights: self.weights,
        })
    }
}
