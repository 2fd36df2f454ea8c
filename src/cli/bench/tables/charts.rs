//! Charts of accuracy against latency, one per task.

use super::super::plot::{Axis, Chart, Line, Mark, Point, Series};
use super::report::{Kind, MeasuredTable};
use super::setup::Setup;

/// The kinds of rows, with their names in the legend and their marks.
const KINDS: [(Kind, &str, Mark); 3] = [
    (Kind::Fp32, "fp32", Mark::Circle),
    (Kind::OtherSize, "fp32, low resolution", Mark::Triangle),
    (Kind::Int8, "int8", Mark::Square),
];

/// Returns the file name of the chart of `table`.
pub(super) fn file(table: &MeasuredTable) -> String {
    format!("accuracy-{}.svg", table.task.as_str())
}

/// Returns the chart of `table`. Rows without a known accuracy are not in it.
pub(super) fn accuracy(table: &MeasuredTable, setup: &Setup) -> Chart {
    let column = &table.columns[0];
    let mut series = Vec::new();
    for (number, (kind, name, mark)) in KINDS.into_iter().enumerate() {
        let rows = table.rows.iter().filter(|row| row.kind() == kind);
        let points = rows.filter_map(|row| {
            let measured = row.result.as_ref().ok()?;
            Some(Point {
                x: measured.seconds * 1e3,
                y: row.accuracy(column)?,
                label: Some(short(&row.title)),
            })
        });
        let points: Vec<Point> = points.collect();
        if !points.is_empty() {
            series.push(Series {
                name: name.to_owned(),
                color: number,
                mark: Some(mark),
                line: Line::None,
                points,
            });
        }
    }
    let certified = table.rows.iter().any(|row| row.certified(column).is_some());
    let source = if certified {
        "accuracy of certificates, else as published"
    } else {
        "accuracy as published"
    };
    Chart {
        title: format!("{}: accuracy and latency", table.title),
        subtitle: format!("{}, one thread; {source}", setup.machine()),
        x: Axis::log("milliseconds per image, from file to result"),
        y: Axis::linear(&format!("{} in %", column.label)),
        series,
    }
}

/// Returns the title of a row without what the legend or the chart's title says.
fn short(title: &str) -> String {
    let title = title.trim_start_matches("Quantized ");
    title.trim_end_matches(", 320").to_owned()
}
