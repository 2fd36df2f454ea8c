//! Removes the folder of a model in one step.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{FileType, RenameFlags};
use rustix::io::Errno;

use super::folder::Folder;
use super::lock;
use super::signals::Deferred;

/// Start of the name of a folder whose files are being removed. Hidden entries are never models.
const REMOVED: &str = ".sightline-removed-";

/// Removes the files `names` of the model folder `name` in `directory`, the last one last, and the folder if it is then
/// empty. The folder is hidden first, so that other processes see the whole model or none of it. Returns the names of
/// the entries that stay in the folder because they are not among `names`.
///
/// # Errors
/// If the folder cannot be locked, moved or emptied, if it is a symbolic link, or at a signal before anything was
/// changed.
pub(in crate::cli) fn remove_model(
    directory: &Path,
    name: &OsStr,
    names: &[OsString],
) -> Result<Vec<OsString>> {
    let signals = Deferred::begin();
    let path = directory.join(name);
    let cannot = || format!("cannot remove {}", path.display());
    let parent = Folder::open(directory).with_context(cannot)?;
    if parent.kind(name).with_context(cannot)? != Some(FileType::Directory) {
        bail!(
            "{}: it is not a folder but a link or a file; remove it yourself",
            cannot()
        );
    }
    let folder = lock(&path, &signals).with_context(cannot)?;
    let folder = folder.with_context(|| format!("{}: it does not exist any more", cannot()))?;
    let mut hidden = OsString::from(REMOVED);
    hidden.push(name);
    parent
        .rename_with(name, &parent, &hidden, RenameFlags::NOREPLACE)
        .map_err(|error| match error {
            Errno::EXIST => anyhow::anyhow!(
                "{} is left of an earlier removal: remove it yourself",
                directory.join(&hidden).display()
            ),
            error => error.into(),
        })
        .with_context(cannot)?;
    let removed = empty(&folder, names);
    let kept = folder.names().unwrap_or_default();
    if removed.is_ok() && kept.is_empty() {
        parent.remove_subfolder(&hidden).with_context(cannot)?;
    } else {
        // What is left is visible again, and the message says why.
        let back = parent.rename_with(&hidden, &parent, name, RenameFlags::NOREPLACE);
        removed.and(back).with_context(cannot)?;
    }
    parent.sync();
    Ok(kept)
}

/// Removes the files `names` that exist in `folder`.
fn empty(folder: &Folder, names: &[OsString]) -> rustix::io::Result<()> {
    for name in names {
        match folder.remove_file(name) {
            // Folders of these names are not the model's.
            Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_model_is_removed_and_other_files_stay() {
        let directory = tempfile::tempdir().unwrap();
        let names = ["model.onnx", "model.toml"].map(OsString::from);
        let at = |name: &str| directory.path().join(name);
        let model = |name: &str, others: &[&str]| {
            fs::create_dir(at(name)).unwrap();
            for file in ["model.onnx", "model.toml"].iter().chain(others) {
                fs::write(at(name).join(file), file).unwrap();
            }
        };
        model("a", &[]);
        model("b", &["notes.txt"]);
        let remove = |name: &str| remove_model(directory.path(), name.as_ref(), &names);
        assert_eq!(remove("a").unwrap(), [""; 0]);
        assert!(!at("a").exists());
        assert_eq!(remove("b").unwrap(), ["notes.txt"]);
        assert_eq!(fs::read_dir(at("b")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        std::os::unix::fs::symlink(at("b"), at("c")).unwrap();
        assert!(remove("c").is_err());
        assert!(remove("d").is_err());
    }
}
