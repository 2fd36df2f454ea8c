//! Checks `sightline config`: every setting has its origin, every error is reported, and secrets are
//! not printed.

use std::path::{Path, PathBuf};

use crate::common::{self, Server, finish, run, sightline};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;
use tempfile::TempDir;

const MODEL: &str = "efficientnet_lite0";

/// Writes a configuration file with the content `text` into `folder`, and returns its path.
fn config(folder: &TempDir, text: &str) -> String {
    let path = folder.path().join("sightline.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Returns the comment behind the line `left` of the output `text`.
fn comment<'t>(text: &'t str, left: &str) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let (found, right) = line.split_once("  # ")?;
        (found.trim_end() == left).then_some(right)
    })
}

#[test]
fn config_check_prints_the_origin_of_each_value() {
    let folder = tempfile::tempdir().unwrap();
    let path = config(
        &folder,
        &format!(
            "max_images = 4\nmax_pixels = 5000000\nmodel = \"{MODEL}\"\nlog = \"debug\"\n\
             instances = 3\nfollow_symlinks = true\n\n[models.{MODEL}]\ninstances = 1\n\
             precision = \"int8\"\n"
        ),
    );
    let args = [
        "config",
        "check",
        "--config",
        &path,
        "--max-pixels",
        "4000000",
    ];
    let with_variables = |args: &[&str]| {
        let mut command = sightline(args);
        command
            .env("SIGHTLINE_LISTEN", "localhost:90")
            .env("SIGHTLINE_MAX_QUEUE_SIZE", "7")
            .env("SIGHTLINE_FOLLOW_SYMLINKS", "false");
        finish(command)
    };
    let (code, stdout, stderr) = with_variables(&args);
    assert_eq!(code, Some(0), "{stderr}");
    let file = |line: usize| format!("file {path}, line {line}");
    for (setting, origin) in [
        ("listen = \"localhost:90\"", "environment SIGHTLINE_LISTEN"),
        ("max_pixels = 4000000", "flag --max-pixels"),
        ("max_images = 4", &*file(1)),
        ("model = [\"efficientnet_lite0\"]", &*file(3)),
        ("log = \"debug\"", &*file(4)),
        (
            "follow_symlinks = false",
            "environment SIGHTLINE_FOLLOW_SYMLINKS",
        ),
        ("max_connections = 1024", "default"),
        ("# admin_listen", "default: no such listener"),
        ("precision = \"int8\"", &*file(10)),
        ("#   instances = 1", &*file(9)),
        (
            "#   max_queue_size = 7",
            "environment SIGHTLINE_MAX_QUEUE_SIZE",
        ),
        ("#   max_queue_delay_us = 0", "default on this machine"),
    ] {
        assert_eq!(
            comment(&stdout, setting),
            Some(origin),
            "{setting}: {stdout}"
        );
    }
    for derived in [
        "# memory_budget = ",
        "# body_memory_bytes = ",
        "# threads = ",
    ] {
        let line = stdout
            .lines()
            .find(|line| line.starts_with(derived))
            .unwrap();
        assert!(line.ends_with("# default on this machine"), "{line}");
    }
    let expected = "\n# Model efficientnet_lite0: int8 at start, fp32 on first use\n";
    assert!(stdout.contains(expected), "{stdout}");
    assert!(
        stdout.ends_with("# The configuration is valid.\n"),
        "{stdout}"
    );
    toml::from_str::<toml::Table>(&stdout).unwrap();

    let (code, json, _) = with_variables(&[&args[..], &["--json"]].concat());
    assert_eq!(code, Some(0));
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["valid"], true);
    let settings = report["settings"].as_array().unwrap();
    let setting = |name: &str| settings.iter().find(|item| item["name"] == name).unwrap();
    assert_eq!(setting("max_images")["value"], 4);
    assert_eq!(setting("max_images")["origin"]["line"], 1);
    assert_eq!(setting("max_pixels")["origin"]["name"], "--max-pixels");
    assert_eq!(setting("memory_budget")["origin"]["kind"], "derived");
    assert_eq!(setting("admin_listen")["value"], Value::Null);
    assert_eq!(report["models"][0]["variants"][0]["name"], "int8");
    assert_eq!(report["models"][0]["settings"][3]["value"], 1);
}

#[test]
fn config_check_reports_every_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = config(
        &folder,
        "lisen = 1\nmax_images = \"x\"\nmax_pixels = 0\nlog = \"debgu\"\n\
         [models.birds]\ninstances = 0\nmax_batchsize = 1\n",
    );
    let args = ["config", "check", "--config", &path, "--threads", "100000"];
    let (code, stdout, stderr) = run(&args);
    assert_eq!((code, stdout.as_str()), (Some(64), ""), "{stderr}");
    let expected = [
        "error: 7 errors in the configuration:".to_owned(),
        "line 1: unknown key `lisen`; did you mean `listen`?".to_owned(),
        "line 2, column 14".to_owned(),
        format!("`max_pixels`: expected 1 to 1073741824, got 0 (file {path}, line 3)"),
        "`debgu`, which matches no event; did you mean `debug`?".to_owned(),
        format!("[models.birds]: `instances`: expected 1 to 256, got 0 (file {path}, line 6)"),
        "line 7: unknown key `max_batchsize`; did you mean `max_batch_size`?".to_owned(),
        "`threads`: expected 1 to 1024, got 100000 (flag --threads)".to_owned(),
    ];
    for expected in expected {
        assert!(stderr.contains(&expected), "{expected}: {stderr}");
    }
    let (code, json, _) = run(&[&args[..], &["--json"]].concat());
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &report["valid"]), (Some(64), &Value::Bool(false)));
    assert_eq!(report["errors"].as_array().unwrap().len(), 7, "{report}");
}

#[test]
fn what_serve_would_reject_is_an_error_of_the_check() {
    let folder = tempfile::tempdir().unwrap();
    let path = config(&folder, "[models.efficientnet_lite]\n[models.cats]");
    let config = ["--config", &path];
    let cases: &[(&[&str], &[&str])] = &[
        (
            &config,
            &[
                "2 errors in the configuration",
                "[models.cats]: expected the name of a served model (efficientnet_lite0), got `cats`",
                "line 2)",
                "did you mean `efficientnet_lite0`? (file",
            ],
        ),
        (
            &["--model", "birds", "--model", "cats@int8"],
            &["model `birds` not found", "model `cats@int8` not found"],
        ),
        (&["--models", "/gone"], &["/gone does not exist"]),
        (
            &[
                "--default-model",
                "detection=birds",
                "--memory-budget",
                "1MiB",
            ],
            &[
                "`default_models`: expected",
                "memory budget of 1048576 bytes is too small",
            ],
        ),
        (
            &["--onnxruntime", "/gone/libonnxruntime.so"],
            &["--onnxruntime names /gone/libonnxruntime.so"],
        ),
        (
            &[
                "--api-keys",
                "/gone/keys",
                "--tls-cert",
                "/gone/cert.pem",
                "--tls-key",
                "/gone/key.pem",
                "--pin",
                "cats",
            ],
            &[
                "/gone/keys",
                "/gone/cert.pem",
                "`pin`: expected the name of a served model",
            ],
        ),
    ];
    for (args, expected) in cases {
        let (code, _, stderr) = run(&[&["config", "check"], *args].concat());
        assert_eq!(code, Some(64), "{stderr}");
        for expected in *expected {
            assert!(stderr.contains(expected), "{expected}: {stderr}");
        }
        let alone = ["config", "check", "--settings-only"];
        let (code, _, stderr) = run(&[&alone, *args].concat());
        assert_eq!(code, Some(0), "{stderr}");
    }
    let (code, _, stderr) = run(&["serve", "--config", &path]);
    assert_eq!(code, Some(64), "{stderr}");
    assert!(
        stderr.contains("[models.cats]: expected the name"),
        "{stderr}"
    );
    let (code, _, stderr) = run(&["config", "check", "--model", "birds@"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(
        stderr.contains("expected NAME, NAME@VARIANT or a path, got `birds@`"),
        "{stderr}"
    );
}

/// Creates files in `folder` that are no configuration files, and returns each path with the error.
fn unusable(folder: &Path) -> [(PathBuf, &'static str); 5] {
    let at = |name: &str| folder.join(name);
    mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    std::fs::write(at("binary"), b"max_images = 1 # \xff").unwrap();
    std::fs::write(at("large"), vec![b'\n'; (1 << 20) + 1]).unwrap();
    [
        (at("pipe"), "expected a regular file, got a pipe"),
        (at(""), "expected a regular file, got a folder"),
        (at("gone"), "No such file"),
        (at("binary"), "utf-8"),
        (at("large"), "larger than the limit of 1048576 bytes"),
    ]
}

#[test]
fn a_path_that_is_no_configuration_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for (path, expected) in unusable(folder.path()) {
        let path = path.to_str().unwrap();
        for command in [&["serve"][..], &["config", "check"], &["healthcheck"]] {
            let (code, _, stderr) = run(&[command, &["--config", path]].concat());
            assert_eq!(code, Some(64), "{command:?}: {stderr}");
            assert!(
                stderr.contains(expected) && stderr.contains(path),
                "{stderr}"
            );
        }
    }
}

#[test]
fn the_settings_of_one_model_apply_to_all_its_variants() {
    let folder = tempfile::tempdir().unwrap();
    let path = config(
        &folder,
        &format!(
            "max_queue_size = 11\ninstances = 2\n[models.{MODEL}]\ninstances = 1\n\
             intra_op_threads = 1\nmax_batch_size = 3\nprecision = \"int8\"\n"
        ),
    );
    let server = Server::start(&["--config", &path, "--precision", "fp32"]);
    let image = common::photo("coffee.png");
    for (query, variant) in [("", "int8"), ("?model=efficientnet_lite0@fp32", "fp32")] {
        let reply = server.classify(query, &image);
        assert_eq!(reply.json()["variant"], variant, "{}", reply.text());
        let path = format!("/v1/models/{MODEL}@{variant}");
        let plan = server.get(&path).json()["batching"].clone();
        assert_eq!(plan["instances"], 1, "{plan}");
        assert_eq!(plan["max_batch_size"], 3, "{plan}");
        assert_eq!(plan["max_queue_size"], 11, "{plan}");
    }
    drop(server);
    let (code, printed, _) = run(&["serve", "--print-config", "--config", &path]);
    assert_eq!(code, Some(0));
    let again = config(&folder, &printed);
    let (_, second, _) = run(&["serve", "--print-config", "--config", &again]);
    assert_eq!(second, printed);
    assert!(
        printed.contains("\n[models.efficientnet_lite0]\ninstances = 1\n"),
        "{printed}"
    );
}

#[test]
fn the_example_does_not_depend_on_the_environment() {
    let (code, plain, _) = run(&["config", "example"]);
    assert_eq!(code, Some(0));
    let mut command = sightline(&["config", "example"]);
    command.env("SIGHTLINE_MAX_IMAGES", "3");
    assert_eq!(finish(command).1, plain);
    for expected in [
        "\n# max_images = 32\n",
        "\n# threads = N\n",
        "\n# [models.NAME]\n",
    ] {
        assert!(plain.contains(expected), "{expected}: {plain}");
    }
}

#[test]
fn the_password_of_a_url_is_not_printed() {
    for (args, code) in [
        (
            &["healthcheck", "--url", "http://user:secret@127.0.0.1:1"][..],
            1,
        ),
        (
            &["healthcheck", "--url", "ftp://user:secret@127.0.0.1:1"],
            2,
        ),
        (
            &[
                "bench",
                "--rounds",
                "1",
                "--round-ms",
                "50",
                "--url",
                "http://user:secret@127.0.0.1:1",
            ],
            1,
        ),
    ] {
        let (found, stdout, stderr) = run(args);
        assert_eq!(found, Some(code), "{stderr}");
        assert!(stderr.contains("//***@127.0.0.1:1"), "{stderr}");
        let all = stdout + &stderr;
        assert!(!all.contains("secret") && !all.contains("user"), "{all}");
    }
}
