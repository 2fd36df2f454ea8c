//! Checks which model serves a request that names none, and that the server says so.

use std::fs;

use crate::common::{Server, finish, photo, run, sightline, tiny};

/// Returns a models directory with the models `alpaca` and `birds`.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    tiny::export(&at("birds"));
    fs::create_dir(at("alpaca")).unwrap();
    for file in ["model.onnx", "labels.txt"] {
        fs::copy(at("birds").join(file), at("alpaca").join(file)).unwrap();
    }
    let manifest = fs::read_to_string(at("birds/model.toml")).unwrap();
    let manifest = manifest.replace("name = \"birds\"", "name = \"alpaca\"");
    fs::write(at("alpaca/model.toml"), manifest).unwrap();
    directory
}

/// Checks that `model`, and no other, serves the requests that name no model, and that the log has an event with the
/// texts `log`.
fn serves(server: &Server, model: &str, log: &[&str]) {
    let answer = server.classify("", &photo("coffee_500x375.jpg")).json();
    assert_eq!(answer["model"], model);
    let listed = server.get("/v1/models").json();
    let listed = listed["models"].as_array().unwrap();
    let defaults = listed.iter().filter(|listed| listed["default"] == true);
    let defaults: Vec<_> = defaults.map(|listed| &listed["name"]).collect();
    assert_eq!(defaults, [model]);
    for name in ["alpaca", "birds"] {
        let shown = server.get(&format!("/v1/models/{name}")).json();
        assert_eq!(shown["default"], name == model);
    }
    let event = server.printed("default model");
    for text in log {
        assert!(event.contains(text), "{text}: {event}");
    }
}

#[test]
fn the_configured_default_serves_requests_without_a_model() {
    let directory = directory();
    let models = directory.path().to_str().unwrap();
    let server = Server::start(&["--models", models]);
    let by_name = [
        "classification",
        "first by name",
        "alpaca, birds",
        r#"setting=default_models = { classification = "alpaca" }"#,
    ];
    serves(&server, "alpaca", &by_name);
    drop(server);

    let config = directory.path().join("sightline.conf");
    fs::write(&config, "default_models = { classification = \"birds\" }").unwrap();
    let config = config.to_str().unwrap();
    let server = Server::start(&["--models", models, "--precision=fp32", "--config", config]);
    serves(&server, "birds", &["birds", "configured"]);
    server.printed("default model birds");
    drop(server);

    let flag = "--default-model=classification=alpaca@fp32";
    let args = [
        "--models",
        models,
        "--precision=fp32",
        "--config",
        config,
        flag,
    ];
    serves(
        &Server::start(&args),
        "alpaca",
        &["alpaca@fp32", "configured"],
    );

    let server = Server::start(&["--models", models, "--model", "birds,alpaca"]);
    serves(&server, "birds", &["birds@fp32", "first of --model"]);
}

#[test]
fn a_default_that_is_not_served_stops_the_start() {
    let directory = directory();
    let models = directory.path().to_str().unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--models", models];
    for (value, code, expected) in [
        (
            "classification=owls",
            64,
            "(alpaca, birds), got classification=owls",
        ),
        (
            "classification=birds@int4",
            64,
            "one of birds@fp32, got classification=birds@int4",
        ),
        ("detection=birds", 64, "no model of this task is served"),
        ("classify=birds", 2, "expected TASK=NAME"),
    ] {
        let flag = ["--default-model", value];
        let (got, _, stderr) = run(&[&serve[..], &flag].concat());
        assert_eq!(got, Some(code), "{stderr}");
        assert!(stderr.contains(expected), "{expected}: {stderr}");
        let mut command = sightline(&serve);
        command.env("SIGHTLINE_DEFAULT_MODELS", value);
        let (got, _, stderr) = finish(command);
        assert_eq!(got, Some(code), "{stderr}");
    }
    let config = directory.path().join("sightline.conf");
    fs::write(&config, "default_models = { classify = \"birds\" }").unwrap();
    let flags = ["--config", config.to_str().unwrap()];
    let (code, _, stderr) = run(&[&serve[..], &flags].concat());
    assert_eq!(code, Some(64), "{stderr}");
    assert!(stderr.contains("got classify=birds"), "{stderr}");
    // With `--model`, only the named models are served.
    let flags = [
        "--model",
        "alpaca",
        "--default-model",
        "classification=birds",
    ];
    let (code, _, stderr) = run(&[&serve[..], &flags].concat());
    assert_eq!(code, Some(64), "{stderr}");
    assert!(
        stderr.contains("(alpaca), got classification=birds"),
        "{stderr}"
    );
}
