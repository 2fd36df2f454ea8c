//! Tests that a running decode stops soon after it is cancelled, for each format whose decoder can
//! be interrupted.

use std::thread;
use std::time::{Duration, Instant};

use image::RgbImage;

use super::{DecodeOptions, ImageError, ImageSize, Orientation, decode_cancellable};
use crate::cancel::{Cancel, Cancelled};
use crate::encode::write_png;

const OPTIONS: DecodeOptions = DecodeOptions {
    max_pixels: 100_000_000,
    orientation: Orientation::Apply,
};

/// Time between the start of a decode and its cancellation. Every file in these tests takes longer
/// to decode.
const CANCELLED_AFTER: Duration = Duration::from_millis(20);
/// Maximum time between the cancellation of a decode and its end. The decoder does well under a
/// millisecond of work in between, but its thread may have to wait for a CPU on a busy machine.
const STOPS_WITHIN: Duration = Duration::from_millis(250);

/// Returns an image whose pixels compress moderately: it is neither uniform nor noise.
fn pattern(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([(x / 3) as u8, (y / 5) as u8, ((x ^ y) / 7) as u8])
    })
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let size = ImageSize { width, height };
    let image = pattern(width, height);
    write_png(size, None, &image, &Cancel::never()).unwrap()
}

/// Returns a PNG of one pixel with `megabytes` ancillary chunks of 1 MiB each between the header
/// and the pixel data. The decoder skips these chunks.
fn texts(megabytes: usize) -> Vec<u8> {
    let mut file = png(1, 1);
    let data = file.split_off(33);
    let text = vec![b'x'; 1 << 20];
    let mut chunk = (text.len() as u32).to_be_bytes().to_vec();
    chunk.extend(b"zzZz");
    chunk.extend(&text);
    chunk.extend([0; 4]);
    for _ in 0..megabytes {
        file.extend(&chunk);
    }
    file.extend(data);
    file
}

fn gif(side: u16) -> Vec<u8> {
    let indices: Vec<u8> = (0..usize::from(side) * usize::from(side))
        .map(|i| (i / 97) as u8)
        .collect();
    let frame = gif::Frame::from_indexed_pixels(side, side, indices, None);
    let mut file = Vec::new();
    let palette: Vec<u8> = (0..=255).flat_map(|i| [i, 255 - i, i / 2]).collect();
    let mut encoder = gif::Encoder::new(&mut file, side, side, &palette).unwrap();
    encoder.write_frame(&frame).unwrap();
    drop(encoder);
    file
}

/// Returns the headers of a BMP file with `bits` bits per pixel, and its palette of 256 grays.
/// `compression` is 0 for no compression and 1 for run-length coding.
fn bmp_header(width: u32, height: u32, bits: u16, compression: u32) -> Vec<u8> {
    let mut file = b"BM\0\0\0\0\0\0\0\0".to_vec();
    file.extend((14 + 40 + 1024_u32).to_le_bytes());
    for field in [40, width, height, 1 | u32::from(bits) << 16, compression] {
        file.extend(field.to_le_bytes());
    }
    file.extend([0; 20]);
    file.extend((0..=255).flat_map(|i| [i, i, i, 0]));
    file
}

fn bmp(width: u32, height: u32) -> Vec<u8> {
    let mut file = bmp_header(width, height, 8, 0);
    file.extend((0..width * height).map(|i| (i / 3) as u8));
    file
}

/// Returns a run-length coded BMP file whose runs are two pixels long; `width` is even.
fn rle(width: u32, height: u32) -> Vec<u8> {
    let mut file = bmp_header(width, height, 8, 1);
    for y in 0..height {
        file.extend((0..width / 2).flat_map(|x| [2, (x + y) as u8]));
        file.extend([0, 0]);
    }
    file
}

fn lossless_webp(width: u32, height: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let encoder = image_webp::WebPEncoder::new(&mut file);
    let image = pattern(width, height);
    let color = image_webp::ColorType::Rgb8;
    encoder.encode(&image, width, height, color).unwrap();
    file
}

#[test]
fn a_running_decode_stops() {
    let files = [
        ("PNG", png(6000, 6000)),
        ("PNG of one column", png(1, 2_000_000)),
        ("texts of a PNG", texts(600)),
        ("GIF", gif(4000)),
        ("BMP", bmp(8000, 6000)),
        ("run-length coded BMP", rle(8000, 6000)),
        ("lossless WebP", lossless_webp(3000, 3000)),
    ];
    for (name, file) in files {
        let cancel = Cancel::never();
        let decoder = cancel.clone();
        let decoding = thread::spawn(move || {
            let decoded = decode_cancellable(&file, &OPTIONS, &decoder);
            (decoded.map(|image| image.dimensions()), Instant::now())
        });
        thread::sleep(CANCELLED_AFTER);
        cancel.cancel();
        let cancelled = Instant::now();
        let (result, stopped) = decoding.join().unwrap();
        assert_eq!(result, Err(ImageError::Cancelled(Cancelled)), "{name}");
        let took = stopped.saturating_duration_since(cancelled);
        assert!(took < STOPS_WITHIN, "{name} ran on for {took:?}");
    }
}
