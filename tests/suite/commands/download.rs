//! Checks downloads from a server that cuts the line, lies, redirects, is slow or busy.

use crate::common;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::mirror::{Ask, Behavior, Mirror, respond, serve};
use sightline::config::SecretUrl;
use sightline::download::{
    Client, ClientOptions, DownloadError, Patience, Progress, Request, Verified,
};
use sightline::manifest::sha256;

/// Maximum size of the files of these tests.
const MAX: u64 = 200 << 20;

/// Collects the messages about retries.
#[derive(Default)]
struct Log(RefCell<Vec<String>>);

impl Progress for Log {
    fn begin(&self, _: u64, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn retry(&self, error: &DownloadError, _: Duration) {
        self.0.borrow_mut().push(error.to_string());
    }
}

/// A server, and a folder for the file.
struct Case {
    mirror: Mirror,
    folder: tempfile::TempDir,
    log: Log,
}

impl Case {
    fn new(behavior: Behavior) -> Self {
        Self {
            mirror: Mirror::start(behavior),
            folder: tempfile::tempdir().unwrap(),
            log: Log::default(),
        }
    }

    fn to(&self) -> PathBuf {
        self.folder.path().join("x.pth")
    }

    /// Downloads the file whose content should be `expected`, with at most `max_bytes`.
    fn limited(&self, expected: &[u8], max_bytes: u64) -> Result<Verified, DownloadError> {
        let patience = Patience {
            attempts: 3,
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_secs(2),
            silence: Duration::from_secs(1),
            ..Patience::default()
        };
        let ca = Some(self.mirror.ca().into());
        let client = Client::new(ClientOptions {
            ca,
            patience,
            ..ClientOptions::default()
        })
        .unwrap();
        let url = SecretUrl::from(self.mirror.url("x.pth"));
        let (to, hash) = (self.to(), sha256(expected));
        let request = Request {
            url: &url,
            to: &to,
            sha256_prefix: &hash[..8],
            max_bytes,
        };
        client.download(&request, &self.log)
    }

    fn download(&self, expected: &[u8]) -> Result<Verified, DownloadError> {
        self.limited(expected, MAX)
    }

    /// Returns the names of the files in the folder, sorted.
    fn files(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// Returns `size` bytes without a pattern that a wrong offset would hide.
fn content(size: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    (0..size).map(|_| next()).collect()
}

#[test]
fn a_file_of_100_mb_is_bit_identical_after_20_cuts() {
    let file = content(100_000_000);
    let sent = file.clone();
    let case = Case::new(Box::new(move |ask, number, to| {
        let most = if number < 20 {
            4_500_000 + number
        } else {
            usize::MAX
        };
        serve(ask, &sent, most, to)
    }));
    let verified = case.download(&file).unwrap();
    assert_eq!(
        verified,
        Verified {
            sha256: sha256(&file),
            bytes: 100_000_000
        }
    );
    assert!(std::fs::read(case.to()).unwrap() == file);
    assert_eq!(case.files(), ["x.pth"]);
    let asked = case.mirror.asked();
    assert_eq!(asked.len(), 21);
    assert!(
        asked[1..]
            .iter()
            .all(|ask| ask.if_range.as_deref() == Some("\"v1\""))
    );
    // No byte was sent twice.
    let offsets: Vec<usize> = asked.iter().map(|ask| ask.from.unwrap_or(0)).collect();
    let expected: Vec<usize> = (0..21)
        .map(|n: usize| n * 4_500_000 + n * n.saturating_sub(1) / 2)
        .collect();
    assert_eq!(offsets, expected);
}

#[test]
fn a_later_download_continues_and_a_changed_file_starts_again() {
    let (old, new) = (content(300_000), content(400_000)[100_000..].to_vec());
    let (first, second) = (old.clone(), new.clone());
    let case = Case::new(Box::new(move |ask: &Ask, number, to| match number {
        // Three cuts without progress end the first download.
        0 => serve(ask, &first, 200_000, to),
        1..=3 => serve(ask, &first, 0, to),
        // The tag has changed, so that the whole new file is sent.
        _ => serve(
            &Ask {
                from: None,
                ..ask.clone()
            },
            &second,
            usize::MAX,
            to,
        ),
    }));
    let error = case.download(&old).unwrap_err();
    assert!(
        matches!(
            error,
            DownloadError::Cut {
                done: 200_000,
                total: Some(300_000),
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(case.files(), ["x.pth.part", "x.pth.part.json"]);
    assert_eq!(case.download(&new).unwrap().bytes, 300_000);
    assert_eq!(case.mirror.asked()[4].from, Some(200_000));
    assert_eq!(std::fs::read(case.to()).unwrap(), new);
}

#[test]
fn a_whole_response_that_is_not_the_file_does_not_replace_the_part() {
    let file = content(300_000);
    let sent = file.clone();
    let case = Case::new(Box::new(move |ask: &Ask, number, to| match number {
        0 => serve(ask, &sent, 200_000, to),
        1 => respond(to, "200 OK", "content-length: 5\r\n", b"login"),
        2 => respond(to, "200 OK", "connection: close\r\n", b"login"),
        3 => respond(to, "200 OK", "content-length: 300001\r\n", b"login"),
        _ => serve(ask, &sent, usize::MAX, to),
    }));
    for _ in 0..3 {
        let error = case.download(&file).unwrap_err();
        assert!(
            matches!(error, DownloadError::Whole { done: 200_000, .. }),
            "{error}"
        );
    }
    assert_eq!(case.download(&file).unwrap().bytes, 300_000);
    assert_eq!(case.mirror.asked()[4].from, Some(200_000));
}

#[test]
fn a_server_that_mixes_two_files_does_not_get_far() {
    let (one, two) = (content(200_000), content(200_001)[1..].to_vec());
    let file = one.clone();
    let case = Case::new(Box::new(move |ask, number, to| match number {
        0 => serve(ask, &one, 100_000, to),
        1 => serve(ask, &two, usize::MAX, to),
        _ => serve(ask, &one, usize::MAX, to),
    }));
    case.download(&file).unwrap();
    assert_eq!(std::fs::read(case.to()).unwrap(), file);
    assert_eq!(case.mirror.asked()[2].from, None);
}

/// Checks that a download fails with a message that contains `expected`, and leaves no file.
fn fails(behavior: Behavior, expected: &str) -> Case {
    let case = Case::new(behavior);
    let error = case
        .limited(b"the expected file", 1 << 20)
        .unwrap_err()
        .to_string();
    assert!(error.contains(expected), "{error}");
    assert_eq!(case.files(), [""; 0], "{expected}");
    case
}

#[test]
fn servers_that_lie_are_errors_that_say_so() {
    let fixed = |status: &'static str, headers: &'static str, body: &'static [u8]| -> Behavior {
        Box::new(move |_, _, to| respond(to, status, headers, body))
    };
    let cases: [(&str, &str, &[u8], &str); 14] = [
        (
            "200 OK",
            "content-type: text/html; charset=utf-8\r\ncontent-length: 5\r\n",
            b"hello",
            "a web page",
        ),
        (
            "200 OK",
            "content-length: 20\r\n",
            b"\n<!doctype html>....",
            "a web page",
        ),
        (
            "200 OK",
            "content-encoding: gzip\r\ncontent-length: 2\r\n",
            b"\x1f\x8b",
            "the encoding `gzip`",
        ),
        (
            "200 OK",
            "content-length: 17\r\n",
            b"another file.....",
            "not the expected file",
        ),
        (
            "200 OK",
            "content-length: 5\r\n",
            b"the expected file",
            "not the expected file",
        ),
        (
            "200 OK",
            "content-length: 99999999999\r\n",
            b"x",
            "expected at most 1048576",
        ),
        ("200 OK", "content-length: -1\r\n", b"x", ""),
        (
            "404 Not Found",
            "content-length: 0\r\n",
            b"",
            "it does not have the file",
        ),
        ("403 Forbidden", "content-length: 0\r\n", b"", "credentials"),
        (
            "416 Range Not Satisfiable",
            "content-length: 0\r\n",
            b"",
            "status 416",
        ),
        (
            "206 Partial Content",
            "content-range: bytes 0-1/2\r\ncontent-length: 2\r\n",
            b"xx",
            "status 206",
        ),
        (
            "302 Found",
            "location: http://localhost/x\r\ncontent-length: 0\r\n",
            b"",
            "from https to http",
        ),
        (
            "302 Found",
            "content-length: 0\r\n",
            b"",
            "more than 5 redirects",
        ),
        (
            "429 Too Many Requests",
            "retry-after: 86400\r\ncontent-length: 0\r\n",
            b"",
            "after 86400 s",
        ),
    ];
    for (status, headers, body, expected) in cases {
        let case = fails(fixed(status, headers, body), expected);
        let most = if status.starts_with("302") { 6 } else { 3 };
        assert!(case.mirror.asked().len() <= most, "{status} {expected}");
    }
}

#[test]
fn malformed_and_endless_responses_are_errors() {
    fails(Box::new(|_, _, to| to.write_all(b"SSH-2.0-x\r\n\r\n")), "");
    let head = format!("x: {}\r\n", "y".repeat(100_000));
    fails(
        Box::new(move |_, _, to| respond(to, "200 OK", &head, b"")),
        "",
    );
    fails(
        Box::new(|ask, _, to| {
            let location = if ask.path == "/a" { "/b" } else { "/a" };
            respond(
                to,
                "301 Moved",
                &format!("location: {location}\r\ncontent-length: 0\r\n"),
                b"",
            )
        }),
        "more than 5 redirects",
    );
    // A body without an end, whose size is not stated.
    let started = Instant::now();
    fails(
        Box::new(|_, _, to| {
            respond(to, "200 OK", "transfer-encoding: chunked\r\n", b"")?;
            let chunk = vec![b'x'; 0x10000];
            loop {
                to.write_all(b"10000\r\n")?;
                to.write_all(&chunk)?;
                to.write_all(b"\r\n")?;
            }
        }),
        "expected at most 1048576",
    );
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn busy_slow_and_redirecting_servers_are_waited_for() {
    let file = content(100_000);
    let sent = file.clone();
    let case = Case::new(Box::new(move |ask: &Ask, number, to| match number {
        0 => respond(
            to,
            "429 Too Many Requests",
            "retry-after: 1\r\ncontent-length: 0\r\n",
            b"",
        ),
        1 => respond(to, "503 Service Unavailable", "content-length: 0\r\n", b""),
        2 => respond(
            to,
            "302 Found",
            "location: /y?token=1\r\ncontent-length: 0\r\n",
            b"",
        ),
        // Silence in the middle of the body.
        3 => {
            serve(ask, &sent, 70_000, to)?;
            to.flush()?;
            std::thread::sleep(Duration::from_secs(3));
            Ok(())
        }
        _ => serve(ask, &sent, usize::MAX, to),
    }));
    let started = Instant::now();
    case.download(&file).unwrap();
    assert!(started.elapsed() >= Duration::from_secs(2));
    let log = case.log.0.borrow();
    assert!(
        log[0].contains("429") && log[1].contains("503") && log[2].contains("per second"),
        "{log:?}"
    );
    let asked = case.mirror.asked();
    assert_eq!(
        (asked[3].path.as_str(), asked[4].from),
        ("/y?token=1", Some(70_000))
    );
}

#[test]
fn a_server_without_a_trusted_certificate_gets_no_request() {
    let case = Case::new(Box::new(|ask, _, to| {
        serve(ask, b"the expected file", usize::MAX, to)
    }));
    let other = common::tls::Authority::new();
    for ca in [
        Some(other.path("ca.crt")),
        Some(Path::new("/dev/null").into()),
    ] {
        let client = Client::new(ClientOptions {
            ca,
            ..ClientOptions::default()
        });
        let Ok(client) = client else { continue };
        let url = SecretUrl::from(case.mirror.url("x.pth"));
        let to = case.to();
        let request = Request {
            url: &url,
            to: &to,
            sha256_prefix: "00",
            max_bytes: 100,
        };
        let error = client.download(&request, &case.log).unwrap_err();
        assert!(matches!(error, DownloadError::Tls { .. }), "{error}");
    }
    assert!(case.mirror.asked().is_empty());
}
