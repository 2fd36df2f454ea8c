//! Inverse DCTs of a block of 8x8 coefficients to 4x4, 2x2 or 1x1 samples, bit-identical to those of
//! libjpeg-turbo.
//!
//! Each sample is the average of a square of samples of the full inverse DCT. Source: libjpeg-turbo,
//! jidctred.c, after Loeffler, Ligtenberg and Moschytz, "Practical Fast 1-D DCT Algorithms with 11
//! Multiplications" (1989).

/// Fractional bits of the constants.
const CONSTANT_BITS: u32 = 13;
/// Fractional bits of the samples between the two passes.
const PASS_BITS: u32 = 2;
/// The value of a sample if all coefficients are 0.
const CENTER: i32 = 128;

/// The coefficients of a block and the factors of its quantization table, row by row.
pub(super) struct Block<'a> {
    pub(super) coefficients: &'a [i16; 64],
    pub(super) factors: &'a [u16; 64],
}

impl Block<'_> {
    fn value(&self, index: usize) -> i32 {
        i32::from(self.coefficients[index]) * i32::from(self.factors[index])
    }

    /// Returns 2x2 samples of the block, row by row.
    pub(super) fn two(&self) -> [[u8; 2]; 2] {
        self.transform(|at| at == 0 || at % 2 == 1, two, 2)
    }

    /// Returns 4x4 samples of the block, row by row.
    pub(super) fn four(&self) -> [[u8; 4]; 4] {
        self.transform(|at| at != 4, four, 1)
    }

    /// Transforms the columns and then the rows by `points`, whose results have `bits` additional
    /// fractional bits. `points` reads the coefficients for which `is_read` returns true.
    fn transform<const N: usize>(
        &self,
        is_read: impl Fn(usize) -> bool,
        points: impl Fn(&[i32; 8]) -> [i32; N],
        bits: u32,
    ) -> [[u8; N]; N] {
        let mut rows = [[0; 8]; N];
        for x in (0..8).filter(|x| is_read(*x)) {
            let column: [i32; 8] = std::array::from_fn(|y| self.value(y * 8 + x));
            if column[1..].iter().all(|value| *value == 0) {
                for row in &mut rows {
                    row[x] = column[0] << PASS_BITS;
                }
                continue;
            }
            let column = points(&column);
            for (row, value) in rows.iter_mut().zip(column) {
                row[x] = rounded(value, CONSTANT_BITS - PASS_BITS + bits);
            }
        }
        rows.map(|row| {
            points(&row).map(|value| sample(value, CONSTANT_BITS + PASS_BITS + 3 + bits))
        })
    }
}

/// Returns the average of the samples of a block with the first coefficient `mean`, whose factor is
/// `factor`. It is the value of all samples if the other coefficients are 0.
#[inline]
pub(super) fn flat(mean: i16, factor: u16) -> u8 {
    sample(i32::from(mean) * i32::from(factor), 3)
}

/// Returns `value / 2^bits`, rounded to nearest. Values of damaged files wrap around.
#[inline]
fn rounded(value: i32, bits: u32) -> i32 {
    value.wrapping_add(1 << (bits - 1)) >> bits
}

/// Returns the sample of the value `value / 2^bits`.
#[inline]
fn sample(value: i32, bits: u32) -> u8 {
    rounded(value, bits).saturating_add(CENTER).clamp(0, 255) as u8
}

/// Returns the sum of the products of `values` and `constants`.
#[inline]
fn dot<const N: usize>(values: [i32; N], constants: [i32; N]) -> i32 {
    let products = values.into_iter().zip(constants);
    products.fold(0, |sum: i32, (a, b)| sum.wrapping_add(a.wrapping_mul(b)))
}

/// Two points, with 15 fractional bits.
#[inline]
fn two(c: &[i32; 8]) -> [i32; 2] {
    let even = c[0] << (CONSTANT_BITS + 2);
    let odd = dot([c[1], c[3], c[5], c[7]], [29_692, -10_426, 6_967, -5_906]);
    [even.wrapping_add(odd), even.wrapping_sub(odd)]
}

/// Four points, with 14 fractional bits.
#[inline]
fn four(c: &[i32; 8]) -> [i32; 4] {
    let mean = c[0] << (CONSTANT_BITS + 1);
    let slope = dot([c[2], c[6]], [15_137, -6_270]);
    let (outer, inner) = (mean.wrapping_add(slope), mean.wrapping_sub(slope));
    let odd = [c[1], c[3], c[5], c[7]];
    let far = dot(odd, [20_995, 7_373, -4_926, -4_176]);
    let near = dot(odd, [8_697, -17_799, 11_893, -1_730]);
    [
        outer.wrapping_add(far),
        inner.wrapping_add(near),
        inner.wrapping_sub(near),
        outer.wrapping_sub(far),
    ]
}
