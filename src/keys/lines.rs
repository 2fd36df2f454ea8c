//! The lines of the key file.

use std::collections::HashMap;
use std::hash::Hash;

use super::{KeyDigest, KeyLimits, KeyLineError, KeyName, MAX_KEYS, limits};

/// An API key as a line of the file states it.
#[derive(Debug, Clone)]
pub struct KeyLine {
    /// Name of the key.
    pub name: KeyName,
    /// Hash of the key.
    pub digest: KeyDigest,
    /// Limits of the key.
    pub limits: KeyLimits,
}

/// Parses the text of a key file: one key per line as `NAME SHA256 [rate=50/s] [burst=100] [concurrency=8]`, separated
/// by spaces. Empty lines are ignored, and so is the rest of a line from `#` on. Returns no key if the text has none.
///
/// # Errors
/// The number of the first wrong line, from 1, and what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<KeyLine>, (usize, KeyLineError)> {
    let mut keys = Vec::new();
    let (mut names, mut digests) = (HashMap::new(), HashMap::new());
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let number = index + 1;
        let Some(key) = parse_line(line).map_err(|reason| (number, reason))? else {
            continue;
        };
        if keys.len() == MAX_KEYS {
            return Err((number, KeyLineError::TooManyKeys));
        }
        if let Some(first) = first(&mut names, key.name.clone(), number) {
            return Err((number, KeyLineError::DuplicateName { first }));
        }
        if let Some(first) = first(&mut digests, key.digest.bytes(), number) {
            return Err((number, KeyLineError::DuplicateKey { first }));
        }
        keys.push(key);
    }
    Ok(keys)
}

/// Returns the line that had `value` before, or records that `line` is the first one.
fn first<T: Eq + Hash>(seen: &mut HashMap<T, usize>, value: T, line: usize) -> Option<usize> {
    let first = *seen.entry(value).or_insert(line);
    (first != line).then_some(first)
}

/// Parses a line. Returns `None` if it has no key.
fn parse_line(line: &str) -> Result<Option<KeyLine>, KeyLineError> {
    let line = line.split('#').next().unwrap_or_default();
    let mut fields = line.split_ascii_whitespace();
    let Some(name) = fields.next() else {
        return Ok(None);
    };
    let name = name.parse()?;
    let digest = fields.next().ok_or(KeyLineError::Fields)?;
    let digest = KeyDigest::parse(digest).ok_or_else(|| KeyLineError::Digest {
        length: digest.chars().count(),
        like_key: digest.starts_with(super::generate::PREFIX),
    })?;
    let limits = limits::parse(fields)?;
    Ok(Some(KeyLine {
        name,
        digest,
        limits,
    }))
}
