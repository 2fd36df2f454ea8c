//! The export of the spans of requests, for as long as the server runs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use sightline::app::App;
use sightline::config::ServeConfig;
use sightline::telemetry::Traces;

/// Maximum time to export the last spans, after the last request has finished and within the grace period.
const MAX_FLUSH: Duration = Duration::from_secs(1);

/// Starts to export the spans of requests, if the configuration names a collector.
pub(super) fn start(config: &ServeConfig, app: &App) -> Result<Option<Traces>> {
    let Some(endpoint) = &config.otlp_endpoint else {
        return Ok(None);
    };
    let (ratio, instance) = (config.otlp_sample_ratio, &app.identity.instance);
    let traces = Traces::start(endpoint, ratio, instance, app.metrics.spans())?;
    tracing::info!(%endpoint, sample_ratio = ratio.get(), "exporting spans");
    Ok(Some(traces))
}

/// Exports the last spans. `left` is the time until the end of the grace period.
pub(super) async fn stop(app: Arc<App>, left: Duration) {
    let stopped = tokio::task::spawn_blocking(move || {
        if let Some(traces) = &app.traces {
            traces.stop(left.min(MAX_FLUSH));
        }
    });
    // The error of a panic is ignored, because the panic has been logged.
    let _ = stopped.await;
}
