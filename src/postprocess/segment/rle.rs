//! Encoding of a mask as COCO's compressed run lengths, one list per class.
//!
//! Pixels are numbered column by column, from top to bottom. A run is a number of successive
//! pixels; runs outside and inside of the class alternate, and the first run is outside. The first
//! three run lengths of a class are written as they are, each later one as its difference from the
//! run length two before it. A written value is split into groups of five bits, lowest group first.
//! Each group is written as the character with the code of `0` plus the group, plus 32 if more
//! groups of the value follow.
//!
//! Source: `rleEncode` and `rleToString` of pycocotools' `maskApi.c`.

use serde::Serialize;

use super::{MAX_CLASSES, Mask};
use crate::cancel::{Cancel, Cancelled, Pace};

/// The pixels of one class as run lengths in pycocotools' format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RleMask {
    /// Index of the class in the model's label file.
    pub class_id: usize,
    /// `[height, width]` of the mask, in pixels.
    pub size: [u32; 2],
    /// The run lengths in COCO's compressed form.
    pub counts: String,
}

/// Returns the compressed run lengths of each class that occurs in `mask`, by ascending class
/// index.
///
/// # Errors
/// [`Cancelled`] if the work is cancelled.
pub fn mask_rle(mask: &Mask, cancel: &Cancel) -> Result<Vec<RleMask>, Cancelled> {
    let mut runs = vec![Runs::default(); MAX_CLASSES];
    let mut current = mask.classes().first().copied().unwrap_or(0);
    let (mut start, mut column_start) = (0, 0);
    let mut pace = Pace::new(cancel);
    for_each_column(mask, |column| {
        pace.step(column.len())?;
        let mut y = 0;
        while let Some(len) = changes_after(&column[y..], current) {
            y += len;
            runs[usize::from(current)].push(start, column_start + y as u64);
            start = column_start + y as u64;
            current = column[y];
        }
        column_start += column.len() as u64;
        Ok(())
    })?;
    runs[usize::from(current)].push(start, column_start);
    let size = [mask.size().height, mask.size().width];
    let present = runs.into_iter().enumerate();
    let present = present.filter(|(_, runs)| runs.count > 0);
    let finished = present.map(|(class_id, runs)| RleMask {
        class_id,
        size,
        counts: runs.finish(column_start),
    });
    Ok(finished.collect())
}

/// Number of columns that are copied from the rows of a mask together, so that several neighboring
/// pixels of a row are read at a time.
const COLUMNS: usize = 16;

/// Calls `each` with the class indices of the pixels of each column of `mask`, from left to right.
/// Stops at the first error of `each` and returns it.
fn for_each_column(
    mask: &Mask,
    mut each: impl FnMut(&[u8]) -> Result<(), Cancelled>,
) -> Result<(), Cancelled> {
    let (width, height) = (mask.size().width as usize, mask.size().height as usize);
    let mut strip = vec![0; COLUMNS.min(width) * height];
    for x in (0..width).step_by(COLUMNS) {
        let columns = COLUMNS.min(width - x);
        for (y, row) in mask.rows().enumerate() {
            for (i, class) in row[x..x + columns].iter().enumerate() {
                strip[i * height + y] = *class;
            }
        }
        let mut columns = strip.chunks_exact(height).take(columns);
        columns.try_for_each(&mut each)?;
    }
    Ok(())
}

/// Number of pixels that are compared with a class together, in a few vector instructions.
const CHUNK: usize = 32;

/// Returns the number of pixels of `class` at the beginning of `pixels`. `None` if all pixels are
/// of `class`, so that no other class begins.
fn changes_after(pixels: &[u8], class: u8) -> Option<usize> {
    let (chunks, _) = pixels.as_chunks::<CHUNK>();
    let alike = |chunk: &&[u8; CHUNK]| chunk.iter().fold(0, |bits, c| bits | (c ^ class)) == 0;
    let skipped = chunks.iter().take_while(alike).count() * CHUNK;
    let at = pixels[skipped..].iter().position(|c| *c != class)?;
    Some(skipped + at)
}

/// The compressed run lengths of one class, up to the current column.
#[derive(Debug, Clone, Default)]
struct Runs {
    text: String,
    /// Position in the mask after the last written run inside of the class, in pixels counted
    /// column by column.
    end: u64,
    /// Lengths of the last two written runs in pixels, the older run first.
    last: [u64; 2],
    /// Number of runs that were written.
    count: u64,
}

impl Runs {
    /// Writes the run outside of the class that ends before pixel `start`, then the run
    /// `start..end` inside of the class.
    fn push(&mut self, start: u64, end: u64) {
        self.write(start - self.end);
        self.write(end - start);
        self.end = end;
    }

    /// Writes the run outside of the class from the last written run to the end of the mask, unless
    /// it is empty, and returns the text. `total` is the number of the mask's pixels.
    fn finish(mut self, total: u64) -> String {
        if self.end < total {
            self.write(total - self.end);
        }
        self.text
    }

    fn write(&mut self, run: u64) {
        let before = if self.count > 2 { self.last[0] } else { 0 };
        write_value(run.cast_signed() - before.cast_signed(), &mut self.text);
        self.last = [self.last[1], run];
        self.count += 1;
    }
}

/// Appends `value` to `text` as characters of five bits each, lowest bits first, until the
/// remaining bits only repeat the sign.
fn write_value(mut value: i64, text: &mut String) {
    loop {
        let bits = (value & 0x1f) as u8;
        value >>= 5;
        let more = if bits & 0x10 == 0 {
            value != 0
        } else {
            value != -1
        };
        let bits = if more { bits | 0x20 } else { bits };
        text.push(char::from(bits + b'0'));
        if !more {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::python::{self, Encoded};
    use super::super::{VOC_PALETTE, mask_png, reference};
    use super::*;
    use crate::image::ImageSize;

    fn mask(width: u32, height: u32, class: impl Fn(u32, u32) -> u8) -> Mask {
        let at = |i: u32| class(i % width, i / width);
        let classes = (0..width * height).map(at).collect();
        Mask::new(ImageSize { width, height }, classes).unwrap()
    }

    /// Returns masks with every kind of border between classes: no border, a border at every pixel,
    /// borders at the mask's edges, and regions that extend over several strips of columns.
    fn masks() -> Vec<Mask> {
        let noise = |x: u32, y: u32| ((x * 7919 + y * 104_729) ^ (x * y)) % 251;
        let mut masks = vec![
            mask(1, 1, |_, _| 0),
            mask(1, 1, |_, _| 255),
            mask(4, 3, |_, _| 7),
            mask(640, 480, |_, _| 0),
            mask(1, 4000, |_, y| (y / 700) as u8),
            mask(4000, 1, |x, _| (x % 3) as u8),
            mask(640, 480, |x, y| {
                u8::from((x * x + y * y) % 90_000 < 30_000) * 15
            }),
            mask(100, 50, |x, _| u8::from(x == 99)),
            mask(100, 50, |_, y| u8::from(y == 0) * 3),
        ];
        for side in 1..40 {
            masks.push(mask(side, 40 - side, |x, y| noise(x, y) as u8));
            masks.push(mask(side, 3 * side, |x, y| (noise(x / 5, y / 5) % 3) as u8));
        }
        masks
    }

    #[test]
    fn every_class_decodes_to_its_pixels() {
        for mask in masks() {
            let ImageSize { width, height } = mask.size();
            let encoded = mask_rle(&mask, &Cancel::never()).unwrap();
            let mut total = 0;
            for rle in &encoded {
                assert_eq!(rle.size, [height, width]);
                let pixels = reference::decode_rle(&rle.counts);
                assert_eq!(pixels.len() as u64, mask.size().pixels());
                for (i, inside) in pixels.iter().enumerate() {
                    let (x, y) = (i / height as usize, i % height as usize);
                    let class = mask.classes()[y * width as usize + x];
                    assert_eq!(usize::from(class) == rle.class_id, *inside, "{x}, {y}");
                }
                total += pixels.iter().filter(|inside| **inside).count();
            }
            assert_eq!(total, mask.classes().len());
            assert!(encoded.is_sorted_by(|a, b| a.class_id < b.class_id));
        }
    }

    #[test]
    fn the_encoding_is_pycocotools() {
        // The expected values are
        // `pycocotools.mask.encode(numpy.asfortranarray(mask == class))["counts"]`.
        let mask = mask(6, 5, |x, y| {
            u8::from(x > 1 && y > 0 && x < 5) * 2 + u8::from(y == 4)
        });
        let got = mask_rle(&mask, &Cancel::never()).unwrap();
        let got: Vec<_> = got
            .iter()
            .map(|r| (r.class_id, r.counts.as_str()))
            .collect();
        let expected = [
            (0, "04100M300003M"),
            (1, "4140?0"),
            (2, ";320004"),
            (3, ">140001"),
        ];
        assert_eq!(got, expected);
    }

    #[test]
    fn pillow_and_pycocotools_agree() {
        let encoded = masks().into_iter().map(|mask| {
            let ImageSize { width, height } = mask.size();
            let png = mask_png(&mask, &VOC_PALETTE, &Cancel::never()).unwrap();
            Encoded::new(
                [height, width],
                mask.classes(),
                &png,
                mask_rle(&mask, &Cancel::never()).unwrap(),
            )
        });
        let encoded: Vec<_> = encoded.collect();
        python::agrees("pillow_and_pycocotools_agree", &encoded);
    }
}
