//! 8-bit samples to the normalised planes that networks read.

use image::RgbImage;

use super::ImageError;

/// `(v / 255 - mean) / std` per channel, for all 256 values of `v`.
#[derive(Debug, Clone)]
pub struct Normalizer {
    tables: [[f32; 256]; 3],
}

impl Normalizer {
    /// Builds the tables, with every step rounded to f32 as torch rounds it.
    ///
    /// Source: `torchvision.transforms.functional.to_tensor` and `normalize`.
    pub fn new(mean: [f32; 3], std: [f32; 3]) -> Self {
        let table = |c: usize| std::array::from_fn(|v| (v as f32 / 255.0 - mean[c]) / std[c]);
        Self {
            tables: [table(0), table(1), table(2)],
        }
    }

    /// Interleaved `[H, W, 3] u8` to planes `[3, H, W] f32`, written over `out`.
    ///
    /// # Errors
    /// [`ImageError::BufferSize`] if `out` is not of `3 * H * W` values.
    pub fn write(&self, image: &RgbImage, out: &mut [f32]) -> Result<(), ImageError> {
        let pixels = image.as_raw().as_chunks::<3>().0;
        if out.len() != pixels.len() * 3 {
            return Err(ImageError::BufferSize {
                expected: pixels.len() * 3,
                got: out.len(),
            });
        }
        let (red, rest) = out.split_at_mut(pixels.len());
        let (green, blue) = rest.split_at_mut(pixels.len());
        let [r_table, g_table, b_table] = &self.tables;
        let planes = red.iter_mut().zip(green).zip(blue);
        for ([r, g, b], ((red, green), blue)) in pixels.iter().zip(planes) {
            *red = r_table[usize::from(*r)];
            *green = g_table[usize::from(*g)];
            *blue = b_table[usize::from(*b)];
        }
        Ok(())
    }

    /// As [`Normalizer::write`], into a new buffer.
    pub fn apply(&self, image: &RgbImage) -> Vec<f32> {
        let mut out = vec![0.0; image.as_raw().len()];
        // The buffer fits by construction.
        let written = self.write(image, &mut out);
        debug_assert!(written.is_ok());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::reference;

    #[test]
    fn tables_equal_the_arithmetic_bit_for_bit() {
        let image = RgbImage::from_fn(256, 3, |x, y| {
            image::Rgb([x as u8, (x + 85 * y) as u8, (255 - x) as u8])
        });
        let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        let expected = reference::normalize(&image, mean, std);
        assert_eq!(Normalizer::new(mean, std).apply(&image), expected);
    }

    #[test]
    fn a_buffer_of_another_size_is_refused() {
        let normalizer = Normalizer::new([0.0; 3], [1.0; 3]);
        let written = normalizer.write(&RgbImage::new(2, 2), &mut [0.0; 11]);
        let expected = ImageError::BufferSize {
            expected: 12,
            got: 11,
        };
        assert_eq!(written, Err(expected));
    }
}
