//! The part of a file that has arrived, which a later download continues.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::DownloadError;
use crate::store::read_regular;

/// Number of bytes that are read from a file at a time.
const CHUNK: usize = 1 << 20;
/// Maximum size of the file with the state of a part, in bytes.
const MAX_STATE: u64 = 16 << 10;
/// Maximum size of an entity tag, in bytes.
const MAX_TAG: usize = 256;

/// What is known about the file on the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Version {
    /// URL of the file, as it is shown in messages.
    pub(super) url: String,
    /// Strong entity tag. `None` if the server sends none.
    pub(super) tag: Option<String>,
    /// Size of the whole file in bytes. `None` if the server does not state it.
    pub(super) total: Option<u64>,
}

impl Version {
    /// Returns the tag if it is strong, not too long, and can be sent back in a header.
    pub(super) fn usable_tag(tag: &str) -> Option<String> {
        let quoted = tag.len() >= 2 && tag.starts_with('"') && tag.ends_with('"');
        let plain = tag.bytes().all(|byte| byte.is_ascii_graphic());
        (quoted && plain && tag.len() <= MAX_TAG).then(|| tag.to_owned())
    }
}

/// A file `NAME.part` with the first bytes of the file `NAME`, and `NAME.part.json` with their [`Version`].
pub(super) struct Part {
    file: File,
    path: PathBuf,
    state: PathBuf,
    /// Final path.
    to: PathBuf,
    hash: Sha256,
    length: u64,
    version: Version,
    /// Whether the bytes come from more than one response, which may have been different files.
    spliced: bool,
}

impl Part {
    /// Opens the part of the file `to`, or creates an empty one, and reads what has arrived.
    ///
    /// # Errors
    /// [`DownloadError::Disk`] if the file cannot be read or created, or is not a regular file.
    pub(super) fn open(to: &Path) -> Result<Self, DownloadError> {
        let path = beside(to, ".part");
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(&path)
            .and_then(regular);
        let mut file = opened.map_err(|source| disk("open", &path, source))?;
        let state = beside(to, ".part.json");
        let version = read_regular(&state, MAX_STATE).ok();
        let version = version.and_then(|json| serde_json::from_slice(&json).ok());
        let mut hash = Sha256::new();
        let read = copy_into(&mut hash, &mut file);
        let length = read.map_err(|source| disk("read", &path, source))?;
        Ok(Self {
            file,
            path,
            state,
            to: to.to_path_buf(),
            hash,
            length,
            version: version.unwrap_or_default(),
            spliced: length > 0,
        })
    }

    /// Returns the number of bytes that have arrived.
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// Returns the path of the file with the bytes that have arrived.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what was known about the file when its bytes arrived.
    pub(super) fn version(&self) -> &Version {
        &self.version
    }

    /// Returns whether the bytes come from more than one response.
    pub(super) fn is_spliced(&self) -> bool {
        self.spliced
    }

    /// Appends bytes of the file.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), DownloadError> {
        let written = self.file.write_all(bytes);
        if let Err(source) = written {
            // What was written of the bytes is not counted, so that length, hash and file agree.
            let _ = self.file.set_len(self.length);
            return Err(disk("write", &self.path, source));
        }
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Records which file the next bytes belong to. They continue the part, or start it if it is empty.
    pub(super) fn expect(&mut self, version: Version) -> Result<(), DownloadError> {
        self.spliced = self.length > 0;
        if version == self.version && self.state.exists() {
            return Ok(());
        }
        let json = serde_json::to_vec(&version).unwrap_or_default();
        let written = replace(&self.state, &json);
        written.map_err(|source| disk("write", &self.state, source))?;
        self.version = version;
        Ok(())
    }

    /// Drops all bytes, so that the next ones are the first of the file.
    pub(super) fn restart(&mut self) -> Result<(), DownloadError> {
        let emptied = self.file.set_len(0).and_then(|()| rewind(&mut self.file));
        emptied.map_err(|source| disk("write", &self.path, source))?;
        self.hash = Sha256::new();
        self.length = 0;
        self.version = Version::default();
        self.spliced = false;
        Ok(())
    }

    /// Returns the SHA-256 of the bytes that have arrived, 64 hexadecimal digits.
    pub(super) fn sha256(&self) -> String {
        hex(&self.hash.clone().finalize())
    }

    /// Gives the file its final name, after its bytes are on the disk.
    pub(super) fn publish(self) -> Result<(), DownloadError> {
        let synced = self.file.sync_all();
        synced.map_err(|source| disk("write", &self.path, source))?;
        let renamed = std::fs::rename(&self.path, &self.to);
        renamed.map_err(|source| disk("create", &self.to, source))?;
        // Without it the next download would read the state of a part that does not exist.
        let _ = std::fs::remove_file(&self.state);
        if let Some(folder) = self.to.parent().and_then(|folder| File::open(folder).ok()) {
            let _ = folder.sync_all();
        }
        Ok(())
    }

    /// Removes the part.
    pub(super) fn discard(self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(&self.state);
    }
}

/// Returns the SHA-256 (64 hexadecimal digits) and the size in bytes of the regular file at `path`, which may have at
/// most `max` bytes. `None` if it does not exist.
///
/// # Errors
/// [`DownloadError::Disk`] if the file cannot be read or is not a regular file, [`DownloadError::TooLarge`] if it has
/// more bytes.
pub(super) fn hash_file(path: &Path, max: u64) -> Result<Option<(String, u64)>, DownloadError> {
    let fail = |source| disk("read", path, source);
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .and_then(regular);
    let mut file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(fail)?,
    };
    let size = file.metadata().map_err(fail)?.len();
    if size > max {
        return Err(DownloadError::TooLarge {
            url: path.display().to_string(),
            got: Some(size),
            max,
        });
    }
    let mut hash = Sha256::new();
    let bytes = copy_into(&mut hash, &mut (&mut file).take(max)).map_err(fail)?;
    Ok(Some((hex(&hash.finalize()), bytes)))
}

/// Returns `to` with `ending` appended to its file name.
pub(super) fn beside(to: &Path, ending: &str) -> PathBuf {
    let mut path = to.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

/// Returns the error of an action on the file at `path`.
pub(super) fn disk(action: &'static str, path: &Path, source: io::Error) -> DownloadError {
    DownloadError::Disk {
        action,
        path: path.to_path_buf(),
        source,
    }
}

/// Adds the rest of `file` to `hash` and returns its number of bytes.
fn copy_into(hash: &mut Sha256, file: &mut impl io::Read) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(bytes) => {
                hash.update(&buffer[..bytes]);
                total += bytes as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns `file`, or an error if it is a folder, a pipe or a device.
fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::other("it is not a regular file"))
}

/// Writes `content` to a new file that takes the place of `path`, so that a crash leaves the old content or the new one.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = beside(path, ".new");
    // A file that a killed process has left, or a link, which must not be followed.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::create_new(&new)?.write_all(content)?;
    std::fs::rename(&new, path)
}

fn rewind(file: &mut File) -> io::Result<()> {
    io::Seek::rewind(file)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_continued_with_its_hash_and_version() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("x.pth");
        let version = Version {
            url: "https://a.org/x.pth".to_owned(),
            tag: Some("\"1\"".to_owned()),
            total: Some(6),
        };
        let mut part = Part::open(&to).unwrap();
        part.expect(version.clone()).unwrap();
        part.append(b"abc").unwrap();
        assert!(!part.is_spliced());
        drop(part);
        let mut part = Part::open(&to).unwrap();
        assert_eq!((part.len(), part.version()), (3, &version));
        part.append(b"def").unwrap();
        assert!(part.is_spliced());
        let expected = crate::manifest::sha256(b"abcdef");
        assert_eq!(part.sha256(), expected);
        part.publish().unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"abcdef");
        assert_eq!(hash_file(&to, 6).unwrap(), Some((expected, 6)));
        assert!(hash_file(&to, 5).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_part_that_is_no_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("x.pth");
        std::fs::create_dir(beside(&to, ".part")).unwrap();
        assert!(Part::open(&to).is_err());
        std::fs::remove_dir(beside(&to, ".part")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", beside(&to, ".part")).unwrap();
        assert!(Part::open(&to).is_err());
        assert!(hash_file(Path::new("/dev/zero"), 10).is_err());
        assert_eq!(hash_file(&to, 10).unwrap(), None);
    }

    #[test]
    fn the_state_is_not_written_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (state, other) = (folder.path().join("x.json"), folder.path().join("other"));
        std::fs::write(&other, "precious").unwrap();
        std::os::unix::fs::symlink(&other, beside(&state, ".new")).unwrap();
        replace(&state, b"{}").unwrap();
        assert_eq!(std::fs::read(&other).unwrap(), b"precious");
        assert!(state.symlink_metadata().unwrap().is_file());
        assert_eq!(std::fs::read(&state).unwrap(), b"{}");
    }

    #[test]
    fn weak_and_odd_tags_are_not_sent_back() {
        for (tag, usable) in [
            ("\"a\"", true),
            ("W/\"a\"", false),
            ("a", false),
            ("\"", false),
            ("\"a\r\nx: y\"", false),
        ] {
            assert_eq!(Version::usable_tag(tag).is_some(), usable, "{tag}");
        }
    }
}
