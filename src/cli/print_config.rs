//! `sightline serve --print-config` and `sightline config example`: print a complete configuration
//! file.

use std::fmt::Write as _;

use anyhow::Result;
use clap::{ArgMatches, CommandFactory as _};
use sightline::config::{Settings, model_keys};
use toml::Table;

use super::Cli;
use super::entries::{Entry, MODELS, defaults, entries, model_placeholder};
use super::say::say;
use super::settings::Merged;

const HEAD: &str = "\
# Settings of `sightline serve`. A flag wins over its environment variable, which wins over this
# file, which wins over the default. A key that is commented out has no value of its own: the
# default in brackets applies.
";

/// The description of the tables of single models.
const MODELS_HEAD: &str = "
# Settings of the model NAME and of all its variants, in a table for each model. They win over the
# settings of the same name for all models, flags and environment variables included. Tables are at
# the end of the file.
";

/// Prints a configuration file with all settings, their descriptions and the values that apply.
/// `matches` is the parsed command line.
///
/// # Errors
/// If the configuration file has errors, or if a setting has an invalid value.
pub(super) fn run(mut merged: Merged, matches: &ArgMatches) -> Result<()> {
    sightline::config::ConfigError::all(merged.take_errors())?;
    let entries = entries(&merged, matches, &Table::new())?;
    let models = model_tables(merged.valid_settings())?;
    say!("{}", file(&entries, &models).trim_end())
}

/// Prints a configuration file with all settings, their descriptions and their defaults, each as a
/// comment.
pub(super) fn example() -> Result<()> {
    say!("{}", example_text()?.trim_end())
}

/// Returns the text that [`example`] prints.
fn example_text() -> Result<String> {
    Ok(file(&defaults()?, &[]))
}

/// Returns the configuration file with `entries` and, at its end, the tables `models`, or the
/// description of a table if there are none.
fn file(entries: &[Entry], models: &[Vec<String>]) -> String {
    let mut out = HEAD.to_owned();
    for entry in entries {
        out.push('\n');
        for line in &entry.comment {
            let _ = writeln!(out, "# {line}");
        }
        let _ = writeln!(out, "{}", entry.assignment());
    }
    out.push_str(MODELS_HEAD);
    if models.is_empty() {
        let cli = Cli::command();
        let _ = writeln!(out, "# [{MODELS}.NAME]");
        for key in model_keys() {
            let _ = writeln!(out, "# {}", model_placeholder(&cli, key));
        }
    }
    for (index, table) in models.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        for line in table {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

/// Returns the table of each model that has one in `settings`, as lines. The first line is the head
/// of the table.
pub(super) fn model_tables(settings: &Settings) -> Result<Vec<Vec<String>>> {
    let models = settings.models.iter().flat_map(|models| &models.0);
    let table = |(name, settings)| {
        let mut model = Table::new();
        model.insert(name, toml::Value::try_from(settings)?);
        let mut file = Table::new();
        file.insert(MODELS.to_owned(), model.into());
        let text = toml::to_string(&file)?;
        Ok(text.lines().map(str::to_owned).collect())
    };
    let models = models.map(|(name, settings)| (name.clone(), settings));
    models.map(table).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_file_is_the_one_that_the_settings_generate() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docker/sightline.example.toml");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        let generated = example_text().unwrap();
        assert!(
            committed == generated,
            "the settings have changed: run `make example-config`"
        );
        let keys: Table = toml::from_str(&generated).unwrap();
        assert!(keys.is_empty(), "{keys:?}");
    }
}
