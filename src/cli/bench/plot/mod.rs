//! Scatter and line charts as SVG files that are readable on light and on dark pages.
//!
//! The colors follow `prefers-color-scheme`, and each chart has a background of its own, so that text and background
//! always change together. The files have no scripts, fonts or links, so pages can show them as images.

mod axis;
mod labels;
mod style;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cli::staging::write_file;
pub(super) use axis::Axis;
use axis::Scale;
use labels::{Anchor, Label, place};
use style::{COLORS, escaped, head};

/// Size of a chart in pixels.
const SIZE: (f64, f64) = (800.0, 480.0);
/// Distances of the plot area from the left, top, right and bottom edge, in pixels.
const MARGIN: [f64; 4] = [68.0, 92.0, 28.0, 56.0];
/// Radius of a mark in pixels.
const RADIUS: f64 = 4.5;
/// Font size of labels in pixels.
const LABEL_SIZE: f64 = 11.0;
/// Shape of the marks of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Circle,
    Square,
    Triangle,
}

/// How the points of a series are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    None,
    Solid,
    Dashed,
}

/// A point of a chart.
#[derive(Debug, Clone)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    /// Text beside the point.
    pub(super) label: Option<String>,
}

/// Points of one kind.
#[derive(Debug, Clone)]
pub(super) struct Series {
    /// Name in the legend.
    pub(super) name: String,
    /// Number of the color; series of one subject have the same.
    pub(super) color: usize,
    /// `None` for a line without marks.
    pub(super) mark: Option<Mark>,
    pub(super) line: Line,
    pub(super) points: Vec<Point>,
}

/// A chart.
#[derive(Debug, Clone)]
pub(super) struct Chart {
    pub(super) title: String,
    /// What was measured, with what, and when.
    pub(super) subtitle: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
}

impl Chart {
    /// Writes the chart into the file `name` of `folder`, which must exist, and returns its path.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn write(&self, folder: &Path, name: &str) -> Result<PathBuf> {
        let path = folder.join(name);
        write_file(&path, self.svg().as_bytes())
            .with_context(|| format!("cannot write the chart {}", path.display()))?;
        Ok(path)
    }

    /// Returns the chart as an SVG document.
    pub(super) fn svg(&self) -> String {
        let ((width, height), [left, top, right, bottom]) = (SIZE, MARGIN);
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = Scale::new(
            &self.x,
            points().map(|point| point.x),
            (left, width - right),
        );
        let y = Scale::new(
            &self.y,
            points().map(|point| point.y),
            (height - bottom, top),
        );
        let mut svg = head(&self.title, SIZE);
        let _ = write!(
            svg,
            "<text class=\"f t\" x=\"20\" y=\"30\">{}</text><text class=\"m\" x=\"20\" y=\"50\">{}</text>",
            escaped(&self.title),
            escaped(&self.subtitle)
        );
        self.legend(&mut svg);
        self.grid(&mut svg, &x, &y);
        for series in &self.series {
            series.draw(&mut svg, &x, &y);
        }
        self.labels(&mut svg, &x, &y);
        svg.push_str("</svg>\n");
        svg
    }

    fn legend(&self, svg: &mut String) {
        let mut at = MARGIN[0];
        for series in &self.series {
            let y = MARGIN[1] - 20.0;
            series.draw_line(svg, &[(at - 12.0, y), (at + 12.0, y)]);
            if let Some(mark) = series.mark {
                draw_mark(svg, mark, series.color, (at, y));
            }
            let text = at + 18.0;
            let _ = write!(
                svg,
                "<text class=\"f\" x=\"{text:.1}\" y=\"{:.1}\">{}</text>",
                y + 4.0,
                escaped(&series.name)
            );
            at = text + labels::width(&series.name, 12.0) + 30.0;
        }
    }

    /// Draws the grid, the ticks and the names of the axes.
    fn grid(&self, svg: &mut String, x: &Scale, y: &Scale) {
        let ((width, height), [left, top, right, bottom]) = (SIZE, MARGIN);
        let (right, base) = (width - right, height - bottom);
        for (value, text) in x.ticks() {
            let at = x.at(value);
            let _ = write!(
                svg,
                "<path class=\"g\" d=\"M{at:.1} {top}V{base}\"/><text class=\"m\" x=\"{at:.1}\" y=\"{:.1}\" \
                 text-anchor=\"middle\">{text}</text>",
                base + 18.0
            );
        }
        for (value, text) in y.ticks() {
            let at = y.at(value);
            let _ = write!(
                svg,
                "<path class=\"g\" d=\"M{left} {at:.1}H{right}\"/><text class=\"m\" x=\"{:.1}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{text}</text>",
                left - 8.0,
                at + 4.0
            );
        }
        let _ = write!(
            svg,
            "<path class=\"a\" d=\"M{left} {top}V{base}H{right}\"/>\
             <text class=\"f\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text class=\"f\" transform=\"translate(18 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            f64::midpoint(left, right),
            height - 16.0,
            escaped(&self.x.name),
            f64::midpoint(top, base),
            escaped(&self.y.name)
        );
    }

    /// Draws the texts of the points where they cover neither points nor each other.
    fn labels(&self, svg: &mut String, x: &Scale, y: &Scale) {
        let at = |point: &Point| (x.at(point.x), y.at(point.y));
        let points = self.series.iter().flat_map(|series| {
            let points = series.points.iter();
            points.map(move |point| Label {
                at: at(point),
                text: point.label.as_deref().unwrap_or_default(),
            })
        });
        let points: Vec<Label<'_>> = points.collect();
        let ((width, height), [left, top, right, bottom]) = (SIZE, MARGIN);
        let area = [left, top, width - right, height - bottom];
        for (label, placed) in points.iter().zip(place(&points, area, RADIUS, LABEL_SIZE)) {
            let Some(placed) = placed else { continue };
            if placed.is_far {
                let ((x1, y1), (x2, y2)) = (label.at, placed.at);
                let y2 = y2 - 4.0;
                let _ = write!(
                    svg,
                    "<path class=\"g\" d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\"/>"
                );
            }
            let anchor = match placed.anchor {
                Anchor::Start => "start",
                Anchor::Middle => "middle",
                Anchor::End => "end",
            };
            let _ = write!(
                svg,
                "<text class=\"f l\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
                placed.at.0,
                placed.at.1,
                escaped(label.text)
            );
        }
    }
}

impl Series {
    fn draw(&self, svg: &mut String, x: &Scale, y: &Scale) {
        let points = self
            .points
            .iter()
            .map(|point| (x.at(point.x), y.at(point.y)));
        let points: Vec<(f64, f64)> = points.collect();
        self.draw_line(svg, &points);
        if let Some(mark) = self.mark {
            for at in points {
                draw_mark(svg, mark, self.color, at);
            }
        }
    }

    fn draw_line(&self, svg: &mut String, points: &[(f64, f64)]) {
        let dash = match self.line {
            Line::None => return,
            Line::Solid => "",
            Line::Dashed => " stroke-dasharray=\"5 4\"",
        };
        let points = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}"));
        let _ = write!(
            svg,
            "<polyline class=\"s{}\" fill=\"none\" stroke-width=\"2\"{dash} points=\"{}\"/>",
            self.color % COLORS.len(),
            points.collect::<Vec<_>>().join(" ")
        );
    }
}

fn draw_mark(svg: &mut String, mark: Mark, color: usize, (x, y): (f64, f64)) {
    let (class, r) = (color % COLORS.len(), RADIUS);
    let path = match mark {
        Mark::Circle => format!(
            "M{:.1} {y:.1}a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0 -{d} 0z",
            x - r,
            d = 2.0 * r
        ),
        Mark::Square => format!(
            "M{:.1} {:.1}h{d}v{d}h-{d}z",
            x - r + 0.5,
            y - r + 0.5,
            d = 2.0 * r - 1.0
        ),
        Mark::Triangle => format!(
            "M{x:.1} {:.1}l{w} {h}h-{d}z",
            y - r,
            w = r,
            h = 1.8 * r,
            d = 2.0 * r
        ),
    };
    let _ = write!(svg, "<path class=\"p{class}\" d=\"{path}\"/>");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[(f64, f64)]) -> Chart {
        let points = points.iter().map(|(x, y)| Point {
            x: *x,
            y: *y,
            label: Some("a<b>&\"c\u{1}".to_owned()),
        });
        Chart {
            title: "A & B".to_owned(),
            subtitle: String::new(),
            x: Axis::log("milliseconds"),
            y: Axis::linear("%"),
            series: vec![Series {
                name: "<fp32>".to_owned(),
                color: 7,
                mark: Some(Mark::Triangle),
                line: Line::Dashed,
                points: points.collect(),
            }],
        }
    }

    #[test]
    fn texts_are_escaped_and_all_points_are_inside() {
        let svg = chart(&[(1.0, 50.0), (1000.0, 80.0)]).svg();
        assert!(
            svg.contains("<title>A &amp; B</title>") && svg.contains("&lt;fp32&gt;"),
            "{svg}"
        );
        assert!(svg.contains("a&lt;b&gt;&amp;&quot;c <"), "{svg}");
        assert!(svg.contains("class=\"p1\"") && svg.contains("prefers-color-scheme:dark"));
        assert_eq!(
            svg.matches("<text").count(),
            svg.matches("</text>").count(),
            "{svg}"
        );
    }

    #[test]
    fn charts_without_points_or_with_equal_ones_have_finite_coordinates() {
        for points in [
            &[][..],
            &[(5.0, 5.0)],
            &[(5.0, 0.0), (5.0, 0.0)],
            &[(0.0, -1.0)],
            &[(f64::NAN, 1.0), (f64::INFINITY, 2.0)],
        ] {
            let svg = chart(points).svg();
            assert!(
                !svg.contains("NaN") && !svg.contains("inf"),
                "{points:?}: {svg}"
            );
        }
    }
}
