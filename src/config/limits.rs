//! Limits on loading a model from files, and the ranges of numeric settings.

use std::time::Duration;

use super::ConfigError;
use crate::memory::ByteSize;
use crate::registry::LOAD_TIMEOUT;

/// Limits on loading a model from files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadLimits {
    /// Maximum time to load one model.
    pub timeout: Duration,
    /// Maximum memory to load one model, in bytes. `None` to derive it from the size of the
    /// model's files and from the memory limit of the cgroup or of the machine.
    pub memory: Option<u64>,
}

impl LoadLimits {
    /// Checks the settings `load_timeout_ms` and `load_memory_bytes`, and replaces `None` by the
    /// defaults.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first setting that is out of range.
    pub fn new(timeout_ms: Option<u64>, memory: Option<ByteSize>) -> Result<Self, ConfigError> {
        let timeout = range("load_timeout_ms", timeout_ms, 86_400_000)?;
        Ok(Self {
            timeout: timeout.map_or(LOAD_TIMEOUT, Duration::from_millis),
            memory: size("load_memory_bytes", memory)?,
        })
    }
}

/// Returns `value` in bytes, or `None` if it is `None`. Returns an error that names `setting` if
/// `value` is not from 1 byte to 1 TiB.
pub(super) fn size(
    setting: &'static str,
    value: Option<ByteSize>,
) -> Result<Option<u64>, ConfigError> {
    range(setting, value.map(|size| size.0), 1 << 40)
}

/// Returns `value` if it is `None` or from 1 to `most`. Returns an error that names `setting` for
/// any other value.
pub(super) fn range<T: Copy + PartialOrd + From<u8> + ToString>(
    setting: &'static str,
    value: Option<T>,
    most: T,
) -> Result<Option<T>, ConfigError> {
    match value {
        Some(number) if number < T::from(1) || number > most => {
            let expected = format!("1 to {}", most.to_string());
            Err(ConfigError::Value {
                setting,
                expected,
                got: number.to_string(),
            })
        }
        value => Ok(value),
    }
}
