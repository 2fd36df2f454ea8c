//! `sightline bench --plot`: throughput and latency over the number of connections, as charts.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

use super::BenchArgs;
use super::images::Image;
use super::load::Target;
use super::plot::{Axis, Chart, Line, Mark, Point, Series};
use super::record::Record;
use super::remote::Load;
use super::schedule::Arrivals;
use crate::cli::say::{complain, say};

/// Most connections if `--connections` is not set.
const CONNECTIONS: u16 = 32;
/// Most numbers of connections that the chart of latencies shows.
const SHOWN: usize = 4;
/// Parts of the requests whose latency the chart of latencies shows, as the number of requests of which one is slower.
const STEPS_PER_DECADE: u32 = 12;

/// A server to measure.
pub(super) struct Subject<'a> {
    pub(super) name: String,
    pub(super) target: Target<'a>,
    pub(super) images: &'a [Image],
}

/// The results of one server, or of one model.
#[derive(Serialize)]
pub(super) struct Curve {
    name: String,
    levels: Vec<Level>,
}

/// The results with one number of connections.
#[derive(Serialize)]
struct Level {
    connections: usize,
    per_second: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    /// Number of requests without a response of status 200.
    failed: u64,
    #[serde(skip)]
    record: Record,
}

/// Measures closed loops with 1, 2, 4, ... connections up to `--connections`, each for a time of `--round-ms`.
///
/// # Errors
/// If no request succeeds with one of the numbers of connections.
pub(super) fn measure(subject: &Subject<'_>, args: &BenchArgs) -> Result<Curve> {
    let most = args.connections.unwrap_or(CONNECTIONS);
    let mut levels = Vec::new();
    for connections in ladder(usize::from(most)) {
        let load = Load {
            target: subject.target,
            images: subject.images,
            arrivals: Arrivals::Closed,
            connections,
            length: Duration::from_millis(args.round_ms),
            count: u64::MAX,
        };
        let measured = load.measure()?;
        let record = measured.record;
        if record.succeeded() == 0 {
            bail!(
                "{}: no request succeeded with {connections} connections: {}",
                subject.name,
                record.first_error().unwrap_or("no request was sent")
            );
        }
        levels.push(Level {
            connections,
            per_second: record.succeeded() as f64 / measured.elapsed.as_secs_f64(),
            p50_ms: record.latency_ms(0.5),
            p90_ms: record.latency_ms(0.9),
            p99_ms: record.latency_ms(0.99),
            failed: record.sent() - record.succeeded(),
            record,
        });
    }
    Ok(Curve {
        name: subject.name.clone(),
        levels,
    })
}

/// Returns the powers of two up to `most`, and `most`.
fn ladder(most: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(1), |number| Some(number * 2));
    let mut ladder: Vec<usize> = powers.take_while(|number| *number < most).collect();
    ladder.push(most.max(1));
    ladder
}

/// Prints the results and writes the charts `throughput.svg` and `latency.svg` into `folder`, which must exist.
///
/// # Errors
/// If a file cannot be written.
pub(super) fn finish(curves: &[Curve], folder: &Path, args: &BenchArgs) -> Result<()> {
    if args.json {
        say!("{}", serde_json::to_string_pretty(curves)?)?;
    } else {
        for curve in curves {
            say!("{}", curve.name)?;
            say!("connections  images/s    p50 ms    p90 ms    p99 ms  failed")?;
            for level in &curve.levels {
                say!(
                    "{:11} {:9.1} {:9.2} {:9.2} {:9.2} {:7}",
                    level.connections,
                    level.per_second,
                    level.p50_ms,
                    level.p90_ms,
                    level.p99_ms,
                    level.failed
                )?;
            }
        }
    }
    write(curves, folder)
}

/// Writes the charts `throughput.svg` and `latency.svg` into `folder`, which must exist.
///
/// # Errors
/// If a file cannot be written.
pub(super) fn write(curves: &[Curve], folder: &Path) -> Result<()> {
    for (chart, file) in [
        (throughput(curves), "throughput.svg"),
        (latency(curves), "latency.svg"),
    ] {
        complain!("chart: {}", chart.write(folder, file)?.display());
    }
    Ok(())
}

/// Returns the chart of latency against throughput.
fn throughput(curves: &[Curve]) -> Chart {
    let line = |curve: &Curve, color, is_median: bool| {
        let points = curve.levels.iter().map(|level| Point {
            x: level.per_second,
            y: if is_median {
                level.p50_ms
            } else {
                level.p99_ms
            },
            label: is_median.then(|| level.connections.to_string()),
        });
        Series {
            name: match (curves.len(), is_median) {
                (1, true) => "p50".to_owned(),
                (1, false) => "p99".to_owned(),
                // The subtitle explains the lines of p99.
                (_, true) => curve.name.clone(),
                (_, false) => String::new(),
            },
            color,
            mark: is_median.then_some(Mark::Circle),
            line: if is_median { Line::Solid } else { Line::Dashed },
            points: points.collect(),
        }
    };
    let series = curves.iter().enumerate();
    let series =
        series.flat_map(|(color, curve)| [line(curve, color, true), line(curve, color, false)]);
    Chart {
        title: "Latency and throughput".to_owned(),
        subtitle: match curves {
            [curve] => format!("{}; numbers at the points: connections", curve.name),
            _ => {
                "solid lines: p50, dashed lines: p99; numbers at the points: connections".to_owned()
            }
        },
        x: Axis::from_zero("images per second"),
        y: Axis::log("milliseconds"),
        series: series.collect(),
    }
}

/// Returns the chart of latencies by quantile: of some numbers of connections to one server, or of the greatest number to
/// each of several servers.
fn latency(curves: &[Curve]) -> Chart {
    let mut series = Vec::new();
    for curve in curves {
        let levels = if curves.len() == 1 {
            spread(&curve.levels)
        } else {
            curve.levels.last().into_iter().collect()
        };
        for level in levels {
            let connections = match level.connections {
                1 => "1 connection".to_owned(),
                many => format!("{many} connections"),
            };
            series.push(Series {
                name: if curves.len() == 1 {
                    connections
                } else {
                    format!("{}, {connections}", curve.name)
                },
                color: series.len(),
                mark: None,
                line: Line::Solid,
                points: quantiles(&level.record),
            });
        }
    }
    Chart {
        title: "Distribution of latency".to_owned(),
        subtitle: format!(
            "{}part of the requests that take at most this time",
            only(curves)
        ),
        x: Axis::quantiles("part of the requests"),
        y: Axis::log("milliseconds"),
        series,
    }
}

/// Returns the name of the only curve, for a subtitle. Empty if there are several, which the legend names.
fn only(curves: &[Curve]) -> String {
    match curves {
        [curve] => format!("{}; ", curve.name),
        _ => String::new(),
    }
}

/// Returns at most [`SHOWN`] of `levels`, evenly spread, with the first and the last one.
fn spread(levels: &[Level]) -> Vec<&Level> {
    let last = levels.len().saturating_sub(1);
    let shown = SHOWN.min(levels.len());
    let at = |number: usize| number * last / shown.saturating_sub(1).max(1);
    (0..shown)
        .filter_map(|number| levels.get(at(number)))
        .collect()
}

/// Returns the latencies of quantiles. The last one is the greatest of which ten requests are slower, because the latency
/// of fewer requests is chance.
fn quantiles(record: &Record) -> Vec<Point> {
    let most = (record.succeeded() as f64 / 10.0).max(1.0).log10();
    let steps = (most * f64::from(STEPS_PER_DECADE)).floor() as u32;
    let points = (0..=steps).map(|step| {
        let x = 10_f64.powf(f64::from(step) / f64::from(STEPS_PER_DECADE));
        Point {
            x,
            y: record.latency_ms(1.0 - 1.0 / x),
            label: None,
        }
    });
    points.collect()
}

#[cfg(test)]
mod tests {
    use super::super::record::Outcome;
    use super::*;

    fn curve(name: &str, counts: &[usize]) -> Curve {
        let level = |connections: &usize| {
            let mut record = Record::new().unwrap();
            for number in 1..=2000 {
                let latency = Duration::from_micros(1000 + number * *connections as u64);
                record.add(&Outcome::Status(200), Duration::ZERO, latency, "a");
            }
            Level {
                connections: *connections,
                per_second: 100.0,
                p50_ms: record.latency_ms(0.5),
                p90_ms: record.latency_ms(0.9),
                p99_ms: record.latency_ms(0.99),
                failed: 0,
                record,
            }
        };
        Curve {
            name: name.to_owned(),
            levels: counts.iter().map(level).collect(),
        }
    }

    #[test]
    fn the_numbers_of_connections_are_powers_of_two_and_the_greatest() {
        assert_eq!(ladder(1), [1]);
        assert_eq!(ladder(8), [1, 2, 4, 8]);
        assert_eq!(ladder(12), [1, 2, 4, 8, 12]);
    }

    #[test]
    fn the_charts_have_a_line_for_each_server_or_number_of_connections() {
        let one = [curve("a", &[1, 2, 4, 8, 16, 32])];
        let names = |chart: &Chart| -> Vec<String> {
            chart.series.iter().map(|line| line.name.clone()).collect()
        };
        assert_eq!(names(&throughput(&one)), ["p50", "p99"]);
        assert_eq!(
            names(&latency(&one)),
            [
                "1 connection",
                "2 connections",
                "8 connections",
                "32 connections"
            ]
        );
        let two = [curve("a", &[1, 8]), curve("b", &[1, 8])];
        assert_eq!(
            names(&throughput(&two)),
            ["a", "", "b", ""],
            "the subtitle explains the dashed lines"
        );
        assert_eq!(
            names(&latency(&two)),
            ["a, 8 connections", "b, 8 connections"]
        );
        let points = &latency(&one).series[0].points;
        let last = points.last().unwrap();
        assert!((150.0..=200.0).contains(&last.x), "{last:?}");
        assert!(points.windows(2).all(|pair| pair[0].y <= pair[1].y));
        assert!(throughput(&two).svg().contains("stroke-dasharray"));
    }
}
