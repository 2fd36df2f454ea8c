//! A small model and the command that quantizes it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{sightline, tiny};

/// A folder with a small fp32 model in `tiny/`.
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// Exports the model into a temporary folder.
    pub fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        tiny::export(&folder.at("tiny"));
        folder
    }

    /// The path of a file in the folder.
    pub fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// Writes a file and creates its parent folders.
    pub fn file(&self, path: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        path
    }

    /// Copies the fp32 model under another name, with its ONNX bytes changed by `change`.
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

/// A path as a command-line argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The command `sightline quantize MODEL --calibration DIR ARGS...`.
pub fn command(model: &Path, calibration: &Path, args: &[&str]) -> Command {
    let first = ["quantize", text(model), "--calibration", text(calibration)];
    sightline(&[&first[..], args].concat())
}

/// The names in a folder and the bytes of its files; empty if there is no folder.
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
