//! Replaces int8 fully connected layers of a graph with this crate's operators [`POINTWISE`] and [`LINEAR`].

use onnx_export::proto::{INT8, INT32, NodeProto};

use super::conv::take_lookup;
use super::editor::GraphEditor;
use super::quantized::{Constants, Names, add_multipliers};
use super::{CHANNEL_MULTIPLE, LINEAR, Operators, POINTWISE, int};

/// Maximum number of inputs of a layer that is replaced: those of classifiers. The weights of a tile are read again for
/// each tile of rows, and should stay in the caches.
const MAX_INPUTS: i64 = 2048;

/// Replaces every supported `QGemm` with a [`POINTWISE`] node, or a [`LINEAR`] node if its output is fp32.
///
/// If a lookup is the only reader of a `POINTWISE` node's output, its table becomes an input of the node.
pub(super) fn replace(editor: &mut GraphEditor, operators: Operators) {
    for index in 0..editor.len() {
        let Some((mut node, multipliers)) = replacement(editor, index, operators) else {
            continue;
        };
        let output = node.output.concat();
        let multipliers = add_multipliers(editor, &output, &multipliers);
        node.input.push(multipliers);
        if node.op_type == POINTWISE {
            let lookup = take_lookup(editor, &output);
            node.attribute.push(int("has_table", lookup.is_some()));
            node.attribute.push(int("has_residual", 0));
            if let Some(lookup) = lookup {
                node.input.push(lookup.table);
                node.output = vec![lookup.output];
            }
        }
        editor.replace(index, node);
    }
}

/// Returns the replacement of node `index`, whose multipliers input is missing, and the multipliers.
///
/// `None` if the node is not a `com.microsoft` `QGemm` whose second matrix is transposed and constant, with a bias for each
/// output, if it has constants that [`Constants::read`] does not accept, or if its number of inputs is not supported.
fn replacement(
    editor: &GraphEditor,
    index: usize,
    operators: Operators,
) -> Option<(NodeProto, Vec<f32>)> {
    let node = editor.node(index)?;
    if node.domain != "com.microsoft" || node.op_type != "QGemm" || !is_plain(node) {
        return None;
    }
    let [a, a_scale, a_zero, b, b_scales, b_zeros, bias, output @ ..] = node.input.as_slice()
    else {
        return None;
    };
    let names = Names {
        input: [a_scale, a_zero],
        weight: [b, b_scales, b_zeros],
        output: match output {
            [] => None,
            [scale, zero] => Some([scale, zero]),
            _ => return None,
        },
        bias,
    };
    let constants = Constants::read(editor, &names, operators)?;
    let &[outputs, inputs] = editor.shape(b, INT8)? else {
        return None;
    };
    // The bias is broadcast: that of another shape is not one per output.
    let is_bias = matches!(*editor.shape(bias, INT32)?, [count] | [1, count] if count == outputs);
    if !is_bias || !(1..=MAX_INPUTS).contains(&inputs) || inputs % CHANNEL_MULTIPLE != 0 {
        return None;
    }
    let mut attributes = vec![
        int("inputs", inputs),
        int("input_zero_point", constants.input.zero_point),
    ];
    let zero_point = constants.output.map(|output| output.zero_point);
    attributes.extend(zero_point.map(|zero_point| int("output_zero_point", zero_point)));
    let node = NodeProto {
        op_type: zero_point.map_or(LINEAR, |_| POINTWISE).to_owned(),
        name: node.name.clone(),
        input: [a, b, bias].map(Clone::clone).to_vec(),
        output: node.output.clone(),
        attribute: attributes,
        ..NodeProto::default()
    };
    Some((node, constants.multipliers))
}

/// Returns whether a `QGemm` multiplies its first matrix by the transposed second one, without a factor.
fn is_plain(node: &NodeProto) -> bool {
    let value = |name: &str| node.attribute(name).and_then(|attribute| attribute.i);
    let alpha = node.attribute("alpha").and_then(|attribute| attribute.f);
    value("transA").unwrap_or(0) == 0 && value("transB") == Some(1) && alpha.unwrap_or(1.0) == 1.0
}
