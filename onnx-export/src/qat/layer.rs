//! Reads the checkpoint's tensors for each convolution and linear layer of the fp32 network.

use std::collections::BTreeMap;

use super::import::{Import, OBSERVER};
use super::{FAKE_QUANT, QatError};
use crate::weights::{Quantizer, Tensor, WeightsError};

/// Half the width of the int8 range -128..=127. To compute a weight's scale, torch's `convert`
/// divides the largest absolute weight by this value.
const HALF_RANGE: f32 = 127.5;

/// A convolution or linear layer of the fp32 network.
pub(super) struct LayerOf<'a> {
    /// Path of the module in the state dict.
    pub(super) path: &'a str,
    /// Shape of the weight, output channels outermost.
    shape: &'a [usize],
    /// Path of the batch norm after the layer. `None` if the layer has a bias.
    norm: Option<String>,
}

impl<'a> LayerOf<'a> {
    /// Returns the layer at `path` with a weight of shape `shape`. `shapes` maps the name of every
    /// tensor of the fp32 network to its shape.
    ///
    /// # Errors
    /// [`QatError::NoNorm`] if the layer has neither a bias nor a batch norm.
    pub(super) fn new(
        path: &'a str,
        shape: &'a [usize],
        shapes: &BTreeMap<String, Vec<usize>>,
    ) -> Result<Self, QatError> {
        let has_bias = shapes.contains_key(&format!("{path}.bias"));
        let norm = if has_bias {
            None
        } else {
            Some(norm_after(path, shapes)?)
        };
        Ok(Self { path, shape, norm })
    }

    fn channels(&self) -> usize {
        self.shape.first().copied().unwrap_or_default()
    }
}

/// Returns the path of the batch norm after the convolution `conv`: `X.1` after `X.0`, `X.bn1`
/// after `X.conv1`. `shapes` maps the name of every tensor of the fp32 network to its shape.
///
/// # Errors
/// [`QatError::NoNorm`] if the network has no such batch norm.
pub(super) fn norm_after(
    conv: &str,
    shapes: &BTreeMap<String, Vec<usize>>,
) -> Result<String, QatError> {
    let start = conv.rfind('.').map_or(0, |dot| dot + 1);
    let (parent, own) = conv.split_at(start);
    let numbered = own.parse().ok().map(|n: usize| (n + 1).to_string());
    let norm = numbered.or_else(|| Some(format!("bn{}", own.strip_prefix("conv")?)));
    norm.map(|norm| format!("{parent}{norm}"))
        .filter(|norm| shapes.contains_key(&format!("{norm}.running_mean")))
        .ok_or_else(|| QatError::NoNorm {
            layer: conv.to_owned(),
        })
}

impl Import<'_> {
    /// Reads the quantized weight, the weight's scales and the bias of `layer` from a converted
    /// checkpoint.
    ///
    /// If the fp32 layer has a batch norm instead of a bias, the checkpoint's bias becomes the bias
    /// of that batch norm. The other tensors of the batch norm, with `variance` as the running
    /// variance, make it change nothing else.
    pub(super) fn converted(&mut self, layer: &LayerOf<'_>, variance: f32) -> Result<(), QatError> {
        let name = self.weight(layer)?;
        match self.state.get(&name).map(Tensor::quantizer) {
            Some(Some(quantizer)) => {
                let quantizer = quantizer.clone();
                check_symmetric(&name, &quantizer)?;
                self.weights.insert(layer.path.to_owned(), quantizer);
            }
            Some(None) => self.mismatch(&name, layer.shape, Some("it is not quantized".to_owned())),
            None => {}
        }
        let channels = layer.channels();
        let bias = self.float(&format!("{}.bias", layer.path), &[channels])?;
        let Some(norm) = &layer.norm else {
            self.insert(layer.path, "bias", bias);
            return Ok(());
        };
        self.insert(norm, "bias", bias);
        for (name, value) in [
            ("weight", 1.0),
            ("running_mean", 0.0),
            ("running_var", variance),
        ] {
            let all = Tensor::from_f32(&[channels], &vec![value; channels])?;
            self.insert(norm, name, Some(all));
        }
        Ok(())
    }

    /// Reads the fp32 weight of `layer`, the scales with which the weight is rounded, and the bias
    /// or batch norm from a prepared checkpoint, which stores the batch norm of layer `X.0` as
    /// `X.0.bn`.
    pub(super) fn prepared(&mut self, layer: &LayerOf<'_>) -> Result<(), QatError> {
        self.weight(layer)?;
        self.fake_quantizer(layer)?;
        let channels = layer.channels();
        let Some(norm) = &layer.norm else {
            let bias = self.float(&format!("{}.bias", layer.path), &[channels])?;
            self.insert(layer.path, "bias", bias);
            return Ok(());
        };
        for name in ["weight", "bias", "running_mean", "running_var"] {
            let tensor = self.float(&format!("{}.bn.{name}", layer.path), &[channels])?;
            self.insert(norm, name, tensor);
        }
        Ok(())
    }

    /// Reads the layer's weight as f32 and checks that the checkpoint has a scale for the layer's
    /// output. Returns the name of the weight.
    fn weight(&mut self, layer: &LayerOf<'_>) -> Result<String, WeightsError> {
        let name = format!("{}.weight", layer.path);
        let weight = self.float(&name, layer.shape)?;
        self.insert(layer.path, "weight", weight);
        self.expect_activation(layer.path);
        Ok(name)
    }

    /// Returns the `count` scales of the weight of the layer at `path`, as torch's `convert`
    /// computes them from the minima and maxima in the weight's observer. They differ from the
    /// scales that training uses, which map the minimum to -128 or the maximum to 127. `None` if
    /// the observer does not hold `count` minima and maxima, or holds initial values because it has
    /// not seen the weight.
    ///
    /// Source: torch's `UniformQuantizationObserverBase._calculate_qparams` and `ChooseQuantizationParams`.
    fn observed_scales(&self, path: &str, count: usize) -> Option<Vec<f32>> {
        let part = |name: &str| {
            let name = format!("{path}.{FAKE_QUANT}.{OBSERVER}.{name}");
            let values = self.state.get(&name)?.to_f32().ok()?;
            (values.len() == count).then_some(values)
        };
        let (min, max) = (part("min_val")?, part("max_val")?);
        min.iter()
            .zip(&max)
            .map(|(min, max)| symmetric_scale(*min, *max))
            .collect()
    }

    /// Reads the scales with which a prepared checkpoint rounds the layer's weight: one for the
    /// whole weight, or one per output channel.
    fn fake_quantizer(&mut self, layer: &LayerOf<'_>) -> Result<(), QatError> {
        let [scale_name, zero_name] =
            ["scale", "zero_point"].map(|part| format!("{}.{FAKE_QUANT}.{part}", layer.path));
        let (Some(scale), Some(zero_point)) = (self.take(&scale_name), self.take(&zero_name))
        else {
            return Ok(());
        };
        let weight = self.state.get(&format!("{}.weight", layer.path));
        // The output channels are those of the checkpoint's weight, whose shape may differ from the
        // architecture's; `finish` reports that difference.
        let rows = weight.and_then(|weight| weight.shape().first().copied());
        let rejected = |expected, got| QatError::Scale {
            name: scale_name.clone(),
            expected,
            got,
        };
        let (expected, got) = (
            "one scale and zero point, or one of each per output channel",
            format!(
                "scales of shape {:?} and zero points of shape {:?}",
                scale.shape(),
                zero_point.shape()
            ),
        );
        let (Ok(scales), Some(zero_points)) = (scale.to_f32(), zero_point.to_i64()) else {
            return Err(rejected(expected, got));
        };
        let scales = self
            .observed_scales(layer.path, scales.len())
            .unwrap_or(scales);
        let scales: Vec<f64> = scales.into_iter().map(f64::from).collect();
        let quantizer = match scales.as_slice() {
            [scale] if zero_points.len() == 1 => Quantizer::per_tensor(*scale, zero_points[0]),
            many if Some(many.len()) == rows => Quantizer::per_channel(scales, zero_points, 0),
            _ => return Err(rejected(expected, got)),
        };
        let quantizer = quantizer.map_err(|error| rejected(error.expected, error.got))?;
        check_symmetric(&zero_name, &quantizer)?;
        self.weights.insert(layer.path.to_owned(), quantizer);
        Ok(())
    }
}

/// Returns the scale with which torch's `convert` rounds weights in `min..=max` symmetrically
/// around 0. `None` if `min` is larger than `max`, or one of them is NaN or infinite.
fn symmetric_scale(min: f32, max: f32) -> Option<f32> {
    let most = (-min).max(max).max(0.0);
    let known = min <= max && most.is_finite();
    known.then(|| (most / HALF_RANGE).max(f32::EPSILON))
}

/// Rejects a weight with a zero point other than 0, or with scales along another axis than the
/// output channels (axis 0). `name` is the tensor that the error names.
fn check_symmetric(name: &str, quantizer: &Quantizer) -> Result<(), QatError> {
    let rejected = |expected, got| {
        let name = name.to_owned();
        Err(QatError::Scale {
            name,
            expected,
            got,
        })
    };
    if let Some(zero_point) = quantizer.zero_points().iter().find(|zero| **zero != 0) {
        return rejected("weights with a zero point of 0", zero_point.to_string());
    }
    match quantizer.axis() {
        None | Some(0) => Ok(()),
        Some(axis) => rejected("weight scales along axis 0", format!("axis {axis}")),
    }
}
