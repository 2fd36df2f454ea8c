//! Requests to the health routes of a running server.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use onnx_export::text::cut;
use rustls::crypto::ring;
use serde_json::Value;
use ureq::tls::TlsConfig;

/// Maximum number of bytes of a response that are read.
const MAX_RESPONSE: u64 = 64 << 10;
/// Maximum number of characters of a text in a response that are shown.
const MAX_SHOWN: usize = 200;

/// The response of a health route.
pub(super) struct Health {
    /// Status code.
    pub(super) status: u16,
    /// JSON body; null if the body is not JSON.
    body: Value,
}

impl Health {
    /// Requests `url`, without a proxy. The certificate of an HTTPS server is not verified: its names rarely include
    /// the loopback address, and nothing is sent that others may not know.
    ///
    /// # Errors
    /// If there is no response within `timeout`.
    pub(super) fn request(url: &str, timeout: Duration) -> Result<Self> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            .proxy(None)
            .tls_config(
                TlsConfig::builder()
                    .disable_verification(true)
                    .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
                    .build(),
            )
            .http_status_as_error(false)
            .build()
            .into();
        let mut response = agent.get(url).call()?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(MAX_RESPONSE);
        let body = serde_json::from_str(&body.read_to_string()?).unwrap_or_default();
        Ok(Self { status, body })
    }

    /// Returns up to `MAX_SHOWN` characters of the text `name` in the body.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let text = self.body.get(name)?.as_str()?;
        Some(cut(text, MAX_SHOWN))
    }

    /// Returns version and instance id of the server, or `None` if the response does not contain
    /// both.
    pub(super) fn identity(&self) -> Option<String> {
        let (version, instance) = (self.text("version")?, self.text("instance")?);
        Some(format!("version {version}, instance {instance}"))
    }
}
