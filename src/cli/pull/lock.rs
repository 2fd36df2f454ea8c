//! A lock for one checkpoint, so that two commands do not download the same file at the same time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::OFlags;

/// Time between two attempts to lock.
const INTERVAL: Duration = Duration::from_millis(100);

/// An exclusive lock on a file, which is removed with the lock.
pub(super) struct Lock {
    /// Holds the lock of the operating system until it is closed.
    _file: File,
    path: PathBuf,
}

impl Lock {
    /// Waits until this process has the lock at `path`. Calls `waiting` once if another process has it.
    ///
    /// # Errors
    /// If the file cannot be created or locked.
    pub(super) fn wait(path: PathBuf, waiting: impl FnOnce()) -> Result<Self> {
        let mut waiting = Some(waiting);
        loop {
            let file = open(&path).with_context(|| format!("cannot create {}", path.display()))?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => return Ok(Self { _file: file, path }),
                // The process that had the lock has removed the file.
                Ok(()) => continue,
                Err(TryLockError::WouldBlock) => {}
                // Without locks, two processes write one part, whose hash is then wrong.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    return Ok(Self { _file: file, path });
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
            if let Some(waiting) = waiting.take() {
                waiting();
            }
            std::thread::sleep(INTERVAL);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While the lock is held, so that nobody else holds a lock on the removed file.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)
}

/// Returns whether `path` still leads to `file`.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let (own, there) = (file.metadata().map(id), path.symlink_metadata().map(id));
    matches!((own, there), (Ok(own), Ok(there)) if own == there)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let (holders, waited) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let path = folder.path().join("x.lock");
                    let lock = Lock::wait(path, || {
                        waited.fetch_add(1, Ordering::SeqCst);
                    });
                    let _lock = lock.unwrap();
                    assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                    std::thread::sleep(INTERVAL / 4);
                    holders.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert!(waited.into_inner() > 0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
