//! `sightline serve --print-config`: prints a complete configuration file.

use std::fmt::Write as _;

use anyhow::Result;
use clap::builder::PossibleValue;
use clap::{Arg, ArgMatches, CommandFactory as _};
use sightline::config::{ConfigError, keys};

use super::Cli;
use super::say::say;
use super::settings::{Merged, Origin, argument};

/// Maximum number of characters of a comment line.
const WIDTH: usize = 100;

const HEAD: &str = "\
# Settings of `sightline serve`. A flag wins over its environment variable, which wins over this
# file, which wins over the default. A key that is commented out has no value of its own: the
# default in brackets applies.
";

/// Prints a configuration file with all settings, their descriptions and the values that apply.
/// `matches` is the parsed command line.
///
/// # Errors
/// [`ConfigError`] if a setting has an invalid value.
pub(super) fn run(merged: &Merged, matches: &ArgMatches) -> Result<()> {
    let mut out = HEAD.to_owned();
    for entry in entries(merged, matches)? {
        out.push('\n');
        for line in &entry.comment {
            let _ = writeln!(out, "# {line}");
        }
        let _ = writeln!(out, "{}", entry.assignment());
    }
    say!("{}", out.trim_end())
}

/// A setting, as it is printed.
pub(super) struct Entry {
    key: &'static str,
    /// The description, default and environment variable, wrapped into lines.
    comment: Vec<String>,
    /// The value in TOML, or a placeholder such as `SIZE`.
    value: String,
    /// Whether `value` is a placeholder, or the default of this machine.
    commented_out: bool,
    pub(super) origin: Origin,
}

impl Entry {
    /// Returns the line that sets the value, which is a comment if the setting has no value of its
    /// own.
    pub(super) fn assignment(&self) -> String {
        let mark = if self.commented_out { "# " } else { "" };
        format!("{mark}{} = {}", self.key, self.value)
    }
}

/// Returns all settings, in the order of their flags.
///
/// # Errors
/// [`ConfigError`] if a setting has an invalid value.
pub(super) fn entries(merged: &Merged, matches: &ArgMatches) -> Result<Vec<Entry>, ConfigError> {
    let settings = &merged.settings;
    let config = settings.clone().resolve()?;
    let set = toml::Table::try_from(settings)?;
    let effective = toml::Table::try_from(config.effective(settings.clone()))?;
    let cli = Cli::command();
    let entry = |&key: &&'static str| {
        let argument = argument(&cli, key);
        let placeholder = placeholder(key, argument);
        let value = effective.get(key).map(toml::Value::to_string);
        Entry {
            key,
            comment: argument.map(describe).unwrap_or_default(),
            commented_out: value.is_none() || (depends_on_machine(key) && !set.contains_key(key)),
            value: value.unwrap_or(placeholder),
            origin: merged.origin(key, argument, matches),
        }
    };
    Ok(keys().iter().map(entry).collect())
}

/// Returns whether the default of `key` depends on the machine, so that a file for other machines
/// should not contain it.
fn depends_on_machine(key: &str) -> bool {
    key == "threads"
}

/// Returns a value of the form that `key` has in TOML, with the name of the argument's value in the help text.
fn placeholder(key: &str, argument: Option<&Arg>) -> String {
    match key {
        "default_models" => return "{ classification = \"NAME\" }".to_owned(),
        "model" | "pin" => return "[\"NAME\"]".to_owned(),
        "precision" => return "\"int8\"".to_owned(),
        _ => {}
    }
    let names = argument.and_then(|argument| argument.get_value_names()?.first());
    match names.map_or("VALUE", |name| name.as_str()) {
        number @ ("N" | "MILLISECONDS" | "MICROSECONDS" | "PIXELS" | "BYTES") => number.to_owned(),
        text => format!("\"{text}\""),
    }
}

/// Returns the help text of an argument and the name of its environment variable, wrapped into
/// lines.
fn describe(argument: &Arg) -> Vec<String> {
    let help = argument.get_help().map(ToString::to_string);
    let mut lines = wrapped(&help.unwrap_or_default(), WIDTH - "# ".len());
    let values = argument.get_possible_values();
    if !argument.is_hide_possible_values_set() && !values.is_empty() {
        let names: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
        lines.push(format!("One of: {}", names.join(", ")));
    }
    if let Some(variable) = argument.get_env() {
        lines.push(format!("Environment: {}", variable.to_string_lossy()));
    }
    lines
}

/// Breaks `text` into lines of at most `width` characters, if no word is longer.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_wrapped() {
        assert_eq!(wrapped("a bc d", 4), ["a bc", "d"]);
        assert_eq!(wrapped("abcdef g", 4), ["abcdef", "g"]);
        assert_eq!(wrapped("", 4), [""; 0]);
    }

    #[test]
    fn every_setting_has_a_description_and_a_variable() {
        let cli = Cli::command();
        for key in keys() {
            let lines = argument(&cli, key).map(describe).unwrap_or_default();
            assert!(lines.len() >= 2, "{key}: {lines:?}");
            assert!(lines.iter().all(|line| line.len() < WIDTH), "{lines:?}");
        }
    }
}
