//! The sensitivity search: which layers are kept in fp32, at the least cost in speed.
//!
//! First, each layer in turn is quantized while all other layers stay in fp32. The resulting
//! decrease of the cosine similarity of the network's outputs, divided by the time that int8 saves
//! for the layer, gives the order in which layers are kept in fp32. Layers are kept in fp32 until
//! the quantized network is as close to the fp32 network as requested, or the allowed share of
//! multiplications is used up.

use std::collections::{BTreeMap, BTreeSet};

use onnx_export::quantize::{Range, Recipe, Target};

use super::compare::{OutputSet, mean_cosine};
use super::{Method, Progress, QuantizeFailure, Statistics, Subject};
use crate::engine::Arithmetic;
use crate::image::PreparedImage;

/// The method of choosing activation ranges for the sensitivity measurements, unless the user
/// chooses a method. Of all methods, it is the most robust one for networks whose activations have
/// outliers.
const FIRST_METHOD: Method = Method::Percentile(99.99);
/// The methods of choosing activation ranges that are compared, unless the user chooses a method.
/// On the measured networks `Mse` is as good as the higher percentile or worse, and `Minmax` and
/// `Entropy` are worse (docs/quantization.md).
const METHODS: [Method; 2] = [FIRST_METHOD, Method::Percentile(99.999)];

/// The goal and the limits of a search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    /// The CPUs for which the int8 model is quantized.
    pub target: Target,
    /// Mean cosine similarity between int8 and fp32 outputs that ends the search when it is
    /// reached.
    pub cosine: f64,
    /// Largest share of the network's multiplications, 0 to 1, that may be kept in fp32.
    pub max_float: f64,
    /// Method by which activation ranges are chosen. `None` to try several methods and use the one
    /// whose int8 network comes closest to the fp32 network.
    pub method: Option<Method>,
}

/// The result of a search.
#[derive(Debug, Clone)]
pub struct Choice {
    /// Activation ranges, channel means and fp32 layers with which the network is to be quantized.
    pub recipe: Recipe,
    /// Method by which the activation ranges of the recipe were chosen.
    pub method: Method,
    /// Mean cosine similarity of the quantized network's outputs with the fp32 network's.
    pub cosine: f64,
    /// Share of the network's multiplications, 0 to 1, that are kept in fp32.
    pub float_share: f64,
    /// Name of each measured layer, with the decrease of the cosine similarity of the network's
    /// outputs if only this layer is quantized.
    pub sensitivities: Vec<(String, f64)>,
}

/// Searches for the recipe that reaches `goal` with the least loss of speed. Recipes are tried on
/// `images`, which may be fewer than the images of `statistics`.
///
/// # Errors
/// [`QuantizeFailure`] if a network cannot be quantized or run.
pub fn search(
    subject: &Subject<'_>,
    statistics: &Statistics,
    images: &[PreparedImage],
    goal: Goal,
    progress: &dyn Progress,
) -> Result<Choice, QuantizeFailure> {
    let search = Search {
        subject,
        statistics,
        images,
        goal,
        progress,
        reference: reference(subject, images)?,
    };
    let stem = search.stem();
    let first = goal.method.unwrap_or(FIRST_METHOD);
    let sensitivities = search.sensitivities(first, &stem)?;
    let choice = search.choose_layers(first, &stem, &sensitivities)?;
    if goal.method.is_some() {
        return Ok(choice);
    }
    // Methods are compared only now: the layers that are inaccurate with every method are in fp32,
    // and would hide the differences between the methods in int8.
    let best = search.best_method(&choice.recipe.float_layers)?;
    if best == first {
        return Ok(choice);
    }
    search.choose_layers(best, &stem, &sensitivities)
}

/// Returns the outputs of the fp32 network for each image.
fn reference(
    subject: &Subject<'_>,
    images: &[PreparedImage],
) -> Result<Vec<OutputSet>, QuantizeFailure> {
    let outputs: Vec<String> = subject.network.outputs().map(str::to_owned).collect();
    let model = subject.network.fetching(&outputs);
    let mut probe = subject.probe(&model, Arithmetic::Kernels)?;
    let outputs = images.iter().map(|image| probe.run(image.clone()));
    Ok(outputs.collect::<Result<_, _>>()?)
}

/// A search in progress.
pub(super) struct Search<'a> {
    pub(super) subject: &'a Subject<'a>,
    pub(super) statistics: &'a Statistics,
    images: &'a [PreparedImage],
    pub(super) goal: Goal,
    progress: &'a dyn Progress,
    /// Outputs of the fp32 network for each image.
    reference: Vec<OutputSet>,
}

/// A recipe that was tried, with the mean cosine similarity between the outputs of the network
/// quantized by it and the fp32 outputs.
struct Trial {
    cosine: f64,
    recipe: Recipe,
}

impl Search<'_> {
    /// Returns the layers that are always kept in fp32: the convolutions that read the image. The
    /// image's three channels are too few for the integer kernels, which take twice the time of the
    /// fp32 kernels. Empty for a box head, which does not read the image.
    fn stem(&self) -> BTreeSet<String> {
        let inputs: BTreeSet<&str> = self.subject.network.inputs().collect();
        let layers = self.subject.network.layers().iter();
        let stem = layers.filter(|layer| layer.is_conv && inputs.contains(layer.input.as_str()));
        let is_second_stage = self.subject.first.is_some();
        stem.filter(|_| !is_second_stage)
            .map(|layer| layer.name.clone())
            .collect()
    }

    /// Returns the activation range of every value, chosen by `method`, by the value's name.
    fn ranges(&self, method: Method) -> BTreeMap<String, Range> {
        let values = self.statistics.values.iter();
        values
            .map(|(name, value)| (name.clone(), value.histogram.choose(method)))
            .collect()
    }

    /// Returns the recipe with the activation ranges `ranges`, the fp32 layers `float_layers`, and
    /// the channel means of the inputs of all int8 layers.
    pub(super) fn recipe(
        &self,
        ranges: &BTreeMap<String, Range>,
        float_layers: BTreeSet<String>,
    ) -> Recipe {
        let layers = self.subject.network.layers().iter();
        let inputs: BTreeSet<&String> = layers
            .filter(|layer| !float_layers.contains(&layer.name))
            .map(|layer| &layer.input)
            .collect();
        let means = self.statistics.channel_means.iter();
        let means = means.filter(|(value, _)| inputs.contains(value));
        Recipe {
            ranges: ranges.clone(),
            channel_means: means
                .map(|(value, means)| (value.clone(), means.clone()))
                .collect(),
            float_layers,
            ..Recipe::default()
        }
    }

    /// Quantizes the network by `recipe` and returns the mean cosine similarity between its outputs
    /// and the fp32 outputs.
    fn cosine(&self, recipe: &Recipe) -> Result<f64, QuantizeFailure> {
        let model = self.subject.network.quantize(recipe, self.goal.target)?;
        let mut probe = self.subject.probe(&model, Arithmetic::Simulated)?;
        let mut sum = 0.0;
        for (image, reference) in self.images.iter().zip(&self.reference) {
            sum += mean_cosine(&probe.run(image.clone())?, reference);
        }
        Ok(sum / self.images.len().max(1) as f64)
    }

    /// Returns the method of choosing activation ranges with which the int8 network comes closest
    /// to the fp32 network, if the layers `float` are kept in fp32.
    fn best_method(&self, float: &BTreeSet<String>) -> Result<Method, QuantizeFailure> {
        self.progress.start("methods", METHODS.len());
        let mut best = (f64::NEG_INFINITY, FIRST_METHOD);
        for method in METHODS {
            let recipe = self.recipe(&self.ranges(method), float.clone());
            let cosine = self.cosine(&recipe)?;
            if cosine > best.0 {
                best = (cosine, method);
            }
            self.progress.step();
        }
        Ok(best.1)
    }

    /// Returns each layer outside `stem` with the decrease of the cosine similarity of the
    /// network's outputs if only this layer is quantized.
    fn sensitivities(
        &self,
        method: Method,
        stem: &BTreeSet<String>,
    ) -> Result<Vec<(String, f64)>, QuantizeFailure> {
        let layers = self.subject.network.layers();
        let all: BTreeSet<String> = layers.iter().map(|layer| layer.name.clone()).collect();
        self.progress
            .start("sensitivity", layers.len() - stem.len());
        let mut sensitivities = Vec::new();
        let recipe = self.recipe(&self.ranges(method), BTreeSet::new());
        for layer in all.iter().filter(|layer| !stem.contains(*layer)) {
            let mut alone = recipe.clone();
            let others = all.iter().filter(|other| *other != layer);
            alone.float_layers = others.cloned().collect();
            sensitivities.push((layer.clone(), 1.0 - self.cosine(&alone)?));
            self.progress.step();
        }
        Ok(sensitivities)
    }

    /// Returns the choice with the fewest fp32 layers that reaches the goal. Tries 1, 2, 4, ...
    /// fp32 layers in descending order of sensitivity per cost until the goal is reached, then
    /// finds the smallest sufficient number by bisection.
    fn choose_layers(
        &self,
        method: Method,
        stem: &BTreeSet<String>,
        sensitivities: &[(String, f64)],
    ) -> Result<Choice, QuantizeFailure> {
        let order = self.worst_first(sensitivities);
        let steps = 2 * order.len().max(2).ilog2() as usize + 1;
        self.progress.start("choosing", steps);
        let ranges = self.ranges(method);
        let max_weights = self.max_float_weights(&ranges, stem)?;
        let fits = |float: &BTreeSet<String>| {
            let multiplications = self.float_share(float);
            multiplications <= self.goal.max_float && self.weight_share(float) <= max_weights
        };
        let evaluate = |count: usize| -> Result<Trial, QuantizeFailure> {
            let recipe = self.recipe(&ranges, grown(stem, &order[..count], fits));
            let cosine = self.cosine(&recipe)?;
            self.progress.step();
            Ok(Trial { cosine, recipe })
        };
        let Trial { cosine, recipe } = fewest_layers(order.len(), self.goal.cosine, evaluate)?;
        Ok(Choice {
            float_share: self.float_share(&recipe.float_layers),
            recipe,
            method,
            cosine,
            sensitivities: sensitivities.to_vec(),
        })
    }

    /// Returns the names of the layers in descending order of their sensitivity, divided by the
    /// cost of keeping the layer in fp32.
    fn worst_first<'n>(&self, sensitivities: &'n [(String, f64)]) -> Vec<&'n str> {
        let mut order: Vec<(&str, f64)> = sensitivities
            .iter()
            .map(|(name, loss)| (name.as_str(), loss / self.cost(name).max(1.0)))
            .collect();
        order.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        order.into_iter().map(|(name, _)| name).collect()
    }
}

/// Returns the trial with the fewest fp32 layers that reaches the similarity `cosine`, or the trial
/// with the highest similarity if none reaches it. `evaluate(n)` tries the first `n` of `layers`
/// layers in fp32.
fn fewest_layers(
    layers: usize,
    cosine: f64,
    evaluate: impl Fn(usize) -> Result<Trial, QuantizeFailure>,
) -> Result<Trial, QuantizeFailure> {
    let (mut low, mut count, mut best) = (0, 0, evaluate(0)?);
    while best.cosine < cosine && count < layers {
        low = count;
        count = (2 * count).max(1).min(layers);
        let next = evaluate(count)?;
        if next.cosine > best.cosine || next.cosine >= cosine {
            best = next;
        }
    }
    // Bisection between the last number of fp32 layers that was too small and the first one that
    // was sufficient.
    let mut enough = count;
    while best.cosine >= cosine && enough > low + 1 {
        let middle = usize::midpoint(low, enough);
        let next = evaluate(middle)?;
        if next.cosine >= cosine {
            (enough, best) = (middle, next);
        } else {
            low = middle;
        }
    }
    Ok(best)
}

/// Returns the set `stem` with every layer of `layers`, added in order, with which the set still
/// passes `fits`.
fn grown(
    stem: &BTreeSet<String>,
    layers: &[&str],
    fits: impl Fn(&BTreeSet<String>) -> bool,
) -> BTreeSet<String> {
    let mut float = stem.clone();
    for layer in layers {
        float.insert((*layer).to_owned());
        if !fits(&float) {
            float.remove(*layer);
        }
    }
    float
}
