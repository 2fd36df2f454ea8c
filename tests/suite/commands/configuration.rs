//! Checks the configuration file of `serve`: what it accepts, and how it is printed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{self, Server, finish, run, sightline};
use serde_json::Value;
use tempfile::TempDir;

/// A folder with a configuration file.
struct Config {
    _folder: TempDir,
    path: String,
}

impl Config {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sightline.toml");
        std::fs::write(&path, text).unwrap();
        Self {
            path: path.to_str().unwrap().to_owned(),
            _folder: folder,
        }
    }
}

/// Runs `sightline serve --print-config ARGS...` and returns its output.
fn printed(args: &[&str]) -> String {
    let (code, stdout, stderr) = run(&[&["serve", "--print-config"], args].concat());
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{args:?}");
    stdout
}

#[test]
fn the_printed_configuration_is_a_complete_file_with_the_same_settings() {
    let flags = [
        "--listen",
        ":9000",
        "--model",
        "a@int8,b",
        "--memory-budget",
        "1GiB",
        "--max-images",
        "3",
        "--follow-symlinks",
        "--log",
        "warn",
        "--log-format",
        "json",
        "--default-model",
        "classification=a,detection=b@int8",
        "--access-log",
        "errors",
    ];
    for args in [&flags[..], &[]] {
        let first = printed(args);
        let file = Config::new(&first);
        assert_eq!(printed(&["--config", &file.path]), first);
        let values: toml::Table = toml::from_str(&first).unwrap();
        assert_eq!(values["max_pixels"].as_integer(), Some(50_000_000));
    }
    let text = printed(&flags);
    for expected in [
        "\nlisten = \"0.0.0.0:9000\"\n",
        "\nmodel = [\"a@int8\", \"b\"]\n",
        "\nmemory_budget = 1073741824\n",
        "\nfollow_symlinks = true\n",
        "\nlog = \"warn\"\n",
        "\naccess_log = \"errors\"\n",
        "\ndefault_models = { classification = \"a\", detection = \"b@int8\" }\n",
        "\nlog_format = \"json\"\n",
        "\n# admin_listen = \"ADDR\"\n",
        "\n# threads = ",
        "[default: 127.0.0.1:8080]\n# Environment: SIGHTLINE_LISTEN\n",
        "[default: 32]\n# Environment: SIGHTLINE_MAX_IMAGES\nmax_images = 3\n",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    // Every flag of `serve` is a key, except the flags that are about the file itself, and those of the download before
    // the start, which `pull` has as well.
    let others = ["config", "print_config", "help"];
    let download = ["pull", "mirror", "ca", "download_dir", "allow_http"];
    let others = [&others[..], &download].concat();
    let (_, help, _) = run(&["serve", "--help"]);
    let flags = help.lines().filter_map(|line| {
        let flag = line.trim().split_once("--")?.1;
        let end = flag.find(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        let starts = line.trim_start().starts_with("--") || line.trim_start().starts_with("-h");
        starts.then(|| flag[..end.unwrap_or(flag.len())].replace('-', "_"))
    });
    // A key can have an ending that its flag has not: each flag sets one element of a list.
    for flag in flags.filter(|flag| !others.contains(&flag.as_str())) {
        let (set, unset) = (format!("\n{flag}"), format!("\n# {flag}"));
        assert!(text.contains(&set) || text.contains(&unset), "{flag}");
    }
}

#[test]
fn the_log_settings_of_the_file_apply_to_the_first_event() {
    let file = Config::new("log = \"warn\"\nlog_format = \"json\"\nthreads = 0");
    let mut command = sightline(&["serve", "--config", &file.path]);
    command.env("SIGHTLINE_LISEN", "1");
    let (code, _, stderr) = finish(command);
    assert_eq!(code, Some(64), "{stderr}");
    let events: Vec<Value> = stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.len(), 2, "{stderr}");
    assert_eq!(events[0]["fields"]["did_you_mean"], "SIGHTLINE_LISTEN");
    let error = events[1]["fields"]["error"].as_str().unwrap();
    assert!(error.contains("`threads`: expected 1 to"), "{error}");
    // A flag overrides the file.
    let args = ["serve", "--config", &file.path, "--log-format", "text"];
    let (_, _, stderr) = run(&args);
    assert!(stderr.starts_with("error: `threads`"), "{stderr}");
    let (code, _, stderr) = run(&["models", "--log", "sightline=loud"]);
    assert_eq!(code, Some(64), "{stderr}");
    assert!(
        stderr.contains("expected a filter, such as `info`"),
        "{stderr}"
    );
    // The error is logged, although the filter would match no event.
    let args = ["serve", "--log", "debgu", "--log-format", "json"];
    let (code, _, stderr) = run(&args);
    assert_eq!(code, Some(64), "{stderr}");
    assert!(stderr.contains("did you mean `debug`?"), "{stderr}");
}

#[test]
fn errors_in_the_file_name_the_line_and_the_nearest_key() {
    let cases = [
        (
            "\nlistem = 1",
            "line 2: unknown key `listem`; did you mean `listen`?",
        ),
        ("max_images = \"x\"", "expected a whole number"),
        ("listen = \"here\"", "such as 127.0.0.1:8080"),
        ("max_images = 0", "`max_images`: expected 1 to 1024, got 0"),
        ("listen = 0.5", "line 1"),
    ];
    for (text, expected) in cases {
        let file = Config::new(text);
        for command in [&["serve"][..], &["config", "check"]] {
            let args = [command, &["--config", &file.path]].concat();
            let (code, _, stderr) = run(&args);
            assert_eq!(code, Some(64), "{stderr}");
            assert!(stderr.contains(expected), "{expected}: {stderr}");
            assert!(!stderr.contains("usize"), "{stderr}");
        }
    }
    let (code, _, stderr) = run(&["serve", "--listen", "127.0.0.1"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("such as 127.0.0.1:8080"), "{stderr}");
}

#[test]
fn a_server_listens_on_a_host_name() {
    let server = Server::launch(&["--listen", "localhost:0"]);
    assert_eq!(server.address.ip().to_string(), "127.0.0.1");
    drop(server);
    let (code, _, stderr) = run(&["serve", "--listen", "host.invalid:80"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("cannot resolve `--listen host.invalid:80`"),
        "{stderr}"
    );
}

/// Runs `scripts/install.sh WHAT` for the tested binary with the prefix `/opt/x` below `root`.
fn install(what: &str, root: &Path) -> String {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(checkout.join("scripts/install.sh"));
    let output = command
        .arg(what)
        .env("DESTDIR", root)
        .env("PREFIX", "/opt/x")
        .env("BINARY", env!("CARGO_BIN_EXE_sightline"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns the files below `folder`, relative to it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn an_installed_binary_finds_onnx_runtime_also_through_a_link() {
    let root = tempfile::tempdir().unwrap();
    let stdout = install("install", root.path());
    assert!(stdout.contains("opt/x/bin/sightline"), "{stdout}");
    let binary = root.path().join("opt/x/bin/sightline");
    let link = root.path().join("link");
    std::os::unix::fs::symlink(&binary, &link).unwrap();
    let photo = common::path("photos/coffee_500x375.jpg");
    for program in [&binary, &link] {
        let mut command = Command::new(program);
        command
            .arg("predict")
            .arg(&photo)
            .current_dir(root.path())
            .env_remove("ORT_DYLIB_PATH")
            .env("XDG_DATA_HOME", "/nonexistent");
        let (code, stdout, stderr) = finish(command);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stdout.contains("espresso"), "{stdout}");
    }
    let library = root.path().join("opt/x/lib/sightline/libonnxruntime.so");
    std::fs::write(&library, "not a library").unwrap();
    let fails = |args: &[&str]| {
        let mut command = Command::new(&binary);
        command
            .args(args)
            .arg(&photo)
            .current_dir(root.path())
            .env_remove("ORT_DYLIB_PATH");
        let (code, _, stderr) = finish(command);
        assert_eq!(code, Some(1), "{stderr}");
        stderr
    };
    let message = fails(&["predict"]);
    assert!(
        message.contains("got a file that is not a library"),
        "{message}"
    );
    let message = fails(&["predict", "--onnxruntime", "/usr"]);
    assert!(message.contains("which is a folder"), "{message}");

    let left = |path: &&PathBuf| **path != link;
    install("uninstall", root.path());
    let remaining = files(root.path());
    assert_eq!(remaining.iter().filter(left).count(), 0, "{remaining:?}");
}
