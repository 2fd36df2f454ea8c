//! The files that a TLS configuration is read from.

use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::TlsError;
use crate::store::read_regular;

/// Maximum size of each file in bytes. A bundle of every public authority has about 200 KiB.
const MAX_BYTES: u64 = 1 << 20;

/// Paths of the PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, followed by the intermediate certificates.
    pub cert: PathBuf,
    /// The private key of the server's certificate.
    pub key: PathBuf,
    /// Certificates of the authorities that sign client certificates. `None` if clients need no certificate.
    pub client_ca: Option<PathBuf>,
}

/// The contents of the files.
pub(super) struct Contents {
    pub(super) cert: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) client_ca: Option<Vec<u8>>,
}

/// SHA-256 of the contents of all files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest([u8; 32]);

impl TlsFiles {
    /// Reads all files. Each is a regular file of at most [`MAX_BYTES`], or a symbolic link to one.
    pub(super) fn read(&self) -> Result<Contents, TlsError> {
        let read = |path| read_regular(path, MAX_BYTES).map_err(TlsError::Read);
        Ok(Contents {
            cert: read(&self.cert)?,
            key: read(&self.key)?,
            client_ca: self.client_ca.as_deref().map(read).transpose()?,
        })
    }
}

impl Contents {
    pub(super) fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        for content in [&self.cert, &self.key]
            .into_iter()
            .chain(self.client_ca.as_ref())
        {
            // The length separates the files.
            hash.update((content.len() as u64).to_le_bytes());
            hash.update(content);
        }
        Digest(hash.finalize().into())
    }
}
