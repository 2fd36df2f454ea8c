//! Compares the time of COCO's figures with that of pycocotools on the same 5,000 synthetic images, in
//! interleaved rounds. `SIGHTLINE_TEST_PYTHON` names an interpreter with pycocotools (default: `python3`).
//!
//! Criterion cannot alternate between two processes, so this benchmark has a loop of its own.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints its result and fails by panicking"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use sightline::evaluate::detection::{Annotation, BoxXywh, Evaluation, Found, ImageBoxes};

const IMAGES: usize = 5000;
const CLASSES: u64 = 80;
const ROUNDS: usize = 3;

/// A linear congruential generator (Knuth's MMIX constants).
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.unit() * end as f64) as u64
    }
}

/// Returns images with 7 annotations and about 35 detections each, as many as in COCO.
fn images() -> Vec<ImageBoxes> {
    let mut random = Random(1);
    let mut image = || {
        let mut boxes = ImageBoxes::default();
        for _ in 0..7 {
            let bounding_box = BoxXywh {
                x: random.unit() * 400.0,
                y: random.unit() * 300.0,
                width: 5.0 + random.unit() * 200.0,
                height: 5.0 + random.unit() * 200.0,
            };
            let class_id = random.below(CLASSES) as usize;
            boxes.annotations.push(Annotation {
                class_id,
                bounding_box,
                area: bounding_box.area() * 0.7,
                is_crowd: random.below(50) == 0,
            });
            for _ in 0..5 {
                let x = bounding_box.x + random.unit() * 30.0;
                let other = random.below(CLASSES) as usize;
                boxes.found.push(Found {
                    class_id: if random.below(3) == 0 {
                        other
                    } else {
                        class_id
                    },
                    score: random.unit(),
                    bounding_box: BoxXywh { x, ..bounding_box },
                });
            }
        }
        boxes
    };
    (0..IMAGES).map(|_| image()).collect()
}

/// Returns the annotations and the detections in COCO's formats.
fn files(images: &[ImageBoxes]) -> [Value; 2] {
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
            let (class, bbox) = (f.class_id, xywh(&f.bounding_box));
            found.push(
                json!({ "image_id": image, "category_id": class, "score": f.score, "bbox": bbox }),
            );
        }
    }
    let ids = |count: usize| -> Vec<Value> { (0..count).map(|id| json!({ "id": id })).collect() };
    let (images, categories) = (ids(images.len()), ids(CLASSES as usize));
    let truth = json!({
        "info": {}, "images": images, "categories": categories, "annotations": annotations,
    });
    [truth, json!(found)]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let images = images();
    let folder = tempfile::tempdir().unwrap();
    let paths = ["truth.json", "found.json"].map(|name| folder.path().join(name));
    for (path, value) in paths.iter().zip(files(&images)) {
        std::fs::write(path, value.to_string()).unwrap();
    }
    let python = std::env::var("SIGHTLINE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut command = Command::new(python);
    command.arg("benches/coco_seconds.py").args(paths);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        writeln!(input).unwrap();
        let line = lines.next().unwrap().unwrap();
        let (seconds, expected) = line.split_once(' ').unwrap();
        theirs.push(seconds.parse().unwrap());
        let started = Instant::now();
        let ap = Evaluation::new(&images).accuracy().figures.0[0].unwrap();
        ours.push(started.elapsed().as_secs_f64());
        let expected: f64 = expected.parse().unwrap();
        assert!((ap - expected).abs() < 1e-9, "{ap} {expected}");
    }
    drop(input);
    child.wait().unwrap();
    let (ours, theirs) = (median(ours), median(theirs));
    println!(
        "{IMAGES} images: {ours:.3} s, pycocotools {theirs:.3} s, {:.1} times faster",
        theirs / ours
    );
}
