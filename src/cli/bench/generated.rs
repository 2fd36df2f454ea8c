//! Networks of the catalogue with generated weights, for measurements of speed without a checkpoint.

use anyhow::{Context, Result};
use onnx_export::quantize::{Network, Recipe, Recipes};
use onnx_export::{BuildError, DEFAULT_OPSET, Stages, formula};
use sightline::catalogue;
use sightline::config::PrecisionChoice;
use sightline::cpu::int8_target;
use sightline::engine::OnnxRuntime;
use sightline::image::{DecodeOptions, Orientation, PreparedImage, Preprocessor, decode};
use sightline::manifest::Precision;
use sightline::quantize::{Progress, Subject, calibrate};
use sightline::registry;
use sightline::store::{
    FP32, INT8, ModelRef, ModelSource, ModelStore, Origin, StoreError, lines, quantized,
};
use sightline::threads::usable_cores;

/// A model to measure.
pub(super) struct Found {
    pub(super) source: ModelSource,
    pub(super) weights: Weights,
    /// Number of trained parameters. `None` if an installed model does not state it.
    pub(super) parameters: Option<u64>,
}

/// Where the weights of a measured model come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Weights {
    Installed,
    Embedded,
    Generated,
}

impl Weights {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Installed => "installed",
            Self::Embedded => "built in",
            Self::Generated => "generated",
        }
    }
}

/// Returns the model from the store. If the store does not have the model, returns the built-in model, or the network
/// of that name in the catalogue with generated weights. Its variant `int8` is calibrated with `image`, an image file.
///
/// # Errors
/// If the model is neither in the store nor in the catalogue, or cannot be read, built or quantized.
pub(super) fn find_or_make(
    store: &ModelStore,
    model: &ModelRef,
    precision: Option<PrecisionChoice>,
    (runtime, image): (&OnnxRuntime, &[u8]),
) -> Result<Found> {
    let not_found = match registry::find(store, model, precision) {
        Ok(source) => return Ok(Found::new(source)),
        Err(error @ StoreError::NotFound { .. }) => error,
        Err(error) => return Err(error.into()),
    };
    if model.name == catalogue::DEFAULT_MODEL {
        return Ok(Found::new(ModelSource::embedded()?.with_variant(model)?));
    }
    let Some(made) = make(&model.name)? else {
        return Err(not_found.into());
    };
    let Found {
        source, parameters, ..
    } = made;
    let is_rough =
        model.variant.as_deref() == Some(INT8) && !source.manifest.variants.contains_key(INT8);
    let source = if is_rough {
        to_int8(source, runtime, image)
            .with_context(|| format!("cannot quantize {} with generated weights", model.name))?
    } else {
        source.with_variant(model)?
    };
    Ok(Found {
        source,
        weights: Weights::Generated,
        parameters,
    })
}

impl Found {
    /// Returns a model of the store.
    fn new(source: ModelSource) -> Self {
        let provenance = source.manifest.provenance.as_ref();
        Self {
            parameters: provenance.map(|from| from.parameters),
            weights: if source.path.is_some() {
                Weights::Installed
            } else {
                Weights::Embedded
            },
            source,
        }
    }
}

/// Builds the network called `name` of the catalogue with generated weights. `None` if the catalogue does not have it.
fn make(name: &str) -> Result<Option<Found>> {
    let Some(manifest) = catalogue::manifest(name)? else {
        return Ok(None);
    };
    let Some(architecture) = &manifest.architecture else {
        return Ok(None);
    };
    let shapes = onnx_export::tensor_shapes(architecture)?;
    let state = formula::state_dict(&shapes, &[]).map_err(BuildError::from)?;
    let built = onnx_export::build(name, architecture, &state, DEFAULT_OPSET)?;
    let labels = catalogue::labels(&manifest.labels)
        .map(lines)
        .unwrap_or_default();
    let origin = Origin::Memory(built.to_files().map(|_, file| file.into()));
    Ok(Some(Found {
        source: ModelSource {
            manifest,
            variant: FP32.to_owned(),
            precision: Precision::Fp32,
            path: None,
            manifest_text: None,
            labels,
            origin,
            requantize: None,
        },
        weights: Weights::Generated,
        parameters: Some(built.info.parameters),
    }))
}

/// Quantizes the first stage of `source` with the activation ranges of one image. All layers but those that read the
/// image are in int8, so the time is that of a network whose weights lose nothing in int8.
fn to_int8(source: ModelSource, runtime: &OnnxRuntime, image: &[u8]) -> Result<ModelSource> {
    let graphs = source.graphs()?;
    let network = Network::read(graphs.network())?;
    let inputs: Vec<&str> = network.inputs().collect();
    let layers = network.layers().iter();
    let stem = layers.filter(|layer| layer.is_conv && inputs.contains(&layer.input.as_str()));
    let float_layers = stem.map(|layer| layer.name.clone()).collect();
    let subject = Subject {
        runtime: runtime.with_threads(usable_cores()),
        network,
        first: None,
    };
    let tensor = prepared(&source, image)?;
    let statistics = calibrate(&subject, &[tensor], &Silent)?;
    let values = statistics.values.into_iter();
    let recipe = Recipe {
        ranges: values.map(|(name, value)| (name, value.range)).collect(),
        channel_means: statistics.channel_means,
        float_layers,
        ..Recipe::default()
    };
    let recipes = Recipes {
        target: int8_target(),
        stages: Stages::new(recipe),
    };
    let graphs = quantized(&graphs, &recipes, recipes.target)?;
    Ok(ModelSource {
        variant: INT8.to_owned(),
        precision: Precision::Int8,
        origin: Origin::Memory(graphs),
        ..source
    })
}

/// Decodes and preprocesses `image`, an image file, for the model.
fn prepared(source: &ModelSource, image: &[u8]) -> Result<PreparedImage> {
    let options = DecodeOptions {
        max_pixels: u64::MAX,
        orientation: Orientation::Apply,
    };
    let pixels = decode(image, &options)?;
    Ok(Preprocessor::new(&source.manifest.preprocess).run(&pixels)?)
}

/// A progress that is not shown.
struct Silent;

impl Progress for Silent {
    fn start(&self, _stage: &str, _steps: usize) {}

    fn step(&self) {}
}
