//! Logging to stderr. `serve` writes its lines on a thread of its own, so that a stalled reader does not stop it.

mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::Duration;

use onnx_export::text::{cut, printable};
use prometheus_client::metrics::counter::Counter;
use serde_json::{Map, Value};
use sightline::config::{ConfigError, DEFAULT_LOG, LogFormat};
use tracing::field::display;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use super::{color, progress};
use queue::Queue;
pub(super) use queue::Stream;

/// Maximum number of characters of a record in text format, and of each string in a JSON record.
/// Only libraries that quote a file, such as ONNX Runtime, write longer texts.
const MAX_TEXT: usize = 8 << 10;

/// Maximum length of a line in bytes, after escaping.
const MAX_LINE: usize = 64 << 10;
/// Maximum time to wait at the end of the process for the reader of the log.
const MAX_FLUSH: Duration = Duration::from_secs(1);

/// The log of this process.
static STARTED: OnceLock<Started> = OnceLock::new();

struct Started {
    filter: String,
    format: LogFormat,
    /// The lines of `serve` that are not written yet. `None` for other commands, which write their lines themselves.
    queue: Option<Queue>,
}

/// How a command writes its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writing {
    /// The thread that prints a line writes it.
    Direct,
    /// A thread of the log writes all lines, and drops those that the reader is too slow for.
    Queued,
}

/// Returns the command-line flags with which a child process logs like this process.
pub(super) fn arguments() -> Vec<String> {
    let Some(Started { filter, format, .. }) = STARTED.get() else {
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
    STARTED
        .get()
        .is_some_and(|started| started.format == LogFormat::Json)
}

/// Returns whether a thread of the log writes all lines, as in `serve`.
pub(super) fn is_queued() -> bool {
    queue().is_some()
}

fn queue() -> Option<&'static Queue> {
    STARTED.get()?.queue.as_ref()
}

/// Prints `text`, which consists of whole lines, after the lines of the log before it. Never fails if the lines are
/// queued.
pub(super) fn print(stream: Stream, text: String) -> io::Result<()> {
    match queue() {
        Some(queue) => queue.push(stream, text),
        None => progress::above(|| stream.write(&text))?,
    }
    Ok(())
}

/// Waits until all lines are written, but only briefly for a stalled reader. Returns whether they are.
pub(super) fn flush() -> bool {
    queue().is_none_or(|queue| queue.flush(MAX_FLUSH))
}

/// Flushes the log when it is dropped, also by a panic that ends the process.
pub(super) struct FlushOnDrop;

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        flush();
    }
}

/// Counts in `counter` the lines that are dropped because the reader of the log is too slow.
pub(super) fn count_dropped_in(counter: Counter) {
    if let Some(queue) = queue() {
        queue.count_in(counter);
    }
}

/// Starts logging to stderr. The lines are written directly if the thread of the log cannot be started.
///
/// # Errors
/// [`ConfigError::Value`] if `filter` is malformed.
pub(super) fn start(filter: &str, format: LogFormat, writing: Writing) -> Result<(), ConfigError> {
    // ONNX Runtime's warnings are about its own optimizations, so only its errors are logged.
    let parsed = EnvFilter::try_new(format!("ort=error,{filter}"));
    let malformed = parsed.is_err();
    // The error is ignored, because there is no other place to report it.
    let write = |stream: Stream, text: &str| _ = stream.write(text);
    let queue = (writing == Writing::Queued).then(|| Queue::start(write, dropped_lines).ok());
    let _ = STARTED.set(Started {
        filter: filter.to_owned(),
        format,
        queue: queue.flatten(),
    });
    let colored = format == LogFormat::Text && color::is_used(Stream::Stderr);
    let builder = tracing_subscriber::fmt()
        // The error of a malformed filter is logged, too.
        .with_env_filter(parsed.unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG)))
        // Escape characters are escaped in all records. The colors of levels are added after that.
        .with_ansi(false)
        .with_writer(move || Records { format, colored });
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    if format == LogFormat::Json || writing == Writing::Queued {
        std::panic::set_hook(Box::new(log_panic));
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

/// Logs a panic. The default hook would write to stderr itself, and wait there for a stalled reader.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let captured = backtrace.status() == BacktraceStatus::Captured;
    let backtrace = captured.then(|| display(backtrace));
    let thread = std::thread::current();
    tracing::error!(%panic, thread = thread.name(), backtrace, "panic");
    if !is_json() && !tracing::enabled!(tracing::Level::ERROR) {
        super::say::print_error(format_args!("{panic}"));
    }
}

/// Returns the line that says that `lines` lines were dropped, in the format of the log.
fn dropped_lines(lines: u64) -> String {
    let mut time = String::new();
    // Writing to a String cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    let (target, message) = ("sightline::log", "log lines dropped");
    if is_json() {
        let fields = serde_json::json!({ "message": message, "lines": lines });
        let record = serde_json::json!({
            "timestamp": time, "level": "WARN", "fields": fields, "target": target,
        });
        return format!("{record}\n");
    }
    format!("{time}  WARN {target}: {message} lines={lines}\n")
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
            let _ = print(Stream::Stderr, format!("{}\n", printable(line, &['\t'])));
        }
    }
}

/// A writer to stderr. The caller writes each log record with one call of `write`.
struct Records {
    format: LogFormat,
    /// Whether the level of each record has a color.
    colored: bool,
}

impl Write for Records {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(record);
        let mut line = self.line(text.trim_end_matches('\n'));
        if self.colored {
            line = color::log_line(&line);
        }
        // The error is ignored, because the caller would report it on stderr, and panic there: a full disk must not
        // stop the server.
        let _ = print(Stream::Stderr, line);
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Records {
    /// Returns `record` on one line of at most about [`MAX_LINE`] bytes, escaped and cut. A JSON record stays valid
    /// JSON; only long strings in it are cut.
    fn line(&self, record: &str) -> String {
        let lengths = [MAX_TEXT, MAX_TEXT / 16].into_iter();
        let mut lines = lengths.map(|length| self.cut_line(record, length));
        let short = lines.find(|line| line.len() <= MAX_LINE);
        short.unwrap_or_else(|| self.cut_line(record, MAX_TEXT / 256))
    }

    /// Returns `record` on one line, escaped. Cuts it to this number of characters, or, if it is JSON, its strings.
    fn cut_line(&self, record: &str, characters: usize) -> String {
        let short = cut(record, characters);
        if short.len() == record.len() {
            return format!("{}\n", printable(record, &[]));
        }
        let shortened = match (self.format, serde_json::from_str(record)) {
            (LogFormat::Json, Ok(value)) => shortened(value, characters).to_string(),
            _ => format!("{short}..."),
        };
        format!("{}\n", printable(&shortened, &[]))
    }
}

/// Returns `value` with all strings in it cut to this number of characters.
fn shortened(value: Value, characters: usize) -> Value {
    match value {
        Value::String(text) if cut(&text, characters).len() < text.len() => {
            format!("{}...", cut(&text, characters)).into()
        }
        Value::Array(items) => {
            let items = items.into_iter();
            items.map(|item| shortened(item, characters)).collect()
        }
        Value::Object(fields) => {
            let fields = fields.into_iter();
            fields
                .map(|(name, value)| (name, shortened(value, characters)))
                .collect()
        }
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: LogFormat, record: &str) -> String {
        let colored = false;
        Records { format, colored }.line(record)
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
    #[test]
    fn no_record_makes_an_endless_line() {
        // Each character becomes six when it is escaped.
        let escaped = "\u{1b}".repeat(MAX_TEXT);
        assert!(line(LogFormat::Text, &escaped).len() <= MAX_LINE);
        let fields: Map<String, Value> = (0..64)
            .map(|number| (number.to_string(), escaped.clone().into()))
            .collect();
        let json = line(LogFormat::Json, &Value::from(fields).to_string());
        assert!(json.len() <= MAX_LINE, "{}", json.len());
        assert!(serde_json::from_str::<Value>(&json).is_ok());
    }
}
