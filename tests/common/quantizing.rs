//! A small model and the command that quantises it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{path, run, sightline};

/// A checkpoint of MobileNetV3 Small at a quarter of its width, with 10 classes.
const TINY: &str = "golden/mobilenet_v3_small-width_mult_0.25-num_classes_10.zip.pth";

/// A folder with a small float model in `tiny/`.
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// With the model exported.
    pub fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let (weights, out) = (path(TINY), folder.at("tiny"));
        let args = [
            "export",
            "mobilenet_v3_small",
            "--width-mult=0.25",
            "--num-classes=10",
        ];
        let rest = ["--weights", text(&weights), "-o", text(&out)];
        let (code, _, stderr) = run(&[&args[..], &rest].concat());
        assert_eq!(code, Some(0), "{stderr}");
        folder
    }

    /// The path of a file in it.
    pub fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// Writes a file, and the folders that it is in.
    pub fn file(&self, path: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        path
    }

    /// The float model under another name, its graph changed by `change`.
    pub fn changed(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
        for file in ["model.toml", "labels.txt"] {
            self.file(
                &format!("{name}/{file}"),
                fs::read(self.at("tiny").join(file)).unwrap(),
            );
        }
        let mut graph = fs::read(self.at("tiny/model.onnx")).unwrap();
        change(&mut graph);
        self.file(&format!("{name}/model.onnx"), graph);
        self.at(name)
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `sightline quantize MODEL --calibration DIR ARGS...`.
pub fn command(model: &Path, calibration: &Path, args: &[&str]) -> Command {
    let first = ["quantize", text(model), "--calibration", text(calibration)];
    sightline(&[&first[..], args].concat())
}

/// The names in a folder and its files' bytes; nothing where there is no folder.
pub fn contents(folder: &Path) -> BTreeMap<OsString, Option<Vec<u8>>> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let entry = |entry: fs::DirEntry| (entry.file_name(), fs::read(entry.path()).ok());
    entries.map(|found| entry(found.unwrap())).collect()
}

/// The names in a folder.
pub fn names(folder: &Path) -> Vec<String> {
    let names = contents(folder).into_keys();
    names.map(|name| name.into_string().unwrap()).collect()
}
