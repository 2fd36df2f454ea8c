//! What a client can choose about a drawing.

use std::ops::RangeInclusive;
use std::str::FromStr;

use super::{Color, Sizes};
use crate::encode::DrawnFormat;
use crate::postprocess::segment::VOC_PALETTE;

/// Widths of drawn lines that a client may choose, in pixels of the image.
pub const LINE_WIDTHS: RangeInclusive<u32> = 1..=100;

/// Returns the color of a class, the same as in the playground (`web/colors.js`): the hues of neighboring ids are a
/// golden angle apart, so that no two of the first hundred classes have the same color.
fn bright(class_id: usize) -> Color {
    let hue = (class_id as f64 * 137.508 + 12.0) % 360.0;
    let lightness = if class_id % 3 == 1 { 0.68 } else { 0.58 };
    let amplitude = 0.75 * f64::min(lightness, 1.0 - lightness);
    [0.0, 8.0, 4.0].map(|offset| {
        let k = (offset + hue / 30.0) % 12.0;
        let wave = f64::min(k - 3.0, 9.0 - k).clamp(-1.0, 1.0);
        (255.0 * (lightness - amplitude * wave)).round() as u8
    })
}

/// Colors that people with any common color vision deficiency can tell apart. Source: Okabe and Ito,
/// "Color Universal Design", 2008, without black.
const COLORBLIND: [Color; 7] = [
    [230, 159, 0],
    [86, 180, 233],
    [0, 158, 115],
    [240, 228, 66],
    [0, 114, 178],
    [213, 94, 0],
    [204, 121, 167],
];

/// The colors of the classes in a drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColorScheme {
    /// The colors of the playground, one for each class.
    Bright,
    /// The colors of PASCAL VOC, which are those of PNG masks; one for each class.
    Voc,
    /// Colors for any kind of color vision, which repeat after 7 classes.
    Colorblind,
}

impl ColorScheme {
    /// The schemes with their names.
    pub const ALL: [(&'static str, Self); 3] = [
        ("bright", Self::Bright),
        ("voc", Self::Voc),
        ("colorblind", Self::Colorblind),
    ];

    /// Returns the color of a class. Class 0 has the color of a class too, because it is the background
    /// only for some models.
    pub(super) fn color(self, class_id: usize) -> Color {
        let cycled = |colors: &[Color]| colors[(class_id + colors.len() - 1) % colors.len()];
        match self {
            Self::Bright => bright(class_id),
            Self::Colorblind => cycled(&COLORBLIND),
            // VOC's color of class 0 is the background's black.
            Self::Voc => VOC_PALETTE[(class_id % VOC_PALETTE.len()).max(1)],
        }
    }
}

/// What the labels of boxes and the legend of a mask say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LabelText {
    /// Nothing is written.
    Off,
    /// The name of the class.
    Name,
    /// The name of the class, with the score of the box or the class's share of the image.
    #[default]
    Score,
}

impl LabelText {
    /// The choices with their names.
    pub const ALL: [(&'static str, Self); 3] = [
        ("off", Self::Off),
        ("name", Self::Name),
        ("score", Self::Score),
    ];
}

/// Implements `FromStr` by the names in `ALL`.
macro_rules! from_name {
    ($kind:ty, $names:literal) => {
        impl FromStr for $kind {
            type Err = &'static str;

            /// Returns the choice with this name.
            ///
            /// # Errors
            /// The names that exist, if there is none with this name.
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut named = Self::ALL.iter().filter(|(name, _)| *name == text);
                named.next().map(|(_, it)| *it).ok_or($names)
            }
        }
    };
}

from_name!(ColorScheme, "expected bright, voc or colorblind");
from_name!(LabelText, "expected off, name or score");

/// The appearance of a drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// Colors of the classes. If `None`, boxes are bright, and masks have the colors of PNG masks.
    pub palette: Option<ColorScheme>,
    /// Width of the outlines of boxes and masks in pixels, within [`LINE_WIDTHS`]. If `None`, it is
    /// proportional to the image.
    pub line_width: Option<u32>,
    /// What is written.
    pub labels: LabelText,
}

impl Style {
    /// Returns the width of outlines in an image with these default sizes, in pixels.
    pub(super) fn line_width(&self, sizes: Sizes) -> u32 {
        self.line_width.unwrap_or(sizes.line)
    }
}

/// How the image with the results drawn in is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drawing {
    /// File format of the drawn image.
    pub format: DrawnFormat,
    /// Appearance of the results.
    pub style: Style,
}

impl From<DrawnFormat> for Drawing {
    fn from(format: DrawnFormat) -> Self {
        let style = Style::default();
        Self { format, style }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bright_colors_are_those_of_the_playground() {
        // Computed by `rgb` of web/colors.js.
        for (class_id, expected) in [
            (0, [228, 100, 68]),
            (1, [112, 235, 172]),
            (17, [68, 202, 228]),
            (47, [228, 68, 81]),
            (67, [112, 143, 235]),
            (90, [68, 228, 142]),
        ] {
            assert_eq!(ColorScheme::Bright.color(class_id), expected, "{class_id}");
        }
        let colors = (0..100).map(|class_id| ColorScheme::Bright.color(class_id));
        let distinct = colors.collect::<std::collections::HashSet<_>>();
        assert_eq!(distinct.len(), 100);
    }

    #[test]
    fn every_class_has_a_visible_color() {
        for (name, scheme) in ColorScheme::ALL {
            assert_eq!(name.parse(), Ok(scheme));
            for class_id in [0, 1, 6, 7, 20, 90, 255, 256, 100_000] {
                let color = scheme.color(class_id);
                assert_ne!(color, [0; 3], "{name} {class_id}");
            }
            assert_ne!(scheme.color(1), scheme.color(2));
        }
        assert!("Bright".parse::<ColorScheme>().is_err());
        assert_eq!("off".parse(), Ok(LabelText::Off));
        assert!("".parse::<LabelText>().is_err());
    }
}
