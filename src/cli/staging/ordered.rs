//! Publishes files one by one inside an existing folder.

use anyhow::{Context, Result};

use super::folder::Folder;
use super::signals::Deferred;
use super::stage::{Stage, complete, sweep, write_files};
use super::{FileSet, check_expected, check_names, lock};

/// Writes the files of `set` into their folder, which is created if it does not exist.
///
/// # Errors
/// If the folder cannot be created or locked, or if a file cannot be written.
pub(super) fn write(set: &FileSet<'_>, signals: &Deferred) -> Result<()> {
    let locked = || -> Result<Folder> {
        std::fs::create_dir_all(&set.folder)?;
        lock(&set.folder, signals)?.context("the folder was removed")
    };
    let folder = locked().with_context(|| set.cannot_write())?;
    complete(&folder);
    sweep(&folder);
    check_expected(set)?;
    publish(set, &folder, signals)
}

/// Writes the files of `set` into a stage in `folder`, and renames them to their names in `folder`
/// in the order of the set. If a rename fails, undoes the earlier ones.
///
/// # Errors
/// If a file cannot be written or renamed, or at a signal before the first rename.
pub(super) fn publish(set: &FileSet<'_>, folder: &Folder, signals: &Deferred) -> Result<()> {
    check_names(set, folder)?;
    let stage = || -> Result<Stage<'_>> {
        folder.check_writable()?;
        Ok(Stage::new(folder)?)
    };
    let mut stage = stage().with_context(|| set.cannot_write())?;
    write_files(set, stage.folder(), signals)?;
    let restorable = stage.keep_old(set);
    if set.files.len() > 1 {
        stage.commit().with_context(|| set.cannot_write())?;
    }
    for (index, file) in set.files.iter().enumerate() {
        if let Err(error) = stage.folder().rename(&file.name, folder, &file.name) {
            if index <= restorable {
                stage.undo(set.files[..index].iter().rev().map(|file| &file.name));
            }
            let path = set.folder.join(&file.name);
            return Err(error).with_context(|| format!("cannot write {}", path.display()));
        }
    }
    folder.sync();
    Ok(())
}
