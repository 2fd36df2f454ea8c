//! What the colours of a mask mean.

use image::RgbImage;

use super::canvas::{Area, fill};
use super::text::{fit, plain_text, text_width};
use super::{BLACK, Colour, Sizes, WHITE};

/// How dark the panel is, of 255.
const PANEL: u8 = 160;

/// A panel in the upper left corner with a line for each of `entries`: its colour and its label.
///
/// Labels are cut to half the picture's width; lines that have no room are counted in the last one.
/// In a picture without room for a line, or for one and the count, nothing is drawn.
pub fn legend(image: &mut RgbImage, entries: &[(&str, Colour)]) {
    let Some(layout) = Layout::new(image, entries) else {
        return;
    };
    fill(image, layout.panel(), BLACK, PANEL);
    for (i, (label, colour)) in layout.lines.iter().enumerate() {
        let y = layout.margin + layout.pad + i as i64 * layout.line;
        let x = layout.margin + layout.pad;
        if let Some(colour) = colour {
            layout.swatch(image, (x, y), *colour);
        }
        let at = (x + layout.swatch + layout.gap, y);
        plain_text(image, at, label, layout.text, WHITE);
    }
}

/// Where things go, in pixels.
struct Layout {
    /// Height of the letters.
    text: f32,
    /// Between the picture's edge and the panel.
    margin: i64,
    /// Between the panel's edge and what is in it.
    pad: i64,
    /// From one line to the next.
    line: i64,
    /// Side of a swatch.
    swatch: i64,
    /// Between swatch and label.
    gap: i64,
    /// Labels, cut to the room there is, with their colours.
    lines: Vec<(String, Option<Colour>)>,
}

impl Layout {
    fn new(image: &RgbImage, entries: &[(&str, Colour)]) -> Option<Self> {
        let sizes = Sizes::of(image);
        let part = |of: f32| (sizes.text * of).ceil() as i64;
        let mut layout = Self {
            text: sizes.text,
            margin: part(0.4),
            pad: part(0.4),
            line: part(1.2),
            swatch: part(0.8),
            gap: part(0.4),
            lines: Vec::new(),
        };
        let around = 2 * (layout.margin + layout.pad);
        let rows = usize::try_from((i64::from(image.height()) - around) / layout.line).ok()?;
        let room = i64::from(image.width()) - around - layout.swatch - layout.gap;
        if rows < entries.len().min(2) || room < layout.swatch {
            return None;
        }
        // In a narrow picture half of the width would hold no word.
        let room = (room as f32).min((image.width() as f32 / 2.0).max(8.0 * sizes.text));
        layout.lines = cut(entries, rows)
            .map(|(label, colour)| (fit(&label, sizes.text, room), colour))
            .collect();
        (!layout.lines.is_empty()).then_some(layout)
    }

    fn panel(&self) -> Area {
        let widths = self.lines.iter().map(|l| text_width(&l.0, self.text));
        let labels = widths.fold(0.0, f32::max).ceil() as i64;
        Area {
            x: self.margin,
            y: self.margin,
            width: 2 * self.pad + self.swatch + self.gap + labels,
            height: 2 * self.pad + self.lines.len() as i64 * self.line,
        }
    }

    /// A square of `colour` in a light frame, in the middle of the line that begins at `x, y`.
    fn swatch(&self, image: &mut RgbImage, (x, y): (i64, i64), colour: Colour) {
        let y = y + (self.text.ceil() as i64 - self.swatch) / 2;
        let frame = (self.swatch / 12).max(1);
        let square = |inset: i64| Area {
            x: x + inset,
            y: y + inset,
            width: self.swatch - 2 * inset,
            height: self.swatch - 2 * inset,
        };
        fill(image, square(0), WHITE, 255);
        fill(image, square(frame), colour, 255);
    }
}

/// The first `rows` entries; where there are more, the last row tells how many.
fn cut<'a>(
    entries: &'a [(&'a str, Colour)],
    rows: usize,
) -> impl Iterator<Item = (String, Option<Colour>)> + 'a {
    let kept = if entries.len() > rows {
        rows - 1
    } else {
        entries.len()
    };
    let more = entries.len() - kept;
    let more = (more > 0).then(|| (format!("+ {more}"), None));
    let kept = entries[..kept].iter();
    kept.map(|(label, colour)| ((*label).to_owned(), Some(*colour)))
        .chain(more)
}
