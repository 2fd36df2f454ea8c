//! The settings of traces and of the access log's sampling.

use std::fmt;
use std::str::FromStr;

use axum::http::Uri;
use onnx_export::text::cut;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::redacted;

/// The URL of an OTLP collector that receives spans by gRPC: `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OtlpEndpoint(String);

/// A text cannot be parsed as the URL of a collector. Contains up to 64 characters of the text, unless it has a user name
/// or password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "expected http://HOST:PORT of an OTLP collector's gRPC receiver, such as http://127.0.0.1:4317 (https is not \
     supported), got {0}"
)]
pub struct OtlpEndpointError(String);

impl FromStr for OtlpEndpoint {
    type Err = OtlpEndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri = text.parse::<Uri>().ok();
        let valid = uri.filter(|uri| {
            let plain = uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/");
            // The name of the endpoint is logged, so it must not contain a password.
            let secret = uri
                .authority()
                .is_none_or(|host| host.as_str().contains('@'));
            let host = uri.host().is_some_and(|host| !host.is_empty());
            plain && !secret && host && uri.port_u16().is_some() && uri.query().is_none()
        });
        match valid {
            Some(_) => Ok(Self(text.trim_end_matches('/').to_owned())),
            None => Err(OtlpEndpointError(shown(text))),
        }
    }
}

/// Returns what an error shows of `text`, which may contain a password.
fn shown(text: &str) -> String {
    format!("`{}`", cut(&redacted(text), 64))
}

impl TryFrom<String> for OtlpEndpoint {
    type Error = OtlpEndpointError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<OtlpEndpoint> for String {
    fn from(endpoint: OtlpEndpoint) -> Self {
        endpoint.0
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A share of events, from 0 (none) to 1 (all).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Share(f64);

/// A value is not a share.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("expected a number from 0 to 1, got `{0}`")]
pub struct ShareError(String);

impl Share {
    /// All events.
    pub const ALL: Self = Self(1.0);

    /// Returns the share, from 0 to 1.
    pub fn get(self) -> f64 {
        self.0
    }

    /// Returns whether the share includes the event with the 64 random bits `bits`. The same bits always have the same
    /// result, and a larger share includes the events of a smaller one.
    pub fn includes(self, bits: u64) -> bool {
        // As OpenTelemetry's sampler by trace id does, so that both choose the same traces.
        let limit = (self.0 * (1_u64 << 63) as f64) as u64;
        (bits >> 1) < limit
    }
}

impl TryFrom<f64> for Share {
    type Error = ShareError;

    fn try_from(share: f64) -> Result<Self, Self::Error> {
        if (0.0..=1.0).contains(&share) {
            return Ok(Self(share));
        }
        Err(ShareError(share.to_string()))
    }
}

impl From<Share> for f64 {
    fn from(share: Share) -> Self {
        share.0
    }
}

impl FromStr for Share {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || ShareError(cut(text, 64).to_owned());
        text.parse::<f64>()
            .map_err(|_| invalid())?
            .try_into()
            .map_err(|_| invalid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_plain_http_with_a_port() {
        for valid in [
            "http://127.0.0.1:4317",
            "http://collector:4317/",
            "http://[::1]:4317",
        ] {
            let endpoint = valid.parse::<OtlpEndpoint>().unwrap();
            assert_eq!(endpoint.to_string(), valid.trim_end_matches('/'));
        }
        for invalid in [
            "",
            "collector:4317",
            "127.0.0.1:4317",
            "https://collector:4317",
            "http://collector",
            "http://collector:4317/v1/traces",
            "http://user:secret@collector:4317",
            "http://collector:99999",
            "http://:4317",
        ] {
            let error = invalid.parse::<OtlpEndpoint>().unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn shares_are_from_zero_to_one() {
        for invalid in ["", "-0.1", "1.1", "nan", "inf", "1/2", "10%"] {
            assert!(invalid.parse::<Share>().is_err(), "{invalid}");
        }
        let share = |text: &str| text.parse::<Share>().unwrap();
        assert!(!share("0").includes(0));
        assert!(share("1").includes(u64::MAX));
        assert!(share("0.5").includes(u64::MAX / 2 - 1));
        assert!(!share("0.5").includes(u64::MAX / 2 + 2));
    }
}
