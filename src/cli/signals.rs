//! The signals that stop `serve`.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Handlers of SIGTERM and SIGINT.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Registers the handlers; the signals no longer end the process.
    pub(super) fn register() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Cancels `stopping` at the first signal and returns the name of the second. The first signal after
    /// `stopping` was cancelled elsewhere counts as the second.
    pub(super) async fn second(mut self, stopping: &CancellationToken) -> &'static str {
        tokio::select! {
            signal = self.next() => tracing::info!(signal, "draining"),
            () = stopping.cancelled() => {}
        }
        stopping.cancel();
        self.next().await
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
