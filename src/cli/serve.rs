//! `sightline serve`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use sightline::app::App;
use sightline::config::{PrecisionChoice, ServeConfig, Settings};
use sightline::engine::OnnxRuntime;
use sightline::http;
use sightline::manifest::{Batching, Precision};
use sightline::registry::{LoadedModel, ModelPlan, Registry};
use sightline::store::{ModelRef, ModelSource, ModelStore};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{RuntimeArgs, StoreArgs};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// TOML file with the settings below, in underscores; flags and environment variables override it
    #[arg(long, env = "SIGHTLINE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// Serves until SIGTERM or SIGINT; fails if a model cannot be loaded.
pub(super) fn run(args: &ServeArgs) -> Result<()> {
    let settings = match &args.config {
        Some(path) => args.settings.over_file(path)?,
        None => args.settings.clone(),
    };
    let store = StoreArgs {
        directory: settings.models.clone(),
    };
    let library = RuntimeArgs {
        onnxruntime: settings.onnxruntime.clone(),
    };
    let config = settings.resolve()?;
    let runtime = library.load()?;
    let sources = find_sources(&store.store(), &config)?;
    reject_duplicates(&sources)?;
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.cores)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    tokio.block_on(serve(config, runtime, sources))
}

/// Finds the models that the configuration names, else all of the directory and the built-in model.
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

/// Finds the models of `--model`, each once. A name without a variant selects the preferred precision.
fn named_sources(store: &ModelStore, config: &ServeConfig) -> Result<Vec<ModelSource>> {
    let mut sources = Vec::new();
    for text in &config.models {
        let Ok(reference) = text.parse::<ModelRef>();
        let mut source = store.find(&reference)?;
        if reference.variant.is_none() {
            (source, _) = by_preference(source, config.precision);
        }
        // On some CPUs `name` and `name@int8` are the same variant.
        if !sources.contains(&source) {
            sources.push(source);
        }
    }
    Ok(sources)
}

/// Returns the model in the preferred precision, and in the other precision if it has both.
fn by_preference(fp32: ModelSource, choice: PrecisionChoice) -> (ModelSource, Option<ModelSource>) {
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

/// Rejects two models with the same name and variant, which a request could not tell apart.
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

async fn serve(config: ServeConfig, runtime: OnnxRuntime, sources: Vec<ModelSource>) -> Result<()> {
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    let address = listener.local_addr()?;
    let version = env!("CARGO_PKG_VERSION");
    let _ = writeln!(
        std::io::stdout(),
        "sightline {version} listening on http://{address}"
    );
    let app = Arc::new(App::new(config.limits, config.cores));
    let failed = CancellationToken::new();
    let loading = {
        let (app, config, failed) = (Arc::clone(&app), config.clone(), failed.clone());
        tokio::task::spawn_blocking(move || {
            // The guard stops the server if loading fails or panics.
            let stops_the_server = failed.drop_guard();
            load_all(&app, &config, &runtime, sources, address)?;
            stops_the_server.disarm();
            Ok::<_, anyhow::Error>(())
        })
    };
    let stop = {
        let app = Arc::clone(&app);
        async move {
            stop_signal(failed).await;
            app.start_draining();
        }
    };
    let router = http::router(Arc::clone(&app));
    let answered = http::server::serve(
        listener,
        router,
        config.max_connections,
        stop,
        config.shutdown_grace,
    )
    .await;
    loading.await??;
    if !answered {
        bail!(
            "requests were still in flight after {} ms",
            config.shutdown_grace.as_millis()
        );
    }
    let _ = writeln!(std::io::stdout(), "stopped");
    Ok(())
}

/// Loads the models while the listener already serves probes, and makes the server ready.
fn load_all(
    app: &App,
    config: &ServeConfig,
    runtime: &OnnxRuntime,
    sources: Vec<ModelSource>,
    address: SocketAddr,
) -> Result<()> {
    let started = Instant::now();
    let load = |source| load(app, config, runtime, source);
    let models = sources.into_iter().map(load).collect::<Result<Vec<_>>>()?;
    let default = models.first().map(LoadedModel::id).unwrap_or_default();
    let route = models
        .first()
        .map_or("/v1/classify", |model| http::route_of(model.manifest.task));
    app.set_ready(Registry::new(models));
    if app.registry().is_err() {
        // A stop signal came while models were being loaded.
        return Ok(());
    }
    let seconds = started.elapsed().as_secs_f64();
    // A closed stdout is not a reason to stop.
    let _ = writeln!(
        std::io::stdout(),
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
        .in_scope(|| LoadedModel::load(source, runtime, plan, &app.metrics))?;
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

/// Overrides a model's own batching with the settings that the deployment gives.
fn override_batching(own: &mut Batching, deployment: &Batching) {
    own.max_batch_size = deployment.max_batch_size.or(own.max_batch_size);
    own.max_queue_delay_us = deployment.max_queue_delay_us.or(own.max_queue_delay_us);
    own.max_queue_size = deployment.max_queue_size.or(own.max_queue_size);
    own.instances = deployment.instances.or(own.instances);
}

/// Resolves on SIGTERM or SIGINT, or when loading has failed.
async fn stop_signal(failed: CancellationToken) {
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot handle SIGTERM");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = terminate => tracing::info!(signal = "SIGTERM", "draining"),
        _ = tokio::signal::ctrl_c() => tracing::info!(signal = "SIGINT", "draining"),
        () = failed.cancelled() => {}
    }
}
