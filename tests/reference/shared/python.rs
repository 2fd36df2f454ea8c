//! Runs the scripts of `tests/reference` in a Python that has Pillow and pycocotools.

use std::ffi::OsStr;
use std::io::Write;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::skip;

/// Exit status of a script in `tests/reference` whose Python packages are not installed.
const LACKING: i32 = 77;

/// Runs `tests/reference/SCRIPT ARGUMENTS...` with the interpreter `SIGHTLINE_TEST_PYTHON` (default: `python3`) and
/// returns its standard output. If Python or a package is missing, announces that `test` skips the comparison and
/// returns `None`; in CI, panics.
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
    let what = format!("{test}, the comparison by {script}");
    skip::announce_outside_ci(&what, &format!("{python}: {}", lacking.trim()));
    None
}

/// A mask in every encoding of the server, as one line of the input of `masks.py`.
#[derive(Serialize)]
pub struct Encoded<R: Serialize> {
    /// Height and width.
    size: [u32; 2],
    /// The class index of each pixel in row order, separated by spaces.
    classes: String,
    /// The palette PNG in base64.
    png: String,
    /// COCO's compressed run-length encoding, one entry per class.
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

/// Panics unless Pillow and pycocotools decode the classes of each mask from its PNG and its run lengths. Skipped if
/// a package is missing, see [`output`].
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
