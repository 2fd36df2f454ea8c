//! Settings from a TOML file.

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use serde::Deserialize;
use serde::de::value::{SeqAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use toml::de::DeTable;

use super::{ConfigError, Settings, keys};
use crate::nearest::nearest;
use crate::store::read_text;

impl Settings {
    /// Reads settings from the TOML file at `path`. A setting that the file does not contain is
    /// `None`.
    ///
    /// # Errors
    /// [`ConfigError::Read`] if the file cannot be read, [`ConfigError::UnknownKey`] or
    /// [`ConfigError::Syntax`] if it is invalid.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read_text(path)?, path)
    }

    /// Reads settings from `text`, the text of the TOML file at `path`.
    ///
    /// # Errors
    /// [`ConfigError::UnknownKey`] or [`ConfigError::Syntax`] if the text is invalid.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        // A text that is not TOML is an error of `from_str`, which shows the line.
        if let Ok(table) = DeTable::parse(text) {
            for key in table.get_ref().keys() {
                known(key.get_ref(), key.span().start, text, path)?;
            }
        }
        toml::from_str(text).map_err(|error| ConfigError::Syntax {
            path: path.to_path_buf(),
            source: error.into(),
        })
    }

    /// Returns these settings, in which each setting that is `None` has the value of `lower`.
    /// Merges TOML tables rather than fields, so that a new setting needs no code here.
    ///
    /// # Errors
    /// [`ConfigError::Flags`] if a setting cannot be represented in TOML.
    pub fn over(&self, lower: &Self) -> Result<Self, ConfigError> {
        let mut merged = toml::Table::try_from(lower)?;
        merged.extend(toml::Table::try_from(self)?);
        merged
            .try_into()
            .map_err(|error: toml::de::Error| ConfigError::Merge(error.into()))
    }
}

/// Returns an error if `key`, which starts at byte `start` of the file, is not the name of a
/// setting.
fn known(key: &str, start: usize, file: &str, path: &Path) -> Result<(), ConfigError> {
    if keys().contains(&key) {
        return Ok(());
    }
    let before = file.get(..start).unwrap_or_default();
    let hint = match nearest(key, keys().iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => "`sightline serve --print-config` prints all keys".to_owned(),
    };
    Err(ConfigError::UnknownKey {
        path: path.to_path_buf(),
        line: 1 + before.matches('\n').count(),
        key: key.chars().take(64).collect(),
        hint,
    })
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
