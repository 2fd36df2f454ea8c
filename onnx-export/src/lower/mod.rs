//! The integer graph that ONNX Runtime has optimised, with nodes replaced by operators of Sightline's own.
//!
//! Only graphs in memory are rewritten, never files: what [`mod@crate::quantize`] writes has standard operators
//! alone. What the new nodes compute equals what they replace.
//!
//! - [`LOOKUP`]: a hard swish, which is a change of scale (`QLinearConcat` of one operand) and a product
//!   (`QLinearMul`), or floats in between, as one table of 256 numbers.
//! - [`DEPTHWISE`]: a depthwise `QLinearConv`, and the table behind it.
//! - [`QUANTIZE`]: from blocked floats to channels-last 8-bit numbers, which takes ONNX Runtime three steps.

mod boundary;
mod depthwise;
mod graph;
mod lookup;
#[cfg(test)]
mod tests;

use prost::Message;

use crate::proto::{ModelProto, NodeProto, OperatorSetIdProto};
use crate::read::{GraphReadError, WeightTensor, large_weights};
use graph::Lowering;

/// The domain of Sightline's operators.
pub const DOMAIN: &str = "sightline";
/// A function of one 8-bit number. Inputs: numbers `u8` of any shape, table `[256] u8`.
pub const LOOKUP: &str = "Lookup";
/// A depthwise convolution. Inputs: `[N, H, W, C] u8`; weights `[C, 1, kh, kw] i8`; bias `[C] i32`, in steps of
/// input scale times weight scale; `[C] f32`, these steps in the output's; optionally a table `[256] u8` for
/// the results. Attributes: `kernel_shape`, `strides`, `pads` and `dilations` of `Conv`, and as whole numbers
/// `same_upper` for its `auto_pad`, `input_zero` and `output_zero`.
pub const DEPTHWISE: &str = "DepthwiseConv";
/// Floats in ONNX Runtime's blocked layout, `[N, ceil(C / 16), H, W, 16] f32`, which it says is
/// `[N, 16 ceil(C / 16), H, W]`, into 8-bit numbers `[N, H, W, C] u8`. Attributes: `channels`, `scale` and `zero`.
pub const QUANTIZE: &str = "QuantizeBlocked";

/// A graph as ONNX Runtime has optimised it, in memory.
#[derive(Debug)]
pub struct RuntimeGraph {
    model: ModelProto,
    own_operators: usize,
}

impl RuntimeGraph {
    /// Reads what ONNX Runtime wrote.
    ///
    /// # Errors
    /// [`GraphReadError`] for bytes that are no ONNX file.
    pub fn read(bytes: &[u8]) -> Result<Self, GraphReadError> {
        Ok(Self {
            model: ModelProto::decode(bytes)?,
            own_operators: 0,
        })
    }

    /// The graph with what can be replaced; nothing if there is nothing to be replaced. `wide`: whether the CPU
    /// has AVX-512, for which all but [`LOOKUP`] is made.
    #[must_use]
    pub fn lowered(&self, wide: bool) -> Option<Self> {
        let graph = self.model.graph.as_ref()?;
        let quantised = |node: &NodeProto| node.op_type == "QLinearConv";
        // The body of a branch or a loop reads values unseen.
        let has_body = |node: &NodeProto| node.attribute.iter().any(|a| a.g.is_some());
        if !graph.node.iter().any(quantised) || graph.node.iter().any(has_body) {
            return None;
        }
        let mut nodes = Lowering::new(graph.clone());
        lookup::replace(&mut nodes);
        if wide {
            boundary::replace(&mut nodes);
            depthwise::replace(&mut nodes);
        }
        let graph = nodes.finish();
        let own = graph.node.iter().filter(|node| node.domain == DOMAIN);
        let own_operators = own.count();
        let mut opset_import = self.model.opset_import.clone();
        opset_import.push(OperatorSetIdProto {
            domain: DOMAIN.to_owned(),
            version: 1,
        });
        let model = ModelProto {
            graph: Some(graph),
            opset_import,
            ir_version: self.model.ir_version,
            ..ModelProto::default()
        };
        (own_operators > 0).then_some(Self {
            model,
            own_operators,
        })
    }

    /// How many of its nodes are Sightline's.
    pub fn own_operators(&self) -> usize {
        self.own_operators
    }

    /// The bytes of an ONNX file.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.model.encode_to_vec()
    }

    /// Its `f32` weights of at least `min_bytes` bytes.
    ///
    /// # Errors
    /// [`GraphReadError::Length`] for a tensor whose bytes do not fill its shape.
    pub fn into_weights(self, min_bytes: usize) -> Result<Vec<WeightTensor>, GraphReadError> {
        large_weights(self.model, min_bytes)
    }
}
