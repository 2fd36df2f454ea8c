//! Settings of one model, from the tables `[models.NAME]` of the configuration file.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::limits::range;
use super::{ConfigError, PrecisionChoice, ServeConfig, Settings};
use crate::manifest::{Batching, ModelManifest};
use crate::nearest::{did_you_mean, nearest};
use crate::registry::ModelPlan;

/// The settings of one model before validation. A setting that is `None` has the value that applies
/// to all models.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a table with the settings of the model, such as { instances = 2 }"
)]
pub struct ModelOverride {
    /// Maximum number of images in one batch.
    pub max_batch_size: Option<usize>,
    /// Longest time that an image waits for its batch to fill, in microseconds.
    pub max_queue_delay_us: Option<u64>,
    /// Maximum number of images that wait for the model.
    pub max_queue_size: Option<usize>,
    /// Number of workers, which is the maximum number of batches that run at the same time.
    pub instances: Option<usize>,
    /// Maximum thread count of a session.
    pub intra_op_threads: Option<usize>,
    /// Precision of the model if it is named without a variant.
    pub precision: Option<PrecisionChoice>,
}

/// The settings of single models before validation, by the name of the model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ModelOverrides(pub BTreeMap<String, ModelOverride>);

impl<'de> Deserialize<'de> for ModelOverrides {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Tables)
    }
}

/// Reads a table with a table for each model.
struct Tables;

impl<'de> Visitor<'de> for Tables {
    type Value = ModelOverrides;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a table for each model, such as [models.birds], or a string with the models directory",
        )
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ModelOverrides, A::Error> {
        let mut models = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            models.insert(name, map.next_value()?);
        }
        Ok(ModelOverrides(models))
    }
}

/// Settings that a deployment makes for models, for all of them or for one. A setting that is `None`
/// has the value of the next less specific place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Queue and workers.
    pub batching: Batching,
    /// Maximum thread count of a session of ONNX Runtime.
    pub intra_op_threads: Option<usize>,
    /// Precision of a model that is named without a variant.
    pub precision: Option<PrecisionChoice>,
}

impl Tuning {
    /// Returns the settings of `settings` that apply to all models.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first setting that is out of range.
    pub(super) fn of_all(settings: &Settings) -> Result<Self, ConfigError> {
        Self::new(&ModelOverride {
            max_batch_size: settings.max_batch_size,
            max_queue_delay_us: settings.max_queue_delay_us,
            max_queue_size: settings.max_queue_size,
            instances: settings.instances,
            intra_op_threads: settings.intra_op_threads,
            precision: settings.precision,
        })
    }

    /// Validates the settings of each model in `overrides`.
    ///
    /// # Errors
    /// [`ConfigError::Model`] for the first setting that is out of range.
    pub(super) fn by_model(
        overrides: Option<&ModelOverrides>,
    ) -> Result<BTreeMap<String, Self>, ConfigError> {
        let checked = |(name, given): (&String, &ModelOverride)| {
            let tuning = Self::new(given).map_err(|error| ConfigError::Model {
                model: name.clone(),
                reason: Box::new(error),
            })?;
            Ok((name.clone(), tuning))
        };
        let overrides = overrides.into_iter().flat_map(|overrides| &overrides.0);
        overrides.map(checked).collect()
    }

    fn new(given: &ModelOverride) -> Result<Self, ConfigError> {
        let delay = match given.max_queue_delay_us {
            Some(0) | None => given.max_queue_delay_us,
            delay => range("max_queue_delay_us", delay, 1_000_000)?,
        };
        Ok(Self {
            batching: Batching {
                max_batch_size: range("max_batch_size", given.max_batch_size, 256)?,
                max_queue_delay_us: delay,
                max_queue_size: range("max_queue_size", given.max_queue_size, 65_536)?,
                instances: range("instances", given.instances, 256)?,
            },
            intra_op_threads: range("intra_op_threads", given.intra_op_threads, 1024)?,
            precision: given.precision,
        })
    }

    /// Returns these settings, in which each setting that is `None` has the value of `general`.
    fn over(&self, general: &Self) -> Self {
        let (own, lower) = (&self.batching, &general.batching);
        Self {
            batching: Batching {
                max_batch_size: own.max_batch_size.or(lower.max_batch_size),
                max_queue_delay_us: own.max_queue_delay_us.or(lower.max_queue_delay_us),
                max_queue_size: own.max_queue_size.or(lower.max_queue_size),
                instances: own.instances.or(lower.instances),
            },
            intra_op_threads: self.intra_op_threads.or(general.intra_op_threads),
            precision: self.precision.or(general.precision),
        }
    }
}

impl ServeConfig {
    /// Returns the settings of the model `name`: those of its table `[models.NAME]`, else those for
    /// all models.
    fn tuning(&self, name: &str) -> Tuning {
        let own = self.overrides.get(name);
        own.map_or_else(|| self.tuning.clone(), |own| own.over(&self.tuning))
    }

    /// Returns the precision of the model `name` if it is named without a variant. `None` to let the
    /// manifest's `default` decide.
    pub fn precision_of(&self, name: &str) -> Option<PrecisionChoice> {
        self.tuning(name).precision
    }

    /// Returns the plan for the queue and the workers of the model with the manifest `manifest`. The
    /// first of these places that sets a value decides: the model's table `[models.NAME]`, the
    /// setting for all models, the manifest, the default of this machine.
    pub fn plan(&self, manifest: &ModelManifest) -> ModelPlan {
        let own = Tuning {
            batching: manifest.batching.clone(),
            ..Tuning::default()
        };
        let merged = self.tuning(&manifest.name).over(&own);
        ModelPlan::tuned(
            &merged.batching,
            self.cores,
            merged.intra_op_threads,
            self.performance,
        )
    }

    /// Returns whether models can be added while the server runs without another signal than a change of their files:
    /// settings may name such models.
    pub fn adds_models(&self) -> bool {
        self.models.is_empty() && (self.life_cycle.watch || self.admin_listen.is_some())
    }

    /// Checks that each table `[models.NAME]` is for one of the models `served`. If models can be added later, a table
    /// whose name resembles none of them is only a warning in the log.
    ///
    /// # Errors
    /// [`ConfigError::UnknownModel`] for the first one that is not, or [`ConfigError::Several`].
    pub fn check_overrides(&self, served: &[&str]) -> Result<(), ConfigError> {
        let mut served = served.to_vec();
        served.dedup();
        let unknown = self.overrides.keys();
        let unknown = unknown.filter(|name| !served.contains(&name.as_str()));
        let mut errors = Vec::new();
        for name in unknown {
            let near = nearest(name, served.iter().copied());
            if near.is_none() && self.adds_models() {
                tracing::warn!(
                    model = name,
                    "settings are for a model that is not served yet"
                );
                continue;
            }
            errors.push(ConfigError::UnknownModel {
                hint: did_you_mean(near),
                model: name.clone(),
                served: served.join(", "),
            });
        }
        ConfigError::all(errors)
    }
}
