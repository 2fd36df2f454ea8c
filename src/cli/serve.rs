//! `sightline serve`: loads models and serves them over HTTP until a stop signal.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{ArgMatches, Args};
use sightline::app::App;
use sightline::config::{ConfigError, ListenAddress, MetricsCompat, ServeConfig};
use sightline::defaults::{self, Defaults};
use sightline::engine::OnnxRuntime;
use sightline::http;
use sightline::http::access::AccessLog;
use sightline::identity::Identity;
use sightline::keys::KeyFile;
use sightline::manifest::Task;
use sightline::memory::BudgetOrigin;
use sightline::registry::{Entry, LoadFailure, LoadedModel, Loads, ModelPlan, Registry, Served};
use sightline::store::{ModelSource, ModelStore, StoreError};
use sightline::telemetry::Traces;
use sightline::tls::Tls;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::activation::Inherited;
use super::listeners::Listeners;
use super::log;
use super::memory::{Planned, left_beside_server, limit_to_machine};
use super::say::tell;
use super::settings::{Merged, SettingsArgs};
use super::signals::StopSignals;
use super::{RuntimeArgs, StoreArgs, descriptors, environment, notify, print_config, trial};

/// Maximum time to export the last spans, after the last request has finished and within the grace period.
const MAX_TRACES_FLUSH: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
    /// Print a configuration file with all settings, their descriptions and the values that apply,
    /// and exit
    #[arg(long)]
    print_config: bool,
}

/// Serves with the settings `merged` until SIGTERM or SIGINT. Returns an error if a model cannot be
/// loaded. `matches` is the parsed command line that `args` comes from.
pub(super) fn run(args: &ServeArgs, merged: Merged, matches: &ArgMatches) -> Result<()> {
    environment::warn_unknown(&super::variables());
    if args.print_config {
        return print_config::run(merged, matches);
    }
    let inherited = Inherited::take()?;
    let settings = merged.into_settings()?;
    let store = StoreArgs::of(&settings);
    let library = RuntimeArgs {
        onnxruntime: settings.onnxruntime.clone(),
    };
    let origin = match args.settings.given.memory_budget {
        Some(_) => BudgetOrigin::Flag,
        None => BudgetOrigin::File,
    };
    let config = settings.resolve()?;
    descriptors::raise_limit(config.max_connections);
    limit_to_machine();
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.cores)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let result = tokio.block_on(start(config, origin, store, library, inherited));
    // Dropping the runtime would wait for a model that is still being loaded.
    tokio.shutdown_background();
    result?;
    tracing::info!("stopped");
    tell!("stopped");
    Ok(())
}

/// Prepares the server and runs it until a stop signal. A stop signal during the preparation ends
/// it without an error.
async fn start(
    config: ServeConfig,
    origin: BudgetOrigin,
    store: StoreArgs,
    library: RuntimeArgs,
    inherited: Inherited,
) -> Result<()> {
    let mut signals = StopSignals::register().context("cannot handle SIGTERM and SIGINT")?;
    let settings = config.clone();
    let prepare = move || Prepared::new(&settings, origin, &store, &library);
    let preparing = tokio::task::spawn_blocking(prepare);
    let prepared = tokio::select! {
        prepared = preparing => prepared??,
        signal = signals.next() => {
            tracing::info!(signal, "stopped before listening");
            return Ok(());
        }
    };
    serve(config, prepared, inherited, signals).await
}

/// The results of the preparation that a server completes before it listens.
struct Prepared {
    keys: Option<Arc<KeyFile>>,
    memory: Planned,
    runtime: OnnxRuntime,
    served: Vec<Served>,
    defaults: Defaults,
}

impl Prepared {
    /// Reads the API keys and the manifests of the models to serve, opens ONNX Runtime's library, and plans the
    /// memory. `origin` states where `config.memory_budget` was set.
    fn new(
        config: &ServeConfig,
        origin: BudgetOrigin,
        store: &StoreArgs,
        library: &RuntimeArgs,
    ) -> Result<Self> {
        let keys = config.api_keys.as_deref().map(KeyFile::load).transpose();
        let keys = keys.map_err(ConfigError::ApiKeys)?.map(Arc::new);
        let mut served = find_sources(&store.store(), config).map_err(ConfigError::Models)?;
        config.check_overrides(&served_names(&served))?;
        if let Some(files) = &config.tls {
            Tls::check(files).map_err(ConfigError::Tls)?;
        }
        let named = !config.models.is_empty();
        defaults::load_at_start(&config.default_models, &mut served);
        let all: Vec<&ModelSource> = served.iter().map(|served| &served.source).collect();
        let defaults = Defaults::choose(&config.default_models, &all, named)?;
        let runtime = library.load()?;
        Ok(Self {
            keys,
            memory: Planned::new(config, origin, &served)?,
            runtime,
            served,
            defaults,
        })
    }
}

/// Returns the models to serve: the models that the configuration names, or, if it names none, all
/// models of the models directory, or the built-in model if there are none.
///
/// # Errors
/// [`StoreError`] if a model is not found, if the models directory cannot be served, or if two models
/// have the same name and variant.
pub(super) fn find_sources(
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
        named_sources(store, config)?
    };
    reject_duplicates(&served)?;
    Ok(served)
}

/// Returns the models that `--model` names, without duplicates: all variants of a model that is
/// named without a variant, and the variants that are named, which are loaded at start.
fn named_sources(store: &ModelStore, config: &ServeConfig) -> Result<Vec<Served>, StoreError> {
    let mut served = Vec::new();
    for reference in &config.models {
        let source = store.find(reference)?;
        if reference.variant.is_some() {
            served.push(Served::at_start(source));
        } else {
            // A variant that is loaded on first use must not fail then.
            source.check_files()?;
            let precision = config.precision_of(&source.manifest.name);
            served.extend(Served::variants(&source, precision)?);
        }
    }
    Ok(Served::merged(served, |name| config.precision_of(name)))
}

/// Returns the names of the models `served`, in order. A model has its name once for each variant.
pub(super) fn served_names(served: &[Served]) -> Vec<&str> {
    let names = served.iter().map(|served| &*served.source.manifest.name);
    names.collect()
}

/// Returns an error if two models have the same name and variant, because a request could not
/// select one of them.
fn reject_duplicates(served: &[Served]) -> Result<(), StoreError> {
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

/// Serves until a stop signal arrives or a model fails to load, then waits for the requests in
/// flight. A second signal ends this wait and is an error.
async fn serve(
    config: ServeConfig,
    prepared: Prepared,
    inherited: Inherited,
    mut signals: StopSignals,
) -> Result<()> {
    let Prepared {
        keys,
        memory,
        runtime,
        served,
        defaults,
    } = prepared;
    let binding = {
        let config = config.clone();
        // Resolving a host name blocks.
        tokio::task::spawn_blocking(move || Listeners::bind(&config, inherited))
    };
    let listeners = tokio::select! {
        listeners = binding => listeners??,
        signal = signals.next() => {
            tracing::info!(signal, "stopped before listening");
            return Ok(());
        }
    };
    let scheme = scheme(&config);
    let address = listeners.announce(scheme)?;
    memory.announce();
    defaults.log();
    let plan = memory.plan;
    let mut app = App::planned(config.limits, config.cores, &plan);
    app.access_log = AccessLog::new(config.access_log, config.access_log_sample);
    app.traces = export_traces(&config, &app)?;
    (app.keys, app.cors) = (keys, config.cors.clone());
    log::count_dropped_in(app.metrics.log_dropped.clone());
    if config.metrics_compat == Some(MetricsCompat::Triton) {
        app.metrics.add_triton();
    }
    let app = Arc::new(app);
    tokio::spawn(KeyFile::watch(Arc::clone(&app)));
    let tls = load_tls(&app, &config)?;
    app.set_defaults(defaults);
    app.identity.set_address(address.clone());
    notify::loading();
    // The served models are never dropped, because that would join workers, whose runs may be endless. The process
    // ends without destructors. (A model for whose tensors there is no room is not served yet.)
    std::mem::forget(Arc::clone(&app));
    let stopping = CancellationToken::new();
    let loading = start_loading(stopping.clone(), {
        let (app, config, stopping) = (Arc::clone(&app), config.clone(), stopping.clone());
        let loader = Loader {
            runtime,
            stopping,
            tensor_bytes: plan.tensors,
        };
        move || load_all(&app, &config, &loader, served, &address)
    });
    let delay = config.drain_delay.duration();
    let stop = stop(Arc::clone(&app), stopping.clone(), delay);
    let stopped_at = {
        let stopping = stopping.clone();
        tokio::spawn(async move {
            stopping.cancelled().await;
            Instant::now()
        })
    };
    let work = async {
        let finished = listeners.run(Arc::clone(&app), &config, tls, stop).await;
        let stopped_at = stopped_at.await?;
        let left = (delay + config.shutdown_grace).saturating_sub(stopped_at.elapsed());
        stop_traces(app, left.min(MAX_TRACES_FLUSH)).await;
        finish_loading(loading)?;
        if !finished {
            let grace = config.shutdown_grace.as_millis();
            bail!("requests were still in flight after the grace period of {grace} ms");
        }
        Ok(())
    };
    tokio::select! {
        result = work => result,
        signal = signals.second(&stopping) => {
            bail!("second {signal}: stopped without finishing the requests in flight")
        }
    }
}

/// Starts to export the spans of requests, if the configuration names a collector.
fn export_traces(config: &ServeConfig, app: &App) -> Result<Option<Traces>> {
    let Some(endpoint) = &config.otlp_endpoint else {
        return Ok(None);
    };
    let (ratio, instance) = (config.otlp_sample_ratio, &app.identity.instance);
    let traces = Traces::start(endpoint, ratio, instance, app.metrics.spans())?;
    tracing::info!(%endpoint, sample_ratio = ratio.get(), "exporting spans");
    Ok(Some(traces))
}

/// Exports the last spans, within `limit`.
async fn stop_traces(app: Arc<App>, limit: Duration) {
    let stopped = tokio::task::spawn_blocking(move || {
        if let Some(traces) = &app.traces {
            traces.stop(limit);
        }
    });
    // The error of a panic is ignored, because the panic has been logged.
    let _ = stopped.await;
}

/// Returns the scheme of the URLs of the public listener.
fn scheme(config: &ServeConfig) -> &'static str {
    if config.tls.is_some() {
        "https"
    } else {
        "http"
    }
}

/// Reads the TLS files, and checks them for changes until the server stops. Returns `None` without TLS.
fn load_tls(app: &App, config: &ServeConfig) -> Result<Option<Arc<Tls>>, ConfigError> {
    let Some(files) = config.tls.clone() else {
        return Ok(None);
    };
    let tls = Arc::new(Tls::load(files, app.metrics.tls.clone())?);
    tokio::spawn(Arc::clone(&tls).watch());
    Ok(Some(tls))
}

/// Runs `load`, which loads the models, on a thread of its own, and cancels `stopping` if loading
/// fails. The returned channel receives the result of `load` before `stopping` is cancelled.
fn start_loading(
    stopping: CancellationToken,
    load: impl FnOnce() -> Result<()> + Send + 'static,
) -> oneshot::Receiver<Result<()>> {
    let (sender, loading) = oneshot::channel();
    tokio::spawn(async move {
        let loaded = tokio::task::spawn_blocking(load).await;
        let loaded = loaded.map_err(Into::into).flatten();
        let failed = loaded.is_err();
        let _ = sender.send(loaded);
        if failed {
            stopping.cancel();
        }
    });
    loading
}

/// Returns the result of loading the models. Returns `Ok` if the models are still being loaded: the
/// thread that loads them is abandoned, because loading a model cannot be interrupted.
fn finish_loading(mut loading: oneshot::Receiver<Result<()>>) -> Result<()> {
    loading.try_recv().unwrap_or_else(|_| {
        tracing::info!("stopped while models were being loaded");
        Ok(())
    })
}

/// Waits until `stopping` is cancelled, then makes the server not ready and, after `delay`, makes it reject new
/// requests. There is no delay while the models of the start are being loaded, because no load balancer sends requests
/// yet.
async fn stop(app: Arc<App>, stopping: CancellationToken, delay: Duration) {
    stopping.cancelled().await;
    let delay = if app.has_started() {
        delay
    } else {
        Duration::ZERO
    };
    app.start_leaving();
    notify::stopping(delay);
    if !delay.is_zero() {
        let delay_ms = delay.as_millis() as u64;
        tracing::info!(delay_ms, "not ready, still serving new requests");
        tokio::time::sleep(delay).await;
    }
    app.start_draining();
}

/// ONNX Runtime, with which models are loaded, and a token that ends the loading.
struct Loader {
    runtime: OnnxRuntime,
    /// Cancelled when the server stops.
    stopping: CancellationToken,
    /// Planned memory in bytes for the tensors of all models.
    tensor_bytes: u64,
}

/// Loads the models of the start, then makes the server ready and prints an example request. The
/// listeners already respond to health checks meanwhile. Returns early if the server stops.
fn load_all(
    app: &Arc<App>,
    config: &ServeConfig,
    loader: &Loader,
    served: Vec<Served>,
    address: &ListenAddress,
) -> Result<()> {
    let started = Instant::now();
    let mut entries = Vec::with_capacity(served.len());
    for served in served {
        if loader.stopping.is_cancelled() {
            return Ok(());
        }
        let Served { source, at_start } = served;
        let plan = config.plan(&source.manifest);
        entries.push(if at_start {
            let model = load(app, config, &loader.runtime, source.clone(), plan, None)?;
            Entry::loaded(source, model)
        } else {
            Entry::new(source, plan)
        });
    }
    let task = entries.first().map(|entry| entry.source().manifest.task);
    let task = task.unwrap_or(Task::Classification);
    let default = app.default_model(task).unwrap_or_default();
    let route = http::route_of(task);
    let registry = Registry::new(entries).loading(on_first_use(app, config, loader));
    registry.share_tensor_memory(loader.tensor_bytes)?;
    app.set_ready(registry);
    if loader.stopping.is_cancelled() {
        return Ok(());
    }
    let seconds = started.elapsed().as_secs_f64();
    let Identity {
        version, instance, ..
    } = &app.identity;
    tracing::info!(%address, version, instance, seconds, "ready");
    notify::ready();
    let target = curl_target(address, scheme(config), route);
    tell!(
        "ready after {seconds:.2} s, instance {instance}, default model {default}. Try:\n  curl --data-binary @photo.jpg \
         -H 'content-type: image/jpeg' {target}"
    );
    Ok(())
}

/// Returns the arguments of curl that name `route` of the server at `address`, which serves `scheme` if it is a TCP
/// address.
fn curl_target(address: &ListenAddress, scheme: &str, route: &str) -> String {
    match address {
        ListenAddress::Unix(path) => format!("--unix-socket '{path}' 'http://localhost{route}'"),
        address => format!("'{scheme}://{address}{route}'"),
    }
}

/// Returns the loader of models that are not loaded at start.
fn on_first_use(app: &Arc<App>, config: &ServeConfig, loader: &Loader) -> Loads {
    // A reference cycle: the app owns the registry, which owns this loader. Nothing more leaks, because `serve` never
    // drops the app.
    let (app, config, runtime) = (Arc::clone(app), config.clone(), loader.runtime.clone());
    let tensor_bytes = loader.tensor_bytes;
    Loads::new(tensor_bytes, move |source: ModelSource, plan| {
        let load = || {
            check_since_start(&source)?;
            let free = left_beside_server(&app, tensor_bytes);
            let loaded = load(&app, &config, &runtime, source.clone(), plan, free);
            loaded.map_err(|error| {
                // An error because of new files would be misleading.
                let changed = check_since_start(&source).err();
                changed.unwrap_or_else(|| load_failure(&error))
            })
        };
        load().inspect_err(|_| {
            let (model, variant) = (&source.manifest.name, &source.variant);
            app.metrics.load_failed(model, variant);
        })
    })
}

/// Checks that the manifest of `source` is the one that the server read at its start.
fn check_since_start(source: &ModelSource) -> Result<(), LoadFailure> {
    let path = source.path.as_deref().unwrap_or(Path::new(""));
    source.check_unchanged().map_err(|_| {
        LoadFailure::Changed(format!(
            "{} changed since the server started: restart the server to use it",
            path.display()
        ))
    })
}

fn load_failure(error: &anyhow::Error) -> LoadFailure {
    let text = super::explain(error);
    if error.is::<trial::TooLittleMemory>() {
        return LoadFailure::Memory(text);
    }
    LoadFailure::Other(text)
}

/// Loads one model. `free` is the memory in bytes that loading may take beside the server, once it serves.
fn load(
    app: &App,
    config: &ServeConfig,
    runtime: &OnnxRuntime,
    source: ModelSource,
    plan: ModelPlan,
    free: Option<u64>,
) -> Result<LoadedModel> {
    let model = tracing::info_span!("load", model = source.id())
        .in_scope(|| trial::load(source, runtime, plan, config.load, free, &app.metrics))?;
    tracing::info!(
        model = model.id(),
        instances = plan.instances,
        intra_op_threads = plan.intra_op_threads,
        custom_int8_operators = model.own_operators,
        load_time_ms = u64::try_from(model.load_time.as_millis())?,
        "model loaded"
    );
    Ok(model)
}
