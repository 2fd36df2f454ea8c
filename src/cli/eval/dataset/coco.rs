//! Data sets of detection: COCO's JSON of instances. Only boxes are evaluated, so that segmentations,
//! whether polygons or run lengths, are not read.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use onnx_export::text::shown;
use serde::Deserialize;
use sightline::evaluate::detection::{Annotation, BoxXywh};
use sightline::store::read_regular_text;

use super::{Sample, Truth, inside};

/// Maximum size of the JSON file in bytes.
const MAX_JSON: u64 = 2 << 30;

#[derive(Deserialize)]
struct Instances {
    images: Vec<Image>,
    annotations: Vec<Object>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Image {
    id: i64,
    file_name: String,
}

#[derive(Deserialize)]
struct Object {
    id: i64,
    image_id: i64,
    category_id: i64,
    bbox: [f64; 4],
    area: f64,
    #[serde(default)]
    iscrowd: u8,
}

#[derive(Deserialize)]
struct Category {
    id: i64,
    name: String,
}

/// Reads the images and annotations of the file `json` for a model with the class names `labels`. The
/// images are in `folder` and returned in the order of their ids. Also returns the classes of the
/// categories.
///
/// # Errors
/// If the file cannot be read, if ids occur twice or are unknown, if a box is not a box, or if the model
/// does not have a category.
pub(super) fn read(
    folder: &Path,
    json: &Path,
    labels: &[String],
) -> Result<(Vec<Sample>, BTreeSet<usize>)> {
    let text = read_regular_text(json, MAX_JSON)?;
    let parsed = serde_json::from_str(&text).map_err(anyhow::Error::from);
    let read = parsed.and_then(|instances| convert(folder, instances, labels));
    read.with_context(|| format!("cannot use {}", json.display()))
}

fn convert(
    folder: &Path,
    instances: Instances,
    labels: &[String],
) -> Result<(Vec<Sample>, BTreeSet<usize>)> {
    let classes = classes(&instances.categories, labels)?;
    let mut images = instances.images;
    images.sort_by_key(|image| image.id);
    let mut positions = HashMap::new();
    let mut samples = Vec::new();
    for image in images {
        if positions.insert(image.id, samples.len()).is_some() {
            bail!("image {}: the id occurs twice", image.id);
        }
        let path = inside(folder, &image.file_name);
        samples.push((
            image.file_name,
            path.with_context(|| format!("image {}", image.id))?,
            Vec::new(),
        ));
    }
    let mut seen = HashSet::new();
    for object in &instances.annotations {
        let in_object = || format!("annotation {}", object.id);
        if !seen.insert(object.id) {
            bail!("{}: the id occurs twice", in_object());
        }
        let annotation = annotation(object, &classes).with_context(in_object)?;
        let position = positions
            .get(&object.image_id)
            .with_context(|| format!("{}: unknown image {}", in_object(), object.image_id))?;
        samples[*position].2.push(annotation);
    }
    let samples = samples.into_iter().map(|(name, path, boxes)| Sample {
        name,
        path,
        truth: Truth::Boxes(boxes),
    });
    Ok((samples.collect(), classes.into_values().collect()))
}

/// Returns the model's class of each category, which has the same name.
fn classes(categories: &[Category], labels: &[String]) -> Result<HashMap<i64, usize>> {
    let mut classes = HashMap::new();
    let mut unknown = Vec::new();
    for category in categories {
        match labels.iter().position(|label| *label == category.name) {
            Some(class) if classes.values().any(|known| *known == class) => {
                bail!(
                    "category {}: the name `{}` occurs twice",
                    category.id,
                    shown(&category.name)
                );
            }
            Some(class) => {
                if classes.insert(category.id, class).is_some() {
                    bail!("category {}: the id occurs twice", category.id);
                }
            }
            None => unknown.push(&category.name),
        }
    }
    if let Some(first) = unknown.first() {
        bail!(
            "{} of {} categories are not classes of the model, the first is `{}`; the model's labels are {}, ...",
            unknown.len(),
            categories.len(),
            shown(first),
            shown(
                &labels
                    .iter()
                    .take(5)
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        );
    }
    Ok(classes)
}

fn annotation(object: &Object, classes: &HashMap<i64, usize>) -> Result<Annotation> {
    let class_id = classes.get(&object.category_id);
    let class_id = class_id.with_context(|| format!("unknown category {}", object.category_id))?;
    let [x, y, width, height] = object.bbox;
    let sides = width >= 0.0 && height >= 0.0 && object.area >= 0.0;
    if !sides
        || [x, y, width, height, object.area]
            .iter()
            .any(|value| !value.is_finite())
    {
        bail!(
            "expected finite values and no negative width, height or area, got the box {:?} and the area {}",
            object.bbox,
            object.area
        );
    }
    Ok(Annotation {
        class_id: *class_id,
        bounding_box: BoxXywh {
            x,
            y,
            width,
            height,
        },
        area: object.area,
        is_crowd: object.iscrowd != 0,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn instances() -> Value {
        json!({
            "images": [{ "id": 9, "file_name": "b.jpg" }, { "id": 3, "file_name": "a.jpg" }],
            "annotations": [
                { "id": 1, "image_id": 9, "category_id": 64, "bbox": [1, 2, 3, 4], "area": 5, "iscrowd": 1,
                  "segmentation": { "size": [9, 9], "counts": [1, 2] } },
                { "id": 2, "image_id": 9, "category_id": 64, "bbox": [1, 2, 3, 4], "area": 5,
                  "segmentation": [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]] },
            ],
            "categories": [{ "id": 64, "name": "cat" }],
        })
    }

    fn read(value: Value) -> Result<(Vec<Sample>, BTreeSet<usize>), String> {
        let labels = ["N/A", "dog", "cat"].map(str::to_owned);
        let parsed = serde_json::from_value(value).map_err(anyhow::Error::from);
        let read = parsed.and_then(|instances| convert(Path::new("x"), instances, &labels));
        read.map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn polygons_and_run_lengths_are_accepted_and_images_sorted() {
        let (samples, classes) = read(instances()).unwrap();
        assert_eq!(classes, BTreeSet::from([2]));
        let names: Vec<&str> = samples.iter().map(|sample| sample.name.as_str()).collect();
        assert_eq!(names, ["a.jpg", "b.jpg"]);
        let count = |sample: &Sample| match &sample.truth {
            Truth::Boxes(boxes) => boxes.iter().map(|b| b.is_crowd).collect(),
            _ => Vec::new(),
        };
        assert_eq!(
            samples.iter().map(count).collect::<Vec<_>>(),
            [vec![], vec![true, false]]
        );
    }

    #[test]
    fn contradictions_are_errors_that_name_the_entry() {
        let cases: [(&str, Value, &str); 9] = [
            ("/images/1/id", json!(9), "image 9: the id occurs twice"),
            (
                "/images/1/file_name",
                json!("../a"),
                "image 3: expected the name of a file",
            ),
            (
                "/annotations/1/id",
                json!(1),
                "annotation 1: the id occurs twice",
            ),
            (
                "/annotations/1/image_id",
                json!(4),
                "annotation 2: unknown image 4",
            ),
            (
                "/annotations/1/category_id",
                json!(4),
                "annotation 2: unknown category 4",
            ),
            (
                "/annotations/1/bbox",
                json!([0, 0, -1, 1]),
                "annotation 2: expected finite",
            ),
            ("/annotations/1/bbox", json!([0, 0, 1]), "invalid length 3"),
            ("/annotations/1/area", json!(null), "invalid type: null"),
            (
                "/categories/0/name",
                json!("fox"),
                "1 of 1 categories are not classes of the model",
            ),
        ];
        for (pointer, value, expected) in cases {
            let mut changed = instances();
            *changed.pointer_mut(pointer).unwrap() = value;
            let error = read(changed).map(|_| ()).unwrap_err();
            assert!(error.contains(expected), "{pointer}: {error}");
        }
    }
}
