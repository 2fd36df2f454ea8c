//! Images of attackers: small files that state many pixels, and files that decode to much more than
//! their header states.

use std::borrow::Cow;

use anyhow::Result;

/// Width and height of the largest square image within the default `--max-pixels`.
const SIDE: u16 = 7071;

/// Returns files of at most 60 bytes whose headers state 50 megapixels, each with its name.
pub(crate) fn tiny() -> Vec<(&'static str, Vec<u8>)> {
    // GIF: a frame of one pixel on a screen of 50 megapixels. The LZW codes of the frame are
    // "clear", palette index 0, and "end".
    let mut gif = b"GIF89a".to_vec();
    for side in [SIDE, SIDE] {
        gif.extend_from_slice(&side.to_le_bytes());
    }
    gif.extend_from_slice(&[0x80, 0, 0, 0, 0, 0, 255, 255, 255]);
    gif.extend_from_slice(b"\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0\x3b");
    let side = u32::from(SIDE);
    // BMP: 8-bit pixels with run-length encoding. The data is only the mark for the end of the
    // bitmap.
    let bmp = bmp(side, side, 8, 1, &[0; 4], &[0, 1]);
    vec![
        ("tiny WebP", webp(side, None)),
        ("tiny GIF", gif),
        ("tiny BMP", bmp),
    ]
}

/// Returns the WebP file of [`tiny`], padded so that its 50 megapixels do not exceed the default
/// limit of 50,000 pixels per byte.
pub(crate) fn padded_webp() -> Vec<u8> {
    let side = u32::from(SIDE);
    let mut file = webp(side, None);
    let bytes = (side * side).div_ceil(50_000) as usize + 100;
    append_chunk(&mut file, *b"JUNK", &vec![0; bytes.next_multiple_of(2)]);
    file
}

/// Returns files with lying headers, each with its name: the header states one pixel, but the file
/// contains an image of 49 megapixels or a color profile of 100 MiB.
///
/// # Errors
/// If an encoder fails.
pub(crate) fn lying() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let side = 7000;
    let palette = [0, 0, 0, 255, 255, 255];
    let pixels = vec![0; usize::from(side) * usize::from(side)];
    let gif = gif((1, 1), (side, side), &palette, pixels)?;
    let mut webp = webp(u32::from(side), Some(1));
    append_chunk(&mut webp, *b"JUNK", &[0; 2000]);
    Ok(vec![
        ("lying GIF", gif),
        ("lying WebP", webp),
        ("PNG with a profile of 100 MB", png_with_profile(100 << 20)?),
    ])
}

/// Returns a PNG file of one pixel with a color profile of `bytes` zero bytes.
fn png_with_profile(bytes: usize) -> Result<Vec<u8>> {
    let mut info = png::Info::with_size(1, 1);
    info.color_type = png::ColorType::Rgb;
    info.icc_profile = Some(Cow::Owned(vec![0; bytes]));
    let mut file = Vec::new();
    let mut writer = png::Encoder::with_info(&mut file, info)?.write_header()?;
    writer.write_image_data(&[90, 60, 30])?;
    writer.finish()?;
    Ok(file)
}

/// Returns a GIF file with one frame of palette indices. `screen` and `frame` are width and height
/// in pixels; `palette` has 3 bytes per color.
///
/// # Errors
/// If the encoder fails.
pub(crate) fn gif(
    screen: (u16, u16),
    frame: (u16, u16),
    palette: &[u8],
    indices: Vec<u8>,
) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    let mut encoder = gif::Encoder::new(&mut file, screen.0, screen.1, palette)?;
    let frame = gif::Frame::from_indexed_pixels(frame.0, frame.1, indices, None);
    encoder.write_frame(&frame)?;
    drop(encoder);
    Ok(file)
}

/// Returns a BMP file of 16x16 pixels, all of one gray.
pub(crate) fn plain(gray: u8) -> Vec<u8> {
    bmp(16, 16, 24, 0, &[], &[gray; 16 * 16 * 3])
}

/// Returns a BMP file with `bits` bits per pixel. `compression` is the code in the header,
/// `palette` has 4 bytes per color, and `data` contains the encoded pixels.
pub(crate) fn bmp(
    width: u32,
    height: u32,
    bits: u16,
    compression: u32,
    palette: &[u8],
    data: &[u8],
) -> Vec<u8> {
    let offset = 54 + palette.len() as u32;
    let mut file = b"BM".to_vec();
    let planes_and_bits = 1 | u32::from(bits) << 16;
    let length = data.len() as u32;
    let colors = palette.len() as u32 / 4;
    for field in [
        offset + length,
        0,
        offset,
        40,
        width,
        height,
        planes_and_bits,
        compression,
        length,
        0,
        0,
        colors,
        0,
    ] {
        file.extend_from_slice(&field.to_le_bytes());
    }
    file.extend_from_slice(palette);
    file.extend_from_slice(data);
    file
}

/// Returns a lossless WebP file of `side` x `side` pixels. Each of its prefix codes has a single
/// symbol, so that a pixel takes no bits in the file, and its three transforms make decoding slow.
/// If `stated` is given, the file has an extended header that states `stated` x `stated` pixels.
fn webp(side: u32, stated: Option<u32>) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.put(0x2f, 8);
    bits.put(side - 1, 14);
    bits.put(side - 1, 14);
    // The header ends with the alpha flag (1 bit) and the version (3 bits), which are 0.
    bits.put(0, 4);
    // The predictor transform and the color transform, with blocks of 512x512 pixels. The
    // parameters of the blocks are stored as an image, which begins with the flag for a color cache
    // (none).
    for (kind, symbols) in [(0, [11, 0, 0, 255, 0]), (1, [0; 5])] {
        bits.put(1 | kind << 1 | 7 << 3, 6);
        bits.put(0, 1);
        bits.codes(symbols);
    }
    // The subtract-green transform, followed by the bit that ends the list of transforms.
    bits.put(1 | 2 << 1, 4);
    // The main image has no color cache and no meta prefix codes: one set of codes for all pixels.
    bits.put(0, 2);
    bits.codes([0, 0, 0, 255, 0]);
    let mut file = b"RIFF\0\0\0\0WEBP".to_vec();
    if let Some(stated) = stated {
        let size = (stated - 1).to_le_bytes();
        let header = [&[0; 4][..], &size[..3], &size[..3]].concat();
        append_chunk(&mut file, *b"VP8X", &header);
    }
    append_chunk(&mut file, *b"VP8L", &bits.bytes);
    file
}

/// Appends a chunk to a RIFF file, and updates the length in the file's header.
fn append_chunk(file: &mut Vec<u8>, name: [u8; 4], data: &[u8]) {
    file.extend_from_slice(&name);
    file.extend_from_slice(&(data.len() as u32).to_le_bytes());
    file.extend_from_slice(data);
    if !data.len().is_multiple_of(2) {
        file.push(0);
    }
    let length = file.len() as u32 - 8;
    file[4..8].copy_from_slice(&length.to_le_bytes());
}

/// A writer of bits, which fills each byte from its lowest bit as WebP does.
#[derive(Debug, Default)]
struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    /// Appends the `count` lowest bits of `value`, the lowest bit first.
    fn put(&mut self, value: u32, count: u32) {
        for bit in 0..count {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> bit & 1) as u8) << (self.used % 8);
            }
            self.used += 1;
        }
    }

    /// Appends the five prefix codes of an image (green, red, blue, alpha, distance), each with a
    /// single symbol.
    fn codes(&mut self, symbols: [u32; 5]) {
        for symbol in symbols {
            // A code with one symbol is stored in its simple form: 1 bit for symbols 0 and 1, 8
            // bits for larger symbols.
            let long = u32::from(symbol > 1);
            self.put(1 | long << 2, 3);
            self.put(symbol, 1 + 7 * long);
        }
    }
}

#[cfg(test)]
mod tests {
    use image_webp::WebPDecoder;
    use std::io::Cursor;

    use super::*;

    #[test]
    fn the_files_are_small_and_valid() {
        let files = tiny();
        let lengths: Vec<usize> = files.iter().map(|(_, file)| file.len()).collect();
        assert_eq!(lengths, [38, 35, 60]);
        let small = webp(64, None);
        let mut decoder = WebPDecoder::new(Cursor::new(&small)).unwrap();
        let mut pixels = vec![0; 64 * 64 * 3];
        assert_eq!(decoder.dimensions(), (64, 64));
        decoder.read_image(&mut pixels).unwrap();
        assert!(padded_webp().len() > 1000);
    }
}
