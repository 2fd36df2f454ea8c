//! Encodings of a mask for a response.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};

use super::RleMask;
use crate::draw::Drawing;

/// The encoding of a mask that a client can request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskEncoding {
    /// A palette PNG whose pixel values are the class indices.
    Png,
    /// COCO's compressed run-length encoding of each class that occurs in the mask.
    Rle,
    /// No mask: the response has only the statistics of the classes.
    None,
    /// The image with the mask and a legend drawn into it.
    Drawn(Drawing),
}

/// A mask encoded as requested by a [`MaskEncoding`]. Serialized as `{"encoding", "data"}`, with
/// image files in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "encoding", content = "data", rename_all = "lowercase")]
pub enum EncodedMask {
    /// A palette PNG file whose pixel values are the class indices.
    Png(#[serde(serialize_with = "as_base64")] Vec<u8>),
    /// The run-length encoding of each class that occurs in the mask.
    Rle(Vec<RleMask>),
    /// An image file with the mask drawn into it.
    Drawn(#[serde(serialize_with = "as_base64")] Vec<u8>),
}

impl EncodedMask {
    /// Returns the size in bytes of the image file before its encoding in base64, or of the text of
    /// all run lengths.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Png(file) | Self::Drawn(file) => file.len(),
            Self::Rle(runs) => runs.iter().map(|run| run.counts.len()).sum(),
        }
    }

    /// Returns the image file, for a response whose body is only this file. `None` for run-length
    /// encodings.
    pub fn into_file(self) -> Option<Vec<u8>> {
        match self {
            Self::Png(file) | Self::Drawn(file) => Some(file),
            Self::Rle(_) => None,
        }
    }
}

fn as_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}
