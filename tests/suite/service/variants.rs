//! Checks, for a model with an fp32 and an int8 variant, which variants the server loads at start and
//! on first use, and which variant a model name selects.

use std::path::PathBuf;

use crate::common::{Server, checkpoint, eventually, finish, path, photo, run, sightline, tiny};
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

    /// Runs a server that fails before it listens. Returns its exit code and stderr.
    fn fail_before_listening(&self) -> (Option<i32>, String) {
        let serve = [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--models",
            self.models(),
        ];
        let (code, _, stderr) = run(&serve);
        (code, stderr)
    }

    /// Starts a server that cannot start, and waits until it exits. Returns its exit code and log.
    fn fail(&self, args: &[&str]) -> (Option<i32>, String) {
        Server::launch(&[&["--models", self.models()], args].concat()).wait()
    }
}

/// Returns the models that `/v1/models` lists, in order, as `name@variant state`.
fn listed_states(server: &Server) -> Vec<String> {
    let listed = server.get("/v1/models").json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let models = listed["models"].as_array().unwrap().iter();
    let show = |m: &Value| {
        format!(
            "{}@{} {}",
            text(&m["name"]),
            text(&m["variant"]),
            text(&m["state"])
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
fn the_bare_name_is_fp32_and_other_variants_are_loaded_on_first_use() {
    let birds = Birds::new();
    let server = birds.serve(&[]);
    let at_start = ["birds@fp32 loaded", "birds@int8 not_loaded"];
    assert_eq!(listed_states(&server), at_start);
    let loaded = |variant: &str| {
        let labels = format!(r#"{{model="birds",variant="{variant}"}}"#);
        let line = format!("sightline_model_loaded{labels} 1");
        server.get("/metrics").text().contains(&line)
    };
    assert!(loaded("fp32") && !loaded("int8"));
    // This CPU may have int8 dot-product instructions; the bare name is fp32 on every CPU.
    let fp32 = ask(&server, "&model=birds");
    assert_eq!(fp32.0, "fp32");
    assert_eq!(ask(&server, "&model=birds@fp32"), fp32);
    assert_eq!(ask(&server, ""), fp32);
    let shown = server.get("/v1/models/birds@int8").json();
    assert_eq!(
        (&shown["state"], &shown["precision"]),
        (&json!("not_loaded"), &json!("int8"))
    );
    assert_eq!(
        listed_states(&server),
        at_start,
        "these requests load nothing"
    );

    let int8 = std::thread::scope(|scope| {
        let first = [0, 1].map(|_| scope.spawn(|| ask(&server, "&model=birds@int8")));
        let [one, other] = first.map(|request| request.join().unwrap());
        assert_eq!(one, other);
        one
    });
    assert_eq!(int8.0, "int8");
    assert_ne!(fp32.1, int8.1);
    assert!(loaded("fp32") && loaded("int8"));
    assert_eq!(ask(&server, "&model=birds"), fp32);
    for (variant, asked) in [("fp32", 4.0), ("int8", 2.0)] {
        let labels = format!(r#"{{model="birds",variant="{variant}"}}"#);
        let images = server.metric(&format!("sightline_images_total{labels}"));
        assert_eq!(images, asked, "{variant}");
    }
    let unknown = server.classify("?model=birds@int4", &photo("coffee_500x375.jpg"));
    assert_eq!(
        (unknown.status, unknown.code().as_str()),
        (404, "unknown_model")
    );
    let expected = "birds@fp32, birds@int8";
    assert_eq!(unknown.json()["expected"], expected);
    assert!(unknown.text().contains("did you mean `birds@int8`?"));
    server.terminate();
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log}");
    let started = "loading model on first use";
    assert_eq!(log.matches(started).count(), 1, "{log}");
    assert!(!log.contains("WARN"), "{log}");
}

#[test]
fn the_flag_wins_over_the_manifest_which_wins_over_fp32() {
    let birds = Birds::new();
    let manifest = std::fs::read_to_string(birds.file("model.toml")).unwrap();
    let with_default = format!("default = \"int8\"\n{manifest}");
    for (text, args, expected) in [
        (&manifest, &["--precision", "int8"][..], "int8"),
        (&with_default, &[], "int8"),
        (&with_default, &["--precision", "fp32"], "fp32"),
        (
            &manifest,
            &["--precision", "auto"],
            if has_int8_dot() { "int8" } else { "fp32" },
        ),
    ] {
        std::fs::write(birds.file("model.toml"), text).unwrap();
        let server = birds.serve(args);
        let other = if expected == "int8" { "fp32" } else { "int8" };
        let states = [
            format!("birds@{expected} loaded"),
            format!("birds@{other} not_loaded"),
        ];
        assert_eq!(listed_states(&server)[..2], states, "{args:?}");
        assert_eq!(ask(&server, "&model=birds").0, expected, "{args:?}");
        assert_eq!(ask(&server, "").0, expected, "{args:?}");
        let shown = server.get("/v1/models/birds").json();
        assert_eq!(shown["variant"], expected, "{args:?}");
        // `predict` follows the same rule.
        let image = path("photos/coffee.png");
        let predict = [
            "predict",
            "--json",
            "--models",
            birds.models(),
            "--model",
            "birds",
        ];
        let (code, stdout, stderr) =
            run(&[&predict[..], args, &[image.to_str().unwrap()]].concat());
        assert_eq!(code, Some(0), "{stderr}");
        let answer: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(
            (&answer["model"], &answer["variant"]),
            (&json!("birds"), &json!(expected)),
            "{args:?}"
        );
    }
    let wrong = format!("default = \"int4\"\n{manifest}");
    std::fs::write(birds.file("model.toml"), wrong).unwrap();
    let (_, log) = birds.fail_before_listening();
    assert!(
        log.contains(
            "field `default`: expected fp32 or the name of a variant of the model, got int4"
        ),
        "{log}"
    );
}

#[test]
fn a_variant_that_cannot_be_loaded_fails_its_requests_until_it_is_repaired() {
    let birds = Birds::new();
    let server = birds.serve(&[]);
    let good = std::fs::read(birds.file("model.int8.onnx")).unwrap();
    std::fs::write(birds.file("model.int8.onnx"), "damaged").unwrap();
    let coffee = photo("coffee_500x375.jpg");
    let failed = server.classify("?model=birds@int8", &coffee);
    assert_eq!(
        (failed.status, failed.code().as_str()),
        (503, "model_load_failed"),
        "{}",
        failed.text()
    );
    assert!(!failed.header("retry-after").is_empty());
    assert!(!failed.text().contains(birds.models()), "{}", failed.text());
    assert_eq!(listed_states(&server)[1], "birds@int8 failed");
    let gauge = r#"sightline_model_loaded{model="birds",variant="int8"}"#;
    assert_eq!(server.metric(gauge), 0.0);
    assert_eq!(server.get("/health/ready").status, 200);
    assert_eq!(ask(&server, "&model=birds").0, "fp32");
    std::fs::write(birds.file("model.int8.onnx"), good).unwrap();
    eventually("the repaired variant is served", || {
        server.classify("?model=birds@int8", &coffee).status == 200
    });
    assert_eq!(server.metric(gauge), 1.0);
    server.terminate();
    let (_, log) = server.wait();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "one attempt failed: {log}");
    let expected = ["cannot load model on first use", "birds@int8"];
    assert!(
        expected.iter().all(|text| errors[0].contains(text)),
        "{log}"
    );
}

#[test]
fn a_model_without_int8_is_served_in_fp32_with_a_warning() {
    let birds = Birds::new();
    let manifest = std::fs::read_to_string(birds.file("model.toml")).unwrap();
    let (without, _) = manifest.split_once("[variants.int8]").unwrap();
    std::fs::write(birds.file("model.toml"), without).unwrap();
    let server = birds.serve(&["--precision", "int8"]);
    assert_eq!(listed_states(&server)[0], "birds@fp32 loaded");
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
    assert_eq!(listed_states(&server), ["birds@int8 loaded"]);
    assert_eq!(ask(&server, "&model=birds").0, "int8");
    let unknown = server.classify("?model=birds@fp32", &photo("coffee_500x375.jpg"));
    assert_eq!(unknown.json()["expected"], "birds@int8");
    drop(server);

    // The name of a model and one of its variants load both at start, each once.
    let config = birds.directory.path().join("settings");
    for (precision, expected) in [
        ("fp32", ["birds@fp32 loaded", "birds@int8 loaded"]),
        ("int8", ["birds@int8 loaded", "birds@fp32 not_loaded"]),
    ] {
        std::fs::write(&config, format!("precision = \"{precision}\"")).unwrap();
        let config = config.to_str().unwrap();
        let server = birds.serve(&["--config", config, "--model", "birds@int8,birds"]);
        assert_eq!(listed_states(&server), expected);
        assert_eq!(ask(&server, "&model=birds").0, precision);
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
    assert_eq!(listed_states(&server), ["birds@fp32 loaded"]);
}

/// Returns the row of the model `birds` from the output of `sightline models --json`, and the line
/// of `birds` from the output of `sightline models`.
fn listed(models: &str) -> (Value, String) {
    let (_, json, _) = run(&["models", "--json", "--models", models]);
    let rows: Vec<Value> = serde_json::from_str(&json).unwrap();
    let row = rows.into_iter().find(|row| row["name"] == "birds");
    let (_, table, _) = run(&["models", "--models", models]);
    // The models that are here come first.
    let mut here = table.lines().skip(1).take(2);
    let line = here.find(|line| line.starts_with("birds "));
    (row.unwrap(), line.unwrap().to_owned())
}

#[test]
fn commands_accept_variants() {
    let birds = Birds::new();
    let (row, line) = listed(birds.models());
    let int8 = birds.file("model.int8.onnx");
    assert_eq!(row["int8"], json!(int8));
    assert_eq!(row["variants"], json!(["fp32", "int8"]));
    assert!(line.contains(" installed  fp32, int8 "), "{line}");
    let (code, detail, _) = run(&["models", "birds", "--models", birds.models()]);
    assert_eq!(code, Some(0));
    assert!(detail.contains(int8.to_str().unwrap()), "{detail}");

    let scores = |model: &str| {
        let image = path("photos/coffee.png");
        let args = ["predict", "--json", "--model", model, "--models"];
        let rest = [birds.models(), image.to_str().unwrap()];
        let (code, stdout, stderr) = run(&[&args[..], &rest].concat());
        assert_eq!(code, Some(0), "{stderr}");
        let answer: Value = serde_json::from_str(&stdout).unwrap();
        answer["predictions"].clone()
    };
    assert_ne!(scores("birds"), scores("birds@int8"));
    assert_eq!(scores("birds"), scores("birds@fp32"));
    bench_measures(birds.models(), "birds@int8");

    std::fs::remove_file(int8).unwrap();
    let (row, line) = listed(birds.models());
    assert_eq!(row["int8"], Value::Null);
    assert!(line.contains(" installed "), "{line}");
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
