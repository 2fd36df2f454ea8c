//! Positions of the parts of a chart: the plot area and the entries of the legend, which take as many lines as they need.

use std::borrow::Cow;

use super::Series;
use super::style::TEXT_SIZE;
use super::widths::{fitted, width};

/// Distance of texts from the left and right edge of a chart, in pixels.
pub(super) const EDGE: f64 = 20.0;
/// Distance between the middle of a sample in the legend and its name, in pixels.
pub(super) const SAMPLE: f64 = 18.0;

/// Size of a chart whose legend has one line, in pixels.
const SIZE: (f64, f64) = (800.0, 480.0);
/// Distances of its plot area from the left, top, right and bottom edge, in pixels.
const MARGIN: [f64; 4] = [68.0, 92.0, 28.0, 56.0];
/// Height of a line of the legend, in pixels.
const LINE: f64 = 20.0;
/// Space between the name of a series and the sample of the next one, in pixels.
const GAP: f64 = 30.0;

/// An entry of the legend.
pub(super) struct Entry<'a> {
    pub(super) series: &'a Series,
    /// Its name, cut to the width of the chart.
    pub(super) name: Cow<'a, str>,
    /// Pixel of the middle of its sample.
    pub(super) at: (f64, f64),
}

/// Positions in pixels.
pub(super) struct Layout<'a> {
    /// Size of the chart.
    pub(super) size: (f64, f64),
    /// Left, top, right and bottom edge of the plot area.
    pub(super) area: [f64; 4],
    pub(super) legend: Vec<Entry<'a>>,
}

impl<'a> Layout<'a> {
    /// Returns the layout of a chart of `series`. A legend of more than one line makes the chart higher.
    pub(super) fn new(series: &'a [Series]) -> Self {
        let [left, top, right, bottom] = MARGIN;
        let (width_of_all, height) = SIZE;
        let end = width_of_all - EDGE;
        let (mut x, mut y) = (left, top - LINE);
        let mut legend = Vec::new();
        for series in series.iter().filter(|series| !series.name.is_empty()) {
            let name = fitted(&series.name, TEXT_SIZE, end - left - SAMPLE);
            let length = SAMPLE + width(&name, TEXT_SIZE);
            if x > left && x + length > end {
                (x, y) = (left, y + LINE);
            }
            let at = (x, y);
            x += length + GAP;
            legend.push(Entry { series, name, at });
        }
        let more = y - (top - LINE);
        Self {
            size: (width_of_all, height + more),
            area: [
                left,
                top + more,
                width_of_all - right,
                height + more - bottom,
            ],
            legend,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Line;
    use super::*;

    #[test]
    fn a_long_legend_has_several_lines_inside_the_chart() {
        let series = |name: &str| Series {
            name: name.to_owned(),
            color: 0,
            mark: None,
            line: Line::Solid,
            points: Vec::new(),
        };
        let long = "x".repeat(400);
        let mut all: Vec<Series> = (0..9).map(|_| series("efficientnet_lite0@int8")).collect();
        all.extend([series(""), series(&long)]);
        let layout = Layout::new(&all);
        assert_eq!(layout.legend.len(), 10);
        for Entry { name, at, .. } in &layout.legend {
            assert!(at.0 + SAMPLE + width(name, TEXT_SIZE) <= SIZE.0 - EDGE);
            assert!(at.1 < layout.area[1]);
        }
        let lines = (layout.size.1 - SIZE.1) / LINE + 1.0;
        assert!(lines >= 4.0, "{lines}");
        assert!(layout.legend[9].name.ends_with('…'));
        let plot = layout.area[3] - layout.area[1];
        let one = Layout::new(&all[..1]);
        assert!((plot - (one.area[3] - one.area[1])).abs() < 1e-9);
    }
}
