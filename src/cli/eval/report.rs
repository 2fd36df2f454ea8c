//! Reports: JSON, Markdown and CSV, and the text on the terminal.

use std::fmt::Write as _;

use anyhow::Result;
use onnx_export::text::shown;
use serde_json::{Value, json};

use super::certify::published;
use super::compare::Compared;
use super::dataset::{Dataset, Truth};
use super::figures::{Figure, Summary};
use super::record::Outcome;
use super::run::{Evaluated, decode_name};
use super::worst::Ranked;

/// Number of classes and of confused pairs in the Markdown report.
const LISTED: usize = 20;

/// A finished evaluation.
pub(super) struct Report<'a> {
    pub(super) evaluated: &'a Evaluated,
    pub(super) dataset: &'a Dataset,
    pub(super) summary: &'a Summary,
    /// The images with errors, the worst first.
    pub(super) worst: &'a [Ranked],
}

impl Report<'_> {
    /// Returns the report as JSON.
    pub(super) fn json(&self) -> Value {
        let Self {
            evaluated, dataset, ..
        } = self;
        let worst = self.worst.iter().take(LISTED).map(|ranked| {
            let name = dataset.samples.get(ranked.image).map(|sample| &sample.name);
            json!({ "image": name, "error": ranked.caption })
        });
        json!({
            "model": evaluated.source.manifest.name,
            "variant": evaluated.source.variant,
            "decode": decode_name(evaluated.decode),
            "weights_sha256": evaluated.weights_sha256,
            "dataset": dataset.kind,
            "dataset_sha256": evaluated.dataset_sha256(),
            "images": dataset.samples.len(),
            "figures": by_name(&self.summary.figures),
            "classes": self.classes(),
            "confusions": self.summary.confusions,
            "worst": worst.collect::<Vec<_>>(),
            "version": env!("CARGO_PKG_VERSION"),
        })
    }

    fn classes(&self) -> Vec<Value> {
        let classes = self.summary.classes.iter().map(|class| {
            json!({
                "class_id": class.class_id,
                "label": class.label,
                "count": class.count,
                "figures": by_name(&class.figures),
            })
        });
        classes.collect()
    }

    /// Returns the report as text for a terminal.
    pub(super) fn text(&self) -> String {
        let (name, count) = (self.evaluated.name(), self.dataset.samples.len());
        let mut text = format!("{name} on {count} images ({})\n", self.dataset.kind);
        for figure in &self.summary.figures {
            let _ = write!(text, "  {:10} {}", figure.name, percent(figure.percent));
            if let Some(published) = published(&self.evaluated.source, figure) {
                let _ = write!(text, "  published {published:.2} %");
            }
            text.push('\n');
        }
        text
    }

    /// Returns the report as Markdown.
    pub(super) fn markdown(&self) -> String {
        let (name, count) = (self.evaluated.name(), self.dataset.samples.len());
        let mut text = format!("# {name}\n\n{count} images ({})\n\n", self.dataset.kind);
        text += "| figure | percent |\n|---|---:|\n";
        for figure in &self.summary.figures {
            let _ = writeln!(
                text,
                "| {} | {} |",
                figure.name,
                percent(figure.percent).trim()
            );
        }
        let main = |figures: &[Figure]| figures.first().and_then(|f| f.percent).unwrap_or(0.0);
        let wrong = self.summary.classes.iter();
        let mut classes: Vec<_> = wrong.filter(|class| main(&class.figures) < 100.0).collect();
        classes.sort_by(|one, other| main(&one.figures).total_cmp(&main(&other.figures)));
        if let Some(first) = classes.first() {
            let names: Vec<&str> = first.figures.iter().map(|figure| figure.name).collect();
            let _ = write!(
                text,
                "\n## Weakest classes\n\n| class | count | {} |\n",
                names.join(" | ")
            );
            let _ = writeln!(text, "|---|---:|{}", "---:|".repeat(names.len()));
        }
        for class in classes.iter().take(LISTED) {
            let figures = class.figures.iter().map(|figure| percent(figure.percent));
            let figures: Vec<String> = figures.map(|text| text.trim().to_owned()).collect();
            let label = cell(&class.label);
            let _ = writeln!(
                text,
                "| {label} | {} | {} |",
                class.count,
                figures.join(" | ")
            );
        }
        if !self.summary.confusions.is_empty() {
            text += "\n## Confused classes\n\n| annotated | returned | count |\n|---|---|---:|\n";
        }
        for pair in self.summary.confusions.iter().take(LISTED) {
            let (truth, predicted) = (cell(&pair.truth), cell(&pair.predicted));
            let _ = writeln!(text, "| {truth} | {predicted} | {} |", pair.count);
        }
        if !self.worst.is_empty() {
            text += "\n## Worst images\n\n![Worst images](worst.png)\n";
        }
        text
    }

    /// Returns the figures of each class as CSV.
    pub(super) fn classes_csv(&self) -> String {
        let mut text = String::from("class_id,label,count");
        for figure in self
            .summary
            .classes
            .iter()
            .take(1)
            .flat_map(|class| &class.figures)
        {
            let _ = write!(text, ",{}", figure.name);
        }
        text.push('\n');
        for class in &self.summary.classes {
            let _ = write!(
                text,
                "{},{},{}",
                class.class_id,
                quoted(&class.label),
                class.count
            );
            for figure in &class.figures {
                let _ = write!(text, ",{}", figure.percent.unwrap_or(f64::NAN));
            }
            text.push('\n');
        }
        text
    }

    /// Returns the result of each image as CSV.
    pub(super) fn images_csv(&self) -> String {
        let header = match self.dataset.kind {
            "imagenet" => "image,class_id,predicted,score,top1,top5",
            "coco" => "image,objects,detections",
            _ => "image,miou,pixel_acc",
        };
        let mut text = format!("{header}\n");
        for record in &self.evaluated.records {
            let Some(sample) = self.dataset.samples.get(record.image) else {
                continue;
            };
            let _ = write!(text, "{}", quoted(&sample.name));
            let _ = match (&record.result, &sample.truth) {
                (Outcome::Class(class), _) => {
                    let predicted = class.ranked.first().map(ToString::to_string);
                    let predicted = predicted.unwrap_or_default();
                    let (top1, top5) = (u8::from(class.is_top1()), u8::from(class.is_top5()));
                    let (truth, score) = (class.truth, class.confidence);
                    writeln!(text, ",{truth},{predicted},{score},{top1},{top5}")
                }
                (Outcome::Boxes(found), Truth::Boxes(truth)) => {
                    writeln!(text, ",{},{}", truth.len(), found.len())
                }
                (Outcome::Boxes(found), _) => writeln!(text, ",,{}", found.len()),
                (Outcome::Mask(matrix), _) => {
                    let accuracy = matrix.accuracy();
                    let of = accuracy
                        .as_ref()
                        .map(|a| (a.mean_iou * 100.0, a.pixel_accuracy * 100.0));
                    let (iou, pixels) = of.unwrap_or((f64::NAN, f64::NAN));
                    writeln!(text, ",{iou},{pixels}")
                }
            };
        }
        text
    }
}

/// A finished comparison of two evaluations.
pub(super) struct Comparison<'a> {
    pub(super) reports: [Report<'a>; 2],
    pub(super) differences: &'a [Compared],
}

impl Comparison<'_> {
    /// Returns the comparison as JSON.
    pub(super) fn json(&self) -> Value {
        let [one, other] = &self.reports;
        json!({ "a": one.json(), "b": other.json(), "differences": self.differences })
    }

    /// Returns the comparison as text for a terminal.
    pub(super) fn text(&self) -> String {
        let [one, other] = &self.reports;
        let mut text = format!(
            "{}{}B - A, in percentage points:\n",
            one.text(),
            other.text()
        );
        for compared in self.differences {
            let points = compared.points;
            let _ = writeln!(
                text,
                "  {:10} {:+7.3}  95 % interval [{:+.3}, {:+.3}]  p = {:.4} ({})",
                compared.name,
                points.difference,
                points.low,
                points.high,
                points.p_value,
                compared.test
            );
        }
        text
    }

    /// Returns the comparison as Markdown.
    pub(super) fn markdown(&self) -> String {
        let [one, other] = &self.reports;
        let (a, b) = (one.evaluated.name(), other.evaluated.name());
        let count = one.dataset.samples.len();
        let kind = one.dataset.kind;
        let mut text = format!(
            "# {a} and {b}\n\n{count} images ({kind})\n\n| figure | {a} | {b} |\n|---|---:|---:|\n"
        );
        for (first, second) in one.summary.figures.iter().zip(&other.summary.figures) {
            let (first_text, second) = (percent(first.percent), percent(second.percent));
            let _ = writeln!(
                text,
                "| {} | {} | {} |",
                first.name,
                first_text.trim(),
                second.trim()
            );
        }
        text += "\n## Differences in percentage points\n\n";
        text += "| figure | difference | 95 % interval | p | test |\n|---|---:|---:|---:|---|\n";
        for compared in self.differences {
            let points = compared.points;
            let _ = writeln!(
                text,
                "| {} | {:+.3} | {:+.3} to {:+.3} | {:.4} | {} |",
                compared.name,
                points.difference,
                points.low,
                points.high,
                points.p_value,
                compared.test
            );
        }
        text
    }
}

/// Returns figures as a JSON object.
fn by_name(figures: &[Figure]) -> Value {
    let entries = figures
        .iter()
        .map(|figure| (figure.name.to_owned(), json!(figure.percent)));
    Value::Object(entries.collect())
}

fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "      none".to_owned(), |value| format!("{value:8.3} %"))
}

/// Returns a text from a file as a cell of a Markdown table.
fn cell(text: &str) -> String {
    shown(text).replace('|', "\\|")
}

/// Returns a field of CSV, in quotes if it needs them. A text that a spreadsheet would run as a formula
/// starts with an apostrophe.
fn quoted(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if text.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text
}

/// Returns JSON as the content of a file.
pub(super) fn file(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_and_formulas_disarmed() {
        let cases = [
            ("cat", "cat"),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("=1+1", "'=1+1"),
        ];
        for (text, expected) in cases {
            assert_eq!(quoted(text), expected);
        }
        assert_eq!(cell("a|b"), "a\\|b");
    }
}
