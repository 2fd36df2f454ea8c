//! Decoding of a large JPEG with restart markers on several threads, in bands of rows.
//!
//! Entropy decoding starts anew after a restart marker. If the marker is before the first unit (MCU)
//! of a row of units, the rows from there on can be decoded as a file of their own: with the headers
//! of the file, another height, and the data from this marker on. Pixels near the edge of a band
//! depend on the next row of units, because chroma is interpolated, so each band is decoded with one
//! more row of units on both sides, which is dropped. The pixels are those of the whole file.
//!
//! What is *not* here: files without restart markers, and files with several scans. The entropy
//! coding of such files has no place but its start from which it could be decoded.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::decode::rgb_len;
use super::check::{HUFFMAN, QUANTIZATION, RESTART_INTERVAL, SCAN, is_frame};
use super::damaged;
use super::segments::{END, START, Segments};
use crate::cancel::Cancel;
use crate::helpers::{Helpers, share};
use crate::image::bytes::u16_be;
use crate::image::{ImageError, ImageSize};

/// Least number of pixels of a band. Smaller bands would gain less than their additional rows cost.
const BAND_PIXELS: usize = 1_000_000;
/// A band has at least this many times the rows of units that are decoded for it in addition.
const LEAST_SHARE: usize = 8;
/// Number of bands for each thread at least. It limits the memory of the bands that are decoded at
/// the same time to half of what the whole image would take at once.
const BANDS_PER_THREAD: usize = 2;
/// Largest number of threads that decode one image.
const MOST_THREADS: usize = 4;
/// Largest headers in bytes that are repeated for each band.
const MAX_HEAD: usize = 16 << 10;
/// Segment with the version of JFIF, which decides about the color space.
const JFIF: u8 = 0xE0;
/// Segment of Adobe, which decides about the color space.
const ADOBE: u8 = 0xEE;

/// A file that can be decoded in bands.
pub(super) struct Bands {
    size: ImageSize,
    /// The headers that decoding needs, up to the entropy-coded data.
    head: Vec<u8>,
    /// Offset in `head` of the height in the frame header.
    height_at: usize,
    /// The entropy-coded data, followed by the rest of the file.
    data: Vec<u8>,
    /// Rows of pixels of a unit.
    unit_rows: usize,
    /// Rows of units from one usable restart marker to the next.
    period: usize,
    /// Offsets in `data` of the start of each period, and of the end of the last.
    starts: Vec<usize>,
    /// Least number of periods of a band.
    band: usize,
}

/// Decodes a file, whose image has the given size, to RGB, `[H, W, 3] u8`.
pub(super) type DecodeFile = fn(&[u8], ImageSize, &Cancel) -> Result<Vec<u8>, ImageError>;

impl Bands {
    /// Returns the bands of a file of `size` that the module `check` has accepted. `None` if the file
    /// has no restart markers from which bands could be decoded, if it is too small to gain from it, or
    /// if it is so large for its image that a copy would exceed the predicted memory.
    pub(super) fn of(bytes: &[u8], size: ImageSize) -> Option<Self> {
        Self::with(bytes, size, BAND_PIXELS)
    }

    /// Returns the bands as [`Bands::of`] does, of at least `least` pixels.
    fn with(bytes: &[u8], size: ImageSize, least: usize) -> Option<Self> {
        if size.pixels() < (2 * BANDS_PER_THREAD * least) as u64
            || bytes.len() as u64 > size.pixels() / 2
        {
            return None;
        }
        let mut head = vec![0xFF, START];
        let (mut frame, mut interval, mut height_at) = (None, 0, 0);
        let mut segments = Segments::new(bytes);
        while let Some((marker, payload)) = segments.next() {
            match marker {
                0xC0 | 0xC1 => {
                    frame = Some(payload);
                    height_at = head.len() + 5;
                }
                RESTART_INTERVAL => interval = usize::from(u16_be(payload, 0)?),
                QUANTIZATION | HUFFMAN | JFIF | ADOBE | SCAN => {}
                _ if is_frame(marker) => return None,
                _ => continue,
            }
            head.extend([0xFF, marker]);
            head.extend((payload.len() as u16 + 2).to_be_bytes());
            head.extend(payload);
            if head.len() > MAX_HEAD {
                return None;
            }
            if marker == SCAN {
                let layout = Layout::read(frame?, payload, interval)?;
                let least = layout.least_rows(size.width as usize, least);
                return Self::new((size, least), layout, (head, height_at), segments.rest());
            }
        }
        None
    }

    /// Returns the bands, of at least `least` rows of units each, of an image of size `size`.
    fn new(
        (size, least): (ImageSize, usize),
        layout: Layout,
        (head, height_at): (Vec<u8>, usize),
        data: &[u8],
    ) -> Option<Self> {
        let Layout {
            unit_rows,
            rows,
            markers,
            period,
        } = layout;
        if rows < 2 * BANDS_PER_THREAD * least {
            return None;
        }
        let periods = rows.div_ceil(period);
        Some(Self {
            size,
            head,
            height_at,
            starts: starts(data, markers, periods)?,
            data: data.to_vec(),
            unit_rows,
            period,
            band: least.div_ceil(period),
        })
    }

    /// Decodes the image to RGB, `[H, W, 3] u8`, with idle threads of `helpers`. `decode` decodes one
    /// band.
    ///
    /// # Errors
    /// The error of the first band that cannot be decoded.
    pub(super) fn decode(
        self,
        decode: DecodeFile,
        helpers: &dyn Helpers,
        cancel: &Cancel,
    ) -> Result<Vec<u8>, ImageError> {
        let periods = self.starts.len() - 1;
        let count = (periods / self.band).max(1);
        let result = Arc::new(Mutex::new(Decoded {
            pixels: vec![0; rgb_len(self.size)],
            bands: 0,
            error: None,
        }));
        let (shared, cancel) = (Arc::clone(&result), cancel.clone());
        let part = move |index: usize| {
            // All bands have nearly the same number of periods, so that none needs more memory than its share.
            let [start, end] = [index, index + 1].map(|band| band * periods / count);
            let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
            if lock().error.is_some() {
                return;
            }
            let decoded = self.band(start..end, decode, &cancel);
            let mut shared = lock();
            match decoded {
                Ok((at, pixels)) => {
                    shared.pixels[at..][..pixels.len()].copy_from_slice(&pixels);
                    shared.bands += 1;
                }
                Err(error) => shared.error = shared.error.take().or(Some(error)),
            }
        };
        let threads = MOST_THREADS.min(count / BANDS_PER_THREAD).max(1);
        share(helpers, threads - 1, count, part);
        let mut result = result.lock().unwrap_or_else(PoisonError::into_inner);
        match result.error.take() {
            Some(error) => Err(error),
            None if result.bands < count => Err(damaged("the decoder failed unexpectedly")),
            None => Ok(std::mem::take(&mut result.pixels)),
        }
    }

    /// Decodes the band of the periods `periods`. Returns the offset of its pixels in those of the
    /// image, and its pixels.
    fn band(
        &self,
        periods: Range<usize>,
        decode: DecodeFile,
        cancel: &Cancel,
    ) -> Result<(usize, Vec<u8>), ImageError> {
        cancel.check()?;
        let last = self.starts.len() - 1;
        let from = periods.start.saturating_sub(1);
        let to = (periods.end + 1).min(last);
        let row = |period: usize| {
            let row = period * self.period * self.unit_rows;
            row.min(self.size.height as usize)
        };
        let [top, first, end] = [from, periods.start, periods.end].map(row);
        // One row of units below the band is enough.
        let bottom = (end + self.unit_rows).min(self.size.height as usize);
        let height = (bottom - top) as u16;
        let mut file = self.head.clone();
        file[self.height_at..][..2].copy_from_slice(&height.to_be_bytes());
        file.extend(&self.data[self.starts[from]..self.starts[to]]);
        file.extend([0xFF, END]);
        let size = ImageSize {
            width: self.size.width,
            height: height.into(),
        };
        let mut pixels = decode(&file, size, cancel)?;
        let stride = self.size.width as usize * 3;
        pixels.truncate((end - top) * stride);
        pixels.drain(..(first - top) * stride);
        Ok((first * stride, pixels))
    }
}

/// The image while its bands are decoded.
struct Decoded {
    pixels: Vec<u8>,
    /// Number of bands in `pixels`.
    bands: usize,
    error: Option<ImageError>,
}

/// The units of a file and the restart markers among them.
#[derive(Clone, Copy)]
struct Layout {
    /// Rows of pixels of a unit.
    unit_rows: usize,
    /// Number of rows of units.
    rows: usize,
    /// Number of restart markers from one usable marker, which precedes a row of units, to the next.
    markers: usize,
    /// Rows of units from one usable restart marker to the next.
    period: usize,
}

impl Layout {
    /// Reads the payloads of the frame header and of the scan header. `None` if there are no restart
    /// markers, or if the file does not have three components in one scan.
    fn read(frame: &[u8], scan: &[u8], interval: usize) -> Option<Self> {
        let [height, width] = [u16_be(frame, 1)?, u16_be(frame, 3)?].map(usize::from);
        let (components, sampling) = (*frame.get(5)?, *frame.get(7)?);
        if interval == 0 || components != 3 || scan.first() != Some(&3) {
            return None;
        }
        let [across, unit_rows] =
            [sampling >> 4, sampling & 15].map(|factor| 8 * usize::from(factor));
        let columns = width.div_ceil(across);
        let markers = columns / greatest_divisor(columns, interval);
        Some(Self {
            unit_rows,
            rows: height.div_ceil(unit_rows),
            markers,
            period: markers * interval / columns,
        })
    }

    /// Returns the least number of rows of units of a band of an image of `width` pixels, if a band has
    /// at least `pixels` pixels.
    fn least_rows(&self, width: usize, pixels: usize) -> usize {
        let rows = pixels.div_ceil(width * self.unit_rows);
        rows.max(LEAST_SHARE * (self.period + 1))
    }
}

/// Returns the offsets of the starts of `periods` periods and of the end of the last in `data`, in
/// which each `markers`-th restart marker begins a period. `None` if there are fewer.
fn starts(data: &[u8], markers: usize, periods: usize) -> Option<Vec<usize>> {
    let mut starts = vec![0];
    let mut segments = Segments::new(data);
    let mut count = 0;
    while starts.len() < periods {
        let (0xD0..=0xD7, _) = segments.next()? else {
            return None;
        };
        count += 1;
        if count % markers == 0 {
            starts.push(data.len() - segments.rest().len());
        }
    }
    starts.push(data.len());
    Some(starts)
}

/// Returns the greatest common divisor.
fn greatest_divisor(a: usize, b: usize) -> usize {
    if b == 0 {
        a
    } else {
        greatest_divisor(b, a % b)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use libjpeg_turbo_rs::{Encoder, PixelFormat};

    use super::super::{check, turbo};
    use super::*;

    /// Starts a new thread for each helper.
    struct Threads;

    impl Helpers for Threads {
        fn start(&self, most: usize, job: Arc<dyn Fn() + Send + Sync>) {
            for _ in 0..most {
                let job = Arc::clone(&job);
                std::thread::spawn(move || catch_unwind(AssertUnwindSafe(|| job())));
            }
        }
    }

    const SIZES: [(u32, u32); 5] = [(64, 1100), (61, 1537), (17, 2111), (100, 1024), (33, 4000)];
    const SAMPLINGS: [&[(u8, u8)]; 5] = [
        &[(1, 1), (1, 1), (1, 1)],
        &[(2, 1), (1, 1), (1, 1)],
        &[(2, 2), (1, 1), (1, 1)],
        &[(1, 2), (1, 1), (1, 1)],
        &[(4, 2), (1, 1), (1, 1)],
    ];

    fn file(size: ImageSize, sampling: &[(u8, u8)], interval: u16) -> Vec<u8> {
        let (width, height) = (size.width as usize, size.height as usize);
        let sample = |i: usize| {
            let (x, y) = (i / 3 % width, i / 3 / width);
            let noise = (i.wrapping_mul(2_654_435_761) >> 16) % 24;
            (x * 3 + y / 2 * (i % 3 + 1) + noise) as u8
        };
        let samples: Vec<u8> = (0..width * height * 3).map(sample).collect();
        let encoder = Encoder::new(&samples, width, height, PixelFormat::Rgb).quality(40);
        let encoder = encoder.sampling_factors(sampling.to_vec());
        encoder.restart_blocks(interval).encode().unwrap()
    }

    fn whole(bytes: &[u8], size: ImageSize) -> Result<Vec<u8>, ImageError> {
        turbo::whole(bytes, size, &Cancel::never())
    }

    fn in_bands(bytes: &[u8], size: ImageSize) -> Option<Result<Vec<u8>, ImageError>> {
        check::check(bytes).ok()?;
        let bands = Bands::with(bytes, size, 1_000)?;
        Some(bands.decode(turbo::whole, &Threads, &Cancel::never()))
    }

    #[test]
    fn bands_have_the_pixels_of_the_whole_file() {
        let mut decoded = 0;
        for (width, height) in SIZES {
            let size = ImageSize { width, height };
            for sampling in SAMPLINGS {
                for interval in [1, 2, 3, 4, 7, 8, 50] {
                    let file = file(size, sampling, interval);
                    let Some(bands) = in_bands(&file, size) else {
                        continue;
                    };
                    decoded += 1;
                    let same = bands == whole(&file, size);
                    assert!(same, "{width}x{height} {sampling:?} every {interval}");
                }
            }
        }
        assert!(decoded > 90, "only {decoded} files were decoded in bands");
    }

    /// Checks that changed bytes lead to the same pixels or to an error in both decoders.
    #[test]
    fn damaged_files_are_rejected_as_before() {
        let size = ImageSize {
            width: 64,
            height: 1100,
        };
        let original = file(size, SAMPLINGS[2], 4);
        let mut random = crate::testing::random::Random::new(3);
        let (mut decoded, mut rejected) = (0, 0);
        for _ in 0..300 {
            let mut file = original.clone();
            for _ in 0..=random.below(2) {
                let at = 600 + random.below(file.len() - 600);
                file[at] = random.below(256) as u8;
            }
            let Some(bands) = in_bands(&file, size) else {
                continue;
            };
            let whole = whole(&file, size);
            assert_eq!(bands.is_ok(), whole.is_ok());
            match (bands, whole) {
                (Ok(bands), Ok(whole)) => {
                    assert!(bands == whole);
                    decoded += 1;
                }
                _ => rejected += 1,
            }
        }
        assert!(decoded > 20 && rejected > 20, "{decoded}, {rejected}");
    }

    #[test]
    fn a_cancelled_decode_stops() {
        let size = ImageSize {
            width: 64,
            height: 1100,
        };
        let file = file(size, SAMPLINGS[2], 4);
        let cancel = Cancel::never();
        cancel.cancel();
        let bands = Bands::with(&file, size, 1_000).unwrap();
        let result = bands.decode(turbo::whole, &Threads, &cancel);
        assert!(matches!(result, Err(ImageError::Cancelled(_))));
    }

    #[test]
    fn headers_that_would_be_repeated_are_bounded() {
        let size = ImageSize {
            width: 64,
            height: 1100,
        };
        let mut file = file(size, SAMPLINGS[2], 4);
        let adobe = [vec![0xFF, ADOBE, 0x7F, 0xFF], vec![0; 0x7FFD]].concat();
        file.splice(2..2, adobe);
        assert!(Bands::with(&file, size, 1_000).is_none());
    }
}
