//! Announces tests that are skipped because this machine cannot run them.
//!
//! A test that lacks data or a CPU feature passes, and the test runner hides its output. Each skip is therefore also
//! appended to the file `SIGHTLINE_SKIP_LOG`, which `.ci/run` prints in its summary.

use std::fs::OpenOptions;
use std::io::Write;

/// Returns whether the tests run in CI (`CI=true`), where a test fails instead of being skipped if
/// a package is missing.
pub fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|ci| ci == "true")
}

/// Announces on stderr and in the skip log that `what` is skipped because of `reason`.
pub fn announce(what: &str, reason: &str) {
    let line = format!("{what}: {reason}");
    eprintln!("SKIPPED: {line}");
    let Some(log) = std::env::var_os("SIGHTLINE_SKIP_LOG") else {
        return;
    };
    let log = OpenOptions::new().create(true).append(true).open(log);
    writeln!(log.unwrap(), "{line}").unwrap();
}

/// Announces that `what` is skipped because of `reason`. Panics in CI instead, where everything
/// that `what` needs must be installed.
pub fn announce_outside_ci(what: &str, reason: &str) {
    assert!(!is_ci(), "{what} must not be skipped in CI: {reason}");
    announce(what, reason);
}
