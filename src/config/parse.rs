//! Parses a configuration file key by key, so that one invalid key does not hide the errors of the
//! others.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::error::TomlError;
use super::{ConfigError, ConfigFile, Settings, keys, model_keys};
use crate::nearest::nearest;

/// Maximum number of errors that are kept of one file.
const MAX_ERRORS: usize = 50;
/// Maximum number of characters of a key in an error.
const MAX_KEY: usize = 64;
/// The key of the models directory.
const MODELS_DIRECTORY: &str = "models_dir";
/// The key of the tables with settings of one model. A string with this key is the models
/// directory, because the flag is `--models`.
const MODELS: &str = "models";

type Key<'t> = Spanned<DeString<'t>>;
type Value<'t> = Spanned<DeValue<'t>>;

/// Parses one configuration file.
pub(super) struct Parser<'t> {
    path: &'t Path,
    text: &'t str,
    /// The offsets of the line breaks in the text.
    breaks: Vec<usize>,
    lines: BTreeMap<String, usize>,
    errors: Vec<ConfigError>,
    /// The keys with a known name and a valid value.
    valid: DeTable<'t>,
}

impl<'t> Parser<'t> {
    /// Creates a parser of `text`, the content of the file at `path`.
    pub(super) fn new(text: &'t str, path: &'t Path) -> Self {
        let breaks = text.match_indices('\n').map(|(at, _)| at);
        Self {
            path,
            text,
            breaks: breaks.collect(),
            lines: BTreeMap::new(),
            errors: Vec::new(),
            valid: DeTable::new(),
        }
    }

    /// Parses the file.
    pub(super) fn parse(mut self) -> ConfigFile {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            self.syntax(error);
        }
        // What the parser recovers from malformed text may be another setting.
        if self.errors.is_empty() {
            for (key, value) in in_order(table.into_inner()) {
                self.read(key, value);
            }
        }
        let settings = settings(std::mem::take(&mut self.valid)).unwrap_or_else(|error| {
            self.syntax(error);
            Settings::default()
        });
        ConfigFile {
            path: self.path.to_path_buf(),
            settings,
            lines: self.lines,
            errors: self.errors,
        }
    }

    /// Reads `key` of the file.
    fn read(&mut self, key: Key<'t>, value: Value<'t>) {
        let span = value.span();
        match (key.get_ref().as_ref(), value.into_inner()) {
            (MODELS, DeValue::Table(models)) => self.models(&key, models),
            (MODELS | MODELS_DIRECTORY, value @ DeValue::String(_)) => {
                self.directory(&key, Spanned::new(span, value));
            }
            (name, value) => {
                let value = Spanned::new(span, value);
                if self.known("", name, &key, keys()) && self.is_valid(&key, &value) {
                    self.valid.insert(key, value);
                }
            }
        }
    }

    /// Reads the models directory, a string with the key `models_dir` or `models`.
    fn directory(&mut self, key: &Key<'t>, value: Value<'t>) {
        let renamed = Spanned::new(key.span(), DeString::from(MODELS_DIRECTORY));
        let line = self.line(key);
        if self.lines.contains_key(MODELS_DIRECTORY) {
            self.add(|path| ConfigError::TwoDirectories { path, line });
            return;
        }
        self.lines.insert(MODELS_DIRECTORY.to_owned(), line);
        self.valid.insert(renamed, value);
    }

    /// Reads the tables `models` with settings of one model.
    fn models(&mut self, key: &Key<'t>, models: DeTable<'t>) {
        let mut valid = DeTable::new();
        for (model, value) in in_order(models) {
            let name = format!("{MODELS}.{}", model.get_ref());
            let line = self.line(&model);
            self.lines.insert(name.clone(), line);
            if let Some((model, _)) = model.get_ref().split_once('@') {
                let model = cut(model);
                self.add(|path| ConfigError::VariantTable { path, line, model });
                continue;
            }
            let span = value.span();
            let value = match value.into_inner() {
                DeValue::Table(settings) => self.model(key, &model, &name, settings),
                other => {
                    self.is_valid(key, &table([(model, Spanned::new(span, other))]));
                    continue;
                }
            };
            valid.insert(model, Spanned::new(span, DeValue::Table(value)));
        }
        let value = Spanned::new(key.span(), DeValue::Table(valid));
        self.valid.insert(key.clone(), value);
    }

    /// Returns the valid ones of `settings`, the table of the model `model`, which has the name `name`
    /// in the file. `key` is the key `models`.
    fn model(
        &mut self,
        key: &Key<'t>,
        model: &Key<'t>,
        name: &str,
        settings: DeTable<'t>,
    ) -> DeTable<'t> {
        let mut valid = DeTable::new();
        for (setting, value) in in_order(settings) {
            let known = self.known(name, setting.get_ref(), &setting, model_keys());
            let alone = || table([(model.clone(), table([(setting.clone(), value.clone())]))]);
            if known && self.is_valid(key, &alone()) {
                valid.insert(setting, value);
            }
        }
        valid
    }

    /// Keeps the line of `key`, which has the name `name` in the table `table`. Keeps an error and
    /// returns `false` if the name is not in `known`.
    fn known(&mut self, table: &str, name: &str, key: &Key<'_>, known: &[&'static str]) -> bool {
        let line = self.line(key);
        if known.contains(&name) {
            let separator = if table.is_empty() { "" } else { "." };
            self.lines.insert(format!("{table}{separator}{name}"), line);
            return true;
        }
        self.add(|path| {
            let key = cut(name);
            let hint = hint(table, &key, known);
            ConfigError::UnknownKey {
                path,
                line,
                key,
                hint,
            }
        });
        false
    }

    /// Returns whether `value` is a value of the setting `key`. Keeps the error if not.
    fn is_valid(&mut self, key: &Key<'t>, value: &Value<'t>) -> bool {
        let mut alone = DeTable::new();
        alone.insert(key.clone(), value.clone());
        let read = settings(alone);
        let valid = read.is_ok();
        if let Err(error) = read {
            let source = if has_date(value.get_ref()) {
                |error| TomlError::of_date(&error)
            } else {
                TomlError::from
            };
            self.malformed(error, source);
        }
        valid
    }

    fn syntax(&mut self, error: toml::de::Error) {
        self.malformed(error, TomlError::from);
    }

    /// Keeps an error of the parser, which `source` converts.
    fn malformed(&mut self, mut error: toml::de::Error, source: fn(toml::de::Error) -> TomlError) {
        let text = self.text;
        self.add(|path| {
            error.set_input(Some(text));
            let source = source(error);
            ConfigError::Syntax { path, source }
        });
    }

    /// Keeps an error, which is created only if there is room for it.
    fn add(&mut self, error: impl FnOnce(std::path::PathBuf) -> ConfigError) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(error(self.path.to_path_buf()));
        }
    }

    /// Returns the line of `key`, from 1.
    fn line(&self, key: &Key<'_>) -> usize {
        let start = key.span().start;
        1 + self.breaks.partition_point(|at| *at < start)
    }
}

/// Returns the entries of `table` in the order of the file, which is the order of the errors.
fn in_order(table: DeTable<'_>) -> Vec<(Key<'_>, Value<'_>)> {
    let mut entries: Vec<_> = table.into_iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// Reads the settings of `table`.
fn settings(table: DeTable<'_>) -> Result<Settings, toml::de::Error> {
    Settings::deserialize(toml::Deserializer::from(Spanned::new(0..0, table)))
}

/// Returns a table with the entries `entries`.
fn table<'t>(entries: impl IntoIterator<Item = (Key<'t>, Value<'t>)>) -> Value<'t> {
    let table: DeTable<'t> = entries.into_iter().collect();
    Spanned::new(0..0, DeValue::Table(table))
}

/// Returns whether `value` is or contains a date or a time.
fn has_date(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::Datetime(_) => true,
        DeValue::Array(values) => values.iter().any(|value| has_date(value.get_ref())),
        DeValue::Table(table) => table.values().any(|value| has_date(value.get_ref())),
        _ => false,
    }
}

fn cut(key: &str) -> String {
    key.chars().take(MAX_KEY).collect()
}

/// Returns what to do about the unknown key `key` of the table `table`, whose keys are `known`.
fn hint(table: &str, key: &str, known: &[&'static str]) -> String {
    if let Some(name) = nearest(key, known.iter().copied()) {
        return format!("did you mean `{name}`?");
    }
    if table.is_empty() {
        return "`sightline serve --print-config` prints all keys".to_owned();
    }
    format!("the table of a model has the keys {}", known.join(", "))
}
