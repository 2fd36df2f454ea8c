//! Errors of the key file. None of them quotes the file, because somebody may have written a key where its hash belongs.

use std::path::PathBuf;

use thiserror::Error;

use super::{KeyNameError, MAX_KEYS};
use crate::nearest::did_you_mean;
use crate::store::StoreError;

/// The error of a key file that cannot be used.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// The file cannot be read, is no regular file, or is too large.
    #[error("cannot read the API keys")]
    Read(#[from] StoreError),
    /// The file is not UTF-8.
    #[error("cannot read the API keys: {} is not a text in UTF-8", .path.display())]
    NotText {
        /// Path of the file.
        path: PathBuf,
    },
    /// A line of the file cannot be used.
    #[error("{}, line {line}: {reason}", .path.display())]
    Line {
        /// Path of the file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong with the line.
        reason: KeyLineError,
    },
    /// The file has no key. With such a file, every request would be rejected.
    #[error(
        "{} has no API key, so every request would be rejected: `sightline key new NAME` prints a key and the line for \
         this file; remove `api_keys` to serve without keys",
        .path.display()
    )]
    NoKeys {
        /// Path of the file.
        path: PathBuf,
    },
}

/// Why a line of the key file cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyLineError {
    /// The line has too few fields, or a further field that is no limit.
    #[error(
        "expected `NAME SHA256`, optionally followed by `rate=50/s`, `burst=100` and `concurrency=8`, separated by \
         spaces; `sightline key new NAME` prints such a line"
    )]
    Fields,
    /// The name is not allowed.
    #[error(transparent)]
    Name(#[from] KeyNameError),
    /// The second field is not a SHA-256 hash.
    #[error(
        "expected the SHA-256 hash of the key, 64 hexadecimal digits, as second field, got {length} characters{}",
        if *.like_key { ", which look like a key: write its hash, printf %s KEY | sha256sum" } else { "" }
    )]
    Digest {
        /// Length of the field in characters.
        length: usize,
        /// Whether the field begins as the keys that `sightline key new` prints.
        like_key: bool,
    },
    /// Another line has the same name.
    #[error("the name is that of line {first}, too: each key needs a name of its own")]
    DuplicateName {
        /// The other line, from 1.
        first: usize,
    },
    /// Another line has the same hash.
    #[error("the key is that of line {first}, too: each name needs a key of its own")]
    DuplicateKey {
        /// The other line, from 1.
        first: usize,
    },
    /// The file has more keys than allowed.
    #[error("more than {MAX_KEYS} keys")]
    TooManyKeys,
    /// A limit has an invalid value.
    #[error(
        "`{name}` must be {}",
        if *.name == "rate" { "1 to 1000000 per second, minute or hour, such as 50/s, 600/m or 1000/h" } else { "1 to 1000000" }
    )]
    Limit {
        /// Name of the limit.
        name: &'static str,
    },
    /// A limit is set twice.
    #[error("`{name}` twice")]
    LimitTwice {
        /// Name of the limit.
        name: &'static str,
    },
    /// The line sets a limit that does not exist.
    #[error("unknown limit: expected `rate=`, `burst=` or `concurrency=`{}", did_you_mean(*.nearest))]
    UnknownLimit {
        /// The limit that was probably meant. `None` if no name is similar.
        nearest: Option<&'static str>,
    },
    /// The line sets a burst but no rate.
    #[error("`burst` needs `rate`, such as `rate=50/s burst=100`")]
    BurstWithoutRate,
}
