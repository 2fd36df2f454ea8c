//! Format and size from a file's first bytes, with no decoder and no allocation, so that limits hold
//! before either exists.

use super::jpeg::{Segments, is_frame};
use super::{ImageError, ImageFormat, ImageSize};

/// The format, told by magic bytes alone, and the size that the header claims, before any rotation.
///
/// # Errors
/// [`ImageError::Empty`] without bytes, [`ImageError::UnknownFormat`] for anything else than the five
/// formats, [`ImageError::Damaged`] if the header is cut short or claims no pixels, and
/// [`ImageError::UnsupportedFeature`] for a JPEG that states its height only after the scan.
pub fn probe(bytes: &[u8]) -> Result<(ImageFormat, ImageSize), ImageError> {
    let format = sniff(bytes)?;
    let size = match format {
        ImageFormat::Jpeg => jpeg_size(bytes),
        ImageFormat::Png => png_size(bytes),
        ImageFormat::WebP => webp_size(bytes),
        ImageFormat::Bmp => bmp_size(bytes),
        ImageFormat::Gif => gif_size(bytes),
    };
    let damaged = |reason: &str| ImageError::Damaged {
        format,
        reason: reason.to_owned(),
    };
    let size = size.ok_or_else(|| damaged("the header is incomplete"))?;
    match size {
        ImageSize { width: 0, .. } => Err(damaged("the width is zero")),
        ImageSize { height: 0, .. } if format == ImageFormat::Jpeg => {
            Err(ImageError::UnsupportedFeature {
                format,
                feature: "height stated after the scan (DNL)".to_owned(),
            })
        }
        ImageSize { height: 0, .. } => Err(damaged("the height is zero")),
        size => Ok((format, size)),
    }
}

fn sniff(bytes: &[u8]) -> Result<ImageFormat, ImageError> {
    match bytes {
        [] => Err(ImageError::Empty),
        [0xFF, 0xD8, 0xFF, ..] => Ok(ImageFormat::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Ok(ImageFormat::Png),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => Ok(ImageFormat::WebP),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Ok(ImageFormat::Gif),
        // Two letters alone would claim ordinary text, so the reserved zeros count too.
        [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => Ok(ImageFormat::Bmp),
        _ => Err(ImageError::UnknownFormat),
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

fn u16_le(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16::from_le_bytes(array(bytes, at)?)))
}

fn u16_be(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16::from_be_bytes(array(bytes, at)?)))
}

/// From the first frame header.
fn jpeg_size(bytes: &[u8]) -> Option<ImageSize> {
    let (_, frame) = Segments::new(bytes).find(|(marker, _)| is_frame(*marker))?;
    Some(ImageSize {
        width: u16_be(frame, 3)?,
        height: u16_be(frame, 1)?,
    })
}

/// From IHDR, which comes first.
fn png_size(bytes: &[u8]) -> Option<ImageSize> {
    (array(bytes, 12)? == *b"IHDR").then_some(())?;
    Some(ImageSize {
        width: u32::from_be_bytes(array(bytes, 16)?),
        height: u32::from_be_bytes(array(bytes, 20)?),
    })
}

/// From the first chunk: extended, lossless or lossy.
fn webp_size(bytes: &[u8]) -> Option<ImageSize> {
    let (width, height) = match &array::<4>(bytes, 12)? {
        b"VP8X" => {
            let [a, b, c, d, e, f] = array(bytes, 24)?;
            let side = |bytes| u32::from_le_bytes(bytes) + 1;
            (side([a, b, c, 0]), side([d, e, f, 0]))
        }
        b"VP8L" => {
            let bits = u32::from_le_bytes(array(bytes, 21)?);
            ((bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1)
        }
        b"VP8 " => (u16_le(bytes, 26)? & 0x3FFF, u16_le(bytes, 28)? & 0x3FFF),
        _ => return None,
    };
    Some(ImageSize { width, height })
}

/// From either of the two families of headers; a negative height means rows from the top.
fn bmp_size(bytes: &[u8]) -> Option<ImageSize> {
    if u32::from_le_bytes(array(bytes, 14)?) == 12 {
        return Some(ImageSize {
            width: u16_le(bytes, 18)?,
            height: u16_le(bytes, 20)?,
        });
    }
    Some(ImageSize {
        width: i32::from_le_bytes(array(bytes, 18)?).unsigned_abs(),
        height: i32::from_le_bytes(array(bytes, 22)?).unsigned_abs(),
    })
}

/// The logical screen.
fn gif_size(bytes: &[u8]) -> Option<ImageSize> {
    Some(ImageSize {
        width: u16_le(bytes, 6)?,
        height: u16_le(bytes, 8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_no_known_format_are_told_apart_from_none() {
        assert_eq!(probe(b""), Err(ImageError::Empty));
        for bytes in [&b"B"[..], b"BMW is a car maker", b"RIFF1234WAVE", b"<svg/>"] {
            assert_eq!(probe(bytes), Err(ImageError::UnknownFormat), "{bytes:?}");
        }
    }

    #[test]
    fn headers_cut_anywhere_are_errors_and_never_panics() {
        let headers: [&[u8]; 5] = [
            b"\xFF\xD8\xFF\xC0\x00\x11\x08\x00\x10\x00\x20",
            b"\x89PNG\r\n\x1A\n\x00\x00\x00\x0DIHDR\x00\x00\x00\x20\x00\x00\x00\x10",
            b"RIFF\x00\x00\x00\x00WEBPVP8X\x0A\x00\x00\x00\x00\x00\x00\x00\x1F\x00\x00\x0F\x00\x00",
            b"BM\x00\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00\x00\x00\x20\x00\x00\x00\xF0\xFF\xFF\xFF",
            b"GIF89a\x20\x00\x10\x00",
        ];
        let expected = ImageSize {
            width: 32,
            height: 16,
        };
        for header in headers {
            // The JPEG's segment claims more than this, so only what is cut from its size is an error.
            for cut in 0..header.len() {
                assert!(probe(&header[..cut]).is_err(), "{header:?} cut at {cut}");
            }
            if header[0] != 0xFF {
                assert_eq!(probe(header).map(|(_, size)| size), Ok(expected));
            }
        }
    }
}
