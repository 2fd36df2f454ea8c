//! Conversion of a PNG's rows to RGB, from the 8-bit samples that the decoder returns.

use std::io::{BufRead, Seek};

use ::png::{ColorType, Reader};

use super::super::{ImageError, ImageSize};
use super::{damaged, error};
use crate::cancel::{Cancel, Pace};

/// First column (`x`) and row (`y`) of each Adam7 pass, and the distances in pixels between the
/// columns (`dx`) and the rows (`dy`) of the pass. Source: PNG specification, 8.2.
#[rustfmt::skip]
const PASSES: [Pass; 7] = [
    //        x  y  dx dy
    Pass::new(0, 0, 8, 8),
    Pass::new(4, 0, 8, 8),
    Pass::new(0, 4, 4, 8),
    Pass::new(2, 0, 4, 4),
    Pass::new(0, 2, 2, 4),
    Pass::new(1, 0, 2, 2),
    Pass::new(0, 1, 1, 2),
];

/// Work counted for each row in addition to its samples, in the units of [`Pace`]. Rows can be one
/// pixel wide, so the fixed cost of reading a row matters.
const ROW_UNITS: usize = 32;

struct Pass {
    x: usize,
    y: usize,
    dx: usize,
    dy: usize,
}

impl Pass {
    const fn new(x: usize, y: usize, dx: usize, dy: usize) -> Self {
        Self { x, y, dx, dy }
    }
}

/// Which 8-bit samples the decoder returns for each pixel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Samples {
    Gray,
    GrayAlpha,
    Rgb,
    Rgba,
}

impl Samples {
    /// Returns the samples that the decoder returns for its output color type, `color`. The decoder
    /// has already converted a palette to RGB or RGBA.
    pub(super) fn new(color: ColorType) -> Self {
        match color {
            ColorType::Grayscale => Self::Gray,
            ColorType::GrayscaleAlpha => Self::GrayAlpha,
            ColorType::Rgb | ColorType::Indexed => Self::Rgb,
            ColorType::Rgba => Self::Rgba,
        }
    }

    /// Returns the number of samples per pixel.
    fn count(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::GrayAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba => 4,
        }
    }

    /// Writes `row` as RGB into `out`, which has 3 bytes for each pixel of the row.
    fn to_rgb(self, row: &[u8], out: &mut [u8]) {
        let out = out.as_chunks_mut::<3>().0;
        match self {
            Self::Gray => convert(row, out, |[gray]| [*gray; 3]),
            Self::GrayAlpha => convert(row, out, |[gray, _]| [*gray; 3]),
            Self::Rgb => convert(row, out, |rgb: &[u8; 3]| *rgb),
            Self::Rgba => convert(row, out, |[red, green, blue, _]| [*red, *green, *blue]),
        }
    }
}

fn convert<const N: usize>(row: &[u8], out: &mut [[u8; 3]], to_rgb: impl Fn(&[u8; N]) -> [u8; 3]) {
    for (rgb, pixel) in out.iter_mut().zip(row.as_chunks::<N>().0) {
        *rgb = to_rgb(pixel);
    }
}

/// Reads the rows of a PNG in the order of the file and checks for cancellation between rows.
pub(super) struct Rows<'a, R: BufRead + Seek> {
    reader: &'a mut Reader<R>,
    pace: Pace<'a>,
}

impl<'a, R: BufRead + Seek> Rows<'a, R> {
    /// Returns a reader of the rows of `reader`, which must not have returned a row yet.
    pub(super) fn new(reader: &'a mut Reader<R>, cancel: &'a Cancel) -> Self {
        let pace = Pace::new(cancel);
        Self { reader, pace }
    }

    /// Reads all rows of an image that is not interlaced, from the top, into an RGB buffer.
    pub(super) fn progressive(
        mut self,
        size: ImageSize,
        samples: Samples,
        out: &mut [u8],
    ) -> Result<(), ImageError> {
        let width = size.width as usize;
        let mut row = vec![0; width * samples.count()];
        for rgb in out.chunks_exact_mut(width * 3) {
            if samples == Samples::Rgb {
                self.next_row(rgb)?;
            } else {
                self.next_row(&mut row)?;
                samples.to_rgb(&row, rgb);
            }
        }
        self.finish(&mut row)
    }

    /// Reads the rows of the seven Adam7 passes and writes each pixel to its place in an RGB
    /// buffer.
    pub(super) fn interlaced(
        mut self,
        size: ImageSize,
        samples: Samples,
        out: &mut [u8],
    ) -> Result<(), ImageError> {
        let (width, height) = (size.width as usize, size.height as usize);
        let mut row = vec![0; width * samples.count()];
        let mut rgb = vec![0; width * 3];
        for Pass { x, y, dx, dy } in PASSES {
            let columns = width.saturating_sub(x).div_ceil(dx);
            if columns == 0 {
                continue;
            }
            for y in (y..height).step_by(dy) {
                self.next_row(&mut row)?;
                samples.to_rgb(&row, &mut rgb[..columns * 3]);
                let line = out[y * width * 3..][..width * 3].as_chunks_mut::<3>().0;
                let places = line[x..].iter_mut().step_by(dx);
                for (place, pixel) in places.zip(rgb.as_chunks::<3>().0) {
                    *place = *pixel;
                }
            }
        }
        self.finish(&mut row)
    }

    fn next_row(&mut self, row: &mut [u8]) -> Result<(), ImageError> {
        self.pace.step(row.len() + ROW_UNITS)?;
        let read = self.reader.read_row(row).map_err(error)?;
        read.map(|_| ())
            .ok_or_else(|| damaged("it has fewer rows than its header states"))
    }

    /// Reads to the end of the compressed data, so that the decoder verifies the checksum of the
    /// data. Returns an error if the data holds another row, which `row` has room for.
    fn finish(self, row: &mut [u8]) -> Result<(), ImageError> {
        match self.reader.read_row(row).map_err(error)? {
            None => Ok(()),
            Some(_) => Err(damaged("it has more rows than its header states")),
        }
    }
}
