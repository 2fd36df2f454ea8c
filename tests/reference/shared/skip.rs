//! Announcements of tests that this machine cannot run.
//!
//! A test that lacks data or a CPU feature passes, and its runner hides what it printed. So each skip is also
//! appended to the file that `SIGHTLINE_SKIP_LOG` names; `.ci/run` prints that file in its summary.

use std::fs::OpenOptions;
use std::io::Write;

/// Whether the run is to fail where something that CI installs is missing: `CI=true`.
pub fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|ci| ci == "true")
}

/// Announces that `what` does not run on this machine because of `reason`.
pub fn announce(what: &str, reason: &str) {
    let line = format!("{what}: {reason}");
    eprintln!("SKIPPED: {line}");
    let Some(log) = std::env::var_os("SIGHTLINE_SKIP_LOG") else {
        return;
    };
    let log = OpenOptions::new().create(true).append(true).open(log);
    writeln!(log.unwrap(), "{line}").unwrap();
}

/// Announces that `what` is skipped because of `reason`, which CI provides for: fails if `CI=true`.
pub fn announce_outside_ci(what: &str, reason: &str) {
    assert!(!is_ci(), "{what} must not be skipped in CI: {reason}");
    announce(what, reason);
}
