//! Extraction of tensors and scales from a quantized checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use super::affine::{self, Named};
use super::{FAKE_QUANT, Layout, QatError, Trained};
use crate::architecture::Architecture;
use crate::error::BuildError;
use crate::graph::{Mismatch, StateDictError};
use crate::quantize::Affine;
use crate::weights::{Quantizer, StateDict, Tensor, WeightsError};

/// Name of the submodule with which quantization-aware training observes a module's output.
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

    /// Reads the scale and zero point of every module's output that the checkpoint has.
    ///
    /// # Errors
    /// [`QatError::Scale`] for a scale or zero point out of range.
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

    /// Returns the module to whose output the scale in `holder` belongs: `holder` itself in a converted checkpoint,
    /// the parent of the observer `holder` in a prepared one. `None` if `holder` is not the observer of an output.
    fn observed<'n>(&self, holder: &'n str) -> Option<&'n str> {
        let own_part = |module: &&str| {
            let last = module.rsplit('.').next();
            last != Some(OBSERVER) && last != Some(FAKE_QUANT)
        };
        match self.layout {
            Layout::Converted => Some(holder),
            // Observers have submodules of the same name.
            Layout::Prepared => holder
                .strip_suffix(OBSERVER)?
                .strip_suffix('.')
                .filter(own_part),
        }
    }

    /// Marks the scale of a module's output as used, or records for [`Import::finish`] that it is missing.
    pub(super) fn expect_activation(&mut self, module: &str) {
        let holder = match self.layout {
            Layout::Converted => module.to_owned(),
            Layout::Prepared => format!("{module}.{OBSERVER}"),
        };
        if self.take(&format!("{holder}.scale")).is_none() {
            self.taken.insert(format!("{holder}.zero_point"));
        }
    }

    /// Returns the tensor `name`. `None` if the checkpoint lacks it, which is recorded for [`Import::finish`].
    pub(super) fn take(&mut self, name: &str) -> Option<&'a Tensor> {
        self.taken.insert(name.to_owned());
        let tensor = self.state.get(name);
        if tensor.is_none() {
            self.problems.missing.push(name.to_owned());
        }
        tensor
    }

    /// Returns the tensor `name` as f32. `None` if it is missing or has another shape or data type, which is recorded
    /// as a problem for [`Import::finish`].
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

    /// Records that a tensor does not have the expected shape or data type.
    pub(super) fn mismatch(&mut self, name: &str, shape: &[usize], reason: Option<String>) {
        let got = self.state.get(name).map(Tensor::shape).unwrap_or_default();
        self.problems.misshapen.push(Mismatch {
            name: name.to_owned(),
            expected: shape.to_vec(),
            got: got.to_vec(),
            reason,
        });
    }

    /// Adds the tensor `module.name` of the fp32 network. Does nothing for `None`.
    pub(super) fn insert(&mut self, module: &str, name: &str, tensor: Option<Tensor>) {
        if let Some(tensor) = tensor {
            self.tensors.insert(format!("{module}.{name}"), tensor);
        }
    }

    /// Returns whether a tensor may stay unused: it is a counter of batch norms or belongs to an observer.
    fn is_spare(&self, name: &str) -> bool {
        let in_observer = || {
            name.split('.')
                .any(|part| part == OBSERVER || part == FAKE_QUANT)
        };
        name.ends_with("num_batches_tracked") || (self.layout == Layout::Prepared && in_observer())
    }

    /// Returns the extracted tensors and scales, with `architecture`.
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
