//! A reader that presents a frame's bitstream as a WebP file with one chunk, without copying the
//! bitstream.

use std::io::{self, BufRead, Read, Seek, SeekFrom};

use super::super::reader::cancelled;
use super::container::{Bitstream, Frame};
use crate::cancel::Cancel;

/// Length of the head in bytes: RIFF header, chunk header, and a copy of the beginning of the
/// bitstream, in which a flag may be changed.
const HEAD: usize = 25;
/// Number of bytes at the beginning of the bitstream that the head contains a copy of.
const COPIED: usize = 5;

/// Number of bytes that are read between two checks for cancellation.
const BYTES_PER_CHECK: u64 = 4 << 10;

/// A file of `RIFF`, `WEBP` and one chunk, read from a head in memory and a borrowed body.
pub(super) struct SimpleFile<'a> {
    head: [u8; HEAD],
    body: &'a [u8],
    at: u64,
    /// Position in the file, in bytes, up to which reading needs no further check for cancellation.
    checked: u64,
    cancel: &'a Cancel,
}

impl<'a> SimpleFile<'a> {
    /// Returns the file of one frame. A lossless bitstream is marked as having alpha, because the
    /// decoder then works in the caller's RGBA buffer instead of allocating another buffer.
    pub(super) fn new(frame: &Frame<'a>, cancel: &'a Cancel) -> Self {
        let mut head = [0; HEAD];
        let length = frame.data.len() as u32;
        let (start, body) = frame.data.split_at(frame.data.len().min(COPIED));
        head[..4].copy_from_slice(b"RIFF");
        head[4..8].copy_from_slice(&length.saturating_add(12).to_le_bytes());
        head[8..12].copy_from_slice(b"WEBP");
        head[12..16].copy_from_slice(match frame.bitstream {
            Bitstream::Lossy => b"VP8 ",
            Bitstream::Lossless => b"VP8L",
        });
        head[16..20].copy_from_slice(&length.to_le_bytes());
        head[20..20 + start.len()].copy_from_slice(start);
        if frame.bitstream == Bitstream::Lossless {
            // Sets the alpha flag: bit 28 of the little-endian word after the signature byte.
            head[24] |= 0x10;
        }
        Self {
            head,
            body,
            at: 0,
            checked: 0,
            cancel,
        }
    }

    /// Returns the bytes from the current position to the end of the head, or to the end of the
    /// body if the position is past the head. Returns an error if the decoding is cancelled.
    fn rest(&mut self) -> io::Result<&[u8]> {
        if self.at >= self.checked {
            self.cancel.check().map_err(|_| cancelled())?;
            self.checked = self.at.saturating_add(BYTES_PER_CHECK);
        }
        let at = usize::try_from(self.at).unwrap_or(usize::MAX);
        Ok(match self.head.get(at..) {
            Some(rest @ [_, ..]) => rest,
            _ => self.body.get(at - HEAD..).unwrap_or_default(),
        })
    }
}

impl Read for SimpleFile<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.rest()?.read(out)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl BufRead for SimpleFile<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.rest()
    }

    fn consume(&mut self, bytes: usize) {
        self.at += bytes as u64;
    }
}

impl Seek for SimpleFile<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, offset) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(offset) => (self.at, offset),
            SeekFrom::End(offset) => ((HEAD + self.body.len()) as u64, offset),
        };
        let at = base.checked_add_signed(offset);
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::ImageSize;
    use super::*;

    #[test]
    fn head_and_body_read_as_one() {
        let frame = Frame {
            bitstream: Bitstream::Lossless,
            data: &[0x2F, 1, 2, 3, 4, 5, 6, 7],
            size: ImageSize {
                width: 1,
                height: 1,
            },
            left: 0,
            top: 0,
        };
        let cancel = Cancel::never();
        let mut file = SimpleFile::new(&frame, &cancel);
        let expected = b"RIFF\x14\0\0\0WEBPVP8L\x08\0\0\0\x2F\x01\x02\x03\x14\x05\x06\x07";
        let mut all = Vec::new();
        file.read_to_end(&mut all).unwrap();
        assert_eq!(all, expected);
        for at in [0, 24, 25, 27, 28, 40] {
            file.seek(SeekFrom::Start(at)).unwrap();
            let mut rest = Vec::new();
            file.read_to_end(&mut rest).unwrap();
            let expected = expected.get(at as usize..).unwrap_or_default();
            assert_eq!(rest, expected, "from {at}");
        }
        assert!(file.seek(SeekFrom::Current(-100)).is_err());
    }
}
