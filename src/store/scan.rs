//! Reads the models directory: finds the models in it, and every entry that cannot be served.
//!
//! An entry that looks like a model but is none must not be skipped, because another model would then respond in its
//! place.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use super::directory::{BrokenEntry, DirectoryError, Problem};
use super::{Boundary, ModelSource, StoreError};

/// Maximum number of entries that are looked at in a folder without a manifest.
const MAX_ENTRIES: usize = 10_000;
/// Extensions of the names of checkpoints.
const CHECKPOINTS: [&str; 5] = ["pth", "pt", "ckpt", "safetensors", "pkl"];

/// The entries of a models directory.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The models, sorted by name.
    pub(super) models: Vec<ModelSource>,
    /// The entries that cannot be served, in the order of their names.
    pub(super) broken: Vec<BrokenEntry>,
    /// Names of the other entries, without hidden ones.
    pub(super) ignored: Vec<String>,
}

/// The kind of an entry of the models directory.
enum Entry {
    /// A model, with the path of its manifest.
    Manifest(PathBuf),
    /// An ONNX file, which may belong to a manifest beside it.
    Onnx(PathBuf),
    /// A file or folder that is not a model.
    Other,
}

impl Scan {
    /// Reads the manifests of the entries `names` of `directory`, as [`entries`] returns them.
    pub(super) fn new(directory: &Path, names: Vec<OsString>, boundary: &Boundary) -> Self {
        let mut scan = Self::default();
        let mut loose = Vec::new();
        // Names, without the extension, of the manifests that are files of `directory`.
        let mut stems = Vec::new();
        for name in names {
            let path = directory.join(&name);
            match kind(&path) {
                Ok(Entry::Manifest(manifest)) => {
                    if manifest == path {
                        stems.extend(path.file_stem().map(OsStr::to_owned));
                    }
                    scan.read(name, &manifest, boundary);
                }
                Ok(Entry::Onnx(path)) => loose.push((name, path)),
                Ok(Entry::Other) => scan.ignored.push(name.to_string_lossy().into_owned()),
                Err(problem) => scan.broken.push(BrokenEntry { name, problem }),
            }
        }
        scan.claim(directory, loose, &stems);
        scan.models
            .sort_by(|a, b| a.manifest.name.cmp(&b.manifest.name));
        scan.broken.sort_by(|a, b| a.name.cmp(&b.name));
        scan
    }

    fn read(&mut self, name: OsString, manifest: &Path, boundary: &Boundary) {
        match ModelSource::read(manifest, boundary.clone()) {
            Ok(model) => match self.namesake(&model) {
                Some(error) => self.fail(name, error),
                None => self.models.push(model),
            },
            Err(error) => self.fail(name, error),
        }
    }

    /// Returns the error for `model` if a model before it has the same name.
    fn namesake(&self, model: &ModelSource) -> Option<StoreError> {
        let name = &model.manifest.name;
        let mut models = self.models.iter();
        let other = models.find(|other| other.manifest.name == *name)?;
        let path = |model: &ModelSource| model.path.clone().unwrap_or_default();
        Some(StoreError::Duplicate {
            model: name.clone(),
            paths: [path(other), path(model)],
        })
    }

    fn fail(&mut self, name: OsString, error: StoreError) {
        let problem = Problem::Model(error);
        self.broken.push(BrokenEntry { name, problem });
    }

    /// Reports those of the ONNX files `loose` in `directory` that no manifest there names, and that are not named
    /// after a manifest as the files of `export` and `quantize` are. `stems` are the names of the manifests.
    fn claim(&mut self, directory: &Path, loose: Vec<(OsString, PathBuf)>, stems: &[OsString]) {
        // The file may belong to a manifest that cannot be read.
        let is_manifest = |entry: &BrokenEntry| has_extension(Path::new(&entry.name), &["toml"]);
        if self.broken.iter().any(is_manifest) {
            return;
        }
        let here = |model: &&ModelSource| {
            let path = model.path.as_deref();
            path.and_then(Path::parent) == Some(directory)
        };
        let models = self.models.iter().filter(here);
        let named: Vec<PathBuf> = models.flat_map(ModelSource::files).collect();
        for (name, onnx) in loose {
            let belongs = stems.iter().any(|stem| {
                let rest = name
                    .as_encoded_bytes()
                    .strip_prefix(stem.as_encoded_bytes());
                rest.is_some_and(|rest| rest.starts_with(b"."))
            });
            if !belongs && !named.contains(&onnx) {
                let problem = Problem::LooseOnnx { onnx };
                self.broken.push(BrokenEntry { name, problem });
            }
        }
    }

    /// Moves every model with a file that cannot be opened from `models` to `broken`. A model whose variants are
    /// loaded when they are first used must not fail then.
    pub(super) fn check_files(&mut self) {
        for model in std::mem::take(&mut self.models) {
            match model.check_files() {
                Ok(()) => self.models.push(model),
                Err(error) => self.fail(model.manifest.name.into(), error),
            }
        }
        self.broken.sort_by(|a, b| a.name.cmp(&b.name));
    }
}

/// Returns the names of the entries of the models directory, sorted, without those that are never models: hidden ones
/// and `lost+found`.
///
/// # Errors
/// [`DirectoryError`] if the directory does not exist, is a file, or cannot be read.
pub(super) fn entries(directory: &Path) -> Result<Vec<OsString>, DirectoryError> {
    let fail = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => DirectoryError::Missing {
            directory: directory.to_path_buf(),
        },
        io::ErrorKind::NotADirectory => DirectoryError::NotDirectory {
            directory: directory.to_path_buf(),
        },
        _ => DirectoryError::Unreadable(Box::new(StoreError::io(directory, error))),
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(fail)? {
        names.push(entry.map_err(fail)?.file_name());
    }
    // A folder can be listed, although its files cannot be opened, if it lacks the permission to search it.
    directory.join(".").metadata().map_err(fail)?;
    names.retain(|name| !is_never_a_model(name));
    names.sort();
    Ok(names)
}

/// Returns whether an entry of the models directory is ignored, whatever it is. Kubernetes keeps the files of a volume
/// in `..data`, to which the visible entries are links; the root folder of a volume has `lost+found`, which only root
/// can read.
fn is_never_a_model(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || name == "lost+found"
}

/// Returns why `path` is not a model folder. `None` if it is one, or is no folder that looks like one.
pub(super) fn problem(path: &Path) -> Option<Problem> {
    kind(path).err()
}

/// Returns the kind of the entry `path` of the models directory.
fn kind(path: &Path) -> Result<Entry, Problem> {
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Ok(target) = path.read_link() else {
                // The entry was removed after the directory was listed.
                return Ok(Entry::Other);
            };
            let link = path.to_path_buf();
            return Err(Problem::BrokenLink { link, target });
        }
        Err(error) => return Err(Problem::Model(StoreError::io(path, error))),
    };
    let path = path.to_path_buf();
    Ok(match () {
        () if metadata.is_dir() => return folder(&path),
        () if has_extension(&path, &["toml"]) => Entry::Manifest(path),
        () if has_extension(&path, &["onnx"]) => Entry::Onnx(path),
        () => Entry::Other,
    })
}

/// Returns the kind of the folder `path` in the models directory.
fn folder(path: &Path) -> Result<Entry, Problem> {
    let manifest = path.join("model.toml");
    match manifest.symlink_metadata() {
        Ok(metadata) if !metadata.is_dir() => return Ok(Entry::Manifest(manifest)),
        Ok(_) => {
            let (path, got) = (manifest, "a folder");
            return Err(Problem::Model(StoreError::NotRegular { path, got }));
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Problem::Model(StoreError::io(path, error)));
        }
        Err(_) => {}
    }
    let content = visible(path).map_err(|error| Problem::Model(StoreError::io(path, error)))?;
    if content.is_empty() {
        let folder = path.to_path_buf();
        return Err(Problem::EmptyFolder { folder });
    }
    if let Some(onnx) = first(&content, &["onnx"]) {
        return Err(match first(&content, &["toml"]) {
            Some(manifest) => Problem::OtherManifest { manifest },
            None => Problem::NoManifest { onnx },
        });
    }
    if let Some(problem) = content.iter().find_map(|path| too_deep(path)) {
        return Err(problem);
    }
    if let Some(checkpoint) = first(&content, &CHECKPOINTS) {
        return Err(Problem::Checkpoint { checkpoint });
    }
    let folder = path.display();
    tracing::warn!(%folder, "folder of the models directory has no model.toml and is ignored");
    Ok(Entry::Other)
}

/// Returns the problem of a folder that has no manifest, because its subfolder `inner` has one, has an ONNX file,
/// or cannot be read. `None` if `inner` has none of them or is no folder.
fn too_deep(inner: &Path) -> Option<Problem> {
    if inner.file_name().is_some_and(is_never_a_model) {
        return None;
    }
    // A folder that this process may not read may hold the model.
    let denied = |error: io::Error| {
        let denied = error.kind() == io::ErrorKind::PermissionDenied;
        denied.then(|| Problem::Model(StoreError::io(inner, error)))
    };
    match inner.join("model.toml").symlink_metadata() {
        Ok(metadata) if !metadata.is_dir() => {
            let inner = inner.to_path_buf();
            return Some(Problem::TooDeep { inner });
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return denied(error),
        _ => {}
    }
    match visible(inner) {
        Ok(content) => {
            let onnx = first(&content, &["onnx"])?;
            Some(Problem::NoManifest { onnx })
        }
        Err(error) => denied(error),
    }
}

/// Returns the paths of the entries of a folder, sorted, without hidden ones.
fn visible(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)?.take(MAX_ENTRIES) {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Returns the first of `paths` that has one of `extensions`.
fn first(paths: &[PathBuf], extensions: &[&str]) -> Option<PathBuf> {
    let mut paths = paths.iter();
    paths.find(|path| has_extension(path, extensions)).cloned()
}

/// Returns whether the name of `path` ends in one of `extensions`, which have no dot.
pub(super) fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension()
        .is_some_and(|found| extensions.iter().any(|extension| found == *extension))
}
