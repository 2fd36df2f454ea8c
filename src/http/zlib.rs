//! Decodes zlib data (RFC 1950), which HTTP calls `deflate`, into buffers of a bounded size.

use flate2::{Decompress, FlushDecompress, Status};
use thiserror::Error;

/// Why data cannot be decoded as zlib data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum ZlibError {
    #[error("other bytes follow the zlib data")]
    Trailing,
    #[error("it is not zlib data, or the compressed data is damaged")]
    Damaged,
    #[error("it ends before the zlib data ends")]
    Truncated,
}

/// A decoder of zlib data.
pub(super) struct Zlib {
    inflate: Decompress,
    ended: bool,
}

impl Zlib {
    pub(super) fn new() -> Self {
        Self {
            inflate: Decompress::new(true),
            ended: false,
        }
    }

    /// Decodes `input` into `output`, which is not empty, until one of them is used up. Removes the bytes that were
    /// used from `input`, and returns the number of bytes that were written. If all of `output` was written, further
    /// output may follow even if `input` is empty.
    ///
    /// # Errors
    /// [`ZlibError`] for data that is not zlib data.
    pub(super) fn decode(
        &mut self,
        input: &mut &[u8],
        output: &mut [u8],
    ) -> Result<usize, ZlibError> {
        let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
        if !self.ended {
            let status = self
                .inflate
                .decompress(input, output, FlushDecompress::None);
            self.ended = status.map_err(|_| ZlibError::Damaged)? == Status::StreamEnd;
        }
        let read = (self.inflate.total_in() - read) as usize;
        *input = input.get(read..).unwrap_or_default();
        if self.ended && !input.is_empty() {
            return Err(ZlibError::Trailing);
        }
        Ok((self.inflate.total_out() - written) as usize)
    }

    /// Checks that the data ends here.
    ///
    /// # Errors
    /// [`ZlibError::Truncated`] if more data has to follow.
    pub(super) fn finish(&self) -> Result<(), ZlibError> {
        if self.ended {
            return Ok(());
        }
        Err(ZlibError::Truncated)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// Decodes `data` in pieces of `piece` bytes into buffers of 7 bytes.
    fn decode(data: &[u8], piece: usize) -> Result<Vec<u8>, ZlibError> {
        let mut zlib = Zlib::new();
        let mut decoded = Vec::new();
        for mut input in data.chunks(piece) {
            loop {
                let mut output = [0; 7];
                let written = zlib.decode(&mut input, &mut output)?;
                decoded.extend_from_slice(&output[..written]);
                if written < output.len() && input.is_empty() {
                    break;
                }
            }
        }
        zlib.finish().map(|()| decoded)
    }

    #[test]
    fn whole_data_is_decoded_and_other_data_is_rejected() {
        let text = b"one, two, one, two, three".repeat(9);
        let data = zlib(&text);
        for piece in [1, 5, data.len()] {
            assert_eq!(decode(&data, piece).unwrap(), text);
        }
        assert_eq!(
            decode(&data[..data.len() - 1], 9),
            Err(ZlibError::Truncated)
        );
        assert_eq!(decode(b"plain text", 9), Err(ZlibError::Damaged));
        assert_eq!(
            decode(&[&data[..], b"x"].concat(), 999),
            Err(ZlibError::Trailing)
        );
        assert_eq!(
            decode(&[&data[..], b"x"].concat(), 1),
            Err(ZlibError::Trailing)
        );
        let mut wrong = data.clone();
        *wrong.last_mut().unwrap() ^= 1;
        assert_eq!(decode(&wrong, 9), Err(ZlibError::Damaged));
    }
}
