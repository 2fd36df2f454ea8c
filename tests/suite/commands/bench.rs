//! `sightline bench`: load tests of running servers, comparisons, published tables and charts.

use std::fs;

use crate::common::{Server, path, run, tiny};
use serde_json::{Value, json};

/// Runs `sightline bench --json --url URL ARGS...`. Returns the exit code, the report and the errors.
fn bench(url: &str, args: &[&str]) -> (Option<i32>, Value, String) {
    let (code, stdout, stderr) = run(&[&["bench", "--json", "--url", url], args].concat());
    (code, serde_json::from_str(&stdout).unwrap(), stderr)
}

#[test]
fn a_running_server_is_measured() {
    let directory = tempfile::tempdir().unwrap();
    let models = directory.path().join("models");
    tiny::export(&models.join("tiny"));
    let server = Server::start(&["--models", models.to_str().unwrap()]);
    let url = server.url("");

    let images = directory.path().join("images");
    fs::create_dir_all(images.join("subfolder")).unwrap();
    for name in ["coffee.png", "rocket.jpg"] {
        fs::copy(path("photos").join(name), images.join(name)).unwrap();
    }
    fs::write(images.join("notes.txt"), "not an image").unwrap();
    let (code, report, stderr) = bench(&url, &["--images", images.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!((&report["sent"], &report["images"]), (&json!(3), &json!(3)));
    assert_eq!(report["statuses"]["200"], 2, "{report}");
    let error = report["first_error"].as_str().unwrap();
    assert!(error.starts_with("notes.txt: status 4"), "{error}");

    let (code, report, stderr) = bench(&url, &["--rate", "20", "--seconds", "1"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(
        (&report["sent"], &report["unsent"]),
        (&json!(20), &json!(0))
    );
    assert_eq!(report["statuses"], json!({"200": 20}));
    let at = |name: &str| report["latency_ms"][name].as_f64().unwrap();
    assert!(
        0.0 < at("p50") && at("p50") <= at("p99") && at("p99") <= at("max"),
        "{report}"
    );

    let (code, report, stderr) = bench(&url, &["--requests", "3", "--connections", "1"]);
    assert_eq!((code, &report["sent"]), (Some(0), &json!(3)), "{stderr}");
    assert_eq!(report["rate"], Value::Null);

    let (code, stdout, stderr) = run(&["bench", "--url", &url, "--requests", "2"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stdout.contains("closed loop, 8 connections, 1 images") && stdout.contains("2 x 200"),
        "{stdout}"
    );
}

#[test]
fn a_server_that_does_not_respond_is_an_error_with_a_report() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (code, report, stderr) = bench(&format!("http://{closed}"), &["--requests", "2"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("no request succeeded"), "{stderr}");
    assert_eq!(report["failures"], json!({"no connection": 2}));
    for args in [
        &["--rate", "5"][..],
        &["--url", "http://a", "--rate", "0"],
        &["--seconds", "1"],
    ] {
        assert_eq!(run(&[&["bench"], args].concat()).0, Some(2), "{args:?}");
    }
}

#[test]
fn servers_are_compared_and_a_failure_is_a_row() {
    let directory = tempfile::tempdir().unwrap();
    let models = directory.path().join("models");
    tiny::export(&models.join("tiny"));
    let server = Server::start(&["--models", models.to_str().unwrap()]);
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let charts = directory.path().join("charts");
    let (code, stdout, stderr) = run(&[
        "bench",
        "--json",
        "--rounds=1",
        "--round-ms=200",
        "--connections=2",
        "--plot",
        charts.to_str().unwrap(),
        "--compare",
        &server.url(""),
        &server.url("/v2/models/tiny_image"),
        &server.url("/v2/models/tiny"),
        &format!("http://user:secret@{closed}"),
        &server.url("/v2/models/unknown"),
    ]);
    assert_eq!(code, Some(0), "{stderr}");
    let rows: Value = serde_json::from_str(&stdout).unwrap();
    let column = |name: &str| -> Vec<Value> {
        rows.as_array()
            .unwrap()
            .iter()
            .map(|row| row[name].clone())
            .collect()
    };
    assert_eq!(
        column("protocol"),
        [
            json!("/v1"),
            json!("/v2"),
            json!("/v2"),
            Value::Null,
            Value::Null
        ]
    );
    assert_eq!(
        column("model")[..3],
        [json!("tiny@fp32"), json!("tiny_image"), json!("tiny")]
    );
    for row in &rows.as_array().unwrap()[..3] {
        assert!(row["per_second"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(
            (&row["failed"], &row["error"]),
            (&json!(0), &Value::Null),
            "{row}"
        );
    }
    assert_eq!(rows[0]["relative"], 1.0);
    let errors = column("error");
    assert!(
        errors[3].as_str().unwrap().contains("does not respond"),
        "{errors:?}"
    );
    assert!(
        errors[4].as_str().unwrap().contains("status 404"),
        "{errors:?}"
    );
    assert!(!stdout.contains("secret") && !stderr.contains("secret"));
    for name in ["throughput.svg", "latency.svg"] {
        let chart = fs::read_to_string(charts.join(name)).unwrap();
        assert!(chart.contains("tiny_image"), "{chart}");
    }
    let (code, stdout, stderr) = run(&["bench", "--compare", &format!("http://{closed}")]);
    assert_eq!(code, Some(1));
    assert!(stdout.contains("does not respond"), "{stdout}");
    assert!(stderr.contains("no server could be measured"), "{stderr}");
}

#[test]
fn the_published_tables_are_measured_with_generated_weights() {
    let directory = tempfile::tempdir().unwrap();
    let charts = directory.path().to_str().unwrap();
    let quick = ["--rounds=1", "--round-ms=50"];
    let small = ["--model=mobilenet_v3_small", "--model=efficientnet_lite0"];
    let table = ["bench", "--tables=classification", "--plot", charts];
    let (code, stdout, stderr) = run(&[&table[..], &quick, &small, &["--json"]].concat());
    assert_eq!(code, Some(0), "{stderr}");
    let tables: Value = serde_json::from_str(&stdout).unwrap();
    let rows = tables["tables"][0]["rows"].as_array().unwrap();
    let titles: Vec<&str> = rows
        .iter()
        .map(|row| row["title"].as_str().unwrap())
        .collect();
    assert_eq!(
        titles,
        [
            "MobileNetV3-Small",
            "EfficientNet-Lite0",
            "Quantized EfficientNet-Lite0"
        ]
    );
    assert_eq!(rows[0]["measured"]["weights"], "generated");
    assert_eq!(rows[0]["measured"]["parameters"], 2_542_856);
    assert_eq!(rows[0]["measured"]["speed"], 1.0);
    assert_eq!(rows[2]["measured"]["weights"], "embedded");
    assert!(rows[1]["measured"]["seconds"].as_f64().unwrap() > 0.0);
    let chart = fs::read_to_string(directory.path().join("accuracy-classification.svg")).unwrap();
    assert!(chart.contains("MobileNetV3-Small"), "{chart}");
    let data = fs::read_to_string(directory.path().join("tables.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&data).unwrap(), tables);
    let date = tables["setup"]["date"].as_str().unwrap();
    assert_eq!(date.len(), "YYYY-MM-DD".len(), "{date}");
    let (code, _, stderr) = run(&["bench", "--tables", "--model=vgg16"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("no such network"), "{stderr}");
}
