//! Tests of TLS files: which are used, which are rejected, and what happens when they are replaced.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::{Tls, TlsError, TlsFiles};
use crate::error::explain;
use crate::metrics::Metrics;

/// A folder with TLS files.
struct Folder {
    folder: TempDir,
    metrics: Metrics,
}

/// A certificate and its key as PEM.
struct Pair {
    cert: String,
    key: String,
}

fn params(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

/// Returns a self-signed certificate.
fn signed(params: &CertificateParams) -> Pair {
    let key = KeyPair::generate().unwrap();
    Pair {
        cert: params.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

fn pair() -> Pair {
    signed(&params("localhost"))
}

/// Returns a self-signed certificate that is valid in these years only.
fn valid(from: i32, until: i32) -> Pair {
    let mut params = params("localhost");
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    signed(&params)
}

impl Folder {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            metrics: Metrics::new(),
        }
    }

    fn files(&self) -> TlsFiles {
        TlsFiles {
            cert: self.folder.path().join("tls.crt"),
            key: self.folder.path().join("tls.key"),
            client_ca: None,
        }
    }

    fn write(&self, pair: &Pair) {
        fs::write(self.files().cert, &pair.cert).unwrap();
        fs::write(self.files().key, &pair.key).unwrap();
    }

    fn load(&self) -> Result<Tls, TlsError> {
        Tls::load(self.files(), self.metrics.tls.clone())
    }

    /// Returns how often a reload had this result.
    fn reloads(&self, result: &str) -> String {
        let page = self.metrics.page();
        let name = format!("sightline_tls_reloads_total{{result=\"{result}\"}} ");
        let value = page.lines().find_map(|line| line.strip_prefix(&name));
        value.unwrap_or_else(|| panic!("{page}")).to_owned()
    }
}

#[test]
fn every_kind_of_key_can_be_used() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ] {
        let folder = Folder::new();
        let key = KeyPair::generate_for(algorithm).unwrap();
        folder.write(&Pair {
            cert: params("localhost").self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
        });
        folder.load().unwrap();
    }
}

#[test]
fn unusable_files_are_errors_that_say_what_to_do() {
    let (one, other) = (pair(), pair());
    let expired = valid(1990, 2001);
    let future = valid(2090, 2091);
    let cases = [
        (String::new(), one.key.clone(), "got an empty file"),
        (
            one.key.clone(),
            one.cert.clone(),
            "expected `-----BEGIN CERTIFICATE-----`, got `PRIVATE KEY`",
        ),
        (
            one.cert.clone(),
            one.cert.clone(),
            "expected `-----BEGIN PRIVATE KEY-----`, got `CERTIFICATE`",
        ),
        (
            "x".to_owned(),
            one.key.clone(),
            "no PEM section; convert DER",
        ),
        (
            one.cert.clone(),
            other.key.clone(),
            "does not belong to the certificate",
        ),
        (
            format!("{}{}", other.cert, one.cert),
            one.key.clone(),
            "belongs to certificate 2; put this certificate first",
        ),
        (
            one.cert.repeat(17),
            one.key.clone(),
            "at most 16 certificates and 65536 bytes, got 17 certificates",
        ),
        (one.cert[..200].to_owned(), one.key.clone(), "expected PEM"),
        (one.cert.clone(), one.key[..80].to_owned(), "expected PEM"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
            one.key.clone(),
            "certificate 1 is malformed",
        ),
        (
            one.cert.clone(),
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned(),
            "expected an RSA (2048 bits or more), ECDSA",
        ),
        (
            one.cert.clone(),
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
                .to_owned(),
            "decrypt it with `openssl pkey",
        ),
        (
            expired.cert,
            expired.key,
            "the certificate expired on Mon, 01 Jan 2001",
        ),
        (
            future.cert,
            future.key,
            "is not valid before Sun, 01 Jan 2090",
        ),
        ("x".repeat(2 << 20), one.key, "larger than"),
    ];
    for (cert, key, expected) in cases {
        let folder = Folder::new();
        folder.write(&Pair { cert, key });
        let error = explain(&folder.load().unwrap_err());
        assert!(error.contains(expected), "{error} lacks {expected}");
        assert!(error.contains("tls."), "{error} names no file");
    }
}

#[test]
fn a_chain_of_the_largest_length_can_be_used() {
    let folder = Folder::new();
    let Pair { cert, key } = pair();
    let cert = cert.repeat(16);
    folder.write(&Pair { cert, key });
    folder.load().unwrap();
}

#[test]
fn files_that_are_no_files_are_errors() {
    let folder = Folder::new();
    let error = explain(&folder.load().unwrap_err());
    assert!(error.contains("tls.crt"), "{error}");
    fs::create_dir(folder.files().cert).unwrap();
    let error = explain(&folder.load().unwrap_err());
    assert!(error.contains("tls.crt"), "{error}");
}

#[test]
fn a_pair_that_is_replaced_file_by_file_is_used_when_it_is_complete() {
    let folder = Folder::new();
    folder.write(&pair());
    let tls = folder.load().unwrap();
    let first = tls.config();
    tls.poll();
    let new = pair();
    fs::write(folder.files().cert, &new.cert).unwrap();
    tls.poll();
    assert!(std::sync::Arc::ptr_eq(&first, &tls.config()));
    fs::write(folder.files().key, &new.key).unwrap();
    tls.poll();
    assert!(!std::sync::Arc::ptr_eq(&first, &tls.config()));
    assert_eq!(
        (folder.reloads("success"), folder.reloads("failure")),
        ("1".into(), "0".into())
    );
}

#[test]
fn unusable_files_leave_the_old_certificate_in_use_and_are_reported_once() {
    let folder = Folder::new();
    let old = pair();
    folder.write(&old);
    let tls = folder.load().unwrap();
    let first = tls.config();
    let broken: [&dyn Fn(&Path); 4] = [
        &|path| fs::write(path, "").unwrap(),
        &|path| fs::write(path, valid(1990, 2001).cert).unwrap(),
        &|path| fs::remove_file(path).unwrap(),
        &|path| fs::create_dir(path).unwrap(),
    ];
    for (index, replace) in broken.iter().enumerate() {
        replace(&folder.files().cert);
        for _ in 0..4 {
            tls.poll();
        }
        assert!(std::sync::Arc::ptr_eq(&first, &tls.config()));
        // A missing file and a directory are the same failure: a file that cannot be read.
        assert_eq!(folder.reloads("failure"), (index + 1).min(3).to_string());
    }
    fs::remove_dir(folder.files().cert).unwrap();
    folder.write(&old);
    assert!(!tls.reload().unwrap());
    let new = pair();
    folder.write(&new);
    assert!(tls.reload().unwrap());
    // A reload on demand reports a failure immediately, and each time.
    fs::write(folder.files().key, "").unwrap();
    assert!(tls.reload().is_err());
    tls.poll();
    assert!(tls.reload().is_err());
    assert_eq!(
        (folder.reloads("success"), folder.reloads("failure")),
        ("1".into(), "5".into())
    );
}

#[test]
fn swapped_symbolic_links_are_followed() {
    // Kubernetes replaces the link `..data`, which leads to a folder with all files.
    let folder = Folder::new();
    let root = folder.folder.path();
    for version in ["1", "2"] {
        fs::create_dir(root.join(version)).unwrap();
        let pair = pair();
        fs::write(root.join(version).join("tls.crt"), pair.cert).unwrap();
        fs::write(root.join(version).join("tls.key"), pair.key).unwrap();
    }
    let link = |version: &str| {
        let new = root.join("..data_tmp");
        std::os::unix::fs::symlink(version, &new).unwrap();
        fs::rename(new, root.join("..data")).unwrap();
    };
    link("1");
    for name in ["tls.crt", "tls.key"] {
        std::os::unix::fs::symlink(Path::new("..data").join(name), root.join(name)).unwrap();
    }
    let tls = folder.load().unwrap();
    link("2");
    assert!(tls.reload().unwrap());
}

#[test]
fn the_end_of_the_validity_is_a_metric_only_with_a_certificate() {
    let folder = Folder::new();
    let name = "sightline_tls_certificate_expiry_timestamp_seconds";
    assert!(!folder.metrics.page().contains(name));
    folder.write(&valid(2000, 2100));
    folder.load().unwrap();
    let page = folder.metrics.page();
    assert!(page.contains(&format!("\n{name} 4102444800\n")), "{page}");
}

#[test]
fn client_authorities_are_checked() {
    let folder = Folder::new();
    folder.write(&pair());
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    for (content, expected) in [
        (authority.pem(), None),
        (String::new(), Some("got an empty file")),
        (pair().key, Some("got `PRIVATE KEY`")),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
            Some("certificate 1 is malformed"),
        ),
    ] {
        let path = folder.folder.path().join("tls.ca");
        fs::write(&path, content).unwrap();
        let files = TlsFiles {
            client_ca: Some(path),
            ..folder.files()
        };
        match (Tls::load(files, folder.metrics.tls.clone()), expected) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) => assert!(explain(&error).contains(expected), "{error}"),
            (result, _) => panic!("{:?}", result.err()),
        }
    }
}
