//! The files of a model: their names, and writing all of them or none.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use onnx_export::Model;
use rustix::fs::Access;
use rustix::io::Errno;
use sightline::manifest::ModelManifest;
use sightline::store::Graphs;

use super::trained::Int8;

/// Where a model's files go: into a folder, or beside an `.onnx` file.
pub(super) struct OutputPaths {
    /// Name of the folder or file.
    pub(super) name: String,
    pub(super) onnx: PathBuf,
    pub(super) box_head: PathBuf,
    pub(super) fused: PathBuf,
    pub(super) int8: PathBuf,
    /// The ranges of the int8 network.
    pub(super) ranges: PathBuf,
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
                int8: out.with_extension("int8.onnx"),
                ranges: out.with_extension("int8.json"),
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
            int8: out.join("model.int8.onnx"),
            ranges: out.join("model.int8.json"),
            manifest: out.join("model.toml"),
            labels: out.join("labels.txt"),
        })
    }

    /// Where a model's files are already.
    pub(super) fn of(manifest: &Path, files: &Graphs<PathBuf>, labels: &Path) -> Self {
        let name = manifest.file_stem().unwrap_or_default();
        let box_head = files.box_head.clone();
        let beside = |ending| files.network.with_extension(ending);
        Self {
            name: name.to_string_lossy().into_owned(),
            onnx: files.network.clone(),
            box_head: box_head.unwrap_or_else(|| beside("box_head.onnx")),
            fused: beside("fused.onnx"),
            int8: beside("int8.onnx"),
            ranges: beside("int8.json"),
            manifest: manifest.to_path_buf(),
            labels: manifest.with_file_name(labels),
        }
    }

    /// Fails where nothing can be written, before the work that it would be lost with.
    pub(super) fn check(&self) -> Result<()> {
        let here = Path::new(".");
        let folders = self.onnx.ancestors().skip(1);
        let folders = folders.map(|f| if f.as_os_str().is_empty() { here } else { f });
        let Some(folder) = folders.into_iter().find(|folder| folder.exists()) else {
            return Ok(());
        };
        let usable = if folder.is_dir() {
            rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK)
        } else {
            Err(Errno::NOTDIR)
        };
        usable.with_context(|| format!("cannot write into {}", folder.display()))
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

/// Writes every file of the model, or none.
pub(super) fn write_model(
    manifest: &ModelManifest,
    labels: &[String],
    model: &Model,
    (fused, int8): (Option<&[u8]>, Option<&Int8>),
    paths: &OutputPaths,
) -> Result<()> {
    let labels = labels.join("\n") + "\n";
    let manifest = manifest.to_toml()?;
    let (network, box_head) = (model.to_bytes(), model.box_head_bytes());
    let mut files: Vec<(&Path, &[u8])> = vec![(&paths.onnx, &network)];
    let optional = [
        (&paths.box_head, box_head.as_deref()),
        (&paths.fused, fused),
        (&paths.int8, int8.map(|int8| int8.network.as_slice())),
        (&paths.ranges, int8.map(|int8| int8.ranges.as_bytes())),
    ];
    files.extend(
        optional
            .iter()
            .filter_map(|(path, bytes)| Some((path.as_path(), (*bytes)?))),
    );
    files.push((&paths.labels, labels.as_bytes()));
    files.push((&paths.manifest, manifest.as_bytes()));
    write_all(&files)
}

/// Writes every file beside its target, then renames them all, so that a failure changes nothing.
pub(super) fn write_all(files: &[(&Path, &[u8])]) -> Result<()> {
    let staged = |path: &Path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".part");
        PathBuf::from(name)
    };
    let cannot = |path: &Path| format!("cannot write {}", path.display());
    let write = |path: &Path, bytes| {
        if path.is_dir() {
            // Renaming would fail, after others.
            return Err(std::io::ErrorKind::IsADirectory.into());
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = std::fs::File::create(staged(path))?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    let write_and_rename = || -> Result<()> {
        for (path, bytes) in files {
            write(path, bytes).with_context(|| cannot(path))?;
        }
        for (path, _) in files {
            std::fs::rename(staged(path), path).with_context(|| cannot(path))?;
        }
        Ok(())
    };
    let written = write_and_rename();
    if written.is_err() {
        for (path, _) in files {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(staged(path));
        }
    }
    written
}
