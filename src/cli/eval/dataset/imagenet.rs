//! Data sets of classification: one folder per class, or a file `labels.csv`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use onnx_export::text::shown;
use sightline::store::read_regular_text;

use super::{MAX_IMAGES, Sample, Truth, files, inside, is_image, relative};

/// File with the class of each image.
const LABELS: &str = "labels.csv";
/// Maximum size of `labels.csv` in bytes.
const MAX_LABELS: u64 = 1 << 30;

/// Reads the images of `folder` for a model with the class names `labels`: those that `labels.csv` lists,
/// or those in subfolders.
///
/// # Errors
/// If a class is unknown, or if a folder or `labels.csv` cannot be read.
pub(super) fn read(folder: &Path, labels: &[String]) -> Result<Vec<Sample>> {
    let csv = folder.join(LABELS);
    if csv.is_file() {
        let text = read_regular_text(&csv, MAX_LABELS)?;
        let samples = listed(folder, &text, labels.len());
        return samples.with_context(|| format!("cannot use {}", csv.display()));
    }
    let folders = class_folders(folder)?;
    let classes = classes(&folders, labels)?;
    let mut samples = Vec::new();
    for (path, class) in folders.iter().zip(classes) {
        for path in files(path, is_image)? {
            samples.push(Sample {
                name: relative(&path, folder),
                path,
                truth: Truth::Class(class),
            });
        }
        if samples.len() > MAX_IMAGES {
            bail!("{} has more than {MAX_IMAGES} images", folder.display());
        }
    }
    Ok(samples)
}

/// Returns the images that the file `text` lists, in its order. The columns `file` and `class_index` are
/// required.
fn listed(folder: &Path, text: &str, class_count: usize) -> Result<Vec<Sample>> {
    let mut lines = text.lines().zip(1..);
    let header = fields(
        lines
            .next()
            .map_or("", |(line, _)| line)
            .trim_start_matches('\u{feff}'),
    );
    let column = |name: &str| {
        let found = header.iter().position(|column| column == name);
        found.with_context(|| {
            format!(
                "line 1: expected a column `{name}`, got {}",
                header.join(",")
            )
        })
    };
    let (file, class) = (column("file")?, column("class_index")?);
    let mut seen = HashMap::new();
    let mut samples = Vec::new();
    for (line, number) in lines.filter(|(line, _)| !line.trim().is_empty()) {
        let row = fields(line);
        let (Some(name), Some(class)) = (row.get(file), row.get(class)) else {
            bail!(
                "line {number}: expected {} columns, got {}",
                header.len(),
                row.len()
            );
        };
        let class = class
            .trim()
            .parse()
            .ok()
            .filter(|class| *class < class_count);
        let class = class.with_context(|| {
            let got = row.get(column("class_index").unwrap_or_default());
            let got = shown(got.map_or("", String::as_str));
            format!("line {number}: expected a class index below {class_count}, the number of the model's classes, got {got}")
        })?;
        if let Some(first) = seen.insert(name.clone(), number) {
            bail!(
                "line {number}: the file `{}` is also in line {first}",
                shown(name)
            );
        }
        samples.push(Sample {
            name: name.clone(),
            path: inside(folder, name).with_context(|| format!("line {number}"))?,
            truth: Truth::Class(class),
        });
    }
    Ok(samples)
}

/// Returns the fields of a line of CSV. Fields may be in double quotes; line breaks in fields are not
/// supported.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                push(&mut fields, '"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            letter => push(&mut fields, letter),
        }
    }
    fields
}

fn push(fields: &mut [String], letter: char) {
    if let Some(last) = fields.last_mut() {
        last.push(letter);
    }
}

/// Returns the subfolders of `folder`, sorted by name.
fn class_folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || format!("cannot read the folder {}", folder.display());
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(read)? {
        let path = entry.with_context(read)?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    if folders.is_empty() {
        bail!(
            "{}: expected one folder per class or a file {LABELS}, got neither",
            folder.display()
        );
    }
    folders.sort();
    Ok(folders)
}

/// Returns the class of each folder: by the class index in its name, by the model's label, or, for
/// WordNet ids of all classes, by the order of the names.
fn classes(folders: &[PathBuf], labels: &[String]) -> Result<Vec<usize>> {
    let names = folders.iter().map(|folder| {
        let name = folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    });
    let names: Vec<String> = names.collect();
    if names.iter().all(|name| name.parse::<usize>().is_ok()) {
        let indices = names.iter().filter_map(|name| name.parse().ok());
        let indices: Vec<usize> = indices.collect();
        if let Some(wrong) = indices.iter().find(|index| **index >= labels.len()) {
            bail!(
                "folder `{wrong}`: expected a class index below {}, the number of the model's classes",
                labels.len()
            );
        }
        return Ok(indices);
    }
    if names.iter().all(|name| is_wnid(name)) {
        if names.len() == labels.len() {
            return Ok((0..names.len()).collect());
        }
        bail!(
            "the data set has {} folders named by WordNet ids, but the model has {} classes: only if all classes have \
             a folder is their order known; add a file {LABELS} with the columns file and class_index",
            names.len(),
            labels.len()
        );
    }
    let class = |name: &String| {
        let mut indices = (0..labels.len()).filter(|index| labels[*index] == *name);
        let index = indices.next().with_context(|| {
            format!(
                "folder `{}`: expected a class index, a WordNet id or one of the model's labels",
                shown(name)
            )
        })?;
        if let Some(other) = indices.next() {
            bail!(
                "folder `{}`: the classes {index} and {other} have this label; name all folders by class indices",
                shown(name)
            );
        }
        Ok(index)
    };
    names.iter().map(class).collect()
}

/// Returns whether `name` is a WordNet id, such as `n01440764`.
fn is_wnid(name: &str) -> bool {
    let digits = name.strip_prefix('n').unwrap_or_default();
    digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_csv_are_split_at_commas_outside_of_quotes() {
        let cases: [(&str, &[&str]); 4] = [
            ("", &[""]),
            ("a,b", &["a", "b"]),
            ("\"a,\"\"b\"\"\",c,", &["a,\"b\"", "c", ""]),
            ("\"open,a", &["open,a"]),
        ];
        for (line, expected) in cases {
            assert_eq!(fields(line), expected, "{line}");
        }
    }

    #[test]
    fn listed_images_need_known_classes_and_files_inside() {
        let error = |text: &str| {
            let listed = listed(Path::new("x"), text, 10);
            format!("{:#}", listed.map(|_| ()).unwrap_err())
        };
        let header = "file,class_index\n";
        let cases = [
            ("a,b\n", "line 1: expected a column `file`, got a,b"),
            (
                "file,class_index\na.png\n",
                "line 2: expected 2 columns, got 1",
            ),
            (
                "file,class_index\na.png,10\n",
                "expected a class index below 10",
            ),
            ("file,class_index\na.png,-1\n", "got -1"),
            ("file,class_index\n../a.png,1\n", "got `../a.png`"),
            (
                "file,class_index\na,1\na,2\n",
                "line 3: the file `a` is also in line 2",
            ),
        ];
        for (text, expected) in cases {
            assert!(error(text).contains(expected), "{text}: {}", error(text));
        }
        let samples = listed(Path::new("x"), &format!("{header}\na.png,3\n"), 10).unwrap();
        assert_eq!(samples[0].path, Path::new("x/a.png"));
        assert!(matches!(samples[0].truth, Truth::Class(3)));
    }

    #[test]
    fn folders_name_classes_in_three_ways() {
        let labels = ["tench", "shark"].map(str::to_owned);
        let of = |names: &[&str]| {
            let folders: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
            classes(&folders, &labels).map_err(|error| error.to_string())
        };
        assert_eq!(of(&["1"]), Ok(vec![1]));
        assert_eq!(of(&["shark", "tench"]), Ok(vec![1, 0]));
        assert_eq!(of(&["n01440764", "n01491361"]), Ok(vec![0, 1]));
        let cases = [
            (&["n01440764"][..], "1 folders named by WordNet ids"),
            (&["2"], "expected a class index below 2"),
            (&["1", "whale"], "folder `1`"),
        ];
        for (names, expected) in cases {
            let error = of(names).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let twice = ["crane", "shark", "crane"].map(str::to_owned);
        assert_eq!(classes(&["shark".into()], &twice).unwrap(), [1]);
        let error = classes(&["crane".into(), "shark".into()], &twice).unwrap_err();
        assert!(error.to_string().contains("classes 0 and 2"), "{error}");
    }
}
