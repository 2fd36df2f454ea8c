//! Output of the commands to stdout and stderr. Unlike `println!`, writing to a closed pipe does not panic.

use std::fmt;
use std::io::{self, Write as _};

use anyhow::{Context, Result};
use thiserror::Error;

/// The reader of stdout has closed it, as in `sightline models | head -1`; the command ends with success.
#[derive(Debug, Error)]
#[error("stdout is closed")]
pub(super) struct Closed;

/// Prints a line to stdout; used through [`say!`].
pub(super) fn print_line(text: fmt::Arguments<'_>) -> Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Closed.into()),
        written => written.context("cannot write to stdout"),
    }
}

/// Prints a line to stderr; used through [`complain!`].
pub(super) fn print_error(text: fmt::Arguments<'_>) {
    // A closed stderr leaves nowhere to report the failure to.
    let _ = writeln!(io::stderr(), "{text}");
}

/// `println!` that returns an error; [`Closed`] ends the command with success.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::say::print_line(format_args!($($text)*)) };
}

/// `eprintln!` that never panics.
macro_rules! complain {
    ($($text:tt)*) => { $crate::cli::say::print_error(format_args!($($text)*)) };
}

pub(super) use {complain, say};
