//! The paths of the files that `export` and `quantize` write for a model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use onnx_export::{Role, Stages};
use rustix::fs::Access;
use rustix::io::Errno;
use sightline::manifest::StageFile;

use super::staging::FileSet;

/// The paths of a model's files, which are either in a folder of the model, or next to an `.onnx`
/// file and named after it.
pub(super) struct OutputPaths {
    /// Name of the model: the name of its folder, or the name of its `.onnx` or manifest file
    /// without the extension.
    pub(super) name: String,
    /// Paths of the fp32 ONNX files, one per stage. For a stage without a path here,
    /// [`OutputPaths::stage`] derives the path from the first stage's.
    stages: Stages<PathBuf>,
    /// Path of the ONNX file that `export --fused` writes: a whole detector as one graph.
    pub(super) fused: PathBuf,
    /// Path of the ranges file, a JSON file with the recipes with which the int8 stages were
    /// quantized.
    pub(super) ranges: PathBuf,
    pub(super) manifest: PathBuf,
    pub(super) labels: PathBuf,
    /// Whether the model has a folder of its own.
    pub(super) own_folder: bool,
}

impl OutputPaths {
    /// Returns the paths for the output path `out`, a folder or an `.onnx` file.
    ///
    /// # Errors
    /// If `out` has no file name: if it is `/`, or ends in `..` and does not exist.
    pub(super) fn new(out: &Path) -> Result<Self> {
        // The name of `.` or `..` is that of the folder.
        let named = out.file_name().is_none().then(|| out.canonicalize().ok());
        let named = named.flatten();
        let stem = named
            .as_deref()
            .unwrap_or(out)
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned());
        let name =
            stem.with_context(|| format!("the output path {} has no file name", out.display()))?;
        if out.extension().is_some_and(|extension| extension == "onnx") {
            return Ok(Self {
                name,
                stages: Stages::new(out.to_path_buf()),
                fused: out.with_extension("fused.onnx"),
                ranges: out.with_extension("int8.json"),
                manifest: out.with_extension("toml"),
                labels: out.with_extension("labels.txt"),
                own_folder: false,
            });
        }
        let name = named
            .as_deref()
            .unwrap_or(out)
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or(name);
        Ok(Self {
            name,
            stages: Stages::new(out.join("model.onnx")),
            fused: out.join("model.fused.onnx"),
            ranges: out.join("model.int8.json"),
            manifest: out.join("model.toml"),
            labels: out.join("labels.txt"),
            own_folder: true,
        })
    }

    /// Returns the paths for an existing model, whose manifest, fp32 ONNX files and label file keep
    /// their paths.
    pub(super) fn of(manifest: &Path, files: &Stages<PathBuf>, labels: &Path) -> Self {
        let name = manifest.file_stem().unwrap_or_default();
        let beside = |ending| files.network().with_extension(ending);
        Self {
            name: name.to_string_lossy().into_owned(),
            stages: files.clone(),
            fused: beside("fused.onnx"),
            ranges: beside("int8.json"),
            manifest: manifest.to_path_buf(),
            labels: manifest.with_file_name(labels),
            own_folder: manifest.ends_with("model.toml"),
        }
    }

    /// Returns an error if the output folder, or its nearest existing parent, is not a writable
    /// folder. Called before long work, so that the work is not lost.
    pub(super) fn check(&self) -> Result<()> {
        let here = Path::new(".");
        let folders = self.onnx().ancestors().skip(1);
        let folders = folders.map(|f| if f.as_os_str().is_empty() { here } else { f });
        let Some(folder) = folders.into_iter().find(|folder| folder.exists()) else {
            return Ok(());
        };
        let usable = if folder.is_dir() {
            rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK)
        } else {
            Err(Errno::NOTDIR)
        };
        usable.with_context(|| format!("cannot write into the folder {}", folder.display()))
    }

    /// Returns the folder of all files. Empty if it is the current directory.
    pub(super) fn folder(&self) -> &Path {
        self.manifest.parent().unwrap_or(Path::new(""))
    }

    /// Returns the path of the first stage's fp32 file.
    pub(super) fn onnx(&self) -> &Path {
        self.stages.network()
    }

    /// Returns the path of the first stage's int8 file.
    pub(super) fn int8(&self) -> PathBuf {
        self.int8_stage(Role::Network)
    }

    /// Returns the path of the fp32 file of stage `role`.
    pub(super) fn stage(&self, role: Role) -> PathBuf {
        let known = self.stages.get(role).cloned();
        known.unwrap_or_else(|| self.beside(&format!("{role}.onnx")))
    }

    /// Returns the path of the int8 file of stage `role`.
    pub(super) fn int8_stage(&self, role: Role) -> PathBuf {
        match role {
            Role::Network => self.beside("int8.onnx"),
            Role::BoxHead => self.beside(&format!("int8.{role}.onnx")),
        }
    }

    /// Returns the path of the first stage's fp32 file with its extension replaced by `extension`.
    pub(super) fn beside(&self, extension: &str) -> PathBuf {
        self.onnx().with_extension(extension)
    }
}

/// Returns the last component of a path, the form in which manifests name files.
pub(super) fn file_name(path: &Path) -> PathBuf {
    path.file_name().map(PathBuf::from).unwrap_or_default()
}

/// Returns the `stages` entries of a manifest for stages at `paths`.
pub(super) fn stage_files(paths: Stages<PathBuf>) -> Vec<StageFile> {
    StageFile::list(&paths.map(|_, path| file_name(&path)))
}

/// Writes files that are not part of the model into its folder, or none of them.
pub(super) fn write_reports(paths: &OutputPaths, reports: &[(PathBuf, &[u8])]) -> Result<()> {
    let mut files = FileSet::new(paths.folder());
    for (path, content) in reports {
        files.add(path, content);
    }
    files.write_beside()
}
