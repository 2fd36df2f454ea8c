//! Receives the body of a response into a part.

use std::io::{self, Read};
use std::time::Instant;

use super::part::Part;
use super::{DownloadError, Patience, Progress};

/// Number of bytes that are received at a time.
const CHUNK: usize = 64 << 10;
/// What the first bytes of a web page are, in lower case, after spaces.
const PAGES: [&[u8]; 3] = [b"<!doctype html", b"<html", b"<!--"];

/// Limits on the body of a response.
pub(super) struct Limits<'a> {
    /// URL for messages.
    pub(super) url: &'a str,
    /// Size of the whole file in bytes. `None` if the server does not state it.
    pub(super) total: Option<u64>,
    /// Maximum size of the whole file in bytes.
    pub(super) max: u64,
    pub(super) patience: &'a Patience,
}

impl Limits<'_> {
    /// Appends the body to `part` until the file is complete.
    ///
    /// # Errors
    /// [`DownloadError::Cut`] or [`DownloadError::Stalled`] if the file is not complete, after the bytes that have
    /// arrived were appended; others if it is too large, is a web page, or cannot be written.
    pub(super) fn receive(
        &self,
        body: &mut impl Read,
        part: &mut Part,
        progress: &dyn Progress,
    ) -> Result<(), DownloadError> {
        let mut buffer = vec![0; CHUNK];
        let mut window = (Instant::now(), part.len());
        loop {
            let bytes = match body.read(&mut buffer) {
                Ok(0) => return self.ended(part),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if is_timeout(&error) => return Err(self.stalled()),
                Err(_) => return Err(self.cut(part)),
            };
            let received = &buffer[..bytes];
            self.check(received, part.len())?;
            part.append(received)?;
            progress.advance(part.len());
            let (since, from) = window;
            let time = since.elapsed();
            if time >= self.patience.silence {
                if ((part.len() - from) as f64) < self.patience.min_rate as f64 * time.as_secs_f64()
                {
                    return Err(self.stalled());
                }
                window = (Instant::now(), part.len());
            }
        }
    }

    /// Checks the bytes `received`, which follow `before` bytes of the file.
    fn check(&self, received: &[u8], before: u64) -> Result<(), DownloadError> {
        let url = || self.url.to_owned();
        let size = before.saturating_add(received.len() as u64);
        if size > self.total.unwrap_or(self.max).min(self.max) {
            return Err(DownloadError::TooLarge {
                url: url(),
                got: self.total,
                max: self.max,
            });
        }
        if before == 0 && is_page(received) {
            return Err(DownloadError::WebPage { url: url() });
        }
        Ok(())
    }

    /// Returns whether the file is complete at the end of the body.
    fn ended(&self, part: &Part) -> Result<(), DownloadError> {
        match self.total {
            Some(total) if part.len() < total => Err(self.cut(part)),
            _ => Ok(()),
        }
    }

    fn cut(&self, part: &Part) -> DownloadError {
        DownloadError::Cut {
            url: self.url.to_owned(),
            done: part.len(),
            total: self.total,
        }
    }

    fn stalled(&self) -> DownloadError {
        DownloadError::Stalled {
            url: self.url.to_owned(),
            rate: self.patience.min_rate,
            seconds: self.patience.silence.as_secs(),
        }
    }
}

/// Returns whether the client waited for too long for the next bytes.
fn is_timeout(error: &io::Error) -> bool {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<ureq::Error>());
    error.kind() == io::ErrorKind::TimedOut || matches!(inner, Some(ureq::Error::Timeout(_)))
}

/// Returns whether the file that starts with `head` is a web page.
fn is_page(head: &[u8]) -> bool {
    let text = head.trim_ascii_start();
    let starts = |page: &&[u8]| {
        text.get(..page.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(page))
    };
    PAGES.iter().any(starts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn web_pages_are_recognized() {
        for (head, page) in [
            (&b"\r\n <!DOCTYPE html><title>"[..], true),
            (b"<HTML>", true),
            (b"PK\x03\x04", false),
            (b"<", false),
            (b"", false),
        ] {
            assert_eq!(is_page(head), page, "{head:?}");
        }
    }
}
