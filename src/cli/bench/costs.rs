//! Measures the costs that `sightline plan` computes with: the latency of requests if every core has exactly one.

use std::time::{Duration, Instant};

use anyhow::Result;
use sightline::config::PrecisionChoice;
use sightline::engine::OnnxRuntime;
use sightline::process::ProcessUsage;
use sightline::store::{ModelRef, ModelStore};
use sightline::threads::usable_cores;

use super::generated;
use super::load::{self, Target};
use super::served::Server;

/// Time in which caches fill and lazy initializations run before the measurement.
const WARM_UP: Duration = Duration::from_millis(500);

/// The costs of a model on this machine.
#[derive(Debug)]
pub(in crate::cli) struct Measured {
    /// The model's id, `NAME@VARIANT`.
    pub(in crate::cli) model: String,
    /// Latencies in seconds of requests without a wait, while every core works on one.
    pub(in crate::cli) service_times: Vec<f64>,
    /// Resident memory of this process with the loaded model, in bytes.
    pub(in crate::cli) resident_bytes: u64,
}

/// Starts the server with `model` in this process and sends `image` to it for the time `length`, over as many connections
/// as there are cores. So no request waits for a core, and all compete for caches and memory as under load.
///
/// # Errors
/// If the model cannot be found or loaded, or if a request fails.
pub(in crate::cli) fn measure(
    runtime: &OnnxRuntime,
    store: &ModelStore,
    model: &ModelRef,
    precision: Option<PrecisionChoice>,
    image: &[u8],
    length: Duration,
) -> Result<Measured> {
    let found = generated::find_or_make(store, model, precision, (runtime, image))?;
    let model = found.source.id();
    let server = Server::start(runtime, found.source)?;
    let service_times = measure_target(server.target(), image, usable_cores(), length)?;
    let resident_bytes = ProcessUsage::now().resident_bytes;
    server.stop()?;
    Ok(Measured {
        model,
        service_times,
        resident_bytes,
    })
}

/// Sends `image` to the route `url` of a running server that has `cores` cores and no other requests, for the time
/// `length`. Returns the latencies in seconds.
///
/// # Errors
/// If a request fails.
pub(in crate::cli) fn measure_server(
    url: &str,
    api_key: Option<&str>,
    image: &[u8],
    cores: usize,
    length: Duration,
) -> Result<Vec<f64>> {
    measure_target(Target { url, api_key }, image, cores, length)
}

fn measure_target(
    target: Target<'_>,
    image: &[u8],
    cores: usize,
    length: Duration,
) -> Result<Vec<f64>> {
    load::latencies(target, image, cores, Instant::now() + WARM_UP)?;
    let latencies = load::latencies(target, image, cores, Instant::now() + length)?;
    Ok(latencies.iter().map(|latency| latency / 1e3).collect())
}
