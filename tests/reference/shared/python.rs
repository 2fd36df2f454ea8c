//! The scripts of `tests/reference`, in a Python that has the packages to compare with.

use std::ffi::OsStr;
use std::io::Write;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

/// How a script ends that lacks a package.
const LACKING: i32 = 77;

/// What `tests/reference/SCRIPT ARGUMENTS...` prints, where Python with its packages is there:
/// `SIGHTLINE_TEST_PYTHON`, else `python3`. None is said aloud; with `CI=true` it fails the test.
pub fn output<S: AsRef<OsStr>>(test: &str, script: &str, arguments: &[S]) -> Option<Vec<u8>> {
    let python = std::env::var("SIGHTLINE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut command = Command::new(&python);
    command.arg(format!("tests/reference/{script}"));
    let lacking = match command.args(arguments).output() {
        Ok(output) if output.status.success() => return Some(output.stdout),
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(LACKING), "{script}: {errors}");
            errors
        }
        Err(error) => error.to_string(),
    };
    let lacking = format!("a part of {test}: {python}: {}", lacking.trim());
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!ci, "{lacking}");
    eprintln!("SKIPPED {lacking}");
    None
}

/// A mask in every form.
#[derive(Serialize)]
pub struct Encoded<R: Serialize> {
    /// Height and width.
    size: [u32; 2],
    classes: String,
    /// In base64.
    png: String,
    /// COCO's compressed runs, a list of each class.
    rle: R,
}

impl<R: Serialize> Encoded<R> {
    pub fn new(size: [u32; 2], classes: &[u8], png: &[u8], rle: R) -> Self {
        let classes: Vec<String> = classes.iter().map(u8::to_string).collect();
        Self {
            size,
            classes: classes.join(" "),
            png: STANDARD.encode(png),
            rle,
        }
    }
}

/// Lets Pillow and pycocotools read `masks`.
pub fn agrees<R: Serialize>(test: &str, masks: &[Encoded<R>]) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for mask in masks {
        writeln!(file, "{}", serde_json::to_string(mask).unwrap()).unwrap();
    }
    file.flush().unwrap();
    if let Some(printed) = output(test, "masks.py", &[file.path()]) {
        let expected = format!("{} masks agree\n", masks.len());
        assert_eq!(String::from_utf8_lossy(&printed), expected);
    }
}
