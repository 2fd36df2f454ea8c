//! API keys: their file, their limits, and the check of the key that a request presents.
//!
//! [`KeyFile`] reads the file of `--api-keys` and reads it again when it changes. [`ApiKeys`] holds the keys that
//! apply now; [`ApiKeys::authorize`] checks a presented key and takes its limits into account. The file has only
//! SHA-256 hashes of keys, which suffices because [`new_key`] makes keys of 256 random bits: nobody can guess a key
//! from its hash.
//!
//! What is *not* here: types of a protocol, and status codes. A front end passes the values of its headers or metadata
//! to [`presented()`].

mod digest;
mod error;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gate;
mod generate;
mod limits;
mod lines;
mod name;
mod presented;
mod store;
#[cfg(test)]
mod tests;
mod watch;

pub use digest::KeyDigest;
pub use error::{KeyFileError, KeyLineError};
pub use file::{KeyFile, Reload};
pub use gate::Place;
pub use generate::new_key;
pub use limits::{KeyLimits, KeyRate};
pub use lines::{KeyLine, parse};
pub use name::{KeyName, KeyNameError};
pub use presented::{KeyError, MAX_KEY_BYTES, presented};
pub use store::{ApiKeys, Grant};

/// Maximum number of keys in a file. Every check compares the presented key with all of them, and each has its own
/// metrics.
pub const MAX_KEYS: usize = 1_000;
