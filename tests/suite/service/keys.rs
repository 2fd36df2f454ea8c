//! Checks `sightline key new`, and API keys of a running server: its log, its key file, and rotation under load.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::common::{Server, SetOnDrop, agent, eventually, run};
use serde_json::Value;

/// Makes a key with `sightline key new`, and returns it with its line.
fn new_key(name: &str) -> (String, String) {
    let (code, stdout, stderr) = run(&["key", "new", name, "--json"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let made: Value = serde_json::from_str(&stdout).unwrap();
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    assert_eq!(text("line"), format!("{name} {}", text("sha256")));
    (text("key"), text("line"))
}

/// Replaces the key file in one step.
fn write(path: &Path, lines: &[&str]) {
    let next = path.with_extension("next");
    fs::write(&next, lines.join("\n")).unwrap();
    fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(next, path).unwrap();
}

/// Returns the status of a request with `key`.
fn status(server: &Server, key: &str) -> u16 {
    let request = agent().get(server.url("/v1/models"));
    let response = request.header("authorization", format!("Bearer {key}"));
    response.call().unwrap().status().as_u16()
}

#[test]
fn a_new_key_is_printed_with_its_line_and_a_wrong_name_is_an_error() {
    let (code, stdout, _) = run(&["key", "new", "web-shop"]);
    assert_eq!(code, Some(0));
    let lines: Vec<&str> = stdout
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let [key, line] = lines[..] else {
        panic!("{stdout}")
    };
    assert!(key.starts_with("sl_") && key.len() == 46, "{key}");
    let (name, sha256) = line.split_once(' ').unwrap();
    assert_eq!((name, sha256.len()), ("web-shop", 64));
    for wrong in ["a b", "", "../x"] {
        let (code, _, stderr) = run(&["key", "new", wrong]);
        assert_eq!(code, Some(2));
        assert!(stderr.contains("1 to 64 letters"), "{stderr}");
    }
}

#[test]
fn a_wrong_key_file_stops_the_start_with_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let (secret, line) = new_key("a");
    let twice = format!("{line}\n{line}");
    let cases = [
        (twice.as_str(), "line 2: the name is that of line 1"),
        (&line[..line.len() - 1], "line 1: expected the SHA-256 hash"),
        (&format!("a {secret}"), "look like a key"),
        (&format!("{line} rate=fast"), "line 1: `rate` must be"),
        ("# no key", "has no API key"),
    ];
    let start = |path: &Path| {
        let args = ["serve", "--listen", "127.0.0.1:0", "--api-keys"];
        run(&[&args[..], &[path.to_str().unwrap()]].concat())
    };
    for (text, message) in cases {
        fs::write(&path, text).unwrap();
        let (code, stdout, stderr) = start(&path);
        assert_eq!((code, stdout.as_str()), (Some(64), ""), "{stderr}");
        assert!(stderr.contains(message), "{stderr}");
        assert!(!stderr.contains(&secret), "{stderr}");
    }
    let (code, _, stderr) = start(&folder.path().join("none"));
    assert_eq!(code, Some(64));
    assert!(stderr.contains("No such file"), "{stderr}");
}

#[test]
fn the_log_has_the_names_of_keys_and_never_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let (key, line) = new_key("web-shop");
    fs::write(&path, line).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let path = path.to_str().unwrap();
    let server = Server::start(&["--log-format", "json", "--log", "trace", "--api-keys", path]);
    assert_eq!(status(&server, &key), 200);
    let wrong = "sl_this-key-is-wrong";
    assert_eq!(status(&server, wrong), 401);
    let request = agent().get(server.url("/v1/models"));
    let response = request.header("x-api-key", &key).call().unwrap();
    assert_eq!(response.status(), 200);
    let request = agent()
        .get(server.url("/v1/models"))
        .header("x-api-key", wrong);
    assert_eq!(request.call().unwrap().status(), 401);
    server.terminate();
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(
        !log.contains(&key) && !log.contains(wrong),
        "a key is in the log"
    );
    let records = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let records: Vec<Value> = records.collect();
    let access = records.iter().filter(|event| {
        event["target"] == "sightline::access" && event["span"]["route"] == "/v1/models"
    });
    let seen: Vec<_> = access
        .map(|event| {
            (
                event["fields"]["status"].as_u64(),
                event["span"]["key"].as_str(),
            )
        })
        .collect();
    let (ok, wrong) = ((Some(200), Some("web-shop")), (Some(401), None));
    assert_eq!(seen, [ok, wrong, ok, wrong]);
    let warned = records.iter().any(|event| event["fields"]["mode"] == "644");
    assert!(warned, "the file can be read by every user");
}

#[test]
fn keys_rotate_under_load_without_a_failed_request_and_a_wrong_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let (first, mut line) = new_key("client-0");
    write(&path, &[&line]);
    let server = Server::start(&["--api-keys", path.to_str().unwrap()]);
    let current = Mutex::new(first);
    let (sent, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let client = || {
        let agent = agent();
        let mut failed = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let key = current.lock().unwrap().clone();
            let request = agent.get(server.url("/v1/models")).header("x-api-key", key);
            match request.call() {
                Ok(response) if response.status() == 200 => {}
                other => failed.push(format!("{other:?}")),
            }
            sent.fetch_add(1, Ordering::Relaxed);
        }
        failed
    };
    let rotate = |number: usize, line: &mut String| {
        let old_key = current.lock().unwrap().clone();
        let (key, next) = new_key(&format!("client-{number}"));
        write(&path, &[line, &next]);
        eventually("the new key is valid", || status(&server, &key) == 200);
        current.lock().unwrap().clone_from(&key);
        // A request that has read the old key before must be finished: each client sends two more.
        let before = sent.load(Ordering::Relaxed);
        eventually("the clients have the new key", || {
            sent.load(Ordering::Relaxed) > before + 20
        });
        write(&path, &[&next]);
        eventually("the old key is invalid", || {
            status(&server, &old_key) == 401
        });
        *line = next;
    };
    let failed: Vec<String> = std::thread::scope(|scope| {
        let _stop = SetOnDrop(&stop);
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
        for number in 1..=2 {
            rotate(number, &mut line);
        }
        write(&path, &[&line, "wrong"]);
        server.printed("line 2: expected `NAME SHA256`");
        let before = sent.load(Ordering::Relaxed);
        eventually("the old keys still apply", || {
            sent.load(Ordering::Relaxed) > before + 20
        });
        stop.store(true, Ordering::Relaxed);
        clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect()
    });
    assert!(failed.is_empty(), "{failed:?}");
    assert!(sent.into_inner() > 50);
    let request = agent().get(server.url("/metrics"));
    let key = current.into_inner().unwrap();
    let mut page = request.header("x-api-key", key).call().unwrap();
    let page = page.body_mut().read_to_string().unwrap();
    for line in [
        "sightline_key_reloads_total{result=\"success\"} 4",
        "sightline_key_reloads_total{result=\"failure\"} 1",
        "sightline_key_requests_total{key=\"client-2\",status=\"200\"}",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    assert!(!page.contains("key=\"client-0\""), "{page}");
}
