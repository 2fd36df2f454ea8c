//! A checkpoint while it is taken apart.

use std::collections::{BTreeMap, BTreeSet};

use super::{FAKE_QUANT, Layout, QatError, Trained, affine};
use crate::architecture::Architecture;
use crate::error::BuildError;
use crate::graph::{Mismatch, StateDictError};
use crate::quantize::Affine;
use crate::weights::{Quantizer, StateDict, Tensor, WeightsError};

/// Where a network in training observes what a module computes.
pub(super) const OBSERVER: &str = "activation_post_process";

/// A checkpoint, what was read of it, and what is wrong with it.
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

    /// Every pair of a module's scale and zero point.
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
                let affine = affine::read((name, scale), (&pair, zero_point))?;
                self.activations.insert(module.to_owned(), affine);
            }
        }
        Ok(())
    }

    /// The module whose output has the scale that `holder` holds.
    fn observed<'n>(&self, holder: &'n str) -> Option<&'n str> {
        let own_part = |module: &&str| {
            let last = module.rsplit('.').next();
            last != Some(OBSERVER) && last != Some(FAKE_QUANT)
        };
        match self.layout {
            Layout::Converted => Some(holder),
            // Observers have parts of the same name.
            Layout::Prepared => holder
                .strip_suffix(OBSERVER)?
                .strip_suffix('.')
                .filter(own_part),
        }
    }

    pub(super) fn expect_activation(&mut self, module: &str) {
        let holder = match self.layout {
            Layout::Converted => module.to_owned(),
            Layout::Prepared => format!("{module}.{OBSERVER}"),
        };
        if self.take(&format!("{holder}.scale")).is_none() {
            self.taken.insert(format!("{holder}.zero_point"));
        }
    }

    /// The tensor `name`; a problem where there is none.
    pub(super) fn take(&mut self, name: &str) -> Option<&'a Tensor> {
        self.taken.insert(name.to_owned());
        let tensor = self.state.get(name);
        if tensor.is_none() {
            self.problems.missing.push(name.to_owned());
        }
        tensor
    }

    /// The tensor `name` as f32; none where there is a problem with it, which [`Import::finish`] tells.
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

    pub(super) fn mismatch(&mut self, name: &str, shape: &[usize], reason: Option<String>) {
        let got = self.state.get(name).map(Tensor::shape).unwrap_or_default();
        self.problems.misshapen.push(Mismatch {
            name: name.to_owned(),
            expected: shape.to_vec(),
            got: got.to_vec(),
            reason,
        });
    }

    pub(super) fn insert(&mut self, module: &str, name: &str, tensor: Option<Tensor>) {
        if let Some(tensor) = tensor {
            self.tensors.insert(format!("{module}.{name}"), tensor);
        }
    }

    /// What no network computes with: counters, and the other parts of observers.
    fn is_spare(&self, name: &str) -> bool {
        let in_observer = || {
            name.split('.')
                .any(|part| part == OBSERVER || part == FAKE_QUANT)
        };
        name.ends_with("num_batches_tracked") || (self.layout == Layout::Prepared && in_observer())
    }

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
