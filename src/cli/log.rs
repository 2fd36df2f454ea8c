//! Logging to stderr.

use std::io::{self, Write};
use std::sync::OnceLock;

use onnx_export::text::{cut, printable};
use serde_json::{Map, Value};
use sightline::config::{ConfigError, DEFAULT_LOG, LogFormat};
use tracing_subscriber::EnvFilter;

/// Maximum number of characters of a record in text format, and of each string in a JSON record.
/// Only libraries that quote a file, such as ONNX Runtime, write longer texts.
const MAX_TEXT: usize = 8 << 10;

/// The filter and format of this process's log.
static STARTED: OnceLock<(String, LogFormat)> = OnceLock::new();

/// Returns the command-line flags with which a child process logs like this process.
pub(super) fn arguments() -> Vec<String> {
    let Some((filter, format)) = STARTED.get() else {
        return Vec::new();
    };
    let format = match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    ["--log", filter, "--log-format", format]
        .map(str::to_owned)
        .into()
}

/// Returns whether the log of this process is in JSON.
pub(super) fn is_json() -> bool {
    matches!(STARTED.get(), Some((_, LogFormat::Json)))
}

/// Starts logging to stderr.
///
/// # Errors
/// [`ConfigError::Value`] if `filter` is malformed.
pub(super) fn start(filter: &str, format: LogFormat) -> Result<(), ConfigError> {
    // ONNX Runtime's warnings are about its own optimizations, so only its errors are logged.
    let parsed = EnvFilter::try_new(format!("ort=error,{filter}"));
    let malformed = parsed.is_err();
    let _ = STARTED.set((filter.to_owned(), format));
    let builder = tracing_subscriber::fmt()
        // The error of a malformed filter is logged, too.
        .with_env_filter(parsed.unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG)))
        // Colors would need escape characters, which are escaped in all records.
        .with_ansi(false)
        .with_writer(move || Records { format });
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => {
            builder.json().init();
            std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "panic")));
        }
    }
    if !malformed {
        return Ok(());
    }
    Err(ConfigError::Value {
        setting: "log",
        expected: "a filter, such as `info` or `warn,sightline=debug`".to_owned(),
        got: format!("`{}`", cut(filter, 64)),
    })
}

/// Writes what a child process has printed to stderr. A log in JSON gets its records, and each of its other lines, such
/// as the message of an abort, as an event.
pub(super) fn forward(printed: &[u8]) {
    let printed = String::from_utf8_lossy(printed);
    for line in printed.lines() {
        let is_record = || serde_json::from_str::<Map<String, Value>>(line).is_ok();
        if is_json() && !is_record() {
            tracing::warn!(line, "child process printed");
        } else {
            // The error is ignored, because there is no other place to report it.
            let _ = writeln!(io::stderr(), "{}", printable(line, &['\t']));
        }
    }
}

/// A writer to stderr. The caller writes each log record with one call of `write`.
struct Records {
    format: LogFormat,
}

impl Write for Records {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(record);
        let line = self.line(text.trim_end_matches('\n'));
        // The error is ignored, because the caller would report it on stderr, and panic there: a full disk must not
        // stop the server.
        let _ = io::stderr().write_all(line.as_bytes());
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl Records {
    /// Returns `record` on one line, escaped and cut. A JSON record stays valid JSON; only
    /// long strings in it are cut.
    fn line(&self, record: &str) -> String {
        let short = cut(record, MAX_TEXT);
        if short.len() == record.len() {
            return format!("{}\n", printable(record, &[]));
        }
        let shortened = match (self.format, serde_json::from_str(record)) {
            (LogFormat::Json, Ok(value)) => shortened(value).to_string(),
            _ => format!("{short}..."),
        };
        format!("{}\n", printable(&shortened, &[]))
    }
}

/// Returns `value` with all strings in it cut to [`MAX_TEXT`] characters.
fn shortened(value: Value) -> Value {
    match value {
        Value::String(text) if cut(&text, MAX_TEXT).len() < text.len() => {
            format!("{}...", cut(&text, MAX_TEXT)).into()
        }
        Value::Array(items) => items.into_iter().map(shortened).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter();
            fields
                .map(|(name, value)| (name, shortened(value)))
                .collect()
        }
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: LogFormat, record: &str) -> String {
        Records { format }.line(record)
    }

    #[test]
    fn a_record_is_one_line_without_control_characters() {
        use LogFormat::{Json, Text};
        let cases = [
            (
                Text,
                "INFO model loaded model=\"x\"",
                "INFO model loaded model=\"x\"\n",
            ),
            (
                Text,
                "a\nERROR forged\x1b[2J\r",
                "a\\nERROR forged\\u001b[2J\\r\n",
            ),
            (
                Json,
                "{\"a\":\"\u{7f}\u{202e}\"}",
                "{\"a\":\"\\u007f\\u202e\"}\n",
            ),
        ];
        for (format, record, expected) in cases {
            assert_eq!(line(format, record), expected);
        }
    }

    #[test]
    fn long_records_are_cut_and_json_stays_valid() {
        let long = "x".repeat(200_000);
        let text = line(LogFormat::Text, &long);
        assert_eq!(text.len(), MAX_TEXT + "...\n".len());
        let record =
            serde_json::json!({"fields": {"error": long, "list": [long]}, "level": "ERROR"});
        let json = line(LogFormat::Json, &record.to_string());
        assert!(json.len() < 3 * MAX_TEXT, "{}", json.len());
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["level"], "ERROR");
        assert_eq!(
            value["fields"]["error"].as_str().unwrap().len(),
            MAX_TEXT + 3
        );
    }
}
