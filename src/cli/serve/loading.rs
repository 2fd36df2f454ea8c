//! The loading of the models of the start, in the background of the listeners.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use sightline::app::App;
use sightline::config::ListenAddress;
use sightline::http;
use sightline::identity::Identity;
use sightline::manifest::Task;
use sightline::registry::{Registry, Served};
use sightline::store::ModelStore;
use sightline::tls::Tls;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::models::{self, Loader};
use super::reload::Reload;
use super::scheme;
use crate::cli::notify;
use crate::cli::say::tell;
use crate::cli::signals::HangUp;

/// Time between two looks at the files of the models with `--watch`.
const WATCH_PERIOD: Duration = Duration::from_secs(2);

/// What loading the models of the start needs.
pub(super) struct Start {
    pub(super) loader: Loader,
    pub(super) store: ModelStore,
    pub(super) served: Vec<Served>,
    /// The first public address.
    pub(super) address: ListenAddress,
    /// The TLS files, which SIGHUP reads again. `None` without TLS.
    pub(super) tls: Option<Arc<Tls>>,
    /// Cancelled when the server stops.
    pub(super) stopping: CancellationToken,
}

/// Runs `load`, which loads the models, in a task of its own, and cancels `stopping` if loading
/// fails. The returned channel receives the result of `load` before `stopping` is cancelled.
pub(super) fn begin(
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
pub(super) fn finish(mut loading: oneshot::Receiver<Result<()>>) -> Result<()> {
    loading.try_recv().unwrap_or_else(|_| {
        tracing::info!("stopped while models were being loaded");
        Ok(())
    })
}

impl Start {
    /// Loads the models of the start, then makes the server ready and prints an example request. The
    /// listeners already respond to health checks meanwhile. From then on, `hang_up` and, if the settings say so, the
    /// files change the models.
    pub(super) async fn run(self, hang_up: HangUp) -> Result<()> {
        let started = Instant::now();
        let Self {
            loader,
            store,
            served,
            address,
            tls,
            stopping,
        } = self;
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
        announce_ready(&app, &registry, started, (&address, scheme(&config)));
        let watched = registry.clone();
        tokio::spawn(Reload { app, tls, registry }.at_each(hang_up));
        if config.life_cycle.watch {
            tokio::spawn(async move { watched.watch(WATCH_PERIOD).await });
        }
        Ok(())
    }
}

/// Logs that the server is ready, and prints an example request for the first model. `url` is the address of the
/// server and the scheme that it serves there.
fn announce_ready(
    app: &App,
    registry: &Registry,
    started: Instant,
    (address, scheme): (&ListenAddress, &str),
) {
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
    notify::ready();
    let (look, target) = match address {
        ListenAddress::Unix(path) => (
            "Try:".to_owned(),
            format!("--unix-socket '{path}' 'http://localhost{route}'"),
        ),
        address => {
            let url = format!("{scheme}://{}", reachable(address));
            (
                format!("Open {url}/ in a browser, or try:"),
                format!("'{url}{route}'"),
            )
        }
    };
    let key = if app.keys.is_some() {
        " -H \"Authorization: Bearer $KEY\""
    } else {
        ""
    };
    tell!(
        "ready after {seconds:.2} s, instance {instance}, default model {default}. {look}\n  curl --data-binary @photo.jpg \
         -H 'content-type: image/jpeg'{key} {target}"
    );
}

/// Returns host and port with which a program on this machine reaches the server: `localhost` if it listens on all
/// addresses, for which a URL has no name.
fn reachable(address: &ListenAddress) -> String {
    match address {
        ListenAddress::Ip(ip) if ip.ip().is_unspecified() => format!("localhost:{}", ip.port()),
        address => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_names_an_address_that_a_client_can_use() {
        for (address, expected) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("0.0.0.0:8080", "localhost:8080"),
            ("[::]:80", "localhost:80"),
            ("[::1]:80", "[::1]:80"),
            ("example.org:1", "example.org:1"),
        ] {
            assert_eq!(reachable(&address.parse().unwrap()), expected);
        }
    }
}
