//! One request for a file or for its rest, and the check of the response's status and headers.

use std::io;
use std::time::SystemTime;

use onnx_export::text::cut;
use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::{Agent, Body};

use super::DownloadError;
use super::address::Address;
use super::part::Version;
use super::retry::retry_after;

/// Maximum number of redirects of one request.
const MAX_REDIRECTS: usize = 5;
/// Maximum number of characters of a header that a message quotes.
const MAX_QUOTED: usize = 100;

/// A response whose body is the file from byte `offset` on.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) body: Body,
    /// First byte of the body within the file: the requested one, or 0.
    pub(super) offset: u64,
    pub(super) version: Version,
}

/// A request for a file.
pub(super) struct Exchange<'a> {
    pub(super) agent: &'a Agent,
    pub(super) address: &'a Address,
    /// Whether `http` is allowed to every host.
    pub(super) plain: bool,
    /// Maximum size of the file in bytes.
    pub(super) max: u64,
}

impl Exchange<'_> {
    /// Requests the file from byte `offset` on, if it is still the file `known`.
    ///
    /// # Errors
    /// [`DownloadError`] if there is no response whose body can be a part of the file.
    pub(super) fn run(&self, offset: u64, known: &Version) -> Result<Answer, DownloadError> {
        let mut address = self.address.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(&address, offset, known)?;
            if !response.status().is_redirection() {
                return self.check(&address, response, offset, known);
            }
            let location = header(response.headers(), "location").unwrap_or_default();
            address = address.redirect(location, self.plain)?;
        }
        Err(DownloadError::Redirect {
            from: self.address.to_string(),
            to: address.to_string(),
            reason: "more than 5 redirects follow each other",
        })
    }

    fn send(
        &self,
        address: &Address,
        offset: u64,
        known: &Version,
    ) -> Result<Response<Body>, DownloadError> {
        let mut request = self.agent.get(address.uri());
        if offset > 0 {
            request = request.header("range", format!("bytes={offset}-"));
            // Another server may have another tag for the same file; its size and its hash are compared then.
            let tag = known
                .tag
                .as_deref()
                .filter(|_| known.url == self.address.to_string());
            if let Some(tag) = tag {
                request = request.header("if-range", tag);
            }
        }
        request.call().map_err(|error| failed(address, error))
    }

    /// Checks status and headers of the last response, from `address`.
    fn check(
        &self,
        address: &Address,
        response: Response<Body>,
        offset: u64,
        known: &Version,
    ) -> Result<Answer, DownloadError> {
        let url = address.to_string();
        let headers = response.headers();
        let length = response.body().content_length();
        let (first, total) = match response.status() {
            StatusCode::OK => (0, length),
            StatusCode::PARTIAL_CONTENT if offset > 0 => {
                let range = header(headers, "content-range").unwrap_or_default();
                continued(range, offset, length, known).map_err(|reason| DownloadError::Range {
                    url: url.clone(),
                    offset,
                    reason,
                })?
            }
            StatusCode::RANGE_NOT_SATISFIABLE if offset > 0 => {
                let reason = "it says that the file is shorter".to_owned();
                return Err(DownloadError::Range {
                    url,
                    offset,
                    reason,
                });
            }
            status => return Err(refused(url, status, headers)),
        };
        if let Some(encoding) = header(headers, "content-encoding")
            .filter(|name| !name.eq_ignore_ascii_case("identity"))
        {
            let encoding = cut(encoding, MAX_QUOTED).to_owned();
            return Err(DownloadError::Encoded { url, encoding });
        }
        if response
            .body()
            .mime_type()
            .is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"))
        {
            return Err(DownloadError::WebPage { url });
        }
        if let Some(got) = total.filter(|total| *total > self.max) {
            return Err(DownloadError::TooLarge {
                url,
                got: Some(got),
                max: self.max,
            });
        }
        let tag = header(headers, "etag").and_then(Version::usable_tag);
        let version = Version {
            url: self.address.to_string(),
            tag,
            total,
        };
        Ok(Answer {
            body: response.into_body(),
            offset: first,
            version,
        })
    }
}

/// Returns the first byte and the total size that the `content-range` header of a partial response states.
///
/// # Errors
/// A description of what contradicts the request for the rest from `offset` on, the `content-length`, or the size that
/// is known.
fn continued(
    range: &str,
    offset: u64,
    length: Option<u64>,
    known: &Version,
) -> Result<(u64, Option<u64>), String> {
    let parse = || {
        let (range, total) = range.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let total: Option<u64> = match total {
            "*" => None,
            total => Some(total.parse().ok()?),
        };
        Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?, total))
    };
    let quoted = cut(range, MAX_QUOTED);
    let Some((first, last, total)) = parse() else {
        return Err(format!("its content-range is `{quoted}`"));
    };
    let bytes = last.checked_sub(first).and_then(|more| more.checked_add(1));
    let fits = first == offset
        && bytes.is_some_and(|bytes| length.is_none_or(|length| length == bytes))
        && total.or(known.total).is_none_or(|total| last < total);
    if !fits {
        return Err(format!("its content-range is `{quoted}`"));
    }
    match (known.total, total) {
        (Some(known), Some(total)) if known != total => {
            Err(format!("the file has {total} bytes now, not {known}"))
        }
        _ => Ok((first, total.or(known.total))),
    }
}

/// Returns the error for a status that is neither a success nor a redirect.
fn refused(url: String, status: StatusCode, headers: &HeaderMap) -> DownloadError {
    let number = status.as_u16();
    match number {
        408 | 429 | 500 | 502 | 503 | 504 => {
            let wait = header(headers, "retry-after");
            DownloadError::Busy {
                url,
                status: number,
                retry_after: wait.and_then(|value| retry_after(value, SystemTime::now())),
            }
        }
        _ => DownloadError::Status {
            url,
            status: number,
        },
    }
}

/// Returns the error of a request that got no response.
fn failed(address: &Address, error: ureq::Error) -> DownloadError {
    let url = address.to_string();
    let reason = error.to_string();
    match error {
        ureq::Error::Io(error) => match tls_error(&error) {
            Some(reason) => DownloadError::Tls { url, reason },
            None => DownloadError::Connection { url, reason },
        },
        ureq::Error::HostNotFound => {
            let reason = "the host name cannot be resolved".to_owned();
            DownloadError::Connection { url, reason }
        }
        ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed => {
            DownloadError::Connection { url, reason }
        }
        ureq::Error::Rustls(error) => DownloadError::Tls {
            url,
            reason: error.to_string(),
        },
        ureq::Error::Tls(reason) => DownloadError::Tls {
            url,
            reason: reason.to_owned(),
        },
        _ => DownloadError::Protocol { url, reason },
    }
}

/// Returns the message of the TLS error in `error`. `None` if it is another error.
fn tls_error(error: &io::Error) -> Option<String> {
    let inner = error.get_ref()?;
    let rustls = inner.downcast_ref::<rustls::Error>();
    rustls.map(ToString::to_string)
}

/// Returns the value of a header, without spaces around it. `None` if there is none or it is not ASCII.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_contradict_the_request_are_rejected() {
        let known = Version {
            total: Some(100),
            ..Version::default()
        };
        for (range, length, expected) in [
            ("bytes 40-99/100", Some(60), Some((40, Some(100)))),
            ("bytes 40-99/*", Some(60), Some((40, Some(100)))),
            ("bytes 40-59/100", None, Some((40, Some(100)))),
            ("bytes 40-99/100", Some(59), None),
            ("bytes 0-99/100", Some(100), None),
            ("bytes 41-99/100", Some(59), None),
            ("bytes 40-100/100", None, None),
            ("bytes 40-39/100", None, None),
            ("bytes 40-99/101", Some(60), None),
            ("bytes 40-100/*", None, None),
            (
                "bytes 40-18446744073709551615/18446744073709551615",
                None,
                None,
            ),
            ("bytes */100", None, None),
            ("chunks 40-99/100", None, None),
            ("bytes 40-x/100", None, None),
            ("", None, None),
        ] {
            let got = continued(range, 40, length, &known).ok();
            assert_eq!(got, expected, "{range}");
        }
    }
}
