//! Puts one model into the models directory: download, verification, export, quantization.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sightline::config::SecretUrl;
use sightline::download::{Client, Request, Verified, verify};
use sightline::store::{ModelRef, ModelSource, ModelStore};

use super::lock::Lock;
use super::progress::{Audience, Shown};
use super::source::{Place, SourceArgs, file_name};
use super::wanted::{Checkpoint, Wanted};
use crate::cli::RuntimeArgs;
use crate::cli::export::{self, ExportArgs};
use crate::cli::say::complain;

/// What to do with an installed model that was made from other weights than those to pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Other {
    /// An error.
    Refuse,
    /// It stays.
    Keep,
    /// It is replaced, without its edits.
    Replace,
}

/// Where models come from and go to.
pub(super) struct Installer<'a> {
    pub(super) source: &'a SourceArgs,
    /// Value of `--from`.
    pub(super) from: Option<&'a SecretUrl>,
    /// The models directory.
    pub(super) directory: PathBuf,
    pub(super) other: Other,
    /// Whether the downloaded checkpoint is kept.
    pub(super) keep_checkpoint: bool,
    pub(super) audience: Audience,
    /// Where ONNX Runtime is, which checks the parity of exported networks.
    pub(super) runtime: &'a RuntimeArgs,
}

/// The result for one model.
#[derive(Debug, PartialEq)]
pub(super) enum Installed {
    /// The binary contains it.
    BuiltIn,
    /// It was there, made from the checkpoint to pull.
    Already { manifest: PathBuf },
    /// It was there, made from other weights, and stays.
    Kept { manifest: PathBuf },
    /// It is new.
    New {
        manifest: PathBuf,
        checkpoint: Verified,
        /// Messages about what was kept of a model that was replaced.
        notes: Vec<String>,
    },
}

impl Installed {
    /// Returns the path of the model's manifest. `None` if the model is built in.
    pub(super) fn manifest(&self) -> Option<&Path> {
        match self {
            Self::BuiltIn => None,
            Self::Already { manifest } | Self::Kept { manifest } | Self::New { manifest, .. } => {
                Some(manifest)
            }
        }
    }
}

impl Installer<'_> {
    /// Installs the fp32 model `wanted`, unless it is there. Opens no connection if it is there or if `--from` names a
    /// file.
    ///
    /// # Errors
    /// If the checkpoint cannot be obtained or is not the official one, if another model is in its place, or if the
    /// model cannot be written. The models directory is then unchanged.
    pub(super) fn install(&self, wanted: &Wanted) -> Result<Installed> {
        let Some(checkpoint) = &wanted.checkpoint else {
            return Ok(Installed::BuiltIn);
        };
        if let Some(there) = self.there(wanted, checkpoint)? {
            return Ok(there);
        }
        let place = self.source.place(&checkpoint.url, self.from);
        match place {
            Place::File(path) => {
                let verified = local(&path, checkpoint)?;
                self.export(wanted, path, verified)
            }
            Place::Url(url) => self.fetch_and_export(wanted, checkpoint, &url),
        }
    }

    /// Downloads the checkpoint and exports it, one process at a time.
    fn fetch_and_export(
        &self,
        wanted: &Wanted,
        checkpoint: &Checkpoint,
        url: &SecretUrl,
    ) -> Result<Installed> {
        let to = self.source.download_dir()?.join(file_name(&checkpoint.url));
        let name = &wanted.name;
        let mut lock = to.clone().into_os_string();
        lock.push(".lock");
        let _lock = Lock::wait(lock.into(), || match self.audience {
            Audience::Console => {
                complain!("{name}: waiting for another process that downloads this file");
            }
            Audience::Log => tracing::info!(
                model = name,
                "waiting for another process that downloads this file"
            ),
        })?;
        // Another process may have installed it in the meantime.
        if let Some(there) = self.there(wanted, checkpoint)? {
            return Ok(there);
        }
        let verified = self.fetch(wanted, checkpoint, url, &to)?;
        let installed = self.export(wanted, to.clone(), verified)?;
        if !self.keep_checkpoint {
            // The model is installed; the file that stays is verified again before it is used.
            let _ = std::fs::remove_file(&to);
        }
        Ok(installed)
    }

    /// Returns the checkpoint at `to` if an earlier command has left it there, else downloads it.
    fn fetch(
        &self,
        wanted: &Wanted,
        checkpoint: &Checkpoint,
        url: &SecretUrl,
        to: &Path,
    ) -> Result<Verified> {
        let prefix = &checkpoint.weights.sha256_prefix;
        if let Ok(Some(verified)) = verify(to, prefix, checkpoint.max_bytes()) {
            return Ok(verified);
        }
        let client = Client::new(self.source.client())?;
        let request = Request {
            url,
            to,
            sha256_prefix: prefix,
            max_bytes: checkpoint.max_bytes(),
        };
        let progress = Shown::new(&wanted.name, self.audience);
        Ok(client.download(&request, &progress)?)
    }

    fn export(&self, wanted: &Wanted, weights: PathBuf, checkpoint: Verified) -> Result<Installed> {
        let out = self.folder(wanted);
        let weights = (weights, checkpoint.sha256.clone());
        let force = self.other == Other::Replace;
        let runtime = self.runtime.clone();
        let args = ExportArgs::verified(&wanted.name, weights, out.clone(), force, runtime);
        let converted = export::convert(&args)?;
        Ok(Installed::New {
            manifest: out.join("model.toml"),
            checkpoint,
            notes: converted.notes,
        })
    }

    fn folder(&self, wanted: &Wanted) -> PathBuf {
        self.directory.join(&wanted.name)
    }

    /// Returns the installed model of the name of `wanted`, if it stays as it is.
    ///
    /// # Errors
    /// If the model was made from other weights, and [`Other::Refuse`] applies, or if it is not in the folder of its
    /// name, where a second one would take the name twice.
    fn there(&self, wanted: &Wanted, checkpoint: &Checkpoint) -> Result<Option<Installed>> {
        let manifest = self.folder(wanted).join("model.toml");
        let Some(model) = self.namesake(wanted, &manifest)? else {
            return Ok(None);
        };
        let from = model.manifest.provenance.as_ref();
        let hash = from.map_or("", |from| from.checkpoint_sha256.as_str());
        if hash.starts_with(&checkpoint.weights.sha256_prefix) {
            // A model whose files are missing is installed again.
            return Ok(model
                .check_files()
                .is_ok()
                .then_some(Installed::Already { manifest }));
        }
        match self.other {
            Other::Keep => Ok(Some(Installed::Kept { manifest })),
            Other::Replace => Ok(None),
            Other::Refuse => {
                let what = from.map_or("other weights", |from| from.checkpoint.as_str());
                bail!(
                    "{} has a model of {what}, not of {}: remove it with `sightline rm {}`, or replace it and its edits \
                     with --force",
                    self.folder(wanted).display(),
                    file_name(&checkpoint.url),
                    wanted.name,
                )
            }
        }
    }

    /// Returns the installed model of the name of `wanted`, which must have the manifest `expected`.
    fn namesake(&self, wanted: &Wanted, expected: &Path) -> Result<Option<ModelSource>> {
        if !self.directory.exists() {
            return Ok(None);
        }
        // Entries that are broken are those of other models, or are replaced.
        let (models, _) = ModelStore::new(Some(self.directory.clone())).installed()?;
        let mut models = models.into_iter();
        let Some(model) = models.find(|model| model.manifest.name == wanted.name) else {
            return Ok(None);
        };
        if model.path.as_deref() != Some(expected) {
            let path = model.path.unwrap_or_default();
            bail!(
                "the model `{}` is at {} already: rename or move it",
                wanted.name,
                path.display()
            );
        }
        Ok(Some(model))
    }
}

/// Verifies the checkpoint in a local file.
fn local(path: &Path, checkpoint: &Checkpoint) -> Result<Verified> {
    let prefix = &checkpoint.weights.sha256_prefix;
    let verified = verify(path, prefix, checkpoint.max_bytes());
    let verified = verified
        .context("cannot use the file of --from; `sightline export` converts other checkpoints")?;
    verified.with_context(|| format!("the file {} of --from does not exist", path.display()))
}

/// Returns whether the model with the manifest at `path` has an int8 variant that can be used.
///
/// # Errors
/// If the model cannot be read.
pub(super) fn has_int8(path: &Path) -> Result<bool> {
    let int8 = find(path)?.int8();
    Ok(int8.is_some_and(|int8| int8.check_files().is_ok()))
}

/// Returns the reference to the model with the manifest at `path`.
pub(super) fn reference(path: &Path) -> ModelRef {
    ModelRef {
        name: path.display().to_string(),
        variant: None,
    }
}

fn find(path: &Path) -> Result<ModelSource> {
    Ok(ModelStore::default().find(&reference(path))?)
}

#[cfg(test)]
mod tests {
    use sightline::manifest::sha256;

    use super::*;

    fn checkpoint(content: &[u8]) -> Checkpoint {
        let wanted = Wanted::find(&"mobilenet_v3_small".parse().unwrap(), None).unwrap();
        let mut checkpoint = wanted.checkpoint.unwrap();
        sha256(content)[..8].clone_into(&mut checkpoint.weights.sha256_prefix);
        checkpoint
    }

    #[test]
    fn a_local_file_is_verified() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pth");
        assert!(local(&path, &checkpoint(b"x")).is_err());
        std::fs::write(&path, b"x").unwrap();
        assert_eq!(local(&path, &checkpoint(b"x")).unwrap().bytes, 1);
        let error = local(&path, &checkpoint(b"y")).unwrap_err();
        assert!(
            format!("{error:#}").contains("is not the expected file"),
            "{error:#}"
        );
    }
}
