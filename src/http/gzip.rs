//! Decodes gzip data (RFC 1952) that arrives in pieces, into buffers of a bounded size.
//!
//! The readers of the crate `flate2` decide themselves how much they decode in a call. Here the caller decides, so this
//! file parses the headers and trailers of members, and leaves the compressed data to `flate2`.

use flate2::{Crc, Decompress, FlushDecompress, Status};
use thiserror::Error;

/// First two bytes of a member, and the only compression method.
const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
/// Length of the part that every header has.
const FIXED: usize = 10;
/// Length of a trailer: checksum and length of the decoded data.
const TRAILER: usize = 8;

/// Flags of a header.
const HEADER_CHECK: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;

/// Why data cannot be decoded as gzip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum GzipError {
    #[error("it does not begin as gzip data")]
    NotGzip,
    #[error("other bytes follow the gzip data")]
    Trailing,
    #[error("the header of the gzip data has reserved flags")]
    Reserved,
    #[error("the compressed data is damaged")]
    Damaged,
    #[error("the decoded data does not match the checksum of the gzip data")]
    Checksum,
    #[error("it ends before the gzip data ends")]
    Truncated,
}

/// A decoder of gzip data with one or more members.
pub(super) struct Gzip {
    state: State,
    inflate: Decompress,
    /// Checksum and length of the decoded data of the current member.
    crc: Crc,
    /// Whether a whole member was decoded.
    complete: bool,
}

enum State {
    Header(Header),
    Data,
    Trailer(Filled<TRAILER>),
}

impl Gzip {
    pub(super) fn new() -> Self {
        Self {
            state: State::Header(Header::default()),
            inflate: Decompress::new(false),
            crc: Crc::new(),
            complete: false,
        }
    }

    /// Decodes `input` into `output`, which is not empty, until one of them is used up. Removes the bytes that were
    /// used from `input`, and returns the number of bytes that were written. If all of `output` was written, further
    /// output may follow even if `input` is empty.
    ///
    /// # Errors
    /// [`GzipError`] for data that is not gzip.
    pub(super) fn decode(
        &mut self,
        input: &mut &[u8],
        output: &mut [u8],
    ) -> Result<usize, GzipError> {
        let mut written = 0;
        loop {
            if let State::Data = self.state {
                let more = self.inflate(input, &mut output[written..])?;
                written += more;
                if let State::Data = self.state {
                    return Ok(written);
                }
                continue;
            }
            let Some((byte, rest)) = input.split_first() else {
                return Ok(written);
            };
            *input = rest;
            self.frame(*byte)?;
        }
    }

    /// Checks that the data ends here.
    ///
    /// # Errors
    /// [`GzipError::Truncated`] within a member, and if there is no member.
    pub(super) fn finish(&self) -> Result<(), GzipError> {
        match &self.state {
            State::Header(header) if self.complete && header.is_empty() => Ok(()),
            _ => Err(GzipError::Truncated),
        }
    }

    /// Decodes compressed data until `input` or `output` is used up or the data of the member ends.
    fn inflate(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, GzipError> {
        let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self
            .inflate
            .decompress(input, output, FlushDecompress::None);
        let status = status.map_err(|_| GzipError::Damaged)?;
        let read = (self.inflate.total_in() - read) as usize;
        let written = (self.inflate.total_out() - written) as usize;
        *input = input.get(read..).unwrap_or_default();
        self.crc.update(output.get(..written).unwrap_or_default());
        if status == Status::StreamEnd {
            self.state = State::Trailer(Filled::default());
        }
        Ok(written)
    }

    /// Adds a byte to the header or to the trailer of a member.
    fn frame(&mut self, byte: u8) -> Result<(), GzipError> {
        match &mut self.state {
            State::Header(header) => {
                let ends = header.push(byte).map_err(|error| match error {
                    GzipError::NotGzip if self.complete => GzipError::Trailing,
                    error => error,
                })?;
                if ends {
                    self.state = State::Data;
                }
            }
            State::Trailer(trailer) => {
                trailer.push(byte);
                if trailer.is_full() {
                    let expected = [self.crc.sum(), self.crc.amount()].map(u32::to_le_bytes);
                    if trailer.bytes != *expected.as_flattened() {
                        return Err(GzipError::Checksum);
                    }
                    self.next_member();
                }
            }
            State::Data => {}
        }
        Ok(())
    }

    fn next_member(&mut self) {
        self.complete = true;
        self.state = State::Header(Header::default());
        self.inflate.reset(false);
        self.crc.reset();
    }
}

/// The header of a member, byte by byte. Its contents are skipped: neither the name nor the time of the file matters.
#[derive(Default)]
struct Header {
    fixed: Filled<FIXED>,
    extra_length: Filled<2>,
    /// Number of bytes of the extra field that were read.
    extra: u16,
    /// Number of bytes of the header's own checksum that were read. The checksum is not compared: the header has
    /// nothing that is used.
    check: u8,
    /// Flags of the parts that are not read yet.
    left: u8,
}

impl Header {
    fn is_empty(&self) -> bool {
        self.fixed.length == 0
    }

    /// Adds a byte. Returns whether the header ends with it.
    fn push(&mut self, byte: u8) -> Result<bool, GzipError> {
        if self.fixed.is_full() {
            self.optional(byte);
        } else {
            if MAGIC.get(self.fixed.length).is_some_and(|b| *b != byte) {
                return Err(GzipError::NotGzip);
            }
            self.fixed.push(byte);
            let flags = self.fixed.bytes[3];
            if flags & RESERVED != 0 {
                return Err(GzipError::Reserved);
            }
            self.left = flags & (EXTRA | NAME | COMMENT | HEADER_CHECK);
        }
        Ok(self.fixed.is_full() && self.left == 0)
    }

    /// Skips a byte of the first part that is not read yet.
    fn optional(&mut self, byte: u8) {
        let ends = if self.left & EXTRA != 0 {
            if self.extra_length.is_full() {
                self.extra += 1;
            } else {
                self.extra_length.push(byte);
            }
            let length = u16::from_le_bytes(self.extra_length.bytes);
            (self.extra_length.is_full() && self.extra == length).then_some(EXTRA)
        } else if self.left & NAME != 0 {
            (byte == 0).then_some(NAME)
        } else if self.left & COMMENT != 0 {
            (byte == 0).then_some(COMMENT)
        } else {
            self.check += 1;
            (self.check == 2).then_some(HEADER_CHECK)
        };
        self.left &= !ends.unwrap_or_default();
    }
}

/// `N` bytes that arrive one by one.
struct Filled<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Default for Filled<N> {
    fn default() -> Self {
        let bytes = [0; N];
        Self { bytes, length: 0 }
    }
}

impl<const N: usize> Filled<N> {
    fn is_full(&self) -> bool {
        self.length == N
    }

    fn push(&mut self, byte: u8) {
        if let Some(next) = self.bytes.get_mut(self.length) {
            *next = byte;
            self.length += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;
    use flate2::{Compression, GzBuilder};

    use super::*;

    /// Decodes `data` in pieces of `input` bytes into buffers of `output` bytes.
    fn decoded(data: &[u8], input: usize, output: usize) -> Result<Vec<u8>, GzipError> {
        let mut gzip = Gzip::new();
        let (mut all, mut buffer) = (Vec::new(), vec![0; output]);
        for mut piece in data.chunks(input) {
            loop {
                let written = gzip.decode(&mut piece, &mut buffer)?;
                all.extend_from_slice(&buffer[..written]);
                if written < output {
                    assert!(piece.is_empty());
                    break;
                }
            }
        }
        gzip.finish().map(|()| all)
    }

    fn member(builder: GzBuilder, data: &[u8]) -> Vec<u8> {
        let mut encoder = builder.write(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn text() -> Vec<u8> {
        (0..20_000_u32)
            .flat_map(|n| (n % 251 * n / 7).to_le_bytes())
            .collect()
    }

    #[test]
    fn pieces_of_all_sizes_are_decoded() {
        let text = text();
        let named = GzBuilder::new()
            .filename("photo.jpg")
            .comment("a comment")
            .extra(vec![7; 300]);
        let data = member(named, &text);
        for (input, output) in [
            (1, 1),
            (1, 70_000),
            (7, 5),
            (64, 4096),
            (1 << 20, 3),
            (1 << 20, 1 << 20),
        ] {
            assert!(
                decoded(&data, input, output).unwrap() == text,
                "{input} {output}"
            );
        }
    }

    #[test]
    fn members_follow_each_other() {
        let text = text();
        let (empty, whole) = (
            member(GzBuilder::new(), b""),
            member(GzBuilder::new(), &text),
        );
        let data = [&whole[..], &empty, &whole].concat();
        assert!(decoded(&data, 11, 1000).unwrap() == [&text[..], &text].concat());
        assert_eq!(decoded(&empty, 100, 1).unwrap(), b"");
    }

    #[test]
    fn every_truncated_file_is_an_error() {
        let data = member(GzBuilder::new().filename("a"), b"some text, some text");
        for end in 0..data.len() {
            assert_eq!(
                decoded(&data[..end], 5, 16),
                Err(GzipError::Truncated),
                "{end}"
            );
        }
    }

    #[test]
    fn damaged_data_is_an_error_with_its_reason() {
        let data = member(GzBuilder::new(), b"some text, some text");
        let with = |at: usize, byte: u8| {
            let mut data = data.clone();
            let at = (data.len() + at) % data.len();
            data[at] = byte;
            decoded(&data, 1 << 20, 1 << 20)
        };
        assert_eq!(with(0, b'P'), Err(GzipError::NotGzip));
        assert_eq!(with(2, 7), Err(GzipError::NotGzip));
        assert_eq!(with(3, 0x80), Err(GzipError::Reserved));
        // A block of the reserved type 3.
        assert_eq!(with(10, 0xff), Err(GzipError::Damaged));
        let (check, length) = (data.len() - 8, data.len() - 1);
        assert_eq!(with(check, !data[check]), Err(GzipError::Checksum));
        assert_eq!(with(length, 1), Err(GzipError::Checksum));
        for garbage in [&b"garbage"[..], &[0], &[0x1f, 0]] {
            let data = [&data, garbage].concat();
            assert_eq!(decoded(&data, 3, 100), Err(GzipError::Trailing));
        }
        let cut = [&data[..], &[0x1f, 0x8b]].concat();
        assert_eq!(decoded(&cut, 3, 100), Err(GzipError::Truncated));
    }

    #[test]
    fn a_call_writes_no_more_than_its_buffer() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![0; 1 << 22]).unwrap();
        let data = encoder.finish().unwrap();
        assert!(data.len() < 5000);
        assert_eq!(decoded(&data, 1 << 20, 1000).unwrap().len(), 1 << 22);
    }
}
