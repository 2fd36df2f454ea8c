//! What quantising a model gave, for people and as JSON.

use std::fmt;

use onnx_export::quantize::{Recipe, Target};
use serde::Serialize;

use super::compare::signal_to_noise;
use super::{Agreement, Choice, Method, QuantizeFailure, Subject};
use crate::engine::Arithmetic;
use crate::image::PreparedImage;

/// Layers that the text names: those that suffer most from 8 bits.
const LISTED: usize = 8;

/// The whole report.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The model's name.
    pub model: String,
    /// Which processors the numbers are chosen for.
    pub target: Target,
    /// Whether int8 answered in simulation, since this processor is no such one.
    pub simulated: bool,
    /// Float against int8 on the calibration pictures.
    pub agreement: Agreement,
    /// The float model.
    pub fp32: Timing,
    /// The int8 model.
    pub int8: Timing,
    /// Its networks: one, or two of a detector in two stages.
    pub networks: Vec<NetworkReport>,
}

/// Size and speed of one precision.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Timing {
    /// Bytes of its ONNX files.
    pub bytes: usize,
    /// Median time of a picture's inference on this machine, one thread, in milliseconds.
    pub milliseconds: f64,
}

/// What was chosen for one network.
#[derive(Debug, Serialize)]
pub struct NetworkReport {
    /// How its ranges were chosen.
    pub method: Method,
    /// Mean cosine similarity of its outputs with the float network's.
    pub cosine: f64,
    /// Share of its multiplications that are in int8.
    pub int8_share: f64,
    /// Every Conv and Gemm, in the order of computation.
    pub layers: Vec<LayerReport>,
}

/// One layer.
#[derive(Debug, Serialize)]
pub struct LayerReport {
    /// Its node's name.
    pub name: String,
    /// Whether it is in int8.
    pub int8: bool,
    /// What it alone in int8 takes from the cosine of the outputs; none for what was left in float
    /// without a search.
    pub sensitivity: Option<f64>,
    /// Signal over noise of its result in the int8 network, in decibels.
    pub snr_db: Option<f64>,
}

impl NetworkReport {
    /// Measures every layer's noise on `pictures` and puts it beside what the search found.
    ///
    /// # Errors
    /// [`QuantizeFailure`] if a network fails.
    pub fn new(
        subject: &Subject<'_>,
        choice: &Choice,
        target: Target,
        pictures: &[PreparedImage],
    ) -> Result<Self, QuantizeFailure> {
        let recipe = &choice.recipe;
        let noise = noise(subject, recipe, target, pictures)?;
        let layers = subject.network.layers().iter().map(|layer| {
            let by_name = |list: &[(String, f64)]| {
                let found = list.iter().find(|(name, _)| *name == layer.name);
                found.map(|(_, number)| *number)
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
            int8_share: 1.0 - choice.float_share,
            layers: layers.collect(),
        })
    }
}

/// Signal over noise of every int8 layer's result, averaged over the pictures.
fn noise(
    subject: &Subject<'_>,
    recipe: &Recipe,
    target: Target,
    pictures: &[PreparedImage],
) -> Result<Vec<(String, f64)>, QuantizeFailure> {
    let layers = subject.network.layers().iter();
    let results = layers.filter_map(|layer| {
        let (float, int8) = subject.network.result(layer, recipe)?;
        Some((layer.name.clone(), float, int8))
    });
    let results: Vec<_> = results.collect();
    if results.is_empty() {
        // A graph without outputs is none.
        return Ok(Vec::new());
    }
    let fetch = |pick: fn(&(String, String, String)) -> &String| -> Vec<String> {
        results.iter().map(pick).cloned().collect()
    };
    let float = subject.network.fetching(&fetch(|(_, float, _)| float));
    let int8 = fetch(|(_, _, int8)| int8);
    let int8 = subject.network.quantize_fetching(recipe, target, &int8)?;
    let mut float = subject.probe(&float, Arithmetic::Kernels)?;
    let mut int8 = subject.probe(&int8, Arithmetic::Simulated)?;
    let mut sums = vec![0.0; results.len()];
    let mut seen = 0.0;
    for picture in pictures {
        let pair = (float.run(picture.clone())?, int8.run(picture.clone())?);
        let (Some(float), Some(int8)) = pair else {
            continue;
        };
        seen += 1.0;
        for ((sum, float), int8) in sums.iter_mut().zip(&float).zip(&int8) {
            *sum += signal_to_noise(&float.data, &int8.data);
        }
    }
    let names = results.into_iter().map(|(name, _, _)| name);
    Ok(names
        .zip(sums.iter().map(|sum| sum / f64::max(seen, 1.0)))
        .collect())
}

impl Report {
    /// How many times as fast int8 is.
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
            Target::Avx2 => "avx2 (7-bit weights: this kind of processor adds products in 16 bits)",
        };
        writeln!(
            f,
            "{}, float against int8 on {} pictures",
            self.model, agreement.pictures
        )?;
        let how = if self.simulated {
            "; simulated, since this processor is another"
        } else {
            ""
        };
        writeln!(f, "  target       {target}{how}")?;
        writeln!(f, "  agreement    {:.1} %", agreement.agreement * 100.0)?;
        let (mean, worst) = (agreement.mean_change, agreement.worst_change);
        writeln!(f, "  score change {mean:.4} mean, {worst:.4} worst")?;
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

impl fmt::Display for NetworkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_float: Vec<&LayerReport> = self.layers.iter().filter(|layer| !layer.int8).collect();
        writeln!(f, "  ranges       {}", self.method)?;
        writeln!(
            f,
            "  outputs      cosine {:.4} with the float network's",
            self.cosine
        )?;
        let share = self.int8_share * 100.0;
        writeln!(
            f,
            "  in int8      {share:.1} % of the multiplications; in float {} of {} layers:",
            in_float.len(),
            self.layers.len()
        )?;
        for layer in in_float {
            writeln!(f, "                 {}", layer.name)?;
        }
        let mut noisy: Vec<(&str, f64)> = self
            .layers
            .iter()
            .filter_map(|layer| Some((layer.name.as_str(), layer.snr_db?)))
            .collect();
        noisy.sort_by(|(_, one), (_, other)| one.total_cmp(other));
        writeln!(f, "  noisiest     signal over noise of a layer's result")?;
        for (name, snr) in noisy.into_iter().take(LISTED) {
            writeln!(f, "    {snr:8.1} dB {name}")?;
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
