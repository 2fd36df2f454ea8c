//! The setting of the start-up cache.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::cache::Cache;

/// Where optimized networks are cached, as the setting `cache` states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheChoice {
    /// Nowhere.
    Off,
    /// In this folder.
    Folder(PathBuf),
}

/// A text is neither a folder nor `off`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("expected a folder, or `off` to cache nothing, got an empty text")]
pub struct CacheChoiceError;

impl CacheChoice {
    /// Returns the cache of `choice`. `None` stands for the folder `sightline` in `$XDG_CACHE_HOME`, or in `$HOME/.cache`
    /// if that variable is not set; without both, only the entries of the installation are read.
    pub fn cache(choice: Option<Self>) -> Cache {
        match choice {
            Some(Self::Off) => Cache::off(),
            Some(Self::Folder(folder)) => Cache::new(Some(folder)),
            None => Cache::new(default_folder(|name| {
                std::env::var_os(name).map(PathBuf::from)
            })),
        }
    }
}

/// Returns the folder of the user's cache. `variable` returns the value of an environment variable. A relative path is
/// ignored, as the XDG base directory specification requires.
fn default_folder(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    Some(caches?.join("sightline"))
}

impl FromStr for CacheChoice {
    type Err = CacheChoiceError;

    fn from_str(text: &str) -> Result<Self, CacheChoiceError> {
        match text {
            "" => Err(CacheChoiceError),
            "off" | "none" => Ok(Self::Off),
            folder => Ok(Self::Folder(folder.into())),
        }
    }
}

impl fmt::Display for CacheChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Folder(folder) => write!(f, "{}", folder.display()),
        }
    }
}

impl Serialize for CacheChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CacheChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_in_the_users_cache() {
        let cases = [
            (Some("/xdg"), Some("/home/a"), Some("/xdg/sightline")),
            (None, Some("/home/a"), Some("/home/a/.cache/sightline")),
            (
                Some("relative"),
                Some("/home/a"),
                Some("/home/a/.cache/sightline"),
            ),
            (Some(""), None, None),
            (None, None, None),
        ];
        for (xdg, home, expected) in cases {
            let variable = |name: &str| if name == "HOME" { home } else { xdg }.map(PathBuf::from);
            assert_eq!(
                default_folder(variable),
                expected.map(PathBuf::from),
                "{xdg:?} {home:?}"
            );
        }
    }

    #[test]
    fn off_and_none_switch_the_cache_off() {
        for text in ["off", "none"] {
            assert!(CacheChoice::cache(Some(text.parse().unwrap())).is_off());
        }
        let folder: CacheChoice = "/a/off".parse().unwrap();
        assert_eq!(folder, CacheChoice::Folder("/a/off".into()));
        assert!("".parse::<CacheChoice>().is_err());
    }
}
