//! The sensitivity search: which layers stay in float, for the least speed given up.
//!
//! One layer at a time is made int8 while all others stay in float; what that does to the network's
//! outputs, over the time that its 8-bit form saves, is the order in which layers are given back to
//! float, until the whole network is as near to the float one as asked, or the share of multiplications
//! that may be in float is used up.

use std::collections::{BTreeMap, BTreeSet};

use onnx_export::quantize::{Range, Recipe, Target};

use super::compare::{OutputSet, mean_cosine};
use super::{Method, Progress, QuantizeFailure, Statistics, Subject};
use crate::engine::Arithmetic;
use crate::image::PreparedImage;

/// What a search begins with where no method is asked for: the one that fails least on networks with
/// outliers.
const FIRST_METHOD: Method = Method::Percentile(99.99);
/// What is chosen from then. On the networks that were measured the mean squared error comes out as the
/// higher percentile or worse, and minmax and entropy worse (docs/quantization.md).
const METHODS: [Method; 2] = [FIRST_METHOD, Method::Percentile(99.999)];
/// What a search aims at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    /// Mean cosine similarity of the outputs with the float network's.
    pub cosine: f64,
    /// Most of the multiplications that may stay in float.
    pub max_float: f64,
    /// How ranges are chosen; none: by whichever way comes nearest to the float network.
    pub method: Option<Method>,
}

/// What a search found.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The recipe.
    pub recipe: Recipe,
    /// How its ranges were chosen.
    pub method: Method,
    /// Its outputs' mean cosine similarity with the float network's.
    pub cosine: f64,
    /// Share of the multiplications that are in float.
    pub float_share: f64,
    /// Layers by name: what each alone, in int8, takes from the cosine.
    pub sensitivities: Vec<(String, f64)>,
}

/// Searches with `pictures`; fewer than the statistics were made of will do.
///
/// # Errors
/// [`QuantizeFailure`] if a network fails.
pub fn search(
    subject: &Subject<'_>,
    statistics: &Statistics,
    pictures: &[PreparedImage],
    target: Target,
    goal: Goal,
    progress: &dyn Progress,
) -> Result<Choice, QuantizeFailure> {
    let search = Search {
        subject,
        statistics,
        pictures,
        target,
        reference: reference(subject, pictures)?,
    };
    let stem = search.stem();
    let first = goal.method.unwrap_or(FIRST_METHOD);
    let sensitivities = search.sensitivities(first, &stem, progress)?;
    let choice = search.descend(first, goal, &stem, &sensitivities, progress)?;
    if goal.method.is_some() {
        return Ok(choice);
    }
    // Methods can only be told apart once the layers that none of them helps are in float.
    let best = search.best_method(&choice.recipe.float_layers, progress)?;
    if best == first {
        return Ok(choice);
    }
    search.descend(best, goal, &stem, &sensitivities, progress)
}

/// The float network's outputs.
fn reference(
    subject: &Subject<'_>,
    pictures: &[PreparedImage],
) -> Result<Vec<OutputSet>, QuantizeFailure> {
    let outputs: Vec<String> = subject.network.outputs().map(str::to_owned).collect();
    let model = subject.network.fetching(&outputs);
    let mut probe = subject.probe(&model, Arithmetic::Kernels)?;
    let run = pictures.iter().map(|picture| probe.run(picture.clone()));
    Ok(run.collect::<Result<_, _>>()?)
}

pub(super) struct Search<'a> {
    pub(super) subject: &'a Subject<'a>,
    pub(super) statistics: &'a Statistics,
    pictures: &'a [PreparedImage],
    pub(super) target: Target,
    reference: Vec<OutputSet>,
}

impl Search<'_> {
    /// What stays in float from the start: the convolution that reads the picture, whose three channels are
    /// too few for the integer kernels, which take twice the time of the float ones.
    fn stem(&self) -> BTreeSet<String> {
        let inputs: BTreeSet<&str> = self.subject.network.inputs().collect();
        let layers = self.subject.network.layers().iter();
        let stem = layers.filter(|layer| layer.is_conv && inputs.contains(layer.input.as_str()));
        let is_box_head = self.subject.first.is_some();
        stem.filter(|_| !is_box_head)
            .map(|layer| layer.name.clone())
            .collect()
    }

    fn ranges(&self, method: Method) -> BTreeMap<String, Range> {
        let values = self.statistics.values.iter();
        values
            .map(|(name, value)| (name.clone(), value.histogram.choose(method)))
            .collect()
    }

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

    /// The outputs' mean cosine similarity with the float network's.
    fn cosine(&self, recipe: &Recipe) -> Result<f64, QuantizeFailure> {
        let model = self.subject.network.quantize(recipe, self.target)?;
        let mut probe = self.subject.probe(&model, Arithmetic::Simulated)?;
        let mut sum = 0.0;
        for (picture, reference) in self.pictures.iter().zip(&self.reference) {
            sum += mean_cosine(&probe.run(picture.clone())?, reference);
        }
        Ok(sum / self.pictures.len().max(1) as f64)
    }

    /// The method that comes nearest to the float network where these layers are in float.
    fn best_method(
        &self,
        float: &BTreeSet<String>,
        progress: &dyn Progress,
    ) -> Result<Method, QuantizeFailure> {
        progress.start("methods", METHODS.len());
        let mut best = (f64::NEG_INFINITY, FIRST_METHOD);
        for method in METHODS {
            let recipe = self.recipe(&self.ranges(method), float.clone());
            let cosine = self.cosine(&recipe)?;
            if cosine > best.0 {
                best = (cosine, method);
            }
            progress.step();
        }
        Ok(best.1)
    }

    /// What each layer outside `stem` takes from the cosine when it alone is in int8.
    fn sensitivities(
        &self,
        method: Method,
        stem: &BTreeSet<String>,
        progress: &dyn Progress,
    ) -> Result<Vec<(String, f64)>, QuantizeFailure> {
        let layers = self.subject.network.layers();
        let all: BTreeSet<String> = layers.iter().map(|layer| layer.name.clone()).collect();
        progress.start("sensitivity", layers.len() - stem.len());
        let mut sensitivities = Vec::new();
        let recipe = self.recipe(&self.ranges(method), BTreeSet::new());
        for layer in all.iter().filter(|layer| !stem.contains(*layer)) {
            let mut alone = recipe.clone();
            alone.float_layers = all
                .iter()
                .filter(|other| *other != layer)
                .cloned()
                .collect();
            sensitivities.push((layer.clone(), 1.0 - self.cosine(&alone)?));
            progress.step();
        }
        Ok(sensitivities)
    }

    /// Gives layers back to float, the worst for their cost first, in growing numbers; then takes back
    /// what was not needed.
    fn descend(
        &self,
        method: Method,
        goal: Goal,
        stem: &BTreeSet<String>,
        sensitivities: &[(String, f64)],
        progress: &dyn Progress,
    ) -> Result<Choice, QuantizeFailure> {
        let order = self.worst_first(sensitivities);
        // Doubling and bisection.
        progress.start("choosing", 2 * order.len().max(2).ilog2() as usize + 1);
        let ranges = self.ranges(method);
        let max_weights = self.max_float_weights(&ranges, stem)?;
        let fits = |float: &BTreeSet<String>| {
            self.float_share(float) <= goal.max_float && self.weight_share(float) <= max_weights
        };
        let evaluate = |count: usize| -> Result<(f64, Recipe), QuantizeFailure> {
            let recipe = self.recipe(&ranges, grown(stem, &order[..count], fits));
            let cosine = self.cosine(&recipe)?;
            progress.step();
            Ok((cosine, recipe))
        };
        let (mut low, mut count, mut best) = (0, 0, evaluate(0)?);
        while best.0 < goal.cosine && count < order.len() {
            low = count;
            count = (2 * count).max(1).min(order.len());
            let next = evaluate(count)?;
            if next.0 > best.0 || next.0 >= goal.cosine {
                best = next;
            }
        }
        // Between the last that was not enough and the first that was.
        let mut enough = count;
        while best.0 >= goal.cosine && enough > low + 1 {
            let middle = usize::midpoint(low, enough);
            let next = evaluate(middle)?;
            if next.0 >= goal.cosine {
                (enough, best) = (middle, next);
            } else {
                low = middle;
            }
        }
        let (cosine, recipe) = best;
        Ok(Choice {
            float_share: self.float_share(&recipe.float_layers),
            recipe,
            method,
            cosine,
            sensitivities: sensitivities.to_vec(),
        })
    }

    /// Layers by what they take from the cosine, over what they cost in float.
    fn worst_first<'n>(&self, sensitivities: &'n [(String, f64)]) -> Vec<&'n str> {
        let mut order: Vec<(&str, f64)> = sensitivities
            .iter()
            .map(|(name, loss)| (name.as_str(), loss / self.cost(name).max(1.0)))
            .collect();
        order.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        order.into_iter().map(|(name, _)| name).collect()
    }
}

/// `stem` and those of `layers`, in their order, with which it still fits.
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
