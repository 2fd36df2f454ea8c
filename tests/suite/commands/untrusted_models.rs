//! A model or checkpoint from an unknown author reads no file but its own, and is rejected
//! immediately if one of its files is not a regular file.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use crate::common::onnx::Message;
use crate::common::quantizing::{Folder, text};
use crate::common::{finish, path, run_within, sightline, tiny};
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// Time limit of a command that must fail without waiting for anything.
const SOON: Duration = Duration::from_mins(1);
/// Any photograph.
const PHOTO: &str = "photos/chelsea.png";

/// Returns an encoded protobuf field with `content` as its value.
fn field(number: u64, content: &[u8]) -> Vec<u8> {
    Message::default().bytes(number, content).encoded()
}

/// Returns the encoded tensor `stolen` of one f32 element, which is in the file `secret`.
fn external() -> Vec<u8> {
    let entry = [field(1, b"location"), field(2, b"secret")].concat();
    let dims_type_location = [8, 1, 16, 1, 14 << 3, 1];
    [
        &dims_type_location[..],
        &field(8, b"stolen"),
        &field(13, &entry),
    ]
    .concat()
}

/// Nests `content` in the protobuf fields `numbers`, of which the first is the outermost.
fn nested(numbers: &[u64], content: Vec<u8>) -> Vec<u8> {
    let numbers = numbers.iter().rev();
    numbers.fold(content, |content, number| field(*number, &content))
}

#[test]
fn models_with_tensors_in_other_files_are_rejected_by_every_command() {
    let folder = Folder::new();
    folder.file("secret", [0; 4]);
    let constant = |attribute: Vec<u8>| {
        let node = [
            field(2, b"stolen"),
            field(4, b"Constant"),
            field(5, &attribute),
        ]
        .concat();
        nested(&[7, 1], node)
    };
    // Appended fields are merged into the messages of the file.
    let cases = [
        ("initializer", nested(&[7, 5], external())),
        (
            "attribute",
            constant([field(1, b"value"), field(5, &external())].concat()),
        ),
        ("subgraph", nested(&[7, 1, 5, 6, 5], external())),
        ("function", nested(&[25, 7, 5, 5], external())),
        (
            "hidden",
            [field(999, b"unknown"), nested(&[7, 5], external())].concat(),
        ),
    ];
    let photo = path(PHOTO);
    for (name, appended) in cases {
        let model = folder.changed(name, |onnx| onnx.extend(appended));
        let model = text(&model);
        for args in [
            &["predict", "--model", model, text(&photo)][..],
            &["serve", "--listen", "127.0.0.1:0", "--model", model],
            &["bench", "--model", model],
        ] {
            let mut command = sightline(args);
            command.current_dir(folder.at(""));
            let (code, _, stderr) = finish(command);
            assert_eq!(code, Some(1), "{name}: {args:?}: {stderr}");
            let expected = "the tensor `stolen` has its elements in another file";
            assert!(stderr.contains(expected), "{name}: {args:?}: {stderr}");
        }
    }
    let model = folder.changed("quantized", |onnx| onnx.extend(nested(&[7, 5], external())));
    let photos = path("photos");
    let args = ["quantize", text(&model), "--calibration", text(&photos)];
    let (code, _, stderr) = run_within(&args, SOON);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("the tensor `stolen` has its elements in another file"),
        "{stderr}"
    );
}

#[test]
fn a_file_with_the_mark_of_another_format_is_read_as_onnx() {
    let folder = Folder::new();
    // ONNX Runtime knows its own format, whose tensors are not searched, by bytes 4 to 7.
    let mark = field(2, b"..ORTM");
    let model = folder.changed("marked", |onnx| drop(onnx.splice(..0, mark)));
    assert_eq!(&fs::read(model.join("model.onnx")).unwrap()[4..8], b"ORTM");
    let photo = path(PHOTO);
    let (code, _, stderr) = run_within(&["predict", "--model", text(&model), text(&photo)], SOON);
    assert_eq!(code, Some(0), "{stderr}");
}

#[test]
fn special_files_fail_the_start_immediately() {
    let fifo = |path: &Path| mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
    for file in ["model.onnx", "labels.txt", "model.toml"] {
        let folder = Folder::new();
        let path = folder.at("tiny").join(file);
        fs::remove_file(&path).unwrap();
        fifo(&path);
        let models = folder.at("");
        let args = [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--models",
            text(&models),
        ];
        let (code, _, stderr) = run_within(&args, SOON);
        assert_eq!(code, Some(64), "{file}: {stderr}");
        let expected = format!("{file}: expected a regular file, got a pipe (FIFO)");
        assert!(stderr.contains(&expected), "{stderr}");
    }
    let folder = tempfile::tempdir().unwrap();
    let (weights, out) = (folder.path().join("pipe.pth"), folder.path().join("out"));
    fifo(&weights);
    let checkpoint = path(tiny::CHECKPOINT);
    for (weights, labels) in [(&weights, None), (&checkpoint, Some(&weights))] {
        let mut args = vec!["export", tiny::NETWORK, tiny::SHAPE[0], tiny::SHAPE[1]];
        args.extend(["--weights", text(weights), "-o", text(&out)]);
        args.extend(labels.iter().flat_map(|labels| ["--labels", text(labels)]));
        let (code, _, stderr) = run_within(&args, SOON);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("got a pipe (FIFO)"), "{stderr}");
        assert!(!out.exists());
    }
}

#[test]
fn links_out_of_the_models_directory_need_a_flag() {
    let (folder, models) = (Folder::new(), tempfile::tempdir().unwrap());
    symlink(folder.at("tiny"), models.path().join("tiny")).unwrap();
    let photo = path(PHOTO);
    let common = [
        "predict",
        "--models",
        text(models.path()),
        "--model",
        "tiny",
    ];
    let args = [&common[..], &[text(&photo)]].concat();
    let (code, _, stderr) = run_within(&args, SOON);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("--follow-symlinks"), "{stderr}");
    for variable in [false, true] {
        let mut command = sightline(&args);
        if variable {
            command.env("SIGHTLINE_FOLLOW_SYMLINKS", "true");
        } else {
            command.arg("--follow-symlinks");
        }
        let (code, _, stderr) = finish(command);
        assert_eq!(code, Some(0), "{stderr}");
    }
    let config = folder.file(
        "sightline.toml",
        "follow_symlinks = true\nlisten = \"nowhere\"",
    );
    let (_, _, stderr) = run_within(&["serve", "--config", text(&config)], SOON);
    assert!(!stderr.contains("follow_symlinks"), "{stderr}");
}
