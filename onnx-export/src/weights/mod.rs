//! Checkpoint readers: a file in, named tensors out.
//!
//! ```text
//! bytes -> container (zip | legacy | tar) -> pickle -> nested -> layout -> StateDict
//!       -> safetensors -------------------------------------------------->
//! ```
//!
//! - `zip`, `legacy`, `tar`, `safetensors`: the four containers, detected by their first bytes and
//!   not by the file name.
//! - `pickle`: the machine that turns a pickle into plain data without running code.
//! - `nested`: finds the state dict in a training checkpoint.
//! - `layout`: turns storages and strides into contiguous tensors.
//! - `references`: checks what a pickle says about storages that are not read.
//! - `quantizer`, `quantized`: the scales and zero points of quantized tensors, and where a pickle
//!   stores them.
//! - `limits`: all limits, checked before memory is allocated.
//! - `foreign`: recognizes files that are not checkpoints, for errors that say what to do.
//!
//! Invariant: no input makes a reader panic, run code, write to the disk, or use more memory than a
//! bounded multiple of the file's size.
//!
//! Rejected: quantization schemes that are not affine, quantized types of fewer than eight bits
//! (the error names the scheme or type), big-endian files, `TorchScript` archives and pickled
//! modules. Not here: downloads, and which tensor belongs to which layer (the architecture
//! modules).

mod error;
mod foreign;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod layout;
mod legacy;
mod limits;
mod nested;
mod pack;
mod pickle;
mod quantized;
mod quantizer;
mod references;
mod safetensors;
mod tar;
mod tensor;
mod zip;

use std::{collections::BTreeMap, fmt::Write, fs::File, io::Read, path::Path};

use sha2::{Digest, Sha256};

pub use self::{
    error::{Format, Overflowing, WeightsError},
    quantizer::{InvalidQuantizer, Quantizer},
    tensor::{DType, Tensor},
};

/// Key of [`StateDict::metadata`] under which [`StateDict::to_half`] stores the SHA-256 of the checkpoint that it
/// converts.
pub const SOURCE_SHA256: &str = "source_sha256";

/// Maximum size of a checkpoint file in bytes.
pub const MAX_FILE_BYTES: u64 = limits::MAX_FILE;

/// Tensors of a checkpoint by name.
type Tensors = BTreeMap<String, Tensor>;

/// The tensors of a checkpoint by name, such as `features.0.0.weight`.
///
/// From a training checkpoint, only the model's tensors are taken. The prefixes that `DataParallel` and
/// `torch.compile` add to all names are removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDict {
    tensors: Tensors,
    metadata: BTreeMap<String, String>,
    sha256: String,
}

impl StateDict {
    /// Reads a checkpoint file of at most 2 GiB.
    ///
    /// From a training checkpoint, only the dictionary under the first of these keys that holds
    /// tensors is read: `model`, `state_dict`, `model_state_dict`, `net`, `network`, `model_ema`,
    /// `state_dict_ema`, `ema`.
    ///
    /// # Errors
    /// Returns [`WeightsError`] if the file cannot be read, is not a checkpoint, is damaged,
    /// exceeds a limit, or its pickle refers to a class or function outside the allow-list.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        let failed = |source| WeightsError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(WeightsError::folder(path));
        }
        let len = metadata.len();
        check_len(len)?;
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(len as usize)
            .map_err(|_| WeightsError::OutOfMemory {
                bytes: len as usize,
            })?;
        // `len` does not bound the read: a pipe has length 0, and a file may grow while it is read.
        let mut limited = file.take(limits::MAX_FILE + 1);
        limited.read_to_end(&mut bytes).map_err(failed)?;
        Self::from_bytes(&bytes)
    }

    /// Reads a checkpoint from the bytes of its file. Which tensors are read is described at
    /// [`StateDict::read`].
    ///
    /// # Errors
    /// Returns [`WeightsError`] as [`StateDict::read`] does.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WeightsError> {
        check_len(bytes.len() as u64)?;
        let mut metadata = BTreeMap::new();
        let tensors = match detect(bytes)? {
            Format::Zip => zip::read(bytes)?,
            Format::Tar => tar::read(bytes)?,
            Format::Legacy | Format::Pickle => legacy::read(bytes)?,
            Format::Safetensors => {
                let (tensors, entries) = safetensors::read(bytes)?;
                metadata.extend(entries);
                tensors
            }
        };
        Ok(Self {
            tensors,
            metadata,
            sha256: sha256(bytes),
        })
    }

    /// Creates a state dict from tensors in memory. Its [`StateDict::sha256`] is a digest of the
    /// names, data types, shapes, quantizers and bytes of the tensors.
    pub fn from_tensors(tensors: BTreeMap<String, Tensor>) -> Self {
        let mut digest = Sha256::new();
        for (name, tensor) in &tensors {
            let (dtype, shape) = (tensor.dtype(), tensor.shape());
            digest.update(format!("{name:?} {dtype} {shape:?}\n"));
            if let Some(quantizer) = tensor.quantizer() {
                digest.update(format!("{quantizer:?}\n"));
            }
            digest.update(tensor.bytes());
        }
        Self {
            sha256: hex(&digest.finalize()),
            tensors,
            metadata: BTreeMap::new(),
        }
    }

    /// Returns a state dict of `tensors` with the digest and metadata of this one.
    pub(crate) fn replaced(&self, tensors: BTreeMap<String, Tensor>) -> Self {
        Self {
            tensors,
            metadata: self.metadata.clone(),
            sha256: self.sha256.clone(),
        }
    }

    /// Returns this state dict without the prefix `prefix` of all names.
    pub(crate) fn without_prefix(self, prefix: &str) -> Self {
        let tensors = self.tensors.into_iter();
        let renamed = tensors.map(|(name, tensor)| match name.strip_prefix(prefix) {
            Some(rest) => (rest.to_owned(), tensor),
            None => (name, tensor),
        });
        Self {
            tensors: renamed.collect(),
            ..self
        }
    }

    /// Returns the tensor `name`; `None` if there is no such tensor.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Returns the names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Returns all tensors with their names, in the alphabetical order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, t)| (name.as_str(), t))
    }

    /// Returns 64 hexadecimal digits: the SHA-256 of the bytes of the checkpoint file, or the
    /// digest of [`StateDict::from_tensors`].
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Returns the text entries in the header of a safetensors file (`__metadata__`) and those that
    /// [`StateDict::to_half`] adds. Empty for a checkpoint in another format.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

fn check_len(got: u64) -> Result<(), WeightsError> {
    let limit = limits::MAX_FILE;
    if got <= limit {
        return Ok(());
    }
    Err(WeightsError::TooLarge { limit, got })
}

/// Detects the container by its first bytes.
fn detect(bytes: &[u8]) -> Result<Format, WeightsError> {
    // A safetensors file starts with the eight-byte length of its header, and these bytes may equal
    // the signature of another format. So the brace that opens the header is checked first: files
    // of the other formats never have a brace at this offset.
    let has_brace = bytes.get(8) == Some(&b'{');
    // In text with a brace at this offset, such as a JSON document, the upper bytes of the length
    // are not zero.
    if has_brace && bytes.get(5..8) == Some(&[0; 3]) {
        return Ok(Format::Safetensors);
    }
    if bytes.starts_with(b"PK\x03\x04") {
        return Ok(Format::Zip);
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Ok(Format::Tar);
    }
    if bytes.first() == Some(&0x80) {
        return Ok(Format::Legacy);
    }
    if let Some(kind) = foreign::recognize(bytes) {
        return Err(WeightsError::foreign(kind));
    }
    if has_brace {
        return Ok(Format::Safetensors);
    }
    let start = bytes.iter().take(8).copied().collect();
    Err(WeightsError::UnknownFormat { start })
}

/// Returns the kind of the file `bytes` by its first bytes, with an article, such as `a web page`.
/// `None` if the kind is not known.
pub fn kind_of_file(bytes: &[u8]) -> Option<FileKind> {
    match detect(bytes) {
        Ok(format) => Some(FileKind::Checkpoint(format)),
        Err(WeightsError::Foreign { name, .. }) => Some(FileKind::Other(name)),
        Err(_) => None,
    }
}

/// The kind of a file, for errors about a file of the wrong kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// The container of a checkpoint. Whether it holds a checkpoint is not checked.
    Checkpoint(Format),
    /// Another kind of file, named with an article.
    Other(&'static str),
}

/// Returns the SHA-256 of `bytes` as 64 lower-case hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}
