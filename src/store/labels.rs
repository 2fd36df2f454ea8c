//! Parses label files.

use std::io::{self, BufRead, Read};

use thiserror::Error;

/// Maximum number of labels.
pub(super) const MAX_LABELS: usize = 100_000;
/// Maximum length of a label in bytes.
pub(super) const MAX_LABEL_BYTES: usize = 1024;
/// The byte-order mark of UTF-8, which some editors write at the start of a file.
const UTF8_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The reason why a label file cannot be used.
#[derive(Debug, Error)]
pub enum LabelError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file has too many lines.
    #[error("expected at most {MAX_LABELS} lines, one label per line, got more")]
    TooMany,
    /// A label is too long.
    #[error("line {line}: a label must have at most {MAX_LABEL_BYTES} bytes, got more")]
    TooLong {
        /// Number of the line; the first is 1.
        line: usize,
    },
    /// The file starts with the byte-order mark of UTF-16, or has NUL bytes.
    #[error("expected UTF-8, got UTF-16 or another binary encoding; save the file as UTF-8")]
    Utf16,
    /// A line is not UTF-8.
    #[error(
        "line {line}: expected UTF-8, got another encoding, probably Latin-1 (ISO 8859-1, \
         Windows-1252); save the file as UTF-8, for example with `iconv -f windows-1252 -t utf-8`"
    )]
    NotUtf8 {
        /// Number of the line; the first is 1.
        line: usize,
    },
    /// A label has a control character other than a tab, with which it could change what a terminal
    /// shows.
    #[error(
        "line {line}: a label must have no control characters, got {}; \
         save the file as plain text with one label per line",
        .got.escape_debug()
    )]
    Control {
        /// Number of the line; the first is 1.
        line: usize,
        /// The first control character of the line.
        got: char,
    },
}

/// Splits the text of a label file in the binary into labels, one per line.
pub fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// Splits a label file into labels, one per line, without trailing white space.
///
/// # Errors
/// [`LabelError`] for the first line that is not a label, before later lines are read.
pub(super) fn parse(mut file: impl BufRead) -> Result<Vec<String>, LabelError> {
    let mut labels = Vec::new();
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        // Room for the byte-order mark, the label and its line break.
        let most = UTF8_MARK.len() + MAX_LABEL_BYTES + 2;
        let mut line = Read::by_ref(&mut file).take(most as u64);
        if line.read_until(b'\n', &mut bytes)? == 0 {
            return Ok(labels);
        }
        if labels.len() == MAX_LABELS {
            return Err(LabelError::TooMany);
        }
        labels.push(parse_line(&bytes, labels.len() + 1)?);
    }
}

/// Returns the label in line number `line`. `bytes` may be only the start of a line that is too
/// long.
fn parse_line(bytes: &[u8], line: usize) -> Result<String, LabelError> {
    let is_first = line == 1;
    let is_utf16 = is_first && (bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF"));
    if is_utf16 || bytes.contains(&0) {
        return Err(LabelError::Utf16);
    }
    let bytes = match bytes.strip_prefix(UTF8_MARK) {
        Some(rest) if is_first => rest,
        _ => bytes,
    };
    let content = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let content = content.strip_suffix(b"\r").unwrap_or(content);
    if content.len() > MAX_LABEL_BYTES {
        return Err(LabelError::TooLong { line });
    }
    let label = str::from_utf8(content).map_err(|_| LabelError::NotUtf8 { line })?;
    match label.chars().find(|c| c.is_control() && *c != '\t') {
        Some(got) => Err(LabelError::Control { line, got }),
        None => Ok(label.trim_end().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &[u8]) -> Result<Vec<String>, String> {
        parse(bytes).map_err(|error| error.to_string())
    }

    #[test]
    fn labels_are_lines() {
        let cases: &[(&[u8], &[&str])] = &[
            (b"", &[]),
            (b"wren\nrobin\n", &["wren", "robin"]),
            (b"wren\nrobin", &["wren", "robin"]),
            (b"wren\r\nrobin\r\n", &["wren", "robin"]),
            (b" a wren \t\n\nrobin", &[" a wren", "", "robin"]),
            (b"\xEF\xBB\xBFwren\nrobin", &["wren", "robin"]),
            (b"\xEF\xBB\xBF\r\nrobin", &["", "robin"]),
            ("Zaunkönig\n鹪鹩\t2".as_bytes(), &["Zaunkönig", "鹪鹩\t2"]),
        ];
        for (bytes, expected) in cases {
            let shown = bytes.escape_ascii();
            assert_eq!(parsed(bytes).unwrap(), *expected, "{shown}");
        }
    }

    #[test]
    fn other_encodings_are_named() {
        let utf16 = |mark: &[u8], order: fn(u16) -> [u8; 2]| {
            let text = "wren\nrobin\n".encode_utf16().flat_map(order);
            mark.iter().copied().chain(text).collect::<Vec<u8>>()
        };
        let cases = [
            (utf16(b"\xFF\xFE", u16::to_le_bytes), "got UTF-16"),
            (utf16(b"\xFE\xFF", u16::to_be_bytes), "got UTF-16"),
            (utf16(b"", u16::to_le_bytes), "got UTF-16"),
            (utf16(b"", u16::to_be_bytes), "got UTF-16"),
            (b"wren\nZaunk\xF6nig\n".to_vec(), "line 2: expected UTF-8"),
            (
                b"wren\rrobin\r".to_vec(),
                "line 1: a label must have no control characters, got \\r",
            ),
            (b"\x1B[2Jwren".to_vec(), "got \\u{1b}"),
            ("wren\u{9b}2J".into(), "got \\u{9b}"),
        ];
        for (bytes, expected) in cases {
            let message = parsed(&bytes).unwrap_err();
            assert!(message.contains(expected), "{expected}: {message}");
            assert!(message.contains("save the file as"), "{message}");
        }
    }

    #[test]
    fn long_labels_and_long_lists_are_rejected_while_reading() {
        let label = |length: usize, end: &str| format!("{}{end}", "w".repeat(length));
        for end in ["", "\n", "\r\n"] {
            for mark in ["", "\u{feff}"] {
                let bytes = format!("{mark}{}", label(1024, end));
                assert_eq!(parsed(bytes.as_bytes()).unwrap()[0].len(), 1024);
                let bytes = format!("{mark}{}", label(1025, end));
                let message = parsed(bytes.as_bytes()).unwrap_err();
                assert!(message.starts_with("line 1: a label must have at most 1024 bytes"));
            }
        }
        assert_eq!(parsed(&b"a\n".repeat(100_000)).unwrap().len(), 100_000);
        let message = parsed(&b"a\n".repeat(100_001)).unwrap_err();
        assert!(
            message.starts_with("expected at most 100000 lines"),
            "{message}"
        );
        // These never end.
        assert!(parse(io::BufReader::new(io::repeat(b'a'))).is_err());
        assert!(parse(io::BufReader::new(io::repeat(b'\n'))).is_err());
    }
}
