//! A convolution or linear layer of the float network, and the tensors that a checkpoint has for it.

use std::collections::BTreeMap;

use super::import::{Import, OBSERVER};
use super::{FAKE_QUANT, QatError};
use crate::weights::{Quantizer, Tensor, WeightsError};

/// Half the steps from -128 to 127.
const HALF_RANGE: f32 = 127.5;

/// A layer of the float network.
pub(super) struct LayerOf<'a> {
    pub(super) path: &'a str,
    /// Of its weight, outermost the output channels.
    shape: &'a [usize],
    /// Path of the batch norm after a layer without a bias.
    norm: Option<String>,
}

impl<'a> LayerOf<'a> {
    /// The layer at `path`, whose weight has this shape, in the network of tensors `shapes`.
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

/// The batch norm after a convolution: `X.0` has `X.1`, `X.conv1` has `X.bn1`.
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
    /// A quantised weight and its bias, which a batch norm of this variance carries where the float network
    /// has no bias.
    pub(super) fn converted(&mut self, layer: &LayerOf<'_>, variance: f32) -> Result<(), QatError> {
        let name = self.weight(layer)?;
        match self.state.get(&name).map(Tensor::quantizer) {
            Some(Some(quantizer)) => {
                let quantizer = quantizer.clone();
                check_symmetric(&name, &quantizer)?;
                self.weights.insert(layer.path.to_owned(), quantizer);
            }
            Some(None) => self.mismatch(&name, layer.shape, Some("it is not quantised".to_owned())),
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

    /// A float weight, the scale that it is rounded with, and its bias or batch norm, which such a
    /// checkpoint has inside the layer: `X.0.bn`.
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

    /// The weight as floats, and that there is a scale of the layer's output. Gives the weight's name.
    fn weight(&mut self, layer: &LayerOf<'_>) -> Result<String, WeightsError> {
        let name = format!("{}.weight", layer.path);
        let weight = self.float(&name, layer.shape)?;
        self.insert(layer.path, "weight", weight);
        self.expect_activation(layer.path);
        Ok(name)
    }

    /// The scales that `convert` gives a weight, where its observer has seen one: not those of training, whose
    /// steps lie between -128 and 127 on their own side of 0 each.
    ///
    /// Source: torch's `UniformQuantizationObserverBase._calculate_qparams` and `ChooseQuantizationParams`.
    fn observed_scales(&self, path: &str, count: usize) -> Option<Vec<f32>> {
        let part = |name: &str| {
            let name = format!("{path}.{FAKE_QUANT}.{OBSERVER}.{name}");
            let values = self.state.get(&name)?.to_f32().ok()?;
            (values.len() == count).then_some(values)
        };
        let (min, max) = (part("min_val")?, part("max_val")?);
        min.iter().zip(&max).map(symmetric_scale).collect()
    }

    /// How a weight in training is rounded: with one scale, or one a channel.
    fn fake_quantizer(&mut self, layer: &LayerOf<'_>) -> Result<(), QatError> {
        let [scale_name, zero_name] =
            ["scale", "zero_point"].map(|part| format!("{}.{FAKE_QUANT}.{part}", layer.path));
        let (Some(scale), Some(zero_point)) = (self.take(&scale_name), self.take(&zero_name))
        else {
            return Ok(());
        };
        let weight = self.state.get(&format!("{}.weight", layer.path));
        // Those of the checkpoint, whose shape may be a problem already.
        let rows = weight.and_then(|weight| weight.shape().first().copied());
        let refused = |expected, got| QatError::Scale {
            name: scale_name.clone(),
            expected,
            got,
        };
        let (expected, got) = (
            "one scale and zero point, or one a channel",
            format!("{:?} and {:?}", scale.shape(), zero_point.shape()),
        );
        let (Ok(scales), Some(zero_points)) = (scale.to_f32(), zero_point.to_i64()) else {
            return Err(refused(expected, got));
        };
        let scales = self
            .observed_scales(layer.path, scales.len())
            .unwrap_or(scales);
        let scales: Vec<f64> = scales.into_iter().map(f64::from).collect();
        let quantizer = match scales.as_slice() {
            [scale] if zero_points.len() == 1 => Quantizer::per_tensor(*scale, zero_points[0]),
            many if Some(many.len()) == rows => Quantizer::per_channel(scales, zero_points, 0),
            _ => return Err(refused(expected, got)),
        };
        let quantizer = quantizer.map_err(|error| refused(error.expected, error.got))?;
        check_symmetric(&zero_name, &quantizer)?;
        self.weights.insert(layer.path.to_owned(), quantizer);
        Ok(())
    }
}

/// The symmetric scale of weights between these numbers, as torch's `convert` computes it.
fn symmetric_scale((min, max): (&f32, &f32)) -> Option<f32> {
    let most = (-min).max(*max).max(0.0);
    let known = min <= max && most.is_finite();
    known.then(|| (most / HALF_RANGE).max(f32::EPSILON))
}

/// Refuses weights whose zero is not 0, or that have scales along another axis than the outputs.
fn check_symmetric(name: &str, quantizer: &Quantizer) -> Result<(), QatError> {
    let refused = |expected, got| {
        let name = name.to_owned();
        Err(QatError::Scale {
            name,
            expected,
            got,
        })
    };
    if let Some(zero_point) = quantizer.zero_points().iter().find(|zero| **zero != 0) {
        return refused("weights with a zero point of 0", zero_point.to_string());
    }
    match quantizer.axis() {
        None | Some(0) => Ok(()),
        Some(axis) => refused("scales for output channels", format!("axis {axis}")),
    }
}
