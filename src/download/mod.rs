//! Downloads one file over HTTPS: with limits, resumable, and verified by the start of its SHA-256.
//!
//! The bytes that have arrived are in `NAME.part` beside the final path, so that a later attempt, also one of another
//! process, continues there. The file gets its final name only when all its bytes have the expected hash. The caller
//! makes sure that no two downloads of one path run at the same time.
//!
//! This module knows neither models nor the terminal. It is used by `pull` only; the server never uses it.

mod address;
mod body;
mod client;
mod error;
mod exchange;
mod part;
mod retry;

use std::path::Path;
use std::time::Duration;

use rustix::fs::statvfs;
use ureq::Agent;

use crate::config::SecretUrl;
use address::Address;
use body::Limits;
pub use client::ClientOptions;
pub use error::DownloadError;
use exchange::{Answer, Exchange};
use part::{Part, disk, hash_file};
pub use retry::Patience;

/// Number of bytes that an attempt must gain to count as progress: a server that sends one byte per connection would
/// otherwise keep a download running for ever.
const MIN_GAIN: u64 = 64 << 10;
/// Number of times that a download starts again because the server has another file than the one that was begun.
const MAX_RESTARTS: u32 = 2;

/// Observes a download.
pub trait Progress {
    /// Bytes of the file begin to arrive. `done` bytes are there already; `total` is the size of the file if the
    /// server states it.
    fn begin(&self, done: u64, total: Option<u64>);
    /// `done` bytes of the file are there.
    fn advance(&self, done: u64);
    /// Another attempt follows after `pause`, because of `error`.
    fn retry(&self, error: &DownloadError, pause: Duration);
}

/// A file to download.
#[derive(Debug)]
pub struct Request<'a> {
    /// Where it is.
    pub url: &'a SecretUrl,
    /// Path that the complete file gets. Its folder must exist.
    pub to: &'a Path,
    /// First hexadecimal digits, in lower case, of the SHA-256 of the file.
    pub sha256_prefix: &'a str,
    /// Maximum size of the file in bytes.
    pub max_bytes: u64,
}

/// A file that has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// SHA-256 of the file, 64 hexadecimal digits.
    pub sha256: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// Checks that the regular file at `path` has at most `max_bytes` and a SHA-256 that starts with `sha256_prefix`.
/// Returns `None` if the file does not exist.
///
/// # Errors
/// [`DownloadError::Hash`] if it is another file, [`DownloadError::TooLarge`] or [`DownloadError::Disk`] if it cannot
/// be read.
pub fn verify(
    path: &Path,
    sha256_prefix: &str,
    max_bytes: u64,
) -> Result<Option<Verified>, DownloadError> {
    let Some((sha256, bytes)) = hash_file(path, max_bytes)? else {
        return Ok(None);
    };
    check_hash(&path.display().to_string(), sha256_prefix, sha256, bytes).map(Some)
}

/// Downloads files.
pub struct Client {
    agent: Agent,
    options: ClientOptions,
}

impl Client {
    /// Creates a client, and reads the certificates that it trusts.
    ///
    /// # Errors
    /// [`DownloadError::Roots`] if there are none.
    pub fn new(options: ClientOptions) -> Result<Self, DownloadError> {
        Ok(Self {
            agent: client::agent(&options)?,
            options,
        })
    }

    /// Downloads the file of `request`, or the rest of it if a part has arrived earlier.
    ///
    /// # Errors
    /// [`DownloadError`]. Bytes that have arrived are kept for the next download, unless the whole file has arrived
    /// and is another one than expected.
    pub fn download(
        &self,
        request: &Request<'_>,
        progress: &dyn Progress,
    ) -> Result<Verified, DownloadError> {
        let address = Address::parse(request.url, self.options.allow_http)?;
        let mut part = Part::open(request.to)?;
        let mut restarts = 0;
        loop {
            if part.len() > request.max_bytes {
                part.restart()?;
            }
            let received = self.receive(request, &address, &mut part, progress);
            let checked = received.and_then(|()| {
                check_hash(
                    &address.to_string(),
                    request.sha256_prefix,
                    part.sha256(),
                    part.len(),
                )
            });
            match checked {
                Ok(verified) => {
                    part.publish()?;
                    return Ok(verified);
                }
                // The parts may belong to different files.
                Err(error) if is_mixed(&error, &part) && restarts < MAX_RESTARTS => {
                    restarts += 1;
                    progress.retry(&error, Duration::ZERO);
                    part.restart()?;
                }
                Err(error) => {
                    let is_useless = matches!(
                        error,
                        DownloadError::Hash { .. } | DownloadError::TooLarge { .. }
                    );
                    if is_useless || part.len() == 0 {
                        part.discard();
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Makes attempts until all bytes have arrived.
    fn receive(
        &self,
        request: &Request<'_>,
        address: &Address,
        part: &mut Part,
        progress: &dyn Progress,
    ) -> Result<(), DownloadError> {
        let patience = &self.options.patience;
        let mut fruitless = 0;
        loop {
            let before = part.len();
            let Err(error) = self.attempt(request, address, part, progress) else {
                return Ok(());
            };
            let gained = part.len().saturating_sub(before) >= MIN_GAIN;
            fruitless = if gained { 0 } else { fruitless + 1 };
            let asked = error.retry_after().unwrap_or_default();
            if !error.is_temporary()
                || fruitless >= patience.attempts
                || asked > patience.longest_pause
            {
                return Err(error);
            }
            let pause = patience.pause(fruitless).max(asked);
            progress.retry(&error, pause);
            std::thread::sleep(pause);
        }
    }

    /// Requests the rest of the file once.
    fn attempt(
        &self,
        request: &Request<'_>,
        address: &Address,
        part: &mut Part,
        progress: &dyn Progress,
    ) -> Result<(), DownloadError> {
        if part.len() > 0 && part.version().total == Some(part.len()) {
            return Ok(());
        }
        let exchange = Exchange {
            agent: &self.agent,
            address,
            plain: self.options.allow_http,
            max: request.max_bytes,
        };
        let answer = exchange.run(part.len(), part.version())?;
        if answer.offset < part.len() {
            // The server has a new file, or cannot continue one.
            check_whole(&answer, part, address)?;
            part.restart()?;
        }
        let total = answer.version.total;
        check_space(
            request.to,
            total.unwrap_or_default().saturating_sub(part.len()),
        )?;
        part.expect(answer.version)?;
        progress.begin(part.len(), total);
        let limits = Limits {
            url: &address.to_string(),
            total,
            max: request.max_bytes,
            patience: &self.options.patience,
        };
        limits.receive(&mut answer.body.into_reader(), part, progress)
    }
}

/// Checks that a response with a whole file, in answer to a request for the rest, is likely to be the file, before its
/// bytes replace those that have arrived. A page of a proxy or an error with status 200 is not.
fn check_whole(answer: &Answer, part: &Part, address: &Address) -> Result<(), DownloadError> {
    let (total, known) = (answer.version.total, part.version().total);
    let is_likely =
        total.is_some_and(|total| total >= part.len() && known.is_none_or(|known| known == total));
    if is_likely {
        return Ok(());
    }
    Err(DownloadError::Whole {
        url: address.to_string(),
        total,
        done: part.len(),
        part: part.path().to_path_buf(),
    })
}

/// Returns whether `error` can result from a part whose bytes belong to different files.
fn is_mixed(error: &DownloadError, part: &Part) -> bool {
    match error {
        DownloadError::Range { .. } => true,
        DownloadError::Hash { .. } => part.is_spliced(),
        _ => false,
    }
}

fn check_hash(
    url: &str,
    expected: &str,
    sha256: String,
    bytes: u64,
) -> Result<Verified, DownloadError> {
    if sha256.starts_with(expected) {
        return Ok(Verified { sha256, bytes });
    }
    Err(DownloadError::Hash {
        url: url.to_owned(),
        expected: expected.to_owned(),
        got: sha256,
        bytes,
    })
}

/// Checks that `needed` more bytes fit on the file system of `to`.
fn check_space(to: &Path, needed: u64) -> Result<(), DownloadError> {
    let folder = to.parent().unwrap_or(Path::new("/"));
    let space =
        statvfs(folder).map_err(|error| disk("check the free space of", folder, error.into()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if needed > free {
        return Err(DownloadError::NoSpace {
            folder: folder.to_path_buf(),
            needed,
            free,
        });
    }
    Ok(())
}
