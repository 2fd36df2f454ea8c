//! The colors of PASCAL VOC's segmentation masks.

use super::MAX_CLASSES;

/// Colors of a mask: red, green and blue of each class, by class index.
pub type Palette = [[u8; 3]; MAX_CLASSES];

/// VOC's colors for all 256 classes: black, maroon, green, olive, navy and so on.
pub static VOC_PALETTE: Palette = voc_palette();

/// Returns VOC's palette. The bits of the class index are taken from the lowest on, in groups of
/// three: the first group sets the highest bits of red, green and blue, the next group the second
/// highest bits, and so on.
///
/// Source: `VOClabelcolormap.m` of the PASCAL VOC development kit.
const fn voc_palette() -> Palette {
    let mut palette = [[0; 3]; MAX_CLASSES];
    let mut class = 0;
    while class < MAX_CLASSES {
        let mut bit = 0;
        while bit < 8 {
            let channel = bit % 3;
            let value = (class >> bit & 1) as u8;
            palette[class][channel] |= value << (7 - bit / 3);
            bit += 1;
        }
        class += 1;
    }
    palette
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_colors_are_vocs() {
        // Classes 0 to 15 have the colors that the dataset documents; the last three colors are
        // computed by the development kit's `VOClabelcolormap.m`.
        let expected = [
            (0, [0, 0, 0]),
            (1, [128, 0, 0]),
            (2, [0, 128, 0]),
            (3, [128, 128, 0]),
            (4, [0, 0, 128]),
            (7, [128, 128, 128]),
            (8, [64, 0, 0]),
            (15, [192, 128, 128]),
            (20, [0, 64, 128]),
            (254, [96, 224, 192]),
            (255, [224, 224, 192]),
        ];
        for (class, color) in expected {
            assert_eq!(VOC_PALETTE[class], color, "{class}");
        }
    }

    #[test]
    fn no_two_classes_look_alike() {
        for (class, color) in VOC_PALETTE.iter().enumerate() {
            assert!(!VOC_PALETTE[..class].contains(color), "{class}");
        }
    }
}
