//! Reads files up to a maximum size.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::StoreError;

/// Maximum size of a manifest, label or ranges file in bytes.
const MAX_TEXT_BYTES: u64 = 16 << 20;

/// Splits a label file into labels, one per line, without trailing white space.
pub fn lines(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

/// Reads a text file of at most 16 MiB.
///
/// # Errors
/// [`StoreError::Io`] if the file cannot be read or is not UTF-8, [`StoreError::TooLarge`] if it is
/// larger than 16 MiB.
pub fn read_text(path: &Path) -> Result<String, StoreError> {
    let bytes = read_bounded(path, MAX_TEXT_BYTES)?;
    String::from_utf8(bytes).map_err(|error| {
        let source = io::Error::new(io::ErrorKind::InvalidData, error);
        StoreError::Io {
            path: path.to_path_buf(),
            source,
        }
    })
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// [`StoreError::Io`] if the file cannot be read, [`StoreError::TooLarge`] if it is larger than
/// `limit`.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, StoreError> {
    let fail = |source| StoreError::Io {
        path: path.to_path_buf(),
        source,
    };
    let file = File::open(path).map_err(fail)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > limit {
        return Err(StoreError::TooLarge {
            path: path.to_path_buf(),
            limit,
        });
    }
    Ok(bytes)
}
