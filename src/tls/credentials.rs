//! Parses PEM files into a TLS configuration and checks that they fit together.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{Error, RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::time::ASN1Time;

use super::TlsError;
use super::files::{Contents, TlsFiles};

/// Protocols that the server offers (ALPN), the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// Maximum number of certificates of the chain that the server sends in each handshake.
const MAX_CHAIN: usize = 16;
/// Maximum size of the chain in bytes: what common clients accept.
const MAX_CHAIN_BYTES: usize = 64 << 10;
/// Sessions whose clients can resume them with a shorter handshake.
const SESSIONS: usize = 1024;

/// A checked set of files.
pub(super) struct Credentials {
    pub(super) config: Arc<ServerConfig>,
    /// End of the certificate's validity, in seconds since 1970.
    pub(super) not_after: i64,
    /// Subject of the certificate.
    subject: String,
    expires: String,
}

impl Credentials {
    /// Parses `contents`, the contents of `files`, and checks that the key belongs to the certificate and that the
    /// certificate is valid now.
    pub(super) fn new(files: &TlsFiles, contents: &Contents) -> Result<Self, TlsError> {
        let chain = certificates(&files.cert, &contents.cert)?;
        check_size(&files.cert, &chain)?;
        let key = private_key(&files.key, &contents.key)?;
        let provider = Arc::new(ring::default_provider());
        let certified = certified(files, chain, key, &provider)?;
        let leaf = parse(&files.cert, 0, &certified.cert[0])?;
        let validity = leaf.validity();
        check_validity(&files.cert, validity.not_before, validity.not_after)?;
        let (not_after, expires) = (validity.not_after.timestamp(), show(validity.not_after));
        let subject = leaf.subject().to_string().chars().take(200).collect();
        let verifier = match (&files.client_ca, &contents.client_ca) {
            (Some(path), Some(content)) => client_verifier(path, content, &provider)?,
            _ => WebPkiClientVerifier::no_client_auth(),
        };
        let config = config(certified, verifier, provider)?;
        Ok(Self {
            config,
            not_after,
            subject,
            expires,
        })
    }

    /// Logs the subject and the end of the validity.
    pub(super) fn log(&self, event: &'static str) {
        let (subject, expires) = (&self.subject, &self.expires);
        tracing::info!(subject, expires, "{event}");
    }
}

/// Returns the configuration of connections: TLS 1.2 and 1.3, without early data, which could be replayed.
fn config(
    certified: CertifiedKey,
    verifier: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[&TLS13, &TLS12]);
    let builder = builder.map_err(|error| TlsError::Versions(error.to_string()))?;
    let mut config = builder
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(SESSIONS);
    Ok(Arc::new(config))
}

/// Returns the certificates of a PEM file, at least one. Other sections are ignored.
fn certificates(path: &Path, content: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(content).collect();
    let certificates = certificates.map_err(malformed(path))?;
    if certificates.is_empty() {
        return Err(missing(path, "CERTIFICATE", content));
    }
    Ok(certificates)
}

/// Returns an error if clients would reject a handshake with `chain`, because it is too large.
fn check_size(path: &Path, chain: &[CertificateDer<'_>]) -> Result<(), TlsError> {
    let bytes = chain.iter().map(|certificate| certificate.len()).sum();
    if chain.len() <= MAX_CHAIN && bytes <= MAX_CHAIN_BYTES {
        return Ok(());
    }
    Err(TlsError::Chain {
        path: path.to_path_buf(),
        certificates: chain.len(),
        bytes,
        limits: (MAX_CHAIN, MAX_CHAIN_BYTES),
    })
}

/// Returns the first private key of a PEM file, in PKCS#8, PKCS#1 or SEC1.
fn private_key(path: &Path, content: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = String::from_utf8_lossy(content);
    if ["BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"]
        .iter()
        .any(|mark| text.contains(mark))
    {
        let path = path.to_path_buf();
        return Err(TlsError::EncryptedKey { path });
    }
    match PrivateKeyDer::from_pem_slice(content) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(missing(path, "PRIVATE KEY", content)),
        Err(error) => Err(malformed(path)(error)),
    }
}

/// Returns the error for a PEM file without a section of the expected kind.
fn missing(path: &Path, expected: &'static str, content: &[u8]) -> TlsError {
    let text = String::from_utf8_lossy(content);
    let label = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("-----BEGIN "));
    let got = match label.and_then(|rest| rest.strip_suffix("-----")) {
        _ if content.is_empty() => "an empty file".to_owned(),
        Some(label) => {
            let label: String = label.chars().take(64).collect();
            format!(
                "`{label}`; certificates belong to `tls_cert` and `tls_client_ca`, keys to `tls_key`"
            )
        }
        None => {
            "no PEM section; convert DER files with `openssl x509` or `openssl pkey`".to_owned()
        }
    };
    TlsError::Missing {
        path: path.to_path_buf(),
        expected,
        got,
    }
}

fn malformed(path: &Path) -> impl Fn(pem::Error) -> TlsError {
    move |error| TlsError::Pem {
        path: path.to_path_buf(),
        reason: error.to_string(),
    }
}

/// Returns the certificate chain with its private key, whose certificate is the first of the chain.
fn certified(
    files: &TlsFiles,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let key = provider.key_provider.load_private_key(key);
    let key = key.map_err(|error| TlsError::UnsupportedKey {
        path: files.key.clone(),
        reason: error.to_string(),
    })?;
    for (index, certificate) in chain.iter().enumerate() {
        parse(&files.cert, index, certificate)?;
        let alone = CertifiedKey::new(vec![certificate.clone()], Arc::clone(&key));
        match (alone.keys_match(), index) {
            (Err(Error::InconsistentKeys(_)), _) => {}
            (Err(error), _) => return Err(malformed_certificate(&files.cert, index, &error)),
            (Ok(()), 0) => return Ok(CertifiedKey::new(chain, key)),
            (Ok(()), _) => {
                return Err(TlsError::Order {
                    path: files.cert.clone(),
                    position: index + 1,
                });
            }
        }
    }
    Err(TlsError::Mismatch {
        cert: files.cert.clone(),
        key: files.key.clone(),
    })
}

fn parse<'a>(
    path: &Path,
    index: usize,
    certificate: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, TlsError> {
    let parsed = X509Certificate::from_der(certificate);
    let (_, parsed) = parsed.map_err(|error| malformed_certificate(path, index, &error))?;
    Ok(parsed)
}

fn malformed_certificate(path: &Path, index: usize, error: &dyn std::fmt::Display) -> TlsError {
    TlsError::Certificate {
        path: path.to_path_buf(),
        position: index + 1,
        reason: error.to_string(),
    }
}

/// Returns an error unless the certificate is valid now.
fn check_validity(path: &Path, from: ASN1Time, until: ASN1Time) -> Result<(), TlsError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs() as i64);
    let path = path.to_path_buf();
    if now < from.timestamp() {
        let date = show(from);
        return Err(TlsError::NotYetValid { path, date });
    }
    if now > until.timestamp() {
        let date = show(until);
        return Err(TlsError::Expired { path, date });
    }
    Ok(())
}

fn show(time: ASN1Time) -> String {
    time.to_rfc2822().unwrap_or_else(|_| time.to_string())
}

/// Returns the check of client certificates: each client needs one that an authority in the file at `path` signed.
fn client_verifier(
    path: &Path,
    content: &[u8],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let unusable = |reason: String| TlsError::ClientCa {
        path: path.to_path_buf(),
        reason,
    };
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates(path, content)?.into_iter().enumerate() {
        let added = roots.add(certificate);
        added.map_err(|error| malformed_certificate(path, index, &error))?;
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    builder.build().map_err(|error| unusable(error.to_string()))
}
