//! `sightline predict` on folders and lists of images, with results in a file.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::{eventually, odd, path, run, sightline, tiny};
use serde_json::Value;

/// A folder with a small model and images.
struct Place {
    folder: tempfile::TempDir,
    model: String,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("models/tiny");
        tiny::export(&model);
        let images = folder.path().join("images");
        fs::create_dir_all(images.join("sub/.hidden")).unwrap();
        for (from, to) in [
            ("golden/images/rgb.png", "b.PNG"),
            ("golden/images/grey.jpg", "sub/a, \"c\".jpg"),
            ("golden/images/rgb.png", "sub/.hidden/d.png"),
        ] {
            fs::copy(path(from), images.join(to)).unwrap();
        }
        fs::write(images.join("notes.txt"), "not an image").unwrap();
        fs::write(images.join("damaged.jpg"), odd("truncated.jpg")).unwrap();
        Self {
            model: model.join("model.toml").to_str().unwrap().to_owned(),
            folder,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).to_str().unwrap().to_owned()
    }

    /// Runs `predict` with the model and `args`.
    fn predict(&self, args: &[&str]) -> (Option<i32>, String, String) {
        run(&[&["predict", "--model", &self.model], args].concat())
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_folder_is_processed_in_order_and_a_damaged_image_is_a_line() {
    let place = Place::new();
    let (images, out) = (place.text("images"), place.text("out.jsonl"));
    let (code, stdout, stderr) = place.predict(&["--top-k=1", "--output", &out, &images]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stdout.contains("3 images, 1 failed"), "{stdout}");
    assert!(stderr.contains("1 of 3 images failed"), "{stderr}");
    let results = lines(&place.at("out.jsonl"));
    let names = results.iter().map(|line| {
        let name = line["image"].as_str().unwrap();
        name.strip_prefix(&images).unwrap().to_owned()
    });
    let names: Vec<String> = names.collect();
    assert_eq!(names, ["/b.PNG", "/damaged.jpg", "/sub/a, \"c\".jpg"]);
    assert!(
        results[1]["error"]
            .as_str()
            .unwrap()
            .contains("damaged JPEG")
    );
    assert_eq!(results[0]["model"], "tiny");
    assert_eq!(results[2]["predictions"].as_array().unwrap().len(), 1);
    assert!(!place.at("out.jsonl.partial").exists());

    let csv = place.text("out.csv");
    let (code, _, _) = place.predict(&["--top-k=2", "--output", &csv, &images]);
    assert_eq!(code, Some(1));
    let csv = fs::read_to_string(csv).unwrap();
    assert_eq!(csv.lines().count(), 1 + 2 + 1 + 2, "{csv}");
    assert!(csv.contains(r#"/sub/a, ""c"".jpg","#), "{csv}");

    // Printed results have the order of the images, too.
    let (code, stdout, stderr) = place.predict(&["--json", &images]);
    assert_eq!((code, stdout.lines().count()), (Some(1), 2));
    assert!(stderr.contains("damaged.jpg"), "{stderr}");
}

#[test]
fn lists_of_files_are_read_from_standard_input() {
    let place = Place::new();
    let out = place.text("out.jsonl");
    let args = [
        "predict",
        "--model",
        &place.model,
        "--files-from",
        "-",
        "--output",
        &out,
    ];
    let mut command = sightline(&args);
    command.current_dir(place.at("images"));
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all(b"b.PNG\0./b.PNG\0sub/a, \"c\".jpg\0b.PNG")
        .unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
    let images: Vec<Value> = lines(&place.at("out.jsonl"));
    let images: Vec<&str> = images
        .iter()
        .map(|l| l["image"].as_str().unwrap())
        .collect();
    assert_eq!(images, ["b.PNG", "./b.PNG", "sub/a, \"c\".jpg"]);

    let list = place.text("list");
    fs::write(&list, "\n\n").unwrap();
    let images = place.text("images");
    let notes = place.text("images/notes.txt");
    let empty = place.text("empty");
    fs::create_dir(&empty).unwrap();
    for (args, expected) in [
        (&["--files-from", &list][..], "names no images"),
        (&["--output", "x.txt", &images], ".jsonl, .csv or .json"),
        (&["--output", "x.json", &images], "those of detectors"),
        (
            &["--output", &images, "--format=csv", &images],
            "got a folder",
        ),
        (
            &["--output", "/nowhere/x.csv", &images],
            "/nowhere does not exist",
        ),
        (
            &["--output", &notes, "--format=csv", &notes],
            "would be replaced",
        ),
        (&["--masks", "m", &images], "`--masks` writes masks"),
        (&[&empty], "has no images"),
    ] {
        let (code, _, stderr) = place.predict(args);
        assert_eq!(code, Some(1), "{args:?}: {stderr}");
        assert!(stderr.contains(expected), "{args:?}: {stderr}");
    }
    assert_eq!(fs::read_to_string(&notes).unwrap(), "not an image");
}

#[test]
fn a_killed_run_is_continued_by_the_same_command_only() {
    const COUNT: usize = 200;
    let place = Place::new();
    let images = place.at("many");
    fs::create_dir(&images).unwrap();
    for number in 0..COUNT {
        let image = images.join(format!("{number:03}.png"));
        fs::copy(path("golden/images/rgb.png"), image).unwrap();
    }
    let (images, out) = (place.text("many"), place.text("out.jsonl"));
    let partial = place.at("out.jsonl.partial");
    let args = [
        "predict",
        "--model",
        &place.model,
        "--output",
        &out,
        &images,
    ];
    let mut child = sightline(&args).stdout(Stdio::null()).spawn().unwrap();
    let count = || {
        let text = fs::read_to_string(&partial).unwrap_or_default();
        text.lines().count()
    };
    eventually("some results", || count() > 20);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!place.at("out.jsonl").exists());
    let done = count() - 1;

    let (code, _, stderr) = place.predict(&["--top-k=1", "--output", &out, &images]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("results of another command"), "{stderr}");

    // An image that has changed since is processed again.
    let text = fs::read_to_string(&partial).unwrap();
    let first: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
    let changed = first["result"]["image"].as_str().unwrap().to_owned();
    fs::copy(path("golden/images/grey.png"), &changed).unwrap();
    let (code, stdout, stderr) = place.predict(&["--output", &out, &images]);
    assert_eq!(code, Some(0), "{stderr}");
    // The last line may be incomplete.
    let expected = [done - 1, done - 2].map(|done| format!("continuing: {done} of {COUNT}"));
    assert!(
        expected.iter().any(|text| stderr.contains(text)),
        "{done}: {stderr}"
    );
    assert!(stdout.contains("200 images, 0 failed"), "{stdout}");
    assert!(!partial.exists());
    let continued = fs::read(place.at("out.jsonl")).unwrap();
    assert_eq!(lines(&place.at("out.jsonl")).len(), COUNT);
    let again = place.text("again.jsonl");
    assert_eq!(place.predict(&["--output", &again, &images]).0, Some(0));
    assert_eq!(
        fs::read(again).unwrap(),
        continued,
        "as without an interruption"
    );
}

#[test]
fn results_replace_regular_files_only() {
    let place = Place::new();
    let images = place.text("images");
    fs::write(place.at("kept.jsonl"), "kept").unwrap();
    std::os::unix::fs::symlink(place.at("kept.jsonl"), place.at("link.jsonl")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(place.at("socket.jsonl")).unwrap();
    let _unfinished =
        std::os::unix::net::UnixListener::bind(place.at("out.jsonl.unfinished")).unwrap();
    for (name, got) in [
        ("link.jsonl", "got a symbolic link"),
        ("socket.jsonl", "got a device, pipe or socket"),
        ("out.jsonl", "got a device, pipe or socket"),
    ] {
        let (code, _, stderr) = place.predict(&["--output", &place.text(name), &images]);
        assert_eq!(code, Some(1), "{name}");
        assert!(stderr.contains(got), "{name}: {stderr}");
    }
    assert_eq!(
        fs::read_link(place.at("link.jsonl")).unwrap(),
        place.at("kept.jsonl")
    );
    assert_eq!(fs::read_to_string(place.at("kept.jsonl")).unwrap(), "kept");
}
