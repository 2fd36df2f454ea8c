//! The RIFF container of a WebP: canvas, first frame and metadata.
//!
//! Source: WebP Container Specification, and libwebp's `src/demux/demux.c` for what is valid.

use super::super::bytes::{array, u16_le, u24_le, u32_le};
use super::super::{ImageError, ImageSize};
use super::damaged;

/// Flag in the chunk `VP8X`: the file is an animation.
const ANIMATION: u8 = 0x02;
const HAS_XMP: u8 = 0x04;
const HAS_EXIF: u8 = 0x08;

/// The coding of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bitstream {
    /// Lossy coding, in a chunk `VP8 `.
    Lossy,
    /// Lossless coding, in a chunk `VP8L`.
    Lossless,
}

/// A frame and its place on the canvas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) bitstream: Bitstream,
    /// Content of the chunk that holds the bitstream, with the byte that fills it up to an even length if it has one:
    /// libwebp reads the bits of that byte, too.
    pub(super) data: &'a [u8],
    /// Size that the bitstream's own header states.
    pub(super) size: ImageSize,
    /// Column of the canvas at which the frame begins.
    pub(super) left: u32,
    /// Row of the canvas at which the frame begins.
    pub(super) top: u32,
}

/// Canvas, first frame and metadata of a WebP.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Container<'a> {
    pub(super) canvas: ImageSize,
    pub(super) frame: Frame<'a>,
    pub(super) exif: Option<&'a [u8]>,
    pub(super) xmp: Option<&'a [u8]>,
}

impl<'a> Container<'a> {
    /// Reads the headers of a file that begins with the signatures of RIFF and WebP.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let cut = || damaged("it is shorter than its RIFF header states");
        let length = u32_le(bytes, 4).ok_or_else(cut)? as usize;
        let body = bytes.get(8..).and_then(|rest| rest.get(..length));
        let body = body.and_then(|body| body.get(4..)).ok_or_else(cut)?;
        let mut chunks = Chunks { rest: body };
        let first = chunks.next().ok_or_else(|| damaged("it has no chunks"))??;
        if &first.kind == b"VP8X" {
            return Self::extended(first.data, chunks);
        }
        let frame = Frame::read(first)?;
        let frame = frame.ok_or_else(|| damaged("its first chunk holds no image"))?;
        Ok(Self {
            canvas: frame.size,
            frame,
            exif: None,
            xmp: None,
        })
    }

    fn extended(header: &[u8], chunks: Chunks<'a>) -> Result<Self, ImageError> {
        let read = || {
            let canvas = ImageSize {
                width: u24_le(header, 4)? + 1,
                height: u24_le(header, 7)? + 1,
            };
            Some((*header.first()?, canvas))
        };
        let (flags, canvas) = read().ok_or_else(|| damaged("the VP8X header is incomplete"))?;
        let animated = flags & ANIMATION != 0;
        let (mut frame, mut exif, mut xmp) = (None, None, None);
        for chunk in chunks {
            let chunk = chunk?;
            match &chunk.kind {
                b"EXIF" if flags & HAS_EXIF != 0 => exif = exif.or(Some(chunk.data)),
                b"XMP " if flags & HAS_XMP != 0 => xmp = xmp.or(Some(chunk.data)),
                b"ANMF" if animated && frame.is_none() => frame = Some(animated_frame(chunk.data)?),
                b"VP8 " | b"VP8L" if !animated && frame.is_none() => frame = Frame::read(chunk)?,
                _ => {}
            }
        }
        let frame = frame.ok_or_else(|| damaged("it has no frame"))?;
        let fits = |start: u32, length: u32, canvas| u64::from(start) + u64::from(length) <= canvas;
        if !animated && frame.size != canvas {
            return Err(damaged("its bitstream has another size than its canvas"));
        }
        if !fits(frame.left, frame.size.width, canvas.width.into())
            || !fits(frame.top, frame.size.height, canvas.height.into())
        {
            return Err(damaged("its first frame reaches beyond its canvas"));
        }
        Ok(Self {
            canvas,
            frame,
            exif,
            xmp,
        })
    }
}

/// Reads the frame in an `ANMF` chunk, whose header must state the same size as the frame's
/// bitstream.
fn animated_frame(data: &[u8]) -> Result<Frame<'_>, ImageError> {
    let read = || {
        let place = (u24_le(data, 0)? * 2, u24_le(data, 3)? * 2);
        let size = ImageSize {
            width: u24_le(data, 6)? + 1,
            height: u24_le(data, 9)? + 1,
        };
        Some((place, size, data.get(16..)?))
    };
    let ((left, top), size, rest) =
        read().ok_or_else(|| damaged("a frame header is incomplete"))?;
    for chunk in (Chunks { rest }) {
        if let Some(frame) = Frame::read(chunk?)? {
            if frame.size != size {
                return Err(damaged(
                    "its bitstream has another size than its frame header states",
                ));
            }
            return Ok(Frame { left, top, ..frame });
        }
    }
    Err(damaged("its first frame has no bitstream"))
}

impl<'a> Frame<'a> {
    /// Reads the frame in a chunk, placed at the canvas's origin. `None` if the chunk holds no
    /// bitstream.
    fn read(chunk: Chunk<'a>) -> Result<Option<Self>, ImageError> {
        let data = chunk.data;
        let (bitstream, size) = match &chunk.kind {
            b"VP8 " => (Bitstream::Lossy, lossy_size(data)),
            b"VP8L" => (Bitstream::Lossless, lossless_size(data)),
            _ => return Ok(None),
        };
        let size = size.ok_or_else(|| damaged("the header of its bitstream is not valid"))?;
        Ok(Some(Self {
            bitstream,
            data: chunk.padded,
            size,
            left: 0,
            top: 0,
        }))
    }
}

/// Reads the size from the header of a VP8 key frame. Source: RFC 6386, 9.1.
fn lossy_size(data: &[u8]) -> Option<ImageSize> {
    let key_frame = data.first()? & 1 == 0;
    (key_frame && array(data, 3)? == [0x9D, 0x01, 0x2A]).then_some(())?;
    Some(ImageSize {
        width: u32::from(u16_le(data, 6)? & 0x3FFF),
        height: u32::from(u16_le(data, 8)? & 0x3FFF),
    })
}

/// Reads the size from the first 5 bytes of a VP8L bitstream, which must have version 0.
fn lossless_size(data: &[u8]) -> Option<ImageSize> {
    let bits = u32_le(data, 1)?;
    (*data.first()? == 0x2F && bits >> 29 == 0).then_some(())?;
    Some(ImageSize {
        width: (bits & 0x3FFF) + 1,
        height: ((bits >> 14) & 0x3FFF) + 1,
    })
}

/// Name and content of one chunk.
#[derive(Clone, Copy)]
struct Chunk<'a> {
    kind: [u8; 4],
    data: &'a [u8],
    /// The content, and the byte behind it if its length is odd.
    padded: &'a [u8],
}

/// Iterator over the chunks of a list. It ends where fewer bytes than a chunk header are left.
struct Chunks<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Result<Chunk<'a>, ImageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let kind = array(self.rest, 0)?;
        let length = u32_le(self.rest, 4)? as usize;
        let body = self.rest.get(8..)?;
        let Some(data) = body.get(..length) else {
            self.rest = &[];
            return Some(Err(damaged("a chunk is longer than the remaining data")));
        };
        // Chunks begin at even offsets.
        let even = length + length % 2;
        self.rest = body.get(even..).unwrap_or_default();
        let padded = body.get(..even).unwrap_or(data);
        Some(Ok(Chunk { kind, data, padded }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_the_byte_that_fills_up_its_chunk() {
        let read = |content: &[u8]| {
            let length = (content.len() as u32).to_le_bytes();
            let chunk = [b"VP8L", &length[..], content, &[7, 9]].concat();
            let body = [b"WEBP", &chunk[..]].concat();
            let file = [b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body].concat();
            Container::read(&file).unwrap().frame.data.to_vec()
        };
        assert_eq!(read(&[0x2F, 0, 0, 0, 0]), [0x2F, 0, 0, 0, 0, 7]);
        assert_eq!(read(&[0x2F, 0, 0, 0, 0, 1]), [0x2F, 0, 0, 0, 0, 1]);
    }
}
