//! Rewriting of an int8 graph that ONNX Runtime has optimized: nodes are replaced by this crate's operators.
//!
//! - [`LOOKUP`] replaces a hard swish: either a requantization (`QLinearConcat` of one operand) and a product
//!   (`QLinearMul`), or fp32 nodes between `DequantizeLinear` and `QuantizeLinear`.
//! - [`DEPTHWISE`] replaces a depthwise `QLinearConv`, and a [`LOOKUP`] that follows it.
//! - [`QUANTIZE`] replaces `ReorderOutput`, `QuantizeLinear` and `Transpose`: ONNX Runtime's way from its blocked fp32
//!   layout to channels-last uint8.
//!
//! A node that does not have exactly the expected form is left alone. Only graphs in memory are rewritten: files keep
//! standard operators.

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
/// Operator that applies a function to each element by a lookup table. Inputs: indices `u8` of any shape, table
/// `[256] u8`.
pub(crate) const LOOKUP: &str = "Lookup";
/// Operator for a depthwise convolution. Inputs: image `[N, H, W, C] u8`; weights `[C, 1, kh, kw] i8` with zero point 0;
/// bias `[C] i32` with the scale `input scale * weight scale`; multipliers `[C] f32`,
/// `input scale * weight scale / output scale`; optionally a table `[256] u8` that is applied to the results.
/// Attributes: `kernel_shape`, `strides`, `pads` and `dilations` as in `Conv`; `same_upper` (0 or 1),
/// `input_zero_point` and `output_zero_point`.
pub(crate) const DEPTHWISE: &str = "DepthwiseConv";
/// Operator that quantizes ONNX Runtime's blocked layout to `[N, H, W, C] u8`. Input:
/// `[N, ceil(C / 16), H, W, 16] f32`, which ONNX Runtime declares as `[N, 16 * ceil(C / 16), H, W]`. Attributes:
/// `channels`, `scale` and `zero_point`.
pub(crate) const QUANTIZE: &str = "QuantizeBlocked";

/// The operators that a rewritten graph may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operators {
    /// [`LOOKUP`] alone, which is faster than ONNX Runtime's nodes on any CPU.
    Lookup,
    /// All operators, for CPUs with AVX-512.
    All,
}

/// A graph in which at least one node was replaced.
pub(crate) struct Rewritten {
    pub(crate) model: ModelProto,
    /// Number of nodes that are operators of this crate; at least 1.
    pub(crate) operator_count: usize,
}

/// Returns `model` with nodes replaced where possible. `None` if no node can be replaced, if the graph has no
/// `QLinearConv`, or if a node has a subgraph, since that may read values of the graph without being seen here.
pub(crate) fn rewrite(mut model: ModelProto, operators: Operators) -> Option<Rewritten> {
    let graph = model.graph.take()?;
    if !is_rewritable(&graph) {
        return None;
    }
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
