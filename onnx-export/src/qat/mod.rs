//! Networks that were trained for int8: torchvision's `models.quantization`, as `convert` leaves them.
//!
//! Such a checkpoint has no batch norms: they are folded into quantised convolutions, each with its
//! bias and the scale of its output. [`import`] gives the float network's tensors, so that the
//! architecture loads them as any others, and beside them the scales that training chose.
//!
//! The float network is the architecture's own: where it has `ReLU6`, torchvision's quantised one has a
//! plain `ReLU`.
//!
//! Not here: checkpoints in the middle of that training (`prepare_qat`), which hold floats and
//! observers, and what is built of the scales.

mod affine;

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

pub use affine::Affine;

use crate::check::argument;
use crate::error::BuildError;
use crate::graph::{Mismatch, StateDictError};
use crate::manifest::{Architecture, Backbone};
use crate::model::tensor_shapes;
use crate::weights::{Quantizer, StateDict, Tensor, WeightsError};

/// The module that quantises the network's input.
pub const INPUT: &str = "quant";

/// A quantised checkpoint, taken apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// The float network's tensors, all f32: weights and biases as dequantised, batch norms that change
    /// nothing but add the bias. Has the digest of the checkpoint.
    pub state: StateDict,
    /// The output of each module by its path: convolutions (with the `ReLU` fused into them) and linear
    /// layers, hard swishes (`features.0.2`), sums and products (`features.1.skip_add`), and [`INPUT`].
    ///
    /// A hard sigmoid is not listed: its scale is always 1/256 and its zero point 0. An addition that a
    /// block has but does not use is, with scale 1 and zero point 0.
    pub activations: BTreeMap<String, Affine>,
    /// How the weight of each convolution and linear layer was quantised, by the path of the layer.
    pub weights: BTreeMap<String, Quantizer>,
}

/// A checkpoint that is no quantised one of the architecture.
#[derive(Debug, Error)]
pub enum QatError {
    /// An architecture out of range, or other tensors than its quantised form has, by their names in the
    /// checkpoint.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A tensor that cannot be made.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The scale or zero point of an output that 8 bits cannot have.
    #[error("`{name}`: expected {expected}, got {got}")]
    Activation {
        /// The tensor's name.
        name: String,
        /// What it holds in a checkpoint of torch.
        expected: &'static str,
        /// What it holds.
        got: String,
    },
    /// A convolution of the float network without bias, and with no batch norm where torchvision has it.
    #[error("`{layer}` is not quantised as torchvision does: no batch norm follows it")]
    NoNorm {
        /// Path of the convolution.
        layer: String,
    },
}

/// Whether the checkpoint holds quantised tensors, and so needs [`import`].
pub fn is_quantized(state: &StateDict) -> bool {
    state.iter().any(|(_, tensor)| tensor.quantizer().is_some())
}

/// Reads the quantised form of `architecture` out of `state`.
///
/// Source: `torchvision.models.quantization`, `torch.ao.nn.quantized`.
///
/// # Errors
/// [`QatError::Build`] with every missing, unexpected and misshapen tensor, and the others.
pub fn import(state: &StateDict, architecture: &Architecture) -> Result<Trained, QatError> {
    let variance = identity_variance(architecture)?;
    let shapes = tensor_shapes(architecture)?;
    let mut import = Import::new(state);
    import.activations()?;
    import.expect_activation(INPUT);
    for (name, shape) in &shapes {
        let Some(layer) = name.strip_suffix(".weight") else {
            continue;
        };
        // Norms are of rank 1.
        let &[channels, _, ..] = shape.as_slice() else {
            continue;
        };
        import.layer(layer, shape)?;
        let bias = import.float(&format!("{layer}.bias"), &[channels])?;
        if shapes.contains_key(&format!("{layer}.bias")) {
            import.insert(layer, "bias", bias);
            continue;
        }
        let norm = norm_after(layer, &shapes)?;
        import.insert(&norm, "bias", bias);
        for (name, value) in [
            ("weight", 1.0),
            ("running_mean", 0.0),
            ("running_var", variance),
        ] {
            let all = Tensor::from_f32(&[channels], &vec![value; channels])?;
            import.insert(&norm, name, Some(all));
        }
    }
    import.finish()
}

/// The variance of a batch norm that changes nothing: 1 once epsilon is added, also when rounded.
fn identity_variance(architecture: &Architecture) -> Result<f32, BuildError> {
    let eps = match &architecture.backbone {
        Backbone::MobilenetV3(config) => config.bn_eps,
        Backbone::MobilenetV2(config) => config.bn_eps,
        Backbone::Resnet(config) => config.bn_eps,
        Backbone::EfficientnetLite0(config) => config.bn_eps,
    };
    let variance = 1.0 - eps;
    if variance + eps == 1.0 {
        return Ok(variance);
    }
    Err(argument("bn_eps", "a small number", &eps))
}

/// The batch norm after a convolution: `X.0` has `X.1`, `X.conv1` has `X.bn1`.
fn norm_after(conv: &str, shapes: &BTreeMap<String, Vec<usize>>) -> Result<String, QatError> {
    let start = conv.rfind('.').map_or(0, |dot| dot + 1);
    let (parent, own) = conv.split_at(start);
    let numbered = own.parse().ok().map(|n: usize| (n + 1).to_string());
    let norm = numbered.or_else(|| Some(format!("bn{}", own.strip_prefix("conv")?)));
    norm.map(|norm| format!("{parent}{norm}"))
        .filter(|norm| shapes.contains_key(&format!("{norm}.running_mean")))
        .ok_or_else(|| QatError::NoNorm {
            layer: conv.to_owned(),
        })
}

/// A checkpoint while it is taken apart.
struct Import<'a> {
    state: &'a StateDict,
    taken: BTreeSet<String>,
    problems: StateDictError,
    tensors: BTreeMap<String, Tensor>,
    activations: BTreeMap<String, Affine>,
    weights: BTreeMap<String, Quantizer>,
}

impl<'a> Import<'a> {
    fn new(state: &'a StateDict) -> Self {
        Self {
            state,
            taken: BTreeSet::new(),
            problems: StateDictError::default(),
            tensors: BTreeMap::new(),
            activations: BTreeMap::new(),
            weights: BTreeMap::new(),
        }
    }

    /// Every pair `<module>.scale`, `<module>.zero_point`.
    fn activations(&mut self) -> Result<(), QatError> {
        for (name, scale) in self.state.iter() {
            let Some(module) = name.strip_suffix(".scale") else {
                continue;
            };
            self.taken.insert(name.to_owned());
            let pair = format!("{module}.zero_point");
            let Some(zero_point) = self.state.get(&pair) else {
                self.problems.missing.push(pair);
                continue;
            };
            let affine = Affine::read((name, scale), (&pair, zero_point))?;
            self.activations.insert(module.to_owned(), affine);
            self.taken.insert(pair);
        }
        Ok(())
    }

    fn expect_activation(&mut self, module: &str) {
        let scale = format!("{module}.scale");
        if self.state.get(&scale).is_none() {
            self.problems.missing.push(scale);
            self.taken.insert(format!("{module}.zero_point"));
        }
    }

    /// The weight of a layer, how it was quantised, and that there is a scale of its output.
    fn layer(&mut self, layer: &str, shape: &[usize]) -> Result<(), WeightsError> {
        let name = format!("{layer}.weight");
        let weight = self.float(&name, shape)?;
        self.insert(layer, "weight", weight);
        match self.state.get(&name).map(Tensor::quantizer) {
            Some(Some(quantizer)) => {
                self.weights.insert(layer.to_owned(), quantizer.clone());
            }
            Some(None) => self.mismatch(&name, shape, Some("it is not quantised".to_owned())),
            None => {}
        }
        self.expect_activation(layer);
        Ok(())
    }

    /// The tensor `name` as f32; none where there is a problem with it, which [`Import::finish`] tells.
    fn float(&mut self, name: &str, shape: &[usize]) -> Result<Option<Tensor>, WeightsError> {
        self.taken.insert(name.to_owned());
        let Some(tensor) = self.state.get(name) else {
            self.problems.missing.push(name.to_owned());
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

    fn mismatch(&mut self, name: &str, shape: &[usize], reason: Option<String>) {
        let got = self.state.get(name).map(Tensor::shape).unwrap_or_default();
        self.problems.misshapen.push(Mismatch {
            name: name.to_owned(),
            expected: shape.to_vec(),
            got: got.to_vec(),
            reason,
        });
    }

    fn insert(&mut self, module: &str, name: &str, tensor: Option<Tensor>) {
        if let Some(tensor) = tensor {
            self.tensors.insert(format!("{module}.{name}"), tensor);
        }
    }

    fn finish(self) -> Result<Trained, QatError> {
        let mut problems = self.problems;
        let names = self.state.names();
        problems.unexpected = names
            .filter(|name| !self.taken.contains(*name) && !name.ends_with("num_batches_tracked"))
            .map(str::to_owned)
            .collect();
        if problems != StateDictError::default() {
            return Err(BuildError::StateDict(problems).into());
        }
        Ok(Trained {
            state: self.state.replaced(self.tensors),
            activations: self.activations,
            weights: self.weights,
        })
    }
}

#[cfg(test)]
mod tests;
