//! Errors of downloads.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// Why a file could not be downloaded. URLs are shown without user name and password.
#[derive(Debug, Error)]
pub enum DownloadError {
    /// The URL is malformed, or its scheme is not allowed.
    #[error("cannot use the URL {url}: {reason}")]
    Address {
        /// The URL.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There are no root certificates to verify servers with.
    #[error("cannot verify servers: {0}")]
    Roots(String),
    /// The server cannot be reached, or the connection was lost before the response.
    #[error("no response from {url}: {reason}")]
    Connection {
        /// The requested URL.
        url: String,
        /// Why there is none.
        reason: String,
    },
    /// The TLS handshake failed, for example because the server's certificate is not trusted.
    #[error(
        "cannot connect securely to {url}: {reason}; if a proxy or a mirror has a certificate of its own authority, \
         name the authority's certificates with --ca FILE"
    )]
    Tls {
        /// The requested URL.
        url: String,
        /// Why the handshake failed.
        reason: String,
    },
    /// The server's response is not HTTP, or its headers contradict each other or the request.
    #[error("{url} returned a malformed response: {reason}")]
    Protocol {
        /// The requested URL.
        url: String,
        /// What is malformed.
        reason: String,
    },
    /// The server returned a status that another attempt does not change.
    #[error("{url} returned status {status}{}", advice(*.status))]
    Status {
        /// The requested URL.
        url: String,
        /// The HTTP status code.
        status: u16,
    },
    /// The server returned a temporary status: 408, 429, 500, 502, 503 or 504.
    #[error("{url} returned status {status}{}", after(*.retry_after))]
    Busy {
        /// The requested URL.
        url: String,
        /// The HTTP status code.
        status: u16,
        /// Time after which the server wants to be asked again. `None` if it does not say.
        retry_after: Option<Duration>,
    },
    /// A redirect that is not followed.
    #[error("{from} redirects to {to}: {reason}")]
    Redirect {
        /// The URL that redirects.
        from: String,
        /// The value of its `location` header.
        to: String,
        /// Why the redirect is not followed.
        reason: &'static str,
    },
    /// The response is a web page, such as the login page of a network or an error page.
    #[error(
        "{url} returned a web page instead of a checkpoint: open it in a browser to see what it wants, or name another \
         source with --from or --mirror"
    )]
    WebPage {
        /// The requested URL.
        url: String,
    },
    /// The response is compressed, although the request excluded that.
    #[error("{url} returned the encoding `{encoding}`, expected the file as it is")]
    Encoded {
        /// The requested URL.
        url: String,
        /// The value of the `content-encoding` header.
        encoding: String,
    },
    /// The file is larger than expected.
    #[error("{url} returns {} bytes, expected at most {max}", size(*.got))]
    TooLarge {
        /// The requested URL.
        url: String,
        /// The stated size in bytes. `None` if the server does not state it.
        got: Option<u64>,
        /// Maximum size in bytes.
        max: u64,
    },
    /// The server does not continue the file at the requested byte.
    #[error("{url} did not continue the file at byte {offset}: {reason}")]
    Range {
        /// The requested URL.
        url: String,
        /// First byte that was requested.
        offset: u64,
        /// What the server returned instead.
        reason: String,
    },
    /// The server returns a whole file instead of the requested rest, and it is not the file that was begun.
    #[error(
        "{url} returned a file of {} bytes instead of the rest after {done} bytes, which are kept; delete {} to start \
         again", size(*.total), .part.display()
    )]
    Whole {
        /// The requested URL.
        url: String,
        /// Stated size of the returned file in bytes. `None` if the server does not state it.
        total: Option<u64>,
        /// Number of bytes that had arrived.
        done: u64,
        /// Path of the file with these bytes.
        part: PathBuf,
    },
    /// The connection was lost before the end of the file.
    #[error("the connection to {url} was lost after {done} of {} bytes", size(*.total))]
    Cut {
        /// The requested URL.
        url: String,
        /// Number of bytes of the file that have arrived.
        done: u64,
        /// Size of the file in bytes. `None` if the server does not state it.
        total: Option<u64>,
    },
    /// The server sends nothing, or too slowly to finish.
    #[error("{url} sent less than {rate} bytes per second for {seconds} s")]
    Stalled {
        /// The requested URL.
        url: String,
        /// Minimum rate in bytes per second.
        rate: u64,
        /// Length of the time in which the rate was too low, in seconds.
        seconds: u64,
    },
    /// The file is complete but is not the expected one.
    #[error(
        "{url} is not the expected file: its {bytes} bytes have the SHA-256 {got}, expected one that starts with \
         {expected}"
    )]
    Hash {
        /// Where the file comes from: a URL or a path.
        url: String,
        /// First hexadecimal digits of the expected SHA-256.
        expected: String,
        /// SHA-256 of the file, 64 hexadecimal digits.
        got: String,
        /// Size of the file in bytes.
        bytes: u64,
    },
    /// The file system has too little space.
    #[error(
        "too little space in {}: the file needs {needed} bytes more, {free} are free; free some or name another folder \
         with --download-dir", .folder.display()
    )]
    NoSpace {
        /// The folder of the file.
        folder: PathBuf,
        /// Number of bytes that are still to be written.
        needed: u64,
        /// Number of bytes that this user may still write.
        free: u64,
    },
    /// The file cannot be read or written.
    #[error("cannot {action} {}", .path.display())]
    Disk {
        /// What was done with the file: `read`, `write`, ...
        action: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
}

impl DownloadError {
    /// Returns whether another attempt can succeed without a change by the user.
    pub(super) fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Connection { .. } | Self::Busy { .. } | Self::Cut { .. } | Self::Stalled { .. }
        )
    }

    /// Returns the time that the server asked to wait. `None` if it did not.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Returns what to do about `status`, as the end of a sentence.
fn advice(status: u16) -> &'static str {
    match status {
        401 | 403 => ": the server requires other credentials",
        404 | 410 => ": it does not have the file; check the URL of --from or --mirror",
        407 => ": the proxy requires a user name and a password",
        _ => "",
    }
}

fn after(time: Option<Duration>) -> String {
    time.map_or_else(String::new, |time| {
        format!(" and wants to be asked again after {} s", time.as_secs())
    })
}

fn size(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "an unknown number of".to_owned(), |n| n.to_string())
}
