//! Messages to systemd about the state of the server (`sd_notify`). Without `NOTIFY_SOCKET`, they have no effect.

use std::time::Duration;

use sd_notify::NotifyState;

/// States that the models are being loaded.
pub(super) fn loading() {
    send(&[NotifyState::Status("loading models")]);
}

/// States that the server is ready.
pub(super) fn ready() {
    send(&[NotifyState::Ready, NotifyState::Status("ready")]);
}

/// States that the server reads its files again; [`ready`] ends this state.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[
            NotifyState::Reloading,
            now,
            NotifyState::Status("reloading"),
        ]),
        Err(error) => tracing::warn!(%error, "cannot notify systemd"),
    }
}

/// States that the server stops, and serves new requests for `delay` until then.
pub(super) fn stopping(delay: Duration) {
    let status = match delay.as_millis() {
        0 => "draining: finishing the requests in flight".to_owned(),
        delay => format!("draining: still serving new requests for {delay} ms"),
    };
    send(&[NotifyState::Stopping, NotifyState::Status(&status)]);
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
