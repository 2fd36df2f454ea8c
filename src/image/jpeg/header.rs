//! Size, coding and orientation of a JPEG, from its marker segments.

use std::borrow::Cow;

use super::super::bytes::u16_be;
use super::super::orientation::{self, EXIF_PREFIX};
use super::super::{Coding, ImageError, ImageFormat, ImageHeader, ImageSize};
use super::check::{PROGRESSIVE, SCAN, is_frame};
use super::segments::Segments;
use super::{CAN_SCALE, damaged};

const APP1: u8 = 0xE1;
/// Prefix of the payload of an APP1 segment that holds XMP.
const XMP_PREFIX: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// Reads size and coding from the first frame header, and orientation from the metadata before the first scan.
pub(in crate::image) fn header(bytes: &[u8]) -> Result<ImageHeader, ImageError> {
    let mut found = Found::default();
    for (marker, payload) in Segments::new(bytes) {
        match marker {
            SCAN => {
                found.scans += 1;
                if found.is_only_scan(payload) {
                    break;
                }
            }
            _ if is_frame(marker) && found.frame.is_none() => found.frame = Some((marker, payload)),
            APP1 if found.scans == 0 => found.metadata(payload),
            _ => {}
        }
    }
    let size = found
        .size()
        .ok_or_else(|| damaged("the frame header is missing or incomplete"))?;
    let scans = found.scans;
    Ok(ImageHeader {
        format: ImageFormat::Jpeg,
        size,
        coding: if found.is_progressive() {
            Coding::JpegProgressive { scans }
        } else {
            Coding::JpegSequential { scans }
        },
        scalable: CAN_SCALE && matches!(found.components(), Some(1 | 3)),
        turn: orientation::stated(found.exif.as_deref(), found.xmp),
    })
}

#[derive(Default)]
/// The parts of the file that size, coding and orientation are read from, as far as they have been found.
struct Found<'a> {
    /// Marker and payload of the first frame header.
    frame: Option<(u8, &'a [u8])>,
    /// Content of the EXIF segments, joined in the order of the file.
    exif: Option<Cow<'a, [u8]>>,
    /// The last XMP packet.
    xmp: Option<&'a [u8]>,
    scans: u32,
}

impl<'a> Found<'a> {
    fn metadata(&mut self, payload: &'a [u8]) {
        if let Some(block) = payload.strip_prefix(EXIF_PREFIX) {
            match &mut self.exif {
                Some(exif) => exif.to_mut().extend(block),
                None => self.exif = Some(Cow::Borrowed(block)),
            }
        } else if let Some(packet) = payload.strip_prefix(XMP_PREFIX) {
            self.xmp = Some(packet);
        }
    }

    fn size(&self) -> Option<ImageSize> {
        let (_, frame) = self.frame?;
        Some(ImageSize {
            width: u16_be(frame, 3)?.into(),
            height: u16_be(frame, 1)?.into(),
        })
    }

    /// Returns the number of components that the first frame header states.
    fn components(&self) -> Option<u8> {
        self.frame.and_then(|(_, frame)| frame.get(5).copied())
    }

    fn is_progressive(&self) -> bool {
        matches!(self.frame, Some((PROGRESSIVE, _)))
    }

    /// Returns whether the scan with the header `scan` is the first of a sequential file and holds
    /// all components, so that no further scan is needed.
    fn is_only_scan(&self, scan: &[u8]) -> bool {
        let components = self.components();
        self.scans == 1 && !self.is_progressive() && components == scan.first().copied()
    }
}
