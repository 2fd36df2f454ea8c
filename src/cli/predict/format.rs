//! The formats of `predict --output`: JSON Lines, CSV and COCO's results.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use serde_json::{Value, json};

/// A format of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// One JSON object per image, as `--json` prints it, or with the field `error`.
    Jsonl,
    /// One line per class or box.
    Csv,
    /// A JSON array with one object per box, as pycocotools reads it.
    Coco,
}

impl Format {
    /// Returns the format of files with the extension of `path`. `None` if the extension is unknown.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Some(match extension.as_str() {
            "jsonl" | "ndjson" => Self::Jsonl,
            "csv" => Self::Csv,
            "json" => Self::Coco,
            _ => return None,
        })
    }
}

/// Columns of CSV files. Those that do not apply to a task are empty.
const COLUMNS: [&str; 11] = [
    "image", "class_id", "label", "score", "x1", "y1", "x2", "y2", "pixels", "fraction", "error",
];
/// Names of the lists in results, one per task.
const LISTS: [&str; 3] = ["predictions", "detections", "classes"];

/// Writes results one after the other.
pub(super) struct Writer<W> {
    to: W,
    format: Format,
    /// Whether nothing has been written into the array of COCO's results.
    is_empty: bool,
}

impl<W: Write> Writer<W> {
    /// Begins the file.
    pub(super) fn new(mut to: W, format: Format) -> Result<Self> {
        match format {
            Format::Jsonl => {}
            Format::Csv => writeln!(to, "{}", COLUMNS.join(","))?,
            Format::Coco => write!(to, "[")?,
        }
        Ok(Self {
            to,
            format,
            is_empty: true,
        })
    }

    /// Writes the result of one image.
    pub(super) fn add(&mut self, result: &Value) -> Result<()> {
        match self.format {
            Format::Jsonl => writeln!(self.to, "{result}")?,
            Format::Csv => self.add_csv(result)?,
            Format::Coco => self.add_coco(result)?,
        }
        Ok(())
    }

    /// Ends the file.
    pub(super) fn finish(mut self) -> Result<W> {
        if self.format == Format::Coco {
            writeln!(self.to, "\n]")?;
        }
        Ok(self.to)
    }

    /// Writes one line per class or box. An image without any, or with an error, has one line.
    fn add_csv(&mut self, result: &Value) -> Result<()> {
        let items = items(result);
        if items.is_empty() {
            return self.line(result, &Value::Null);
        }
        items.iter().try_for_each(|item| self.line(result, item))
    }

    fn line(&mut self, result: &Value, item: &Value) -> Result<()> {
        let cells = COLUMNS.map(|column| match column {
            "image" | "error" => cell(&result[column]),
            "x1" | "y1" | "x2" | "y2" => cell(&item["box"][column]),
            _ => cell(&item[column]),
        });
        Ok(writeln!(self.to, "{}", cells.join(","))?)
    }

    fn add_coco(&mut self, result: &Value) -> Result<()> {
        for item in items(result) {
            let corner = |name: &str| item["box"][name].as_f64().unwrap_or_default();
            let (x, y) = (corner("x1"), corner("y1"));
            let bounds = [x, y, corner("x2") - x, corner("y2") - y];
            let object = json!({
                "image_id": image_id(&result["image"]),
                "category_id": item["class_id"],
                // In thousandths of a pixel.
                "bbox": bounds.map(|value| (value * 1e3).round() / 1e3),
                "score": item["score"],
            });
            let separator = if self.is_empty { "\n" } else { ",\n" };
            self.is_empty = false;
            write!(self.to, "{separator}{object}")?;
        }
        Ok(())
    }
}

/// Returns the classes or boxes of a result. Empty if there are none, or for an error.
fn items(result: &Value) -> &[Value] {
    let lists = LISTS.iter().filter_map(|name| result[*name].as_array());
    lists.map(Vec::as_slice).next().unwrap_or_default()
}

/// Returns COCO's id of the image at the path `image`: the number that is its name, as in `000000000139.jpg`, or else the
/// name of the file.
fn image_id(image: &Value) -> Value {
    let path = Path::new(image.as_str().unwrap_or_default());
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    match stem.parse::<u64>() {
        Ok(number) => number.into(),
        Err(_) => path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into(),
    }
}

/// Returns `value` as a cell of CSV (RFC 4180).
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if text.contains([',', '"', '\n', '\r']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format, results: &[Value]) -> String {
        let mut writer = Writer::new(Vec::new(), format).unwrap();
        for result in results {
            writer.add(result).unwrap();
        }
        String::from_utf8(writer.finish().unwrap()).unwrap()
    }

    fn results() -> [Value; 3] {
        [
            json!({"image": "a/000139.jpg", "detections": [
                {"class_id": 3, "label": "a, \"b\"", "score": 0.5,
                 "box": {"x1": 1.0, "y1": 2.0, "x2": 4.5, "y2": 6.0}},
                {"class_id": 1, "label": "person", "score": 0.25,
                 "box": {"x1": 0.0, "y1": 0.0, "x2": 1.0, "y2": 1.0}},
            ]}),
            json!({"image": "b.jpg", "detections": []}),
            json!({"image": "c.jpg", "error": "damaged"}),
        ]
    }

    #[test]
    fn csv_has_a_line_per_box_and_per_image_without_one() {
        let text = written(Format::Csv, &results());
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "a/000139.jpg,3,\"a, \"\"b\"\"\",0.5,1.0,2.0,4.5,6.0,,,",
                "a/000139.jpg,1,person,0.25,0.0,0.0,1.0,1.0,,,",
                "b.jpg,,,,,,,,,,",
                "c.jpg,,,,,,,,,,damaged",
            ]
        );
    }

    #[test]
    fn coco_results_have_numbers_of_images_and_widths() {
        let text = written(Format::Coco, &results());
        let boxes: Value = serde_json::from_str(&text).unwrap();
        let expected =
            json!({"image_id": 139, "category_id": 3, "bbox": [1.0, 2.0, 3.5, 4.0], "score": 0.5});
        assert_eq!(boxes[0], expected);
        assert_eq!(boxes.as_array().unwrap().len(), 2);
        assert_eq!(image_id(&json!("x/cat.png")), "cat.png");
        let empty: Value = serde_json::from_str(&written(Format::Coco, &[])).unwrap();
        assert_eq!(empty, json!([]));
    }

    #[test]
    fn the_extension_decides_about_the_format() {
        let format = |path: &str| Format::of(Path::new(path));
        assert_eq!(format("a.JSONL"), Some(Format::Jsonl));
        assert_eq!(format("a.b.csv"), Some(Format::Csv));
        assert_eq!(format("a.json"), Some(Format::Coco));
        assert_eq!(format("a"), None);
    }
}
