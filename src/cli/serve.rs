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
    /// Settings in TOML, named as the flags below with underscores; flags win over it
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
    refuse_twins(&sources)?;
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.cores)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    tokio.block_on(serve(config, runtime, sources))
}

/// The models that were asked for, else all of the directory and the built-in one.
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

/// Each of `--model` once; a name without a variant is the model in the preferred precision.
fn named_sources(store: &ModelStore, config: &ServeConfig) -> Result<Vec<ModelSource>> {
    let mut sources = Vec::new();
    for text in &config.models {
        let Ok(reference) = text.parse::<ModelRef>();
        let mut source = store.find(&reference)?;
        if reference.variant.is_none() {
            (source, _) = by_preference(source, config.precision);
        }
        // It depends on the CPU whether `name` is `name@int8`.
        if !sources.contains(&source) {
            sources.push(source);
        }
    }
    Ok(sources)
}

/// The model in the precision that its bare name stands for, and in the other if it has both.
fn by_preference(fp32: ModelSource, choice: PrecisionChoice) -> (ModelSource, Option<ModelSource>) {
    match (fp32.int8(), choice.preferred()) {
        (Some(int8), Precision::Int8) => (int8, Some(fp32)),
        (int8, _) => {
            if int8.is_none() && choice == PrecisionChoice::Int8 {
                let model = &fp32.manifest.name;
                tracing::warn!(model, "no int8 variant: fp32 answers");
            }
            (fp32, int8)
        }
    }
}

/// Two models of one name could not be told apart in a request.
fn refuse_twins(sources: &[ModelSource]) -> Result<()> {
    for (index, source) in sources.iter().enumerate() {
        let same = |other: &ModelSource| {
            other.manifest.name == source.manifest.name && other.variant == source.variant
        };
        if sources[..index].iter().any(same) {
            let (name, variant) = (&source.manifest.name, &source.variant);
            bail!("two models are called `{name}@{variant}`: change the `name` in one's manifest");
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
            // Also if loading panics, the server must not stay up without its models.
            let ends_the_server = failed.drop_guard();
            load_all(&app, &config, &runtime, sources, address)?;
            ends_the_server.disarm();
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

/// Loads the models, while the listener already answers probes, and makes the server ready.
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
        // Asked to end while it was loading.
        return Ok(());
    }
    let seconds = started.elapsed().as_secs_f64();
    // Nobody may be reading: that is no reason to stop.
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
        own_operators = model.own_operators,
        load_time_ms = u64::try_from(model.load_time.as_millis())?,
        "model loaded"
    );
    Ok(model)
}

/// A deployment's wish wins over the model's own.
fn override_batching(own: &mut Batching, wish: &Batching) {
    own.max_batch_size = wish.max_batch_size.or(own.max_batch_size);
    own.max_queue_delay_us = wish.max_queue_delay_us.or(own.max_queue_delay_us);
    own.max_queue_size = wish.max_queue_size.or(own.max_queue_size);
    own.instances = wish.instances.or(own.instances);
}

/// Resolves when the process is asked to end, or when loading has failed.
async fn stop_signal(failed: CancellationToken) {
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(error) => {
                tracing::warn!("cannot listen for SIGTERM: {error}");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = terminate => tracing::info!("SIGTERM: finishing what is in flight"),
        _ = tokio::signal::ctrl_c() => tracing::info!("interrupted: finishing what is in flight"),
        () = failed.cancelled() => {}
    }
}
