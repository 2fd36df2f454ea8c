//! Removes the folder of a model in one step.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{FileType, RenameFlags};
use rustix::io::Errno;
use rustix::process::geteuid;
use sightline::store::{MAX_TEXT_BYTES, StoreError, read_regular};

use super::folder::{Folder, Lock};
use super::lock;
use super::signals::Deferred;

/// Start of the name of a folder whose files are being removed. Hidden entries are never models.
const REMOVED: &str = ".sightline-removed-";
/// File with the manifest of a model that has a folder of its own.
const MANIFEST: &str = "model.toml";

/// Removes the files `names` of the model folder `name` in `directory`, the last one last, and the folder if it is then
/// empty. The folder is hidden first, so that other processes see the whole model or none of it. Returns the names of
/// the entries that stay in the folder because they are not among `names`, which were found with the text `manifest`.
///
/// # Errors
/// [`StoreError::Changed`] if the manifest has another text. If the folder cannot be locked, moved or emptied, if it is a symbolic link, or at a signal before anything was
/// changed.
pub(in crate::cli) fn remove_model(
    directory: &Path,
    name: &OsStr,
    names: &[OsString],
    manifest: &[u8],
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
    // Another process may have put another model there before the folder was locked.
    let path = path.join(MANIFEST);
    if read_regular(&path, MAX_TEXT_BYTES).ok().as_deref() != Some(manifest) {
        return Err(StoreError::Changed { path }.into());
    }
    let hidden = hidden(name);
    move_to_free(&parent, name, &hidden)
        .map_err(|error| match error {
            Errno::EXIST => anyhow::anyhow!(
                "{} is left of an earlier removal: remove it yourself",
                directory.join(&hidden).display()
            ),
            error => error.into(),
        })
        .with_context(cannot)?;
    dissolve(&parent, (&folder, &hidden), name, names).with_context(cannot)
}

/// Completes a removal of the model folder `name` in `directory` that was interrupted while the folder was hidden. `files`
/// returns the names of the model's files, from the path of the hidden folder, which has the manifest. Returns the names of
/// the entries that stay, in the folder `name`. `None` if there is nothing to complete: no hidden folder of this user, or
/// one that another process is removing.
///
/// # Errors
/// If the hidden folder cannot be read or emptied, or if a new folder has the name of one in which entries stay.
pub(in crate::cli) fn complete_removal(
    directory: &Path,
    name: &OsStr,
    files: impl FnOnce(&Path) -> Result<Vec<OsString>>,
) -> Result<Option<Vec<OsString>>> {
    let _signals = Deferred::begin();
    let hidden = hidden(name);
    let path = directory.join(&hidden);
    let cannot = || {
        let path = path.display();
        format!(
            "{path} is left of an interrupted removal and cannot be removed: remove it yourself"
        )
    };
    let Ok(parent) = Folder::open(directory) else {
        return Ok(None);
    };
    let entry = parent.entry(&hidden).with_context(cannot)?;
    let is_own = |entry: &rustix::fs::Stat| {
        FileType::from_raw_mode(entry.st_mode) == FileType::Directory
            && entry.st_uid == geteuid().as_raw()
    };
    if !entry.as_ref().is_some_and(is_own) {
        return Ok(None);
    }
    let folder = parent.subfolder(&hidden).with_context(cannot)?;
    let is_locked = matches!(folder.try_lock().with_context(cannot)?, Lock::Held);
    if !is_locked || !folder.is_in(&parent, &hidden) {
        return Ok(None);
    }
    // The manifest is removed last: without it, nothing of the model is left.
    let names = match folder.kind(MANIFEST.as_ref()).with_context(cannot)? {
        Some(_) => files(&path).with_context(cannot)?,
        None => Vec::new(),
    };
    let kept = dissolve(&parent, (&folder, &hidden), name, &names);
    kept.with_context(cannot).map(Some)
}

/// Returns the name that the folder `name` has while its files are removed.
fn hidden(name: &OsStr) -> OsString {
    let mut hidden = OsString::from(REMOVED);
    hidden.push(name);
    hidden
}

/// Removes the files `names` of the hidden folder, and the folder if it is then empty. Else gives it the name `name`, so
/// that what is left is visible, and returns the names of its entries.
fn dissolve(
    parent: &Folder,
    (folder, hidden): (&Folder, &OsStr),
    name: &OsStr,
    names: &[OsString],
) -> rustix::io::Result<Vec<OsString>> {
    let removed = empty(folder, names);
    let kept = folder.names().unwrap_or_default();
    if removed.is_ok() && kept.is_empty() {
        parent.remove_subfolder(hidden)?;
    } else {
        let back = move_to_free(parent, hidden, name);
        removed.and(back)?;
    }
    parent.sync();
    Ok(kept)
}

/// Renames the entry `from` of `folder` to `to`.
///
/// # Errors
/// [`Errno::EXIST`] if there is an entry `to`.
fn move_to_free(folder: &Folder, from: &OsStr, to: &OsStr) -> rustix::io::Result<()> {
    match folder.rename_with(from, folder, to, RenameFlags::NOREPLACE) {
        // The file system or the kernel cannot check the name in the same step.
        Err(Errno::INVAL | Errno::NOSYS) => match folder.kind(to)? {
            None => folder.rename(from, folder, to),
            Some(_) => Err(Errno::EXIST),
        },
        result => result,
    }
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
        let remove =
            |name: &str| remove_model(directory.path(), name.as_ref(), &names, b"model.toml");
        assert_eq!(remove("a").unwrap(), [""; 0]);
        assert!(!at("a").exists());
        assert_eq!(remove("b").unwrap(), ["notes.txt"]);
        assert_eq!(fs::read_dir(at("b")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        std::os::unix::fs::symlink(at("b"), at("c")).unwrap();
        assert!(remove("c").is_err());
        assert!(remove("d").is_err());
        model("e", &[]);
        fs::write(at("e").join("model.toml"), "of another model").unwrap();
        assert!(remove("e").is_err());
        assert_eq!(fs::read_dir(at("e")).unwrap().count(), 2);
    }

    #[test]
    fn an_interrupted_removal_is_completed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let left = |name: &str, files: &[&str]| {
            let folder = at(&format!("{REMOVED}{name}"));
            fs::create_dir(&folder).unwrap();
            for file in files {
                fs::write(folder.join(file), file).unwrap();
            }
        };
        let complete = |name: &str| {
            complete_removal(directory.path(), name.as_ref(), |_| {
                Ok(vec!["model.onnx".into(), MANIFEST.into()])
            })
        };
        assert_eq!(complete("a").unwrap(), None);
        left("a", &["model.onnx", MANIFEST]);
        assert_eq!(complete("a").unwrap(), Some(Vec::new()));
        left("b", &["notes.txt"]);
        assert_eq!(complete("b").unwrap(), Some(vec!["notes.txt".into()]));
        assert!(at("b").join("notes.txt").exists());
        left("b", &["more.txt"]);
        assert!(complete("b").is_err());
        left("c", &[MANIFEST]);
        let busy = Folder::open(&at(&format!("{REMOVED}c"))).unwrap();
        assert!(matches!(busy.try_lock(), Ok(Lock::Held)));
        assert_eq!(complete("c").unwrap(), None);
        drop(busy);
        assert_eq!(complete("c").unwrap(), Some(Vec::new()));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
