//! Folders of cache entries: whose files are trusted, how entries are written, and which are removed.
//!
//! A folder and its files are used only if they belong to the user of this process or to root, and nobody else may write
//! to them. Files are opened relative to the open folder and never through symbolic links, and the checks apply to the
//! open descriptor, so that nothing can take their place between a check and a read. An entry is written to a new file
//! with another name, and renamed when it is complete.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    self, AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, Stat, Timespec, Timestamps,
    UTIME_NOW,
};
use rustix::io::Errno;
use rustix::process::geteuid;
use thiserror::Error;

/// End of the name of every entry.
pub(super) const SUFFIX: &str = ".networks";
/// Start of the name of a file that is not complete.
const NEW: &str = ".new-";
/// Age up to which an incomplete file stays: its writer may not have locked it yet.
const YOUNG: Duration = Duration::from_mins(1);
/// Maximum size of all entries of a folder together, in bytes. The entries that were not used for the longest time are
/// removed to make room.
const MAX_TOTAL: u64 = 2 << 30;
/// Maximum size of an entry in bytes, so that one model does not displace all others.
const MAX_ENTRY: u64 = MAX_TOTAL / 2;
/// Flags for reading an entry. A named pipe does not block.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);
/// Flags for creating a file, which must not exist yet.
const CREATE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// An open folder of cache entries that nobody else may write to.
pub(super) struct Place(OwnedFd);

/// Why a folder of the cache or one of its files cannot be used.
#[derive(Debug, Error)]
pub(super) enum PlaceError {
    /// The operation failed.
    #[error("cannot {what}")]
    Io {
        /// What failed, such as `open the folder`.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The folder or file belongs to another user.
    #[error("the {what} belongs to user {owner}, expected this process's user or root")]
    Owner {
        /// `folder` or `file`.
        what: &'static str,
        /// User id of the owner.
        owner: u32,
    },
    /// Others may write to the folder or file.
    #[error("the {what} has mode {mode:o}: expected one in which only its owner may write")]
    Mode {
        /// `folder` or `file`.
        what: &'static str,
        /// Permission bits.
        mode: u32,
    },
    /// The entry is a link, a folder, a pipe or a device.
    #[error("the file is not a regular file")]
    Kind,
    /// The entry is too large.
    #[error("the file has {size} bytes, expected at most {MAX_ENTRY}")]
    Size {
        /// Size in bytes.
        size: u64,
    },
}

impl PlaceError {
    /// Returns whether the folder or file does not exist.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

fn cannot(what: &'static str) -> impl Fn(Errno) -> PlaceError {
    move |error| PlaceError::Io {
        what,
        source: error.into(),
    }
}

impl Place {
    /// Opens the folder at `path`, which may be a symbolic link to a folder.
    ///
    /// # Errors
    /// [`PlaceError`] if the folder does not exist, or if others may write to it.
    pub(super) fn open(path: &Path) -> Result<Self, PlaceError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let folder = fs::openat(CWD, path, flags, Mode::empty());
        let folder = folder.map_err(cannot("open the folder"))?;
        let stat = fs::fstat(&folder).map_err(cannot("read the owner of the folder"))?;
        check_owner("folder", &stat)?;
        Ok(Self(folder))
    }

    /// Opens the folder at `path`, which is created with mode 0700 if it does not exist, as its parents are.
    ///
    /// # Errors
    /// As [`Place::open`], and if the folder cannot be created.
    pub(super) fn create(path: &Path) -> Result<Self, PlaceError> {
        match Self::open(path) {
            Err(error) if error.is_absent() => {}
            opened => return opened,
        }
        let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
        created.map_err(|source| PlaceError::Io {
            what: "create the folder",
            source,
        })?;
        Self::open(path)
    }

    /// Opens the entry `name`, and returns its size in bytes.
    ///
    /// # Errors
    /// [`PlaceError`] if there is no such file, if others may write to it, or if it is too large.
    pub(super) fn read(&self, name: &OsStr) -> Result<(File, u64), PlaceError> {
        let file = match fs::openat(&self.0, name, READ, Mode::empty()) {
            // A symbolic link, a socket, or a device without a driver.
            Err(Errno::LOOP | Errno::NXIO | Errno::NODEV) => return Err(PlaceError::Kind),
            opened => opened.map_err(cannot("open the file"))?,
        };
        let stat = fs::fstat(&file).map_err(cannot("read the owner of the file"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(PlaceError::Kind);
        }
        check_owner("file", &stat)?;
        let size = size_of(&stat);
        if size > MAX_ENTRY {
            return Err(PlaceError::Size { size });
        }
        Ok((file.into(), size))
    }

    /// Marks the entry `name` as used now. Without the permission it keeps its time, and is removed earlier.
    pub(super) fn touch(&self, name: &OsStr) {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        let _ = fs::utimensat(&self.0, name, &times, AtFlags::SYMLINK_NOFOLLOW);
    }

    /// Writes the entry `name`. `content` writes into a new file, which replaces an existing one when it is complete.
    ///
    /// # Errors
    /// The error of `content`, or [`PlaceError`] if the file cannot be created or renamed. An existing entry is then
    /// unchanged.
    pub(super) fn write<E: From<PlaceError>>(
        &self,
        name: &OsStr,
        content: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<(), E> {
        self.sweep();
        let random = RandomState::new().hash_one(std::process::id());
        let new = OsString::from(format!("{NEW}{random:016x}"));
        let mode = Mode::RUSR | Mode::WUSR;
        let file = fs::openat(&self.0, &new, CREATE, mode).map_err(cannot("create a file"))?;
        // Tells the sweeps of other processes that the writer lives. File systems without locks keep abandoned files.
        let _ = fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        let file = File::from(file);
        let written = content(&file).and_then(|()| Ok(self.publish(&file, &new, name)?));
        if written.is_err() {
            let _ = fs::unlinkat(&self.0, &new, AtFlags::empty());
        }
        written
    }

    /// Makes room for the complete file `new`, and gives it the name of its entry.
    fn publish(&self, file: &File, new: &OsStr, name: &OsStr) -> Result<(), PlaceError> {
        let stat = fs::fstat(file).map_err(cannot("read the size of the file"))?;
        let size = size_of(&stat);
        if size > MAX_ENTRY {
            return Err(PlaceError::Size { size });
        }
        self.evict(MAX_TOTAL - size);
        fs::renameat(&self.0, new, &self.0, name).map_err(cannot("rename the new file"))
    }

    /// Removes the entries that were not used for the longest time, until all of them together have at most `limit`
    /// bytes. Errors are ignored: the next write tries again.
    pub(super) fn evict(&self, limit: u64) {
        let mut entries: Vec<_> = self
            .files(|name| name.ends_with(SUFFIX.as_bytes()))
            .collect();
        entries.sort_by_key(|(_, stat)| std::cmp::Reverse((stat.st_mtime, stat.st_mtime_nsec)));
        let mut total: u64 = 0;
        for (name, stat) in entries {
            total = total.saturating_add(size_of(&stat));
            if total > limit {
                let _ = fs::unlinkat(&self.0, &name, AtFlags::empty());
            }
        }
    }

    /// Removes the incomplete files of writers that have ended.
    fn sweep(&self) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        for (name, stat) in self.files(|name| name.starts_with(NEW.as_bytes())) {
            let written = u64::try_from(stat.st_mtime).unwrap_or_default();
            if written + YOUNG.as_secs() > now.as_secs() {
                continue;
            }
            let Ok(file) = fs::openat(&self.0, &name, READ, Mode::empty()) else {
                continue;
            };
            if fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let _ = fs::unlinkat(&self.0, &name, AtFlags::empty());
            }
        }
    }

    /// Returns the regular files of the folder whose names `select` accepts.
    fn files(&self, select: impl Fn(&[u8]) -> bool) -> impl Iterator<Item = (OsString, Stat)> {
        let entries = Dir::read_from(&self.0).into_iter().flatten().flatten();
        let names = entries.map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
        let selected = names.filter(move |name| select(name.as_bytes()));
        selected.filter_map(|name| {
            let stat = fs::statat(&self.0, &name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            is_file.then_some((name, stat))
        })
    }
}

fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

/// Checks that nobody but the user of this process and root may write to the folder or file `what`.
fn check_owner(what: &'static str, stat: &Stat) -> Result<(), PlaceError> {
    let owner = stat.st_uid;
    if owner != geteuid().as_raw() && owner != 0 {
        return Err(PlaceError::Owner { what, owner });
    }
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.intersects(Mode::WGRP | Mode::WOTH) {
        let mode = mode.as_raw_mode();
        return Err(PlaceError::Mode { what, mode });
    }
    Ok(())
}
