//! An iterator over the marker segments of a JPEG.

/// Marker at the start of the image.
pub(super) const START: u8 = 0xD8;
/// Marker at the end of the image.
pub(super) const END: u8 = 0xD9;

/// An iterator that yields marker and payload of each segment, up to and including the end marker.
///
/// The payload excludes the two bytes of its length, and is empty if the marker has no payload.
/// Entropy-coded data and stray bytes are skipped; a segment that is longer than the rest of the
/// file ends the iteration.
pub(super) struct Segments<'a> {
    rest: &'a [u8],
}

impl<'a> Segments<'a> {
    /// Returns an iterator over the segments after the start marker, with which `bytes` must begin.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let rest = bytes.strip_prefix(&[0xFF, START]).unwrap_or(bytes);
        Self { rest }
    }
}

#[cfg(feature = "libjpeg-turbo")]
impl<'a> Segments<'a> {
    /// Returns the bytes after the segment that was yielded last.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let escape = self.rest.iter().position(|b| *b == 0xFF)?;
            let (&marker, rest) = self.rest.get(escape + 1..)?.split_first()?;
            match marker {
                // The first 0xFF is a fill byte; the second may be the 0xFF that begins the marker.
                0xFF => self.rest = self.rest.get(escape + 1..)?,
                // 0xFF 0x00 is no marker but an entropy-coded byte of 0xFF.
                0 => self.rest = rest,
                // TEM, the restart markers and the start marker have no payload.
                1 | 0xD0..=START => {
                    self.rest = rest;
                    return Some((marker, &[]));
                }
                END => {
                    self.rest = &[];
                    return Some((marker, &[]));
                }
                _ => {
                    let length = usize::from(u16::from_be_bytes(*rest.first_chunk()?));
                    let payload = rest.get(2..length)?;
                    self.rest = rest.get(length..)?;
                    return Some((marker, payload));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_coded_data_are_skipped() {
        let bytes = b"\xFF\xD8\xFF\xFF\xE0\x00\x04ab\xFF\xDA\x00\x03c12\xFF\x003\xFF\xD0\x45\xFF\xD9\xFF\xE1";
        let segments: Vec<_> = Segments::new(bytes).collect();
        let expected = [(0xE0, &b"ab"[..]), (0xDA, b"c"), (0xD0, b""), (END, b"")];
        assert_eq!(segments, expected);
    }

    #[test]
    fn a_segment_longer_than_the_file_ends_the_iteration() {
        for bytes in [
            &b"\xFF\xD8\xFF\xE0\x00\x09ab"[..],
            b"\xFF\xD8\xFF\xE0\x00\x01",
            b"\xFF\xE0",
            b"\xFF",
        ] {
            assert_eq!(Segments::new(bytes).count(), 0, "{bytes:?}");
        }
    }
}
