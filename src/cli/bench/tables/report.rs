//! The measured tables as Markdown and JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;
use sightline::manifest::Task;
use sightline::store::{FP32, INT8};

use super::super::generated::Weights;
use super::Certified;
use super::published::{Row, Table};
use super::setup::Setup;
use crate::cli::explain;

/// A table with what is published and what was measured.
#[derive(Debug, Serialize)]
pub(super) struct MeasuredTable {
    pub(super) task: Task,
    pub(super) title: String,
    #[serde(skip)]
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<MeasuredRow>,
}

/// A column of accuracy.
#[derive(Debug)]
pub(super) struct Column {
    /// Name in manifests.
    pub(super) name: String,
    pub(super) label: String,
    /// Name in certificates.
    pub(super) certificate: String,
}

/// A row of a table.
#[derive(Debug, Serialize)]
pub(super) struct MeasuredRow {
    pub(super) title: String,
    pub(super) model: String,
    pub(super) variant: String,
    pub(super) published: Published,
    #[serde(rename = "measured", serialize_with = "result")]
    pub(super) result: Result<Measured, String>,
}

/// What is published about a network.
#[derive(Debug, Serialize)]
pub(super) struct Published {
    /// Accuracy in percent, by the name of the metric.
    pub(super) metrics: BTreeMap<String, f64>,
    /// Seconds per image.
    pub(super) seconds: Option<f64>,
    /// Speed relative to that of the table's first row.
    pub(super) speed: Option<f64>,
    /// Millions of parameters.
    pub(super) parameters_millions: Option<f64>,
}

/// The measured times of a network.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    /// Time from the file of the image to the result, in seconds.
    pub(super) seconds: f64,
    /// Part of it that the network takes, in seconds of CPU time.
    pub(super) network_seconds: f64,
    /// Speed relative to that of the table's first row.
    pub(super) speed: f64,
    pub(super) weights: Weights,
    pub(super) parameters: Option<u64>,
    pub(super) certificate: Option<Certified>,
}

/// Writes the result, or an object with the error.
fn result<S: serde::Serializer>(
    result: &Result<Measured, String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match result {
        Ok(measured) => measured.serialize(serializer),
        Err(error) => BTreeMap::from([("error", error)]).serialize(serializer),
    }
}

impl MeasuredRow {
    pub(super) fn new(row: &Row, result: Result<Measured>) -> Self {
        Self {
            title: row.title.clone(),
            model: row.model.clone(),
            variant: row.variant.clone(),
            published: Published {
                metrics: row.metrics.clone(),
                seconds: row.seconds,
                speed: None,
                parameters_millions: row.parameters,
            },
            result: result.map_err(|error| explain(&error)),
        }
    }

    /// Returns the accuracy of `column` in percent: that of the certificate or, without one, the published one.
    pub(super) fn accuracy(&self, column: &Column) -> Option<f64> {
        self.certified(column)
            .or_else(|| self.published.metrics.get(&column.name).copied())
    }

    /// Returns the accuracy that the certificate states, in percent.
    pub(super) fn certified(&self, column: &Column) -> Option<f64> {
        let measured = self.result.as_ref().ok()?;
        let figures = &measured.certificate.as_ref()?.figures;
        figures.get(&column.certificate).copied()
    }

    /// Returns whether the variant differs from fp32 at the usual size.
    pub(super) fn kind(&self) -> Kind {
        match self.variant.as_str() {
            FP32 => Kind::Fp32,
            INT8 => Kind::Int8,
            _ => Kind::OtherSize,
        }
    }
}

/// The kinds of rows that charts tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Fp32,
    Int8,
    OtherSize,
}

impl MeasuredTable {
    pub(super) fn new(table: &Table, mut rows: Vec<MeasuredRow>) -> Self {
        let reference = rows.first().and_then(|row| row.published.seconds);
        for row in &mut rows {
            let published = &mut row.published;
            published.speed = reference.zip(published.seconds).map(|(one, own)| one / own);
        }
        let columns = table.metrics.iter().map(|metric| Column {
            name: metric.name.clone(),
            label: metric.label.clone(),
            certificate: metric.certificate.clone(),
        });
        Self {
            task: table.task,
            title: table.title.clone(),
            columns: columns.collect(),
            rows,
        }
    }

    fn markdown(&self) -> String {
        let mut head = vec!["network".to_owned()];
        head.extend(self.columns.iter().map(|column| column.label.clone()));
        let labels: Vec<&str> = self.columns.iter().map(|c| c.label.as_str()).collect();
        let fixed = [
            "M params",
            "published s",
            "published speed",
            "s/image",
            "network s",
            "speed",
            "weights",
        ];
        head.extend(fixed.map(str::to_owned));
        head.push(format!("{} here", labels.join(" / ")));
        let mut lines = vec![head];
        lines.extend(self.rows.iter().map(|row| self.line(row)));
        aligned(&lines)
    }

    fn line(&self, row: &MeasuredRow) -> Vec<String> {
        let mut cells = vec![row.title.clone()];
        let published = &row.published;
        let accuracy = self.columns.iter().map(|column| {
            let percent = published.metrics.get(&column.name);
            number(percent.copied(), 1)
        });
        cells.extend(accuracy);
        let counted = row.result.as_ref().ok().and_then(|row| row.parameters);
        let counted = counted.map(|count| count as f64 / 1e6);
        cells.push(number(counted.or(published.parameters_millions), 2));
        cells.push(number(published.seconds, 4));
        cells.push(number(published.speed, 2));
        match &row.result {
            Ok(measured) => {
                cells.push(number(Some(measured.seconds), 4));
                cells.push(number(Some(measured.network_seconds), 4));
                cells.push(number(Some(measured.speed), 2));
                cells.push(measured.weights.as_str().to_owned());
                cells.push(self.certificate(row, measured));
            }
            Err(error) => {
                let error = error.replace(['|', '\n'], " ");
                cells.extend(["-", "-", "-", "-"].map(str::to_owned));
                cells.push(error);
            }
        }
        cells
    }

    fn certificate(&self, row: &MeasuredRow, measured: &Measured) -> String {
        let Some(certificate) = &measured.certificate else {
            return "-".to_owned();
        };
        let figures = self
            .columns
            .iter()
            .map(|column| number(row.certified(column), 1));
        let figures: Vec<String> = figures.collect();
        format!("{} ({} images)", figures.join(" / "), certificate.images)
    }
}

/// Returns all tables, with an introduction that explains the columns.
pub(super) fn markdown(setup: &Setup, tables: &[MeasuredTable]) -> String {
    let mut text = format!(
        "Sightline {}, {}, {}, {} thread, {}. *s/image* is the elapsed time from the file of the image to the result, \
         *network s* the part of it that the network takes; *speed* is relative to the first row, which runs in turns \
         with each other row. *Published* are the times of torchvision 0.9 on another CPU. The last column has the \
         accuracy of the certificate of an installed model.\n",
        setup.sightline,
        setup.onnxruntime,
        setup.machine(),
        setup.threads,
        setup.date
    );
    for table in tables {
        let _ = write!(text, "\n### {}\n\n{}", table.title, table.markdown());
    }
    text
}

fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.decimals$}"))
}

/// Returns `lines`, of which the first is the head, as a table of Markdown with aligned columns.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, width))| {
            if column == 0 {
                format!("{cell:width$}")
            } else {
                format!("{cell:>width$}")
            }
        });
        let _ = writeln!(text, "| {} |", cells.collect::<Vec<_>>().join(" | "));
        if number == 0 {
            let rules = widths.iter().enumerate().map(|(column, width)| {
                let rule = "-".repeat(width.saturating_sub(1));
                if column == 0 {
                    format!("-{rule}")
                } else {
                    format!("{rule}:")
                }
            });
            let _ = writeln!(text, "| {} |", rules.collect::<Vec<_>>().join(" | "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::published::tables;
    use super::*;

    fn measured() -> Measured {
        Measured {
            seconds: 0.01,
            network_seconds: 0.008,
            speed: 1.0,
            weights: Weights::Installed,
            parameters: Some(5_483_032),
            certificate: Some(Certified {
                figures: BTreeMap::from([("acc1".to_owned(), 73.96)]),
                images: 500,
            }),
        }
    }

    #[test]
    fn a_table_has_published_and_measured_columns_and_errors() {
        let table = tables().unwrap().remove(0);
        let rows = table.rows.iter().enumerate().map(|(number, row)| {
            let result = match number {
                0 => Ok(measured()),
                _ => Err(anyhow::anyhow!("a | b\nc")),
            };
            MeasuredRow::new(row, result)
        });
        let rows = rows.collect();
        let table = MeasuredTable::new(&table, rows);
        let text = table.markdown();
        let lines: Vec<&str> = text.lines().collect();
        let cells = |line: &str| -> Vec<String> {
            let cells = line.split('|').map(|cell| cell.trim().to_owned());
            cells.filter(|cell| !cell.is_empty()).collect()
        };
        assert_eq!(
            cells(lines[2]),
            [
                "MobileNetV3-Large",
                "74.0",
                "91.3",
                "5.48",
                "0.0411",
                "1.00",
                "0.0100",
                "0.0080",
                "1.00",
                "installed",
                "74.0 / - (500 images)"
            ]
        );
        assert_eq!(cells(lines[3])[5], "2.49");
        assert_eq!(cells(lines[3]).last().unwrap(), "a   b c");
        assert!(
            lines.iter().all(|line| cells(line).len() == 11),
            "one width: {text}"
        );
        assert_eq!(table.rows[0].accuracy(&table.columns[0]), Some(73.96));
        assert_eq!(table.rows[0].accuracy(&table.columns[1]), Some(91.34));
        let json = serde_json::to_value(&table).unwrap();
        assert_eq!(json["rows"][1]["measured"]["error"], "a | b\nc");
        assert_eq!(json["rows"][0]["measured"]["weights"], "installed");
    }
}
