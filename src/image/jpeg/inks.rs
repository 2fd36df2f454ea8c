//! Conversion of CMYK and YCCK to RGB, as libjpeg-turbo and then Pillow do it.
//!
//! The decoder's own conversion is correct only if no component is subsampled, so the decoder only
//! returns the planes, and this module converts them. Ink values are read as inverted (255 is no
//! ink), as Adobe writes them, whether or not the file has Adobe's marker.

use libjpeg_turbo_rs::RawImage;
use libjpeg_turbo_rs::common::types::FrameHeader;

use crate::cancel::{Cancel, Cancelled, Pace};

/// The samples of one component. The plane's width and height are the image's, divided by whole
/// factors and rounded up.
struct Plane<'a> {
    samples: &'a [u8],
    stride: usize,
    /// Columns and rows of the plane that belong to the image; the rest is padding.
    size: (usize, usize),
    /// Image columns per column of the plane, and image rows per row of the plane.
    scale: (usize, usize),
}

/// Returns the image's pixels, `[H, W, 3] u8`, from its four planes. If `ycck` is true, the first
/// three planes hold luma and chroma instead of cyan, magenta and yellow. Returns `None` if a plane
/// or its component in `frame` is missing, which the checks before decoding rule out.
///
/// # Errors
/// [`Cancelled`] if `cancel` is cancelled.
pub(super) fn to_rgb(
    raw: &RawImage,
    frame: &FrameHeader,
    ycck: bool,
    cancel: &Cancel,
) -> Result<Option<Vec<u8>>, Cancelled> {
    let planes: Option<Vec<Plane>> = (0..4).map(|index| Plane::new(raw, frame, index)).collect();
    let Some(Ok(planes)) = planes.map(<[Plane; 4]>::try_from) else {
        return Ok(None);
    };
    let mut pace = Pace::new(cancel);
    let mut out = vec![0; raw.width * raw.height * 3];
    let mut rows: [Vec<u8>; 4] = std::array::from_fn(|_| vec![0; raw.width]);
    let mut sums = Vec::new();
    for (y, out) in out.chunks_exact_mut(raw.width * 3).enumerate() {
        pace.step(out.len())?;
        for (plane, row) in planes.iter().zip(&mut rows) {
            plane.upsample(y, row, &mut sums);
        }
        let [first, second, third, black] = &rows;
        for (x, rgb) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let mut inks = [first[x], second[x], third[x]];
            if ycck {
                inks = from_ycc(inks).map(|light| 255 - light);
            }
            // The rounded `ink * black / 255` equals Pillow's `black - (255 - ink) * black / 255`,
            // in which the quotient is rounded.
            let black = u16::from(black[x]);
            *rgb = inks.map(|ink| ((u16::from(ink) * black + 127) / 255) as u8);
        }
    }
    Ok(Some(out))
}

/// Converts a full-range BT.601 `YCbCr` pixel to RGB, with coefficients of 16 fractional bits.
/// Source: libjpeg-turbo, jdcolor.c, `build_ycc_rgb_table`.
fn from_ycc([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((91_881 * cr + HALF) >> 16);
    let green = y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16);
    let blue = y + ((116_130 * cb + HALF) >> 16);
    [red, green, blue].map(|light| light.clamp(0, 255) as u8)
}

impl<'a> Plane<'a> {
    fn new(raw: &'a RawImage, frame: &FrameHeader, index: usize) -> Option<Self> {
        let component = frame.components.get(index)?;
        // The checks before decoding ensure that the first component has the finest sampling.
        let finest = frame.components.first()?;
        let scale = (
            finest.horizontal_sampling / component.horizontal_sampling,
            finest.vertical_sampling / component.vertical_sampling,
        );
        let scale = (usize::from(scale.0), usize::from(scale.1));
        Some(Self {
            samples: raw.planes.get(index)?,
            stride: *raw.plane_widths.get(index)?,
            size: (raw.width.div_ceil(scale.0), raw.height.div_ceil(scale.1)),
            scale,
        })
    }

    /// Returns the samples of one row of the plane.
    fn line(&self, row: usize) -> &[u8] {
        &self.samples[row * self.stride..][..self.size.0]
    }

    /// Writes the plane's samples for row `y` of the image into `out`, one per image column.
    /// Factors of two are upsampled with a triangle filter, other factors by repetition. `sums` is
    /// scratch memory.
    /// Source: libjpeg-turbo, jdsample.c, `jinit_upsampler`.
    fn upsample(&self, y: usize, out: &mut [u8], sums: &mut Vec<u16>) {
        let row = y / self.scale.1;
        let near = self.line(row);
        let far = self.line(neighbor(row, y, self.size.1));
        let weighed = near.iter().zip(far).map(|(near, far)| weigh(*near, *far));
        sums.clear();
        match self.scale {
            (1, 2) => {
                for (out, sum) in out.iter_mut().zip(weighed) {
                    *out = ((sum + 1 + (y % 2) as u16) >> 2) as u8;
                }
            }
            (2, 1) if self.size.0 > 2 => {
                sums.extend(near.iter().map(|near| u16::from(*near)));
                widen(sums, [1, 2], 2, out);
            }
            (2, 2) if self.size.0 > 2 => {
                sums.extend(weighed);
                widen(sums, [8, 7], 4, out);
            }
            (across, _) => {
                for (x, out) in out.iter_mut().enumerate() {
                    *out = near[x / across];
                }
            }
        }
    }
}

/// Returns `3 * near + far`, four times the value of a triangle filter between two samples.
fn weigh(near: u8, far: u8) -> u16 {
    u16::from(near) * 3 + u16::from(far)
}

/// Returns the index of the sample that is second nearest to pixel `place` of an axis upsampled by
/// two, where sample `i` of `count` is nearest: `i - 1` if `place` is even, `i + 1` if it is odd,
/// and `i` at the edges.
fn neighbor(i: usize, place: usize, count: usize) -> usize {
    if place.is_multiple_of(2) {
        i.saturating_sub(1)
    } else {
        (i + 1).min(count - 1)
    }
}

/// Upsamples `sums` by two with a triangle filter and writes the values, divided by `1 << shift`,
/// into `out`. `biases` are added before the division, to values with even and odd index.
fn widen(sums: &[u16], biases: [u16; 2], shift: u32, out: &mut [u8]) {
    for (x, out) in out.iter_mut().enumerate() {
        let far = sums[neighbor(x / 2, x, sums.len())];
        *out = ((sums[x / 2] * 3 + far + biases[x % 2]) >> shift) as u8;
    }
}
