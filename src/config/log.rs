//! The filter and the format of the log.

use clap::ValueEnum;
use onnx_export::text::cut;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use super::ConfigError;
use crate::nearest::{did_you_mean, nearest};

/// Log filter if no setting names another: all events of level `info` and above, but only errors of the crates that warn of
/// the frames and records of clients, so that no client fills the log.
pub const DEFAULT_LOG: &str = "info,h2=error,hyper=error,rustls=error";

/// The levels of a filter.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// The crates of the binary that log events, whose names start the targets of their events.
const TARGETS: [&str; 19] = [
    "sightline",
    "axum",
    "governor",
    "h2",
    "hyper",
    "hyper_util",
    "mio",
    "onnx_export",
    "opentelemetry",
    "opentelemetry_otlp",
    "opentelemetry_sdk",
    "ort",
    "rustls",
    "tokio",
    "tokio_rustls",
    "tokio_util",
    "tonic",
    "tower",
    "tower_http",
];

/// Format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text for each event.
    #[default]
    Text,
    /// One JSON object for each event.
    Json,
}

/// Checks that the log filter `filter` is well-formed, and that each part of it can match an event.
/// A misspelt level (`debgu`) would be a target without events, and disable the log.
///
/// # Errors
/// [`ConfigError::Value`] if not.
pub fn check_filter(filter: &str) -> Result<(), ConfigError> {
    if EnvFilter::try_new(filter).is_err() {
        return Err(ConfigError::log_filter(filter));
    }
    for part in filter.split(',').map(str::trim) {
        check_part(part)?;
    }
    Ok(())
}

/// Checks that the part `part` of a well-formed filter is a level, a span, or a target that exists.
fn check_part(part: &str) -> Result<(), ConfigError> {
    // Spans (`[request{id=1}]`) have names of their own; a comma between braces divides them here.
    if part.is_empty() || part.contains(['[', ']', '{', '}']) {
        return Ok(());
    }
    let (target, level) = part.split_once('=').unwrap_or((part, ""));
    let is_level = |word: &str| {
        LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word)) || word.parse::<u8>().is_ok()
    };
    let name = target.split("::").next().unwrap_or(target).trim();
    if TARGETS.contains(&name) || (level.is_empty() && is_level(target)) {
        return Ok(());
    }
    let candidates = TARGETS
        .iter()
        .chain(LEVELS.iter().filter(|_| level.is_empty()));
    let meant = did_you_mean(nearest(cut(name, 64), candidates.copied()));
    Err(ConfigError::Value {
        setting: "log",
        expected: format!(
            "levels ({}) and existing targets, such as `sightline=debug`",
            LEVELS.join(", ")
        ),
        got: format!("`{}`, which matches no event{meant}", cut(part, 64)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_matches_no_event_is_an_error() {
        for valid in [
            "info",
            "WARN",
            "off",
            "3",
            "",
            "warn,sightline=debug",
            "sightline::http=trace,hyper=info",
            "sightline",
            "sightline[request{id=1}]=debug,info",
            "[load]=debug",
        ] {
            assert!(check_filter(valid).is_ok(), "{valid}");
        }
        let cases = [
            (
                "debgu",
                "`debgu`, which matches no event; did you mean `debug`?",
            ),
            ("sihgtline=debug", "did you mean `sightline`?"),
            ("info,sight=debug", "`sight=debug`, which matches no event"),
            ("sightline=loud", "got `sightline=loud`"),
        ];
        for (filter, expected) in cases {
            let error = check_filter(filter).unwrap_err().to_string();
            assert!(error.starts_with("`log`: expected "), "{error}");
            assert!(error.contains(expected), "{filter}: {error}");
        }
    }
}
