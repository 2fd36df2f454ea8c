//! Checks the exit codes and errors of commands whose stdout is closed early, as in
//! `sightline models | head -1`, whose stdout is on a full device, or whose stderr is closed.

use std::fs::OpenOptions;
use std::process::{Command, Stdio};

use crate::common::{finish, path, sightline, tiny};

/// Returns the writing end of a pipe whose reading end is closed, so that every write fails.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// Runs `command` with the given `stdout`. Returns its exit code and stderr.
fn printing_to(stdout: Stdio, mut command: Command) -> (Option<i32>, String) {
    let output = command
        .stdout(stdout)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn a_closed_stdout_ends_the_command_without_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let export = tiny::export_arguments(&directory.path().join("tiny"));
    let export: Vec<&str> = export.iter().map(String::as_str).collect();
    let coffee = path("photos/coffee.png");
    let coffee = coffee.to_str().unwrap();
    let bench = ["bench", "--rounds=1", "--round-ms=50", "--connections=1"];
    let commands: [&[&str]; 7] = [
        &["--help"],
        &["models"],
        &["models", "--json"],
        &["predict", coffee, coffee],
        &["predict", "--json", coffee],
        &export,
        &bench,
    ];
    for args in commands {
        let (code, stderr) = printing_to(closed(), sightline(args));
        assert_eq!(code, Some(0), "{args:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
        assert!(!stderr.contains("error"), "{args:?}: {stderr}");
    }
    // `export` writes its files before it prints, so the files exist although stdout is closed.
    assert!(directory.path().join("tiny/model.toml").is_file());
}

#[test]
fn a_failed_write_to_stdout_is_an_error() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (code, stderr) = printing_to(full.into(), sightline(&["models", "--json"]));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.starts_with("error: cannot write to stdout: No space left"),
        "{stderr}"
    );
}

#[test]
fn a_closed_stderr_does_not_change_the_exit_code() {
    for args in [&["predict", "/nowhere.png"][..], &["export"]] {
        let mut command = sightline(args);
        let status = command.stdout(Stdio::null()).stderr(closed()).status();
        let (expected, ..) = finish(sightline(args));
        assert_eq!(status.unwrap().code(), expected, "{args:?}");
        assert!(matches!(expected, Some(1 | 2)), "{args:?}");
    }
}
