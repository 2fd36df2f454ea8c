//! Normalization of 8-bit samples to the planes that networks read.

use image::RgbImage;

/// Lookup tables of `(v / 255 - mean) / std`, or of `(v - mean) / std`, one per channel, for all 256
/// values of `v`.
#[derive(Debug, Clone)]
pub struct Normalizer {
    tables: [[f32; 256]; 3],
}

impl Normalizer {
    /// Returns the normalizer with this mean and standard deviation per channel (red, green, blue),
    /// for samples scaled to 0..=1. Every step is rounded to f32, as torch rounds it.
    ///
    /// Source: `torchvision.transforms.functional.to_tensor` and `normalize`.
    pub fn new(mean: [f32; 3], std: [f32; 3]) -> Self {
        Self::of(mean, std, |v| v as f32 / 255.0)
    }

    /// Returns the normalizer with this mean and standard deviation per channel (red, green, blue),
    /// for samples of 0..=255.
    pub fn unscaled(mean: [f32; 3], std: [f32; 3]) -> Self {
        Self::of(mean, std, |v| v as f32)
    }

    fn of(mean: [f32; 3], std: [f32; 3], sample: impl Fn(usize) -> f32) -> Self {
        let table = |c: usize| std::array::from_fn(|v| (sample(v) - mean[c]) / std[c]);
        Self {
            tables: [table(0), table(1), table(2)],
        }
    }

    /// Returns the lookup tables of the channels red, green and blue.
    pub(super) fn tables(&self) -> &[[f32; 256]; 3] {
        &self.tables
    }

    /// Converts interleaved `[H, W, 3] u8` to normalized planes `[3, H, W] f32`.
    pub fn apply(&self, image: &RgbImage) -> Vec<f32> {
        let pixels = image.as_raw().as_chunks::<3>().0;
        let mut out = Vec::with_capacity(pixels.len() * 3);
        // Appending plane by plane avoids filling the output with zeros first.
        for (c, table) in self.tables.iter().enumerate() {
            out.extend(pixels.iter().map(|pixel| table[usize::from(pixel[c])]));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::reference;

    #[test]
    fn tables_are_bit_identical_to_the_arithmetic() {
        let image = RgbImage::from_fn(256, 3, |x, y| {
            image::Rgb([x as u8, (x + 85 * y) as u8, (255 - x) as u8])
        });
        let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        let expected = reference::normalize(&image, mean, std);
        assert_eq!(Normalizer::new(mean, std).apply(&image), expected);
    }
}
