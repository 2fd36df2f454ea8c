//! Checks, for a model with an fp32 and an int8 variant, which variants the server loads and which
//! variant a model name selects.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a test helper is how the test fails"
)]

mod common;

use std::path::PathBuf;

use common::{Server, checkpoint, finish, path, photo, run, sightline, tiny};
use serde_json::{Value, json};
use sightline::cpu::has_int8_dot;

/// A models directory with the model `birds`. The int8 variant of `birds` has the file of another
/// fp32 network, so that the scores in a response show which variant has run.
struct Birds {
    directory: tempfile::TempDir,
}

impl Birds {
    fn new() -> Self {
        let birds = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        tiny::export(&birds.file(""));

        let other = tempfile::tempdir().unwrap();
        let labels = ["another"; 10];
        checkpoint::export("mobilenet_v3_small", Some(&labels), other.path(), "other");
        let graph = other.path().join("other/model.onnx");
        std::fs::copy(graph, birds.file("model.int8.onnx")).unwrap();
        let manifest = std::fs::read_to_string(birds.file("model.toml")).unwrap();
        let variant = "[variants.int8]\nprecision = \"int8\"\n\n\
            [[variants.int8.stages]]\nrole = \"network\"\nfile = \"model.int8.onnx\"\n";
        std::fs::write(birds.file("model.toml"), format!("{manifest}\n{variant}")).unwrap();
        birds
    }

    fn models(&self) -> &str {
        self.directory.path().to_str().unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("birds").join(name)
    }

    fn serve(&self, args: &[&str]) -> Server {
        Server::start(&[&["--models", self.models()], args].concat())
    }

    /// Starts a server that cannot start, and waits until it exits. Returns its exit code and log.
    fn fail(&self, args: &[&str]) -> (Option<i32>, String) {
        Server::launch(&[&["--models", self.models()], args].concat()).wait()
    }
}

/// Returns the models that `/v1/models` lists, in order, as `name@variant precision`.
fn loaded(server: &Server) -> Vec<String> {
    let listed = server.get("/v1/models").json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let models = listed["models"].as_array().unwrap().iter();
    let show = |m: &Value| {
        format!(
            "{}@{} {}",
            text(&m["name"]),
            text(&m["variant"]),
            text(&m["precision"])
        )
    };
    models.map(show).collect()
}

/// Classifies a photograph with the query `?top_k=10` followed by `query`. Returns the variant in
/// the response, and the predictions for all 10 classes.
fn ask(server: &Server, query: &str) -> (String, Value) {
    let reply = server.classify(&format!("?top_k=10{query}"), &photo("coffee_500x375.jpg"));
    assert_eq!(reply.status, 200, "{query}: {}", reply.text());
    let answer = reply.json();
    let variant = answer["variant"].as_str().unwrap().to_owned();
    (variant, answer["results"][0]["predictions"].clone())
}

#[test]
fn each_variant_is_served_by_its_name() {
    let birds = Birds::new();
    let server = birds.serve(&["--precision", "fp32"]);
    let both = ["birds@fp32 fp32", "birds@int8 int8"];
    assert_eq!(loaded(&server), both);
    let fp32 = ask(&server, "&model=birds@fp32");
    let int8 = ask(&server, "&model=birds@int8");
    assert_eq!((fp32.0.as_str(), int8.0.as_str()), ("fp32", "int8"));
    assert_ne!(fp32.1, int8.1);
    assert_eq!(ask(&server, "&model=birds"), fp32);
    assert_eq!(ask(&server, ""), fp32);
    for (variant, asked) in [("fp32", 3.0), ("int8", 1.0)] {
        let labels = format!(r#"{{model="birds",variant="{variant}"}}"#);
        let images = server.metric(&format!("sightline_images_total{labels}"));
        assert_eq!(images, asked, "{variant}");
        let loaded = server.metric(&format!("sightline_model_loaded{labels}"));
        assert_eq!(loaded, 1.0, "{variant}");
        let shown = server.get(&format!("/v1/models/birds@{variant}")).json();
        assert_eq!(shown["precision"], variant);
    }
    let unknown = server.classify("?model=birds@int4", &photo("coffee_500x375.jpg"));
    assert_eq!(
        (unknown.status, unknown.code().as_str()),
        (404, "unknown_model")
    );
    let expected = "birds@fp32, birds@int8";
    assert_eq!(unknown.json()["expected"], expected);
    drop(server);

    let server = birds.serve(&["--precision", "int8"]);
    assert_eq!(loaded(&server), [both[1], both[0]]);
    assert_eq!(ask(&server, "&model=birds"), int8);
    assert_eq!(ask(&server, "&model=birds@fp32"), fp32);
    server.terminate();
    assert!(!server.wait().1.contains("WARN"));

    let server = birds.serve(&["--precision", "auto"]);
    let preferred = if has_int8_dot() { int8 } else { fp32 };
    assert_eq!(ask(&server, "&model=birds"), preferred);
    server.terminate();
    assert!(!server.wait().1.contains("WARN"));
}

#[test]
fn a_model_without_int8_is_served_in_fp32_with_a_warning() {
    let birds = Birds::new();
    let manifest = std::fs::read_to_string(birds.file("model.toml")).unwrap();
    let (without, _) = manifest.split_once("[variants.int8]").unwrap();
    std::fs::write(birds.file("model.toml"), without).unwrap();
    let server = birds.serve(&["--precision", "int8"]);
    assert_eq!(loaded(&server)[0], "birds@fp32 fp32");
    assert_eq!(ask(&server, "&model=birds").0, "fp32");
    server.terminate();
    let (_, log) = server.wait();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("no int8 variant") && warnings[0].contains("birds"));
}

#[test]
fn only_named_models_are_loaded() {
    let birds = Birds::new();
    let server = birds.serve(&["--model", "birds@int8", "--precision", "fp32"]);
    assert_eq!(loaded(&server), ["birds@int8 int8"]);
    assert_eq!(ask(&server, "&model=birds").0, "int8");
    let unknown = server.classify("?model=birds@fp32", &photo("coffee_500x375.jpg"));
    assert_eq!(unknown.json()["expected"], "birds@int8");
    drop(server);

    // By default, the CPU decides which variant the name `birds` selects, so the server must start
    // with `birds,birds@int8` if `birds` selects fp32 and if it selects int8, which is then loaded
    // once.
    let config = birds.directory.path().join("settings");
    for (precision, expected) in [
        ("fp32", &["birds@fp32 fp32", "birds@int8 int8"][..]),
        ("int8", &["birds@int8 int8"]),
    ] {
        std::fs::write(&config, format!("precision = \"{precision}\"")).unwrap();
        let config = config.to_str().unwrap();
        let server = birds.serve(&["--config", config, "--model", "birds,birds@int8"]);
        assert_eq!(loaded(&server), expected);
    }
}

#[test]
fn a_failed_start_names_the_variant() {
    let birds = Birds::new();
    let (code, _, stderr) = run(&["serve", "--precision", "int4"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("auto, fp32, int8"), "{stderr}");
    let mut command = sightline(&["serve"]);
    command.env("SIGHTLINE_PRECISION", "int4");
    assert_eq!(finish(command).0, Some(2));
    let config = birds.directory.path().join("settings");
    std::fs::write(&config, "precision = \"int4\"").unwrap();
    let (code, _, stderr) = run(&["serve", "--config", config.to_str().unwrap()]);
    assert_eq!(code, Some(64), "{stderr}");
    assert!(stderr.contains("`auto`, `fp32`, `int8`"), "{stderr}");

    let unknown = ["serve", "--models", birds.models(), "--model", "birds@int4"];
    let (code, _, stderr) = run(&unknown);
    assert_eq!(code, Some(64), "{stderr}");
    assert!(
        stderr.contains("the variant must be one of fp32, int8"),
        "{stderr}"
    );

    std::fs::remove_file(birds.file("model.int8.onnx")).unwrap();
    let (code, _, stderr) = run(&["serve", "--models", birds.models()]);
    assert_eq!(code, Some(64), "{stderr}");
    assert!(stderr.contains("birds/model.int8.onnx"), "{stderr}");
    let (code, log) = birds.fail(&["--model", "birds@int8"]);
    assert_eq!(code, Some(1), "{log}");
    let expected = "error: cannot load model `birds@int8`: cannot read ";
    assert!(
        log.contains(expected) && log.contains("model.int8.onnx"),
        "{log}"
    );
    // The server starts with `birds@fp32` alone, since it does not need the missing file of
    // `birds@int8`.
    let server = birds.serve(&["--model", "birds@fp32"]);
    assert_eq!(loaded(&server), ["birds@fp32 fp32"]);
}

/// Returns the row of the model `birds` from the output of `sightline models --json`, and the line
/// of `birds` from the output of `sightline models`.
fn listed(models: &str) -> (Value, String) {
    let (_, json, _) = run(&["models", "--json", "--models", models]);
    let rows: Vec<Value> = serde_json::from_str(&json).unwrap();
    let row = rows.into_iter().find(|row| row["name"] == "birds");
    let (_, table, _) = run(&["models", "--models", models]);
    let line = table.lines().find(|line| line.starts_with("birds "));
    (row.unwrap(), line.unwrap().to_owned())
}

#[test]
fn commands_accept_variants() {
    let birds = Birds::new();
    let (row, line) = listed(birds.models());
    let int8 = birds.file("model.int8.onnx");
    assert_eq!(row["int8"], json!(int8));
    assert!(line.ends_with("model.onnx, int8"), "{line}");

    let scores = |model: &str| {
        let image = path("photos/coffee.png");
        let args = ["predict", "--json", "--model", model, "--models"];
        let rest = [birds.models(), image.to_str().unwrap()];
        let (code, stdout, stderr) = run(&[&args[..], &rest].concat());
        assert_eq!(code, Some(0), "{stderr}");
        stdout
    };
    assert_ne!(scores("birds"), scores("birds@int8"));
    assert_eq!(scores("birds"), scores("birds@fp32"));
    bench_measures(birds.models(), "birds@int8");

    std::fs::remove_file(int8).unwrap();
    let (row, line) = listed(birds.models());
    assert_eq!(row["int8"], Value::Null);
    assert!(line.ends_with("model.onnx"), "{line}");
}

fn bench_measures(models: &str, model: &str) {
    let rounds = ["--rounds", "1", "--round-ms", "50", "--connections", "1"];
    let args = ["bench", "--models", models, "--model", model];
    let (code, stdout, stderr) = run(&[&args[..], &rounds].concat());
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stdout.lines().any(|line| line.starts_with(model)),
        "{stdout}"
    );
}
