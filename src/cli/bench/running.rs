//! `sightline bench --url`: measures a running server.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use serde::Serialize;
use sightline::config::{SecretUrl, redacted};

use crate::cli::say::say;

use super::BenchArgs;
use super::curves::{self, Subject};
use super::images;
use super::load::{self, Load, Target, median};
use super::remote;
use super::schedule::Arrivals;

/// Connections of an open loop if `--connections` is not set. Requests are due at fixed times, so there must be more
/// connections than the server has requests in flight.
const OPEN_CONNECTIONS: u16 = 128;
/// Duration of a load test if neither `--seconds` nor `--requests` is set, in seconds.
const SECONDS: u32 = 10;
/// Longest duration of a load test that `--requests` ends, in seconds.
const MAX_SECONDS: u32 = 3600;

/// Measures the running server at `url`: with an open loop or a folder of images if the flags say so, else over one
/// connection and over `--connections` connections.
pub(super) fn run(args: &BenchArgs, url: &SecretUrl, image: Bytes) -> Result<()> {
    let url = route(url);
    let target = Target {
        url: url.expose(),
        api_key: args.api_key.as_deref(),
    };
    if let Some(folder) = &args.plot {
        let images = images::chosen(args, image)?;
        let name = redacted(url.expose()).into_owned();
        let subject = Subject {
            name,
            target,
            images: &images,
        };
        let measured = curves::measure(&subject, args)?;
        return curves::finish(&[measured], folder, args);
    }
    let is_load_test = args.rate.is_some()
        || args.images.is_some()
        || args.seconds.is_some()
        || args.requests.is_some();
    if is_load_test {
        return load_test(args, target, image);
    }
    rounds(args, target, &image).with_context(|| format!("cannot measure {url}"))
}

/// Returns the URL to post images to: `url`, if it has a route under `/v1`, or its route for classification.
pub(in crate::cli) fn route(url: &SecretUrl) -> SecretUrl {
    let given = url.expose();
    if given.contains("/v1/") {
        url.clone()
    } else {
        format!("{}/v1/classify", given.trim_end_matches('/')).into()
    }
}

/// Runs the load test that the flags describe, and prints its report.
fn load_test(args: &BenchArgs, target: Target<'_>, image: Bytes) -> Result<()> {
    let images = images::chosen(args, image)?;
    // Without a rate, a folder is sent once.
    let once = args.images.is_some() && args.rate.is_none() && args.seconds.is_none();
    let count = args.requests.or(once.then_some(images.len() as u64));
    let default = if count.is_some() {
        MAX_SECONDS
    } else {
        SECONDS
    };
    let connections = match (args.connections, args.rate) {
        (Some(connections), _) => connections,
        (None, Some(_)) => OPEN_CONNECTIONS,
        (None, None) => super::CONNECTIONS,
    };
    let arrivals = match args.rate {
        None => Arrivals::Closed,
        Some(rate) if args.poisson => Arrivals::Poisson(rate),
        Some(rate) => Arrivals::Regular(rate),
    };
    let load = remote::Load {
        target,
        images: &images,
        arrivals,
        connections: usize::from(connections),
        length: Duration::from_secs(args.seconds.unwrap_or(default).into()),
        count: count.unwrap_or(u64::MAX),
    };
    let report = load.run()?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        say!("{report}")?;
    }
    if !report.has_success() {
        bail!("no request succeeded");
    }
    Ok(())
}

/// Medians over the rounds of a closed loop.
#[derive(Serialize)]
struct Row {
    connections: usize,
    p50_ms: f64,
    p99_ms: f64,
    per_second: f64,
}

/// Measures closed loops over one connection and over `--connections` connections in rounds, and prints the medians.
fn rounds(args: &BenchArgs, target: Target<'_>, image: &Bytes) -> Result<()> {
    let length = Duration::from_millis(args.round_ms);
    let connections = [
        1,
        usize::from(args.connections.unwrap_or(super::CONNECTIONS)),
    ];
    let rows = connections.map(|connections| {
        let loads = (0..args.rounds).map(|_| load::run(target, image, connections, length));
        let loads = loads.collect::<Result<Vec<_>>>()?;
        let over = |figure: fn(&Load) -> f64| median(loads.iter().map(figure).collect());
        Ok::<_, anyhow::Error>(Row {
            connections,
            p50_ms: over(|load| load.p50),
            p99_ms: over(|load| load.p99),
            per_second: over(|load| load.per_second),
        })
    });
    let rows = rows.into_iter().collect::<Result<Vec<_>>>()?;
    if args.json {
        return say!("{}", serde_json::to_string_pretty(&rows)?);
    }
    say!("connections       p50 ms    p99 ms  images/s")?;
    for row in rows {
        say!(
            "{:11} {:12.2} {:9.2} {:9.1}",
            row.connections,
            row.p50_ms,
            row.p99_ms,
            row.per_second
        )?;
    }
    Ok(())
}
