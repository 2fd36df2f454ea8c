//! Helpers for tests of `sightline quantize`: a folder with a small fp32 model, and the command
//! itself.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{sightline, tiny, without_sha256};

/// A temporary folder that contains a small fp32 model in its subfolder `tiny`.
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// Creates the temporary folder and exports the model into its subfolder `tiny`.
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

    /// Copies the model folder `tiny` to the folder `name`, edits the bytes of the copy's ONNX file
    /// with `change`, and returns the path of the copy.
    pub fn changed(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
        let read = |file| fs::read_to_string(self.at("tiny").join(file)).unwrap();
        self.file(&format!("{name}/labels.txt"), read("labels.txt"));
        let manifest = without_sha256(&read("model.toml"));
        self.file(&format!("{name}/model.toml"), manifest);
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

/// Returns the entries of a folder by name. The value of an entry is the content of a file, or
/// `None` if the entry is a subfolder. The map is empty if the folder does not exist.
pub fn contents(folder: &Path) -> BTreeMap<OsString, Option<Vec<u8>>> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let entry = |entry: fs::DirEntry| (entry.file_name(), fs::read(entry.path()).ok());
    entries.map(|found| entry(found.unwrap())).collect()
}

/// Returns the sorted names of the entries of a folder. The list is empty if the folder does not
/// exist.
pub fn names(folder: &Path) -> Vec<String> {
    let names = contents(folder).into_keys();
    names.map(|name| name.into_string().unwrap()).collect()
}
