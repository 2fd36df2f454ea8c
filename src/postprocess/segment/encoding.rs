//! How a mask is encoded in a response.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};

use super::RleMask;
use crate::encode::DrawnFormat;

/// The encoding of a mask that a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskEncoding {
    /// A palette PNG whose indices are the classes.
    Png,
    /// COCO's compressed run lengths, for each class.
    Rle,
    /// No mask.
    None,
    /// The image with the mask and a legend drawn in.
    Drawn(DrawnFormat),
}

/// The bytes of a mask in its [`MaskEncoding`]. Serialized as `{"encoding", "data"}`; files in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "encoding", content = "data", rename_all = "lowercase")]
pub enum EncodedMask {
    /// A palette PNG.
    Png(#[serde(serialize_with = "as_base64")] Vec<u8>),
    /// Run lengths of each class.
    Rle(Vec<RleMask>),
    /// The image with the mask drawn in, as a file.
    Drawn(#[serde(serialize_with = "as_base64")] Vec<u8>),
}

impl EncodedMask {
    /// Bytes that the encoded mask takes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Png(file) | Self::Drawn(file) => file.len(),
            Self::Rle(runs) => runs.iter().map(|run| run.counts.len()).sum(),
        }
    }

    /// The image file, for a response that is one image. `None` for run lengths.
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
