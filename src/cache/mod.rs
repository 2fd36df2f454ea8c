//! The start-up cache: optimized networks in files, so that a later start does not optimize and compare them again.
//!
//! An entry holds the graphs that ONNX Runtime has optimized, with the custom int8 operators whose results were
//! compared, and the large weights. Its name is a hash of everything that the graphs depend on ([`Key`]), so that an
//! entry never has to be updated. `place` says whose files are trusted, and `stored` describes their content.
//!
//! The cache never makes a start fail: an entry that is damaged, or that another user could have written, is ignored
//! with a line in the log, and an entry that cannot be written is not written.

mod key;
mod place;
mod stored;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

pub use key::{Key, TrialConditions};
use place::{Place, PlaceError};
pub use stored::{Stored, StoredError, read, write};

use crate::registry::networks::Networks;

/// Folder of the entries that come with an installation, such as a container image. Never written.
pub const INSTALLED: &str = "/usr/share/sightline/cache";
/// Start of every entry: what the file is, and the version of its form.
const MAGIC: &[u8; 16] = b"sightline cache1";
/// Bytes of the SHA-256 at the end of every entry.
const HASH_BYTES: usize = 32;

/// Where optimized networks are cached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cache {
    /// Folder that is read and written. `None` if nothing is written.
    folder: Option<PathBuf>,
    /// Whether [`INSTALLED`] is read, too.
    installed: bool,
}

impl Cache {
    /// Returns a cache in `folder`, which is created when the first entry is written. `None` only reads the entries of
    /// the installation.
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self {
            folder,
            installed: true,
        }
    }

    /// Returns a cache that has no entries and stores none.
    pub fn off() -> Self {
        Self::default()
    }

    /// Returns whether no entry is read or written.
    pub fn is_off(&self) -> bool {
        *self == Self::off()
    }

    /// Returns the entry `key` of the model `model`, whose name is for the log. `None` if there is none that can be used.
    pub fn get(&self, key: &Key, model: &str) -> Option<Stored> {
        let name = file_name(key);
        let own = self.folder.iter().map(|folder| (folder.as_path(), true));
        let installed = self.installed.then_some((Path::new(INSTALLED), false));
        for (folder, is_own) in own.chain(installed) {
            match load(folder, &name, key) {
                Ok((stored, place)) => {
                    if is_own {
                        place.touch(&name);
                    }
                    tracing::debug!(model, folder = %folder.display(), "found in the start-up cache");
                    return Some(stored);
                }
                Err(error) if error.is_absent() => {}
                Err(error) => tracing::warn!(
                    model,
                    folder = %folder.display(),
                    error = &error as &dyn std::error::Error,
                    "start-up cache entry ignored"
                ),
            }
        }
        None
    }

    /// Stores the optimized `networks` of a model as the entry `key`. `worker_bytes` is the memory of one worker as a child
    /// process measured it, in bytes; 0 if none did. A failure is logged.
    pub fn put(&self, key: &Key, networks: &Networks, worker_bytes: u64, model: &str) {
        let Some(folder) = &self.folder else {
            return;
        };
        match store(folder, key, networks, worker_bytes) {
            Ok(()) => {
                tracing::debug!(model, folder = %folder.display(), "written to the start-up cache");
            }
            Err(error) => tracing::info!(
                model,
                folder = %folder.display(),
                error = &error as &dyn std::error::Error,
                "cannot write to the start-up cache: the next start will not be faster"
            ),
        }
    }

    /// Stores networks as [`Cache::put`] does, on a thread of its own, so that requests do not wait for it.
    pub fn put_later(&self, key: Key, networks: &Networks, worker_bytes: u64, model: &str) {
        if self.folder.is_none() {
            return;
        }
        let (cache, networks, model) = (self.clone(), networks.clone(), model.to_owned());
        let thread = std::thread::Builder::new().name("cache".to_owned());
        let put = move || cache.put(&key, &networks, worker_bytes, &model);
        if let Err(error) = thread.spawn(put) {
            tracing::info!(%error, "cannot start the thread that writes to the start-up cache");
        }
    }
}

/// Stores the optimized `networks` of a model as the entry `key` in `folder`, as [`Cache::put`] does.
///
/// # Errors
/// [`CacheError`] if the folder cannot be used or the file cannot be written.
fn store(
    folder: &Path,
    key: &Key,
    networks: &Networks,
    worker_bytes: u64,
) -> Result<(), CacheError> {
    let place = Place::create(folder)?;
    place.write(&file_name(key), |file| {
        let mut file = Hashing::new(io::BufWriter::with_capacity(BUFFER, file));
        file.write_all(MAGIC)?;
        file.write_all(key.bytes())?;
        write(&mut file, networks, worker_bytes)?;
        let hash = file.hash.finalize();
        file.inner.write_all(&hash)?;
        Ok::<_, CacheError>(file.inner.flush()?)
    })
}

/// Bytes of the buffer between an entry and its hash. It stays in the processor's cache.
const BUFFER: usize = 128 << 10;

fn file_name(key: &Key) -> OsString {
    let digits = key.bytes().iter().map(|byte| format!("{byte:02x}"));
    digits
        .chain([place::SUFFIX.to_owned()])
        .collect::<String>()
        .into()
}

/// Reads the entry `key` of `folder`, and checks its hash.
fn load(folder: &Path, name: &OsString, key: &Key) -> Result<(Stored, Place), CacheError> {
    let place = Place::open(folder)?;
    let (file, size) = place.read(name)?;
    let content = size
        .checked_sub(HASH_BYTES as u64)
        .ok_or(CacheError::Damaged("end"))?;
    let file = io::BufReader::with_capacity(BUFFER, file);
    let mut file = Hashing::new(file.take(content));
    let mut head = [0; MAGIC.len()];
    file.read_exact(&mut head)?;
    let mut stored_key = [0; 32];
    file.read_exact(&mut stored_key)?;
    if head != *MAGIC || stored_key != *key.bytes() {
        return Err(CacheError::Damaged("head"));
    }
    let stored = read(&mut file, content)?;
    if file.inner.limit() != 0 {
        return Err(CacheError::Damaged("length"));
    }
    let mut expected = [0; HASH_BYTES];
    let mut rest = file.inner.into_inner();
    rest.read_exact(&mut expected)?;
    if file.hash.finalize()[..] != expected {
        return Err(CacheError::Damaged("SHA-256"));
    }
    Ok((stored, place))
}

/// Why an entry cannot be used or written.
#[derive(Debug, thiserror::Error)]
enum CacheError {
    /// The folder or the file cannot be used.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The content of the file cannot be read or written.
    #[error(transparent)]
    Stored(#[from] StoredError),
    /// The file cannot be read or written.
    #[error("cannot read or write the file")]
    Io(#[from] io::Error),
    /// A part of the file differs from what was written.
    #[error("the file is damaged: its {0} is not the one that was written")]
    Damaged(&'static str),
}

impl CacheError {
    /// Returns whether there is simply no entry.
    fn is_absent(&self) -> bool {
        matches!(self, Self::Place(error) if error.is_absent())
    }
}

/// A reader or writer that computes the SHA-256 of the bytes that pass through it.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
        }
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
