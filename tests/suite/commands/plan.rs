//! `sightline plan`, as a process.

use std::process::Command;

use serde_json::Value;

fn plan(args: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sightline"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SIGHTLINE_") {
            command.env_remove(name);
        }
    }
    command
        .arg("plan")
        .args(args)
        .output()
        .expect("the binary starts")
}

fn json(args: &[&str]) -> Value {
    let output = plan(args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).expect("the output is JSON")
}

#[test]
fn known_costs_are_planned_without_a_measurement() {
    let args = ["--rate", "300", "--p99", "60", "--cost-ms", "9,10,11"];
    let report = json(&[&args[..], &["--cores", "2", "--json"]].concat());
    assert_eq!(report["replicas"], 2);
    assert_eq!(report["cores"], 4);
    assert_eq!(report["capacity_per_replica"], 200.0);
    assert_eq!(report["memory"], Value::Null);
    let rows = report["outcomes"].as_array().unwrap();
    // One replica less is overloaded.
    assert_eq!(rows[0]["replicas"], 1);
    assert_eq!(rows[0]["p99_ms"], Value::Null);
    assert!(rows[1]["p99_ms"].as_f64().unwrap() <= 60.0, "{report}");
}

#[test]
fn the_built_in_model_is_measured() {
    let args = ["--rate", "1", "--p99", "60000", "--seconds", "1", "--json"];
    let report = json(&[&args[..], &["--model", "efficientnet_lite0"]].concat());
    assert_eq!(report["model"], "efficientnet_lite0@fp32");
    assert_eq!(report["replicas"], 1);
    assert!(report["service_ms"]["mean"].as_f64().unwrap() > 0.0);
    assert!(report["memory_per_replica"].as_u64().unwrap() >= 512 << 20);
}

#[test]
fn goals_that_cannot_be_met_say_what_to_do() {
    let output = plan(&["--rate", "300", "--p99", "6", "--cost-ms", "10"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("choose a faster model"), "{error}");
    for flags in [
        ["--rate", "0"],
        ["--p99", "nan"],
        ["--cores", "0"],
        ["--cost-ms", "-1"],
    ] {
        let output = plan(&[&["--rate", "1", "--p99", "1", "--cost-ms", "1"], &flags[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
    }
}
