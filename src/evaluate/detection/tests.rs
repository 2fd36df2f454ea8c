//! Compares the figures with pycocotools on synthetic data sets, and checks single rules.

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::testing::python;
use crate::testing::random::Random;

const CLASSES: usize = 7;

/// Returns a box with sides from 4 to 300 pixels.
fn random_box(random: &mut Random) -> BoxXywh {
    let mut side = || 4.0 + f64::from(random.unit()).powi(2) * 296.0;
    let (width, height) = (side(), side());
    BoxXywh {
        x: (f64::from(random.unit()) * 300.0).round(),
        y: (f64::from(random.unit()) * 300.0).round(),
        width,
        height,
    }
}

fn moved(around: BoxXywh, random: &mut Random) -> BoxXywh {
    let mut by = |side: f64| (f64::from(random.unit()) - 0.5) * 0.5 * side;
    BoxXywh {
        x: around.x + by(around.width),
        y: around.y + by(around.height),
        width: around.width + by(around.width),
        height: around.height + by(around.height),
    }
}

/// Returns images with up to `most` annotations each, a tenth of them crowds, and with detections near
/// them and elsewhere. Scores have few values, so that many are equal. Areas differ from the boxes'.
fn synthetic(images: usize, most: usize, seed: u64) -> Vec<ImageBoxes> {
    let mut random = Random::new(seed);
    let mut image = || {
        let mut boxes = ImageBoxes::default();
        for _ in 0..random.below(most + 1) {
            let bounding_box = random_box(&mut random);
            let annotation = Annotation {
                // The last class has detections only.
                class_id: random.below(CLASSES - 1),
                bounding_box,
                area: bounding_box.area() * (0.3 + 0.7 * f64::from(random.unit())),
                is_crowd: random.below(10) == 0,
            };
            boxes.annotations.push(annotation);
            for _ in 0..random.below(4) {
                boxes.found.push(Found {
                    class_id: annotation.class_id,
                    score: (f64::from(random.unit()) * 40.0).round() / 40.0,
                    bounding_box: moved(bounding_box, &mut random),
                });
            }
        }
        for _ in 0..random.below(2 * most + 1) {
            boxes.found.push(Found {
                class_id: random.below(CLASSES),
                score: f64::from(random.unit()),
                bounding_box: random_box(&mut random),
            });
        }
        boxes
    };
    (0..images).map(|_| image()).collect()
}

/// Returns the figures of pycocotools. `None` if it is missing outside CI.
fn pycocotools(test: &str, images: &[ImageBoxes]) -> Option<Vec<f64>> {
    let xywh = |b: &BoxXywh| json!([b.x, b.y, b.width, b.height]);
    let (mut annotations, mut found) = (Vec::new(), Vec::new());
    for (image, boxes) in images.iter().enumerate() {
        for a in &boxes.annotations {
            annotations.push(json!({
                "id": annotations.len() + 1, "image_id": image, "category_id": a.class_id,
                "bbox": xywh(&a.bounding_box), "area": a.area, "iscrowd": u8::from(a.is_crowd),
            }));
        }
        for f in &boxes.found {
            let (id, class) = (image, f.class_id);
            found.push(json!({
                "image_id": id, "category_id": class, "score": f.score, "bbox": xywh(&f.bounding_box),
            }));
        }
    }
    let ids = |count: usize| (0..count).map(|id| json!({ "id": id, "name": id.to_string() }));
    let truth = json!({
        "info": {}, "annotations": annotations, "images": ids(images.len()).collect::<Vec<_>>(),
        "categories": ids(CLASSES).collect::<Vec<_>>(),
    });
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, value: &Value| {
        let path = folder.path().join(name);
        std::fs::write(&path, value.to_string()).unwrap();
        path
    };
    let files = [
        file("truth.json", &truth),
        file("found.json", &json!(found)),
    ];
    let files: Vec<&Path> = files.iter().map(AsRef::as_ref).collect();
    let printed = python::output(test, "coco_ap.py", &files)?;
    Some(serde_json::from_slice(&printed).unwrap())
}

#[test]
fn the_figures_are_those_of_pycocotools() {
    // 500 annotations with crowds and areas; many images; more than 100 detections per class.
    for (images, most, seed) in [(64, 16, 1), (300, 3, 2), (2, 400, 3), (1, 1, 4), (12, 2, 5)] {
        let images = synthetic(images, most, seed);
        let test = "the_figures_are_those_of_pycocotools";
        let Some(expected) = pycocotools(test, &images) else {
            return;
        };
        let figures = Evaluation::new(&images).accuracy().figures;
        for ((name, got), expected) in FIGURES.iter().zip(figures.0).zip(expected) {
            let got = got.unwrap_or(-1.0);
            assert!(
                (got - expected).abs() < 1e-9,
                "{seed} {name}: {got} {expected}"
            );
        }
    }
}

#[test]
fn weights_count_images_several_times() {
    let images = synthetic(20, 5, 6);
    let evaluation = Evaluation::new(&images);
    let ap = evaluation.accuracy().figures.0[0];
    assert_eq!(evaluation.weighted_ap(&[1; 20]), ap);
    assert_eq!(
        evaluation.weighted_ap(&[3; 20]).map(|ap| ap > 0.0),
        Some(true)
    );
    let half: Vec<u32> = (0..20).map(|image| u32::from(image < 10)).collect();
    let first = Evaluation::new(&images[..10]).accuracy().figures.0[0];
    assert_eq!(evaluation.weighted_ap(&half), first);
    assert_eq!(evaluation.weighted_ap(&[0; 20]), None);
    assert_eq!(evaluation.images(), 20);
}

#[test]
fn without_annotations_there_are_no_figures() {
    let found = Found {
        class_id: 0,
        score: 0.5,
        bounding_box: random_box(&mut Random::new(7)),
    };
    let image = ImageBoxes {
        annotations: Vec::new(),
        found: vec![found],
    };
    for images in [vec![], vec![ImageBoxes::default()], vec![image]] {
        let accuracy = Evaluation::new(&images).accuracy();
        assert_eq!(accuracy.figures, Figures([None; 12]));
        assert!(accuracy.classes.is_empty());
    }
}

#[test]
fn a_perfect_result_has_full_precision() {
    let mut random = Random::new(8);
    let bounding_box = random_box(&mut random);
    let annotation = Annotation {
        class_id: 3,
        bounding_box,
        area: 5000.0,
        is_crowd: false,
    };
    let found = Found {
        class_id: 3,
        score: 0.1,
        bounding_box,
    };
    let images = [ImageBoxes {
        annotations: vec![annotation],
        found: vec![found],
    }];
    let accuracy = Evaluation::new(&images).accuracy();
    let Figures([ap, ap50, _, small, medium, large, ar1, ..]) = accuracy.figures;
    for figure in [ap, ap50, medium, ar1] {
        assert!((figure.unwrap() - 1.0).abs() < 1e-9, "{figure:?}");
    }
    assert_eq!((small, large), (None, None));
    assert_eq!(accuracy.classes[0].annotations, 1);
}
