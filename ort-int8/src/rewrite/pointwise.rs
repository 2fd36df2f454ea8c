//! Replaces pointwise int8 convolutions of a graph with this crate's operator [`POINTWISE`].

use onnx_export::proto::NodeProto;

use super::conv::{self, Conv};
use super::editor::GraphEditor;
use super::quantized::add_multipliers;
use super::{CHANNEL_MULTIPLE, LOOKUP, Operators, POINTWISE, addition, int};

/// Maximum number of input channels of a convolution that is replaced on CPUs with AVX-512 although no
/// node behind it becomes part of it. ONNX Runtime's kernel is faster for more channels.
const MAX_LONE_INPUTS: i64 = 256;

/// Replaces every supported pointwise `QLinearConv` with a [`POINTWISE`] node.
///
/// If a lookup is the only reader of the convolution's output, its table becomes an input of the new
/// node. If `additions` is true and a `QLinearAdd` is then the only reader of the result, the new
/// node adds the other operand and takes the place of the `QLinearAdd`.
pub(super) fn replace(editor: &mut GraphEditor, operators: Operators, additions: bool) {
    for index in 0..editor.len() {
        let Some((mut node, multipliers)) = replacement(editor, index, operators) else {
            continue;
        };
        let output = node.output.concat();
        let multipliers = add_multipliers(editor, &output, &multipliers);
        node.input.push(multipliers);
        let lookup = conv::take_lookup(editor, &output);
        node.attribute.push(int("has_table", lookup.is_some()));
        let (table, output) = lookup.map_or((String::new(), output), |lookup| {
            (lookup.table, lookup.output)
        });
        let addition = additions.then(|| addition::take(editor, &output)).flatten();
        node.attribute.push(int("has_residual", addition.is_some()));
        node.output = vec![output];
        editor.remove(index);
        let index = if let Some(addition) = addition {
            node.input.extend([table, addition.residual]);
            node.output = vec![addition.output];
            node.attribute.extend(addition.attributes);
            // The residual may be written after the convolution, but not after the addition.
            addition.index
        } else {
            node.input
                .extend(Some(table).filter(|name| !name.is_empty()));
            index
        };
        editor.replace(index, node);
    }
}

/// Returns the replacement of node `index`, whose multipliers input is missing, and the multipliers.
///
/// `None` if the node is not a convolution that [`Conv::read`] accepts with one group, a kernel of one
/// pixel and without stride or padding, if its number of input channels is not a multiple of
/// [`CHANNEL_MULTIPLE`], or if ONNX Runtime's kernel is faster: see [`MAX_LONE_INPUTS`].
fn replacement(
    editor: &GraphEditor,
    index: usize,
    operators: Operators,
) -> Option<(NodeProto, Vec<f32>)> {
    let conv = Conv::read(editor, index, operators)?;
    let [_, inputs, 1, 1] = conv.weight_shape else {
        return None;
    };
    let ints = |name: &str| conv.node.attribute(name).map(|attribute| &attribute.ints);
    let is_dense = ints("strides").is_none_or(|strides| strides.iter().all(|stride| *stride == 1))
        && ints("pads").is_none_or(|pads| pads.iter().all(|pad| *pad == 0));
    if conv.groups() != 1 || !is_dense || inputs % CHANNEL_MULTIPLE != 0 {
        return None;
    }
    let is_wide = matches!(operators, Operators::Avx512 { .. }) && inputs > MAX_LONE_INPUTS;
    if is_wide && !is_joined(editor, conv.node) {
        return None;
    }
    let mut attributes = conv.zero_points().to_vec();
    attributes.push(int("inputs", inputs));
    let node = NodeProto {
        op_type: POINTWISE.to_owned(),
        name: conv.node.name.clone(),
        input: conv.operands.map(Clone::clone).to_vec(),
        output: conv.node.output.clone(),
        attribute: attributes,
        ..NodeProto::default()
    };
    Some((node, conv.multipliers))
}

/// Returns whether the only node that reads the output of `conv` is one that a [`POINTWISE`] includes.
fn is_joined(editor: &GraphEditor, conv: &NodeProto) -> bool {
    let reader = conv
        .output
        .first()
        .and_then(|output| editor.sole_reader(output));
    let reader = reader.and_then(|index| editor.node(index));
    reader.is_some_and(|node| [LOOKUP, "QLinearAdd"].contains(&node.op_type.as_str()))
}
