//! The chunks of a PNG that may state an orientation.

use super::super::bytes::{array, u32_be};

/// Length of the signature in bytes.
const SIGNATURE: usize = 8;
/// Keyword of the `iTXt` chunk that holds XMP.
const XMP: &[u8] = b"XML:com.adobe.xmp\0";

/// EXIF and XMP metadata of a PNG, from any place before `IEND`.
#[derive(Default)]
pub(super) struct Metadata<'a> {
    /// Content of the last `eXIf` chunk.
    pub(super) exif: Option<&'a [u8]>,
    /// XMP packet of the last uncompressed `iTXt` chunk with XMP. A compressed packet is not read.
    pub(super) xmp: Option<&'a [u8]>,
}

impl<'a> Metadata<'a> {
    /// Returns the metadata in the chunks before `IEND`, or before the first chunk that is cut
    /// short.
    pub(super) fn read(bytes: &'a [u8]) -> Self {
        let mut found = Self::default();
        let mut at = SIGNATURE;
        while let (Some(length), Some(kind)) = (u32_be(bytes, at), array::<4>(bytes, at + 4)) {
            let (start, length) = (at + 8, length as usize);
            let Some(body) = bytes.get(start..).and_then(|rest| rest.get(..length)) else {
                break;
            };
            match &kind {
                b"IEND" => break,
                b"eXIf" => found.exif = Some(body),
                b"iTXt" => found.xmp = xmp(body).or(found.xmp),
                _ => {}
            }
            // A checksum of 4 bytes ends the chunk.
            at = start + length + 4;
        }
        found
    }
}

/// Returns the XMP packet of an `iTXt` chunk. `None` if the chunk holds other text or is
/// compressed.
fn xmp(body: &[u8]) -> Option<&[u8]> {
    let [0, _, rest @ ..] = body.strip_prefix(XMP)? else {
        return None;
    };
    // The language and the translated keyword precede the text; a zero byte ends each of them.
    let mut parts = rest.splitn(3, |byte| *byte == 0);
    parts.nth(2)
}
