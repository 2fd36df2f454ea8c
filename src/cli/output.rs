//! The files of a model: their names, and writing all of them or none.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where a model's files go: into a folder, or beside an `.onnx` file.
pub(super) struct OutputPaths {
    /// Name of the folder or file.
    pub(super) name: String,
    pub(super) onnx: PathBuf,
    pub(super) box_head: PathBuf,
    pub(super) fused: PathBuf,
    pub(super) manifest: PathBuf,
    pub(super) labels: PathBuf,
}

impl OutputPaths {
    pub(super) fn new(out: &Path) -> Result<Self> {
        let stem = out
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned());
        let name = stem.with_context(|| format!("{} has no name", out.display()))?;
        if out.extension().is_some_and(|extension| extension == "onnx") {
            return Ok(Self {
                name,
                onnx: out.to_path_buf(),
                box_head: out.with_extension("box_head.onnx"),
                fused: out.with_extension("fused.onnx"),
                manifest: out.with_extension("toml"),
                labels: out.with_extension("labels.txt"),
            });
        }
        let name = out
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or(name);
        Ok(Self {
            name,
            onnx: out.join("model.onnx"),
            box_head: out.join("model.box_head.onnx"),
            fused: out.join("model.fused.onnx"),
            manifest: out.join("model.toml"),
            labels: out.join("labels.txt"),
        })
    }

    /// Another file of the model, named as its `.onnx` with another ending.
    pub(super) fn beside(&self, ending: &str) -> PathBuf {
        self.onnx.with_extension(ending)
    }
}

/// The last part of a path, as manifests name files.
pub(super) fn file_name(path: &Path) -> PathBuf {
    path.file_name().map(PathBuf::from).unwrap_or_default()
}

/// Writes every file beside its target, then renames them all, so that a failure changes nothing.
pub(super) fn write_all(files: &[(&Path, &[u8])]) -> Result<()> {
    let staged = |path: &Path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".part");
        PathBuf::from(name)
    };
    let write = || -> std::io::Result<()> {
        for (path, bytes) in files {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let mut file = std::fs::File::create(staged(path))?;
            file.write_all(bytes)?;
            file.sync_all()?;
        }
        files
            .iter()
            .try_for_each(|(path, _)| std::fs::rename(staged(path), path))
    };
    let written = write();
    if written.is_err() {
        for (path, _) in files {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(staged(path));
        }
    }
    let place = files
        .first()
        .map(|(path, _)| path.display().to_string())
        .unwrap_or_default();
    written.with_context(|| format!("cannot write {place}"))
}
