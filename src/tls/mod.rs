//! TLS: reads a certificate, its private key and the certificates of client authorities from PEM files, and
//! replaces them while the server runs when the files change.
//!
//! [`Tls`] holds the configuration of new connections. A changed set of files is used only if it is complete and
//! valid; until then, the old one stays in use. Open connections keep the configuration of their handshake.

mod credentials;
mod error;
mod files;
mod rotation;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;

pub use error::TlsError;
pub use files::TlsFiles;

use crate::error::explain;
use crate::metrics::TlsMetrics;
use credentials::Credentials;
use rotation::{Attempt, Rotation};

/// Period between two checks of the files for a change. Long enough for network file systems, and short compared with
/// the time by which certificates are renewed before they expire.
const POLL_PERIOD: Duration = Duration::from_secs(2);

/// The TLS configuration of a listener, and the files that it is read from.
pub struct Tls {
    files: TlsFiles,
    metrics: TlsMetrics,
    current: RwLock<Arc<ServerConfig>>,
    rotation: Mutex<Rotation>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files at the start of the server.
    ///
    /// # Errors
    /// [`TlsError`] if a file cannot be read, or if the files do not fit together or are not valid now.
    pub fn load(files: TlsFiles, metrics: TlsMetrics) -> Result<Self, TlsError> {
        let contents = files.read()?;
        let credentials = Credentials::new(&files, &contents)?;
        metrics.expires(credentials.not_after);
        credentials.log("TLS certificate loaded");
        Ok(Self {
            files,
            metrics,
            current: RwLock::new(credentials.config),
            rotation: Mutex::new(Rotation::new(contents.digest())),
        })
    }

    /// Checks the files as [`Tls::load`] does, without using them.
    ///
    /// # Errors
    /// As [`Tls::load`].
    pub fn check(files: &TlsFiles) -> Result<(), TlsError> {
        Credentials::new(files, &files.read()?).map(drop)
    }

    /// Returns the configuration of new connections.
    pub fn config(&self) -> Arc<ServerConfig> {
        let current = self.current.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files now. If they changed and are complete and valid, new connections use them; otherwise the old
    /// configuration stays in use. Returns whether they changed. Blocks the thread.
    ///
    /// # Errors
    /// [`TlsError`] if the changed files cannot be used. The error has been logged and counted.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let mut rotation = self.rotation.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, result) = self.attempt(&mut rotation);
        if let Err(error) = &result {
            rotation.reported();
            self.report(error);
        }
        result
    }

    /// Reads the files, and reports an error only if two reads in a row find the same unusable files: a certificate and
    /// a key that are replaced one after the other do not fit together for a moment. Blocks the thread.
    fn poll(&self) {
        let mut rotation = self.rotation.lock().unwrap_or_else(PoisonError::into_inner);
        let (attempt, result) = self.attempt(&mut rotation);
        match result {
            Err(error) if attempt == Attempt::Repeated => {
                rotation.reported();
                self.report(&error);
            }
            Err(error) if attempt == Attempt::First => {
                tracing::debug!(error = explain(&error), "TLS files do not fit yet");
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// Reads the files and replaces the configuration if they changed and are valid.
    fn attempt(&self, rotation: &mut Rotation) -> (Attempt, Result<bool, TlsError>) {
        let contents = match self.files.read() {
            Ok(contents) => contents,
            Err(error) => return (rotation.failed(None), Err(error)),
        };
        let digest = contents.digest();
        if rotation.is_current(&digest) {
            return (Attempt::First, Ok(false));
        }
        match Credentials::new(&self.files, &contents) {
            Ok(credentials) => {
                self.metrics.expires(credentials.not_after);
                self.metrics.reloaded(true);
                credentials.log("TLS certificate replaced");
                let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                *current = credentials.config;
                rotation.replaced(digest);
                (Attempt::First, Ok(true))
            }
            Err(error) => (rotation.failed(Some(digest)), Err(error)),
        }
    }

    fn report(&self, error: &TlsError) {
        self.metrics.reloaded(false);
        let error = explain(error);
        tracing::error!(
            error,
            "cannot replace the TLS certificate: the old one stays in use"
        );
    }

    /// Checks the files for changes until the returned future is dropped.
    pub async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(POLL_PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let tls = Arc::clone(&self);
            // Files on a network can block for long.
            let polled = tokio::task::spawn_blocking(move || tls.poll()).await;
            if let Err(error) = polled {
                tracing::error!(%error, "cannot check the TLS files for changes");
            }
        }
    }
}
