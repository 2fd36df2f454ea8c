//! How `serve` loads its models, and how it finds out which models there are while it runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use sightline::app::App;
use sightline::config::ServeConfig;
use sightline::engine::OnnxRuntime;
use sightline::error::explain;
use sightline::memory::memory_limit;
use sightline::registry::{
    BrokenModel, DefaultRules, Entry, Find, Found, LoadFailure, LoadJob, LoadedModel, Loads,
    ModelMemory, Offer, Registry, Served,
};
use sightline::store::{BrokenEntry, FileList, ModelSource, ModelStore, StoreError};

use super::prepare::{choose_loads, named_source, reject_duplicates};
use crate::cli::memory::left_beside_server;
use crate::cli::{self, trial};

/// Part of the memory limit that loads in progress may take together.
const LOADING_SHARE: u64 = 2;

/// Workers of one model for each core, above which the log has a warning.
const WORKERS_PER_CORE: usize = 4;

/// What to do about a model whose files changed after the server read its manifest.
const RELOAD: &str = "reload the model with SIGHUP, `--watch` or the control API";
/// What to do about it while the models of the start are being loaded, which ends the server.
const START_AGAIN: &str = "start the server again";

/// What loading a model needs.
pub(super) struct Loader {
    pub(super) app: Arc<App>,
    pub(super) config: ServeConfig,
    pub(super) runtime: OnnxRuntime,
    /// Planned memory in bytes for the tensors of all models.
    pub(super) tensor_bytes: u64,
}

/// Returns the registry of the models `served`, none of which is loaded yet. The models change with
/// those that `store` finds.
pub(super) fn registry(loader: Loader, store: ModelStore, served: Vec<Served>) -> Result<Registry> {
    let config = loader.config.clone();
    let finder = Finder {
        store,
        config: config.clone(),
        built_in: served.iter().all(|item| item.source.path.is_none()),
    };
    let found = finder.complete(served, Vec::new());
    warn_about_workers(&found.offers, config.cores);
    let entries = found.offers.into_iter();
    let entries = entries.map(|offer| Entry::new(offer.source, offer.plan));
    let memory = memory_limit(Path::new("/")).map(|(limit, _)| limit / LOADING_SHARE);
    let (cycle, tensors) = (&config.life_cycle, loader.tensor_bytes);
    // A reference cycle: the app owns the registry, which owns this loader. Nothing more leaks, because `serve` never
    // drops the app.
    let (app, metrics) = (Arc::clone(&loader.app), loader.app.metrics.loads.clone());
    let loads = Loads::new(tensors, move |job| loader.load(job))
        .parallel(config.cores, memory)
        .finding(finder)
        .within(ModelMemory::new(cycle.memory, cycle.pinned.clone()))
        .measured(metrics)
        .forgetting(move |model| app.metrics.forget_model(model));
    let defaults = DefaultRules {
        configured: config.default_models.clone(),
        named: !config.models.is_empty(),
    };
    let registry = Registry::with(entries.collect(), loads, defaults)?;
    registry.remember(found.files);
    Ok(registry)
}

/// Logs a warning for each variant that has many more workers than `cores`, the threads that the server has.
fn warn_about_workers(offers: &[Offer], cores: usize) {
    for Offer { source, plan, .. } in offers {
        if plan.instances > WORKERS_PER_CORE * cores {
            tracing::warn!(
                model = source.id(),
                instances = plan.instances,
                cores,
                "more workers than the cores can run, which takes memory: set `instances` to at most {cores}"
            );
        }
    }
}

impl Loader {
    /// Loads one model.
    fn load(&self, job: LoadJob) -> Result<LoadedModel, LoadFailure> {
        let source = job.source.clone();
        let advice = if job.beside.is_some() {
            check_unchanged(&source, RELOAD)?;
            RELOAD
        } else {
            START_AGAIN
        };
        let loaded = tracing::info_span!("load", model = source.id()).in_scope(|| self.run(job));
        loaded.map_err(|error| {
            // An error because of new files would be misleading.
            let changed = check_unchanged(&source, advice).err();
            changed.unwrap_or_else(|| load_failure(&error))
        })
    }

    fn run(&self, job: LoadJob) -> Result<LoadedModel> {
        let LoadJob {
            source,
            plan,
            beside,
        } = job;
        let free = beside.and_then(|beside| {
            let left = left_beside_server(&self.app, self.tensor_bytes)?;
            Some(left.saturating_sub(beside))
        });
        let (runtime, limits) = (&self.runtime, self.config.load);
        let model = trial::load(source, runtime, plan, limits, free, &self.app)?;
        let scaling = model.sessions.iter().map(|count| {
            let milliseconds = count.time.as_secs_f64() * 1e3;
            format!("{}x{}={milliseconds:.2}ms", count.sessions, count.threads)
        });
        let scaling: Vec<String> = scaling.collect();
        tracing::info!(
            model = model.id(),
            instances = plan.instances,
            intra_op_threads = plan.intra_op_threads,
            sessions = scaling.join(" "),
            custom_int8_operators = model.own_operators,
            memory_bytes = model.memory_bytes,
            load_time_ms = u64::try_from(model.load_time.as_millis())?,
            "model loaded"
        );
        Ok(model)
    }
}

/// Checks that the manifest of `source` is still the one that the server read. The error ends with `advice`.
fn check_unchanged(source: &ModelSource, advice: &str) -> Result<(), LoadFailure> {
    let path = source.path.as_deref().unwrap_or(Path::new(""));
    source.check_unchanged().map_err(|_| {
        LoadFailure::Changed(format!(
            "{} was changed while the server was running: {advice}",
            path.display()
        ))
    })
}

fn load_failure(error: &anyhow::Error) -> LoadFailure {
    let text = cli::explain(error);
    if error.is::<trial::TooLittleMemory>() {
        return LoadFailure::Memory(text);
    }
    LoadFailure::Other(text)
}

/// Finds the models to serve, as at the start of the server, but without failing if some of them
/// cannot be served.
struct Finder {
    store: ModelStore,
    config: ServeConfig,
    /// Whether the server has started with the built-in model, because there was no other. A models directory that
    /// becomes empty does not bring this model back.
    built_in: bool,
}

impl Find for Finder {
    fn find(&self) -> Result<Found, String> {
        let (served, broken) = if self.config.models.is_empty() {
            self.in_directory()
        } else {
            Ok(self.named())
        }
        .map_err(|error| explain(&error))?;
        reject_duplicates(&served).map_err(|error| explain(&error))?;
        Ok(self.complete(served, broken))
    }

    fn files(&self) -> FileList {
        let paths = self.config.models.iter();
        let paths = paths.filter_map(|reference| folder_of(&reference.name));
        let paths: Vec<PathBuf> = paths.collect();
        let directory = self.store.directory().into_iter();
        FileList::of(directory.chain(paths.iter().map(PathBuf::as_path)))
    }
}

impl Finder {
    /// Returns the variants of all models in the models directory.
    fn in_directory(&self) -> Result<(Vec<Served>, Vec<BrokenModel>), StoreError> {
        let (mut models, broken) = self.store.survey()?;
        // Nobody can tell which of two models of one name is meant, so both are broken.
        models.retain(|model| {
            let mut names = broken.iter().filter_map(BrokenEntry::namesake);
            !names.any(|name| name == model.manifest.name)
        });
        if self.built_in && models.is_empty() && broken.is_empty() {
            models.push(ModelSource::embedded()?);
        }
        let mut served = Vec::new();
        let mut broken: Vec<_> = broken.iter().map(|entry| self.broken(entry)).collect();
        for model in &models {
            match Served::variants(model, self.config.precision_of(&model.manifest.name)) {
                Ok(variants) => served.extend(variants),
                Err(error) => broken.push(BrokenModel {
                    name: model.manifest.name.clone(),
                    path: model.path.clone(),
                    reason: explain(&error),
                }),
            }
        }
        Ok((served, broken))
    }

    fn broken(&self, entry: &BrokenEntry) -> BrokenModel {
        let directory = self.store.directory();
        let name = || entry.name.to_string_lossy().into_owned();
        BrokenModel {
            path: directory.map(|directory| directory.join(&entry.name)),
            name: entry.namesake().map_or_else(name, str::to_owned),
            reason: entry.problem.to_string(),
        }
    }

    /// Returns the variants of the models that `--model` names.
    fn named(&self) -> (Vec<Served>, Vec<BrokenModel>) {
        let (mut served, mut broken) = (Vec::new(), Vec::new());
        for reference in &self.config.models {
            match named_source(&self.store, &self.config, reference) {
                Ok(variants) => served.extend(variants),
                Err(error) => broken.push(BrokenModel {
                    name: reference.name.clone(),
                    path: place_of(&reference.name),
                    reason: explain(&error),
                }),
            }
        }
        (
            Served::merged(served, |name| self.config.precision_of(name)),
            broken,
        )
    }

    /// Adds the settings of the queues and workers to the variants `served`, and the fingerprints of
    /// their files.
    fn complete(&self, mut served: Vec<Served>, broken: Vec<BrokenModel>) -> Found {
        let config = &self.config;
        choose_loads(config, &mut served);
        let mut found = Found {
            broken,
            ..Found::default()
        };
        for Served { source, at_start } in served {
            let plan = config.plan(&source.manifest);
            let name = source.manifest.name.clone();
            found
                .files
                .entry(name)
                .or_insert_with(|| source.fingerprint());
            found.offers.push(Offer {
                source,
                plan,
                at_start,
            });
        }
        found
    }
}

/// Returns the manifest of the model `name`, or the folder that has its manifest. `None` if the name is not a path.
fn place_of(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    let file = path.extension().is_some_and(|e| e == "toml" || e == "onnx");
    match () {
        () if file && !path.is_dir() => Some(path.with_extension("toml")),
        () if name.contains('/') => Some(path.to_path_buf()),
        () => None,
    }
}

/// Returns the folder that has the files of the model `name`. `None` if the name is not a path.
fn folder_of(name: &str) -> Option<PathBuf> {
    let place = place_of(name)?;
    if place.extension().is_none_or(|e| e != "toml") || place.is_dir() {
        return Some(place);
    }
    // The parent of a path such as `birds.toml` is empty.
    let parent = place
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    Some(parent.unwrap_or(Path::new(".")).to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_one_manifest_and_the_folder_of_its_files() {
        for (name, place, folder) in [
            ("birds", None, None),
            ("./birds", Some("./birds"), Some("./birds")),
            ("m/birds.toml", Some("m/birds.toml"), Some("m")),
            ("m/birds.onnx", Some("m/birds.toml"), Some("m")),
            ("birds.toml", Some("birds.toml"), Some(".")),
        ] {
            assert_eq!(place_of(name), place.map(PathBuf::from), "{name}");
            assert_eq!(folder_of(name), folder.map(PathBuf::from), "{name}");
        }
    }
}
