//! Conversion of CMYK and YCCK to RGB, as libjpeg-turbo and then Pillow do it.
//!
//! The decoder's own conversion is right only if no component is subsampled, so the decoder returns planes
//! and the conversion is done here. Ink values are taken to be inverted, as Adobe writes them, with or
//! without Adobe's marker.

use libjpeg_turbo_rs::RawImage;
use libjpeg_turbo_rs::common::types::FrameHeader;

/// The samples of one component. Its size is the image's, divided by whole factors.
struct Plane<'a> {
    samples: &'a [u8],
    stride: usize,
    /// Columns and rows of the plane that belong to the image; the rest is padding.
    size: (usize, usize),
    /// Image columns per column of the plane, and image rows per row.
    scale: (usize, usize),
}

/// Returns the image's pixels, `[H, W, 3] u8`, from its four planes. `ycck` is whether the first three
/// hold luma and chroma of the inks. Returns `None` if a plane is smaller than the frame; the checks
/// before decoding rule that out.
pub(super) fn to_rgb(raw: &RawImage, frame: &FrameHeader, ycck: bool) -> Option<Vec<u8>> {
    let planes: Option<Vec<Plane>> = (0..4).map(|index| Plane::new(raw, frame, index)).collect();
    let planes: [Plane; 4] = planes?.try_into().ok()?;
    let mut out = vec![0; raw.width * raw.height * 3];
    let mut rows: [Vec<u8>; 4] = std::array::from_fn(|_| vec![0; raw.width]);
    let mut sums = Vec::new();
    for (y, out) in out.chunks_exact_mut(raw.width * 3).enumerate() {
        for (plane, row) in planes.iter().zip(&mut rows) {
            plane.upsample(y, row, &mut sums);
        }
        let [first, second, third, black] = &rows;
        for (x, rgb) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let mut inks = [first[x], second[x], third[x]];
            if ycck {
                inks = from_ycc(inks).map(|light| 255 - light);
            }
            // Pillow computes K - (255 - C) * K / 255 with a rounded quotient, which is equal.
            let black = u16::from(black[x]);
            *rgb = inks.map(|ink| ((u16::from(ink) * black + 127) / 255) as u8);
        }
    }
    Some(out)
}

/// Converts full-range BT.601 to RGB with 16 fractional bits. Source: libjpeg-turbo, jdcolor.c,
/// `build_ycc_rgb_table`.
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
        // The checks before decoding ensure that the first component is the finest.
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

    /// Writes row `y` of the image into `out`, upsampled: with a triangle filter for factors of two, by
    /// repetition for others. Source: libjpeg-turbo, jdsample.c, `jinit_upsampler`.
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

/// Returns the sum of three times the nearer sample and once the farther one.
fn weigh(near: u8, far: u8) -> u16 {
    u16::from(near) * 3 + u16::from(far)
}

/// Returns the index of the neighbor of sample `i` (of `count`) that is nearer to pixel `place` of the
/// image: the sample before for even pixels, the one after for odd pixels, and `i` itself at the edges.
fn neighbor(i: usize, place: usize, count: usize) -> usize {
    if place.is_multiple_of(2) {
        i.saturating_sub(1)
    } else {
        (i + 1).min(count - 1)
    }
}

/// Writes two pixels of `out` per element of `sums`. `biases` are the rounding terms of even and odd
/// pixels.
fn widen(sums: &[u16], biases: [u16; 2], shift: u32, out: &mut [u8]) {
    for (x, out) in out.iter_mut().enumerate() {
        let far = sums[neighbor(x / 2, x, sums.len())];
        *out = ((sums[x / 2] * 3 + far + biases[x % 2]) >> shift) as u8;
    }
}
