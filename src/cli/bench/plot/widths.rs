//! Widths of texts, by the widths of the letters of a wide font: which font shows the chart is not known.

use std::borrow::Cow;

/// Returns an upper limit of the width of `text` in pixels, in a font of `size` pixels.
pub(super) fn width(text: &str, size: f64) -> f64 {
    text.chars().map(advance).sum::<f64>() * size
}

/// Returns `text`, or its begin and an ellipsis if it is wider than `room` pixels.
pub(super) fn fitted(text: &str, size: f64, room: f64) -> Cow<'_, str> {
    if width(text, size) <= room {
        return Cow::Borrowed(text);
    }
    let mut used = advance('…') * size;
    let kept = text.chars().take_while(|letter| {
        used += advance(*letter) * size;
        used <= room
    });
    Cow::Owned(kept.collect::<String>() + "…")
}

/// Returns the width of a letter in font sizes, about that of the font `DejaVu Sans`.
fn advance(letter: char) -> f64 {
    match letter {
        'i' | 'j' | 'l' | '|' | '\'' => 0.29,
        ' ' | '.' | ',' | ':' | ';' | '/' | 'I' => 0.34,
        'f' | 't' | 'r' | '-' | '(' | ')' | '[' | ']' => 0.41,
        'm' | 'w' | 'M' | 'W' | '@' | '%' | '…' => 1.0,
        'A'..='Z' => 0.74,
        _ => 0.64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_text_is_cut() {
        assert_eq!(fitted("mobilenet", 12.0, 100.0), "mobilenet");
        let cut = fitted("mobilenet_v3_large@int8", 12.0, 100.0);
        assert!(cut.ends_with('…') && cut.starts_with("mobilenet"), "{cut}");
        assert!(width(&cut, 12.0) <= 100.0);
        assert_eq!(fitted("mobilenet", 12.0, 0.0), "…");
    }
}
