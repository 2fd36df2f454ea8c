//! `sightline bench --compare`: measures several running servers with the same images.
//!
//! The servers take turns, so that a slow moment of the machine affects all of them, and their ratios hold. A server that
//! cannot be measured is a row with the reason.

mod contender;
mod tensor;

use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use serde::Serialize;
use sightline::config::redacted;

use super::BenchArgs;
use super::curves::{self, Subject};
use super::images;
use super::load::Target;
use super::record::Record;
use super::remote::Load;
use super::schedule::Arrivals;
use crate::cli::explain;
use crate::cli::say::{complain, say};
use contender::{Asker, Contender};

/// The results of one server.
#[derive(Debug, Serialize)]
struct Row {
    /// URL as it was given, without credentials.
    url: String,
    /// Name and version of the server, and the protocol. `None` if that could not be found out.
    #[serde(flatten)]
    server: Option<Server>,
    #[serde(flatten)]
    figures: Option<Figures>,
    /// Why the server could not be measured, or the first request that failed.
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Server {
    #[serde(rename = "server")]
    name: String,
    protocol: &'static str,
    model: String,
}

#[derive(Debug, Serialize)]
struct Figures {
    /// Responses with status 200 per second.
    per_second: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    sent: u64,
    failed: u64,
    /// Throughput relative to that of the first server that could be measured.
    relative: f64,
}

/// Measures the servers of `--compare` and prints one table.
///
/// # Errors
/// If the images cannot be used, if no server could be measured, or if a chart cannot be written.
pub(super) fn run(args: &BenchArgs, image: Bytes) -> Result<()> {
    let images = images::chosen(args, image)?;
    let asker = Asker::new(args.api_key.as_deref());
    let contenders = args.compare.iter().map(|url| {
        let model = args.model.first();
        asker.ask(url.expose(), model, &images)
    });
    let contenders: Vec<Result<Contender>> = contenders.collect();
    let records = measure(args, &contenders)?;
    let rows = rows(args, &contenders, records);
    if args.json {
        say!("{}", serde_json::to_string_pretty(&rows)?)?;
    } else {
        say!("{}", table(args, images.len(), &rows).trim_end())?;
    }
    if rows.iter().all(|row| row.figures.is_none()) {
        bail!("no server could be measured");
    }
    match &args.plot {
        Some(folder) => plot(args, &contenders, folder),
        None => Ok(()),
    }
}

/// Returns what was recorded of each server with which a request succeeded in the first place.
fn measure(
    args: &BenchArgs,
    contenders: &[Result<Contender>],
) -> Result<Vec<Option<(Record, Duration)>>> {
    let empty = contenders.iter().map(|contender| {
        let record = contender.as_ref().ok().map(|_| Record::new());
        Ok(record.transpose()?.map(|record| (record, Duration::ZERO)))
    });
    let mut total = empty.collect::<Result<Vec<_>>>()?;
    for _ in 0..args.rounds {
        for (contender, total) in contenders.iter().zip(&mut total) {
            let (Ok(contender), Some((record, elapsed))) = (contender, total) else {
                continue;
            };
            let load = Load {
                target: target(args, contender),
                images: &contender.images,
                arrivals: Arrivals::Closed,
                connections: usize::from(args.connections.unwrap_or(super::CONNECTIONS)),
                length: Duration::from_millis(args.round_ms),
                count: u64::MAX,
            };
            let measured = load.measure()?;
            record.merge(measured.record)?;
            *elapsed += measured.elapsed;
        }
    }
    Ok(total)
}

fn target<'a>(args: &'a BenchArgs, contender: &'a Contender) -> Target<'a> {
    Target {
        url: &contender.url,
        api_key: args.api_key.as_deref(),
    }
}

fn rows(
    args: &BenchArgs,
    contenders: &[Result<Contender>],
    records: Vec<Option<(Record, Duration)>>,
) -> Vec<Row> {
    let mut first = None;
    let given = args.compare.iter().zip(contenders).zip(records);
    let rows = given.map(|((url, contender), recorded)| {
        let mut row = Row {
            url: redacted(url.expose()).into_owned(),
            server: None,
            figures: None,
            error: None,
        };
        match contender {
            Err(error) => row.error = Some(explain(error)),
            Ok(contender) => {
                row.server = Some(Server {
                    name: contender.server.clone(),
                    protocol: contender.protocol.as_str(),
                    model: contender.model.clone(),
                });
            }
        }
        if let Some((record, elapsed)) = recorded {
            row.error = record.first_error().map(str::to_owned);
            if record.succeeded() > 0 {
                let per_second = record.succeeded() as f64 / elapsed.as_secs_f64();
                row.figures = Some(Figures {
                    per_second,
                    p50_ms: record.latency_ms(0.5),
                    p90_ms: record.latency_ms(0.9),
                    p99_ms: record.latency_ms(0.99),
                    sent: record.sent(),
                    failed: record.sent() - record.succeeded(),
                    relative: per_second / *first.get_or_insert(per_second),
                });
            }
        }
        row
    });
    rows.collect()
}

fn table(args: &BenchArgs, images: usize, rows: &[Row]) -> String {
    let connections = args.connections.unwrap_or(super::CONNECTIONS);
    let (rounds, length) = (args.rounds, args.round_ms);
    let mut lines = vec![
        format!(
            "{connections} connections, {images} images, {rounds} rounds of {length} ms in turns"
        ),
        " images/s relative   p50 ms   p90 ms   p99 ms  failed  server".to_owned(),
    ];
    for row in rows {
        let figures = match &row.figures {
            Some(figures) => format!(
                "{:9.1} {:8.2} {:8.2} {:8.2} {:8.2} {:7}",
                figures.per_second,
                figures.relative,
                figures.p50_ms,
                figures.p90_ms,
                figures.p99_ms,
                figures.failed
            ),
            None => format!(
                "{:>9} {:>8} {:>8} {:>8} {:>8} {:>7}",
                "-", "-", "-", "-", "-", "-"
            ),
        };
        let server = row.server.as_ref().map_or(String::new(), |server| {
            format!(": {}, {}, {}", server.name, server.protocol, server.model)
        });
        lines.push(format!("{figures}  {}{server}", row.url));
        if let Some(error) = &row.error {
            lines.push(format!("{:54}{error}", ""));
        }
    }
    lines.join("\n")
}

/// Measures the servers again with growing numbers of connections, and writes the charts.
fn plot(
    args: &BenchArgs,
    contenders: &[Result<Contender>],
    folder: &std::path::Path,
) -> Result<()> {
    let mut measured = Vec::new();
    for contender in contenders.iter().flatten() {
        let subject = Subject {
            name: contender.title.clone(),
            target: target(args, contender),
            images: &contender.images,
        };
        match curves::measure(&subject, args) {
            Ok(curve) => measured.push(curve),
            Err(error) => complain!("warning: {}: not in the charts", explain(&error)),
        }
    }
    curves::write(&measured, folder)
}
