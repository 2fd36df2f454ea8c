//! The headers of a sequential JPEG file with all components in one scan, reduced to those that decoding needs.

use super::check::{HUFFMAN, QUANTIZATION, RESTART_INTERVAL, SCAN, is_frame};
use super::segments::{START, Segments};
use crate::image::bytes::u16_be;

/// Largest size of the reduced headers in bytes.
const MAX_HEAD: usize = 16 << 10;
/// Segment with the version of JFIF, which decides about the color space.
const JFIF: u8 = 0xE0;
/// Segment of Adobe, which decides about the color space.
pub(super) const ADOBE: u8 = 0xEE;

/// The headers and the entropy-coded data of a file.
pub(super) struct Head<'a> {
    /// The start marker and the headers that decoding needs, up to the entropy-coded data. Metadata, such as color
    /// profiles, are left out.
    pub(super) bytes: Vec<u8>,
    /// Offset in `bytes` of the height in the frame header.
    pub(super) height_at: usize,
    /// Payload of the frame header.
    pub(super) frame: &'a [u8],
    /// Payload of the scan header.
    pub(super) scan: &'a [u8],
    /// Number of units (MCUs) between two restart markers; 0 if the scan has none.
    pub(super) interval: usize,
    /// The entropy-coded data, followed by the rest of the file.
    pub(super) data: &'a [u8],
}

impl<'a> Head<'a> {
    /// Reads the headers of a file that the module `check` has accepted. `None` if the file is not baseline or
    /// extended sequential with Huffman coding, or if the reduced headers have more than 16 KiB.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut head = vec![0xFF, START];
        let (mut frame, mut interval, mut height_at) = (None, 0, 0);
        let mut segments = Segments::new(bytes);
        while let Some((marker, payload)) = segments.next() {
            match marker {
                0xC0 | 0xC1 => {
                    frame = Some(payload);
                    height_at = head.len() + 5;
                }
                RESTART_INTERVAL => interval = usize::from(u16_be(payload, 0)?),
                QUANTIZATION | HUFFMAN | JFIF | ADOBE | SCAN => {}
                _ if is_frame(marker) => return None,
                _ => continue,
            }
            head.extend([0xFF, marker]);
            head.extend((payload.len() as u16 + 2).to_be_bytes());
            head.extend(payload);
            if head.len() > MAX_HEAD {
                return None;
            }
            if marker == SCAN {
                return Some(Self {
                    bytes: head,
                    height_at,
                    frame: frame?,
                    scan: payload,
                    interval,
                    data: segments.rest(),
                });
            }
        }
        None
    }
}
