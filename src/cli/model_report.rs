//! The served models in the output of `sightline config check`: their variants, and the settings of
//! their queues and workers with origins.

use std::fmt;

use anyhow::Result;
use clap::{ArgMatches, CommandFactory as _};
use serde::Serialize;
use sightline::config::ServeConfig;
use sightline::manifest::ModelManifest;
use sightline::registry::Served;
use toml::Table;

use super::Cli;
use super::settings::{Merged, Origin, argument};

/// A model that would be served.
#[derive(Debug, Serialize)]
pub(super) struct ModelReport {
    name: String,
    /// The variants, the one that the name selects first.
    variants: Vec<VariantReport>,
    settings: Vec<Setting>,
}

/// A variant of a model.
#[derive(Debug, Serialize)]
struct VariantReport {
    name: String,
    /// Whether the variant is loaded at start, rather than when it is first requested.
    at_start: bool,
}

/// A setting of a model, with the value that applies.
#[derive(Debug, Serialize)]
struct Setting {
    name: &'static str,
    value: u64,
    origin: ModelOrigin,
}

/// Where the value of a model's setting comes from.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum ModelOrigin {
    /// A setting of `serve`, for this model or for all.
    Setting(Origin),
    /// The model's manifest.
    Manifest {
        /// Always `manifest`.
        kind: &'static str,
    },
}

impl fmt::Display for ModelOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting(origin) => origin.fmt(f),
            Self::Manifest { kind } => f.write_str(kind),
        }
    }
}

impl ModelReport {
    /// Returns a line with the name and the variants of the model.
    pub(super) fn head(&self) -> String {
        let variants = self.variants.iter().map(|variant| {
            let when = if variant.at_start {
                "at start"
            } else {
                "on first use"
            };
            format!("{} {when}", variant.name)
        });
        let variants: Vec<String> = variants.collect();
        format!("Model {}: {}", self.name, variants.join(", "))
    }

    /// Returns the settings as comments in TOML, each with its origin.
    pub(super) fn lines(&self) -> impl Iterator<Item = (String, String)> {
        let line = |setting: &Setting| {
            let Setting {
                name,
                value,
                origin,
            } = setting;
            (format!("#   {name} = {value}"), origin.to_string())
        };
        self.settings.iter().map(line)
    }
}

/// Returns the models of `served`, with the settings that `config` gives them. `matches` is the
/// parsed command line.
///
/// # Errors
/// If a manifest cannot be represented in TOML.
pub(super) fn model_reports(
    merged: &Merged,
    matches: &ArgMatches,
    config: &ServeConfig,
    served: &[Served],
) -> Result<Vec<ModelReport>> {
    let mut reports: Vec<ModelReport> = Vec::new();
    for Served { source, at_start } in served {
        let manifest = &source.manifest;
        let variant = VariantReport {
            name: source.variant.clone(),
            at_start: *at_start,
        };
        match reports
            .iter_mut()
            .find(|report| report.name == manifest.name)
        {
            Some(report) => report.variants.push(variant),
            None => reports.push(ModelReport {
                name: manifest.name.clone(),
                variants: vec![variant],
                settings: settings(merged, matches, config, manifest)?,
            }),
        }
    }
    Ok(reports)
}

/// Returns the settings of the model with the manifest `manifest`.
fn settings(
    merged: &Merged,
    matches: &ArgMatches,
    config: &ServeConfig,
    manifest: &ModelManifest,
) -> Result<Vec<Setting>> {
    let plan = config.plan(manifest);
    let delay = u64::try_from(plan.max_queue_delay.as_micros())?;
    let values = [
        ("max_batch_size", plan.max_batch_size as u64),
        ("max_queue_delay_us", delay),
        ("max_queue_size", plan.max_queue_size as u64),
        ("instances", plan.instances as u64),
        ("intra_op_threads", plan.intra_op_threads as u64),
    ];
    let own = Table::try_from(&manifest.batching)?;
    let cli = Cli::command();
    let setting = |(name, value)| {
        let key = format!("models.{}.{name}", manifest.name);
        let of_all = || merged.origin(name, argument(&cli, name), matches);
        let origin = match merged.file_origin(&key).unwrap_or_else(of_all) {
            Origin::Default if own.contains_key(name) => ModelOrigin::Manifest { kind: "manifest" },
            Origin::Default => ModelOrigin::Setting(Origin::Derived),
            origin => ModelOrigin::Setting(origin),
        };
        Setting {
            name,
            value,
            origin,
        }
    };
    Ok(values.into_iter().map(setting).collect())
}
