//! Segmentation masks and statistics of their classes.

use serde::Serialize;

use super::{MAX_CLASSES, SegmentError, not_empty};
use crate::image::ImageSize;

/// A segmentation mask: the class of each pixel, `[height, width] u8`. It has at least one pixel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    size: ImageSize,
    classes: Vec<u8>,
}

impl Mask {
    /// Returns the mask of `size` with the class of each pixel in `classes`, row by row.
    ///
    /// # Errors
    /// [`SegmentError`] if a side of `size` is 0, or if `classes` does not have one element per
    /// pixel.
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

    /// Returns a mask whose pixels are all of class 0.
    ///
    /// # Errors
    /// [`SegmentError`] if a side of `size` is 0, or if the mask does not fit into memory.
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

    /// Returns the mask's width and height in pixels.
    pub fn size(&self) -> ImageSize {
        self.size
    }

    /// Returns the class of each pixel, `[height, width]`, row by row.
    pub fn classes(&self) -> &[u8] {
        &self.classes
    }

    /// Converts the mask to the class of each pixel, `[height, width]`, row by row.
    pub fn into_classes(self) -> Vec<u8> {
        self.classes
    }

    pub(super) fn classes_mut(&mut self) -> &mut [u8] {
        &mut self.classes
    }

    /// Returns the rows of the mask from top to bottom, each with the class of every pixel.
    pub fn rows(&self) -> impl Iterator<Item = &[u8]> {
        self.classes.chunks_exact(self.size.width as usize)
    }
}

/// The part of a mask's pixels that one class covers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassShare {
    /// Index of the class in the model's label file.
    pub class_id: usize,
    /// Name of the class, read from the model's label file; empty if the file has too few lines.
    pub label: String,
    /// Number of the mask's pixels that are of the class.
    pub pixels: u64,
    /// `pixels` divided by the number of the mask's pixels, 0..=1.
    pub fraction: f32,
}

/// Returns the share of each class that occurs in `mask`, by ascending class index. `labels` has
/// one name per class.
pub fn class_shares(mask: &Mask, labels: &[String]) -> Vec<ClassShare> {
    let total = mask.classes.len() as f64;
    let mut shares = Vec::new();
    for (class_id, pixels) in count(&mask.classes).into_iter().enumerate() {
        if pixels > 0 {
            shares.push(ClassShare {
                class_id,
                label: labels.get(class_id).cloned().unwrap_or_default(),
                pixels,
                fraction: (pixels as f64 / total) as f32,
            });
        }
    }
    shares
}

/// Number of neighboring pixels that are counted in one step if all of them are of the same class,
/// as they are inside an object.
const CHUNK: usize = 64;

/// Returns the number of pixels of each class, by class index. `classes` is the class of each
/// pixel.
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
    fn occurring_classes_are_counted_in_order() {
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
    fn sizes_that_do_not_match_the_classes_are_rejected() {
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
