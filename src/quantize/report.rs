//! The report of a quantization, as text and as JSON.

use std::fmt;

use onnx_export::quantize::{LayerResult, Recipe, Target};
use onnx_export::text::shown;
use serde::Serialize;

use super::compare::signal_to_noise;
use super::{Agreement, Choice, HeldOut, Method, QuantizeFailure, Subject};
use crate::engine::Arithmetic;
use crate::image::PreparedImage;

/// Number of layers that the text report lists as the noisiest, with the lowest signal-to-noise
/// ratios.
const LISTED: usize = 8;

/// Comparison of the int8 model with the fp32 model, and how each of its networks is quantized.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Name of the model.
    pub model: String,
    /// The CPUs for which the model is quantized.
    pub target: Target,
    /// Whether the int8 results were computed by a simulation, because this CPU is not of the
    /// family `target`.
    pub simulated: bool,
    /// Number of images for calibration and for the comparison.
    #[serde(rename = "photographs")]
    pub images: ImageCounts,
    /// Agreement between fp32 and int8 on the held-out images, or on the calibration image if there are none.
    pub agreement: Agreement,
    /// Mean cosine similarity of the pooled features that fp32 and int8 compute for these images. `None` if the network is
    /// none that has them.
    pub embedding_cosine: Option<f64>,
    /// Size and latency of the fp32 model.
    pub fp32: Timing,
    /// Size and latency of the int8 model.
    pub int8: Timing,
    /// The model's networks in the order in which they run: two for a two-stage detector, one for
    /// every other model.
    pub networks: Vec<NetworkReport>,
}

/// Number of images by their use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ImageCounts {
    /// Images for calibration and search.
    pub calibration: usize,
    /// Images that neither calibration nor search use, on which fp32 and int8 are compared. 0 if there is only one
    /// image, which is then used for everything.
    pub held_out: usize,
}

/// Size and latency of a model in one precision, fp32 or int8.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Timing {
    /// Size of the model's ONNX files in bytes.
    pub bytes: usize,
    /// Latency of one image with one thread on this machine, in milliseconds: the lower quartile of the runs.
    pub milliseconds: f64,
}

/// How one network is quantized, and how close its outputs are to those of the fp32 network.
#[derive(Debug, Serialize)]
pub struct NetworkReport {
    /// Method by which the activation ranges were chosen.
    pub method: Method,
    /// Mean cosine similarity between the outputs of the int8 and the fp32 network, over the images
    /// of the search.
    pub cosine: f64,
    /// Comparison of the outputs on the held-out images.
    pub held_out: HeldOut,
    /// Share of the network's multiplications, 0 to 1, that run in int8.
    pub int8_share: f64,
    /// Every Conv and Gemm layer of the network, in the order of computation.
    pub layers: Vec<LayerReport>,
}

/// Precision of one layer, and what quantizing it costs in accuracy.
#[derive(Debug, Serialize)]
pub struct LayerReport {
    /// Name of the layer's node in the fp32 file.
    pub name: String,
    /// Whether the layer runs in int8.
    pub int8: bool,
    /// Decrease of the cosine similarity between the network's outputs and the fp32 outputs if only
    /// this layer runs in int8. `None` if the layer is always kept in fp32 and was not measured.
    pub sensitivity: Option<f64>,
    /// Signal-to-noise ratio of the layer's result in the int8 network, in decibels. `None` if the
    /// layer is kept in fp32 or its result is not quantized.
    pub snr_db: Option<f64>,
}

impl NetworkReport {
    /// Measures the quantization noise of every layer on `images` and combines it with `choice`,
    /// the result of the search, and with `held_out`, the comparison on held-out images.
    ///
    /// # Errors
    /// [`QuantizeFailure`] if a network cannot be quantized or run.
    pub fn new(
        subject: &Subject<'_>,
        choice: &Choice,
        target: Target,
        images: &[PreparedImage],
        held_out: HeldOut,
    ) -> Result<Self, QuantizeFailure> {
        let recipe = &choice.recipe;
        let noise = noise(subject, recipe, target, images)?;
        let layers = subject.network.layers().iter().map(|layer| {
            let by_name = |list: &[(String, f64)]| {
                let found = list.iter().find(|(name, _)| *name == layer.name);
                found.map(|(_, value)| *value)
            };
            LayerReport {
                name: layer.name.clone(),
                int8: !recipe.float_layers.contains(&layer.name),
                sensitivity: by_name(&choice.sensitivities),
                snr_db: by_name(&noise),
            }
        });
        Ok(Self {
            method: choice.method,
            cosine: choice.cosine,
            held_out,
            int8_share: 1.0 - choice.float_share,
            layers: layers.collect(),
        })
    }
}

/// Returns the name of every int8 layer with the signal-to-noise ratio of its result in decibels,
/// averaged over the images.
fn noise(
    subject: &Subject<'_>,
    recipe: &Recipe,
    target: Target,
    images: &[PreparedImage],
) -> Result<Vec<(String, f64)>, QuantizeFailure> {
    let layers = subject.network.layers().iter();
    let results = layers.filter_map(|layer| {
        let result = subject.network.result(layer, recipe)?;
        Some((layer.name.clone(), result))
    });
    let results: Vec<(String, LayerResult)> = results.collect();
    if results.is_empty() {
        // No layer has a quantized result to compare, and a graph without outputs is invalid.
        return Ok(Vec::new());
    }
    let names = |pick: fn(&LayerResult) -> &String| -> Vec<String> {
        let names = results.iter().map(|(_, result)| pick(result).clone());
        names.collect()
    };
    let float = subject.network.fetching(&names(|result| &result.fp32));
    let int8 = names(|result| &result.int8);
    let int8 = subject.network.quantize_fetching(recipe, target, &int8)?;
    let mut float = subject.probe(&float, Arithmetic::Kernels)?;
    let mut int8 = subject.probe(&int8, Arithmetic::Simulated)?;
    let mut sums = vec![0.0; results.len()];
    let mut count = 0.0;
    for image in images {
        let pair = (float.run(image.clone())?, int8.run(image.clone())?);
        let (Some(float), Some(int8)) = pair else {
            continue;
        };
        count += 1.0;
        for ((sum, float), int8) in sums.iter_mut().zip(&float).zip(&int8) {
            *sum += signal_to_noise(&float.data, &int8.data);
        }
    }
    let names = results.into_iter().map(|(name, _)| name);
    Ok(names
        .zip(sums.iter().map(|sum| sum / f64::max(count, 1.0)))
        .collect())
}

impl Report {
    /// Returns how many times as fast int8 is: the fp32 latency divided by the int8 latency.
    pub fn speedup(&self) -> f64 {
        self.fp32.milliseconds / self.int8.milliseconds.max(1e-9)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            agreement,
            fp32,
            int8,
            ..
        } = self;
        let target = match self.target {
            Target::Vnni => "vnni (8-bit weights)",
            Target::Avx2 => "avx2 (7-bit weights: CPUs without VNNI add products in 16 bits)",
        };
        writeln!(f, "{}, fp32 against int8 {}", self.model, self.images)?;
        let how = if self.simulated {
            "; simulated, because this CPU is not of the target family"
        } else {
            ""
        };
        writeln!(f, "  target       {target}{how}")?;
        writeln!(f, "  agreement    {:.1} %", agreement.agreement * 100.0)?;
        let (mean, worst) = (agreement.mean_change, agreement.worst_change);
        writeln!(f, "  score change {mean:.4} mean, {worst:.4} worst")?;
        if let Some(cosine) = self.embedding_cosine {
            writeln!(f, "  embeddings   cosine {cosine:.4} with those of fp32")?;
        }
        let megabytes = |timing: &Timing| timing.bytes as f64 / 1e6;
        let ratio = int8.bytes as f64 / fp32.bytes.max(1) as f64;
        writeln!(
            f,
            "  size         {:.2} MB -> {:.2} MB ({ratio:.3})",
            megabytes(fp32),
            megabytes(int8)
        )?;
        writeln!(
            f,
            "  latency      {:.2} ms -> {:.2} ms ({:.2} times as fast; 1 thread, this machine)",
            fp32.milliseconds,
            int8.milliseconds,
            self.speedup()
        )?;
        for (index, network) in self.networks.iter().enumerate() {
            if self.networks.len() > 1 {
                let names = ["features and proposals", "box head"];
                writeln!(f, " {}", names.get(index).unwrap_or(&"network"))?;
            }
            network.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for ImageCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            calibration,
            held_out,
        } = self;
        let images = match held_out {
            0 => {
                return f
                    .write_str("on the calibration image: no other image was left to hold out");
            }
            1 => "image",
            _ => "images",
        };
        let others = if *calibration == 1 { "other" } else { "others" };
        write!(
            f,
            "on {held_out} held-out {images}, calibrated on {calibration} {others}"
        )
    }
}

impl fmt::Display for NetworkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_float: Vec<&LayerReport> = self.layers.iter().filter(|layer| !layer.int8).collect();
        writeln!(f, "  ranges       {}", self.method)?;
        let HeldOut {
            cosine,
            kept_variation,
            ..
        } = self.held_out;
        writeln!(
            f,
            "  outputs      cosine {cosine:.4} with the fp32 network's, {:.4} in the search",
            self.cosine
        )?;
        if let Some(kept) = kept_variation {
            let kept = kept * 100.0;
            writeln!(
                f,
                "  variation    {kept:.0} % of the fp32 outputs' between images"
            )?;
        }
        let share = self.int8_share * 100.0;
        writeln!(
            f,
            "  in int8      {share:.1} % of the multiplications; in fp32 {} of {} layers:",
            in_float.len(),
            self.layers.len()
        )?;
        for layer in in_float {
            writeln!(f, "                 {}", shown(&layer.name))?;
        }
        let mut noisy: Vec<(&str, f64)> = self
            .layers
            .iter()
            .filter_map(|layer| Some((layer.name.as_str(), layer.snr_db?)))
            .collect();
        noisy.sort_by(|(_, one), (_, other)| one.total_cmp(other));
        writeln!(
            f,
            "  noisiest     signal-to-noise ratio of a layer's result"
        )?;
        for (name, snr) in noisy.into_iter().take(LISTED) {
            writeln!(f, "    {snr:8.1} dB {}", shown(name))?;
        }
        Ok(())
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minmax => f.write_str("minmax"),
            Self::Percentile(percentile) => write!(f, "percentile {percentile}"),
            Self::Entropy => f.write_str("entropy"),
            Self::Mse => f.write_str("mse"),
        }
    }
}
