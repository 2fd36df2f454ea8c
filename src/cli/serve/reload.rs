//! What the server reads again at SIGHUP: API keys, TLS files and models.

use std::sync::Arc;

use sightline::app::App;
use sightline::registry::Registry;
use sightline::tls::Tls;

use crate::cli::notify;
use crate::cli::signals::HangUp;

/// What is read again.
pub(super) struct Reload {
    pub(super) app: Arc<App>,
    /// The TLS files. `None` without TLS.
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) registry: Registry,
}

impl Reload {
    /// Reads everything again at each signal, until the channel of signals closes. Signals that arrive meanwhile count as
    /// one. What cannot be used is logged and counted, and leaves the old state in use.
    pub(super) async fn at_each(self, mut hang_up: HangUp) {
        while hang_up.received().await {
            if self.app.is_leaving() {
                tracing::info!("SIGHUP ignored: the server stops");
                continue;
            }
            tracing::info!("SIGHUP: reading models, API keys and TLS files again");
            notify::reloading();
            self.files().await;
            let changes = self.registry.sync(false).await;
            let (changed, failed) = (changes.changed, changes.failed);
            tracing::info!(changed, failed, "models compared with their files");
            // A stop that began meanwhile has told systemd its own state.
            if !self.app.is_leaving() {
                notify::ready();
            }
        }
    }

    /// Reads the API keys and the TLS files.
    async fn files(&self) {
        let (app, tls) = (Arc::clone(&self.app), self.tls.clone());
        // Files on a network can block for long.
        let reading = tokio::task::spawn_blocking(move || {
            // The errors have been logged and counted.
            if let Some(keys) = &app.keys {
                let _ = keys.reload(&app.metrics);
            }
            if let Some(tls) = &tls {
                let _ = tls.reload();
            }
        });
        if let Err(error) = reading.await {
            tracing::error!(%error, "cannot read the API keys and TLS files again");
        }
    }
}
