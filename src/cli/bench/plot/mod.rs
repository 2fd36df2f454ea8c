//! Scatter and line charts as SVG files that are readable on light and on dark pages.
//!
//! The colors follow `prefers-color-scheme`, and each chart has a background of its own, so that text and background
//! always change together. The files have no scripts, fonts or links, so pages can show them as images.

mod axis;
mod labels;
mod layout;
mod style;
mod widths;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cli::staging::write_file;
pub(super) use axis::Axis;
use axis::Scale;
use labels::{Anchor, Label, Obstacles, place};
use layout::{EDGE, Entry, Layout};
use style::{COLORS, LABEL_SIZE, TEXT_SIZE, TITLE_SIZE, escaped, head};
use widths::fitted;

/// Radius of a mark in pixels.
const RADIUS: f64 = 4.5;

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
    /// Name in the legend. Empty for a series that the legend does not list.
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
        let layout = Layout::new(&self.series);
        let [left, top, right, base] = layout.area;
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = Scale::new(&self.x, points().map(|point| point.x), (left, right));
        let y = Scale::new(&self.y, points().map(|point| point.y), (base, top));
        let mut svg = head(&self.title, layout.size);
        let room = layout.size.0 - 2.0 * EDGE;
        let _ = write!(
            svg,
            "<text class=\"f t\" x=\"{EDGE}\" y=\"30\">{}</text><text class=\"m\" x=\"{EDGE}\" y=\"50\">{}</text>",
            escaped(&fitted(&self.title, TITLE_SIZE, room)),
            escaped(&fitted(&self.subtitle, TEXT_SIZE, room))
        );
        legend(&mut svg, &layout.legend);
        self.grid(&mut svg, &layout, (&x, &y));
        for series in &self.series {
            series.draw(&mut svg, &x, &y);
        }
        self.labels(&mut svg, &layout, (&x, &y));
        svg.push_str("</svg>\n");
        svg
    }

    /// Draws the grid, the ticks and the names of the axes.
    fn grid(&self, svg: &mut String, layout: &Layout<'_>, (x, y): (&Scale, &Scale)) {
        let [left, top, right, base] = layout.area;
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
            layout.size.1 - 16.0,
            escaped(&self.x.name),
            f64::midpoint(top, base),
            escaped(&self.y.name)
        );
    }

    /// Draws the texts of the points where they cover neither points nor each other.
    fn labels(&self, svg: &mut String, layout: &Layout<'_>, (x, y): (&Scale, &Scale)) {
        let at = |point: &Point| (x.at(point.x), y.at(point.y));
        let points = self.series.iter().flat_map(|series| {
            let points = series.points.iter();
            points.map(move |point| Label {
                at: at(point),
                text: point.label.as_deref().unwrap_or_default(),
            })
        });
        let points: Vec<Label<'_>> = points.collect();
        let lines = self.series.iter().filter(|one| one.line != Line::None);
        let lines = lines.flat_map(|series| {
            let pairs = series.points.windows(2);
            pairs.map(|pair| [at(&pair[0]), at(&pair[1])])
        });
        let obstacles = Obstacles {
            area: layout.area,
            radius: RADIUS,
            lines: lines.collect(),
        };
        for (label, placed) in points.iter().zip(place(&points, &obstacles, LABEL_SIZE)) {
            let Some(placed) = placed else { continue };
            if placed.is_far {
                let ((x1, y1), (x2, y2)) = (label.at, placed.at);
                let y2 = y2 - 4.0;
                let _ = write!(
                    svg,
                    "<path class=\"k\" d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\"/>"
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
        // A line of one point would not be visible.
        let alone = (points.len() == 1).then_some(Mark::Circle);
        if let Some(mark) = self.mark.or(alone) {
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

/// Draws a sample of each series that the legend lists, with its name.
fn legend(svg: &mut String, entries: &[Entry<'_>]) {
    for Entry {
        series,
        name,
        at: (x, y),
    } in entries
    {
        series.draw_line(svg, &[(x - 12.0, *y), (x + 12.0, *y)]);
        if let Some(mark) = series.mark {
            draw_mark(svg, mark, series.color, (*x, *y));
        }
        let (text_x, text_y) = (x + layout::SAMPLE, y + 4.0);
        let _ = write!(
            svg,
            "<text class=\"f\" x=\"{text_x:.1}\" y=\"{text_y:.1}\">{}</text>",
            escaped(name)
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
    fn a_line_of_one_point_is_visible() {
        let mut chart = chart(&[(1.0, 50.0)]);
        chart.series[0].mark = None;
        assert!(chart.svg().contains("<path class=\"p1\""));
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
