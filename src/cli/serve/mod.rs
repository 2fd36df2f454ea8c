//! `sightline serve`: loads models and serves them over HTTP until a stop signal.

mod models;
mod prepare;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{ArgMatches, Args};
use sightline::app::App;
use sightline::config::ServeConfig;
use sightline::http;
use sightline::http::access::AccessLog;
use sightline::identity::Identity;
use sightline::manifest::Task;
use sightline::memory::BudgetOrigin;
use sightline::registry::{Registry, Served};
use sightline::store::ModelStore;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::listeners::Listeners;
use super::memory::limit_to_machine;
use super::say::tell;
use super::settings::{Merged, SettingsArgs};
use super::signals::{HangUp, StopSignals};
use super::{RuntimeArgs, StoreArgs, descriptors, environment, print_config};
use models::Loader;
use prepare::Prepared;

/// Time between two looks at the files of the models with `--watch`.
const WATCH_PERIOD: Duration = Duration::from_secs(2);

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
        return print_config::run(&merged, matches);
    }
    let settings = merged.settings;
    let store = StoreArgs {
        directory: settings.models.clone(),
        follow_symlinks: settings.follow_symlinks,
    };
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
    let result = tokio.block_on(start(config, origin, store, library));
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
) -> Result<()> {
    let mut signals = StopSignals::register().context("cannot handle SIGTERM and SIGINT")?;
    let hang_up = HangUp::register().context("cannot handle SIGHUP")?;
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
    serve(config, prepared, signals, hang_up).await
}

/// Serves until a stop signal arrives or a model fails to load, then waits for the requests in
/// flight. A second signal ends this wait and is an error.
async fn serve(
    config: ServeConfig,
    prepared: Prepared,
    mut signals: StopSignals,
    hang_up: HangUp,
) -> Result<()> {
    let Prepared {
        memory,
        runtime,
        store,
        served,
        defaults,
    } = prepared;
    let binding = {
        let config = config.clone();
        // Resolving a host name blocks.
        tokio::task::spawn_blocking(move || Listeners::bind(&config))
    };
    let listeners = tokio::select! {
        listeners = binding => listeners??,
        signal = signals.next() => {
            tracing::info!(signal, "stopped before listening");
            return Ok(());
        }
    };
    let address = listeners.announce()?;
    memory.announce();
    defaults.log();
    let plan = memory.plan;
    let mut app = App::planned(config.limits, config.cores, &plan);
    app.access_log = AccessLog::new(config.access_log);
    let app = Arc::new(app);
    app.identity.set_address(address);
    // The served models are never dropped, because that would join workers, whose runs may be endless. The process
    // ends without destructors. (A model for whose tensors there is no room is not served yet.)
    std::mem::forget(Arc::clone(&app));
    let stopping = CancellationToken::new();
    let loader = Loader {
        app: Arc::clone(&app),
        config: config.clone(),
        runtime,
        tensor_bytes: plan.tensors,
    };
    let start = Start {
        loader,
        store,
        served,
        address,
        stopping: stopping.clone(),
    };
    let loading = start_loading(stopping.clone(), load_all(start, hang_up));
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

/// What loading the models of the start needs.
struct Start {
    loader: Loader,
    store: ModelStore,
    served: Vec<Served>,
    /// Address of the public listener.
    address: SocketAddr,
    /// Cancelled when the server stops.
    stopping: CancellationToken,
}

/// Runs `load`, which loads the models, in a task of its own, and cancels `stopping` if loading
/// fails. The returned channel receives the result of `load` before `stopping` is cancelled.
fn start_loading(
    stopping: CancellationToken,
    load: impl Future<Output = Result<()>> + Send + 'static,
) -> oneshot::Receiver<Result<()>> {
    let (sender, loading) = oneshot::channel();
    tokio::spawn(async move {
        let loaded = tokio::spawn(load).await;
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

/// Loads the models of the start, then makes the server ready and prints an example request. The
/// listeners already respond to health checks meanwhile.
async fn load_all(start: Start, hang_up: HangUp) -> Result<()> {
    let started = Instant::now();
    let Start {
        loader,
        store,
        served,
        address,
        stopping,
    } = start;
    let (app, config) = (Arc::clone(&loader.app), loader.config.clone());
    let tensor_bytes = loader.tensor_bytes;
    let at_start = served.iter().filter(|item| item.at_start);
    let at_start: HashSet<String> = at_start.map(|item| item.source.id()).collect();
    let registry = models::registry(loader, store, served)?;
    registry
        .load_at_start(|entry| at_start.contains(&entry.id()))
        .await?;
    registry.share_tensor_memory(tensor_bytes)?;
    if stopping.is_cancelled() {
        return Ok(());
    }
    app.set_ready(registry.clone());
    announce_ready(&app, &registry, started, address);
    tokio::spawn(hang_up.reload(registry.clone()));
    if config.life_cycle.watch {
        tokio::spawn(async move { registry.watch(WATCH_PERIOD).await });
    }
    Ok(())
}

/// Logs that the server is ready, and prints an example request for the first model.
fn announce_ready(app: &App, registry: &Registry, started: Instant, address: SocketAddr) {
    let models = registry.snapshot();
    let first = models.entries().first();
    let task = first.map_or(Task::Classification, |entry| entry.source().manifest.task);
    let default = models.defaults().of(task).unwrap_or_default();
    let route = http::route_of(task);
    let seconds = started.elapsed().as_secs_f64();
    let Identity {
        version, instance, ..
    } = &app.identity;
    tracing::info!(%address, version, instance, seconds, "ready");
    tell!(
        "ready after {seconds:.2} s, instance {instance}, default model {default}. Try:\n  curl --data-binary @photo.jpg \
         -H 'content-type: image/jpeg' 'http://{address}{route}'"
    );
}
