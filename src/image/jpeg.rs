//! JPEG by zune-jpeg in its strict mode, with the damage that it lets through caught beforehand.

use image::RgbImage;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::{ImageError, ImageFormat, ImageSize};

const START_OF_IMAGE: u8 = 0xD8;
const END_OF_IMAGE: u8 = 0xD9;

/// The marker segments of a JPEG, `(marker, payload)` without the length, up to and including the end
/// marker. Entropy-coded data, restart markers and stray bytes are passed over; a segment that claims
/// more bytes than there are ends the iteration.
pub(super) struct Segments<'a> {
    rest: &'a [u8],
}

impl<'a> Segments<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let escape = self.rest.iter().position(|b| *b == 0xFF)?;
            let (&marker, rest) = self.rest.get(escape + 1..)?.split_first()?;
            match marker {
                // A fill byte: it may itself begin the marker.
                0xFF => self.rest = self.rest.get(escape + 1..)?,
                // Stuffing, TEM, restarts and the start marker have no payload.
                0 | 1 | 0xD0..=START_OF_IMAGE => self.rest = rest,
                END_OF_IMAGE => {
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

/// A decoded picture and the EXIF block beside it.
pub(super) struct DecodedJpeg {
    pub(super) image: RgbImage,
    pub(super) exif: Option<Vec<u8>>,
}

/// Decodes a JPEG to RGB, of the given size by its header.
///
/// zune-jpeg outside of its strict mode fills what it cannot read with grey. Its strict mode still
/// lets a cut inside the last row of blocks pass, so the end marker must be there, as it must be for
/// Pillow. The headers are read leniently: cameras put stray bytes between them.
pub(super) fn decode(bytes: &[u8], size: ImageSize) -> Result<DecodedJpeg, ImageError> {
    if !Segments::new(bytes).any(|(marker, _)| marker == END_OF_IMAGE) {
        return Err(damaged("it ends before its end marker"));
    }
    let lenient = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), lenient);
    decoder.decode_headers().map_err(error)?;
    if decoder.dimensions() != Some((size.width as usize, size.height as usize)) {
        return Err(damaged("it has two frame headers of different sizes"));
    }
    let grey = decoder.input_colorspace() == Some(ColorSpace::Luma);
    let output = if grey {
        ColorSpace::Luma
    } else {
        ColorSpace::RGB
    };
    decoder.set_options(
        lenient
            .set_strict_mode(true)
            .jpeg_set_out_colorspace(output),
    );

    let channels = if grey { 1 } else { 3 };
    let mut data = vec![0; size.pixels() as usize * channels];
    decoder.decode_into(&mut data).map_err(error)?;
    if grey {
        data = super::decode::grey_to_rgb(&data);
    }
    let image = RgbImage::from_raw(size.width, size.height, data)
        .ok_or_else(|| damaged("its data do not fill its size"))?;
    Ok(DecodedJpeg {
        image,
        exif: decoder.exif().cloned(),
    })
}

fn damaged(reason: &str) -> ImageError {
    ImageError::Damaged {
        format: ImageFormat::Jpeg,
        reason: reason.to_owned(),
    }
}

fn error(error: DecodeErrors) -> ImageError {
    match error {
        DecodeErrors::Unsupported(feature) => ImageError::UnsupportedFeature {
            format: ImageFormat::Jpeg,
            feature: format!("{feature:?}"),
        },
        // Its Display and Debug are the same prose; some variants span lines.
        other => damaged(format!("{other:?}").trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_pass_over_entropy_coded_data() {
        let bytes = b"\xFF\xD8\xFF\xFF\xE0\x00\x04ab\xFF\xDA\x00\x03c12\xFF\x003\xFF\xD0\x45\xFF\xD9\xFF\xE1";
        let segments: Vec<_> = Segments::new(bytes).collect();
        assert_eq!(
            segments,
            [(0xE0, &b"ab"[..]), (0xDA, b"c"), (END_OF_IMAGE, b"")]
        );
    }

    #[test]
    fn a_segment_longer_than_the_file_ends_the_walk() {
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
