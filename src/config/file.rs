//! Settings from a TOML file.

use std::path::Path;

use super::{ConfigError, Settings};
use crate::store::read_text;

impl Settings {
    /// Returns these settings, in which each setting that is `None` has the value from the TOML
    /// file at `path`.
    ///
    /// # Errors
    /// [`ConfigError::Read`] if the file cannot be read, [`ConfigError::Syntax`] if it is invalid,
    /// [`ConfigError::Flags`] if a setting cannot be represented in TOML.
    pub fn over_file(&self, path: &Path) -> Result<Self, ConfigError> {
        self.over(&read_text(path)?, path)
    }

    /// Returns these settings, in which each setting that is `None` has the value from `file`, the
    /// text of the TOML file at `path`. Merges TOML tables rather than fields, so that a new
    /// setting needs no code here.
    pub(super) fn over(&self, file: &str, path: &Path) -> Result<Self, ConfigError> {
        let syntax = |source| ConfigError::Syntax {
            path: path.to_path_buf(),
            source,
        };
        // Parsed before the merge, because errors in the merged table have no line in the file.
        toml::from_str::<Self>(file).map_err(syntax)?;
        let mut merged: toml::Table = toml::from_str(file).map_err(syntax)?;
        merged.extend(toml::Table::try_from(self)?);
        merged.try_into().map_err(syntax)
    }
}
