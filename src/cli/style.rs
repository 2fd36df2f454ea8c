//! The flags for the appearance of drawn images.

use clap::Args;
use sightline::draw::{ColorScheme, LINE_WIDTHS, LabelText, Style};

/// The flags that set how results are drawn into images.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct StyleArgs {
    /// Colors of the drawn classes: `bright`, `voc` (the colors of mask files) or `colorblind` [default:
    /// bright for boxes, voc for masks]
    #[arg(
        long,
        env = "SIGHTLINE_PALETTE",
        value_name = "NAME",
        requires = "annotate",
        help_heading = "Drawing"
    )]
    palette: Option<ColorScheme>,
    /// Width of drawn lines in pixels, 1 to 100 [default: proportional to the image]
    #[arg(
        long,
        env = "SIGHTLINE_LINE_WIDTH",
        value_name = "PIXELS",
        value_parser = clap::value_parser!(u32).range(i64::from(*LINE_WIDTHS.start())..=i64::from(*LINE_WIDTHS.end())),
        requires = "annotate",
        help_heading = "Drawing"
    )]
    line_width: Option<u32>,
    /// Drawn labels: `off`, the `name` of the class, or with `score` the name and the score, for a mask
    /// the name and the share of the image [default: score]
    #[arg(
        long = "draw-labels",
        env = "SIGHTLINE_DRAW_LABELS",
        value_name = "off|name|score",
        requires = "annotate",
        help_heading = "Drawing"
    )]
    labels: Option<LabelText>,
}

impl StyleArgs {
    /// Returns the style that the flags stand for.
    pub(super) fn style(self) -> Style {
        Style {
            palette: self.palette,
            line_width: self.line_width,
            labels: self.labels.unwrap_or_default(),
        }
    }
}
