//! Replaces nodes with this crate's faster operators, in an int8 graph that ONNX Runtime has
//! optimized.
//!
//! - [`LOOKUP`] replaces a hard swish: either a requantization (`QLinearConcat` of one operand) and
//!   a product (`QLinearMul`), or fp32 nodes between `DequantizeLinear` and `QuantizeLinear`.
//! - [`DEPTHWISE`] replaces a depthwise `QLinearConv`, and the [`LOOKUP`] that reads the
//!   convolution's output, if there is one.
//! - [`QUANTIZE`] replaces `ReorderOutput`, `QuantizeLinear` and `Transpose`, the three nodes with
//!   which ONNX Runtime converts a tensor from its blocked fp32 layout to channels-last uint8.
//!
//! Nodes that do not have exactly one of these forms are not changed. Only graphs in memory are
//! rewritten; ONNX files keep standard operators.

mod depthwise;
mod editor;
mod lookup;
mod quantize;
#[cfg(test)]
mod tests;

use onnx_export::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto};

use editor::GraphEditor;

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
/// Operator that quantizes a tensor in ONNX Runtime's blocked fp32 layout to `[N, H, W, C] u8`.
///
/// Input: `[N, ceil(C / 16), H, W, 16] f32`, which ONNX Runtime declares as
/// `[N, 16 * ceil(C / 16), H, W]`. Attributes: `channels` (C), and the output's `scale` and
/// `zero_point`.
pub(crate) const QUANTIZE: &str = "QuantizeBlocked";

/// Selection of this crate's operators that [`rewrite`] may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operators {
    /// Only [`LOOKUP`], which is faster than the nodes that it replaces on any CPU.
    Lookup,
    /// [`LOOKUP`], [`DEPTHWISE`] and [`QUANTIZE`], for CPUs with AVX-512.
    All,
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
    if operators == Operators::All {
        quantize::replace(&mut editor);
        depthwise::replace(&mut editor);
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

fn is_rewritable(graph: &GraphProto) -> bool {
    let is_quantized = |node: &NodeProto| node.op_type == "QLinearConv";
    let has_subgraph = |node: &NodeProto| {
        let mut attributes = node.attribute.iter();
        attributes.any(|attribute| attribute.g.is_some() || !attribute.graphs.is_empty())
    };
    graph.node.iter().any(is_quantized) && !graph.node.iter().any(has_subgraph)
}
