//! `sightline serve`: loads models and serves them over HTTP until a stop signal.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use sightline::app::App;
use sightline::config::{PrecisionChoice, ServeConfig, Settings};
use sightline::engine::OnnxRuntime;
use sightline::http;
use sightline::http::server::Server;
use sightline::manifest::{Batching, Precision};
use sightline::memory::BudgetOrigin;
use sightline::registry::{LoadedModel, ModelPlan, Registry, share_tensor_memory};
use sightline::store::{ModelSource, ModelStore};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::memory::{Planned, limit_to_machine};
use super::say::say;
use super::signals::StopSignals;
use super::{RuntimeArgs, StoreArgs, descriptors, environment, trial};

/// Maximum number of open connections of the admin listener.
const ADMIN_CONNECTIONS: usize = 64;

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// TOML file with the settings below, with underscores in their names (`max_images = 8`); flags
    /// and environment variables override it
    #[arg(long, env = "SIGHTLINE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// Serves until SIGTERM or SIGINT. Returns an error if a model cannot be loaded.
pub(super) fn run(args: &ServeArgs) -> Result<()> {
    environment::warn_unknown(&super::variables());
    let settings = match &args.config {
        Some(path) => args.settings.over_file(path)?,
        None => args.settings.clone(),
    };
    let store = StoreArgs {
        directory: settings.models.clone(),
        follow_symlinks: settings.follow_symlinks,
    };
    let library = RuntimeArgs {
        onnxruntime: settings.onnxruntime.clone(),
    };
    let origin = match args.settings.memory_budget {
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
    let result = tokio.block_on(start(config, origin, store, library));
    // Dropping the runtime would wait for a model that is still being loaded.
    tokio.shutdown_background();
    result?;
    // The server has stopped successfully even if stdout is closed.
    let _ = say!("stopped");
    Ok(())
}

/// Prepares the server and runs it until a stop signal. A stop signal during the preparation ends
/// it without an error.
async fn start(
    config: ServeConfig,
    origin: BudgetOrigin,
    store: StoreArgs,
    library: RuntimeArgs,
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
    serve(config, prepared, signals).await
}

/// The results of the preparation that a server completes before it listens.
struct Prepared {
    memory: Planned,
    runtime: OnnxRuntime,
    sources: Vec<ModelSource>,
}

impl Prepared {
    /// Opens ONNX Runtime's library, reads the manifests of the models to load, and plans the
    /// memory. `origin` states where `config.memory_budget` was set.
    fn new(
        config: &ServeConfig,
        origin: BudgetOrigin,
        store: &StoreArgs,
        library: &RuntimeArgs,
    ) -> Result<Self> {
        let runtime = library.load()?;
        let sources = find_sources(&store.store(), config)?;
        reject_duplicates(&sources)?;
        Ok(Self {
            memory: Planned::new(config, origin, &sources)?,
            runtime,
            sources,
        })
    }
}

/// Returns the models to load: the models that the configuration names, or, if it names none, all
/// models of the models directory and the built-in model.
fn find_sources(store: &ModelStore, config: &ServeConfig) -> Result<Vec<ModelSource>> {
    if !config.models.is_empty() {
        return named_sources(store, config);
    }
    let mut sources = store.list()?;
    let built_in = ModelSource::embedded()?;
    if sources
        .iter()
        .all(|source| source.manifest.name != built_in.manifest.name)
    {
        sources.push(built_in);
    }
    let both = |source| {
        let (preferred, other) = by_preference(source, config.precision);
        std::iter::once(preferred).chain(other)
    };
    Ok(sources.into_iter().flat_map(both).collect())
}

/// Returns the models that `--model` names, without duplicates. A name without a variant selects
/// the variant of the preferred precision.
fn named_sources(store: &ModelStore, config: &ServeConfig) -> Result<Vec<ModelSource>> {
    let mut sources = Vec::new();
    for reference in &config.models {
        let mut source = store.find(reference)?;
        if reference.variant.is_none() {
            (source, _) = by_preference(source, config.precision);
        }
        // `--model name --model name@int8` names one variant twice if int8 is preferred on this
        // CPU.
        if !sources.contains(&source) {
            sources.push(source);
        }
    }
    Ok(sources)
}

/// Returns the model in the preferred precision and, if the model has an int8 variant, also in the
/// other precision. Logs a warning for each stale variant, which is skipped.
fn by_preference(fp32: ModelSource, choice: PrecisionChoice) -> (ModelSource, Option<ModelSource>) {
    for stale in fp32.stale() {
        let model = &fp32.manifest.name;
        tracing::warn!(model, error = %stale, "stale variant is skipped");
    }
    match (fp32.int8(), choice.preferred()) {
        (Some(int8), Precision::Int8) => (int8, Some(fp32)),
        (int8, _) => {
            if int8.is_none() && choice == PrecisionChoice::Int8 {
                let model = &fp32.manifest.name;
                tracing::warn!(model, "model has no int8 variant, loading fp32");
            }
            (fp32, int8)
        }
    }
}

/// Returns an error if two models have the same name and variant, because a request could not
/// select one of them.
fn reject_duplicates(sources: &[ModelSource]) -> Result<()> {
    for (index, source) in sources.iter().enumerate() {
        let same = |other: &ModelSource| {
            other.manifest.name == source.manifest.name && other.variant == source.variant
        };
        if sources[..index].iter().any(same) {
            let (name, variant) = (&source.manifest.name, &source.variant);
            bail!(
                "two models are named `{name}@{variant}`: change `name` in the manifest of one of them"
            );
        }
    }
    Ok(())
}

/// Serves until a stop signal arrives or a model fails to load, then waits for the requests in
/// flight. A second signal ends this wait and is an error.
async fn serve(config: ServeConfig, prepared: Prepared, signals: StopSignals) -> Result<()> {
    let Prepared {
        memory,
        runtime,
        sources,
    } = prepared;
    let listeners = Listeners::bind(&config)?;
    let address = listeners.announce()?;
    memory.announce();
    let plan = memory.plan;
    let app = Arc::new(App::planned(config.limits, config.cores, &plan));
    // The models are never dropped, because that would join workers, whose runs may be endless. The process ends
    // without destructors.
    std::mem::forget(Arc::clone(&app));
    let stopping = CancellationToken::new();
    let loading = start_loading(stopping.clone(), {
        let (app, config, stopping) = (Arc::clone(&app), config.clone(), stopping.clone());
        let loader = Loader {
            runtime,
            stopping,
            tensor_bytes: plan.tensors,
        };
        move || load_all(&app, &config, &loader, sources, address)
    });
    let stop = stop(Arc::clone(&app), stopping.clone());
    let work = async {
        let finished = listeners.run(app, &config, stop).await;
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

/// Waits until `stopping` is cancelled, then makes `app` reject new requests.
async fn stop(app: Arc<App>, stopping: CancellationToken) {
    stopping.cancelled().await;
    app.start_draining();
}

/// The listeners of the server, bound to their addresses.
struct Listeners {
    public: TcpListener,
    /// Listener for health checks and metrics. `None` if `--admin-listen` is not set.
    admin: Option<TcpListener>,
}

impl Listeners {
    fn bind(config: &ServeConfig) -> Result<Self> {
        let bind = |address| {
            let listener = http::listener::bind(address);
            listener.with_context(|| format!("cannot listen on {address}"))
        };
        Ok(Self {
            public: bind(config.listen)?,
            admin: config.admin_listen.map(bind).transpose()?,
        })
    }

    /// Prints the addresses of the listeners and returns the address of the public listener.
    fn announce(&self) -> Result<SocketAddr> {
        let address = self.public.local_addr()?;
        let version = env!("CARGO_PKG_VERSION");
        // Errors are ignored: the server runs on if stdout is closed.
        let _ = say!("sightline {version} listening on http://{address}");
        if let Some(admin) = &self.admin {
            let address = admin.local_addr()?;
            let _ = say!("health and metrics on http://{address}");
        }
        Ok(address)
    }

    /// Serves the public listener until `stop` resolves and its requests in flight are finished,
    /// and the admin listener until then, too. Returns whether the requests of the public listener
    /// finished within the grace period.
    async fn run(
        self,
        app: Arc<App>,
        config: &ServeConfig,
        stop: impl Future<Output = ()>,
    ) -> bool {
        let public = Server {
            listener: self.public,
            router: http::router(Arc::clone(&app)),
            max_connections: config.max_connections,
            timeouts: config.timeouts,
        };
        let public = public.run(stop, config.shutdown_grace);
        let Some(listener) = self.admin else {
            return public.await;
        };
        let admin = Server {
            listener,
            router: http::admin_router(app),
            max_connections: ADMIN_CONNECTIONS,
            timeouts: config.timeouts,
        };
        let admin = tokio::spawn(admin.run(std::future::pending(), Duration::ZERO));
        let finished = public.await;
        admin.abort();
        finished
    }
}

/// ONNX Runtime, with which models are loaded, and a token that ends the loading.
struct Loader {
    runtime: OnnxRuntime,
    /// Cancelled when the server stops.
    stopping: CancellationToken,
    /// Planned memory in bytes for the tensors of all models.
    tensor_bytes: u64,
}

/// Loads the models, then makes the server ready and prints an example request. The listeners
/// already respond to health checks meanwhile. Returns early if the server stops.
fn load_all(
    app: &App,
    config: &ServeConfig,
    loader: &Loader,
    sources: Vec<ModelSource>,
    address: SocketAddr,
) -> Result<()> {
    let started = Instant::now();
    let mut models = Vec::with_capacity(sources.len());
    for source in sources {
        if loader.stopping.is_cancelled() {
            return Ok(());
        }
        models.push(load(app, config, &loader.runtime, source)?);
    }
    share_tensor_memory(&models, loader.tensor_bytes)?;
    let default = models.first().map(LoadedModel::id).unwrap_or_default();
    let route = models
        .first()
        .map_or("/v1/classify", |model| http::route_of(model.manifest.task));
    app.set_ready(Registry::new(models));
    if loader.stopping.is_cancelled() {
        return Ok(());
    }
    let seconds = started.elapsed().as_secs_f64();
    // Errors are ignored: the server runs on if stdout is closed.
    let _ = say!(
        "ready after {seconds:.2} s, default model {default}. Try:\n  curl --data-binary @photo.jpg \
         -H 'content-type: image/jpeg' 'http://{address}{route}'"
    );
    Ok(())
}

fn load(
    app: &App,
    config: &ServeConfig,
    runtime: &OnnxRuntime,
    mut source: ModelSource,
) -> Result<LoadedModel> {
    override_batching(&mut source.manifest.batching, &config.batching);
    let plan = ModelPlan::new(&source.manifest, config.cores, config.intra_op_threads);
    let model = tracing::info_span!("load", model = source.id())
        .in_scope(|| trial::load(source, runtime, plan, config.load, &app.metrics))?;
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

/// Replaces the batching settings `own` of a model's manifest with those of the server's
/// configuration, `deployment`, where the latter are set.
fn override_batching(own: &mut Batching, deployment: &Batching) {
    own.max_batch_size = deployment.max_batch_size.or(own.max_batch_size);
    own.max_queue_delay_us = deployment.max_queue_delay_us.or(own.max_queue_delay_us);
    own.max_queue_size = deployment.max_queue_size.or(own.max_queue_size);
    own.instances = deployment.instances.or(own.instances);
}
