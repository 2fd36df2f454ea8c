//! Replaces nodes with this crate's faster operators, in an int8 graph that ONNX Runtime has
//! optimized.
//!
//! - [`LOOKUP`] replaces a hard swish: either a requantization (`QLinearConcat` of one operand) and
//!   a product (`QLinearMul`), or fp32 nodes between `DequantizeLinear` and `QuantizeLinear`. It also
//!   replaces other requantizations.
//! - [`DEPTHWISE`] replaces a depthwise `QLinearConv`, and the [`LOOKUP`] that reads the
//!   convolution's output, if there is one.
//! - [`POINTWISE`] replaces a `QLinearConv` with a kernel of one pixel, and the [`LOOKUP`] or
//!   `QLinearAdd` that reads the convolution's output.
//! - [`POINTWISE`] also replaces a `QGemm` on CPUs with AVX-512, and the [`LOOKUP`] that reads its output;
//!   [`LINEAR`] replaces one with fp32 results.
//! - [`GATE`] replaces the `QLinearMul` of squeeze-and-excitation.
//! - [`QUANTIZE`] replaces `ReorderOutput`, `QuantizeLinear` and `Transpose`, the three nodes with
//!   which ONNX Runtime converts a tensor from its blocked fp32 layout to channels-last uint8.
//!
//! Nodes that do not have exactly one of these forms are not changed. Only graphs in memory are
//! rewritten; ONNX files keep standard operators.

mod addition;
mod conv;
mod depthwise;
mod editor;
mod gate;
mod gemm;
mod lookup;
mod pointwise;
mod quantize;
mod quantized;
#[cfg(test)]
mod tests;

use onnx_export::graph::Attr;
use onnx_export::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto};

use editor::GraphEditor;

use crate::kernels::{Isa, channel_block, pairs_fit};

/// Domain of this crate's operators.
pub(crate) const DOMAIN: &str = "ort_int8";
/// Operator that replaces each element `q` of a tensor by `table[q]`. Inputs: tensor `u8` of any
/// shape, table `[256] u8`. Output: tensor `u8` of the same shape.
pub(crate) const LOOKUP: &str = "Lookup";
/// Operator for an int8 depthwise convolution.
///
/// Inputs: image `[N, H, W, C] u8`; weights `[C, 1, kh, kw] i8` with zero point 0; bias `[C] i32`
/// with the scale `input scale * weight scale`; multipliers `[C] f32`, which are
/// `input scale * weight scale / output scale`; optionally a table `[256] u8` that is applied to
/// each output element. Attributes: `kernel_shape`, `strides`, `pads` and `dilations` as in ONNX
/// `Conv`; `same_upper` (1 for ONNX `auto_pad` `SAME_UPPER`, else 0), `input_zero_point` and
/// `output_zero_point`.
pub(crate) const DEPTHWISE: &str = "DepthwiseConv";
/// Operator for an int8 convolution with a kernel of one pixel or an int8 fully connected layer, and the
/// addition of a residual.
///
/// Inputs: pixels `[..., C] u8`; weights `[M, C, 1, 1] i8` or `[M, C] i8` with zero point 0; bias `[M] i32` with
/// the scale `input scale * weight scale`; multipliers `[M] f32`, which are `input scale * weight
/// scale / output scale`; if `has_table` is 1, a table `[256] u8` that is applied to each output
/// element; if `has_residual` is 1, a tensor `[..., M] u8` that is then added. Attributes:
/// `inputs` (C), `input_zero_point`, `output_zero_point`, `has_table`, `has_residual`; with a
/// residual, the fields of [`Addition`](crate::kernels::Addition) by name.
pub(crate) const POINTWISE: &str = "PointwiseConv";
/// Operator for an int8 fully connected layer with fp32 results.
///
/// Inputs: rows `[..., C] u8`; weights `[M, C] i8` with zero point 0; bias `[M] i32` with the scale
/// `input scale * weight scale`; multipliers `[M] f32`, which are this scale. Output: `[..., M] f32`.
/// Attributes: `inputs` (C), `input_zero_point`.
pub(crate) const LINEAR: &str = "Linear";
/// Operator that multiplies the pixels of an image by one value per channel.
///
/// Inputs: image `[N, H, W, C] u8`; gate `[N, 1, 1, C] u8`. Attributes: the fields of
/// [`Gate`](crate::kernels::Gate) by name.
pub(crate) const GATE: &str = "Gate";
/// Operator that quantizes a tensor in ONNX Runtime's blocked fp32 layout to `[N, H, W, C] u8`.
///
/// Input: `[N, ceil(C / block), H, W, block] f32`, which ONNX Runtime declares as
/// `[N, block * ceil(C / block), H, W]`. Attributes: `channels` (C), `block` (8 or 16), and the
/// output's `scale` and `zero_point`.
pub(crate) const QUANTIZE: &str = "QuantizeBlocked";

/// A pointwise convolution or fully connected layer is replaced only if its number of input channels is a
/// multiple of this number, which the operators multiply at once.
const CHANNEL_MULTIPLE: i64 = 4;

/// Attribute `perm` of the `Transpose` from `[N, C, H, W]` to `[N, H, W, C]`.
const CHANNELS_LAST: [i64; 4] = [0, 2, 3, 1];
/// Attribute `perm` of the `Transpose` from `[N, H, W, C]` to `[N, C, H, W]`.
const CHANNELS_FIRST: [i64; 4] = [0, 3, 1, 2];

/// Selection of this crate's operators that [`rewrite`] may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operators {
    /// Only [`LOOKUP`], which is faster than the nodes that it replaces on any CPU.
    Lookup,
    /// All operators, for CPUs with AVX-512.
    Avx512 {
        /// Whether a `QLinearAdd` and the product with a gate may be replaced.
        additions: bool,
    },
    /// All operators but those that replace a `QGemm`, for CPUs with AVX2. Convolutions are replaced only if
    /// their weights fit: see [`pairs_fit`].
    Avx2 {
        /// Number of channels in a block of the layout that [`QUANTIZE`] reads. `None` if `QUANTIZE`
        /// must not be used.
        block: Option<usize>,
        /// Whether a `QLinearAdd` and the product with a gate may be replaced.
        additions: bool,
    },
}

impl Operators {
    /// Returns the selections for this CPU, the one with most operators first.
    pub(crate) fn for_this_cpu() -> Vec<Self> {
        let isa = Isa::detect();
        // That an addition or a product has operands of other shapes is found by the comparison only.
        if isa.is_avx512() {
            return [true, false]
                .map(|additions| Self::Avx512 { additions })
                .to_vec();
        }
        if !isa.is_avx2() {
            return vec![Self::Lookup];
        }
        // `QUANTIZE` has an AVX2 form for blocks of 8 channels only.
        let block = channel_block().filter(|block| *block == 8);
        let selections = [true, false].map(|additions| Self::Avx2 { block, additions });
        selections.to_vec()
    }

    /// Returns whether a convolution with these weights, `per_channel` of each channel, may be
    /// replaced.
    fn supports_weights(self, weights: &[u8], per_channel: usize) -> bool {
        let weights = || weights.iter().map(|weight| weight.cast_signed());
        !matches!(self, Self::Avx2 { .. }) || pairs_fit(&weights().collect::<Vec<_>>(), per_channel)
    }
}

/// A model in whose graph at least one node was replaced by [`rewrite`].
pub(crate) struct Rewritten {
    pub(crate) model: ModelProto,
    /// Number of nodes in the rewritten graph that are operators of this crate; at least 1.
    pub(crate) operator_count: usize,
}

/// Returns `model` with nodes replaced by this crate's operators, as far as `operators` allows.
///
/// `None` if no node can be replaced, if the graph has no `QLinearConv`, or if a node has a
/// subgraph: a subgraph may read values of the outer graph, and [`GraphEditor`] does not see these
/// reads.
pub(crate) fn rewrite(mut model: ModelProto, operators: Operators) -> Option<Rewritten> {
    let mut graph = model.graph.take()?;
    if !is_rewritable(&graph) {
        return None;
    }
    // ONNX Runtime derives the types of all values again, and some of the values are removed.
    graph.value_info.clear();
    let mut editor = GraphEditor::new(graph);
    lookup::replace(&mut editor);
    match operators {
        Operators::Lookup => {}
        Operators::Avx512 { additions } => {
            if additions {
                addition::move_transposes(&mut editor);
                gate::replace(&mut editor);
            }
            quantize::replace(&mut editor, 16);
            depthwise::replace(&mut editor, operators);
            pointwise::replace(&mut editor, operators, additions);
            gemm::replace(&mut editor, operators);
        }
        Operators::Avx2 { block, additions } => {
            if additions {
                addition::move_transposes(&mut editor);
                gate::replace(&mut editor);
            }
            if let Some(block) = block {
                quantize::replace(&mut editor, block);
            }
            depthwise::replace(&mut editor, operators);
            pointwise::replace(&mut editor, operators, additions);
        }
    }
    let graph = editor.finish();
    let own = graph.node.iter().filter(|node| node.domain == DOMAIN);
    let operator_count = own.count();
    if operator_count == 0 {
        return None;
    }
    model.opset_import.push(OperatorSetIdProto {
        domain: DOMAIN.to_owned(),
        version: 1,
    });
    let model = ModelProto {
        graph: Some(graph),
        opset_import: model.opset_import,
        ir_version: model.ir_version,
        functions: model.functions,
        ..ModelProto::default()
    };
    Some(Rewritten {
        model,
        operator_count,
    })
}

/// Returns an attribute with an integer, which is 0 or 1 for a `bool`.
fn int(name: &str, value: impl Into<i64>) -> AttributeProto {
    AttributeProto::new(name, &Attr::Int(value.into()))
}

fn is_rewritable(graph: &GraphProto) -> bool {
    let is_quantized = |node: &NodeProto| node.op_type == "QLinearConv";
    let has_subgraph = |node: &NodeProto| {
        let mut attributes = node.attribute.iter();
        attributes.any(|attribute| attribute.g.is_some() || !attribute.graphs.is_empty())
    };
    graph.node.iter().any(is_quantized) && !graph.node.iter().any(has_subgraph)
}
