//! A reader of a file in memory that fails once the decoding of the file is cancelled.

use std::io::{self, BufRead, Read, Seek, SeekFrom};

use crate::cancel::Cancel;

/// Returns the error that a reader passes to a decoder so that the decoder stops, because the
/// decoding is cancelled.
pub(super) fn cancelled() -> io::Error {
    io::Error::other("cancelled")
}

/// Reads `bytes` from memory in parts of at most `part` bytes and checks for cancellation before
/// each part.
pub(super) struct CancellableReader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Offset in `bytes` up to which reading needs no further check for cancellation.
    checked: usize,
    part: usize,
    cancel: &'a Cancel,
}

impl<'a> CancellableReader<'a> {
    /// Returns a reader at the start of `bytes` that checks `cancel` once per `part` bytes. `part`
    /// must be at least 1.
    pub(super) fn new(bytes: &'a [u8], part: usize, cancel: &'a Cancel) -> Self {
        Self {
            bytes,
            at: 0,
            checked: 0,
            part,
            cancel,
        }
    }
}

impl BufRead for CancellableReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at >= self.checked && self.at < self.bytes.len() {
            self.cancel.check().map_err(|_| cancelled())?;
            self.checked = self.at.saturating_add(self.part).min(self.bytes.len());
        }
        Ok(self.bytes.get(self.at..self.checked).unwrap_or_default())
    }

    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
    }
}

impl Read for CancellableReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(out)?;
        self.consume(read);
        Ok(read)
    }
}

impl Seek for CancellableReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, offset) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(offset) => (self.at as u64, offset),
            SeekFrom::End(offset) => (self.bytes.len() as u64, offset),
        };
        let at = base.checked_add_signed(offset);
        let at = at.and_then(|at| usize::try_from(at).ok());
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        // The next read checks for cancellation, wherever the new position is.
        self.checked = self.at;
        Ok(self.at as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_join_to_the_file() {
        let bytes: Vec<u8> = (0..=99).collect();
        let cancel = Cancel::never();
        for part in [1, 7, 100, 1000] {
            let mut reader = CancellableReader::new(&bytes, part, &cancel);
            for at in [0, 93, 100, 200] {
                let mut rest = Vec::new();
                reader.seek(SeekFrom::Start(at)).unwrap();
                reader.read_to_end(&mut rest).unwrap();
                assert_eq!(rest, bytes.get(at as usize..).unwrap_or_default());
            }
            assert!(reader.seek(SeekFrom::Current(-300)).is_err());
        }
    }

    #[test]
    fn reading_stops_after_the_part_that_was_begun() {
        let cancel = Cancel::never();
        let mut reader = CancellableReader::new(&[0; 100], 10, &cancel);
        assert_eq!(reader.read(&mut [0; 4]).unwrap(), 4);
        cancel.cancel();
        assert_eq!(reader.read(&mut [0; 90]).unwrap(), 6);
        assert!(reader.read(&mut [0; 90]).is_err());
    }
}
