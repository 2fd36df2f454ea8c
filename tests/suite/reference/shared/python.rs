//! Runs the Python scripts in `tests/reference`, which use Pillow and pycocotools.

use std::ffi::OsStr;
use std::io::Write;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::skip;

/// Exit status with which a script in `tests/reference` reports that a Python package is missing.
const LACKING: i32 = 77;

/// Runs `tests/reference/SCRIPT ARGUMENTS...` with the interpreter `SIGHTLINE_TEST_PYTHON`
/// (default: `python3`) and returns the script's standard output. If Python or a package is
/// missing, panics in CI; elsewhere announces that `test` skips the comparison and returns `None`.
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

/// A segmentation mask in the server's encodings (PNG and run lengths), with its expected classes.
/// The input of `masks.py` has one mask per line.
#[derive(Serialize)]
pub struct Encoded<R: Serialize> {
    /// Height and width of the mask in pixels.
    size: [u32; 2],
    /// The class index of each pixel in row order, separated by spaces.
    classes: String,
    /// The mask as a palette PNG in base64.
    png: String,
    /// The mask in COCO's compressed run-length encoding, one entry per class.
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

/// Checks that Pillow decodes each mask's PNG, and pycocotools its run lengths, to the mask's
/// `classes`. Panics if they differ. If a package is missing, the comparison is skipped as in
/// [`output`].
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
