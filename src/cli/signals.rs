//! The signals that stop `serve`, and the one that makes it read its files again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Handlers of SIGTERM and SIGINT.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Registers the handlers. From then on, the signals do not end the process any more.
    pub(super) fn register() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Cancels `stopping` at the first signal, then waits for a second signal and returns its name.
    /// If `stopping` is cancelled elsewhere before any signal arrives, the next signal counts as
    /// the second.
    pub(super) async fn second(mut self, stopping: &CancellationToken) -> &'static str {
        tokio::select! {
            signal = self.next() => tracing::info!(signal, "draining"),
            () = stopping.cancelled() => {}
        }
        stopping.cancel();
        self.next().await
    }

    /// Returns the name of the next signal, when it arrives.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Handler of SIGHUP.
pub(super) struct HangUp(Signal);

impl HangUp {
    /// Registers the handler. From then on, the signal does not end the process any more.
    pub(super) fn register() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Waits for the next signal. Signals that arrive in between count as one. Returns `false` if no further signal can
    /// arrive.
    pub(super) async fn received(&mut self) -> bool {
        self.0.recv().await.is_some()
    }
}
