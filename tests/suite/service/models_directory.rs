//! Checks that `--models` serves what is in the directory, or that the start fails and says why.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::common::{Server, finish, path, photo, run, sightline, tiny};
use crate::reference::shared::skip;
use serde_json::Value;

/// User id of the container image.
const OTHER_USER: &str = "65532";

/// Creates the file `path` with `content`, and its folder.
fn write(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Returns the names of the models that the server lists, without their variants.
fn names(server: &Server) -> Vec<String> {
    let listed = server.get("/v1/models").json();
    let models = listed["models"].as_array().unwrap().iter();
    let mut names: Vec<String> = models
        .map(|model| model["name"].as_str().unwrap().to_owned())
        .collect();
    names.dedup();
    names
}

#[test]
fn a_broken_models_directory_stops_the_start() {
    // Content of the models directory, if it exists, and a text of the error in which DIR is the directory.
    type Make = fn(&Path);
    let cases: [(Make, &str); 9] = [
        (|_| (), "the models directory DIR does not exist"),
        (
            |at| fs::write(at, "").unwrap(),
            "the models directory DIR is a file",
        ),
        (
            |at| fs::create_dir(at).unwrap(),
            "the models directory DIR has no model: `sightline export NAME --weights FILE -o DIR/NAME`",
        ),
        (
            |at| write(&at.join("README.md"), "text"),
            "has no model, only README.md",
        ),
        (
            |at| fs::create_dir_all(at.join("birds")).unwrap(),
            "DIR/birds is empty",
        ),
        (
            |at| write(&at.join("birds/model.onnx"), "graph"),
            "`sightline inspect DIR/birds/model.onnx` prints a manifest",
        ),
        (
            |at| write(&at.join("birds.onnx"), "graph"),
            "`sightline inspect DIR/birds.onnx` prints a manifest",
        ),
        (
            |at| write(&at.join("birds/model.toml"), "name = 7"),
            "cannot use manifest DIR/birds/model.toml: the model manifest cannot be parsed: TOML parse error",
        ),
        (
            |at| write(&at.join("animals/birds/model.toml"), ""),
            "or pass --models DIR/animals",
        ),
    ];
    for (make, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let models = folder.path().join("models");
        make(&models);
        let models = models.to_str().unwrap();
        let expected = expected.replace("DIR", models);
        let photo = path("photos/coffee.png");
        for args in [
            &["serve", "--listen", "127.0.0.1:0", "--models", models][..],
            &["predict", "--models", models, photo.to_str().unwrap()],
            &["bench", "--models", models],
        ] {
            let (code, stdout, stderr) = run(args);
            assert_eq!(
                (code, stdout.as_str()),
                (Some(64), ""),
                "{args:?}: {stderr}"
            );
            assert!(stderr.contains(&expected), "{args:?}: {expected}: {stderr}");
        }
    }
    let gone = [
        "serve",
        "--models",
        "/gone",
        "--model",
        "efficientnet_lite0",
    ];
    let (code, _, stderr) = run(&gone);
    assert_eq!(code, Some(64), "{stderr}");
    assert!(stderr.contains("/gone does not exist"), "{stderr}");
    assert_eq!(run(&["models", "--models", "/gone"]).0, Some(64));
}

/// Returns a command that runs `sightline ARGS...` as a user without privileges. `None`, announced as skipped, if that
/// is not possible.
fn unprivileged(args: &[&str]) -> Option<Command> {
    let as_user = |args: &[&str]| {
        let inner = sightline(args);
        let user = [
            format!("--reuid={OTHER_USER}"),
            format!("--regid={OTHER_USER}"),
        ];
        let mut command = Command::new("setpriv");
        command
            .args(user)
            .arg("--clear-groups")
            .arg(inner.get_program());
        command.args(inner.get_args());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    };
    if !rustix::process::geteuid().is_root() {
        return Some(sightline(args));
    }
    // The binary may be in a folder that the user cannot read.
    let works = as_user(&["--version"]).output();
    if works.is_ok_and(|output| output.status.success()) {
        return Some(as_user(args));
    }
    skip::announce(
        "folders_that_cannot_be_read_stop_the_start",
        "setpriv cannot run the binary as another user",
    );
    None
}

#[test]
fn folders_that_cannot_be_read_stop_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    for name in ["birds", "cats", "dogs"] {
        write(&models.join(name).join("model.toml"), "name = 7");
    }
    let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    open(folder.path(), 0o755);
    let place = models.to_str().unwrap();
    let args = ["serve", "--listen", "127.0.0.1:0", "--models", place];
    let Some(command) = unprivileged(&args) else {
        return;
    };
    // The mode 000 also denies the owner, who runs the test if it is not root.
    let lost = models.join("lost+found");
    fs::create_dir(&lost).unwrap();
    for closed in [
        &models.join("birds"),
        &models.join("cats/model.toml"),
        &lost,
    ] {
        open(closed, 0o000);
    }
    let owner = models.metadata().unwrap().uid();
    let user = match rustix::process::geteuid() {
        root if root.is_root() => OTHER_USER.to_owned(),
        user => user.as_raw().to_string(),
    };
    let (code, _, stderr) = finish(command);
    assert_eq!(code, Some(64), "{stderr}");
    for text in [
        "3 entries cannot be served".to_owned(),
        format!("cannot read {place}/birds: permission denied for user {user}"),
        format!("{place}/birds has mode 0000 and belongs to user {owner}"),
        format!("`chmod -R a+rX {place}/birds`"),
        format!("`chmod a+r {place}/cats/model.toml`"),
        format!("cannot use manifest {place}/dogs/model.toml"),
    ] {
        assert!(stderr.contains(&text), "{text}: {stderr}");
    }
    assert!(!stderr.contains("lost+found"), "{stderr}");

    for mode in [0o000, 0o444] {
        open(&models, mode);
        let (code, _, stderr) = finish(unprivileged(&args).unwrap());
        assert_eq!(code, Some(64), "{stderr}");
        let text = format!("cannot read {place}: permission denied for user {user}");
        assert!(stderr.contains(&text), "{stderr}");
        assert!(
            stderr.contains(&format!("`chmod -R a+rX {place}`")),
            "{stderr}"
        );
    }
    open(&models, 0o755);
    open(&models.join("birds"), 0o755);
    open(&lost, 0o755);
}

#[test]
fn the_models_of_the_directory_are_served_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let models = directory.path().to_str().unwrap();
    tiny::export(&directory.path().join("birds"));
    for clutter in [
        "README.md",
        ".git/config",
        "lost+found/x",
        "notes/a.txt",
        ".hidden.onnx",
    ] {
        write(&directory.path().join(clutter), "text");
    }
    let server = Server::start(&["--models", models]);
    assert_eq!(names(&server), ["birds"]);
    let image = photo("coffee_500x375.jpg");
    let built_in = server.classify("?model=efficientnet_lite0", &image);
    assert_eq!(
        (built_in.status, built_in.code().as_str()),
        (404, "unknown_model")
    );
    let none = server.post("/v1/detect", "image/jpeg", &image);
    assert_eq!((none.status, none.code().as_str()), (404, "no_model"));
    let detail = none.json()["detail"].as_str().unwrap().to_owned();
    for text in [
        "no detection model",
        "sightline models",
        "sightline export",
        "--models",
    ] {
        assert!(detail.contains(text), "{detail}");
    }
    server.printed("folder of the models directory has no model.toml and is ignored");
    drop(server);
    let both = ["--models", models, "--model", "efficientnet_lite0,birds"];
    let server = Server::start(&both);
    assert_eq!(names(&server), ["efficientnet_lite0", "birds"]);
    drop(server);

    let photo = path("photos/coffee.png");
    let predict = [
        "predict",
        "--json",
        "--models",
        models,
        photo.to_str().unwrap(),
    ];
    let (code, stdout, stderr) = run(&predict);
    assert_eq!(code, Some(0), "{stderr}");
    let answer: Value = serde_json::from_str(&stdout).unwrap();
    let label = answer["predictions"][0]["label"].as_str().unwrap();
    assert!(label.starts_with("class "), "{stdout}");
    let manifest = fs::read_to_string(directory.path().join("birds/model.toml")).unwrap();
    let manifest = manifest.replace("name = \"birds\"", "name = \"alpaca\"");
    write(&directory.path().join("alpaca/model.toml"), &manifest);
    for file in ["model.onnx", "labels.txt"] {
        let from = directory.path().join("birds").join(file);
        fs::copy(from, directory.path().join("alpaca").join(file)).unwrap();
    }
    let (code, _, stderr) = run(&predict);
    assert_eq!(code, Some(64), "{stderr}");
    assert!(
        stderr.contains("the name of a model (alpaca, birds)"),
        "{stderr}"
    );
}

#[test]
fn the_default_directory_may_be_empty_but_not_broken() {
    let data = tempfile::tempdir().unwrap();
    let models = data.path().join("sightline/models");
    fs::create_dir_all(&models).unwrap();
    let photo = path("photos/coffee.png");
    let predict = || {
        let mut command = sightline(&["predict", photo.to_str().unwrap()]);
        command.env("XDG_DATA_HOME", data.path());
        finish(command)
    };
    let (code, stdout, stderr) = predict();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("espresso"), "{stdout}");
    tiny::export(&models.join("birds"));
    let (code, stdout, stderr) = predict();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("class "), "{stdout}");
    fs::remove_file(models.join("birds/model.toml")).unwrap();
    let (code, _, stderr) = predict();
    assert_eq!(code, Some(64), "{stderr}");
    assert!(
        stderr.contains("birds has model.onnx but no model.toml"),
        "{stderr}"
    );
    let mut serve = sightline(&["serve", "--listen", "127.0.0.1:0"]);
    serve.env("XDG_DATA_HOME", data.path());
    let (code, _, stderr) = finish(serve);
    assert_eq!(code, Some(64), "{stderr}");
    assert!(
        stderr.contains("birds has model.onnx but no model.toml"),
        "{stderr}"
    );
}

#[test]
fn a_broken_model_does_not_hide_the_others_from_the_list() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().to_str().unwrap();
    tiny::export(&folder.path().join("tiny"));
    std::fs::create_dir(folder.path().join("broken")).unwrap();
    for json in [false, true] {
        let flags: &[&str] = if json { &["--json"] } else { &[] };
        let (code, stdout, stderr) = run(&[&["models", "--models", models], flags].concat());
        assert_eq!(code, Some(64), "{stderr}");
        assert!(stdout.contains("tiny"), "{stdout}");
        assert!(stderr.contains("broken is empty: remove it"), "{stderr}");
    }
    // The model that is named is not broken.
    let (code, stdout, stderr) = run(&["models", "tiny", "--models", models]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    let (code, _, stderr) = run(&["models", "broken", "--models", models]);
    assert_eq!(code, Some(64), "{stderr}");
}
