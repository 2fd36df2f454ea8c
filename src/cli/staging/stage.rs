//! Stages: folders of new files that are not visible under their final names yet.

use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, RandomState};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::folder::{Folder, Lock};
use super::signals::Deferred;
use super::{FileSet, NewFile};

/// Start of the name of a stage whose files are not to be published if its writer dies.
const STAGE: &str = ".sightline-stage-";
/// Start of the name of a stage whose files are being renamed into the folder that contains it.
const COMMITTED: &str = ".sightline-commit-";
/// Start of the name of a hard link, in a stage, to a file that the stage's file will replace.
const OLD: &str = ".old-";
/// Name of the subfolder of a stage that is exchanged with a model's folder.
const MODEL: &str = "model";
/// Number of bytes that are written between two checks for a signal.
const CHUNK: usize = 4 << 20;
/// Number of random names that are tried for a stage.
const ATTEMPTS: usize = 16;

/// A locked stage, which is removed when it is dropped.
pub(super) struct Stage<'a> {
    parent: &'a Folder,
    name: OsString,
    folder: Folder,
}

impl<'a> Stage<'a> {
    /// Creates an empty stage in `parent`.
    pub(super) fn new(parent: &'a Folder) -> rustix::io::Result<Self> {
        for attempt in 0..ATTEMPTS {
            let random = RandomState::new().hash_one((std::process::id(), attempt));
            let name = OsString::from(format!("{STAGE}{random:016x}"));
            let folder = match parent.create_subfolder(&name, Mode::RWXU) {
                Ok(folder) => folder,
                // Another process has a stage of this name, or removed this one as abandoned before
                // it could be opened.
                Err(Errno::EXIST | Errno::NOENT) => continue,
                Err(error) => return Err(error),
            };
            // Another process may have removed the stage before it was locked.
            if !matches!(folder.try_lock()?, Lock::Busy) && folder.is_in(parent, &name) {
                return Ok(Self {
                    parent,
                    name,
                    folder,
                });
            }
        }
        Err(Errno::AGAIN)
    }

    /// Returns the stage's folder.
    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Creates the subfolder of the stage that will be exchanged with a model's folder.
    pub(super) fn model(&self) -> rustix::io::Result<(Folder, &'static OsStr)> {
        let name = OsStr::new(MODEL);
        let model = self
            .folder
            .create_subfolder(name, Mode::RWXU | Mode::RWXG | Mode::RWXO)?;
        Ok((model, name))
    }

    /// Links the files of `parent` that `set` will replace into the stage, up to the first one that
    /// cannot be linked. Returns how many files of the set can be replaced and restored.
    pub(super) fn keep_old(&self, set: &FileSet<'_>) -> usize {
        let linked = set.files.iter().take_while(|NewFile { name, .. }| {
            let linked = self.parent.link(name, &self.folder, &old(name));
            matches!(linked, Ok(()) | Err(Errno::NOENT))
        });
        linked.count()
    }

    /// Gives the stage the name that lets the next writer complete the renames.
    pub(super) fn commit(&mut self) -> rustix::io::Result<()> {
        let random = self.name.to_string_lossy().replace(STAGE, "");
        let name = OsString::from(format!("{COMMITTED}{random}"));
        self.parent.rename(&self.name, self.parent, &name)?;
        self.name = name;
        Ok(())
    }

    /// Undoes the renames of the files `names` from the stage into `parent`. All of them must be
    /// among the files that [`Stage::keep_old`] has counted.
    pub(super) fn undo<'n>(&self, names: impl Iterator<Item = &'n OsString>) {
        for name in names {
            // An error here leaves a mix, which the hashes in the manifest reveal. The error of the
            // rename is returned.
            if self.folder.rename(&old(name), self.parent, name) == Err(Errno::NOENT) {
                let _ = self.parent.remove_file(name);
            }
        }
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        remove(self.parent, &self.name, &self.folder);
    }
}

/// Writes the files of `set` into `folder`, which must not have files of these names, and waits
/// until they are on the disk.
pub(super) fn write_files(set: &FileSet<'_>, folder: &Folder, signals: &Deferred) -> Result<()> {
    for NewFile { name, content } in &set.files {
        let write = || -> Result<()> {
            let mut file = folder.create_file(name)?;
            for chunk in content.chunks(CHUNK) {
                signals.check()?;
                file.write_all(chunk)?;
            }
            Ok(file.sync_all()?)
        };
        let path = || set.folder.join(name).display().to_string();
        write().with_context(|| format!("cannot write {}", path()))?;
    }
    folder.sync();
    signals.check()
}

/// Removes the stages of dead writers from `folder`. Errors are ignored: an abandoned stage is
/// harmless.
pub(super) fn sweep(folder: &Folder) {
    for (name, stage) in abandoned(folder, STAGE) {
        remove(folder, &name, &stage);
    }
}

/// Completes the renames of dead writers in `folder`, which must be locked. A rename that fails is
/// not tried again, since its file could later replace a newer one. A stage that contains anything but
/// files, or would replace anything but files, was not made by a writer; it is removed without renames.
pub(super) fn complete(folder: &Folder) {
    for (name, stage) in abandoned(folder, COMMITTED) {
        let mut files = stage.names().unwrap_or_default();
        files.retain(|file| !file.to_string_lossy().starts_with(OLD));
        let is_file = |file| stage.kind(file) == Ok(Some(FileType::RegularFile));
        let replaces_file = |file| {
            let replaced = folder.kind(file);
            matches!(
                replaced,
                Ok(None | Some(FileType::RegularFile | FileType::Symlink))
            )
        };
        if !files
            .iter()
            .all(|file| is_file(file) && replaces_file(file))
        {
            files.clear();
        }
        // Graphs are renamed last, as in a `FileSet`.
        files.sort_by_key(|file| Path::new(file).extension() == Some(OsStr::new("onnx")));
        for file in files {
            let _ = stage.rename(&file, folder, &file);
        }
        remove(folder, &name, &stage);
    }
}

/// Returns the stages in `folder` that start with `prefix` and that this process could lock, because
/// their writers are dead. Stages of other users are left alone.
fn abandoned(folder: &Folder, prefix: &str) -> Vec<(OsString, Folder)> {
    let names = folder.names().unwrap_or_default().into_iter();
    let names = names.filter(|name| name.to_string_lossy().starts_with(prefix));
    let stages = names.filter_map(|name| {
        let stage = folder.subfolder(&name).ok()?;
        let own = stage.stat().ok()?.st_uid == geteuid().as_raw();
        let dead = own && matches!(stage.try_lock(), Ok(Lock::Held));
        dead.then_some((name, stage))
    });
    stages.collect()
}

/// Removes the stage `name` of `parent` with its files and the files of its subfolder [`MODEL`].
/// Errors are ignored: whatever remains is removed by the next writer.
fn remove(parent: &Folder, name: &OsStr, stage: &Folder) {
    for entry in stage.names().unwrap_or_default() {
        if entry == MODEL && stage.kind(&entry) == Ok(Some(FileType::Directory)) {
            if let Ok(model) = stage.subfolder(&entry) {
                for file in model.names().unwrap_or_default() {
                    let _ = model.remove_file(&file);
                }
            }
            let _ = stage.remove_subfolder(&entry);
        } else {
            let _ = stage.remove_file(&entry);
        }
    }
    let _ = parent.remove_subfolder(name);
}

/// Returns the name of the hard link to the old file `name`.
fn old(name: &OsStr) -> OsString {
    let mut old = OsString::from(OLD);
    old.push(name);
    old
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn renames_are_undone() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("a"), "old a").unwrap();
        let mut set = FileSet::new(directory.path());
        set.add(Path::new("a"), b"new a");
        set.add(Path::new("b"), b"new b");
        let folder = Folder::open(directory.path()).unwrap();
        let stage = Stage::new(&folder).unwrap();
        write_files(&set, stage.folder(), &Deferred::begin()).unwrap();
        assert_eq!(stage.keep_old(&set), 2);
        for NewFile { name, .. } in &set.files {
            stage.folder().rename(name, &folder, name).unwrap();
        }
        assert_eq!(fs::read(at("b")).unwrap(), b"new b");
        stage.undo(set.files.iter().rev().map(|file| &file.name));
        drop(stage);
        assert_eq!(fs::read(at("a")).unwrap(), b"old a");
        assert_eq!(folder.names().unwrap(), ["a"]);
    }

    #[test]
    fn stages_of_living_writers_stay() {
        let directory = tempfile::tempdir().unwrap();
        let (folder, other) = (
            Folder::open(directory.path()).unwrap(),
            Folder::open(directory.path()).unwrap(),
        );
        let stage = Stage::new(&folder).unwrap();
        sweep(&other);
        assert_eq!(other.names().unwrap(), std::slice::from_ref(&stage.name));
        let abandoned = OsStr::new(".sightline-stage-0");
        other.create_subfolder(abandoned, Mode::RWXU).unwrap();
        sweep(&other);
        assert_eq!(other.names().unwrap(), std::slice::from_ref(&stage.name));
    }
}
