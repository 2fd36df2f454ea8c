//! Settings from a TOML file.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use clap::{ArgMatches, FromArgMatches as _};
use serde::Deserialize;
use serde::de::value::{SeqAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

use super::parse::Parser;
use super::{ConfigError, Settings};
use crate::store::read_regular_text;

/// Largest configuration file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The settings of a configuration file, and where the file states them.
#[derive(Debug)]
pub struct ConfigFile {
    /// Path of the file.
    pub path: PathBuf,
    /// The settings. A setting that the file does not contain, or whose value is invalid, is
    /// `None`.
    pub settings: Settings,
    /// The lines of the keys, from 1. A key in a table has the form `models.birds.instances`.
    pub(super) lines: BTreeMap<String, usize>,
    /// The errors of the file.
    pub(super) errors: Vec<ConfigError>,
}

impl ConfigFile {
    /// Reads the TOML file at `path`, a regular file of at most 1 MiB. Errors in its content are
    /// kept in the result.
    ///
    /// # Errors
    /// [`ConfigError::Read`] if the file cannot be read.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read_regular_text(path, MAX_FILE_BYTES)?;
        Ok(Self::parse(&text, path))
    }

    /// Parses `text`, the content of the TOML file at `path`.
    pub fn parse(text: &str, path: &Path) -> Self {
        Parser::new(text, path).parse()
    }

    /// Returns the settings.
    ///
    /// # Errors
    /// The error of the content, or [`ConfigError::Several`].
    pub fn into_settings(self) -> Result<Settings, ConfigError> {
        ConfigError::all(self.errors)?;
        Ok(self.settings)
    }

    /// Removes and returns the errors of the content.
    pub fn take_errors(&mut self) -> Vec<ConfigError> {
        std::mem::take(&mut self.errors)
    }

    /// Returns the line, from 1, of the setting `key`, such as `listen` or
    /// `models.birds.instances`. `None` if the file does not contain it.
    pub fn line(&self, key: &str) -> Option<usize> {
        self.lines.get(key).copied()
    }
}

impl Settings {
    /// Reads settings from the TOML file at `path`. A setting that the file does not contain is
    /// `None`.
    ///
    /// # Errors
    /// As [`ConfigFile::read`] and [`ConfigFile::into_settings`].
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        ConfigFile::read(path)?.into_settings()
    }

    /// Returns these settings, in which each setting that `matches` contains, a command line parsed
    /// with the arguments of [`Settings`], has the value from there. A new setting needs no code
    /// here.
    ///
    /// # Errors
    /// [`ConfigError::Arguments`] if `matches` is from a command with other arguments.
    pub fn under(mut self, matches: &ArgMatches) -> Result<Self, ConfigError> {
        self.update_from_arg_matches(matches)?;
        Ok(self)
    }
}

/// Reads a list of values that are written as strings, or a single one.
pub(super) fn one_or_many<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    struct OneOrMany<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMany<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string or a list of strings")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Vec<T>, E> {
            Ok(vec![T::deserialize(StrDeserializer::new(text))?])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Vec<T>, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(list))
        }
    }

    deserializer
        .deserialize_any(OneOrMany(PhantomData))
        .map(Some)
}
