//! A legend that explains the colors of a mask.

use image::RgbImage;

use super::canvas::{Area, Paint, Point, fill};
use super::text::{draw_text, fit, text_width};
use super::{BLACK, Color, Sizes, WHITE};

/// Opacity of the black panel behind the legend, 0..=255.
const PANEL_ALPHA: u8 = 160;

/// Draws a panel in the top left corner of the image with one line per entry: a square of its color,
/// and its label.
///
/// Labels are cut to half of the image's width, or to eight text heights if that is more. If there
/// is not enough room for all entries, the last line shows how many entries are left out. Nothing
/// is drawn if there is no room for one entry, or, with several entries, for two lines.
pub fn legend(image: &mut RgbImage, entries: &[(&str, Color)]) {
    let Some(layout) = Layout::new(image, entries) else {
        return;
    };
    let panel = Paint {
        color: BLACK,
        alpha: PANEL_ALPHA,
    };
    fill(image, layout.panel(), panel);
    for (i, line) in layout.lines.iter().enumerate() {
        let mut at = Point {
            x: layout.margin + layout.padding,
            y: layout.margin + layout.padding + i as i64 * layout.line_height,
        };
        if let Some(color) = line.color {
            layout.swatch(image, at, color);
        }
        at.x += layout.swatch + layout.gap;
        draw_text(image, at, &line.label, layout.text, WHITE);
    }
}

/// One line of the legend.
struct Line {
    label: String,
    /// Color of the square. `None` for the line that shows how many entries are left out.
    color: Option<Color>,
}

/// Positions and sizes of the legend's parts, in pixels.
struct Layout {
    /// Height of the text.
    text: f32,
    /// Distance between the edges of the image and of the panel.
    margin: i64,
    /// Distance between the edge of the panel and its content.
    padding: i64,
    /// Distance from one line to the next.
    line_height: i64,
    /// Side of the square that shows an entry's color.
    swatch: i64,
    /// Distance between square and label.
    gap: i64,
    lines: Vec<Line>,
}

impl Layout {
    /// Returns the layout for `entries`. `None` if the image is too small for a legend, or if
    /// `entries` is empty.
    fn new(image: &RgbImage, entries: &[(&str, Color)]) -> Option<Self> {
        let sizes = Sizes::of(image);
        let part = |of: f32| (sizes.text * of).ceil() as i64;
        let mut layout = Self {
            text: sizes.text,
            margin: part(0.4),
            padding: part(0.4),
            line_height: part(1.2),
            swatch: part(0.8),
            gap: part(0.4),
            lines: Vec::new(),
        };
        let around = 2 * (layout.margin + layout.padding);
        let rows = (i64::from(image.height()) - around) / layout.line_height;
        let rows = usize::try_from(rows).ok()?;
        let room = i64::from(image.width()) - around - layout.swatch - layout.gap;
        if rows < entries.len().min(2) || room < layout.swatch {
            return None;
        }
        // Half of the image's width, but at least eight text heights, so that a word fits in a
        // narrow image.
        let room = (room as f32).min((image.width() as f32 / 2.0).max(8.0 * sizes.text));
        layout.lines = lines(entries, rows);
        for line in &mut layout.lines {
            line.label = fit(&line.label, sizes.text, room);
        }
        (!layout.lines.is_empty()).then_some(layout)
    }

    /// Returns the area of the panel.
    fn panel(&self) -> Area {
        let widths = self.lines.iter().map(|l| text_width(&l.label, self.text));
        let labels = widths.fold(0.0, f32::max).ceil() as i64;
        Area {
            x: self.margin,
            y: self.margin,
            width: 2 * self.padding + self.swatch + self.gap + labels,
            height: 2 * self.padding + self.lines.len() as i64 * self.line_height,
        }
    }

    /// Draws a square of `color` in a white frame, vertically centered in the line that begins at `at`.
    fn swatch(&self, image: &mut RgbImage, at: Point, color: Color) {
        let square = Area {
            x: at.x,
            y: at.y + (self.text.ceil() as i64 - self.swatch) / 2,
            width: self.swatch,
            height: self.swatch,
        };
        let frame = (self.swatch / 12).max(1);
        fill(image, square, Paint::opaque(WHITE));
        fill(image, square.grown(-frame), Paint::opaque(color));
    }
}

/// Returns at most `rows` lines for a legend: the first of `entries` and, if not all entries fit, a
/// last line that shows how many entries are left out.
fn lines(entries: &[(&str, Color)], rows: usize) -> Vec<Line> {
    let kept = if entries.len() > rows {
        rows.saturating_sub(1)
    } else {
        entries.len()
    };
    let shown = entries[..kept].iter().map(|(label, color)| Line {
        label: (*label).to_owned(),
        color: Some(*color),
    });
    let left_out = entries.len() - kept;
    let count = (left_out > 0).then(|| Line {
        label: format!("+ {left_out}"),
        color: None,
    });
    shown.chain(count).collect()
}
