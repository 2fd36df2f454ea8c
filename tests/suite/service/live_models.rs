//! Checks that models are replaced, added, unloaded and removed while the server runs, without a
//! failed request.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;
use std::time::Duration;

use crate::common::{Reply, Server, SetOnDrop, agent, checkpoint, eventually, photo};
use serde_json::{Value, json};

const NETWORK: &str = "mobilenet_v3_small";

/// A models directory, and versions of a model to put into it. All labels of a version are its name.
struct Models {
    directory: tempfile::TempDir,
    versions: tempfile::TempDir,
}

impl Models {
    /// Returns a directory with the version `one` of the model `birds`, and the further version `two`.
    fn new() -> Self {
        let models = Self {
            directory: tempfile::tempdir().unwrap(),
            versions: tempfile::tempdir().unwrap(),
        };
        for version in ["one", "two"] {
            let folder = models.versions.path();
            checkpoint::export(NETWORK, Some(&[version; 10]), folder, version);
            let manifest = folder.join(version).join("model.toml");
            let text = std::fs::read_to_string(&manifest).unwrap();
            let named = text.replace(&format!("name = \"{version}\""), "name = \"birds\"");
            assert_ne!(text, named);
            std::fs::write(manifest, named).unwrap();
        }
        models.install("one", "birds");
        models
    }

    fn path(&self) -> &str {
        self.directory.path().to_str().unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("birds").join(name)
    }

    /// Puts a version into the folder `folder` in one step, as far as one of its files goes.
    fn install(&self, version: &str, folder: &str) {
        let new = self.directory.path().join(".new");
        std::fs::create_dir(&new).unwrap();
        for file in std::fs::read_dir(self.versions.path().join(version)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), new.join(file.file_name())).unwrap();
        }
        let place = self.directory.path().join(folder);
        let old = self.directory.path().join(".old");
        if place.exists() {
            std::fs::rename(&place, &old).unwrap();
        }
        std::fs::rename(&new, &place).unwrap();
        let _ = std::fs::remove_dir_all(&old);
    }

    /// Renames the model in the folder `folder`.
    fn rename(&self, folder: &str, name: &str) {
        let manifest = self.directory.path().join(folder).join("model.toml");
        let text = std::fs::read_to_string(&manifest).unwrap();
        let named = text.replace("name = \"birds\"", &format!("name = \"{name}\""));
        std::fs::write(manifest, named).unwrap();
    }
}

/// A server with an admin listener.
struct Live {
    server: Server,
    admin: String,
}

impl Live {
    fn start(models: &Models, args: &[&str]) -> Self {
        let common = ["--models", models.path(), "--admin-listen", "127.0.0.1:0"];
        let server = Server::start(&[&common, args].concat());
        let admin = server.printed("health and metrics on http://");
        Self { server, admin }
    }

    /// Sends `POST /v1/models/PATH` to the admin listener.
    fn control(&self, path: &str) -> Reply {
        let url = format!("http://{}/v1/models/{path}", self.admin);
        let response = agent().post(url).send_empty();
        Reply::new(response)
    }

    /// Returns the status of a request for `model`, and the label of the best class.
    fn classify(&self, model: &str) -> (u16, String) {
        let reply = self
            .server
            .classify(&format!("?model={model}"), &photo("coffee_500x375.jpg"));
        if reply.status != 200 {
            return (reply.status, reply.code());
        }
        (200, reply.labels().remove(0))
    }

    /// Returns the entry of `/v1/models` at `index`.
    fn listed(&self, index: usize) -> Value {
        self.server.get("/v1/models").json()["models"][index].clone()
    }

    fn reloads(&self, result: &str) -> f64 {
        let labels = format!(r#"{{model="birds",variant="fp32",result="{result}"}}"#);
        let sample = format!("sightline_model_reloads_total{labels}");
        let page = self.server.get("/metrics").text();
        let line = page.lines().find(|line| line.starts_with(&sample));
        line.map_or(0.0, |line| {
            line.rsplit(' ').next().unwrap().parse().unwrap()
        })
    }

    fn hang_up(&self) {
        let id = self.server.id().to_string();
        let killed = Command::new("kill").args(["-HUP", &id]).status();
        assert!(killed.unwrap().success());
    }
}

fn ok(label: &str) -> (u16, String) {
    (200, label.to_owned())
}

fn error(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[test]
fn an_operator_loads_and_unloads_models_while_clients_send_requests() {
    let models = Models::new();
    let live = Live::start(&models, &[]);
    assert_eq!(live.classify("birds"), ok("one"));
    let done = AtomicBool::new(false);
    scope(|scope| {
        let clients = [0, 1].map(|_| {
            scope.spawn(|| {
                let mut seen = [0, 0];
                while !done.load(Ordering::Relaxed) {
                    let (status, label) = live.classify("birds");
                    assert_eq!(status, 200, "{label}");
                    seen[usize::from(label == "two")] += 1;
                }
                seen
            })
        });
        let _done = SetOnDrop(&done);
        for version in ["two", "one", "one", "two"] {
            models.install(version, "birds");
            let reply = live.control("birds/load");
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert_eq!(reply.json()["labels"][0], version);
            assert_eq!(reply.json()["state"], "loaded");
            assert!(reply.json()["memory_bytes"].as_u64().unwrap() > 1 << 20);
            assert_eq!(live.classify("birds"), ok(version), "the new one serves");
        }
        done.store(true, Ordering::Relaxed);
        for client in clients {
            let seen = client.join().unwrap();
            assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
        }
    });
    assert_eq!(live.reloads("success"), 4.0);
    let seconds = r#"sightline_model_load_seconds{model="birds",variant="fp32"}"#;
    assert!(live.server.metric(seconds) > 0.0);
    unload_and_load(&live);
    failures(&models, &live);
    added(&models, &live);
    wrong_requests(&live);
}

fn unload_and_load(live: &Live) {
    let gauge = r#"sightline_model_loaded{model="birds",variant="fp32"}"#;
    assert_eq!(live.server.metric(gauge), 1.0);
    let reply = live.control("birds@fp32/unload");
    assert_eq!(
        (reply.status, &reply.json()["state"]),
        (200, &json!("unloaded"))
    );
    assert_eq!(live.classify("birds"), error(503, "model_unloaded"));
    assert_eq!(live.listed(0)["memory_bytes"], Value::Null);
    assert_eq!(live.server.metric(gauge), 0.0);
    assert_eq!(live.server.get("/health/ready").status, 200);
    assert_eq!(live.control("birds/unload").status, 200, "again");
    assert_eq!(live.control("birds/load").status, 200);
    assert_eq!(live.classify("birds"), ok("two"));
    assert_eq!(live.server.metric(gauge), 1.0);
}

/// A model that cannot be loaded leaves the old one serving.
fn failures(models: &Models, live: &Live) {
    let failed = live.reloads("failure");
    let good = std::fs::read(models.file("model.onnx")).unwrap();
    std::fs::write(models.file("model.onnx"), &good[..good.len() / 2]).unwrap();
    let reply = live.control("birds/load");
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (503, "model_load_failed")
    );
    assert!(reply.text().contains("model.onnx"), "{}", reply.text());
    assert_eq!(live.classify("birds"), ok("two"));
    let listed = live.listed(0);
    let reason = listed["error"].as_str().unwrap();
    assert_eq!(listed["state"], "loaded");
    assert!(reason.contains("model.onnx"), "{reason}");
    assert!(!reason.contains(models.path()), "{reason}");
    let manifest = std::fs::read(models.file("model.toml")).unwrap();
    std::fs::write(models.file("model.toml"), "name = ").unwrap();
    assert_eq!(live.control("birds/load").code(), "model_load_failed");
    std::fs::remove_dir_all(models.file("")).unwrap();
    let reply = live.control("birds/load");
    assert!(
        reply.text().contains("its files are gone"),
        "{}",
        reply.text()
    );
    assert_eq!(live.classify("birds"), ok("two"));
    assert_eq!(live.reloads("failure"), failed + 3.0);
    std::fs::create_dir(models.file("")).unwrap();
    std::fs::write(models.file("model.toml"), manifest).unwrap();
    models.install("one", "birds");
    assert_eq!(live.control("birds/load").status, 200);
    assert_eq!(live.listed(0)["error"], Value::Null);
    assert_eq!(live.classify("birds"), ok("one"));
}

/// A model that was added since the start is loaded on request.
fn added(models: &Models, live: &Live) {
    models.install("two", "fish");
    models.rename("fish", "fish");
    assert_eq!(live.classify("fish"), error(404, "unknown_model"));
    assert_eq!(live.control("fish/load").status, 200);
    assert_eq!(live.classify("fish"), ok("two"));
    assert_eq!(live.classify("birds"), ok("one"));
}

fn wrong_requests(live: &Live) {
    for (path, status, code) in [
        ("owls/load", 404, "unknown_model"),
        ("owls/unload", 404, "unknown_model"),
        ("birds@int4/load", 404, "unknown_model"),
        ("birds@int4/unload", 404, "unknown_model"),
        ("%ff/load", 400, "bad_parameter"),
    ] {
        let reply = live.control(path);
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{path}"
        );
    }
    let public = live.server.request("POST", "/v1/models/birds/load");
    assert_eq!((public.status, public.code().as_str()), (404, "no_route"));
    assert!(public.text().contains("--admin-listen"));
    assert_eq!(live.classify("birds"), ok("one"));
}

#[test]
fn two_operations_on_one_model_do_not_mix() {
    let models = Models::new();
    let live = Live::start(&models, &[]);
    let statuses = scope(|scope| {
        let clients = [0; 6].map(|_| scope.spawn(|| live.control("birds/load").status));
        clients.map(|client| client.join().unwrap())
    });
    assert!(statuses.contains(&200), "{statuses:?}");
    assert!(
        statuses.iter().all(|status| [200, 409].contains(status)),
        "{statuses:?}"
    );
    assert_eq!(live.classify("birds"), ok("one"));
}

#[test]
fn a_hang_up_replaces_adds_and_removes_models() {
    let models = Models::new();
    let live = Live::start(&models, &[]);
    models.install("two", "birds");
    models.install("one", "fish");
    models.rename("fish", "fish");
    live.hang_up();
    eventually("both models serve", || {
        live.classify("birds") == ok("two") && live.classify("fish") == ok("one")
    });
    std::fs::remove_dir_all(models.directory.path().join("fish")).unwrap();
    live.hang_up();
    eventually("the model is gone", || {
        live.classify("fish") == error(404, "unknown_model")
    });
    // Without any model, and without the directory, the old state stays.
    let moved = models.directory.path().join(".moved");
    std::fs::rename(models.file(""), &moved).unwrap();
    live.hang_up();
    live.server
        .printed("no model was found; the loaded ones go on serving");
    std::fs::rename(&moved, models.file("")).unwrap();
    let away = models.versions.path().join("away");
    std::fs::rename(models.path(), &away).unwrap();
    live.hang_up();
    live.server
        .printed("cannot read the models; the loaded ones go on serving");
    assert_eq!(live.classify("birds"), ok("two"));
    std::fs::rename(&away, models.path()).unwrap();
    // Unchanged files are not loaded again.
    let reloads = live.reloads("success");
    live.hang_up();
    let log = "models compared with their files changed=0 failed=0";
    live.server.printed(log);
    assert_eq!(live.reloads("success"), reloads);
}

#[test]
fn the_watch_follows_the_files() {
    let models = Models::new();
    let live = Live::start(
        &models,
        &["--watch", "--default-model", "classification=birds"],
    );
    models.install("two", "birds");
    eventually("the new version serves", || {
        live.classify("birds") == ok("two")
    });
    // A file that is being written is not the end: the manifest does not fit it yet.
    let good = std::fs::read(models.file("model.onnx")).unwrap();
    std::fs::write(models.file("model.onnx"), &good[..1000]).unwrap();
    eventually("the failure is reported", || {
        live.listed(0)["error"].is_string()
    });
    assert_eq!(live.classify("birds"), ok("two"));
    models.install("one", "birds");
    eventually("the complete version serves", || {
        live.classify("birds") == ok("one")
    });
    assert_eq!(live.listed(0)["error"], Value::Null);
    // The configured default is not removed.
    models.install("one", "fish");
    models.rename("fish", "fish");
    eventually("the new model serves", || {
        live.classify("fish") == ok("one")
    });
    std::fs::remove_dir_all(models.file("")).unwrap();
    eventually("the reason is reported", || {
        let error = live.listed(0)["error"].clone();
        error
            .as_str()
            .is_some_and(|error| error.contains("it goes on serving"))
    });
    assert_eq!(live.classify("birds"), ok("one"));
}

#[test]
fn a_folder_behind_a_link_is_followed() {
    let models = Models::new();
    let data = |name: &str| models.directory.path().join(name);
    std::fs::rename(data("birds"), data("..one")).unwrap();
    std::fs::create_dir(data("birds")).unwrap();
    std::os::unix::fs::symlink("..one", data("..data")).unwrap();
    for file in std::fs::read_dir(data("..one")).unwrap() {
        let name = file.unwrap().file_name();
        let target = Path::new("../..data").join(&name);
        std::os::unix::fs::symlink(target, data("birds").join(name)).unwrap();
    }
    let live = Live::start(&models, &["--watch"]);
    assert_eq!(live.classify("birds"), ok("one"));
    models.install("two", "..two");
    std::os::unix::fs::symlink("..two", data("..new")).unwrap();
    std::fs::rename(data("..new"), data("..data")).unwrap();
    eventually("the swapped version serves", || {
        live.classify("birds") == ok("two")
    });
}

#[test]
fn lazy_models_are_loaded_on_first_use_and_unloaded_for_others() {
    let models = Models::new();
    for name in ["fish", "owls"] {
        models.install("two", name);
        models.rename(name, name);
    }
    let states = |live: &Live| {
        let listed = live.server.get("/v1/models").json();
        let states = listed["models"].as_array().unwrap().iter();
        states
            .map(|model| model["state"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let live = Live::start(&models, &["--lazy", "--pin", "owls"]);
    assert_eq!(states(&live), ["not_loaded", "not_loaded", "loaded"]);
    assert_eq!(live.classify("birds"), ok("one"));
    let bytes = live.listed(0)["memory_bytes"].as_u64().unwrap();
    drop(live);

    let room = (bytes * 5 / 2).to_string();
    let live = Live::start(
        &models,
        &["--lazy", "--pin", "owls", "--model-memory", &room],
    );
    for (model, expected) in [
        ("birds", ["loaded", "not_loaded", "loaded"]),
        ("fish", ["not_loaded", "loaded", "loaded"]),
        ("birds", ["loaded", "not_loaded", "loaded"]),
    ] {
        assert_eq!(live.classify(model).0, 200);
        assert_eq!(states(&live), expected);
    }
    drop(live);
    let small = (bytes * 3 / 2).to_string();
    let live = Live::start(&models, &["--pin", "owls", "--model-memory", &small]);
    assert_eq!(states(&live), ["not_loaded", "not_loaded", "loaded"]);
    assert_eq!(live.classify("birds"), error(503, "model_memory"));
    assert_eq!(live.classify("owls"), ok("two"));
}

#[test]
fn a_stop_during_a_load_ends_the_server() {
    let models = Models::new();
    for moment in [0, 30, 100, 300] {
        let live = Live::start(&models, &[]);
        let url = format!("http://{}/v1/models/birds/load", live.admin);
        let client = std::thread::spawn(move || Reply::new(agent().post(url).send_empty()));
        std::thread::sleep(Duration::from_millis(moment));
        live.server.terminate();
        let (code, log) = live.server.wait();
        assert_eq!(code, Some(0), "{moment} ms: {log}");
        // Before 30 ms, the request may arrive after the end.
        let reply = client.join();
        if moment >= 30 {
            let status = reply.unwrap().status;
            assert!([200, 503].contains(&status), "{moment} ms: {status}");
        }
    }
}

#[test]
fn a_load_that_cannot_find_its_model_is_reported_and_a_repair_clears_the_error() {
    let models = Models::new();
    let live = Live::start(&models, &["--watch"]);
    let original = models.directory.path().join("birds");
    models.install("two", "another");
    let refused = |expected: &str| {
        let failures = live.reloads("failure");
        let reply = live.control("birds/load");
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (503, "model_load_failed")
        );
        let error = live.listed(0)["error"].to_string();
        assert!(error.contains(expected), "{error}");
        assert!(live.reloads("failure") > failures);
        assert_eq!(live.classify("birds"), ok("one"));
    };
    eventually("the watch reports two models of one name", || {
        live.listed(0)["error"]
            .to_string()
            .contains("two models are named")
    });
    refused("two models are named");
    std::fs::remove_dir_all(models.directory.path().join("another")).unwrap();
    eventually("the error is cleared", || live.listed(0)["error"].is_null());
    assert_eq!(live.control("birds/load").status, 200);
    let away = models.versions.path().join("away");
    std::fs::rename(original, away).unwrap();
    refused("its files are gone");
}
