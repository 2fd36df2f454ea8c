//! Load over HTTP: a fixed number of connections, each asking again as soon as it is answered.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

/// What the clients saw, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) per_second: f64,
}

/// Sends `picture` over `connections` connections for `length`.
pub(super) fn run(url: &str, picture: &[u8], connections: usize, length: Duration) -> Result<Load> {
    let start = Instant::now();
    let end = start + length;
    let mut latencies = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..connections)
            .map(|_| scope.spawn(|| client(url, picture, end)))
            .collect();
        let mut latencies = Vec::new();
        for client in clients {
            latencies.extend(client.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        Ok::<_, anyhow::Error>(latencies)
    })?;
    let per_second = latencies.len() as f64 / start.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part).round() as usize];
    Ok(Load {
        p50: at(0.5),
        p99: at(0.99),
        per_second,
    })
}

/// One connection; at least one request.
fn client(url: &str, picture: &[u8], end: Instant) -> Result<Vec<f64>> {
    let client = Client::new(url);
    let mut latencies = Vec::new();
    while latencies.is_empty() || Instant::now() < end {
        latencies.push(client.ask(picture)?);
    }
    Ok(latencies)
}

/// A client that keeps its connection.
pub(super) struct Client {
    agent: ureq::Agent,
    url: String,
}

impl Client {
    pub(super) fn new(url: &str) -> Self {
        let agent = ureq::Agent::config_builder().proxy(None).build().into();
        Self {
            agent,
            url: url.to_owned(),
        }
    }

    /// Sends `picture`; milliseconds until the whole answer was there.
    pub(super) fn ask(&self, picture: &[u8]) -> Result<f64> {
        let start = Instant::now();
        let request = self
            .agent
            .post(&self.url)
            .header("content-type", "application/octet-stream");
        let answer = request.send(picture);
        let mut answer = answer.with_context(|| format!("cannot ask {}", self.url))?;
        answer.body_mut().read_to_vec()?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }
}

/// The middle of `values`; zero of none.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
