//! Reading of format, size and coding from a file's headers, without decoding and without allocating in
//! proportion to the image, so that limits can be checked first.
//!
//! A file can state its size more than once: a GIF by its screen and its first frame, a WebP by its
//! canvas and its bitstream. [`probe()`] reads every header that determines the decoded size, and a
//! decoder returns an error before it allocates if it finds a size that differs from the size that
//! [`probe()`] returned.

use image::metadata::Orientation as Turn;

use super::turn::Steps;
use super::{Coding, ForeignFile, ImageError, ImageFormat, ImageSize, Scale};
use super::{bmp, foreign, gif, jpeg, png, webp};

/// Properties of an image that its file's headers state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageHeader {
    /// Format, recognized by the file's first bytes.
    pub format: ImageFormat,
    /// Size of the decoded image, before any rotation.
    pub size: ImageSize,
    /// Coding of the pixels, which determines the cost of decoding.
    pub coding: Coding,
    /// Whether the image can be decoded at a reduced scale.
    pub(super) scalable: bool,
    /// Rotation and mirroring that EXIF or XMP metadata state.
    pub(super) turn: Turn,
}

impl ImageHeader {
    /// Returns whether applying the orientation rotates or mirrors the image.
    pub fn is_turned(&self) -> bool {
        self.turn != Turn::NoTransforms
    }

    /// Returns the size of the image at full scale after its orientation is applied.
    pub fn upright_size(&self) -> ImageSize {
        let ImageSize { width, height } = self.size;
        if Steps::of(self.turn).transposed {
            return ImageSize {
                width: height,
                height: width,
            };
        }
        self.size
    }

    /// Returns `wanted` if the image can be decoded at a reduced scale, and otherwise
    /// [`Scale::Full`]. Only JPEG in gray, `YCbCr` or RGB can.
    pub fn scale(&self, wanted: Scale) -> Scale {
        if self.scalable { wanted } else { Scale::Full }
    }
}

/// Reads the headers of an image file.
///
/// # Errors
/// [`ImageError::Empty`] if `bytes` is empty, [`ImageError::UnknownFormat`] if the file has none of
/// the formats in [`ImageFormat`], [`ImageError::Damaged`] if a header is cut short, contradicts
/// another header or states no pixels, and [`ImageError::UnsupportedFeature`] for a JPEG that
/// states its height only after the scan.
pub fn probe(bytes: &[u8]) -> Result<ImageHeader, ImageError> {
    let format = sniff(bytes)?;
    let header = match format {
        ImageFormat::Jpeg => jpeg::header(bytes)?,
        ImageFormat::Png => png::header(bytes)?,
        ImageFormat::WebP => webp::header(bytes)?,
        ImageFormat::Bmp => bmp::header(bytes)?,
        ImageFormat::Gif => gif::header(bytes)?,
    };
    let damaged = |reason: &str| ImageError::Damaged {
        format,
        reason: reason.to_owned(),
    };
    match header.size {
        ImageSize { width: 0, .. } => Err(damaged("the width is zero")),
        ImageSize { height: 0, .. } if format == ImageFormat::Jpeg => {
            Err(ImageError::UnsupportedFeature {
                format,
                feature: "height stated after the scan (DNL)".to_owned(),
            })
        }
        ImageSize { height: 0, .. } => Err(damaged("the height is zero")),
        _ => Ok(header),
    }
}

/// Returns the format by the file's first bytes alone: neither a file name nor a `content-type` counts.
fn sniff(bytes: &[u8]) -> Result<ImageFormat, ImageError> {
    match bytes {
        [] => return Err(ImageError::Empty),
        [0xFF, 0xD8, 0xFF, ..] => return Ok(ImageFormat::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => return Ok(ImageFormat::Png),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => return Ok(ImageFormat::Gif),
        _ if webp::is_webp(bytes) => return Ok(ImageFormat::WebP),
        _ if bmp::is_bmp(bytes) => return Ok(ImageFormat::Bmp),
        _ => {}
    }
    let found: Option<ForeignFile> = foreign::recognize(bytes);
    Err(ImageError::UnknownFormat { found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_files_and_unknown_formats_are_told_apart() {
        assert_eq!(probe(b""), Err(ImageError::Empty));
        for bytes in [&b"B"[..], b"BMW is a car maker", b"RIFF1234ACON"] {
            let unknown = ImageError::UnknownFormat { found: None };
            assert_eq!(probe(bytes), Err(unknown), "{}", bytes.escape_ascii());
        }
        let error = probe(b"\0\0\0\x18ftypheic").unwrap_err().to_string();
        let expected =
            "not a JPEG, PNG, WebP, BMP or GIF image but HEIC: convert it to JPEG or PNG first";
        assert_eq!(error, expected);
    }

    #[test]
    fn headers_cut_anywhere_are_errors_and_never_panics() {
        let headers: [&[u8]; 5] = [
            b"\xFF\xD8\xFF\xC0\x00\x11\x08\x00\x10\x00\x20\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01",
            b"\x89PNG\r\n\x1A\n\x00\x00\x00\x0DIHDR\x00\x00\x00\x20\x00\x00\x00\x10\x08\x02\x00\x00\x00",
            b"RIFF\x16\x00\x00\x00WEBPVP8L\x0A\x00\x00\x00\x2F\x1F\xC0\x03\x00\x00\x00\x00\x00\x00",
            b"BM\x00\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00\x00\x00\x20\x00\x00\x00\xF0\xFF\xFF\xFF\x01\x00\x18\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
            b"GIF89a\x20\x00\x10\x00\x00\x00\x00\x2C\x00\x00\x00\x00\x20\x00\x10\x00\x00\x08",
        ];
        let expected = ImageSize {
            width: 32,
            height: 16,
        };
        for header in headers {
            for cut in 0..header.len() {
                let name = header[..cut].escape_ascii();
                assert!(probe(&header[..cut]).is_err(), "{name} cut at {cut}");
            }
            assert_eq!(probe(header).map(|header| header.size), Ok(expected));
        }
    }
}
