//! An open folder, and operations on its entries that do not depend on the folder's path.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    self, AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat,
};
use rustix::io::{Errno, Result};

/// Flags for opening a folder. A named pipe or device with the folder's name is an error and does
/// not block.
const OPEN_FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);
/// Flags for creating a file, which must not exist yet.
const CREATE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// An open folder.
pub(super) struct Folder(OwnedFd);

/// The result of locking a folder.
pub(super) enum Lock {
    /// The lock belongs to this process until the folder is closed.
    Held,
    /// Another process has the lock.
    Busy,
    /// The file system has no locks for folders.
    Unsupported,
}

impl Folder {
    /// Opens the folder at `path`, which may be a symbolic link to a folder.
    pub(super) fn open(path: &Path) -> Result<Self> {
        fs::openat(CWD, path, OPEN_FOLDER, Mode::empty()).map(Self)
    }

    /// Opens the subfolder `name`. A symbolic link is an error.
    pub(super) fn subfolder(&self, name: &OsStr) -> Result<Self> {
        fs::openat(&self.0, name, OPEN_FOLDER | OFlags::NOFOLLOW, Mode::empty()).map(Self)
    }

    /// Creates the subfolder `name`, which must not exist, and opens it. The process's umask
    /// applies to `mode`.
    pub(super) fn create_subfolder(&self, name: &OsStr, mode: Mode) -> Result<Self> {
        fs::mkdirat(&self.0, name, mode)?;
        self.subfolder(name)
    }

    /// Creates the file `name`, which must not exist, and opens it for writing.
    pub(super) fn create_file(&self, name: &OsStr) -> Result<std::fs::File> {
        let mode = Mode::from_raw_mode(0o666);
        Ok(fs::openat(&self.0, name, CREATE, mode)?.into())
    }

    /// Tries to lock the folder without waiting.
    pub(super) fn try_lock(&self) -> Result<Lock> {
        match fs::flock(&self.0, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock::Held),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(Lock::Busy),
            // Network file systems implement locks with other calls, which may need write access.
            Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::BADF | Errno::INVAL) => {
                Ok(Lock::Unsupported)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns device, inode, owner and mode of the folder.
    pub(super) fn stat(&self) -> Result<Stat> {
        fs::fstat(&self.0)
    }

    /// Returns device, inode, owner and type of the entry `name`, without following symbolic links.
    /// `None` if there is no entry of that name.
    pub(super) fn entry(&self, name: &OsStr) -> Result<Option<Stat>> {
        match fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            found => found.map(Some),
        }
    }

    /// Returns the type of the entry `name`. `None` if there is no entry of that name.
    pub(super) fn kind(&self, name: &OsStr) -> Result<Option<FileType>> {
        let entry = self.entry(name)?;
        Ok(entry.map(|stat| FileType::from_raw_mode(stat.st_mode)))
    }

    /// Returns whether `path` is the path of this folder.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        matches!((self.stat(), fs::stat(path)), (Ok(own), Ok(other)) if same(&own, &other))
    }

    /// Returns whether the subfolder `name` of `parent` is this folder.
    pub(super) fn is_in(&self, parent: &Self, name: &OsStr) -> bool {
        matches!((self.stat(), parent.entry(name)), (Ok(own), Ok(Some(other))) if same(&own, &other))
    }

    /// Returns whether this process may create and remove files in the folder.
    pub(super) fn check_writable(&self) -> Result<()> {
        let access = fs::Access::WRITE_OK | fs::Access::EXEC_OK;
        fs::accessat(&self.0, ".", access, AtFlags::EACCESS)
    }

    /// Returns the names of all entries, without `.` and `..`.
    pub(super) fn names(&self) -> Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    /// Returns the names of the folder's extended attributes, which include access control lists.
    pub(super) fn attributes(&self) -> Result<Vec<Vec<u8>>> {
        let size = fs::flistxattr(&self.0, &mut [0_u8; 0][..]);
        let mut list = match size {
            Ok(0) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
            Ok(size) => vec![0_u8; size],
            Err(error) => return Err(error),
        };
        let size = fs::flistxattr(&self.0, &mut list[..])?;
        let names = list[..size].split(|byte| *byte == 0);
        Ok(names
            .filter(|name| !name.is_empty())
            .map(<[u8]>::to_vec)
            .collect())
    }

    /// Sets the permissions of the folder.
    pub(super) fn set_mode(&self, mode: Mode) -> Result<()> {
        fs::fchmod(&self.0, mode)
    }

    /// Renames the entry `name` to `to` in the folder `other`, and replaces an existing file.
    pub(super) fn rename(&self, name: &OsStr, other: &Self, to: &OsStr) -> Result<()> {
        fs::renameat(&self.0, name, &other.0, to)
    }

    /// Renames the entry `name` to `to` in the folder `other`. `flags` says what happens to an
    /// existing entry.
    pub(super) fn rename_with(
        &self,
        name: &OsStr,
        other: &Self,
        to: &OsStr,
        flags: RenameFlags,
    ) -> Result<()> {
        fs::renameat_with(&self.0, name, &other.0, to, flags)
    }

    /// Creates a hard link `to` in the folder `other` to the file or symbolic link `name`.
    pub(super) fn link(&self, name: &OsStr, other: &Self, to: &OsStr) -> Result<()> {
        fs::linkat(&self.0, name, &other.0, to, AtFlags::empty())
    }

    /// Removes the file or symbolic link `name`.
    pub(super) fn remove_file(&self, name: &OsStr) -> Result<()> {
        fs::unlinkat(&self.0, name, AtFlags::empty())
    }

    /// Removes the empty subfolder `name`.
    pub(super) fn remove_subfolder(&self, name: &OsStr) -> Result<()> {
        fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)
    }

    /// Waits until the folder's entries are on the disk. Some file systems cannot do this for a
    /// folder; the error is ignored, because the files' contents were synchronized on their own.
    pub(super) fn sync(&self) {
        let _ = fs::fsync(&self.0);
    }
}

fn same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}
