//! What goes wrong while reading a checkpoint.
//!
//! Text that comes out of a file is cut to [`SHOWN`] characters and escaped, so that a message is
//! one line whatever the file holds.

use std::{fmt, io, path::PathBuf};

use thiserror::Error;

use super::DType;

/// Most characters of a file's own text in a message.
const SHOWN: usize = 120;

/// The part of a checkpoint that an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The container that torch writes since 1.6.
    Zip,
    /// The stream of pickles that torch wrote from 0.1.10 to 1.5.
    Legacy,
    /// The container that torch wrote before 0.1.10.
    Tar,
    /// A safetensors file.
    Safetensors,
    /// A pickle inside one of the others.
    Pickle,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zip => "zip checkpoint",
            Self::Legacy => "legacy checkpoint",
            Self::Tar => "tar checkpoint",
            Self::Safetensors => "safetensors file",
            Self::Pickle => "pickle",
        })
    }
}

/// A checkpoint that cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The first bytes belong to no known format.
    #[error(
        "not a checkpoint: expected a zip, pickle, tar or safetensors file, \
         got one that starts with {start:02x?}"
    )]
    UnknownFormat {
        /// At most the first eight bytes.
        start: Vec<u8>,
    },
    /// The file is larger than any checkpoint of the catalogue.
    #[error("a checkpoint of {got} bytes, expected at most {limit}")]
    TooLarge {
        /// The most bytes that are read.
        limit: u64,
        /// Bytes of the file.
        got: u64,
    },
    /// A limit that keeps memory and time bounded.
    #[error("{format}: {what} must be at most {limit}, got {got}")]
    Limit {
        /// Where.
        format: Format,
        /// What is counted, with its unit.
        what: &'static str,
        /// The most that is allowed.
        limit: u64,
        /// The count found.
        got: u64,
    },
    /// The bytes end too early.
    #[error("{format}: expected {needed} more bytes at offset {offset}, got {got}")]
    Truncated {
        /// Where.
        format: Format,
        /// Offset in the file, or in the pickle.
        offset: usize,
        /// Bytes that the format asks for.
        needed: u64,
        /// Bytes that are left.
        got: usize,
    },
    /// Bytes that break the format.
    #[error("{format}, offset {offset}: expected {expected}, got {got}")]
    Malformed {
        /// Where.
        format: Format,
        /// Offset in the file, or in the pickle.
        offset: usize,
        /// What the format allows there.
        expected: &'static str,
        /// What stands there.
        got: String,
    },
    /// A member, storage or tensor that breaks the format.
    #[error("{format}, `{key}`: expected {expected}, got {got}")]
    Entry {
        /// Where.
        format: Format,
        /// Name of the member, storage or tensor.
        key: String,
        /// What the format allows.
        expected: &'static str,
        /// What was found.
        got: String,
    },
    /// The zip container is damaged.
    #[error("{format}, `{key}`: {source}", format = Format::Zip)]
    Zip {
        /// Name of the entry; `(directory)` for the container itself.
        key: String,
        /// What the zip reader said.
        source: zip::result::ZipError,
    },
    /// The tar container is damaged.
    #[error("{format}: {source}", format = Format::Tar)]
    Tar {
        /// What the tar reader said.
        source: io::Error,
    },
    /// The header of a safetensors file is damaged.
    #[error("{format}: {source}", format = Format::Safetensors)]
    Header {
        /// What the JSON reader said.
        source: serde_json::Error,
    },
    /// A pickle names something that weights do not need. Nothing named by a pickle ever runs.
    #[error("pickle refers to '{name}', which a checkpoint has no use for")]
    Global {
        /// Module and name, with a dot between.
        name: String,
    },
    /// A pickle holds tensors quantised in another way than torch's affine eight and 32 bits.
    #[error("pickle refers to '{name}': tensors quantised so are not read")]
    Quantised {
        /// Module and name, with a dot between.
        name: String,
    },
    /// No dictionary of tensors.
    #[error("no dictionary of tensors: the top level holds {}", found.join(", "))]
    NoTensors {
        /// The keys of the top level, or what it is instead of a dictionary.
        found: Vec<String>,
    },
    /// Shape and bytes do not fit each other.
    #[error("a tensor {shape:?} {dtype}: expected {expected} bytes, got {got}")]
    Shape {
        /// Its shape.
        shape: Vec<usize>,
        /// Its element type.
        dtype: DType,
        /// Bytes that shape and type ask for; none if that overflows.
        expected: Overflowing,
        /// Bytes given.
        got: usize,
    },
    /// The element type has no conversion to f32.
    #[error("expected f32, f16, bf16 or f64 elements, got {got}")]
    NotFloat {
        /// The element type.
        got: DType,
    },
    /// The allocator refused.
    #[error("cannot allocate {bytes} bytes")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// The tensors could not be written as safetensors.
    #[error("cannot write safetensors: {source}")]
    Write {
        /// What the writer said.
        source: safetensors::SafeTensorError,
    },
}

/// A byte count, or the statement that it does not fit in 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overflowing(pub Option<usize>);

impl fmt::Display for Overflowing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => bytes.fmt(f),
            None => f.write_str("more than 2^64"),
        }
    }
}

impl WeightsError {
    /// A [`WeightsError::Malformed`] inside a pickle.
    pub(super) fn pickle(offset: usize, expected: &'static str, got: impl fmt::Display) -> Self {
        Self::Malformed {
            format: Format::Pickle,
            offset,
            expected,
            got: shown(&got.to_string()),
        }
    }

    /// A [`WeightsError::Entry`].
    pub(super) fn entry(
        format: Format,
        key: &str,
        expected: &'static str,
        got: impl fmt::Display,
    ) -> Self {
        Self::Entry {
            format,
            key: shown(key),
            expected,
            got: shown(&got.to_string()),
        }
    }
}

/// Text from a file, escaped and cut for a message.
pub(super) fn shown(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(SHOWN)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        out.push_str("...");
    }
    out
}
