//! Commands whose output nobody reads to its end, as in `sightline models | head -1`, or cannot be written.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a helper of a test is the report"
)]

mod common;

use std::fs::OpenOptions;
use std::process::{Command, Stdio};

use common::{finish, path, sightline};

/// A checkpoint of MobileNetV3 Small at a quarter of its width, with 10 classes.
const TINY: &str = "golden/mobilenet_v3_small-width_mult_0.25-num_classes_10.zip.pth";

/// The end of a pipe that nobody reads.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// Exit code and stderr of a command that prints to `stdout`.
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
fn a_reader_that_stops_ends_the_command_quietly() {
    let directory = tempfile::tempdir().unwrap();
    let text = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
    let out = text(directory.path().join("tiny"));
    let (weights, coffee) = (text(path(TINY)), text(path("photos/coffee.png")));
    let export = [
        "export",
        "mobilenet_v3_small",
        "--width-mult=0.25",
        "--num-classes=10",
        "--weights",
        &weights,
        "-o",
        &out,
    ];
    let bench = ["bench", "--rounds=1", "--round-ms=50", "--connections=1"];
    let commands: [&[&str]; 7] = [
        &["--help"],
        &["models"],
        &["models", "--json"],
        &["predict", &coffee, &coffee],
        &["predict", "--json", &coffee],
        &export,
        &bench,
    ];
    for args in commands {
        let (code, stderr) = printing_to(closed(), sightline(args));
        assert_eq!(code, Some(0), "{args:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
        assert!(!stderr.contains("error"), "{args:?}: {stderr}");
    }
    // The files are there all the same.
    assert!(directory.path().join("tiny/model.toml").is_file());
}

#[test]
fn what_cannot_be_printed_is_an_error() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (code, stderr) = printing_to(full.into(), sightline(&["models", "--json"]));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.starts_with("error: cannot write to stdout: No space left"),
        "{stderr}"
    );
}

#[test]
fn errors_that_nobody_reads_are_errors() {
    for args in [&["predict", "/nowhere.png"][..], &["export"]] {
        let mut command = sightline(args);
        let status = command.stdout(Stdio::null()).stderr(closed()).status();
        let (expected, ..) = finish(sightline(args));
        assert_eq!(status.unwrap().code(), expected, "{args:?}");
        assert!(matches!(expected, Some(1 | 2)), "{args:?}");
    }
}
