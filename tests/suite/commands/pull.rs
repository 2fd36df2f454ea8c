//! Checks `sightline pull`, `rm` and `serve --pull` with a server of the test's own, whose checkpoint has the SHA-256
//! prefix of an official one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::mirror::{Mirror, respond, serve};
use crate::common::{self, checkpoint, command, eventually, finish, run, sightline};
use crate::reference::shared::skip;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sightline::manifest::sha256;

const NAME: &str = "mobilenet_v3_small";
/// The last two values of the generated checkpoint, chosen so that the SHA-256 of the file starts as the official one.
const LAST: [u32; 2] = [0x3c7c_2810, 0x3c00_002a];
const PREFIX: &str = "047dcff4";
const FILE: &str = "mobilenet_v3_small-047dcff4.pth";

/// Writes the checkpoint to `path` and returns its bytes.
fn official(path: &Path) -> Vec<u8> {
    checkpoint::write(NAME, 1000, path);
    let mut bytes = fs::read(path).unwrap();
    let end = bytes.len() - 8;
    for (place, value) in bytes[end..].chunks_exact_mut(4).zip(LAST) {
        place.copy_from_slice(&value.to_le_bytes());
    }
    fs::write(path, &bytes).unwrap();
    assert!(
        sha256(&bytes).starts_with(PREFIX),
        "the generated weights have changed"
    );
    bytes
}

/// A folder for models and downloads.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).to_str().unwrap().to_owned()
    }

    /// Returns the flags for this folder and for `mirror`.
    fn flags(&self, mirror: &Mirror) -> [String; 8] {
        [
            "--models".to_owned(),
            self.text("models"),
            "--download-dir".to_owned(),
            self.text("cache"),
            "--ca".to_owned(),
            mirror.ca(),
            "--mirror".to_owned(),
            mirror.url("models"),
        ]
    }

    /// Returns the command `sightline COMMAND` with the flags of this folder and of `mirror`.
    fn command(&self, command: &[&str], mirror: &Mirror) -> Command {
        let mut built = sightline(command);
        built.args(self.flags(mirror));
        for proxy in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            built.env_remove(proxy);
        }
        built
    }

    fn entries(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.at(folder)) else {
            return Vec::new();
        };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

#[test]
fn a_model_is_pulled_listed_kept_and_removed() {
    let place = Place::new();
    let file = official(&place.at("source.pth"));
    let hash = sha256(&file);
    let sent = file.clone();
    let mirror = Mirror::start(Box::new(move |ask, number, to| {
        let most = if number == 0 { 4_000_000 } else { usize::MAX };
        serve(ask, &sent, most, to)
    }));
    let (code, stdout, stderr) = finish(place.command(&["pull", NAME], &mirror));
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(
        stdout.contains(&hash) && stdout.contains("BSD-3-Clause"),
        "{stdout}"
    );
    assert!(stderr.contains("was lost after 4000000 of"), "{stderr}");
    assert_eq!(place.entries("models"), [NAME]);
    assert_eq!(place.entries("cache"), [""; 0]);
    let asked = mirror.asked();
    assert_eq!(asked[0].path, format!("/models/{FILE}"));
    assert_eq!((asked.len(), asked[1].from), (2, Some(4_000_000)));

    let models = place.text("models");
    let (_, json, _) = run(&["models", NAME, "--json", "--models", &models]);
    let rows: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(rows[0]["license"], "BSD-3-Clause");
    assert!(rows[0]["here"].as_str().unwrap().ends_with("model.onnx"));
    let manifest = place.at("models").join(NAME).join("model.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    assert!(
        text.contains("training_data = \"ImageNet-1K\"") && text.contains(FILE),
        "{text}"
    );

    // What is there is not fetched, also without a certificate.
    let again = ["pull", NAME, "--models", &models, "--ca", "/nowhere"];
    let (code, stdout, _) = run(&again);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("installed already"), "{stdout}");
    assert_eq!(mirror.asked().len(), 2);

    // A model of other weights is not replaced, one whose files are missing is.
    fs::write(&manifest, text.replace(&hash, &sha256(b"other"))).unwrap();
    let from = place.text("source.pth");
    let local = ["pull", NAME, "--models", &models, "--from", &from];
    let (code, _, stderr) = run(&local);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("sightline rm") && stderr.contains("--force"),
        "{stderr}"
    );
    fs::write(&manifest, &text).unwrap();
    fs::remove_file(manifest.with_file_name("model.onnx")).unwrap();
    let (code, stdout, stderr) = run(&local);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(manifest.with_file_name("model.onnx").exists());

    fs::write(manifest.with_file_name("notes.txt"), "mine").unwrap();
    let (code, stdout, stderr) = run(&["rm", NAME, "--models", &models]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stdout.contains("kept") && stdout.contains("notes.txt"),
        "{stdout}"
    );
    assert_eq!(place.entries(&format!("models/{NAME}")), ["notes.txt"]);
    let (code, _, stderr) = run(&["rm", NAME, "--models", &models]);
    assert_eq!(code, Some(1), "{stderr}");
}

#[test]
fn a_stop_keeps_what_has_arrived_and_two_pulls_take_turns() {
    let place = Place::new();
    let file = official(&place.at("source.pth"));
    let slow = Arc::new(AtomicBool::new(true));
    let waits = Arc::clone(&slow);
    let mirror = Mirror::start(Box::new(move |ask, _, to| {
        if !waits.load(Ordering::SeqCst) {
            return serve(ask, &file, usize::MAX, to);
        }
        serve(ask, &file, 3_000_000, to)?;
        to.flush()?;
        std::thread::sleep(Duration::from_secs(20));
        Ok(())
    }));
    let mut child = place
        .command(&["pull", NAME], &mirror)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let part = place.at("cache").join(format!("{FILE}.part"));
    eventually("3 MB have arrived", || {
        fs::metadata(&part).is_ok_and(|part| part.len() == 3_000_000)
    });
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let status = command::wait(&mut child, common::PATIENCE);
    assert_eq!(
        status.code(),
        None,
        "ended by the signal, as a shell expects"
    );
    assert_eq!(place.entries("models"), [""; 0]);
    slow.store(false, Ordering::SeqCst);
    let mut pulls: Vec<_> = (0..2)
        .map(|_| {
            let mut command = place.command(&["pull", NAME], &mirror);
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for pull in &mut pulls {
        assert!(command::wait(pull, common::PATIENCE).success());
    }
    let asked = mirror.asked();
    assert_eq!((asked.len(), asked[1].from), (2, Some(3_000_000)));
    assert_eq!(place.entries("models"), [NAME]);
    assert_eq!(place.entries("cache"), [""; 0]);
}

#[test]
fn a_server_that_pulls_can_be_stopped() {
    let place = Place::new();
    let mirror = Mirror::start(Box::new(|ask, _, to| {
        serve(ask, &vec![0; 10_000_000], 100_000, to)?;
        to.flush()?;
        std::thread::sleep(Duration::from_secs(20));
        Ok(())
    }));
    let serves = ["serve", "--pull", NAME, "--listen", "127.0.0.1:0"];
    let mut child = place.command(&serves, &mirror).spawn().unwrap();
    let part = place.at("cache").join(format!("{FILE}.part"));
    eventually("100 kB have arrived", || {
        fs::metadata(&part).is_ok_and(|part| part.len() == 100_000)
    });
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(command::wait(&mut child, common::PATIENCE).code(), Some(0));
    assert_eq!(place.entries("models"), [""; 0]);
}

#[test]
fn failures_leave_the_models_directory_alone() {
    let place = Place::new();
    let mirror = Mirror::start(Box::new(|_, _, to| {
        let page = "content-type: text/html\r\ncontent-length: 0\r\n";
        respond(to, "200 OK", page, b"")
    }));
    let fails = |mut command: Command, code: i32, expected: &str| {
        command.env("NO_PROXY", "*");
        let (got, _, stderr) = finish(command);
        assert_eq!(got, Some(code), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
        assert_eq!(place.entries("models"), [""; 0]);
    };
    fails(place.command(&["pull", NAME], &mirror), 1, "a web page");
    fails(
        place.command(&["pull", "mobilenet_v3_smal"], &mirror),
        1,
        "did you mean",
    );
    fails(
        place.command(&["pull", &format!("{NAME}@int8")], &mirror),
        1,
        "--calibration",
    );
    fails(place.command(&["pull"], &mirror), 2, "required");
    let both = ["pull", NAME, "mobilenet_v2"];
    fails(
        place.command(&both, &mirror),
        1,
        "2 of 2 models were not pulled",
    );
    let library = ["pull", NAME, "--onnxruntime", "/nowhere/lib.so"];
    let before = mirror.asked().len();
    fails(place.command(&library, &mirror), 1, "/nowhere/lib.so");
    assert_eq!(mirror.asked().len(), before, "checked before the download");
    let plain = ["pull", NAME, "--from", "http://example.org/x.pth"];
    fails(place.command(&plain, &mirror), 1, "--allow-http");
    fs::write(place.at("x.pth"), "no checkpoint").unwrap();
    let from = place.text("x.pth");
    let wrong = ["pull", NAME, "--from", &from];
    fails(
        place.command(&wrong, &mirror),
        1,
        "expected one that starts with 047dcff4",
    );
    let (code, stdout, _) = finish(place.command(&["pull", "efficientnet_lite0"], &mirror));
    assert_eq!(code, Some(0));
    assert!(stdout.contains("built in"), "{stdout}");
}

#[test]
fn a_full_disk_is_an_error_and_the_part_is_continued() {
    let place = Place::new();
    let file = official(&place.at("source.pth"));
    let mirror = Mirror::start(Box::new(move |ask, _, to| {
        serve(ask, &file, usize::MAX, to)
    }));
    let pull = place.command(&["pull", NAME], &mirror);
    let mut limited = Command::new("sh");
    // A limit on the size of files has the same effect on writes as a full disk.
    limited
        .args(["-c", "ulimit -f 4096; exec \"$0\" \"$@\""])
        .arg(pull.get_program());
    limited.args(pull.get_args()).stdin(Stdio::null());
    let (code, _, stderr) = finish(limited);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("cannot write") && stderr.contains(".part"),
        "{stderr}"
    );
    assert_eq!(place.entries("models"), [""; 0]);
    let (code, _, stderr) = finish(pull);
    assert_eq!(code, Some(0), "{stderr}");
    let from = mirror.asked()[1].from.unwrap();
    assert!(from > 0 && from <= 4096 * 1024, "{from}");
}

#[test]
fn a_disk_without_room_is_an_error_before_the_download() {
    let mut mount = Command::new("unshare");
    let flags = ["--user", "--map-root-user", "--mount", "sh", "-c"];
    mount.args(flags).arg("mount -t tmpfs none /mnt");
    let works = mount.stderr(Stdio::null()).status();
    if !works.is_ok_and(|status| status.success()) {
        let reason = "this machine does not allow a file system of the test's own (unshare, mount)";
        skip::announce("free space before a download", reason);
        return;
    }
    let place = Place::new();
    let file = official(&place.at("source.pth"));
    let size = file.len();
    let mirror = Mirror::start(Box::new(move |ask, _, to| {
        serve(ask, &file, usize::MAX, to)
    }));
    fs::create_dir(place.at("cache")).unwrap();
    let pull = place.command(&["pull", NAME], &mirror);
    let mut small = Command::new("unshare");
    // The mount is that of this process alone, and ends with it.
    let script = "mount -t tmpfs -o size=1m none \"$CACHE\" && \"$0\" \"$@\"; code=$?; ls \"$CACHE\"; exit $code";
    small.args(flags).arg(script).arg(pull.get_program());
    small.args(pull.get_args()).env("CACHE", place.at("cache"));
    for (name, value) in pull.get_envs() {
        match value {
            Some(value) => small.env(name, value),
            None => small.env_remove(name),
        };
    }
    let (code, stdout, stderr) = finish(small);
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(
        stderr.contains("too little space") && stderr.contains("--download-dir"),
        "{stderr}"
    );
    assert!(
        stderr.contains(&format!("needs {size} bytes more")),
        "{stderr}"
    );
    assert!(!stdout.contains(&format!("{FILE}.part.json")), "{stdout}");
    assert_eq!(
        mirror.asked().len(),
        1,
        "another attempt would change nothing"
    );
    assert_eq!(place.entries("models"), [""; 0]);
}

#[test]
fn a_model_is_pulled_and_quantized() {
    let place = Place::new();
    let file = official(&place.at("source.pth"));
    let mirror = Mirror::start(Box::new(move |ask, _, to| {
        serve(ask, &file, usize::MAX, to)
    }));
    let photos = place.at("photos");
    fs::create_dir(&photos).unwrap();
    for name in ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"] {
        fs::write(photos.join(name), common::photo(name)).unwrap();
    }
    let int8 = format!("{NAME}@int8");
    let pull = ["pull", &int8, "--calibration", photos.to_str().unwrap()];
    let (code, stdout, stderr) = finish(place.command(&pull, &mirror));
    if stderr.contains("the int8 model is not faster on this CPU") {
        let begin = format!("{NAME} is installed in fp32, but not as {int8}");
        assert!(code == Some(1) && stderr.contains(&begin), "{stderr}");
        skip::announce("pull of an int8 model", "int8 is not faster on this CPU");
        return;
    }
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let model = place.at("models").join(NAME);
    for name in ["model.onnx", "model.int8.onnx", "model.int8.report.txt"] {
        assert!(model.join(name).exists(), "{name}");
    }
    assert_eq!(place.entries("cache"), [""; 0]);
    let (code, stdout, stderr) = finish(place.command(&pull, &mirror));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stdout.contains("installed already") && stdout.contains("int8 is installed already"),
        "{stdout}"
    );
    assert_eq!(mirror.asked().len(), 1);
    let server = common::Server::start(&["--models", &place.text("models")]);
    let served = server.get(&format!("/v1/models/{int8}")).json();
    assert_eq!(served["precision"], "int8");
    assert_eq!(served["provenance"]["license"], "BSD-3-Clause");
}

#[test]
fn serve_pulls_before_it_serves() {
    let place = Place::new();
    let file = official(&place.at("source.pth"));
    let mirror = Mirror::start(Box::new(move |ask, _, to| {
        serve(ask, &file, usize::MAX, to)
    }));
    let flags = place.flags(&mirror);
    let flags = flags.iter().map(String::as_str);
    let flags: Vec<&str> = flags.chain(["--pull", NAME]).collect();
    for _ in 0..2 {
        let server = common::Server::start(&flags);
        let served = server.get("/v1/models").json();
        assert_eq!(served["models"][0]["name"], NAME);
        assert_eq!(served["models"][0]["provenance"]["license"], "BSD-3-Clause");
    }
    assert_eq!(mirror.asked().len(), 1);
    let (code, _, stderr) = run(&[
        "serve",
        "--pull",
        "resnet18@int8",
        "--listen",
        "127.0.0.1:0",
    ]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("sightline pull resnet18@int8"), "{stderr}");
}

#[test]
fn doctor_judges_this_machine() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, stdout, stderr) = run(&["doctor", "--json", "--listen", &address]);
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stderr.contains("checks failed"), "{stderr}");
    let checks: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    let names: Vec<&str> = checks
        .iter()
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    let expected = [
        "cpu",
        "cores",
        "memory",
        "open files",
        "clock",
        "onnxruntime",
        "models",
        "address",
    ];
    assert_eq!(names, expected);
    assert_eq!(checks[7]["verdict"], "failure");
    assert!(
        checks
            .iter()
            .all(|check| (check["verdict"] == "ok") == check["fix"].is_null())
    );
    drop(taken);
    let (code, stdout, stderr) = run(&["doctor", "--listen", &address]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| format!("unix:{}", folder.path().join(path).display());
    std::fs::write(folder.path().join("file"), "").unwrap();
    for (path, expected) in [
        ("a.sock", None),
        ("file", Some("not a socket")),
        ("nowhere/a.sock", Some("nowhere cannot be used")),
    ] {
        let (code, stdout, _) = run(&["doctor", "--listen", &at(path)]);
        assert_eq!(
            code,
            Some(i32::from(expected.is_some())),
            "{path}: {stdout}"
        );
        assert!(
            stdout.contains(expected.unwrap_or("not in use")),
            "{stdout}"
        );
    }
    let (code, stdout, _) = run(&["doctor", "--models", "/nowhere", "--listen", &address]);
    assert_eq!(code, Some(1));
    assert!(
        stdout.contains("FAILURE") && stdout.contains("/nowhere"),
        "{stdout}"
    );
}
