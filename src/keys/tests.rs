//! Tests of the key file, of the store and of reloads.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::error::explain;
use crate::metrics::Metrics;

fn line(name: &str, key: &str, limits: &str) -> String {
    format!("{name} {} {limits}\n", KeyDigest::of(key.as_bytes()))
}

fn store(text: &str) -> ApiKeys {
    ApiKeys::new(&parse(text).unwrap())
}

/// Writes a key file that only its owner may read.
fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn comments_and_empty_lines_are_ignored() {
    let text = format!(
        "\u{feff}# keys\r\n\r\n  {}\r\n\t{}",
        line("a", "1", "rate=5/s # slow").trim_end(),
        line("b", "2", "")
    );
    let lines = parse(&text).unwrap();
    let names: Vec<&str> = lines.iter().map(|line| line.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(lines[0].limits.rate.is_some());
    assert_eq!(lines[1].limits, KeyLimits::default());
}

#[test]
fn wrong_lines_are_named_and_never_quoted() {
    let (a, b) = (line("a", "1", ""), line("b", "2", ""));
    let secret = new_key().unwrap();
    let short = &b[..b.len() - 3];
    let cases = [
        (format!("{a}{}", line("a", "2", "")), 2, "line 1"),
        (format!("{a}\n{}", line("b", "1", "")), 3, "line 1"),
        (format!("{a}{short}"), 2, "got 63 characters"),
        (format!("a {secret}"), 1, "look like a key"),
        (secret.clone(), 1, "expected `NAME SHA256`"),
        (format!("{secret}{secret} a"), 1, "92 bytes"),
        (
            format!("{} {secret}", a.trim_end()),
            1,
            "expected `NAME SHA256`",
        ),
        (format!("{} {secret}=1", a.trim_end()), 1, "unknown limit"),
        (format!("{a}b"), 2, "expected `NAME SHA256`"),
    ];
    for (text, line, message) in cases {
        let (at, reason) = parse(&text).unwrap_err();
        let reason = reason.to_string();
        assert_eq!(at, line, "{text}");
        assert!(reason.contains(message), "{text}: {reason}");
        assert!(!reason.contains(&secret), "{reason}");
    }
}

#[test]
fn the_number_of_keys_is_limited() {
    let lines = |count: usize| -> String {
        let line = |n: usize| line(&format!("key-{n}"), &n.to_string(), "");
        (0..count).map(line).collect()
    };
    assert_eq!(parse(&lines(MAX_KEYS)).unwrap().len(), MAX_KEYS);
    let error = parse(&lines(MAX_KEYS + 1)).unwrap_err();
    assert_eq!(error, (MAX_KEYS + 1, KeyLineError::TooManyKeys));
}

#[test]
fn only_the_keys_of_the_file_are_accepted() {
    let keys: String = (0..50)
        .map(|n| line(&format!("k{n}"), &format!("key {n}"), ""))
        .collect();
    let store = store(&keys);
    for n in [0, 24, 49] {
        let grant = store.authorize(format!("key {n}").as_bytes()).unwrap();
        assert_eq!(grant.name.as_str(), format!("k{n}"));
    }
    let long = "x".repeat(MAX_KEY_BYTES + 1);
    for wrong in ["", "key 50", "key 0 ", "KEY 0", "k0", long.as_str()] {
        let error = store.authorize(wrong.as_bytes()).unwrap_err();
        assert_eq!(error, KeyError::Invalid, "{wrong}");
    }
}

#[test]
fn limits_name_the_key() {
    let store = store(&(line("slow", "1", "rate=1/h") + &line("one", "2", "concurrency=1")));
    assert!(store.authorize(b"1").is_ok());
    let error = store.authorize(b"1").unwrap_err();
    assert_eq!(error.name().unwrap().as_str(), "slow");
    assert!(matches!(error, KeyError::Rate { .. }), "{error}");
    let grant = store.authorize(b"2").unwrap();
    let error = store.authorize(b"2").unwrap_err();
    assert!(matches!(&error, KeyError::Concurrency { name, .. } if name.as_str() == "one"));
    drop(grant);
    assert!(store.authorize(b"2").is_ok());
}

#[test]
fn further_requests_of_a_grant_count_and_need_its_key() {
    let store = store(&line("a", "1", "rate=2/h burst=2 concurrency=1"));
    let grant = store.authorize(b"1").unwrap();
    store.count(&grant).unwrap();
    let error = store.count(&grant).unwrap_err();
    assert!(matches!(&error, KeyError::Rate { name, .. } if name.as_str() == "a"));
    assert_eq!(store.check(&grant), Ok(()));
    store.replace(&parse(&line("a", "2", "")).unwrap());
    assert_eq!(store.check(&grant), Err(KeyError::Invalid));
    assert_eq!(store.count(&grant), Err(KeyError::Invalid));
}

#[test]
fn new_keys_are_accepted_removed_ones_are_not_and_used_limits_stay() {
    let store = store(&(line("a", "1", "rate=1/h") + &line("b", "2", "")));
    assert!(store.authorize(b"1").is_ok());
    // `a` gets a new key.
    let next = parse(&(line("a", "3", "rate=1/h") + &line("c", "4", ""))).unwrap();
    let gone = store.replace(&next);
    assert_eq!(gone.len(), 1);
    assert_eq!(gone[0].as_str(), "b");
    assert_eq!(store.authorize(b"1").unwrap_err(), KeyError::Invalid);
    assert_eq!(store.authorize(b"2").unwrap_err(), KeyError::Invalid);
    assert!(matches!(store.authorize(b"3"), Err(KeyError::Rate { .. })));
    assert!(store.authorize(b"4").is_ok());
}

#[test]
fn generated_keys_differ_and_fit() {
    let (first, second) = (new_key().unwrap(), new_key().unwrap());
    assert_ne!(first, second);
    for key in [&first, &second] {
        assert!(key.starts_with("sl_") && key.len() == 46, "{key}");
        assert!(
            key.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        );
        assert!(store(&line("a", key, "")).authorize(key.as_bytes()).is_ok());
    }
}

#[test]
fn a_file_that_cannot_be_used_is_an_error_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let load = || {
        let error = KeyFile::load(&path).unwrap_err();
        explain(&error)
    };
    assert!(load().contains("No such file"));
    for empty in ["", "# none\n\n"] {
        write(&path, empty);
        assert!(load().contains("has no API key"));
    }
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(load().contains("UTF-8"));
    write(&path, "a b\n");
    assert!(load().contains("keys, line 1: expected the SHA-256"));
    write(&path, &"#".repeat(1 << 20 | 1));
    assert!(load().contains("1048576"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(load().contains("expected a regular file"), "{}", load());
}

#[test]
fn a_wrong_file_leaves_the_old_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    write(&path, &line("a", "1", ""));
    let file = KeyFile::load(&path).unwrap();
    let metrics = Metrics::new();
    assert!(!file.is_news(&file.read()));
    for wrong in ["", "a b", &line("a", "1", "rate=0/s")] {
        write(&path, wrong);
        assert!(file.is_news(&file.read()));
        assert!(file.reload(&metrics).is_err());
        assert!(!file.is_news(&file.read()), "reported once");
        assert!(file.keys().authorize(b"1").is_ok());
    }
    fs::remove_file(&path).unwrap();
    assert!(file.is_news(&file.read()));
    assert!(file.reload(&metrics).is_err());
    assert!(!file.is_news(&file.read()), "reported once");
    write(&path, &line("b", "2", ""));
    assert!(file.is_news(&file.read()));
    let reload = file.reload(&metrics).unwrap();
    assert_eq!((reload.keys, reload.removed), (1, 1));
    assert_eq!(file.keys().authorize(b"1").unwrap_err(), KeyError::Invalid);
    let page = metrics.page();
    assert!(
        page.contains("sightline_key_reloads_total{result=\"failure\"} 4"),
        "{page}"
    );
    assert!(
        page.contains("sightline_key_reloads_total{result=\"success\"} 1"),
        "{page}"
    );
}

#[test]
fn a_swapped_link_is_news() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write(&at("old"), &line("a", "1", ""));
    write(&at("new"), &line("a", "2", ""));
    symlink("old", at("keys")).unwrap();
    let file = KeyFile::load(&at("keys")).unwrap();
    symlink("new", at("next")).unwrap();
    fs::rename(at("next"), at("keys")).unwrap();
    assert!(file.is_news(&file.read()));
    file.reload(&Metrics::new()).unwrap();
    assert!(file.keys().authorize(b"2").is_ok());
}

#[test]
fn metrics_of_a_removed_key_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    write(&path, &(line("a", "1", "") + &line("b", "2", "")));
    let file = KeyFile::load(&path).unwrap();
    let metrics = Metrics::new();
    metrics.key_request("a", 200);
    metrics.key_request("b", 429);
    write(&path, &line("a", "1", ""));
    file.reload(&metrics).unwrap();
    let page = metrics.page();
    assert!(page.contains("{key=\"a\",status=\"200\"} 1"), "{page}");
    assert!(!page.contains("key=\"b\""), "{page}");
}
