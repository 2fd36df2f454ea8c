//! Output of the commands to stdout and stderr.
//!
//! Texts from files reach the terminal through these functions, which escape the characters that a
//! terminal would interpret. Unlike `println!`, they do not panic if the pipe is closed.

use std::fmt;
use std::io::{self, Write as _};

use anstyle::Style;
use anyhow::{Context, Result};
use onnx_export::text::{cut, printable};
use thiserror::Error;

use super::color;
use super::log::{self, Stream};

/// Maximum number of characters of an error message. Quoted names are cut to much less; this limit is
/// for libraries whose errors quote a file.
const MAX_ERROR: usize = 8 << 10;

/// The error of a write to stdout whose reader closed it, as in `sightline models | head -1`. It
/// ends the command with success.
#[derive(Debug, Error)]
#[error("stdout is closed")]
pub(super) struct Closed;

/// Prints a line to stdout. Called by the macro [`say!`].
pub(super) fn print_line(text: fmt::Arguments<'_>) -> Result<()> {
    write_line(&printable(&text.to_string(), &['\n', '\t']))
}

/// Prints a line to stdout that begins with `mark`, which has a style on a terminal.
pub(super) fn print_marked(style: Style, mark: &str, rest: &str) -> Result<()> {
    let allowed = ['\n', '\t'];
    let mark = color::paint(Stream::Stdout, style, &printable(mark, &allowed));
    write_line(&format!("{mark}{}", printable(rest, &allowed)))
}

/// Writes an escaped line to stdout.
fn write_line(text: &str) -> Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Closed.into()),
        written => written.context("cannot write to stdout"),
    }
}

/// Prints a line about the running server to stdout, unless the log is in JSON: then events say the same, and nothing
/// else is printed. Called by the macro [`tell!`].
pub(super) fn print_status(text: fmt::Arguments<'_>) {
    if !log::is_json() {
        let text = text.to_string();
        // The error is ignored: the server runs on if stdout is closed.
        let _ = log::print(
            Stream::Stdout,
            format!("{}\n", printable(&text, &['\n', '\t'])),
        );
    }
}

/// Prints a message to stderr. Called by the macro [`complain!`].
pub(super) fn print_error(text: fmt::Arguments<'_>) {
    // The error is ignored, because there is no other place to report it if stderr is closed.
    let text = color::message(message(&text.to_string()));
    let _ = log::print(Stream::Stderr, format!("{text}\n"));
}

/// Returns an error message as it is printed: escaped, cut, and with all lines but the first
/// indented, so that a line break in a name cannot start a line that looks like another message.
fn message(text: &str) -> String {
    let kept = cut(text, MAX_ERROR);
    let mut out = printable(kept, &['\n', '\t']).into_owned();
    let mut later = out.split('\n').skip(1);
    // All lines are indented alike, because a parser's error may point at a column of the line
    // above.
    if later.any(|line| !line.is_empty() && !line.starts_with("  ")) {
        out = out.replace('\n', "\n  ");
    }
    if kept.len() < text.len() {
        out.push_str("...");
    }
    out
}

/// Prints a line to stdout like `println!`, but returns an error if stdout cannot be written:
/// [`Closed`] if the reader closed it.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::say::print_line(format_args!($($text)*)) };
}

/// Prints a line about the running server, for people.
macro_rules! tell {
    ($($text:tt)*) => { $crate::cli::say::print_status(format_args!($($text)*)) };
}

/// Prints a message to stderr like `eprintln!`, but never panics.
macro_rules! complain {
    ($($text:tt)*) => { $crate::cli::say::print_error(format_args!($($text)*)) };
}

pub(super) use {complain, say, tell};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_escaped_cut_and_indented() {
        let cases = [
            ("error: cannot read x", "error: cannot read x"),
            (
                "error: a\n  missing: b\n\n  c",
                "error: a\n  missing: b\n\n  c",
            ),
            (
                "error: toml\n  |\n1 | x\n  | ^",
                "error: toml\n    |\n  1 | x\n    | ^",
            ),
            ("error: a\nerror: forged", "error: a\n  error: forged"),
            (
                "\x1b]0;title\x07\u{9b}2J\r",
                "\\u001b]0;title\\u0007\\u009b2J\\r",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(message(text), expected);
        }
        let long = message(&"\x1b".repeat(200_000));
        assert_eq!(long.len(), "\\u001b".len() * MAX_ERROR + "...".len());
    }
}
