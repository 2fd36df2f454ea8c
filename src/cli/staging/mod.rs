//! Writes the files of a model so that their folder holds the old model or the new one at every
//! instant, even if the process is killed or another process writes into the same folder.
//!
//! 1. A writer locks the folder of the model (`flock` on the folder itself). A second writer waits.
//! 2. It writes all files into a stage, a fresh folder with a random name and mode 0700. The stage is
//!    locked while its writer lives. The next writer removes stages of dead writers.
//! 3. A model in a folder of its own is staged beside that folder, with hard links to the folder's
//!    other files, and the two folders are exchanged in one step (`RENAME_EXCHANGE`). A folder that
//!    does not exist yet is renamed into place. See [`exchange`].
//! 4. If the folders cannot be exchanged (the output is `birds.onnx`, or the folder has subfolders, is a
//!    mount point or the current directory), the files are staged inside the folder and renamed one by
//!    one: the manifest first, the network last. The manifest has the SHA-256 of the graphs, so until the last
//!    rename the model fails to load rather than mix two models. A failed rename is undone; the next
//!    writer completes the renames of a writer that was killed. See [`ordered`].
//! 5. A writer that has read files of the folder states their contents ([`FileSet::expect`]). If one of
//!    them differs once the folder is locked, nothing is written ([`StoreError::Changed`]).
//! 6. A model is removed by hiding its folder first. See [`removal`].
//! 7. SIGINT, SIGTERM and SIGHUP are deferred until the stage is removed. See [`signals`].
//!
//! Files are opened relative to their folder's descriptor, are always new (`O_EXCL`) and never
//! follow symbolic links. A link with the name of an output file is replaced, not followed.

mod exchange;
mod folder;
mod ordered;
mod removal;
mod signals;
mod stage;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::FileType;
use rustix::io::Errno;
use sightline::store::{MAX_TEXT_BYTES, StoreError, read_regular};

use super::say::complain;
use folder::{Folder, Lock};
pub(super) use removal::{complete_removal, remove_model};
use signals::Deferred;
use stage::sweep;

/// Time after which a writer that waits for the lock prints a message.
const SILENT_WAIT: Duration = Duration::from_secs(1);
/// Time after which a writer that waits for the lock fails.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// Time between two attempts to lock a folder.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// Files to be written into one folder, in the order in which they may become visible one by one:
/// the manifest first, the graph of the network last.
pub(super) struct FileSet<'a> {
    folder: PathBuf,
    files: Vec<NewFile<'a>>,
    /// Names and contents of files that the new files were made from. `None` for a file that did not
    /// exist.
    expected: Vec<(OsString, Option<&'a [u8]>)>,
}

/// The name and content of a file to be written.
struct NewFile<'a> {
    name: OsString,
    content: &'a [u8],
}

impl<'a> FileSet<'a> {
    /// Creates an empty set of files in `folder`, which need not exist.
    pub(super) fn new(folder: &Path) -> Self {
        let here = folder.as_os_str().is_empty();
        Self {
            folder: if here {
                PathBuf::from(".")
            } else {
                folder.to_path_buf()
            },
            files: Vec::new(),
            expected: Vec::new(),
        }
    }

    /// Adds a file with the file name of `path`.
    pub(super) fn add(&mut self, path: &Path, content: &'a [u8]) {
        let name = path.file_name().unwrap_or_default().to_owned();
        self.files.push(NewFile { name, content });
    }

    /// Requires that the file with the file name of `path` has this `content`, or does not exist if
    /// `content` is `None`, when the folder is locked for writing.
    pub(super) fn expect(&mut self, path: &Path, content: Option<&'a [u8]>) {
        let name = path.file_name().unwrap_or_default().to_owned();
        self.expected.push((name, content));
    }

    /// Writes the files as a model that has the folder for itself: all files become visible in one
    /// step if the file system allows it.
    ///
    /// # Errors
    /// If a file cannot be written or another process keeps the folder locked, or
    /// [`StoreError::Changed`] if an expected file differs. The folder is then unchanged.
    pub(super) fn write_folder(&self) -> Result<()> {
        let signals = Deferred::begin();
        if exchange::write(self, &signals)? {
            return Ok(());
        }
        ordered::write(self, &signals)
    }

    /// Writes the files beside other files: they become visible one by one, in their order.
    ///
    /// # Errors
    /// If a file cannot be written or another process keeps the folder locked, or
    /// [`StoreError::Changed`] if an expected file differs. The folder is then unchanged, unless a
    /// rename failed and could not be undone.
    pub(super) fn write_beside(&self) -> Result<()> {
        ordered::write(self, &Deferred::begin())
    }

    /// Returns whether the set has a file of this name.
    fn has(&self, name: &OsStr) -> bool {
        self.files.iter().any(|file| file.name == *name)
    }

    fn cannot_write(&self) -> String {
        format!("cannot write into the folder {}", self.folder.display())
    }
}

/// Writes one file, and replaces an existing file or symbolic link of the same name. Its folder must
/// exist.
///
/// # Errors
/// If the file cannot be written. An existing file is then unchanged.
pub(super) fn write_file(path: &Path, content: &[u8]) -> Result<()> {
    let mut set = FileSet::new(path.parent().unwrap_or(Path::new("")));
    set.add(path, content);
    let signals = Deferred::begin();
    let folder = Folder::open(&set.folder).with_context(|| set.cannot_write())?;
    ordered::publish(&set, &folder, &signals)
}

/// Removes the stages that killed writers of [`write_file`] have left in the folder `path`.
pub(super) fn clean(path: &Path) {
    if let Ok(folder) = Folder::open(path) {
        sweep(&folder);
    }
}

/// Checks that the names of `files` can be replaced in `folder`.
///
/// # Errors
/// If a name belongs to a folder, a named pipe, a device or a socket.
fn check_names(set: &FileSet<'_>, folder: &Folder) -> Result<()> {
    for NewFile { name, .. } in &set.files {
        let path = || set.folder.join(name).display().to_string();
        let found = folder
            .kind(name)
            .with_context(|| format!("cannot write {}", path()))?;
        let what = match found {
            None | Some(FileType::RegularFile | FileType::Symlink) => continue,
            Some(FileType::Directory) => "a folder",
            Some(FileType::Fifo) => "a named pipe",
            Some(_) => "a device or a socket",
        };
        bail!("cannot write {}: {what} has this name", path());
    }
    Ok(())
}

/// Checks that every expected file of `set` still has its content.
///
/// # Errors
/// [`StoreError::Changed`] if a file differs, does not exist any more or has been created.
fn check_expected(set: &FileSet<'_>) -> Result<()> {
    for (name, expected) in &set.expected {
        let path = set.folder.join(name);
        let now = read_regular(&path, MAX_TEXT_BYTES).ok();
        if now.as_deref() != *expected {
            return Err(StoreError::Changed { path }.into());
        }
    }
    Ok(())
}

/// Waits until this process has locked the folder at `path`. Returns `None` if the folder does not
/// exist. A folder on a file system without locks is returned without one.
///
/// # Errors
/// If `path` is not a folder, if another process keeps the lock for a minute, or at a signal.
fn lock(path: &Path, signals: &Deferred) -> Result<Option<Folder>> {
    let started = Instant::now();
    let mut announced = false;
    loop {
        let folder = match Folder::open(path) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened?,
        };
        match folder.try_lock()? {
            Lock::Unsupported => return Ok(Some(folder)),
            // Another writer may have put a new folder in the place of the one that was locked.
            Lock::Held if folder.is_at(path) => return Ok(Some(folder)),
            Lock::Held => {}
            Lock::Busy if started.elapsed() > LONGEST_WAIT => bail!(
                "another process has been writing into it for {} s: wait until it ends or stop it, \
                 then try again",
                LONGEST_WAIT.as_secs()
            ),
            Lock::Busy => {
                if !announced && started.elapsed() > SILENT_WAIT {
                    let path = path.display();
                    complain!("waiting for another process that writes into {path}");
                    announced = true;
                }
                std::thread::sleep(LOCK_INTERVAL);
            }
        }
        signals.check()?;
    }
}
