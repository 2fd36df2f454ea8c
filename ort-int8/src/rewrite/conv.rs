//! Reading of quantized convolutions.

use onnx_export::graph::Attr;
use onnx_export::proto::{AttributeProto, FLOAT, INT8, NodeProto};
use onnx_export::quantize::Affine;

use super::editor::GraphEditor;
use super::{DOMAIN, LOOKUP, Operators};

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
        if usize::try_from(weight_shape[0]) != Ok(multipliers.len()) {
            return None;
        }
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
        .map(|(name, affine)| AttributeProto::new(name, &Attr::Int(affine.zero_point.into())))
    }
}

/// Names of the constants of a quantized layer.
pub(super) struct Names<'a> {
    /// Scale and zero point of the input.
    pub(super) input: [&'a String; 2],
    /// Weights, scales and zero points.
    pub(super) weight: [&'a String; 3],
    /// Scale and zero point of the output. `None` if it is not quantized.
    pub(super) output: Option<[&'a String; 2]>,
    pub(super) bias: &'a String,
}

/// How a layer is quantized.
pub(super) struct Constants {
    pub(super) input: Affine,
    /// `None` if the output is not quantized.
    pub(super) output: Option<Affine>,
    /// Factors `[output channels]` of the sums: `input scale * weight scale`, divided by the output's scale if there is
    /// one.
    pub(super) multipliers: Vec<f32>,
}

impl Constants {
    /// Reads the constants.
    ///
    /// `None` if one of them is not constant, if a weight zero point is not 0, if a sum of products might exceed int32,
    /// or if `operators` do not support the weights.
    pub(super) fn read(
        editor: &GraphEditor,
        names: &Names<'_>,
        operators: Operators,
    ) -> Option<Self> {
        let [weights, scales, zeros] = names.weight;
        if editor.bytes(zeros, INT8)?.iter().any(|zero| *zero != 0) {
            return None;
        }
        let [scale, zero] = names.input;
        let input = editor.affine(scale, zero)?;
        let output = match names.output {
            Some([scale, zero]) => Some(editor.affine(scale, zero)?),
            None => None,
        };
        let bias = editor.i32_values(names.bias)?;
        let scales = editor.f32_values(scales)?;
        if scales.len() != 1 && scales.len() != bias.len() {
            return None;
        }
        let scales = scales.iter().cycle().take(bias.len());
        let multipliers = scales.map(|scale| {
            let product = input.scale * scale;
            output.map_or(product, |output| product / output.scale)
        });
        let multipliers: Vec<f32> = multipliers.collect();
        let weights = editor.bytes(weights, INT8)?;
        let is_supported = stays_in_range(weights, &bias, &multipliers)
            && operators.supports_weights(weights, weights.len() / bias.len());
        is_supported.then_some(Self {
            input,
            output,
            multipliers,
        })
    }
}

/// Adds an initializer with the `multipliers` of the convolution that writes `output`, and returns
/// its name.
pub(super) fn add_multipliers(
    editor: &mut GraphEditor,
    output: &str,
    multipliers: &[f32],
) -> String {
    let bytes = multipliers.iter().flat_map(|value| value.to_le_bytes());
    // The output's name is unique in the graph, so the initializer's name is unique, too.
    let name = format!("{output}_multipliers");
    editor.add_initializer(&name, FLOAT, bytes.collect())
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

/// Returns whether the convolution's int32 sums cannot overflow, whatever the input: neither the
/// sums of input elements times `weights` plus `bias`, nor these sums times `multipliers`.
///
/// Also returns `false` if a multiplier is not positive, or if `weights` (bytes of `i8`), `bias`
/// and `multipliers` have different channel counts.
fn stays_in_range(weights: &[u8], bias: &[i32], multipliers: &[f32]) -> bool {
    const LARGEST: f64 = i32::MAX as f64;
    if bias.len() != multipliers.len()
        || bias.is_empty()
        || !weights.len().is_multiple_of(bias.len())
    {
        return false;
    }
    let channels = weights.chunks_exact(weights.len() / bias.len());
    let mut constants = channels.zip(bias).zip(multipliers);
    constants.all(|((weights, bias), multiplier)| {
        let weights = weights.iter().map(|w| f64::from(w.cast_signed()).abs());
        // The operator multiplies weights with input elements, and subtracts the input's zero point
        // times the weights in the bias. Elements and zero point are at most 255, hence 2 * 255.
        let sum = 2.0 * 255.0 * weights.sum::<f64>() + f64::from(*bias).abs();
        *multiplier > 0.0 && sum < LARGEST && sum * f64::from(*multiplier) < LARGEST
    })
}
