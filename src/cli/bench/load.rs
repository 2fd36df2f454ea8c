//! Closed-loop load over HTTP: each connection sends its next request when the response to its last
//! request was received.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use sightline::config::redacted;

/// Longest time of a request; a longer one has failed.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Median (`p50`) and 99th percentile (`p99`) of the latency in milliseconds, and throughput in
/// requests per second, over all connections of a load test.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) per_second: f64,
}

/// Sends `image` repeatedly over `connections` parallel connections during the time `length`.
/// Returns the latency and throughput of all requests.
pub(super) fn run(
    target: Target<'_>,
    image: &[u8],
    connections: usize,
    length: Duration,
) -> Result<Load> {
    let start = Instant::now();
    let mut latencies = latencies(target, image, connections, start + length)?;
    let per_second = latencies.len() as f64 / start.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part).round() as usize];
    Ok(Load {
        p50: at(0.5),
        p99: at(0.99),
        per_second,
    })
}

/// Sends `image` repeatedly over `connections` parallel connections until `end`, at least once over each. Returns the
/// latency of each request in milliseconds, in no order.
pub(super) fn latencies(
    target: Target<'_>,
    image: &[u8],
    connections: usize,
    end: Instant,
) -> Result<Vec<f64>> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..connections)
            .map(|_| scope.spawn(|| client(target, image, end)))
            .collect();
        let mut latencies = Vec::new();
        for client in clients {
            latencies.extend(client.join().map_err(|_| anyhow!("load test panicked"))??);
        }
        Ok(latencies)
    })
}

/// Sends `image` repeatedly over one connection until `end`, at least once. Returns the latency of
/// each request in milliseconds.
fn client(target: Target<'_>, image: &[u8], end: Instant) -> Result<Vec<f64>> {
    let client = Client::new(target);
    let mut latencies = Vec::new();
    while latencies.is_empty() || Instant::now() < end {
        latencies.push(client.send(image)?);
    }
    Ok(latencies)
}

/// The URL to send images to, and the API key that its server requires, if any.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) url: &'a str,
    pub(super) api_key: Option<&'a str>,
}

/// An HTTP client that sends all its requests over one connection.
pub(super) struct Client<'a> {
    agent: ureq::Agent,
    target: Target<'a>,
}

impl<'a> Client<'a> {
    pub(super) fn new(target: Target<'a>) -> Self {
        let config = ureq::Agent::config_builder().proxy(None);
        let config = config.http_status_as_error(false).max_redirects(0);
        let agent = config.timeout_global(Some(TIMEOUT)).build().into();
        Self { agent, target }
    }

    /// Sends `image` and returns the time until the whole response was received, in milliseconds.
    ///
    /// # Errors
    /// If there is no response, or one with another status than 200.
    pub(super) fn send(&self, image: &[u8]) -> Result<f64> {
        let start = Instant::now();
        let failed = || format!("the HTTP request to {} failed", redacted(self.target.url));
        let status = self.post(image, None).with_context(failed)?;
        if status != 200 {
            bail!("{}: status {status}", failed());
        }
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }

    /// Sends `content`, receives the whole response, and returns its status. `json_bytes` is the size of the JSON in front
    /// of the tensors in a request of the Open Inference Protocol.
    pub(super) fn post(
        &self,
        content: &[u8],
        json_bytes: Option<usize>,
    ) -> Result<u16, ureq::Error> {
        let Target { url, api_key } = self.target;
        let request = self.agent.post(url);
        let mut request = request.header("content-type", "application/octet-stream");
        if let Some(key) = api_key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        if let Some(bytes) = json_bytes {
            request = request.header("inference-header-content-length", bytes.to_string());
        }
        let mut response = request.send(content)?;
        let mut body = response.body_mut().as_reader();
        std::io::copy(&mut body, &mut std::io::sink())?;
        Ok(response.status().as_u16())
    }
}

/// Returns the median of `values`, or 0 if there are none.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
