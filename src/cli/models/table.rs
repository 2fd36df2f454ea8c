//! The table of all models, one line per model, in at most 100 columns.

use anyhow::Result;
use onnx_export::text::shown;

use super::{BUILT_IN, Row};
use crate::cli::color;
use crate::cli::say::{print_marked, say};

/// Maximum width of the column of the models' names; a longer name moves the rest of its own line.
const NAME: usize = 38;
/// Maximum width of the column of the variants; further variants are shown as `...`.
const VARIANTS: usize = 18;

const HEAD: [&str; 6] = ["MODEL", "HERE", "VARIANTS", "TASK", "PARAMS", "PUBLISHED"];

/// Prints the models of `rows`, the built-in and installed ones first.
pub(super) fn print(rows: &[Row]) -> Result<()> {
    let lines = lines(rows);
    let (head, models) = lines
        .split_first()
        .map_or(("", &[][..]), |(head, models)| (head.as_str(), models));
    print_marked(color::HEAD, head, "")?;
    for line in models {
        say!("{line}")?;
    }
    say!("\n`sightline models NAME` shows one model in detail, with the URLs of its checkpoints")
}

fn lines(rows: &[Row]) -> Vec<String> {
    let mut models: Vec<&Row> = Vec::new();
    for row in rows {
        match models.iter_mut().find(|model| model.name == row.name) {
            // The installed weights stand for the model, else the newest ones.
            Some(model) if model.here.is_none() => *model = row,
            Some(_) => {}
            None => models.push(row),
        }
    }
    models.sort_by_key(|row| row.here.is_none());
    let mut cells = vec![HEAD.map(str::to_owned)];
    cells.extend(models.into_iter().map(line));
    let width = |column: usize| {
        let widths = cells.iter().map(|line| line[column].chars().count());
        let most = if column == 0 { NAME } else { usize::MAX };
        widths.max().unwrap_or(0).min(most)
    };
    let widths: [usize; HEAD.len()] = std::array::from_fn(width);
    let join = |line: &[String; HEAD.len()]| {
        let cells = line.iter().zip(widths);
        let cells = cells.map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    cells.iter().map(join).collect()
}

fn line(row: &Row) -> [String; HEAD.len()] {
    let here = match row.here.as_deref() {
        None => "-",
        Some(BUILT_IN) => BUILT_IN,
        Some(_) => "installed",
    };
    let task = match row.task {
        "classification" => "classify",
        "segmentation" => "segment",
        "detection" => "detect",
        other => other,
    };
    let millions = row.parameters.map(|n| format!("{:.2} M", n as f64 / 1e6));
    [
        row.name.clone(),
        here.to_owned(),
        variants(&row.marked_variants()),
        task.to_owned(),
        millions.unwrap_or_default(),
        published(row),
    ]
}

/// Returns the names of the variants, cut to [`VARIANTS`] characters between names.
fn variants(names: &[String]) -> String {
    let whole = names.join(", ");
    if whole.chars().count() <= VARIANTS {
        return whole;
    }
    let mut text = String::new();
    for name in names {
        if !text.is_empty() && text.len() + name.len() + ", , ...".len() > VARIANTS {
            break;
        }
        text.push_str(name);
        text.push_str(", ");
    }
    text + "..."
}

/// Returns the most important published accuracy of the row's weights.
fn published(row: &Row) -> String {
    let metrics = [("acc1", "top-1"), ("miou", "mIoU"), ("box_map", "AP")];
    let mut known = metrics.iter().filter_map(|(name, label)| {
        let percent = row.accuracy.get(*name)?;
        Some(format!("{percent:.1} {label}"))
    });
    let first = row.accuracy.iter().next();
    let other = first.map(|(name, percent)| format!("{percent:.1} {}", shown(name)));
    known.next().or(other).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::rows;
    use super::*;

    #[test]
    fn the_catalogue_fits_100_columns_with_the_built_in_model_first() {
        let lines = lines(&rows(&[]).unwrap());
        assert!(lines[1].starts_with("efficientnet_lite0 "), "{}", lines[1]);
        assert!(lines[1].contains("built in  fp32, int8"), "{}", lines[1]);
        let resnet = lines.iter().find(|line| line.starts_with("resnet50 "));
        assert!(resnet.unwrap().ends_with("80.9 top-1"), "{resnet:?}");
        for line in &lines {
            assert!(line.chars().count() <= 100, "{line}");
        }
        let names = lines[1..].iter().map(|line| line.split(' ').next());
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), lines.len() - 1, "one line per model");
    }

    #[test]
    fn many_variants_are_cut_between_names() {
        let cases = [
            (&["fp32"][..], "fp32"),
            (&["fp32", "320", "int8"], "fp32, 320, int8"),
            (&["fp32", "240", "240-int8", "int8"], "fp32, 240, ..."),
        ];
        for (names, expected) in cases {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(variants(&names), expected);
        }
    }
}
