//! Publishes the folder of a model in one step.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FileType, Mode, RenameFlags};
use rustix::io::Errno;

use super::folder::Folder;
use super::signals::Deferred;
use super::stage::{Stage, complete, sweep, write_files};
use super::{FileSet, check_expected, check_names, lock};

/// Maximum number of other files in a model's folder that are linked into the new folder.
const MAX_OTHER_FILES: usize = 256;

/// Writes the files of `set` into a new folder, together with hard links to the other files of the
/// existing folder, and exchanges the two folders. Returns false, with no file changed, if the
/// folder cannot be exchanged.
///
/// # Errors
/// If the folder cannot be locked, if a file cannot be written, or at a signal.
pub(super) fn write(set: &FileSet<'_>, signals: &Deferred) -> Result<bool> {
    let Some((path, name)) = place(&set.folder).with_context(|| set.cannot_write())? else {
        return Ok(false);
    };
    let Ok(parent) = Folder::open(&path) else {
        return Ok(false);
    };
    sweep(&parent);
    // A folder that another process creates in the meantime is exchanged in the next attempt.
    loop {
        let old = lock(&path.join(&name), signals).with_context(|| set.cannot_write())?;
        let done = match old {
            Some(old) => Some(exchange(set, &old, &parent, &name, signals)?),
            None => create(set, &parent, &name, signals)?,
        };
        if let Some(done) = done {
            return Ok(done);
        }
    }
}

/// Exchanges the folder `old`, which has the name `name` in `parent`. Returns false, with no file
/// changed, if that is not possible.
fn exchange(
    set: &FileSet<'_>,
    old: &Folder,
    parent: &Folder,
    name: &OsStr,
    signals: &Deferred,
) -> Result<bool> {
    complete(old);
    sweep(old);
    check_names(set, old)?;
    check_expected(set)?;
    old.check_writable().with_context(|| set.cannot_write())?;
    if !is_exchangeable(set, old, parent).unwrap_or(false) {
        return Ok(false);
    }
    let Ok(stage) = Stage::new(parent) else {
        return Ok(false);
    };
    let (new, staged) = stage.model().with_context(|| set.cannot_write())?;
    write_files(set, &new, signals)?;
    let exchanged = adopt(set, old, &new).and_then(|()| {
        let flags = RenameFlags::EXCHANGE;
        stage.folder().rename_with(staged, parent, name, flags)
    });
    if exchanged.is_err() {
        return Ok(false);
    }
    rescue(set, old, &new);
    parent.sync();
    Ok(true)
}

/// Creates the folder `name` in `parent`. Returns false, with no file changed, if the folder cannot
/// be staged, and `None` if another process has created it.
fn create(
    set: &FileSet<'_>,
    parent: &Folder,
    name: &OsStr,
    signals: &Deferred,
) -> Result<Option<bool>> {
    if parent.kind(name) == Ok(Some(FileType::Symlink)) {
        bail!("{}: it is a symbolic link to nothing", set.cannot_write());
    }
    check_expected(set)?;
    let Ok(stage) = Stage::new(parent) else {
        return Ok(Some(false));
    };
    let (new, staged) = stage.model().with_context(|| set.cannot_write())?;
    write_files(set, &new, signals)?;
    match stage
        .folder()
        .rename_with(staged, parent, name, RenameFlags::NOREPLACE)
    {
        Ok(()) => {
            parent.sync();
            Ok(Some(true))
        }
        Err(Errno::EXIST) => Ok(None),
        Err(_) => Ok(Some(false)),
    }
}

/// Returns the parent of the folder `path` and the folder's name in it, both without symbolic links.
/// Creates the parent if it does not exist. `None` if the folder has no parent.
fn place(path: &Path) -> io::Result<Option<(PathBuf, OsString)>> {
    let parts = |path: &Path| Some((path.parent()?.to_path_buf(), path.file_name()?.to_owned()));
    match path.canonicalize() {
        Ok(path) => Ok(parts(&path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Some((parent, name)) = parts(path) else {
                return Ok(None);
            };
            let here = parent.as_os_str().is_empty();
            let parent = if here { PathBuf::from(".") } else { parent };
            std::fs::create_dir_all(&parent)?;
            Ok(Some((parent.canonicalize()?, name)))
        }
        Err(error) => Err(error),
    }
}

/// Returns whether the folder `old` can be exchanged with a new one that has links to its other
/// files: it has no subfolders, access control lists or extended attributes, is on the file system
/// of `parent`, and is not the current directory, in which this process and its shell would not see
/// the new files.
fn is_exchangeable(set: &FileSet<'_>, old: &Folder, parent: &Folder) -> rustix::io::Result<bool> {
    let names = old.names()?;
    let others = names.iter().filter(|name| !set.has(name));
    if others.count() > MAX_OTHER_FILES {
        return Ok(false);
    }
    for name in &names {
        let kind = old.kind(name)?;
        if !matches!(kind, Some(FileType::RegularFile | FileType::Symlink)) {
            return Ok(false);
        }
    }
    let attributes = old.attributes()?;
    let plain = attributes.iter().all(|name| name == b"security.selinux");
    let one_file_system = old.stat()?.st_dev == parent.stat()?.st_dev;
    Ok(plain && one_file_system && !old.is_at(Path::new(".")))
}

/// Prepares `new` to take the place of `old`: the same permissions and owner, hard links to the
/// files of `old` that are not in `set`, and a lock, so that other writers wait for the end.
fn adopt(set: &FileSet<'_>, old: &Folder, new: &Folder) -> rustix::io::Result<()> {
    for name in old.names()?.iter().filter(|name| !set.has(name)) {
        old.link(name, new, name)?;
    }
    let (was, is) = (old.stat()?, new.stat()?);
    if (was.st_uid, was.st_gid) != (is.st_uid, is.st_gid) {
        return Err(Errno::PERM);
    }
    new.set_mode(Mode::from_raw_mode(was.st_mode))?;
    new.try_lock()?;
    new.sync();
    Ok(())
}

/// Moves files that other programs have created or replaced in `old` since its files were linked
/// into the folder `new`, which has taken its place. Files of `set` are not moved.
fn rescue(set: &FileSet<'_>, old: &Folder, new: &Folder) {
    let inode = |folder: &Folder, name: &OsStr| {
        let entry = folder.entry(name).ok().flatten();
        entry.map(|stat| stat.st_ino)
    };
    for name in old.names().unwrap_or_default() {
        if !set.has(&name) && inode(old, &name) != inode(new, &name) {
            // If the rename fails, the file is lost: it is removed with the stage.
            let _ = old.rename(&name, new, &name);
        }
    }
}
