//! A class at each pixel.

use serde::Serialize;

use super::{MAX_CLASSES, SegmentError, not_empty};
use crate::image::ImageSize;

/// `[height, width] u8`: the class of each pixel, row by row; at least one pixel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    size: ImageSize,
    classes: Vec<u8>,
}

impl Mask {
    /// Takes `classes` as the pixels of `size`.
    ///
    /// # Errors
    /// [`SegmentError`] if `size` is empty or of another number of pixels.
    pub fn new(size: ImageSize, classes: Vec<u8>) -> Result<Self, SegmentError> {
        not_empty(size)?;
        if classes.len() as u64 != size.pixels() {
            return Err(SegmentError::Length {
                expected: size.pixels(),
                got: classes.len(),
            });
        }
        Ok(Self { size, classes })
    }

    /// Class 0 everywhere.
    ///
    /// # Errors
    /// [`SegmentError`] if `size` is empty or does not fit into the memory.
    pub(super) fn background(size: ImageSize) -> Result<Self, SegmentError> {
        not_empty(size)?;
        let memory = || SegmentError::Memory {
            width: size.width,
            height: size.height,
        };
        let pixels = usize::try_from(size.pixels()).map_err(|_| memory())?;
        let mut classes = Vec::new();
        classes.try_reserve_exact(pixels).map_err(|_| memory())?;
        classes.resize(pixels, 0);
        Ok(Self { size, classes })
    }

    /// Columns and rows.
    pub fn size(&self) -> ImageSize {
        self.size
    }

    /// `[height, width]`, row by row.
    pub fn classes(&self) -> &[u8] {
        &self.classes
    }

    pub(super) fn classes_mut(&mut self) -> &mut [u8] {
        &mut self.classes
    }

    /// The rows, from the top.
    pub fn rows(&self) -> impl Iterator<Item = &[u8]> {
        self.classes.chunks_exact(self.size.width as usize)
    }
}

/// How much of a mask is of one class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassShare {
    /// Position in the label file.
    pub class_id: usize,
    /// Name in the label file.
    pub label: String,
    /// Pixels of the class.
    pub pixels: u64,
    /// Those of all pixels, 0..=1.
    pub fraction: f32,
}

/// The classes that `mask` has, lowest first; `labels` has a name for each.
pub fn class_shares(mask: &Mask, labels: &[String]) -> Vec<ClassShare> {
    let total = mask.classes.len() as f64;
    let present = count(&mask.classes).into_iter().enumerate();
    let present = present.filter(|(_, pixels)| *pixels > 0);
    let share = |(class_id, pixels): (usize, u64)| ClassShare {
        class_id,
        label: labels.get(class_id).cloned().unwrap_or_default(),
        pixels,
        fraction: (pixels as f64 / total) as f32,
    };
    present.map(share).collect()
}

/// Pixels that are compared at once: most are in the middle of an object.
const CHUNK: usize = 64;

/// How often each class occurs.
fn count(classes: &[u8]) -> [u64; MAX_CLASSES] {
    let mut counts = [0; MAX_CLASSES];
    let (chunks, rest) = classes.as_chunks::<CHUNK>();
    for chunk in chunks {
        let differing = chunk
            .iter()
            .fold(0, |bits, class| bits | (class ^ chunk[0]));
        if differing == 0 {
            counts[usize::from(chunk[0])] += CHUNK as u64;
        } else {
            for class in chunk {
                counts[usize::from(*class)] += 1;
            }
        }
    }
    for class in rest {
        counts[usize::from(*class)] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_there_is_counted_in_order() {
        let mut classes = vec![0; 200];
        classes[3] = 255;
        classes[70..199].fill(2);
        let size = ImageSize {
            width: 20,
            height: 10,
        };
        let mask = Mask::new(size, classes).unwrap();
        let labels = ["background".to_owned(), "cat".to_owned(), "dog".to_owned()];
        let shares = class_shares(&mask, &labels);
        let got: Vec<_> = shares
            .iter()
            .map(|s| (s.class_id, s.label.as_str(), s.pixels, s.fraction))
            .collect();
        let expected = [
            (0, "background", 70, 0.35),
            (2, "dog", 129, 0.645),
            (255, "", 1, 0.005),
        ];
        assert_eq!(got, expected);
    }

    #[test]
    fn a_mask_has_as_many_pixels_as_its_size() {
        let size = |width, height| ImageSize { width, height };
        let empty = SegmentError::EmptySize {
            width: 0,
            height: 4,
        };
        assert_eq!(Mask::new(size(0, 4), vec![]), Err(empty));
        let length = SegmentError::Length {
            expected: 6,
            got: 5,
        };
        assert_eq!(Mask::new(size(2, 3), vec![0; 5]), Err(length));
        assert_eq!(Mask::new(size(2, 3), vec![0; 6]).unwrap().rows().count(), 3);
        let huge = size(u32::MAX, u32::MAX);
        assert!(matches!(
            Mask::background(huge),
            Err(SegmentError::Memory { .. })
        ));
    }
}
