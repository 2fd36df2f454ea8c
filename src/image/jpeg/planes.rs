//! Planes of samples whose components can be subsampled.

/// The samples of one component. The plane's width and height are the image's, divided by whole
/// factors and rounded up.
pub(super) struct Plane<'a> {
    pub(super) samples: &'a [u8],
    /// Number of samples from the start of a row to the start of the next.
    pub(super) stride: usize,
    /// Columns and rows of the plane that belong to the image; the rest is padding.
    pub(super) size: (usize, usize),
    /// Image columns per column of the plane, and image rows per row of the plane.
    pub(super) scale: (usize, usize),
    /// Whether factors of two are upsampled with a triangle filter. Otherwise, samples are repeated.
    pub(super) smooth: bool,
}

impl Plane<'_> {
    /// Returns the samples of one row of the plane.
    fn line(&self, row: usize) -> &[u8] {
        &self.samples[row * self.stride..][..self.size.0]
    }

    /// Writes the plane's samples for row `y` of the image into `out`, one per image column.
    /// Factors of two are upsampled with a triangle filter if the plane is `smooth`, other factors by
    /// repetition. `sums` is scratch memory.
    /// Source: libjpeg-turbo, jdsample.c, `jinit_upsampler`.
    pub(super) fn upsample(&self, y: usize, out: &mut [u8], sums: &mut Vec<u16>) {
        let row = y / self.scale.1;
        let near = self.line(row);
        let far = self.line(neighbor(row, y, self.size.1));
        let weighed = near.iter().zip(far).map(|(near, far)| weigh(*near, *far));
        sums.clear();
        match self.scale {
            (1, 1) => out.copy_from_slice(near),
            (1, 2) if self.smooth => {
                for (out, sum) in out.iter_mut().zip(weighed) {
                    *out = ((sum + 1 + (y % 2) as u16) >> 2) as u8;
                }
            }
            (2, 1) if self.smooth && self.size.0 > 2 => {
                sums.extend(near.iter().map(|near| u16::from(*near)));
                widen(sums, [1, 2], 2, out);
            }
            (2, 2) if self.smooth && self.size.0 > 2 => {
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
