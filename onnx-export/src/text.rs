//! Text from files, made safe to print.
//!
//! Names of tensors and other texts of a file are untrusted. A terminal would interpret escape sequences
//! in them, and a line break in a name could make the rest look like another log line. [`shown`] is for texts that a
//! message quotes; [`printable`] is for whole messages at the boundary to the terminal or the log.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};

/// Maximum number of characters of a quoted text that [`shown`] keeps.
const SHOWN: usize = 120;

/// Maximum number of characters of an error that [`shown_error`] keeps.
const SHOWN_ERROR: usize = 400;

/// Returns `text`, which a message quotes, on one line: cut to 120 characters, with control
/// characters and backslashes escaped as in JSON.
pub fn shown(text: &str) -> String {
    one_line(text, SHOWN, |c| c == '\\' || changes_display(c))
}

/// Returns the message of a parser's error, which may quote the file, on one line: cut to 400
/// characters, with control characters escaped as in JSON.
pub fn shown_error(error: &dyn Display) -> String {
    one_line(&error.to_string(), SHOWN_ERROR, changes_display)
}

fn one_line(text: &str, most: usize, escape: impl Fn(char) -> bool) -> String {
    let kept = cut(text, most);
    let mut out = escaped(kept, escape);
    if kept.len() < text.len() {
        out.push_str("...");
    }
    out
}

/// Returns `text` with every character escaped that could change how the text around it is
/// displayed, except the characters `kept`. The escapes are those of JSON, so a JSON document keeps
/// its meaning if its line breaks are `kept`.
pub fn printable<'t>(text: &'t str, kept: &[char]) -> Cow<'t, str> {
    let unsafe_here = |c: char| changes_display(c) && !kept.contains(&c);
    if text.contains(unsafe_here) {
        return Cow::Owned(escaped(text, unsafe_here));
    }
    Cow::Borrowed(text)
}

/// Returns the first `most` characters of `text`.
pub fn cut(text: &str, most: usize) -> &str {
    match text.char_indices().nth(most) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// Returns whether a terminal or an editor may display the text around `c` differently because of
/// `c`: control characters, separators of lines and paragraphs, and controls of the direction of
/// text.
fn changes_display(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, escape: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if !escape(c) => out.push(c),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // The characters that are escaped have at most 16 bits. Writing to a string cannot fail.
            c => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_is_one_line_without_control_characters() {
        let cases = [
            ("features.0.weight", "features.0.weight"),
            ("it's \"50 %\"", "it's \"50 %\""),
            ("Löwe ไก่ 🦁", "Löwe ไก่ 🦁"),
            ("a\x1b[2J\x07b", "a\\u001b[2J\\u0007b"),
            ("a\nerror: b\r\tc", "a\\nerror: b\\r\\tc"),
            ("\u{7f}\u{9b}31m", "\\u007f\\u009b31m"),
            ("a\u{202e}b\u{2066}c\u{2028}d", "a\\u202eb\\u2066c\\u2028d"),
            ("C:\\u001b", "C:\\\\u001b"),
        ];
        for (text, expected) in cases {
            assert_eq!(shown(text), expected);
        }
        assert_eq!(shown(&"é".repeat(120)), "é".repeat(120));
        assert_eq!(shown(&"é".repeat(121)), format!("{}...", "é".repeat(120)));
        let error = format!("unknown variant `{}`", "\\\n".repeat(500));
        let message = shown_error(&error);
        assert!(
            message.starts_with("unknown variant `\\\\n\\\\n"),
            "{message}"
        );
        assert!(message.ends_with("...") && message.len() < 700, "{message}");
    }

    #[test]
    fn messages_keep_the_characters_that_the_caller_names() {
        let text = "a\n\tb\x1b[0m";
        assert_eq!(printable(text, &['\n', '\t']), "a\n\tb\\u001b[0m");
        assert_eq!(printable(text, &['\n', '\t', '\x1b']), text);
        assert_eq!(printable(text, &[]), "a\\n\\tb\\u001b[0m");
        assert!(matches!(printable("a\\b", &[]), Cow::Borrowed("a\\b")));
    }

    #[test]
    fn json_stays_the_same_document() {
        let value = serde_json::json!({"a": "\x1b\n\u{7f}\u{9b}\u{202e}\\u"});
        let text = serde_json::to_string_pretty(&value).unwrap();
        let printed = printable(&text, &['\n', '\t']);
        assert!(printed.chars().all(|c| c == '\n' || !changes_display(c)));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&printed).unwrap(),
            value
        );
    }
}
