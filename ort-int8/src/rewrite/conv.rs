//! Reading of quantized convolutions.

use onnx_export::proto::{AttributeProto, INT8, NodeProto};
use onnx_export::quantize::Affine;

use super::editor::GraphEditor;
use super::quantized::{Constants, Names};
use super::{DOMAIN, LOOKUP, Operators, int};

/// The constants of a channels-last `QLinearConv` that this crate's operators can compute.
pub(super) struct Conv<'a> {
    pub(super) node: &'a NodeProto,
    /// Names of the input image, the weights and the bias.
    pub(super) operands: [&'a String; 3],
    /// Shape of the weights: `[output channels, input channels / groups, kernel height, kernel
    /// width]`.
    pub(super) weight_shape: [i64; 4],
    pub(super) input: Affine,
    pub(super) output: Affine,
    /// Requantization factors `[output channels]`: `input scale * weight scale / output scale`.
    pub(super) multipliers: Vec<f32>,
}

impl<'a> Conv<'a> {
    /// Reads node `index`.
    ///
    /// `None` if the node is not a channels-last `com.microsoft` `QLinearConv` of images with a bias
    /// and constant weights, scales and zero points, if a weight zero point is not 0, if a sum of
    /// products might exceed int32, or if `operators` do not support the weights.
    pub(super) fn read(
        editor: &'a GraphEditor,
        index: usize,
        operators: Operators,
    ) -> Option<Self> {
        let node = editor.node(index)?;
        if node.domain != "com.microsoft"
            || node.op_type != "QLinearConv"
            || node.attribute("channels_last")?.i != Some(1)
        {
            return None;
        }
        // A `QLinearConv` has nine inputs with a bias and eight without one.
        let inputs: &[String; 9] = node.input.as_slice().try_into().ok()?;
        let [
            x,
            x_scale,
            x_zero,
            weight,
            scales,
            zeros,
            y_scale,
            y_zero,
            bias,
        ] = inputs;
        let names = Names {
            input: [x_scale, x_zero],
            weight: [weight, scales, zeros],
            output: Some([y_scale, y_zero]),
            bias,
        };
        let Constants {
            input,
            output,
            multipliers,
        } = Constants::read(editor, &names, operators)?;
        let weight_shape: [i64; 4] = editor.shape(weight, INT8)?.try_into().ok()?;
        Some(Self {
            node,
            operands: [x, weight, bias],
            weight_shape,
            input,
            output: output?,
            multipliers,
        })
    }

    /// Returns the number of groups; 1 if the node does not have the attribute.
    pub(super) fn groups(&self) -> i64 {
        let group = self.node.attribute("group");
        group.and_then(|group| group.i).unwrap_or(1)
    }

    /// Returns the attributes for the zero points of input and output.
    pub(super) fn zero_points(&self) -> [AttributeProto; 2] {
        [
            ("input_zero_point", self.input),
            ("output_zero_point", self.output),
        ]
        .map(|(name, affine)| int(name, affine.zero_point))
    }
}

/// A [`LOOKUP`] that was removed from the graph, because the operator in front of it applies its
/// table.
pub(super) struct TakenLookup {
    /// Name of the initializer that holds the table.
    pub(super) table: String,
    /// Name of the value that the lookup wrote.
    pub(super) output: String,
}

/// Removes the [`LOOKUP`] that reads `value` and returns it. `None` if no `LOOKUP` reads `value`, if
/// another node reads `value`, too, or if `value` is an output of the graph.
pub(super) fn take_lookup(editor: &mut GraphEditor, value: &str) -> Option<TakenLookup> {
    let index = editor.sole_reader(value)?;
    let node = editor.node(index)?;
    if node.domain != DOMAIN || node.op_type != LOOKUP {
        return None;
    }
    let (table, output) = (node.input.get(1)?.clone(), node.output.first()?.clone());
    editor.remove(index);
    Some(TakenLookup { table, output })
}
