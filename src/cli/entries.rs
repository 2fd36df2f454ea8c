//! The settings of `serve` as they are printed: key, value, description and origin.

use anyhow::Result;
use clap::builder::PossibleValue;
use clap::{Arg, ArgMatches, Command, CommandFactory as _};
use sightline::config::{Settings, is_redacted, keys};
use toml::{Table, Value};

use super::Cli;
use super::settings::{Merged, Origin, argument};

/// Maximum number of characters of a comment line.
pub(super) const WIDTH: usize = 100;
/// The key of the tables with settings of one model, which are printed after all other settings.
pub(super) const MODELS: &str = "models";

/// A setting, as it is printed.
pub(super) struct Entry {
    pub(super) key: &'static str,
    /// The description, default and environment variable, wrapped into lines.
    pub(super) comment: Vec<String>,
    /// The value. `None` if the setting is not set and its default is not a value.
    pub(super) value: Option<Value>,
    /// Text in place of a value, such as `SIZE`.
    placeholder: String,
    /// Whether the line that sets the value is a comment.
    commented_out: bool,
    pub(super) origin: Origin,
}

impl Entry {
    /// Returns the line that sets the value, which is a comment if the setting has no value of its
    /// own.
    pub(super) fn assignment(&self) -> String {
        let mark = if self.commented_out { "# " } else { "" };
        let value = self.value.as_ref().map(Value::to_string);
        let value = value.as_deref().unwrap_or(&self.placeholder);
        format!("{mark}{} = {value}", self.key)
    }

    /// Returns the line that sets the value, or the key as a comment if there is no value.
    pub(super) fn shown(&self) -> String {
        match self.value {
            Some(_) => self.assignment(),
            None => format!("# {}", self.key),
        }
    }

    /// Returns the origin and, if there is no value, the default in words.
    pub(super) fn explained_origin(&self) -> String {
        let description = self.comment.join(" ");
        let default = description.split_once("[default: ");
        match default.and_then(|(_, rest)| rest.split_once(']')) {
            Some((default, _)) if self.value.is_none() => format!("{}: {default}", self.origin),
            _ => self.origin.to_string(),
        }
    }
}

/// Returns all settings with the values that apply, in the order of their flags. `derived` are the
/// defaults that depend on the machine and the models.
///
/// # Errors
/// If a setting has an invalid value.
pub(super) fn entries(
    merged: &Merged,
    matches: &ArgMatches,
    derived: &Table,
) -> Result<Vec<Entry>> {
    let settings = merged.valid_settings();
    let values = Values::new(settings, derived)?;
    let cli = Cli::command();
    let entry = |key| {
        let argument = argument(&cli, key);
        let origin = match merged.origin(key, argument, matches) {
            Origin::Default if values.is_derived(key) => Origin::Derived,
            origin => origin,
        };
        values.entry(key, argument, origin)
    };
    Ok(plain_keys().map(entry).collect())
}

/// Returns all settings with their defaults, each as a comment. The result is the same on every
/// machine.
///
/// # Errors
/// If the defaults are invalid.
pub(super) fn defaults() -> Result<Vec<Entry>> {
    let none = Table::new();
    let mut values = Values::new(&Settings::default(), &none)?;
    values.effective.retain(|key, _| !depends_on_machine(key));
    let cli = Cli::command();
    let entry = |key| Entry {
        commented_out: true,
        ..values.entry(key, argument(&cli, key), Origin::Default)
    };
    Ok(plain_keys().map(entry).collect())
}

/// Returns the keys of the settings that are not tables.
fn plain_keys() -> impl Iterator<Item = &'static str> {
    keys().iter().copied().filter(|key| *key != MODELS)
}

/// The values of settings by key.
struct Values<'v> {
    /// The settings that a flag, a variable or the file sets.
    set: Table,
    /// The settings that apply.
    effective: Table,
    /// The defaults that depend on the machine and the models.
    derived: &'v Table,
}

impl<'v> Values<'v> {
    fn new(settings: &Settings, derived: &'v Table) -> Result<Self> {
        let config = settings.clone().resolve()?;
        Ok(Self {
            set: Table::try_from(settings)?,
            effective: Table::try_from(config.effective(settings.clone()))?,
            derived,
        })
    }

    fn is_derived(&self, key: &str) -> bool {
        let default = !self.set.contains_key(key);
        default && (depends_on_machine(key) || self.derived.contains_key(key))
    }

    fn entry(&self, key: &'static str, argument: Option<&Arg>, origin: Origin) -> Entry {
        let value = self.effective.get(key).or_else(|| self.derived.get(key));
        let mut comment = argument.map(describe).unwrap_or_default();
        // A file with the text in place of the secret would be wrong.
        let secret = value.and_then(Value::as_str).is_some_and(is_redacted);
        if secret {
            comment.push("The value contains a secret, which is not printed".to_owned());
        }
        Entry {
            key,
            comment,
            commented_out: value.is_none() || secret || self.is_derived(key),
            value: value.cloned(),
            placeholder: placeholder(key, argument),
            origin,
        }
    }
}

/// Returns whether the default of `key` depends on the machine, so that a file for other machines
/// should not contain it.
fn depends_on_machine(key: &str) -> bool {
    key == "threads"
}

/// Returns a text of the form that the value of `key` has in TOML, with the name of the argument's
/// value in the help text.
fn placeholder(key: &str, argument: Option<&Arg>) -> String {
    match key {
        "default_models" => return "{ classification = \"NAME\" }".to_owned(),
        "model" | "pin" => return "[\"NAME\"]".to_owned(),
        "precision" => return "\"int8\"".to_owned(),
        "decode" => return "\"fast\"".to_owned(),
        _ => {}
    }
    let names = argument.and_then(|argument| argument.get_value_names()?.first());
    match names.map_or("VALUE", |name| name.as_str()) {
        number @ ("N" | "MILLISECONDS" | "MICROSECONDS" | "PIXELS" | "BYTES") => number.to_owned(),
        text => format!("\"{text}\""),
    }
}

/// Returns the line `key = VALUE` for a key of the table of one model, which has the form of the
/// setting for all models.
pub(super) fn model_placeholder(cli: &Command, key: &str) -> String {
    format!("{key} = {}", placeholder(key, argument(cli, key)))
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
        for key in plain_keys() {
            let lines = argument(&cli, key).map(describe).unwrap_or_default();
            assert!(lines.len() >= 2, "{key}: {lines:?}");
            assert!(lines.iter().all(|line| line.len() < WIDTH), "{lines:?}");
        }
    }

    #[test]
    fn a_value_with_a_secret_is_a_comment() {
        let mut derived = Table::new();
        derived.insert("onnxruntime".to_owned(), "https://***@host".into());
        let mut values = Values::new(&Settings::default(), &derived).unwrap();
        values.set.insert("onnxruntime".to_owned(), true.into());
        let entry = values.entry("onnxruntime", None, Origin::Default);
        assert_eq!(entry.assignment(), "# onnxruntime = \"https://***@host\"");
        assert_eq!(
            entry.comment,
            ["The value contains a secret, which is not printed"]
        );
    }
}
