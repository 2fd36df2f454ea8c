//! Paths and permissions of Unix sockets, as settings state them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Maximum length of a path in bytes. The kernel has 108 bytes for the path and a zero byte at its end.
const MAX_BYTES: usize = 107;

/// The absolute path of a Unix socket, of at most 107 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPath(PathBuf);

/// A text is not the path of a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SocketPathError {
    /// The path is too long for the kernel.
    #[error(
        "the path of a Unix socket must have at most {MAX_BYTES} bytes, got {bytes} in `{start}...`"
    )]
    TooLong {
        /// Length of the path in bytes.
        bytes: usize,
        /// The first 64 characters of the path.
        start: String,
    },
    /// The path is not absolute, or has no file name.
    #[error(
        "expected an absolute path after `unix:`, such as unix:/run/sightline/http.sock, got `{0}`"
    )]
    NotAbsolute(String),
}

impl SocketPath {
    /// Returns the path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for SocketPath {
    type Err = SocketPathError;

    fn from_str(text: &str) -> Result<Self, SocketPathError> {
        let start = || text.chars().take(64).collect();
        if text.len() > MAX_BYTES {
            return Err(SocketPathError::TooLong {
                bytes: text.len(),
                start: start(),
            });
        }
        let name = text.rsplit('/').next().unwrap_or_default();
        if !text.starts_with('/') || matches!(name, "" | "." | "..") || text.contains('\0') {
            return Err(SocketPathError::NotAbsolute(start()));
        }
        // Repeated slashes, as in `unix:///run/http.sock`, are removed.
        Ok(Self(Path::new(text).components().collect()))
    }
}

impl fmt::Display for SocketPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// The permissions of a Unix socket. Who may write to the socket may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SocketMode(u32);

/// A text is not the permissions of a file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("expected permissions as three octal digits, such as 660 or 0660, got `{0}`")]
pub struct SocketModeError(String);

impl SocketMode {
    /// Returns the permission bits, 0 to 0o777.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl Default for SocketMode {
    /// The user and the group of the server may connect.
    fn default() -> Self {
        Self(0o660)
    }
}

impl FromStr for SocketMode {
    type Err = SocketModeError;

    fn from_str(text: &str) -> Result<Self, SocketModeError> {
        let digits = text.strip_prefix('0').filter(|_| text.len() == 4);
        let digits = digits.unwrap_or(text);
        let octal = digits.len() == 3 && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let bits = u32::from_str_radix(digits, 8).ok().filter(|_| octal);
        bits.map(Self)
            .ok_or_else(|| SocketModeError(text.chars().take(64).collect()))
    }
}

impl TryFrom<String> for SocketMode {
    type Error = SocketModeError;

    fn try_from(text: String) -> Result<Self, SocketModeError> {
        text.parse()
    }
}

impl From<SocketMode> for String {
    fn from(mode: SocketMode) -> Self {
        mode.to_string()
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_absolute_and_fits_the_kernel() {
        for (text, path) in [
            ("/run/a.sock", "/run/a.sock"),
            ("///run//a.sock", "/run/a.sock"),
            ("/a.", "/a."),
        ] {
            assert_eq!(text.parse::<SocketPath>().unwrap().to_string(), path);
        }
        for text in [
            "", "a.sock", "./a.sock", "/", "/run/", "/run/..", "@a", "/a\0b",
        ] {
            let error = text.parse::<SocketPath>().unwrap_err().to_string();
            assert!(error.contains("absolute path"), "{text}: {error}");
        }
        let longest = format!("/{}", "a".repeat(106));
        assert!(longest.parse::<SocketPath>().is_ok());
        let error = format!("{longest}a").parse::<SocketPath>().unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("at most 107 bytes, got 108 in `/aaa"),
            "{error}"
        );
        assert!(error.len() < 200, "{error}");
    }

    #[test]
    fn a_mode_is_octal() {
        for (text, bits) in [("660", 0o660), ("0660", 0o660), ("000", 0), ("0777", 0o777)] {
            assert_eq!(text.parse::<SocketMode>().unwrap().bits(), bits);
        }
        for text in ["", "66", "888", "1777", "0o660", "+66", "rw-", "00660"] {
            assert!(text.parse::<SocketMode>().is_err(), "{text}");
        }
        assert_eq!(SocketMode::default().to_string(), "0660");
    }
}
