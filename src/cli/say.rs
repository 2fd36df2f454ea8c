//! What commands print: `println!` panics where nobody reads any more.

use std::fmt;
use std::io::{self, Write as _};

use anyhow::{Context, Result};
use thiserror::Error;

/// Nobody reads stdout any more, as in `sightline models | head -1`: the command ends, quietly.
#[derive(Debug, Error)]
#[error("stdout is closed")]
pub(super) struct Closed;

/// Prints a line to stdout; see [`say!`].
pub(super) fn print_line(text: fmt::Arguments<'_>) -> Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Closed.into()),
        written => written.context("cannot write to stdout"),
    }
}

/// Prints a line to stderr; see [`complain!`].
pub(super) fn print_error(text: fmt::Arguments<'_>) {
    // Whether anybody reads it is none of the command's concern.
    let _ = writeln!(io::stderr(), "{text}");
}

/// `println!` that gives an error: [`Closed`] ends the command with success.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::say::print_line(format_args!($($text)*)) };
}

/// `eprintln!` that never panics.
macro_rules! complain {
    ($($text:tt)*) => { $crate::cli::say::print_error(format_args!($($text)*)) };
}

pub(super) use {complain, say};
