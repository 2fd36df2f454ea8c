//! Checks the files and the report that `sightline quantize` writes, and that the server loads the
//! int8 variant from these files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::quantizing::{Folder, command, contents, names, text};
use crate::common::{Server, finish, path, photo, predicted, without_sha256};
use onnx_export::quantize::Recipes;
use serde_json::{Value, json};
use sightline::cpu::has_int8_dot;
use sightline::manifest::sha256;

/// Returns the scores of all classes for a photograph, ordered by class index, from the variant
/// `variant` of the model `tiny`.
fn scores(server: &Server, variant: &str) -> Vec<f64> {
    let query = format!("?top_k=10&model=tiny@{variant}");
    let reply = server.classify(&query, &photo("coffee_500x375.jpg"));
    assert_eq!(reply.json()["variant"], variant);
    let results = reply.results();
    let predictions = results[0]["predictions"].as_array().unwrap();
    let by_class: BTreeMap<u64, f64> = predictions
        .iter()
        .map(|p| {
            (
                p["class_id"].as_u64().unwrap(),
                p["score"].as_f64().unwrap(),
            )
        })
        .collect();
    assert_eq!(by_class.len(), 10);
    by_class.into_values().collect()
}

fn cosine(one: &[f64], other: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(one, other) / (dot(one, one) * dot(other, other)).sqrt()
}

/// Creates a calibration folder with photographs, a subfolder of generated images, and a file that is not an image.
fn calibration(folder: &Folder) -> PathBuf {
    for name in ["astronaut.png", "chelsea.png", "rocket.jpg"] {
        folder.file(&format!("photos/{name}"), photo(name));
    }
    folder.file("photos/README.md", "Photographs.");
    for shade in 0..7_u32 {
        let at = |x: u32, y: u32| {
            image::Rgb([x * (shade + 1), y + 40 * shade, x ^ y].map(|v| (v % 256) as u8))
        };
        let image = image::RgbImage::from_fn(260 + shade, 256, at);
        let path = folder.file(&format!("photos/made/{shade}.png"), "");
        image.save(path).unwrap();
    }
    folder.at("photos")
}

#[test]
fn a_quantized_model_is_written_and_served() {
    let folder = Folder::new();
    let photos = calibration(&folder);
    let out = folder.at("served/tiny");
    let args = [
        "--images=10",
        "--min-cosine=0.99",
        "--force",
        "--default",
        "-o",
        text(&out),
    ];
    let (code, stdout, stderr) = finish(command(&folder.at("tiny"), &photos, &args));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stderr.starts_with("warning: 10 photographs are too few"),
        "{stderr}"
    );
    assert_eq!(
        names(&out),
        [
            "labels.txt",
            "model.int8.json",
            "model.int8.onnx",
            "model.int8.report.json",
            "model.int8.report.txt",
            "model.onnx",
            "model.toml"
        ]
    );
    let read = |name: &str| fs::read(out.join(name)).unwrap();
    assert_eq!(
        read("model.onnx"),
        fs::read(folder.at("tiny/model.onnx")).unwrap()
    );
    check_report(&out, &stdout);
    let ranges = String::from_utf8(read("model.int8.json")).unwrap();
    assert_eq!(Recipes::parse(&ranges).unwrap().to_json().unwrap(), ranges);

    let server = Server::start(&["--models", text(&folder.at("served"))]);
    assert_eq!(server.get("/v1/models/tiny").json()["variant"], "int8");
    let (float, int8) = (scores(&server, "fp32"), scores(&server, "int8"));
    let likeness = cosine(&float, &int8);
    assert!(
        float != int8 && likeness > 0.95,
        "cosine similarity {likeness}: fp32 {float:?}, int8 {int8:?}"
    );
    let precision = |variant: &str| server.get(&format!("/v1/models/tiny@{variant}")).json();
    assert_eq!(precision("int8")["precision"], "int8");
    assert_eq!(precision("fp32")["precision"], "fp32");
    drop(server);

    served_for_this_cpu(&folder, &out, &ranges, &int8);
}

/// Checks that the server does not read an int8 file that targets another CPU, but quantizes the
/// fp32 weights again and returns the scores `int8`. Also checks the errors for a damaged int8 file
/// or ranges file.
fn served_for_this_cpu(folder: &Folder, out: &Path, ranges: &str, int8: &[f64]) {
    let (own, other) = if has_int8_dot() {
        ("vnni", "avx2")
    } else {
        ("avx2", "vnni")
    };
    let own = format!(r#""target":"{own}""#);
    assert!(ranges.contains(&own));
    let manifest = fs::read_to_string(out.join("model.toml")).unwrap();
    fs::write(out.join("model.toml"), without_sha256(&manifest)).unwrap();
    let foreign = ranges.replace(&own, &format!(r#""target":"{other}""#));
    fs::write(out.join("model.int8.json"), &foreign).unwrap();
    fs::write(out.join("model.int8.onnx"), "not to be read").unwrap();
    let models = folder.at("served");
    let serve = ["--models", text(&models), "--model=tiny@int8"];
    assert_eq!(scores(&Server::start(&serve), "int8"), int8);

    let stem = "\"float_layers\":[\"/features/0/0";
    assert!(ranges.contains(stem));
    let damaged = [
        (ranges.to_owned(), "cannot load"),
        (
            foreign.replacen(stem, &format!("{stem}/no"), 1),
            "has no layer `/features/0/0/no",
        ),
        (ranges[..ranges.len() / 2].to_owned(), "not a ranges file"),
        (ranges.replacen(":[", ":[1e39,", 1), "not a ranges file"),
    ];
    for (ranges, expected) in damaged {
        fs::write(out.join("model.int8.json"), ranges).unwrap();
        let (code, log) = Server::launch(&serve).wait();
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains("tiny@int8") && log.contains(expected), "{log}");
        assert!(!log.contains("panicked"), "{log}");
    }
}

/// Checks the text report and the JSON report in the folder `out`, and that `stdout` starts with
/// the text report and ends with a command to try the model.
fn check_report(out: &Path, stdout: &str) {
    let written = fs::read_to_string(out.join("model.int8.report.txt")).unwrap();
    assert!(stdout.starts_with(&written), "{stdout}");
    for part in [
        "tiny, fp32 against int8 on 2 held-out images, calibrated on 8 others",
        "  target ",
        "  agreement ",
        "  size ",
        "  latency ",
        "cosine 0.",
        "  variation ",
        "% of the multiplications; in fp32 ",
        "/features/0/0/Conv",
        " dB /features/",
    ] {
        assert!(written.contains(part), "{part}: {written}");
    }
    let try_it = format!(
        "try: sightline serve --model {0}@fp32 --model {0}@int8",
        text(&out.join("model.toml"))
    );
    assert!(stdout.ends_with(&(try_it + "\n")), "{stdout}");

    let report = fs::read(out.join("model.int8.report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let keys: BTreeSet<&str> = report
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let expected = [
        "agreement",
        "embedding_cosine",
        "fp32",
        "int8",
        "model",
        "networks",
        "photographs",
        "simulated",
        "target",
    ];
    assert_eq!(keys, BTreeSet::from(expected));
    assert_eq!(
        report["target"],
        if has_int8_dot() { "vnni" } else { "avx2" }
    );
    assert_eq!(
        (&report["simulated"], &report["model"]),
        (&json!(false), &json!("tiny"))
    );
    assert_eq!(report["agreement"]["pictures"], 2);
    let counts = json!({"calibration": 8, "held_out": 2});
    assert_eq!(report["photographs"], counts);
    for (precision, file) in [("fp32", "model.onnx"), ("int8", "model.int8.onnx")] {
        let bytes = fs::metadata(out.join(file)).unwrap().len();
        assert_eq!(report[precision]["bytes"], bytes);
        assert!(report[precision]["milliseconds"].as_f64().unwrap() > 0.0);
    }
    // The ratio is above 1/4, since names and scales need as many bytes as the int8 weights of a
    // network this small.
    let ratio =
        report["int8"]["bytes"].as_f64().unwrap() / report["fp32"]["bytes"].as_f64().unwrap();
    assert!((0.4..0.75).contains(&ratio), "{ratio}");
    let network = &report["networks"][0];
    assert!(network["cosine"].as_f64().unwrap() > 0.95, "{network}");
    let held_out = |key: &str| network["held_out"][key].as_f64().unwrap();
    assert!(held_out("cosine") > 0.95, "{network}");
    assert!(
        (0.5..2.0).contains(&held_out("kept_variation")),
        "{network}"
    );
    assert!(held_out("variation") > 0.001, "{network}");
    assert!((0.5..1.0).contains(&network["int8_share"].as_f64().unwrap()));
    let layers = network["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 54);
    assert_eq!(
        layers[0],
        json!({"name": "/features/0/0/Conv", "int8": false, "sensitivity": null, "snr_db": null})
    );
    for layer in &layers[1..] {
        assert!(layer["sensitivity"].is_f64(), "{layer}");
    }
}

#[test]
fn a_model_is_quantized_in_its_folder_if_it_agrees_with_fp32() {
    let folder = Folder::new();
    let photos = path("photos");
    // The output files must be named after the model's files, which are not called `model.toml`,
    // `model.onnx` and `labels.txt` here.
    let manifest = fs::read_to_string(folder.at("tiny/model.toml")).unwrap();
    let manifest = manifest
        .replace("\"model.onnx\"", "\"net.onnx\"")
        .replace("\"labels.txt\"", "\"list.txt\"")
        .replace("crop = 224", "crop = 192 # our lens")
        .replace("[provenance]", "# Week 12.\n[provenance]");
    let own = folder.at("own");
    folder.file("own/birds.toml", &manifest);
    fs::copy(folder.at("tiny/model.onnx"), folder.at("own/net.onnx")).unwrap();
    fs::copy(folder.at("tiny/labels.txt"), folder.at("own/list.txt")).unwrap();
    let model = folder.at("own/birds.toml");
    let coffee = path("photos/coffee.png");
    let (before, float) = (contents(&own), predicted(text(&model), &coffee));

    // Without `-o`, the output goes into the folder of the model, whose path is relative here.
    // These flags result in an int8 variant that disagrees with fp32 and is rejected, so only the
    // report is written.
    let spoilt = [
        "--method=percentile",
        "--percentile=99.1",
        "--target=vnni",
        "--max-float=0",
        "--min-agreement=1",
    ];
    let mut inside = command(Path::new("birds.toml"), &photos, &spoilt);
    inside.current_dir(&own);
    let (code, stdout, stderr) = finish(inside);
    assert_eq!(code, Some(1), "{stderr}");
    for part in [
        "`--min-agreement` requires 100.0 %",
        "Calibrate on more photographs",
        "--max-float 0.4",
        "--force",
        "no int8 model was written, only the report: net.int8.report.txt",
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    assert!(stdout.contains("ranges       percentile 99.1"), "{stdout}");
    let mut after = contents(&own);
    for report in ["net.int8.report.json", "net.int8.report.txt"] {
        assert!(after.remove(&OsString::from(report)).is_some(), "{report}");
    }
    assert_eq!(after, before);

    // A network that targets another CPU family than this CPU is evaluated in simulated arithmetic.
    let target = if has_int8_dot() { "avx2" } else { "vnni" };
    let args = [
        "--images=2",
        "--method=minmax",
        "--force",
        "--target",
        target,
    ];
    let mut inside = command(Path::new("birds.toml"), &photos, &args);
    inside.current_dir(&own);
    let (code, stdout, stderr) = finish(inside);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stdout.contains("simulated, because this CPU is not of the target family"),
        "{stdout}"
    );
    let expected = [
        "birds.toml",
        "list.txt",
        "net.int8.json",
        "net.int8.onnx",
        "net.int8.report.json",
        "net.int8.report.txt",
        "net.onnx",
    ];
    assert_eq!(names(&own), expected);
    let after = contents(&own);
    for same in ["net.onnx", "list.txt"] {
        assert_eq!(
            after[&OsString::from(same)],
            before[&OsString::from(same)],
            "{same}"
        );
    }
    // Only the variant is added to the manifest.
    let now = fs::read_to_string(&model).unwrap();
    let (kept, added) = now.split_once("\n[variants.int8]\n").unwrap();
    assert_eq!(kept.trim_end(), manifest.trim_end());
    let hash = sha256(&fs::read(folder.at("own/net.onnx")).unwrap());
    assert!(
        added.contains(&format!("source_sha256 = [\"{hash}\"]")),
        "{added}"
    );
    assert_eq!(predicted(text(&model), &coffee), float);
    assert_eq!(predicted(&format!("{}@fp32", text(&model)), &coffee), float);
    assert_ne!(predicted(&format!("{}@int8", text(&model)), &coffee), float);
}
