//! The preparation of the server before it listens: which models it serves, and its memory plan.

use std::sync::Arc;

use anyhow::Result;
use sightline::config::{ConfigError, ServeConfig};
use sightline::defaults::{self, Defaults};
use sightline::engine::OnnxRuntime;
use sightline::keys::KeyFile;
use sightline::memory::BudgetOrigin;
use sightline::nearest::nearest;
use sightline::registry::Served;
use sightline::store::{ModelRef, ModelSource, ModelStore, StoreError};
use sightline::tls::Tls;

use crate::cli::memory::Planned;
use crate::cli::{RuntimeArgs, StoreArgs};

/// The results of the preparation that a server completes before it listens.
pub(super) struct Prepared {
    pub(super) keys: Option<Arc<KeyFile>>,
    pub(super) memory: Planned,
    pub(super) runtime: OnnxRuntime,
    pub(super) store: ModelStore,
    pub(super) served: Vec<Served>,
    pub(super) defaults: Defaults,
}

impl Prepared {
    /// Reads the API keys, the TLS files and the manifests of the models to serve, opens ONNX Runtime's library, and
    /// plans the memory. `origin` states where `config.memory_budget` was set.
    pub(super) fn new(
        config: &ServeConfig,
        origin: BudgetOrigin,
        store: &StoreArgs,
        library: &RuntimeArgs,
    ) -> Result<Self> {
        let keys = read_keys(config)?.map(Arc::new);
        check_tls(config)?;
        let store = store.store();
        let mut served = find_sources(&store, config).map_err(ConfigError::Models)?;
        config.check_overrides(&served_names(&served))?;
        choose_loads(config, &mut served);
        check_pinned(config, &served)?;
        let named = !config.models.is_empty();
        let all: Vec<&ModelSource> = served.iter().map(|served| &served.source).collect();
        let defaults = Defaults::choose(&config.default_models, &all, named)?;
        let runtime = library.load()?;
        Ok(Self {
            keys,
            memory: Planned::new(config, origin, &served)?,
            runtime,
            store,
            served,
            defaults,
        })
    }
}

/// Reads the file of the API keys. Returns `None` if the configuration names none.
pub(in crate::cli) fn read_keys(config: &ServeConfig) -> Result<Option<KeyFile>, ConfigError> {
    let keys = config.api_keys.as_deref().map(KeyFile::load).transpose();
    keys.map_err(ConfigError::ApiKeys)
}

/// Checks the TLS files that the configuration names.
pub(in crate::cli) fn check_tls(config: &ServeConfig) -> Result<(), ConfigError> {
    let files = config.tls.as_ref();
    files.map_or(Ok(()), |files| Tls::check(files).map_err(ConfigError::Tls))
}

/// Returns the models to serve: the models that the configuration names, or, if it names none, all
/// models of the models directory, or the built-in model if there are none.
///
/// # Errors
/// [`StoreError`] if a model is not found, if the models directory cannot be served, or if two models
/// have the same name and variant.
pub(in crate::cli) fn find_sources(
    store: &ModelStore,
    config: &ServeConfig,
) -> Result<Vec<Served>, StoreError> {
    // A directory that does not exist is an error also if no model comes from it.
    store.check()?;
    let served = if config.models.is_empty() {
        let sources = store.served()?;
        let precision = |source: &ModelSource| config.precision_of(&source.manifest.name);
        let variants = |source| Served::variants(source, precision(source));
        let served: Result<Vec<_>, _> = sources.iter().map(variants).collect();
        served?.concat()
    } else {
        let references = config.models.iter();
        let served = references.map(|reference| named_source(store, config, reference));
        let served: Result<Vec<_>, _> = served.collect();
        Served::merged(served?.concat(), |name| config.precision_of(name))
    };
    reject_duplicates(&served)?;
    Ok(served)
}

/// Returns the variants that `reference`, a value of `--model`, names: all variants of a model that is
/// named without a variant, or the variant that is named, which is loaded at start.
pub(super) fn named_source(
    store: &ModelStore,
    config: &ServeConfig,
    reference: &ModelRef,
) -> Result<Vec<Served>, StoreError> {
    let source = store.find(reference)?;
    if reference.variant.is_some() {
        return Ok(vec![Served::at_start(source)]);
    }
    // A variant that is loaded on first use must not fail then.
    source.check_files()?;
    Served::variants(&source, config.precision_of(&source.manifest.name))
}

/// Returns the names of the models `served`, in order. A model has its name once for each variant.
pub(in crate::cli) fn served_names(served: &[Served]) -> Vec<&str> {
    let names = served.iter().map(|served| &*served.source.manifest.name);
    names.collect()
}

/// Returns an error if two models have the same name and variant, because a request could not
/// select one of them.
pub(super) fn reject_duplicates(served: &[Served]) -> Result<(), StoreError> {
    for (index, Served { source, .. }) in served.iter().enumerate() {
        let id = source.id();
        let mut before = served[..index].iter().map(|other| &other.source);
        if let Some(other) = before.find(|other| other.id() == id) {
            let path = |source: &ModelSource| {
                let built_in = || "the built-in model".into();
                source.path.clone().unwrap_or_else(built_in)
            };
            return Err(StoreError::Duplicate {
                model: id,
                paths: [path(other), path(source)],
            });
        }
    }
    Ok(())
}

/// Sets which of the variants `served` are loaded at start: also those that are default models or
/// pinned, and only pinned ones with `--lazy`.
pub(in crate::cli) fn choose_loads(config: &ServeConfig, served: &mut [Served]) {
    defaults::load_at_start(&config.default_models, served);
    let pinned = &config.life_cycle.pinned;
    for item in served {
        // A model that is pinned as a whole has no variant that is loaded later.
        let is_pinned = pinned.iter().any(|pin| pin.names(&item.source));
        item.at_start = is_pinned || (item.at_start && !config.life_cycle.lazy);
    }
}

/// Checks that every pinned model is served. If models can be added later, one whose name resembles that of no served
/// model is only a warning in the log.
pub(in crate::cli) fn check_pinned(
    config: &ServeConfig,
    served: &[Served],
) -> Result<(), ConfigError> {
    for pin in &config.life_cycle.pinned {
        if !served.iter().any(|item| pin.names(&item.source)) {
            let ids: Vec<String> = served.iter().map(|item| item.source.id()).collect();
            let pinned = pin.to_string();
            let known = ids.iter().map(String::as_str).chain(served_names(served));
            if config.adds_models() && nearest(&pinned, known).is_none() {
                tracing::warn!(model = pinned, "pinned model is not served yet");
                continue;
            }
            return Err(ConfigError::Value {
                setting: "pin",
                expected: format!("the name of a served model ({})", ids.join(", ")),
                got: pinned,
            });
        }
    }
    Ok(())
}
