//! Reads files up to a maximum size, and keeps the files of a model inside a folder.
//!
//! Each file is opened once. Its kind, its size and its real path are read from the open descriptor, so
//! that no other file can take its place between a check and the read.

use std::fmt::Write as _;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use super::{StoreError, labels};

/// Maximum size of a manifest, label or ranges file in bytes.
pub const MAX_TEXT_BYTES: u64 = 16 << 20;
/// Size of the parts in which a file is read to compute its SHA-256, in bytes.
const HASH_BUFFER: usize = 64 << 10;

/// The folder that the files of a model must not leave through symbolic links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boundary {
    /// Symbolic links may lead anywhere.
    None,
    /// The files must be in this folder or below it. Holds the folder's path without symbolic
    /// links.
    Folder(PathBuf),
}

impl Boundary {
    /// Returns the boundary at `folder`, which may itself be a symbolic link.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the folder does not exist.
    pub(super) fn at(folder: &Path) -> Result<Self, StoreError> {
        // The parent of a path such as `model.toml` is empty.
        let given = Path::new(".").join(folder);
        let real = given.canonicalize().map_err(cannot_read(folder))?;
        Ok(Self::Folder(real))
    }

    /// Reads a regular file of at most `limit` bytes inside this boundary.
    ///
    /// # Errors
    /// [`StoreError::LinkOutside`] if the path leads out of the boundary; otherwise as
    /// [`read_regular`].
    pub(super) fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, StoreError> {
        read(path, self.open(path)?, limit)
    }

    /// Returns the SHA-256 of a regular file of at most `limit` bytes inside this boundary, as 64 lower-case hexadecimal
    /// digits. The file is read in parts, so that its size takes no memory.
    ///
    /// # Errors
    /// As [`Boundary::read`].
    pub(super) fn sha256(&self, path: &Path, limit: u64) -> Result<String, StoreError> {
        sha256(path, self.open(path)?, limit)
    }

    /// Reads a text file of at most 16 MiB inside this boundary.
    ///
    /// # Errors
    /// As [`Boundary::read`], and [`StoreError::Io`] if the file is not UTF-8.
    pub(super) fn read_text(&self, path: &Path) -> Result<String, StoreError> {
        text(path, self.read(path, MAX_TEXT_BYTES)?)
    }

    /// Reads a label file inside this boundary.
    ///
    /// # Errors
    /// [`StoreError::LinkOutside`] if the path leads out of the boundary; otherwise as
    /// [`read_labels`].
    pub(super) fn read_labels(&self, path: &Path) -> Result<Vec<String>, StoreError> {
        parse_labels(path, self.open(path)?)
    }

    /// Checks that a file could be read, without reading it.
    ///
    /// # Errors
    /// As [`Boundary::read`], except for the size.
    pub(super) fn check(&self, path: &Path) -> Result<(), StoreError> {
        self.open(path).map(drop)
    }

    fn open(&self, path: &Path) -> Result<File, StoreError> {
        let file = open_regular(path)?;
        let Self::Folder(folder) = self else {
            return Ok(file);
        };
        let target = real_path(&file).map_err(cannot_read(path))?;
        if target.starts_with(folder) {
            return Ok(file);
        }
        Err(StoreError::LinkOutside {
            path: path.to_path_buf(),
            target,
            folder: folder.clone(),
        })
    }
}

/// Reads a regular text file of at most `limit` bytes, to which `path` may be a symbolic link.
///
/// # Errors
/// As [`read_regular`], and [`StoreError::Io`] if the file is not UTF-8.
pub fn read_regular_text(path: &Path, limit: u64) -> Result<String, StoreError> {
    text(path, read_regular(path, limit)?)
}

/// Reads a file of at most `limit` bytes, which may be a pipe such as `/dev/stdin`.
///
/// # Errors
/// [`StoreError::Io`] if the file cannot be read, [`StoreError::TooLarge`] if it is larger than
/// `limit`.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, StoreError> {
    read(path, File::open(path).map_err(cannot_read(path))?, limit)
}

/// Reads a regular file of at most `limit` bytes, to which `path` may be a symbolic link.
///
/// # Errors
/// [`StoreError::NotRegular`] for a folder, a pipe, a socket or a device, [`StoreError::Io`] if the
/// file cannot be read, [`StoreError::TooLarge`] if it is larger than `limit`.
pub fn read_regular(path: &Path, limit: u64) -> Result<Vec<u8>, StoreError> {
    read(path, open_regular(path)?, limit)
}

/// Reads a label file: one label per line in UTF-8, with or without a byte-order mark, at most
/// 100,000 labels of at most 1,024 bytes. Spaces at the end of a label are dropped.
///
/// # Errors
/// As [`read_regular`], and [`StoreError::Labels`] if a line is not a label.
pub fn read_labels(path: &Path) -> Result<Vec<String>, StoreError> {
    parse_labels(path, open_regular(path)?)
}

fn parse_labels(path: &Path, file: File) -> Result<Vec<String>, StoreError> {
    check_size(path, &file, MAX_TEXT_BYTES)?;
    labels::parse(io::BufReader::new(file)).map_err(|source| StoreError::Labels {
        path: path.to_path_buf(),
        source,
    })
}

/// Opens a regular file. Any other kind of file is an error without waiting for it.
fn open_regular(path: &Path) -> Result<File, StoreError> {
    // Checked before opening, because opening a device can have effects, and again on the
    // descriptor, because the path can lead to another file by then.
    require_regular(path, &path.metadata().map_err(cannot_read(path))?)?;
    // Without this flag, opening a pipe would wait for a writer.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(cannot_read(path))?;
    require_regular(path, &file.metadata().map_err(cannot_read(path))?)?;
    Ok(file)
}

fn require_regular(path: &Path, metadata: &Metadata) -> Result<(), StoreError> {
    let kind = metadata.file_type();
    let got = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a pipe (FIFO)",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(StoreError::NotRegular {
        path: path.to_path_buf(),
        got,
    })
}

/// Returns the path of an open file without symbolic links.
fn real_path(file: &File) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Reads an open file of at most `limit` bytes. `path` is its path for errors.
fn read(path: &Path, file: File, limit: u64) -> Result<Vec<u8>, StoreError> {
    let size = check_size(path, &file, limit)?;
    let mut bytes = Vec::new();
    usize::try_from(size)
        .map_err(|_| io::ErrorKind::OutOfMemory.into())
        .and_then(|size| Ok(bytes.try_reserve_exact(size)?))
        .map_err(cannot_read(path))?;
    // The size does not bound the read: a pipe has size 0, and a file can grow meanwhile.
    let mut file = file.take(limit + 1);
    file.read_to_end(&mut bytes).map_err(cannot_read(path))?;
    if bytes.len() as u64 > limit {
        return Err(too_large(path, limit));
    }
    Ok(bytes)
}

/// Returns the SHA-256 of an open file of at most `limit` bytes. `path` is its path for errors.
fn sha256(path: &Path, file: File, limit: u64) -> Result<String, StoreError> {
    check_size(path, &file, limit)?;
    // A file can grow meanwhile.
    let mut file = file.take(limit + 1);
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; HASH_BUFFER]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => hash.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(cannot_read(path)(error)),
        }
    }
    if file.limit() == 0 {
        return Err(too_large(path, limit));
    }
    let mut digits = String::new();
    for byte in hash.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    Ok(digits)
}

/// Returns the size of an open file in bytes, or an error if it is above `limit`.
fn check_size(path: &Path, file: &File, limit: u64) -> Result<u64, StoreError> {
    let size = file.metadata().map_err(cannot_read(path))?.len();
    if size > limit {
        return Err(too_large(path, limit));
    }
    Ok(size)
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String, StoreError> {
    String::from_utf8(bytes)
        .map_err(|error| cannot_read(path)(io::Error::new(io::ErrorKind::InvalidData, error)))
}

fn too_large(path: &Path, limit: u64) -> StoreError {
    StoreError::TooLarge {
        path: path.to_path_buf(),
        limit,
    }
}

fn cannot_read(path: &Path) -> impl Fn(io::Error) -> StoreError {
    |source| StoreError::io(path, source)
}
