//! Output of the commands to stdout and stderr. Unlike `println!`, writing to a closed pipe does not panic.

use std::fmt;
use std::io::{self, Write as _};

use anyhow::{Context, Result};
use thiserror::Error;

/// The error of a write to stdout whose reader closed it, as in `sightline models | head -1`. It
/// ends the command with success.
#[derive(Debug, Error)]
#[error("stdout is closed")]
pub(super) struct Closed;

/// Prints a line to stdout. Called by the macro [`say!`].
pub(super) fn print_line(text: fmt::Arguments<'_>) -> Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Closed.into()),
        written => written.context("cannot write to stdout"),
    }
}

/// Prints a line to stderr. Called by the macro [`complain!`].
pub(super) fn print_error(text: fmt::Arguments<'_>) {
    // The error is ignored, because there is no other place to report it if stderr is closed.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints a line to stdout like `println!`, but returns an error if stdout cannot be written:
/// [`Closed`] if the reader closed it.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::say::print_line(format_args!($($text)*)) };
}

/// Prints a line to stderr like `eprintln!`, but never panics.
macro_rules! complain {
    ($($text:tt)*) => { $crate::cli::say::print_error(format_args!($($text)*)) };
}

pub(super) use {complain, say};
