//! `sightline config check`: validates the configuration of `serve` and prints it with origins.

use anyhow::Result;
use clap::{ArgMatches, Subcommand};

use super::environment;
use super::print_config::entries;
use super::say::say;
use super::settings::{Merged, Origin, SettingsArgs};

/// Maximum width of the column with the values; a longer value moves its origin to the right.
const MAX_COLUMN: usize = 48;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Validate the settings of `serve` and print each with its value and origin: a flag, an
    /// environment variable, the configuration file or the default
    Check(Box<SettingsArgs>),
}

/// Prints the settings, in TOML, each with a comment that names its origin. `matches` is the parsed
/// command line.
///
/// # Errors
/// `ConfigError` if a setting has an invalid value.
pub(super) fn run(merged: &Merged, matches: &ArgMatches) -> Result<()> {
    environment::warn_unknown(&super::variables());
    let entries = entries(merged, matches)?;
    let lines: Vec<_> = entries
        .iter()
        .map(|entry| (entry.assignment(), name(&entry.origin)))
        .collect();
    let widths = lines.iter().map(|(line, _)| line.chars().count());
    let width = widths.max().unwrap_or_default().min(MAX_COLUMN);
    for (line, origin) in lines {
        say!("{line:width$}  # {origin}")?;
    }
    say!("# The configuration is valid.")
}

/// Returns the origin in words.
fn name(origin: &Origin) -> String {
    match origin {
        Origin::Flag(flag) => format!("flag {flag}"),
        Origin::Variable(variable) => format!("environment {variable}"),
        // A line break in the path would end the comment.
        Origin::File(path) => format!("file {}", path.display()).replace(['\n', '\r'], "?"),
        Origin::Default => "default".to_owned(),
    }
}
