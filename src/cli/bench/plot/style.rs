//! Colors of charts on light and on dark pages, and texts in XML.

use std::fmt::Write as _;

/// Colors of the series on light and on dark pages, told apart also by people with color vision deficiencies.
pub(super) const COLORS: [(&str, &str); 6] = [
    ("#0072b2", "#6cb6ff"),
    ("#c75000", "#f0a04b"),
    ("#00795a", "#3fd3a2"),
    ("#a8448a", "#e79ccb"),
    ("#6e5a00", "#e3d04f"),
    ("#4b4bb8", "#b3b0ff"),
];
/// Font sizes of titles, of other texts, and of the labels of points, in pixels.
pub(super) const TITLE_SIZE: f64 = 16.0;
pub(super) const TEXT_SIZE: f64 = 12.0;
pub(super) const LABEL_SIZE: f64 = 11.0;
/// The font of all texts, and the sizes above.
const FONT: &str = "text{font:12px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}\
.t{font-size:16px;font-weight:600}.l{font-size:11px;paint-order:stroke;stroke-width:3px;stroke-linejoin:round}";
/// The other colors: background, text, its outline over lines, secondary text, grid, axes, and lines to labels.
const LIGHT: &str = ".b{fill:#fff;stroke:#d1d9e0}.f{fill:#1f2328}.l{stroke:#fff}.m{fill:#59636e}\
.g{stroke:#e4e8ec;fill:none}.a{stroke:#59636e;fill:none}.k{stroke:#818b98;stroke-width:.7;fill:none}";
const DARK: &str = ".b{fill:#0d1117;stroke:#30363d}.f{fill:#e6edf3}.l{stroke:#0d1117}.m{fill:#9198a1}\
.g{stroke:#262c34}.a{stroke:#9198a1}.k{stroke:#6e7681}";

/// Returns the beginning of a document with this title and size in pixels: colors and background.
pub(super) fn head(title: &str, (width, height): (f64, f64)) -> String {
    let colors = |dark: bool| {
        let mut style = String::new();
        for (number, (light_color, dark_color)) in COLORS.iter().enumerate() {
            let color = if dark { dark_color } else { light_color };
            let _ = write!(
                style,
                ".s{number}{{stroke:{color}}}.p{number}{{fill:{color}}}"
            );
        }
        style
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\"><title>{}</title><style>{FONT}{LIGHT}{}\
         @media (prefers-color-scheme:dark){{{DARK}{}}}</style>\
         <rect class=\"b\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"6\"/>",
        escaped(title),
        colors(false),
        colors(true),
        width - 1.0,
        height - 1.0
    )
}

/// Returns `text` for an XML document.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            control if control.is_control() => out.push(' '),
            other => out.push(other),
        }
    }
    out
}
