//! Comparison of a model's files with the hashes in its manifest.

use std::path::Path;

use super::StoreError;
use crate::manifest::{ModelManifest, sha256};

/// Checks that `content` has the SHA-256 that the manifest states for the file at `path`. A file
/// without a stated SHA-256 is not checked.
///
/// # Errors
/// [`StoreError::Hash`] if the SHA-256 differs.
pub(super) fn check(
    manifest: &ModelManifest,
    path: &Path,
    content: &[u8],
) -> Result<(), StoreError> {
    let file = path.file_name().map_or(path, Path::new);
    let mut stated = manifest.stated_sha256(file).peekable();
    if stated.peek().is_none() {
        return Ok(());
    }
    let got = sha256(content);
    match stated.find(|(_, expected)| !expected.eq_ignore_ascii_case(&got)) {
        None => Ok(()),
        Some((field, expected)) => Err(StoreError::Hash {
            path: path.to_path_buf(),
            field,
            expected: expected.to_owned(),
            got,
        }),
    }
}
