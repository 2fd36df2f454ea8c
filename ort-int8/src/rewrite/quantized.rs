//! Reading of the constants of quantized layers.

use onnx_export::proto::{FLOAT, INT8};
use onnx_export::quantize::Affine;

use super::Operators;
use super::editor::GraphEditor;

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
    /// `None` if one of them is not constant, if a weight zero point is not 0, if bias and scales are not those of the
    /// weights' first axis, if a sum of products might exceed int32, or if `operators` do not support the weights.
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
        let outputs = editor.shape(weights, INT8)?.first()?;
        if usize::try_from(*outputs) != Ok(bias.len())
            || (scales.len() != 1 && scales.len() != bias.len())
        {
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

/// Adds an initializer with the `multipliers` of the layer that writes `output`, and returns
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

/// Returns whether a layer's int32 sums cannot overflow, whatever the input: neither the
/// sums of input elements times `weights` plus `bias`, nor these sums times `multipliers`.
///
/// Also returns `false` if a multiplier is not positive, if there are no weights, or if `weights` (bytes of `i8`), `bias`
/// and `multipliers` have different channel counts.
fn stays_in_range(weights: &[u8], bias: &[i32], multipliers: &[f32]) -> bool {
    const LARGEST: f64 = i32::MAX as f64;
    if bias.len() != multipliers.len()
        || bias.is_empty()
        || weights.is_empty()
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
