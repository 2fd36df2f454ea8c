//! The integer graph that ONNX Runtime has optimised, with nodes replaced by operators of Sightline's own.
//!
//! Only graphs in memory are rewritten, never files: what [`crate::quantize()`] writes has standard operators
//! alone. What the new nodes compute equals what they replace.
//!
//! - [`LOOKUP`]: a hard swish, which is a change of scale (`QLinearConcat` of one operand) and a product
//!   (`QLinearMul`), or floats in between, as one table of 256 numbers.
//! - [`DEPTHWISE`]: a depthwise `QLinearConv`, and the table behind it.
//! - [`QUANTIZE`]: from blocked floats to channels-last 8-bit numbers, which takes ONNX Runtime three steps.

mod boundary;
mod depthwise;
mod lookup;
mod nodes;
#[cfg(test)]
mod tests;

use prost::Message;

use crate::proto::{AttributeProto, ModelProto, NodeProto, OperatorSetIdProto};
use crate::read::GraphReadError;
use nodes::Nodes;

/// The domain of Sightline's operators.
pub const DOMAIN: &str = "sightline";
/// A function of one 8-bit number. Inputs: numbers `u8` of any shape, table `[256] u8`.
pub const LOOKUP: &str = "Lookup";
/// A depthwise convolution. Inputs: `[N, H, W, C] u8`; weights `[C, 1, kh, kw] i8`; bias `[C] i32`, in steps of
/// input scale times weight scale; `[C] f32`, these steps in the output's; optionally a table `[256] u8` for
/// the results. Attributes: those of `Conv`, and `input_zero` and `output_zero`.
pub const DEPTHWISE: &str = "DepthwiseConv";

/// Floats in ONNX Runtime's blocked layout, `[N, ceil(C / 16), H, W, 16] f32`, which it says is
/// `[N, 16 ceil(C / 16), H, W]`, into 8-bit numbers `[N, H, W, C] u8`. Attributes: `channels`, `scale` and `zero`.
pub const QUANTIZE: &str = "QuantizeBlocked";

/// Replaces what it can in the bytes of a model; nothing if there is nothing to be replaced. `wide`: whether the
/// CPU has AVX-512, for which all but [`LOOKUP`] is made.
///
/// # Errors
/// [`GraphReadError`] for bytes that are no ONNX file.
pub fn lower(model: &[u8], wide: bool) -> Result<Option<Vec<u8>>, GraphReadError> {
    let mut model = ModelProto::decode(model)?;
    let Some(graph) = &mut model.graph else {
        return Ok(None);
    };
    if graph.node.iter().all(|node| node.op_type != "QLinearConv") {
        return Ok(None);
    }
    let mut nodes = Nodes::new(graph);
    lookup::replace(&mut nodes);
    if wide {
        boundary::replace(&mut nodes);
        depthwise::replace(&mut nodes);
    }
    if !nodes.finish(graph) {
        return Ok(None);
    }
    model.opset_import.push(OperatorSetIdProto {
        domain: DOMAIN.to_owned(),
        version: 1,
    });
    Ok(Some(model.encode_to_vec()))
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    let mut attributes = node.attribute.iter();
    attributes.find(|attribute| attribute.name == name)
}

/// An attribute that is a whole number.
fn number(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        i: Some(value),
        r#type: 2,
        ..AttributeProto::default()
    }
}

/// An attribute that is a float.
fn real(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        f: Some(value),
        r#type: 1,
        ..AttributeProto::default()
    }
}
