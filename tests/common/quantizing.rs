//! Exports a small fp32 model for tests of `sightline quantize`, and builds that command.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{sightline, tiny};

/// A temporary folder with a small fp32 model in `tiny/`.
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// Creates the temporary folder and exports the model into it.
    pub fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        tiny::export(&folder.at("tiny"));
        folder
    }

    /// Returns the absolute path of `path`, which is relative to the folder.
    pub fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// Writes a file into the folder, creating its parent folders, and returns its absolute path.
    pub fn file(&self, path: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        path
    }

    /// Copies the model folder `tiny` to `name`, edits the bytes of its ONNX file with `change`, and returns the path
    /// of the copy.
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

/// Returns a path as text, for use as a command-line argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Returns the command `sightline quantize MODEL --calibration CALIBRATION ARGS...`.
pub fn command(model: &Path, calibration: &Path, args: &[&str]) -> Command {
    let first = ["quantize", text(model), "--calibration", text(calibration)];
    sightline(&[&first[..], args].concat())
}

/// Returns the entries of a folder by name: the bytes of a file, `None` for a subfolder. Empty if the folder does not
/// exist.
pub fn contents(folder: &Path) -> BTreeMap<OsString, Option<Vec<u8>>> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let entry = |entry: fs::DirEntry| (entry.file_name(), fs::read(entry.path()).ok());
    entries.map(|found| entry(found.unwrap())).collect()
}

/// Returns the sorted names of the entries of a folder; empty if the folder does not exist.
pub fn names(folder: &Path) -> Vec<String> {
    let names = contents(folder).into_keys();
    names.map(|name| name.into_string().unwrap()).collect()
}
