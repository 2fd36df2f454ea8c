//! Reads the zip container that torch writes since 1.6.
//!
//! `<root>/data.pkl` is the pickle of the saved object, `<root>/data/<key>` are the storages, and
//! `<root>/byteorder` names the byte order. Entries are looked up by these names and read into
//! memory. Nothing is written to the disk, so a name such as `../x` does no harm. Each entry is
//! read at most once and all entries share one memory budget, so overlapping entries do not
//! multiply memory.
//!
//! Source: `torch/serialization.py:_load`.

use std::{
    borrow::Cow,
    io::{Cursor, Read},
};

use zip::{ZipArchive, read::ArchiveOffset, read::Config, result::ZipError};

use super::{
    Format, Tensors, WeightsError, foreign,
    layout::{self, Storages},
    limits::{self, Budget},
    nested,
    pickle::{self, Persistent},
    references,
};
use crate::text::shown;

/// Name of the entry with the pickle, below the root directory of the archive.
const PICKLE: &str = "data.pkl";

/// Maximum distance in bytes of the record that ends the directory from the end of the file: the
/// record and the longest comment.
const END: usize = 22 + 65_535;

/// Reads the state dict in the zip file `bytes`.
///
/// # Errors
/// Returns [`WeightsError`] if the container is damaged, or the pickle or a tensor is rejected.
pub(super) fn read(bytes: &[u8]) -> Result<Tensors, WeightsError> {
    let mut archive = Archive::open(bytes)?;
    archive.check_byte_order()?;
    let data = archive.entry(PICKLE, limits::MAX_PICKLE)?;
    let pickled = pickle::load(&data, 0, Persistent::Storages)?;
    references::storage_sizes(&pickled, Format::Zip)?;
    let wanted = nested::select(&pickled)?;
    let tensors = layout::materialize(&wanted, &mut archive, Format::Zip, bytes.len())?;
    references::check_tensors(&pickled, Format::Zip)?;
    Ok(tensors)
}

struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// Path of the archive's root directory, which all entry names begin with: empty, or with a
    /// slash at the end.
    root: String,
    file_len: usize,
    budget: Budget,
}

impl<'a> Archive<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, WeightsError> {
        // By default, the zip reader searches the file for the start of the archive. Checkpoints
        // have it at the first byte.
        let config = Config {
            archive_offset: ArchiveOffset::Known(0),
        };
        let zip = ZipArchive::with_config(config, Cursor::new(bytes))
            .map_err(|source| damaged(bytes, source))?;
        if zip.has_duplicate_names() {
            // Two entries of one name are ambiguous: zip readers differ in which of them they use.
            return Err(broken("(directory)", "distinct names", "one name twice"));
        }
        let names: Vec<_> = zip.file_names().filter_map(Result::ok).collect();
        if let Some(kind) = foreign::in_zip(&names) {
            return Err(WeightsError::foreign(kind));
        }
        let root = find_root(&zip)?;
        Ok(Self {
            zip,
            root,
            file_len: bytes.len(),
            budget: Budget::for_file(Format::Zip, "inflated bytes in all entries", bytes.len()),
        })
    }

    /// Rejects files with big-endian values. A file without the entry `byteorder`, as written by
    /// torch before 2.1, counts as little-endian.
    fn check_byte_order(&mut self) -> Result<(), WeightsError> {
        let name = format!("{}byteorder", self.root);
        if self.zip.index_for_name(&name).is_none() {
            return Ok(());
        }
        let order = self.entry("byteorder", 16)?;
        if order == b"little" {
            return Ok(());
        }
        let got = order.escape_ascii();
        Err(broken("byteorder", "little-endian values", got))
    }

    /// Reads the entry `<root>/<key>` of at most `limit` bytes.
    fn entry(&mut self, key: &str, limit: u64) -> Result<Vec<u8>, WeightsError> {
        let name = format!("{}{key}", self.root);
        let entry = self
            .zip
            .by_name(&name)
            .map_err(|source| failed(&name, source))?;
        let (size, packed) = (entry.size(), entry.compressed_size());
        if packed > self.file_len as u64 {
            let expected = "an entry within the file";
            return Err(broken(
                &name,
                expected,
                format!("{packed} compressed bytes"),
            ));
        }
        limits::at_most(Format::Zip, "bytes of an entry", limit, size)?;
        let most = packed
            .saturating_mul(limits::MAX_ENTRY_RATIO)
            .saturating_add(limits::ENTRY_SLACK);
        limits::at_most(Format::Zip, "inflated bytes of an entry", most, size)?;
        let mut out = self.budget.allocate(size as usize)?;
        // Reading up to one byte more than the declared size detects an entry that inflates to
        // more.
        let read = entry.take(size.saturating_add(1)).read_to_end(&mut out);
        read.map_err(|source| failed(&name, ZipError::Io(source)))?;
        if out.len() as u64 != size {
            let expected = "as many bytes as the directory declares";
            let got = format!("{} bytes instead of {size}", out.len());
            return Err(broken(&name, expected, got));
        }
        Ok(out)
    }
}

impl Storages for Archive<'_> {
    fn storage(&mut self, key: &str) -> Result<Cow<'_, [u8]>, WeightsError> {
        self.entry(&format!("data/{key}"), limits::MAX_UNFOLDED)
            .map(Cow::Owned)
    }
}

/// Finds the only entry with the name `<root>/data.pkl` and returns the prefix `<root>/`, or an
/// empty prefix if the entry has no directory.
///
/// # Errors
/// Returns [`WeightsError::Entry`] if no entry or more than one has such a name.
fn find_root(zip: &ZipArchive<Cursor<&[u8]>>) -> Result<String, WeightsError> {
    let names = zip.file_names().filter_map(Result::ok);
    let mut roots = names.filter_map(|name| {
        let root = name.strip_suffix(PICKLE)?;
        (root.is_empty() || root.ends_with('/')).then(|| root.to_owned())
    });
    match (roots.next(), roots.next()) {
        (Some(root), None) => Ok(root),
        (None, _) => Err(broken(PICKLE, "one entry of this name", "none")),
        (Some(_), Some(_)) => Err(broken(PICKLE, "one entry of this name", "several")),
    }
}

/// Returns the error for a file whose directory cannot be read.
fn damaged(bytes: &[u8], source: ZipError) -> WeightsError {
    let tail = &bytes[bytes.len().saturating_sub(END)..];
    if tail.windows(4).any(|part| part == b"PK\x05\x06") {
        return failed("(directory)", source);
    }
    WeightsError::CutShort
}

fn broken(key: &str, expected: &'static str, got: impl std::fmt::Display) -> WeightsError {
    WeightsError::entry(Format::Zip, key, expected, got)
}

fn failed(key: &str, source: ZipError) -> WeightsError {
    let key = shown(key);
    WeightsError::Zip { key, source }
}
