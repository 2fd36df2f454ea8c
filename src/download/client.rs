//! The HTTP client of downloads: certificates, proxies and limits.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::{DownloadError, Patience};
use crate::error::explain;
use crate::store::read_regular;

/// Maximum size of the headers of a response, in bytes.
const MAX_HEAD: usize = 32 << 10;
/// Maximum size of a file of `--ca`, in bytes. The bundles of Linux distributions have a quarter of this.
const MAX_BUNDLE: u64 = 1 << 20;

/// How downloads connect.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// PEM file with the only certificates that are trusted. `None` for those of the system.
    pub ca: Option<PathBuf>,
    /// Whether `http` to other hosts than this one is allowed.
    pub allow_http: bool,
    /// When an attempt ends and how often another one is made.
    pub patience: Patience,
}

/// Returns an agent that verifies servers with the certificates of `options`, and uses the proxy that the environment
/// names (`ALL_PROXY`, `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`). It returns redirects and errors as responses.
///
/// # Errors
/// [`DownloadError::Roots`] if there are no certificates.
pub(super) fn agent(options: &ClientOptions) -> Result<Agent, DownloadError> {
    let roots = match &options.ca {
        Some(path) => bundle(path)?,
        None => system()?,
    };
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .build();
    let silence = Some(options.patience.silence);
    let config = Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        // Redirects are followed by `exchange`, which checks where they lead.
        .max_redirects(0)
        .max_response_header_size(MAX_HEAD)
        // A connection that failed is not used again.
        .max_idle_connections(0)
        .accept_encoding("identity")
        .user_agent(concat!("sightline/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(silence)
        .timeout_connect(silence)
        .timeout_recv_response(silence)
        .timeout_per_read(silence)
        .timeout_per_write(silence);
    Ok(config.build().into())
}

/// Reads the certificates in the PEM file at `path`.
fn bundle(path: &Path) -> Result<Vec<Certificate<'static>>, DownloadError> {
    let fail = |reason: String| {
        let path = path.display();
        DownloadError::Roots(format!("cannot use the certificates in {path}: {reason}"))
    };
    let pem = read_regular(path, MAX_BUNDLE).map_err(|error| fail(explain(&error)))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| fail(error.to_string()))? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(fail("the file has no certificate in PEM form".to_owned()));
    }
    Ok(certificates)
}

/// Reads the root certificates of the system, or those of the variables `SSL_CERT_FILE` and `SSL_CERT_DIR`.
fn system() -> Result<Vec<Certificate<'static>>, DownloadError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})"));
        return Err(DownloadError::Roots(format!(
            "this system has no root certificates{}: install the package ca-certificates, or name a file with --ca",
            why.unwrap_or_default()
        )));
    }
    let own = |der: &[u8]| Certificate::from_der(der).to_owned();
    Ok(found.certs.iter().map(|der| own(der)).collect())
}
