//! Checks `sightline eval`: figures on real data, comparisons, certificates, interrupted runs and bad data sets.

use crate::reference;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::quantizing::{names, text};
use crate::common::{self, Server, run};
use serde_json::{Value, json};

const CLASSIFIER: &str = "mobilenet_v2";
const DETECTOR: &str = "ssdlite320_mobilenet_v3_large";

/// Exports the released checkpoint of `network` into the folder `models`.
fn export(network: &str, shared: &Path, models: &Path) {
    let weights = shared.join(format!("weights/{network}.pth"));
    common::export(network, &weights, &models.join(network));
}

/// Runs `sightline eval` with models from the folder `models`. Returns the exit code, stdout and stderr.
fn eval(models: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let mut all = vec!["eval", "--models", text(models)];
    all.extend(args);
    run(&all)
}

/// Runs `sightline eval --json` and returns the report.
fn report(models: &Path, args: &[&str]) -> Value {
    let mut all = args.to_vec();
    all.push("--json");
    let (code, stdout, stderr) = eval(models, &all);
    assert_eq!(code, Some(0), "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

#[test]
fn classification_has_the_accuracy_of_torchvision() {
    let Some(shared) = reference::real_data("classification_has_the_accuracy_of_torchvision")
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    export(CLASSIFIER, &shared, &models);
    let dataset = format!("imagenet:{}", shared.join("imagenet").display());
    let out = folder.path().join("out");
    let args = ["--dataset", &dataset, "-o", text(&out), "--certify"];
    let (code, stdout, stderr) = eval(&models, &args);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("certificate of fp32 written"), "{stdout}");
    let files = [
        "classes.csv",
        "images.csv",
        "report.json",
        "report.md",
        "worst.png",
    ];
    assert_eq!(names(&out), files);
    let written: Value =
        serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(written["figures"]["acc1"], json!(81.0));
    assert_eq!(written["figures"]["acc5"], json!(97.0));
    assert_eq!(written["images"], json!(100));
    let rows = fs::read_to_string(out.join("images.csv")).unwrap();
    assert_eq!(rows.lines().count(), 101);
    certificate_is_shown(&models, &dataset);
    decoding_is_compared(&models, &dataset);
}

/// Checks that `models`, `/v1/models/NAME` and `--verify` know the certificate, and that it is not shown
/// for other weights.
fn certificate_is_shown(models: &Path, dataset: &str) {
    let (code, stdout, stderr) = eval(models, &["--dataset", dataset, "--verify"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("verified: 3 figures"), "{stdout}");
    let (_, stdout, _) = run(&["models", CLASSIFIER, "--models", text(models)]);
    assert!(
        stdout.contains("acc1 81.0 %") && stdout.contains("on 100 images (imagenet)"),
        "{stdout}"
    );
    let server = Server::start(&["--models", text(models)]);
    let described = server.get(&format!("/v1/models/{CLASSIFIER}")).json();
    assert_eq!(described["certificate"]["figures"]["acc5"], json!(97.0));
    assert_eq!(described["certificate"]["images"], json!(100));
    drop(server);
    let manifest = models.join(CLASSIFIER).join("model.toml");
    let certified = fs::read_to_string(&manifest).unwrap();
    let wrong = certified.replace("acc1 = 81.0", "acc1 = 82.0");
    assert_ne!(wrong, certified);
    fs::write(&manifest, &wrong).unwrap();
    let (code, _, stderr) = eval(models, &["--dataset", dataset, "--verify"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("acc1 differ by more than 0.1"), "{stderr}");
    fs::write(&manifest, certified).unwrap();
}

fn decoding_is_compared(models: &Path, dataset: &str) {
    let (code, stdout, stderr) = eval(models, &["--dataset", dataset, "--decode", "exact,fast"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stdout.contains("mobilenet_v2@fp32, decode=fast on 100 images"),
        "{stdout}"
    );
    assert!(
        stdout.contains("95 % interval") && stdout.contains("(McNemar)"),
        "{stdout}"
    );
}

#[test]
fn detection_has_the_figures_of_pycocotools() {
    let test = "detection_has_the_figures_of_pycocotools";
    let Some(shared) = reference::real_data(test) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    export(DETECTOR, &shared, &models);
    let instances = shared.join("coco/instances.json");
    let dataset = format!(
        "coco:{},{}",
        shared.join("coco/images").display(),
        instances.display()
    );
    let out = folder.path().join("out");
    let all = report(&models, &["--dataset", &dataset, "-o", text(&out)]);
    let server = Server::start(&["--models", text(&models)]);
    let truth: Value = serde_json::from_slice(&fs::read(&instances).unwrap()).unwrap();
    let mut detections = Vec::new();
    for image in truth["images"].as_array().unwrap() {
        let file = image["file_name"].as_str().unwrap();
        let bytes = fs::read(shared.join("coco/images").join(file)).unwrap();
        let query = "/v1/detect?score_threshold=0&max_detections=300";
        for result in server.post(query, "image/jpeg", &bytes).results() {
            for found in result["detections"].as_array().unwrap() {
                detections.push(coco_result(image, found));
            }
        }
    }
    let Some(expected) = reference::coco_figures(test, &instances, &detections) else {
        return;
    };
    for (name, expected) in sightline::evaluate::detection::FIGURES.iter().zip(expected) {
        let got = all["figures"][name].as_f64().unwrap() / 100.0;
        assert!((got - expected).abs() < 1e-4, "{name}: {got} {expected}");
    }
    let published: Value =
        serde_json::from_slice(&fs::read(shared.join("torchvision.json")).unwrap()).unwrap();
    let ap = published[DETECTOR]["AP"].as_f64().unwrap();
    assert!((all["figures"]["AP"].as_f64().unwrap() / 100.0 - ap).abs() < 0.01);
    assert!(names(&out).contains(&"worst.png".to_owned()));
}

/// Converts a detection of the server to COCO's result format.
fn coco_result(image: &Value, found: &Value) -> Value {
    let [x1, y1, x2, y2] =
        ["x1", "y1", "x2", "y2"].map(|edge| found["box"][edge].as_f64().unwrap());
    json!({
        "image_id": image["id"], "category_id": found["class_id"], "score": found["score"],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
    })
}

#[test]
fn an_interrupted_run_continues_and_bad_data_sets_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    let photos = at("photos/3");
    fs::create_dir_all(&photos).unwrap();
    for name in ["coffee_500x375.jpg", "coffee.png"] {
        fs::write(photos.join(name), common::photo(name)).unwrap();
    }
    let dataset = format!("imagenet:{}", at("photos").display());
    let out = at("out");
    // The second image is damaged: the first result is kept for the next run.
    fs::write(photos.join("z.png"), b"\x89PNG\r\n\x1a\nxxxxx").unwrap();
    let args = ["eval", "--dataset", &dataset, "-o", text(&out)];
    let (code, _, stderr) = run(&args);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("z.png"), "{stderr}");
    assert_eq!(names(&out), ["eval-1.partial.jsonl"]);
    fs::write(photos.join("z.png"), common::photo("coffee.png")).unwrap();
    let (code, stdout, stderr) = run(&args);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("acc1"), "{stdout}");
    assert!(!names(&out).contains(&"eval-1.partial.jsonl".to_owned()));
    built_in_model_cannot_be_certified(&dataset);
    data_sets_are_checked(folder.path());
}

fn built_in_model_cannot_be_certified(dataset: &str) {
    let (code, _, stderr) = run(&["eval", "--dataset", dataset, "--certify"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("is built in"), "{stderr}");
}

/// Checks that a data set that cannot be used is an error before anything is written.
fn data_sets_are_checked(folder: &Path) {
    let make = |name: &str, files: &[(&str, &str)]| -> PathBuf {
        let set = folder.join(name);
        fs::create_dir_all(&set).unwrap();
        for (file, content) in files {
            let path = set.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        set
    };
    let csv = "file,class_index\n";
    let cases = [
        (
            make("none", &[]),
            "expected one folder per class or a file labels.csv",
        ),
        (
            make("empty", &[("1/readme.txt", "")]),
            "the data set has no images",
        ),
        (
            make(
                "missing",
                &[("labels.csv", &format!("{csv}a.jpg,1\nb.jpg,2\n"))],
            ),
            "2 of 2 images of the data set are missing",
        ),
        (
            make("unknown", &[("labels.csv", &format!("{csv}a.jpg,1000\n"))]),
            "expected a class index below 1000",
        ),
        (
            make("wnid", &[("n01440764/a.jpg", "")]),
            "1 folders named by WordNet ids",
        ),
        (folder.join("absent"), "cannot read the folder"),
    ];
    let out = folder.join("nothing");
    for (set, expected) in cases {
        let dataset = format!("imagenet:{}", set.display());
        let (code, _, stderr) = run(&["eval", "--dataset", &dataset, "-o", text(&out)]);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(expected), "{expected}: {stderr}");
        assert!(!out.exists(), "{expected}");
    }
    let (code, _, stderr) = run(&["eval", "--dataset", "coco:a,b.json"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("is for detection models"), "{stderr}");
    let (code, _, stderr) = run(&["eval", "--dataset", "photos"]);
    assert_eq!(code, Some(2));
    assert!(
        stderr.contains("imagenet:DIR, coco:IMAGES,JSON or voc:IMAGES,MASKS"),
        "{stderr}"
    );
}

#[test]
fn segmentation_has_the_figures_of_numpy() {
    let test = "segmentation_has_the_figures_of_numpy";
    let Some(shared) = reference::real_data(test) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    fs::create_dir(&models).unwrap();
    common::checkpoint::export("lraspp_mobilenet_v3_large", None, &models, "masks");
    // A sixth of the images is enough for all values of a mask.
    let masks = folder.path().join("masks");
    let results = folder.path().join("results");
    fs::create_dir(&masks).unwrap();
    fs::create_dir(&results).unwrap();
    let server = Server::start(&["--models", text(&models)]);
    for name in names(&shared.join("coco/voc_masks")).iter().step_by(6) {
        fs::copy(shared.join("coco/voc_masks").join(name), masks.join(name)).unwrap();
        let photograph = Path::new(name).with_extension("jpg");
        let bytes = fs::read(shared.join("coco/images").join(photograph)).unwrap();
        let reply = server.post_accepting("/v1/segment", "image/png", &bytes);
        assert_eq!(reply.status, 200);
        fs::write(results.join(name), &reply.body).unwrap();
    }
    drop(server);
    let dataset = format!(
        "voc:{},{}",
        shared.join("coco/images").display(),
        masks.display()
    );
    let out = folder.path().join("out");
    let args = ["--model", "masks", "--dataset", &dataset, "-o", text(&out)];
    let all = report(&models, &args);
    assert_eq!(all["images"], json!(names(&masks).len()));
    assert!(names(&out).contains(&"worst.png".to_owned()));
    if let Some(printed) = reference::shared::python::output(test, "miou.py", &[&masks, &results]) {
        let expected: Vec<f64> = serde_json::from_slice(&printed).unwrap();
        for (name, expected) in ["miou", "pixel_acc"].iter().zip(expected) {
            let got = all["figures"][name].as_f64().unwrap() / 100.0;
            assert!((got - expected).abs() < 1e-9, "{name}: {got} {expected}");
        }
    }
    masks_must_fit(&models, folder.path(), &shared);
}

/// Checks that masks of another size, with unknown classes or without an image are errors.
fn masks_must_fit(models: &Path, folder: &Path, shared: &Path) {
    let images = folder.join("images");
    let masks = folder.join("wrong");
    fs::create_dir(&images).unwrap();
    fs::create_dir(&masks).unwrap();
    let dataset = format!("voc:{},{}", images.display(), masks.display());
    let fails = |expected: &str| {
        let args = ["--model", "masks", "--dataset", &dataset];
        let (code, _, stderr) = eval(models, &args);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(expected), "{expected}: {stderr}");
    };
    fs::copy(
        shared.join("coco/images/000000000139.jpg"),
        images.join("a.jpg"),
    )
    .unwrap();
    fails("has no masks");
    let gray = |width, height, class| {
        let mask = image::GrayImage::from_pixel(width, height, image::Luma([class]));
        mask.save(masks.join("a.png")).unwrap();
    };
    gray(64, 64, 1);
    fails("the mask has 64x64 pixels, but the image has 640x426");
    gray(640, 426, 21);
    fails("expected pixels with classes below 21");
    fs::rename(masks.join("a.png"), masks.join("b.png")).unwrap();
    fails("has no image in");
}
