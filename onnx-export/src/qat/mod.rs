//! Networks that were trained for int8: the checkpoints of torchvision's `models.quantization`.
//!
//! ```text
//! checkpoint ─> import ─> Trained ─┬─> state, architecture ─> build ─> the float network
//!                                  └─> recipe(float network) ─> quantize ─> the int8 network
//! ```
//!
//! They come in two [`Layout`]s. [`import()`] gives the float network's tensors, so that its
//! architecture loads them as any others, and beside them the scales that training chose;
//! [`Trained::recipe`] says with them how the float network becomes the int8 one that was trained.

mod affine;
mod import;
mod layer;
mod recipe;

use std::collections::BTreeMap;

use thiserror::Error;

use crate::architecture::{Architecture, Backbone};
use crate::error::{BuildError, argument};
use crate::layers::Norm;
use crate::quantize::Affine;
use crate::tensor_shapes;
use crate::weights::{Quantizer, StateDict, WeightsError};
use import::Import;
use layer::LayerOf;

/// The module that quantises the network's input.
pub const INPUT: &str = "quant";
/// Where a network in training keeps the scale of a weight.
const FAKE_QUANT: &str = "weight_fake_quant";

/// When a checkpoint was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Of the int8 network, after `convert`: quantised weights with the batch norms folded into them,
    /// each layer with its bias and the scale of its output.
    Converted,
    /// Of the network in training, after `prepare_qat`: floats, batch norms, and observers that
    /// hold the scales.
    Prepared,
}

impl Layout {
    /// The layout of a checkpoint that [`import()`] reads; none for any other.
    pub fn of(state: &StateDict) -> Option<Self> {
        let fake = format!(".{FAKE_QUANT}.scale");
        if state.names().any(|name| name.ends_with(&fake)) {
            return Some(Self::Prepared);
        }
        let quantised = state.iter().any(|(_, tensor)| tensor.quantizer().is_some());
        quantised.then_some(Self::Converted)
    }
}

/// A quantised checkpoint, taken apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// When the checkpoint was saved.
    pub layout: Layout,
    /// The network that was trained: what was asked for, with `ReLU` in the place of `ReLU6`, as
    /// torchvision's quantised networks have it.
    pub architecture: Architecture,
    /// The float network's tensors, all f32, with the digest of the checkpoint. Of a converted one these are
    /// weights and biases as dequantised, and batch norms that change nothing but add the bias.
    pub state: StateDict,
    /// The output of each module by its path: convolutions (with the `ReLU` fused into them) and linear
    /// layers, hard swishes (`features.0.2`), sums and products (`features.1.skip_add`), and [`INPUT`].
    ///
    /// A hard sigmoid's scale is always 1/256 and its zero point 0, whether it is listed or not. An
    /// addition that a block has but does not use has scale 1 and zero point 0.
    pub activations: BTreeMap<String, Affine>,
    /// How the weight of each convolution and linear layer is quantised, by the path of the layer.
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
    /// A scale or zero point that an int8 network cannot have.
    #[error("`{name}`: expected {expected}, got {got}")]
    Scale {
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
    /// A value of the network for which training left no scale.
    #[error("the checkpoint has no scale for what `{node}` computes")]
    NoScale {
        /// The node of the float network.
        node: String,
    },
}

/// Whether the checkpoint is a quantised network's, and so needs [`import()`].
pub fn is_quantized(state: &StateDict) -> bool {
    Layout::of(state).is_some()
}

/// Reads the quantised form of `architecture` out of `state`.
///
/// Source: `torchvision.models.quantization`, `torch.ao.nn.quantized`, `torch.ao.nn.intrinsic.qat`.
///
/// # Errors
/// [`QatError::Build`] with every missing, unexpected and misshapen tensor, and the others.
pub fn import(state: &StateDict, architecture: &Architecture) -> Result<Trained, QatError> {
    let variance = identity_variance(architecture)?;
    let shapes = tensor_shapes(architecture)?;
    let layout = Layout::of(state).unwrap_or(Layout::Converted);
    let mut import = Import::new(state, layout);
    import.activations()?;
    import.expect_activation(INPUT);
    for (name, shape) in &shapes {
        // Norms are of rank 1.
        if let Some(path) = name.strip_suffix(".weight")
            && let [_, _, ..] = shape.as_slice()
        {
            let layer = LayerOf::new(path, shape, &shapes)?;
            match layout {
                Layout::Converted => import.converted(&layer, variance)?,
                Layout::Prepared => import.prepared(&layer)?,
            }
        }
    }
    import.finish(trained_form(architecture))
}

/// What torchvision trains in the place of a float network.
fn trained_form(architecture: &Architecture) -> Architecture {
    let mut form = architecture.clone();
    if let Backbone::MobilenetV2(config) = &mut form.backbone {
        config.relu6 = false;
    }
    form
}

/// The variance of a batch norm that changes nothing: 1 once epsilon is added, also when rounded.
fn identity_variance(architecture: &Architecture) -> Result<f32, BuildError> {
    let trunk = architecture.backbone.trunk();
    let Some(Norm { eps, .. }) = trunk.norm() else {
        let expected = "one with batch norms";
        return Err(argument("backbone", expected, &trunk.name()).into());
    };
    let variance = 1.0 - eps;
    if variance + eps == 1.0 {
        return Ok(variance);
    }
    Err(argument("bn_eps", "a small number", &eps).into())
}

#[cfg(test)]
mod tests;
