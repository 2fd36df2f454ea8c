//! Checks how `export` writes its files: which targets it accepts, what it leaves unchanged, and what
//! remains after a signal or a failed write.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::quantizing::{contents, names, text};
use crate::common::{self, PATIENCE, command, eventually, finish, path, run, sightline, tiny};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::tempdir;

const FILES: [&str; 3] = ["labels.txt", "model.onnx", "model.toml"];

/// Checks that `predict` loads the model at `path`.
fn loads(path: &Path) {
    let image = common::path("photos/coffee_500x375.jpg");
    let (code, _, stderr) = run(&["predict", "--model", text(path), text(&image)]);
    assert_eq!(code, Some(0), "{}: {stderr}", path.display());
}

/// Returns the error of an export to `out`, which must fail.
fn rejected(out: &Path) -> String {
    let (code, _, stderr) = run(&tiny::export_arguments(out));
    assert_eq!(code, Some(1), "{}: {stderr}", out.display());
    stderr
}

#[test]
fn an_export_replaces_its_own_files_and_keeps_all_others() {
    let directory = tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    // The parents of the output folder are created, and a slash at the end changes nothing.
    tiny::export(&at("new/models/birds/"));
    let birds = at("new/models/birds");
    assert_eq!(names(&birds), FILES);
    assert_eq!(birds.metadata().unwrap().mode() & 0o700, 0o700);

    fs::write(birds.join("notes.txt"), "mine").unwrap();
    symlink("/nowhere", birds.join("link")).unwrap();
    fs::write(at("victim"), "precious").unwrap();
    fs::remove_file(birds.join("model.onnx")).unwrap();
    symlink(at("victim"), birds.join("model.onnx")).unwrap();
    symlink(at("victim"), birds.join("model.onnx.part")).unwrap();
    let mode = fs::Permissions::from_mode(0o750);
    fs::set_permissions(&birds, mode).unwrap();
    tiny::export(&birds);
    let others = [
        "labels.txt",
        "link",
        "model.onnx",
        "model.onnx.part",
        "model.toml",
        "notes.txt",
    ];
    assert_eq!(names(&birds), others);
    assert_eq!(fs::read(birds.join("notes.txt")).unwrap(), b"mine");
    assert_eq!(
        fs::read_link(birds.join("link")).unwrap(),
        Path::new("/nowhere")
    );
    assert!(
        birds
            .join("model.onnx")
            .symlink_metadata()
            .unwrap()
            .is_file()
    );
    assert_eq!(fs::read(at("victim")).unwrap(), b"precious");
    assert_eq!(birds.metadata().unwrap().mode() & 0o777, 0o750);
    loads(&birds);

    // A folder with a subfolder cannot be exchanged, and its files are renamed one by one.
    fs::create_dir(birds.join("photos")).unwrap();
    fs::write(birds.join("photos/a.jpg"), "photo").unwrap();
    let inode = birds.metadata().unwrap().ino();
    tiny::export(&birds);
    assert_eq!(birds.metadata().unwrap().ino(), inode);
    assert_eq!(fs::read(birds.join("photos/a.jpg")).unwrap(), b"photo");
    loads(&birds);

    // A link to a folder stays a link.
    symlink("new/models/birds", at("alias")).unwrap();
    tiny::export(&at("alias"));
    assert!(at("alias").is_symlink());
    loads(&at("alias"));
    assert_eq!(names(&at("new/models")), ["birds"]);
}

#[test]
fn an_export_into_the_current_folder_stays_visible_there() {
    let directory = tempdir().unwrap();
    let folder = directory.path().join("birds");
    fs::create_dir(&folder).unwrap();
    let inode = folder.metadata().unwrap().ino();
    for _ in 0..2 {
        let mut export = sightline(&tiny::export_arguments(Path::new(".")));
        export.current_dir(&folder);
        let (code, _, stderr) = finish(export);
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!(names(&folder), FILES);
        assert_eq!(folder.metadata().unwrap().ino(), inode);
    }
    let manifest = fs::read_to_string(folder.join("model.toml")).unwrap();
    assert!(manifest.starts_with("name = \"birds\""), "{manifest}");
}

#[test]
fn two_models_share_a_folder() {
    let directory = tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    tiny::export(&at("one.onnx"));
    tiny::export(&at("two.onnx"));
    let files = [
        "one.labels.txt",
        "one.onnx",
        "one.toml",
        "two.labels.txt",
        "two.onnx",
        "two.toml",
    ];
    assert_eq!(names(directory.path()), files);
    loads(&at("one.onnx"));
    loads(&at("two.toml"));

    // The next writer completes the renames of a writer that was killed while it renamed, and removes
    // the stage of a writer that was killed earlier. Stages of living writers stay.
    let killed = at(".sightline-commit-0");
    fs::create_dir(&killed).unwrap();
    fs::rename(at("one.onnx"), killed.join("one.onnx")).unwrap();
    fs::write(at("one.onnx"), "an old graph").unwrap();
    fs::write(killed.join(".old-one.toml"), "old").unwrap();
    let abandoned = at(".sightline-stage-0");
    fs::create_dir(&abandoned).unwrap();
    fs::write(abandoned.join("one.onnx"), "half").unwrap();
    let living = at(".sightline-stage-1");
    fs::create_dir(&living).unwrap();
    let lock = fs::File::open(&living).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    tiny::export(&at("two.onnx"));
    assert_eq!(
        names(directory.path()),
        [&[".sightline-stage-1"], &files[..]].concat()
    );
    loads(&at("one.onnx"));
}

#[test]
fn targets_that_cannot_be_written_are_errors() {
    let directory = tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let fifo = |path: &Path| {
        let made = Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    };
    fifo(&at("pipe"));
    fifo(&at("birds.onnx"));
    fs::create_dir_all(at("folder/model.toml")).unwrap();
    fs::create_dir(at("piped")).unwrap();
    fifo(&at("piped/labels.txt"));
    symlink("nowhere", at("broken")).unwrap();
    // `names` would read the named pipes.
    let count = || fs::read_dir(directory.path()).unwrap().count();
    let before = count();
    let cases = [
        ("pipe", "pipe: Not a directory"),
        ("birds.onnx", "birds.onnx: a named pipe has this name"),
        ("folder", "folder/model.toml: a folder has this name"),
        ("piped", "piped/labels.txt: a named pipe has this name"),
        ("broken", "it is a symbolic link to nothing"),
        ("/dev/stdout", "/dev/stdout: Not a directory"),
        ("/", "no file name"),
    ];
    for (out, expected) in cases {
        let stderr = rejected(&at(out));
        assert!(stderr.contains(expected), "{out}: {stderr}");
    }
    assert_eq!(count(), before);
    assert_eq!(names(&at("folder")), ["model.toml"]);
}

#[test]
fn a_failed_write_leaves_the_old_model() {
    let directory = tempdir().unwrap();
    for out in ["birds", "birds.onnx"] {
        let out = directory.path().join(out);
        let model = || contents(if out.is_dir() { &out } else { directory.path() });
        tiny::export(&out);
        let before = model();
        // The limit is 100 KiB for each file.
        let export = sightline(&tiny::export_arguments(&out));
        let mut limited = Command::new("bash");
        limited.args(["-c", "ulimit -f 100; exec \"$@\"", "bash"]);
        limited.arg(export.get_program()).args(export.get_args());
        let (code, _, stderr) = finish(limited);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(".onnx: File too large"), "{stderr}");
        assert_eq!(model(), before);
        loads(&out);
    }
}

#[test]
fn a_second_writer_waits_and_signals_end_it() {
    let directory = tempdir().unwrap();
    for out in ["birds", "birds.onnx"] {
        let out = directory.path().join(out);
        tiny::export(&out);
        let folder = if out.is_dir() { &out } else { directory.path() };
        let before = names(directory.path());
        let lock = fs::File::open(folder).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let export = |folder: &Path| {
            let mut export = sightline(&tiny::export_arguments(&out));
            let stderr = fs::File::create(folder.join("stderr")).unwrap();
            export.stdout(Stdio::null()).stderr(stderr).spawn().unwrap()
        };
        let elsewhere = tempdir().unwrap();
        for signal in [Signal::INT, Signal::TERM] {
            let mut child = export(elsewhere.path());
            let said = || fs::read_to_string(elsewhere.path().join("stderr")).unwrap();
            eventually("the export waits", || {
                said().contains("waiting for another process")
            });
            let pid = Pid::from_child(&child);
            kill_process(pid, signal).unwrap();
            let status = command::wait(&mut child, PATIENCE);
            assert_eq!(status.signal(), Some(signal.as_raw()), "{}", said());
            assert_eq!(names(directory.path()), before);
        }
        let mut waiting = export(elsewhere.path());
        drop(lock);
        assert!(command::wait(&mut waiting, PATIENCE).success());
        assert_eq!(names(directory.path()), before);
    }
}

#[test]
fn the_manifest_has_the_hash_of_each_file() {
    let directory = tempdir().unwrap();
    let birds = directory.path().join("birds");
    tiny::export(&birds);
    let graph = fs::read(birds.join("model.onnx")).unwrap();
    let manifest = fs::read_to_string(birds.join("model.toml")).unwrap();
    let line = format!("sha256 = \"{}\"\n", sightline::manifest::sha256(&graph));
    assert!(manifest.contains(&line), "{manifest}");
    // Labels may be edited.
    fs::write(birds.join("labels.txt"), "a bird\n".repeat(10)).unwrap();
    loads(&birds);
    let image = path("photos/coffee_500x375.jpg");
    let predict = ["predict", "--model", text(&birds), text(&image)];
    fs::write(birds.join("model.onnx"), [&graph[..], b"\x7a\x00"].concat()).unwrap();
    let (code, _, stderr) = run(&predict);
    assert_eq!(code, Some(1), "{stderr}");
    for part in [
        "model.onnx",
        "but the manifest states",
        "remove `stages.sha256`",
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    fs::write(birds.join("model.toml"), manifest.replace(&line, "")).unwrap();
    loads(&birds);
}
