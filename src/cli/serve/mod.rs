//! `sightline serve`: loads models and serves them over HTTP until a stop signal.

mod loading;
mod models;
mod prepare;
mod reload;
mod telemetry;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail};
use clap::{ArgMatches, Args};
use sightline::app::App;
use sightline::config::{ConfigError, ListenAddress, MetricsCompat, ServeConfig};
use sightline::cores::Cores;
use sightline::http::access::AccessLog;
use sightline::keys::KeyFile;
use sightline::memory::BudgetOrigin;
use sightline::store::ModelRef;
use sightline::tls::Tls;
use tokio_util::sync::CancellationToken;

use super::activation::Inherited;
use super::listeners::Listeners;
use super::log;
use super::memory::limit_to_machine;
use super::pull::{self, SourceArgs};
use super::say::tell;
use super::settings::{Merged, SettingsArgs};
use super::signals::{HangUp, StopSignals};
use super::{RuntimeArgs, StoreArgs, descriptors, environment, notify, print_config};
use loading::Start;
use models::Loader;
use prepare::Prepared;
pub(super) use prepare::{
    check_pinned, check_tls, choose_loads, find_sources, read_keys, served_names,
};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
    /// Print a configuration file with all settings, their descriptions and the values that apply,
    /// and exit
    #[arg(long)]
    print_config: bool,
    /// Download these networks of the catalogue first, as `sightline pull` does, unless they are installed
    #[arg(
        long,
        env = "SIGHTLINE_PULL",
        value_name = "NAME",
        value_delimiter = ',',
        help_heading = "Download"
    )]
    pull: Vec<ModelRef>,
    #[command(flatten)]
    source: SourceArgs,
}

/// Serves with the settings `merged` until SIGTERM or SIGINT. Returns an error if a model cannot be
/// loaded. `matches` is the parsed command line that `args` comes from. `inherited` are the sockets of systemd.
pub(super) fn run(
    args: &ServeArgs,
    merged: Merged,
    matches: &ArgMatches,
    inherited: Result<Inherited>,
) -> Result<()> {
    environment::warn_unknown(&super::variables());
    if args.print_config {
        return print_config::run(merged, matches);
    }
    let inherited = inherited?;
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
    let servers = if config.grpc_listen.is_empty() { 1 } else { 2 };
    descriptors::raise_limit(config.max_connections * servers);
    limit_to_machine();
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.cores)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let pulls = Pulls {
        names: args.pull.clone(),
        source: args.source.clone(),
    };
    let result = tokio.block_on(start(config, origin, pulls, store, library, inherited));
    // Dropping the runtime would wait for a model that is still being loaded.
    tokio.shutdown_background();
    result?;
    tracing::info!("stopped");
    tell!("stopped");
    Ok(())
}

/// The models that are downloaded before the models directory is read.
struct Pulls {
    names: Vec<ModelRef>,
    source: SourceArgs,
}

/// Prepares the server and runs it until a stop signal. A stop signal during the preparation ends
/// it without an error.
async fn start(
    config: ServeConfig,
    origin: BudgetOrigin,
    pulls: Pulls,
    store: StoreArgs,
    library: RuntimeArgs,
    inherited: Inherited,
) -> Result<()> {
    let mut signals = StopSignals::register().context("cannot handle SIGTERM and SIGINT")?;
    let hang_up = HangUp::register().context("cannot handle SIGHUP")?;
    let prepare = {
        let config = config.clone();
        // Downloading and reading models, and resolving host names, blocks.
        move || {
            if !pulls.names.is_empty() {
                pull::for_server(&pulls.names, &pulls.source, &store, &library)?;
            }
            let prepared = Prepared::new(&config, origin, &store, &library)?;
            Ok::<_, Error>((prepared, Listeners::bind(&config, inherited)?))
        }
    };
    let preparing = tokio::task::spawn_blocking(prepare);
    let (prepared, listeners) = tokio::select! {
        prepared = preparing => prepared??,
        signal = signals.next() => {
            tracing::info!(signal, "stopped before listening");
            return Ok(());
        }
    };
    serve(config, prepared, listeners, signals, hang_up).await
}

/// Serves until a stop signal arrives or a model fails to load, then waits for the requests in
/// flight. A second signal ends this wait and is an error.
async fn serve(
    config: ServeConfig,
    prepared: Prepared,
    listeners: Listeners,
    signals: StopSignals,
    hang_up: HangUp,
) -> Result<()> {
    let address = listeners.address()?;
    let app = Arc::new(app(&config, &prepared, &address)?);
    let tls = load_tls(&app, &config)?;
    // From here on, the listeners are served.
    listeners.announce(scheme(&config));
    prepared.memory.announce();
    prepared.defaults.log();
    tokio::spawn(KeyFile::watch(Arc::clone(&app)));
    notify::loading();
    // The served models are never dropped, because that would join workers, whose runs may be endless. The process
    // ends without destructors. (A model for whose tensors there is no room is not served yet.)
    std::mem::forget(Arc::clone(&app));
    let stopping = CancellationToken::new();
    let start = Start {
        loader: Loader {
            app: Arc::clone(&app),
            config: config.clone(),
            runtime: prepared.runtime.with_cores(cores(&app, &config)),
            tensor_bytes: prepared.memory.plan.tensors,
        },
        store: prepared.store,
        served: prepared.served,
        address,
        tls: tls.clone(),
        stopping: stopping.clone(),
    };
    let loading = loading::begin(stopping.clone(), start.run(hang_up));
    let work = async {
        let finished = finish(app, &config, listeners, tls, stopping.clone()).await;
        // The reason of a stop comes before its consequences.
        loading::finish(loading)?;
        finished
    };
    tokio::select! {
        result = work => result,
        signal = signals.second(&stopping) => {
            bail!("second {signal}: stopped without finishing the requests in flight")
        }
    }
}

/// Serves the listeners until `stopping` is cancelled, then waits for the requests in flight and exports the last spans.
///
/// # Errors
/// If requests are still in flight after the grace period.
async fn finish(
    app: Arc<App>,
    config: &ServeConfig,
    listeners: Listeners,
    tls: Option<Arc<Tls>>,
    stopping: CancellationToken,
) -> Result<()> {
    let delay = config.drain_delay.duration();
    let stop = stop(Arc::clone(&app), stopping.clone(), delay);
    let stopped_at = tokio::spawn(async move {
        stopping.cancelled().await;
        Instant::now()
    });
    let finished = listeners.run(Arc::clone(&app), config, tls, stop).await;
    let stopped_at = stopped_at.await?;
    let left = (delay + config.shutdown_grace).saturating_sub(stopped_at.elapsed());
    telemetry::stop(app, left).await;
    if !finished {
        let grace = config.shutdown_grace.as_millis();
        bail!("requests were still in flight after the grace period of {grace} ms");
    }
    Ok(())
}

/// Returns the state that the requests share, without models. `address` is the first public address.
fn app(config: &ServeConfig, prepared: &Prepared, address: &ListenAddress) -> Result<App> {
    let mut app = App::planned(config.limits, config.cores, &prepared.memory.plan);
    app.access_log = AccessLog::new(config.access_log, config.access_log_sample);
    app.traces = telemetry::start(config, &app)?;
    app.keys.clone_from(&prepared.keys);
    app.cors = config.cors.clone();
    log::count_dropped_in(app.metrics.log_dropped.clone());
    if config.metrics_compat == Some(MetricsCompat::Triton) {
        app.metrics.add_triton();
    }
    app.identity.set_address(address.clone());
    Ok(app)
}

/// Returns the count of the cores that the runs of all models share.
fn cores(app: &App, config: &ServeConfig) -> Arc<Cores> {
    let (pool, admitted) = (app.pool.clone(), app.admitted.clone());
    // Requests that are still being received or wait in a queue need a core soon. One of them is that of the run.
    let images = move || {
        let others = admitted.count().saturating_sub(1);
        pool.busy_threads().max(others)
    };
    Arc::new(Cores::new(config.cores, config.performance, images))
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
