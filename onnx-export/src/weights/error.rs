//! The errors of the checkpoint readers.
//!
//! Text from a file is cut and escaped by [`shown`], so that a message is always one line.

use std::{fmt, io, path::PathBuf};

use thiserror::Error;

use super::DType;
use crate::text::{shown, shown_error};

/// The format of a checkpoint file, or of a pickle in it, to which an error refers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The zip archive that `torch.save` writes since torch 1.6.
    Zip,
    /// The stream of pickles that `torch.save` wrote from torch 0.1.10 to 1.5.
    Legacy,
    /// The tar archive that `torch.save` wrote before torch 0.1.10.
    Tar,
    /// A safetensors file.
    Safetensors,
    /// A pickle inside a zip, legacy or tar checkpoint.
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

/// A reason why a checkpoint cannot be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The first bytes belong to no known format.
    #[error(
        "not a checkpoint: expected a safetensors file or one that torch.save wrote (zip, pickle or tar), \
         got a file that starts with {start:02x?} (hexadecimal)"
    )]
    UnknownFormat {
        /// The first eight bytes of the file, or fewer if it is shorter.
        start: Vec<u8>,
    },
    /// The file is not a checkpoint, but of a known kind.
    #[error("not a checkpoint but {name}: {advice}")]
    Foreign {
        /// Name of the kind of file, with an article, such as `a web page`.
        name: &'static str,
        /// How to get a checkpoint that can be read.
        advice: &'static str,
    },
    /// The file ends before the part of its container that lists the content.
    #[error(
        "{format} is cut short: its directory, which is at the end of the file, is missing; \
         download or copy the file again",
        format = Format::Zip
    )]
    CutShort,
    /// The checkpoint holds an object of a class of a model, such as a whole model.
    #[error(
        "the checkpoint holds an object of the class `{class}`, such as a whole model, instead of weights alone: \
         load it in Python, and save the weights with torch.save(model.state_dict(), path)"
    )]
    WholeModel {
        /// Module and name of the class, separated by a dot.
        class: String,
    },
    /// The file is larger than the readers accept.
    #[error("checkpoint is too large: expected at most {limit} bytes, got {got} bytes")]
    TooLarge {
        /// Largest accepted size of a file in bytes.
        limit: u64,
        /// The size of the file in bytes.
        got: u64,
    },
    /// A length or count in the file exceeds its limit. The limits bound the memory and time that
    /// reading a file takes.
    #[error("{format} exceeds a limit: number of {what} must be at most {limit}, got {got}")]
    Limit {
        /// The format in which the error was found.
        format: Format,
        /// The limited quantity in plural, which the message puts after "number of", such as
        /// `bytes of an entry`.
        what: &'static str,
        /// Largest allowed value of the quantity.
        limit: u64,
        /// The value of the quantity in the file.
        got: u64,
    },
    /// The file, or a pickle in it, ends before a value that the format requires.
    #[error(
        "{format} is truncated: expected {needed} more bytes at offset {offset}, got {got}; \
         download or copy the file again"
    )]
    Truncated {
        /// The format in which the error was found.
        format: Format,
        /// Byte offset in the file, or in the member of a zip or tar checkpoint that was being
        /// read.
        offset: usize,
        /// Number of bytes that the format requires at the offset.
        needed: u64,
        /// Number of bytes from the offset to the end of the file or member.
        got: usize,
    },
    /// The bytes at an offset are not what the format requires there.
    #[error("{format} is malformed at byte {offset}: expected {expected}, got {got}")]
    Malformed {
        /// The format in which the error was found.
        format: Format,
        /// Byte offset in the file, or in the member of a zip or tar checkpoint that was being
        /// read.
        offset: usize,
        /// What the format requires at the offset.
        expected: &'static str,
        /// Description of what the file holds at the offset.
        got: String,
    },
    /// A member, storage or tensor violates the format or is not supported.
    #[error("{format}, entry `{key}`: expected {expected}, got {got}")]
    Entry {
        /// The format in which the error was found.
        format: Format,
        /// Name of the member, storage or tensor; `(directory)` for the directory of a zip and
        /// `(data)` for the bytes of all tensors in a safetensors file.
        key: String,
        /// What the reader or writer requires of the member, storage or tensor.
        expected: &'static str,
        /// Description of the member, storage or tensor that violates the requirement.
        got: String,
    },
    /// The zip container is damaged or lacks an entry.
    #[error(
        "cannot read the {format}, entry `{key}`: {}; download or copy the file again",
        shown_error(source),
        format = Format::Zip
    )]
    Zip {
        /// Name of the entry, or `(directory)` for the directory of the container.
        key: String,
        /// The error of the zip reader.
        source: zip::result::ZipError,
    },
    /// The tar container is damaged.
    #[error(
        "cannot read the {format}: {}; download or copy the file again",
        shown_error(source),
        format = Format::Tar
    )]
    Tar {
        /// The error of the tar reader.
        source: io::Error,
    },
    /// The header of a safetensors file is damaged.
    #[error(
        "cannot parse the header of the {format}: {}",
        shown_error(source),
        format = Format::Safetensors
    )]
    Header {
        /// The error of the JSON reader.
        source: serde_json::Error,
    },
    /// A pickle refers to a class or function outside the allow-list. No code named by a pickle ever runs.
    #[error(
        "pickle refers to `{name}`, which weights do not need; \
         save the weights alone with torch.save(model.state_dict(), path)"
    )]
    Global {
        /// Module and name of the class or function, separated by a dot, such as `posix.system`.
        name: String,
    },
    /// A pickle holds tensors of an unsupported quantization scheme or quantized data type.
    #[error(
        "pickle refers to `{name}`, an unsupported quantization: \
         expected per_tensor_affine or per_channel_affine of qint8, quint8 or qint32"
    )]
    UnsupportedQuantization {
        /// Module and name of the scheme or data type, separated by a dot, such as `torch.quint4x2`.
        name: String,
    },
    /// The checkpoint holds no state dict.
    #[error(
        "no state dict found: the top level of the checkpoint holds {}; \
         save the weights with torch.save(model.state_dict(), path)",
        found.join(", ")
    )]
    NoTensors {
        /// Key and type of each of the first entries of the top-level dictionary, or the type of
        /// the top-level value if it is not a dictionary.
        found: Vec<String>,
    },
    /// The number of bytes given for a tensor does not match its shape and data type.
    #[error("tensor of shape {shape:?} and type {dtype} must have {expected} bytes, got {got}")]
    Shape {
        /// The shape of the tensor.
        shape: Vec<usize>,
        /// The data type of the tensor.
        dtype: DType,
        /// Number of bytes that the shape and data type of the tensor require.
        expected: Overflowing,
        /// Number of bytes given for the elements of the tensor.
        got: usize,
    },
    /// A tensor of integers without scales and zero points, or of booleans, cannot be converted to
    /// f32.
    #[error(
        "cannot convert the tensor to f32: expected f32, f16, bf16, f64 or quantized elements, \
         got {got}"
    )]
    NotFloat {
        /// The data type of the tensor.
        got: DType,
    },
    /// The memory of the process does not suffice for the file or a tensor.
    #[error("not enough memory to read the checkpoint: cannot allocate {bytes} bytes")]
    OutOfMemory {
        /// Number of bytes that could not be allocated.
        bytes: usize,
    },
    /// The tensors could not be written as safetensors.
    #[error("cannot write safetensors: {source}")]
    Write {
        /// The error of the writer.
        source: safetensors::SafeTensorError,
    },
}

/// A byte count; `None` if it exceeds `usize`.
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
    /// Returns a [`WeightsError::Malformed`] for the offset `offset` in a pickle, with `got` cut and escaped.
    pub(super) fn pickle(offset: usize, expected: &'static str, got: impl fmt::Display) -> Self {
        Self::Malformed {
            format: Format::Pickle,
            offset,
            expected,
            got: shown(&got.to_string()),
        }
    }

    /// Returns a [`WeightsError::Entry`] with `key` and `got` cut and escaped.
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
