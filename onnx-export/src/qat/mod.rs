//! Import of checkpoints from quantization-aware training, such as those of torchvision's `models.quantization`.
//!
//! ```text
//! checkpoint ─> import ─> Trained ─┬─> state, architecture ─> build ─> the fp32 network
//!                                  └─> recipe(fp32 network) ─> quantize ─> the int8 network
//! ```
//!
//! A checkpoint has one of two [`Layout`]s. [`import()`] extracts the tensors of the fp32 network
//! and the scales that training chose. The fp32 network is then built from these tensors as from an
//! fp32 checkpoint. [`Trained::recipe`] turns the scales into the recipe with which the fp32
//! network is quantized to the int8 network that was trained.

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
use crate::text::{shown, shown_error};
use crate::weights::{Quantizer, StateDict, WeightsError};
use import::Import;
use layer::LayerOf;

/// Path of the module that quantizes the network's input in torchvision's quantized networks.
pub const INPUT: &str = "quant";
/// Name of the submodule of a layer in which a prepared network ([`Layout::Prepared`]) keeps the scales of the
/// weight.
const FAKE_QUANT: &str = "weight_fake_quant";

/// The stage of training at which a checkpoint was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// After `convert`: the int8 network, with quantized weights into which the batch norms are folded, biases, and
    /// the scale of each layer's output.
    Converted,
    /// After `prepare_qat`: the network in training, with fp32 weights, batch norms, and observers that hold the
    /// scales.
    Prepared,
}

impl Layout {
    /// Returns the layout of a quantized checkpoint. `None` if the checkpoint is not quantized.
    pub fn of(state: &StateDict) -> Option<Self> {
        let fake = format!(".{FAKE_QUANT}.scale");
        if state.names().any(|name| name.ends_with(&fake)) {
            return Some(Self::Prepared);
        }
        let is_converted = state.iter().any(|(_, tensor)| tensor.quantizer().is_some());
        is_converted.then_some(Self::Converted)
    }
}

/// The content of a quantized checkpoint: the tensors of the fp32 network and the trained scales.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// The stage of training at which the checkpoint was saved.
    pub layout: Layout,
    /// Architecture of the network that was trained: the requested one, with `ReLU` in place of
    /// `ReLU6` as in torchvision's quantized networks.
    pub architecture: Architecture,
    /// Tensors of the fp32 network, all f32, with the digest of the checkpoint. For a converted
    /// checkpoint, they are the dequantized weights, the biases, and batch norms that only add a
    /// bias.
    pub state: StateDict,
    /// Scale and zero point of each module's output, by the path of the module: convolutions (with
    /// a `ReLU` fused into them), linear layers, hard swishes (`features.0.2`), sums and products
    /// (`features.1.skip_add`), and [`INPUT`].
    ///
    /// The output of a hard sigmoid always has scale 1/256 and zero point 0; its path may be
    /// absent. A block without a residual connection has a module for the sum as well, which is
    /// never run and keeps scale 1 and zero point 0.
    pub activations: BTreeMap<String, Affine>,
    /// Scales and zero points of the weight of each convolution and linear layer, by the path of
    /// the layer.
    pub weights: BTreeMap<String, Quantizer>,
}

/// The reason why a checkpoint cannot be imported as a quantized network, or why its scales cannot
/// be turned into a recipe.
#[derive(Debug, Error)]
pub enum QatError {
    /// An argument of the architecture is out of range, or the checkpoint's tensors do not fit the
    /// quantized form of the architecture.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A tensor of the fp32 network cannot be created.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A scale or zero point is out of range, or its tensor has an unexpected shape or data type.
    #[error(
        "invalid scale or zero point in tensor `{}`: expected {expected}, got {}",
        shown(name),
        shown_error(got)
    )]
    Scale {
        /// State dict path of the tensor.
        name: String,
        /// The scale or zero point that the tensor may hold, in words.
        expected: &'static str,
        /// The scale or zero point that the tensor holds, or the tensor's shape and data type.
        got: String,
    },
    /// A convolution of the fp32 network has neither a bias nor a batch norm at the path where torchvision has it.
    #[error(
        "cannot import convolution `{}`: expected a bias or a following batch norm as in torchvision's quantized \
         networks, got neither",
        shown(layer)
    )]
    NoNorm {
        /// State dict path of the convolution.
        layer: String,
    },
    /// The checkpoint has no scale for the output of a node of the fp32 network.
    #[error("the checkpoint has no scale for the output of node `{node}` of the fp32 network")]
    NoScale {
        /// Name of the node.
        node: String,
    },
}

/// Extracts the fp32 tensors and the trained scales of `architecture` from a quantized checkpoint.
///
/// Source: `torchvision.models.quantization`, `torch.ao.nn.quantized`, `torch.ao.nn.intrinsic.qat`.
///
/// # Errors
/// [`QatError::Build`] with every missing, unexpected and misshapen tensor, [`QatError::Scale`] for a scale or zero
/// point out of range, [`QatError::NoNorm`] for an architecture that torchvision does not quantize.
pub fn import(state: &StateDict, architecture: &Architecture) -> Result<Trained, QatError> {
    let variance = identity_variance(architecture)?;
    let shapes = tensor_shapes(architecture)?;
    let layout = Layout::of(state).unwrap_or(Layout::Converted);
    let mut import = Import::new(state, layout);
    import.activations()?;
    import.expect_activation(INPUT);
    for (name, shape) in &shapes {
        // Weights with at least two axes belong to convolutions and linear layers; those of batch
        // norms have one axis.
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

/// Returns the architecture of torchvision's quantized network for the fp32 `architecture`, with
/// `ReLU` in place of `ReLU6`.
fn trained_form(architecture: &Architecture) -> Architecture {
    let mut form = architecture.clone();
    if let Backbone::MobilenetV2(config) = &mut form.backbone {
        config.relu6 = false;
    }
    form
}

/// Returns the running variance with which the architecture's batch norms divide by exactly 1: the
/// sum of the variance and the batch norms' epsilon is 1 in f32.
///
/// # Errors
/// [`BuildError::Argument`] if the backbone has no batch norms, or their epsilon is so large that `1 - eps + eps` is
/// not 1.
fn identity_variance(architecture: &Architecture) -> Result<f32, BuildError> {
    let trunk = architecture.backbone.trunk();
    let Some(Norm { eps, .. }) = trunk.norm() else {
        let expected = "a backbone with batch norms";
        return Err(argument("backbone", expected, &trunk.name()).into());
    };
    let variance = 1.0 - eps;
    if variance + eps == 1.0 {
        return Ok(variance);
    }
    Err(argument("bn_eps", "a small epsilon such as 0.001", &eps).into())
}

#[cfg(test)]
mod tests;
