//! Colors of the output on terminals. `NO_COLOR`, `CLICOLOR` and `CLICOLOR_FORCE` are respected.

use std::io;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

use super::log::Stream;

pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(super) const DOUBTFUL: Style = AnsiColor::Yellow.on_default().bold();
pub(super) const GOOD: Style = AnsiColor::Green.on_default().bold();
pub(super) const HEAD: Style = Style::new().bold();
const QUIET: Style = Style::new().dimmed();

/// The words at the start of a message to stderr that have a color.
const WORDS: [(&str, Style); 2] = [("error:", BAD), ("warning:", DOUBTFUL)];
/// The levels of the log with their colors.
const LEVELS: [(&str, Style); 5] = [
    ("ERROR", BAD),
    ("WARN", DOUBTFUL),
    ("INFO", AnsiColor::Green.on_default()),
    ("DEBUG", AnsiColor::Blue.on_default()),
    ("TRACE", QUIET),
];

/// Returns whether colors are written to the stream: whether it is a terminal that can show them, unless a
/// variable of the environment decides otherwise.
pub(super) fn is_used(stream: Stream) -> bool {
    let choice = match stream {
        Stream::Stdout => AutoStream::choice(&io::stdout()),
        Stream::Stderr => AutoStream::choice(&io::stderr()),
    };
    choice != ColorChoice::Never
}

/// Returns `text` in the style, if colors are written to the stream. `text` must be escaped already.
pub(super) fn paint(stream: Stream, style: Style, text: &str) -> String {
    if is_used(stream) {
        painted(style, text)
    } else {
        text.to_owned()
    }
}

fn painted(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Returns a message for stderr with its first word in color, if that is `error:` or `warning:`.
pub(super) fn message(text: String) -> String {
    let start = WORDS.iter().find(|(word, _)| text.starts_with(word));
    match start {
        Some((word, style)) if is_used(Stream::Stderr) => {
            painted(*style, word) + &text[word.len()..]
        }
        _ => text,
    }
}

/// Returns a line of the log in text format, `TIME LEVEL ...`, with the level in color.
pub(super) fn log_line(line: &str) -> String {
    let mut words = line.split_whitespace();
    let (Some(time), Some(level)) = (words.next(), words.next()) else {
        return line.to_owned();
    };
    let known = LEVELS.iter().find(|(name, _)| *name == level);
    match (known, line.split_once(level)) {
        (Some((_, style)), Some((before, rest))) if before.trim() == time => {
            let before = before.strip_prefix(time).unwrap_or_default();
            let (time, level) = (painted(QUIET, time), painted(*style, level));
            format!("{time}{before}{level}{rest}")
        }
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_of_a_log_line_has_a_color() {
        let got = log_line("2026-01-01T00:00:00Z  WARN sightline: WARN is a word\n");
        let expected = "\x1b[2m2026-01-01T00:00:00Z\x1b[0m  \x1b[1m\x1b[33mWARN\x1b[0m sightline: WARN is a word\n";
        assert_eq!(got, expected);
        for line in ["", "\n", "child process aborted\n", "time LEVEL text\n"] {
            assert_eq!(log_line(line), line);
        }
    }
}
