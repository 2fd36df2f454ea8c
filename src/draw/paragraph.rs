//! Text of several lines below or beside an image.

use image::RgbImage;

use super::Color;
use super::canvas::Point;
use super::text::{draw_text, fit, text_width};

/// Height of a line, in heights of its letters.
const LINE_HEIGHT: f32 = 1.25;

/// Where a paragraph is, and how it looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Paragraph {
    /// Column and row of the top left corner, in pixels.
    pub at: (u32, u32),
    /// Maximum width of a line in pixels.
    pub width: u32,
    /// Height of the letters in pixels.
    pub size: f32,
    /// Maximum number of lines. The last one is cut if the text does not fit.
    pub lines: usize,
    /// Color of the text.
    pub color: Color,
}

impl Paragraph {
    /// Draws `text`, broken between words, and returns the row below its last line.
    pub fn draw(&self, image: &mut RgbImage, text: &str) -> u32 {
        let height = (self.size * LINE_HEIGHT).ceil() as u32;
        let (x, mut y) = self.at;
        for line in broken(text, self.size, self.width as f32, self.lines) {
            let at = Point {
                x: i64::from(x),
                y: i64::from(y),
            };
            draw_text(image, at, &line, self.size, self.color);
            y = y.saturating_add(height);
        }
        y
    }
}

/// Returns `text` as at most `lines` lines of at most `width` pixels with letters `size` pixels high.
fn broken(text: &str, size: f32, width: f32, lines: usize) -> Vec<String> {
    let mut broken: Vec<String> = Vec::new();
    for word in words(text) {
        let is_last = broken.len() >= lines;
        match broken.last_mut() {
            // The last line takes all that is left, and is cut below.
            Some(line) if is_last || text_width(&format!("{line} {word}"), size) <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            _ if lines > 0 => broken.push(word),
            _ => {}
        }
    }
    let broken = broken.into_iter();
    broken.map(|line| fit(&line, size, width)).collect()
}

/// Returns the words of `text`. A percent sign belongs to the value before it.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match words.last_mut() {
            Some(value) if word.starts_with('%') => {
                value.push(' ');
                value.push_str(word);
            }
            _ => words.push(word.to_owned()),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_and_the_last_one_is_cut() {
        let text = "crash helmet 83 %, is go-kart 14 %";
        let width = text_width("crash helmet 83 %,", 14.0);
        assert_eq!(
            broken(text, 14.0, width, 2),
            ["crash helmet 83 %,", "is go-kart 14 %"]
        );
        let one = broken(text, 14.0, width, 1);
        assert_eq!(one.len(), 1);
        assert!(one[0].ends_with('…'), "{one:?}");
        let narrow = text_width("crash helmet 83", 14.0);
        assert_eq!(
            broken("crash helmet 83 %", 14.0, narrow, 2),
            ["crash helmet", "83 %"]
        );
        assert_eq!(broken("", 14.0, width, 2), [""]);
        assert!(broken(text, 14.0, width, 0).is_empty());
        assert!(broken("monastery", 14.0, 30.0, 2)[0].ends_with('…'));
    }

    #[test]
    fn the_next_paragraph_is_below() {
        let mut image = RgbImage::from_pixel(100, 40, image::Rgb([255; 3]));
        let paragraph = Paragraph {
            at: (2, 3),
            width: 96,
            size: 12.0,
            lines: 2,
            color: [0; 3],
        };
        assert_eq!(paragraph.draw(&mut image, "mouse"), 18);
        assert!(image.pixels().any(|pixel| pixel.0[0] < 100));
        assert!(
            image
                .rows()
                .skip(18)
                .flatten()
                .all(|pixel| pixel.0 == [255; 3])
        );
    }
}
