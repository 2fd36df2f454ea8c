//! `sightline rm`: removes models from the models directory.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use onnx_export::text::cut;
use sightline::catalogue;
use sightline::manifest::ModelManifest;
use sightline::nearest::did_you_mean;
use sightline::store::{BrokenEntry, MAX_TEXT_BYTES, ModelSource, read_regular_text};

use super::StoreArgs;
use super::output::OutputPaths;
use super::say::say;
use super::staging::{complete_removal, remove_model};

#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// Models of the models directory that `pull`, `export` or `quantize` has written
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    #[command(flatten)]
    store: StoreArgs,
}

/// A model that can be removed.
struct Removal {
    name: String,
    /// Name of the model's folder in the models directory.
    folder: OsString,
    /// Names of the model's files, the manifest last, so that an interrupted removal can be repeated.
    files: Vec<OsString>,
    /// Text of the manifest that names the files.
    manifest: Arc<str>,
}

/// Removes the models that `args` names, with their own files only.
///
/// # Errors
/// Before anything is removed, if a name is not that of exactly one model that Sightline has written into a folder of
/// its own. Later, if a file cannot be removed.
pub(super) fn run(args: &RmArgs) -> Result<()> {
    let store = args.store.store();
    let directory = store.directory().map(Path::to_path_buf);
    let directory = directory.context("there is no models directory: set --models DIR")?;
    let mut names = Vec::new();
    for name in &args.names {
        let completed = complete(&directory, name)?;
        if let Some(kept) = &completed {
            report(name, &directory.join(name), kept)?;
        }
        // The model may have been installed again since.
        if completed.is_none() || directory.join(name).join("model.toml").exists() {
            names.push(name);
        }
    }
    let (models, broken) = store.survey()?;
    let find = |name: &&String| removal(name, &directory, &models, &broken);
    let removals = names.iter().map(find).collect::<Result<Vec<_>>>()?;
    for removal in removals {
        let manifest = removal.manifest.as_bytes();
        let kept = remove_model(&directory, &removal.folder, &removal.files, manifest)?;
        report(&removal.name, &directory.join(&removal.folder), &kept)?;
    }
    Ok(())
}

/// Completes an interrupted removal of the model `name`. Returns the names of the files that stay; `None` if there was
/// none.
fn complete(directory: &Path, name: &str) -> Result<Option<Vec<OsString>>> {
    let mut parts = Path::new(name).components();
    let (Some(Component::Normal(folder)), None) = (parts.next(), parts.next()) else {
        return Ok(None);
    };
    complete_removal(directory, folder, |hidden| {
        let text = read_regular_text(&hidden.join("model.toml"), MAX_TEXT_BYTES)?;
        files(hidden, &ModelManifest::parse(&text)?)
    })
}

/// Prints that the model `name` was removed from `folder`, in which the files `kept` stay.
fn report(name: &str, folder: &Path, kept: &[OsString]) -> Result<()> {
    if kept.is_empty() {
        return say!("{name}: removed {}", folder.display());
    }
    say!("{name}: removed the model from {}", folder.display())?;
    kept.iter().try_for_each(|file| {
        say!(
            "  kept {}, which is not part of the model",
            folder.join(file).display()
        )
    })
}

/// Returns what to remove for the model `name`.
fn removal(
    name: &str,
    directory: &Path,
    models: &[ModelSource],
    broken: &[BrokenEntry],
) -> Result<Removal> {
    let short = cut(name, 64);
    if let Some(entry) = broken.iter().find(|entry| entry.namesake() == Some(name)) {
        bail!(
            "`{short}` names several models: {}; remove one of them yourself",
            entry.problem
        );
    }
    let Some(model) = models.iter().find(|model| model.manifest.name == name) else {
        return Err(absent(short, name, directory, models, broken));
    };
    let (Some(manifest), Some(text)) = (model.path.as_deref(), &model.manifest_text) else {
        bail!(built_in(short));
    };
    let folder = own_folder(manifest, directory).with_context(|| {
        format!(
            "`{short}` does not have a folder of its own: remove {} and the files that it names yourself",
            manifest.display()
        )
    })?;
    if model.manifest.provenance.is_none() {
        bail!(
            "`{short}` was not exported by Sightline, so that its files may exist only here: remove {} yourself",
            directory.join(&folder).display()
        );
    }
    let files = files(&directory.join(&folder), &model.manifest)?;
    Ok(Removal {
        name: name.to_owned(),
        folder,
        files,
        manifest: text.clone(),
    })
}

/// Returns the error for a name that no usable model has.
fn absent(
    short: &str,
    name: &str,
    directory: &Path,
    models: &[ModelSource],
    broken: &[BrokenEntry],
) -> anyhow::Error {
    if let Some(entry) = broken.iter().find(|entry| entry.name == *name) {
        let path = directory.join(name);
        return anyhow::anyhow!(
            "cannot tell which files of {} are those of a model: {}; remove the folder yourself",
            path.display(),
            entry.problem
        );
    }
    if catalogue::weights(name).is_some() {
        return anyhow::anyhow!(built_in(short));
    }
    let names = models.iter().map(|model| model.manifest.name.as_str());
    let meant = did_you_mean(sightline::nearest::nearest(short, names));
    anyhow::anyhow!("{} has no model `{short}`{meant}", directory.display())
}

fn built_in(name: &str) -> String {
    format!("`{name}` is built into the binary and cannot be removed")
}

/// Returns the name of the folder in `directory` that has the manifest at `manifest`. `None` if the manifest is in
/// `directory` itself or elsewhere.
fn own_folder(manifest: &Path, directory: &Path) -> Option<OsString> {
    let folder = manifest.parent()?;
    let own = manifest.ends_with("model.toml") && folder.parent()? == directory;
    own.then(|| folder.file_name().map(OsString::from))
        .flatten()
}

/// Returns the names of all files that `export` and `quantize` write into the folder of a model, and of those that
/// `manifest` names in it. The manifest is the last one.
fn files(folder: &Path, manifest: &ModelManifest) -> Result<Vec<OsString>> {
    let paths = OutputPaths::new(folder)?;
    let variants = manifest.variants.values();
    let stages = variants.clone().flat_map(|variant| &variant.stages);
    let stages = manifest
        .stages
        .iter()
        .chain(stages)
        .map(|stage| stage.file.clone());
    let ranges = variants.filter_map(|variant| variant.ranges.clone());
    let reports = ["int8.report.json", "int8.report.txt"].map(|ending| paths.beside(ending));
    let named = stages.chain(ranges).chain([manifest.labels.clone()]);
    // A manifest can name a file in another folder, which is not the model's own.
    let named = named.filter(|file| file.components().count() == 1);
    let written = [
        paths.fused.clone(),
        paths.ranges.clone(),
        paths.labels.clone(),
    ];
    let all: Vec<PathBuf> = named.chain(written).chain(reports).collect();
    let mut names: Vec<OsString> = all
        .iter()
        .filter_map(|path| path.file_name())
        .map(OsString::from)
        .collect();
    names.sort();
    names.dedup();
    names.retain(|name| name != "model.toml");
    names.push("model.toml".into());
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_model_in_its_folder_are_removed() {
        let mut manifest = catalogue::manifest("mobilenet_v2").unwrap().unwrap();
        manifest.labels = "../labels.txt".into();
        let names = files(Path::new("/models/x"), &manifest).unwrap();
        assert_eq!(names.last().unwrap(), "model.toml");
        assert!(names.contains(&"labels.txt".into()));
        assert!(
            names
                .iter()
                .all(|name| !name.to_string_lossy().contains('/'))
        );
        let own = |manifest: &str| own_folder(manifest.as_ref(), "/models".as_ref());
        assert_eq!(own("/models/x/model.toml"), Some("x".into()));
        assert_eq!(own("/models/x.toml"), None);
        assert_eq!(own("/other/x/model.toml"), None);
    }
}
