//! The errors of TLS files.

use std::path::PathBuf;

use thiserror::Error;

use crate::store::StoreError;

/// Why TLS files cannot be used. Names the file and what to do.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read, is not a regular file, or is too large.
    #[error(transparent)]
    Read(StoreError),
    /// A file is not PEM.
    #[error("{}: expected PEM, got {reason}", .path.display())]
    Pem {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file has no item of the expected kind.
    #[error("{}: expected `-----BEGIN {expected}-----`, got {got}", .path.display())]
    Missing {
        /// Path of the file.
        path: PathBuf,
        /// Label of the expected PEM section.
        expected: &'static str,
        /// What the file has instead, and what to do.
        got: String,
    },
    /// The key is encrypted, and a server has nobody to type the passphrase.
    #[error(
        "{path}: the private key is encrypted; decrypt it with `openssl pkey -in {path} -out key.pem` and restrict \
         who can read the result", path = .path.display()
    )]
    EncryptedKey {
        /// Path of the file.
        path: PathBuf,
    },
    /// The key has a type that TLS cannot use here.
    #[error("{}: expected an RSA (2048 bits or more), ECDSA P-256, P-384 or P-521, or Ed25519 private key: {reason}", .path.display())]
    UnsupportedKey {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The certificate chain is larger than clients accept.
    #[error(
        "{}: expected a chain of at most {} certificates and {} bytes, got {certificates} certificates and {bytes} bytes; \
         keep the server's certificate and the intermediate certificates", .path.display(), .limits.0, .limits.1
    )]
    Chain {
        /// Path of the file.
        path: PathBuf,
        /// Number of certificates in the file.
        certificates: usize,
        /// Size of the certificates in bytes.
        bytes: usize,
        /// Maximum number of certificates, and their maximum size in bytes.
        limits: (usize, usize),
    },
    /// A certificate is malformed.
    #[error("{}: certificate {position} is malformed: {reason}", .path.display())]
    Certificate {
        /// Path of the file.
        path: PathBuf,
        /// Position of the certificate in the file, from 1.
        position: usize,
        /// What is wrong.
        reason: String,
    },
    /// The key belongs to another certificate of the chain than the first.
    #[error(
        "{}: the private key belongs to certificate {position}; put this certificate first, then the intermediate \
         certificates", .path.display()
    )]
    Order {
        /// Path of the certificate file.
        path: PathBuf,
        /// Position of the certificate of the key, from 1.
        position: usize,
    },
    /// The key belongs to no certificate of the chain.
    #[error("the private key {} does not belong to the certificate {}: replace both files", .key.display(), .cert.display())]
    Mismatch {
        /// Path of the certificate file.
        cert: PathBuf,
        /// Path of the key file.
        key: PathBuf,
    },
    /// The certificate has expired.
    #[error("{}: the certificate expired on {date}; renew it", .path.display())]
    Expired {
        /// Path of the file.
        path: PathBuf,
        /// End of the validity.
        date: String,
    },
    /// The certificate is not valid yet.
    #[error("{}: the certificate is not valid before {date}; check the clock of this machine", .path.display())]
    NotYetValid {
        /// Path of the file.
        path: PathBuf,
        /// Start of the validity.
        date: String,
    },
    /// The certificates of client authorities cannot be used.
    #[error("{}: cannot be used to check client certificates: {reason}", .path.display())]
    ClientCa {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The TLS library rejects its own protocol versions, which does not happen.
    #[error("cannot configure TLS 1.2 and 1.3: {0}")]
    Versions(String),
}
