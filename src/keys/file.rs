//! The key file of a running server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{ApiKeys, KeyDigest, KeyFileError, KeyLine, KeyName, parse};
use crate::error::explain;
use crate::metrics::Metrics;
use crate::store::{StoreError, read_regular};

/// Maximum size of the file in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Bits of a file's mode that let every user of the machine read or write it.
const OTHERS: u32 = 0o006;

/// The file of `--api-keys` and the keys that were last read from it.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    keys: ApiKeys,
    /// Fingerprint of what was last read, valid or not. The lock also keeps two reloads from overlapping.
    seen: Mutex<String>,
}

/// The result of reading the key file again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reload {
    /// Number of keys that apply now.
    pub keys: usize,
    /// Number of keys that were removed.
    pub removed: usize,
}

/// What was read from the file at one time.
pub(super) struct Snapshot {
    content: Result<Vec<u8>, StoreError>,
    /// Equal for equal contents and for equal errors.
    fingerprint: String,
}

impl Snapshot {
    /// Returns whether both have the same content or the same error.
    pub(super) fn equals(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl KeyFile {
    /// Reads the key file at `path`.
    ///
    /// # Errors
    /// [`KeyFileError`] if the file cannot be read, has a wrong line, or has no key.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let snapshot = read(path);
        let lines = keys(path, snapshot.content)?;
        let keys = ApiKeys::new(&lines);
        tracing::info!(path = %path.display(), keys = keys.len(), "API keys loaded");
        warn_of_mode(path);
        Ok(Self {
            path: path.to_owned(),
            keys,
            seen: Mutex::new(snapshot.fingerprint),
        })
    }

    /// Returns the keys that apply now.
    pub fn keys(&self) -> &ApiKeys {
        &self.keys
    }

    /// Reads the file again, for example on SIGHUP. If it cannot be used, the keys stay as they are. Logs and counts
    /// the result. Blocks the thread.
    ///
    /// # Errors
    /// As [`KeyFile::load`].
    pub fn reload(&self, metrics: &Metrics) -> Result<Reload, KeyFileError> {
        self.apply(self.read(), metrics)
    }

    /// Reads the file without applying it. Blocks the thread.
    pub(super) fn read(&self) -> Snapshot {
        read(&self.path)
    }

    /// Returns whether `snapshot` differs from what was last applied or failed to apply.
    pub(super) fn is_news(&self, snapshot: &Snapshot) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen != snapshot.fingerprint
    }

    /// Replaces the keys by those in `snapshot`, if it is valid. Logs and counts the result.
    pub(super) fn apply(
        &self,
        snapshot: Snapshot,
        metrics: &Metrics,
    ) -> Result<Reload, KeyFileError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = snapshot.fingerprint;
        let replaced = keys(&self.path, snapshot.content).map(|lines| self.keys.replace(&lines));
        metrics.key_reloads.count(replaced.is_ok());
        match replaced {
            Ok(gone) => Ok(self.report(&gone, metrics)),
            Err(error) => {
                let reason = explain(&error);
                let keys = self.keys.len();
                tracing::error!(
                    reason,
                    keys,
                    "API keys not reloaded: the old ones still apply"
                );
                Err(error)
            }
        }
    }

    /// Logs a reload that removed the keys `gone`, and removes their metrics.
    fn report(&self, gone: &[KeyName], metrics: &Metrics) -> Reload {
        for name in gone {
            metrics.forget_key(name.as_str());
        }
        let reload = Reload {
            keys: self.keys.len(),
            removed: gone.len(),
        };
        let path = self.path.display();
        let Reload { keys, removed } = reload;
        tracing::info!(%path, keys, removed, "API keys reloaded");
        warn_of_mode(&self.path);
        reload
    }
}

fn read(path: &Path) -> Snapshot {
    let content = read_regular(path, MAX_FILE_BYTES);
    let fingerprint = match &content {
        Ok(bytes) => KeyDigest::of(bytes).to_string(),
        Err(error) => format!("{error:?}"),
    };
    Snapshot {
        content,
        fingerprint,
    }
}

/// Parses `content`, what was read from the key file at `path`.
fn keys(path: &Path, content: Result<Vec<u8>, StoreError>) -> Result<Vec<KeyLine>, KeyFileError> {
    let path = || path.to_owned();
    let text = String::from_utf8(content?).map_err(|_| KeyFileError::NotText { path: path() })?;
    let lines = parse(&text).map_err(|(line, reason)| KeyFileError::Line {
        path: path(),
        line,
        reason,
    })?;
    if lines.is_empty() {
        return Err(KeyFileError::NoKeys { path: path() });
    }
    Ok(lines)
}

/// Logs a warning if every user of the machine may read or write the file.
fn warn_of_mode(path: &Path) {
    // If the file is gone again, the next poll reports that.
    let mode = fs::metadata(path).map_or(0, |meta| meta.permissions().mode());
    if mode & OTHERS != 0 {
        tracing::warn!(
            path = %path.display(),
            mode = format!("{:o}", mode & 0o777),
            "every user of this machine may read or write the file of the API keys: set its mode to 640 or 600",
        );
    }
}
