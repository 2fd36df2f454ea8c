//! A table of the measured figures of a run, each with its limit.

use std::fmt;

use crate::tally::Tally;

/// The measured figures of all scenarios, each with its limit.
#[derive(Debug)]
pub(crate) struct Report {
    /// Factor by which limits on speed and memory are relaxed.
    slack: f64,
    section: String,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    section: String,
    figure: String,
    measured: String,
    limit: String,
    passed: bool,
}

impl Report {
    /// Returns a report without figures.
    pub(crate) fn new(slack: f64) -> Self {
        Self {
            slack: slack.max(1.0),
            section: String::new(),
            rows: Vec::new(),
        }
    }

    /// Sets the scenario's name for the figures that are added from now on.
    pub(crate) fn section(&mut self, name: &str) {
        name.clone_into(&mut self.section);
    }

    /// Adds a figure without a limit.
    pub(crate) fn info(&mut self, figure: &str, measured: impl Into<String>) {
        self.row(figure, measured.into(), String::new(), true);
    }

    /// Adds a figure on speed or memory that must be at least `limit`, divided by the slack.
    pub(crate) fn at_least(&mut self, figure: &str, value: f64, limit: f64) {
        let limit = limit / self.slack;
        let text = format!(">= {}", number(limit));
        self.row(figure, number(value), text, value >= limit);
    }

    /// Adds a figure on speed or memory that must be below `limit`, multiplied by the slack.
    pub(crate) fn below(&mut self, figure: &str, value: f64, limit: f64) {
        let limit = limit * self.slack;
        let text = format!("< {}", number(limit));
        self.row(figure, number(value), text, value < limit);
    }

    /// Adds a count whose value must be `expected`, whatever the slack.
    pub(crate) fn exactly(&mut self, figure: &str, value: u64, expected: u64) {
        self.equal(figure, &value.to_string(), &expected.to_string());
    }

    /// Adds a figure that must be `expected`, whatever the slack.
    pub(crate) fn equal(&mut self, figure: &str, measured: &str, expected: &str) {
        let passed = measured == expected;
        self.row(figure, measured.to_owned(), expected.to_owned(), passed);
    }

    /// Adds the number of responses of each status. The row fails if a status is not in `allowed`,
    /// a request was lost, or a result was wrong.
    pub(crate) fn statuses(&mut self, figure: &str, tally: &Tally, allowed: &[u16]) {
        let known = tally.statuses.keys().all(|status| allowed.contains(status));
        let passed = known && tally.lost == 0 && tally.wrong == 0;
        let allowed: Vec<String> = allowed.iter().map(u16::to_string).collect();
        let limit = format!("only {}", allowed.join(", "));
        self.row(figure, tally.describe(), limit, passed);
    }

    /// Returns whether every limit holds.
    pub(crate) fn passed(&self) -> bool {
        self.rows.iter().all(|row| row.passed)
    }

    fn row(&mut self, figure: &str, measured: String, limit: String, passed: bool) {
        let section = self.section.clone();
        let mark = if passed { "" } else { "  LIMIT EXCEEDED" };
        eprintln!("  {figure}: {measured}  {limit}{mark}");
        self.rows.push(Row {
            section,
            figure: figure.to_owned(),
            measured,
            limit,
            passed,
        });
    }
}

/// Formats a number with three decimals below 10, one decimal below 100, and no decimals from 100
/// on.
fn number(value: f64) -> String {
    match value.abs() {
        small if small < 10.0 => format!("{value:.3}"),
        middle if middle < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| scenario | figure | measured | limit | |")?;
        writeln!(f, "|---|---|---|---|---|")?;
        for row in &self.rows {
            let mark = if row.passed { "ok" } else { "FAILED" };
            let Row {
                section,
                figure,
                measured,
                limit,
                ..
            } = row;
            writeln!(
                f,
                "| {section} | {figure} | {measured} | {limit} | {mark} |"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slack_relaxes_limits_on_speed_only() {
        let mut report = Report::new(2.0);
        report.at_least("goodput", 0.5, 0.95);
        report.below("p99", 19.0, 10.0);
        assert!(report.passed());
        let lost = Tally {
            lost: 1,
            ..Tally::default()
        };
        report.statuses("statuses", &lost, &[200]);
        assert!(!report.passed());
    }
}
