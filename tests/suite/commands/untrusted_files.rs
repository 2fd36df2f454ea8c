//! Checks which hostile or unsuitable files and flag values the commands reject, and what they print.

use std::collections::HashMap;
use std::path::Path;

use crate::common::{path, run, tiny};
use onnx_export::weights::{StateDict, Tensor};

/// Runs `sightline export` on a checkpoint for the network of [`tiny`], and returns stderr. The
/// export must fail and write nothing.
fn refused(weights: &Path, args: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut all = vec![
        "export",
        tiny::NETWORK,
        "--weights",
        weights.to_str().unwrap(),
    ];
    all.extend(["-o", out.to_str().unwrap()]);
    all.extend_from_slice(args);
    let (code, stdout, stderr) = run(&all);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(!out.exists(), "{stderr}");
    stderr
}

/// Writes the tensors of [`tiny::CHECKPOINT`] and `extra` as a safetensors file.
fn write_checkpoint(to: &Path, extra: &[(&str, Tensor)]) {
    let state = StateDict::read(&path(tiny::CHECKPOINT)).unwrap();
    let own = state
        .iter()
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()));
    let extra = extra
        .iter()
        .map(|(name, tensor)| ((*name).to_owned(), tensor.clone()));
    let state = StateDict::from_tensors(own.chain(extra).collect());
    std::fs::write(to, state.to_safetensors().unwrap()).unwrap();
}

fn is_safe_to_print(text: &str) -> bool {
    let direction = ['\u{202e}', '\u{2066}'];
    text.chars()
        .all(|c| c == '\n' || !c.is_control() && !direction.contains(&c))
}

#[test]
fn names_of_tensors_are_printed_escaped_and_cut() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("hostile.safetensors");
    let name = format!(
        "w\x1b]0;owned\x07\x1b[2J\u{202e}\nerror: forged{}",
        "x".repeat(200_000)
    );
    write_checkpoint(
        &weights,
        &[(&name, Tensor::from_f32(&[1], &[0.0]).unwrap())],
    );
    let stderr = refused(&weights, &tiny::SHAPE);
    assert!(
        is_safe_to_print(&stderr) && stderr.len() < 1000,
        "{stderr:?}"
    );
    assert!(
        stderr.contains("w\\u001b]0;owned\\u0007\\u001b[2J"),
        "{stderr}"
    );
    assert!(!stderr.contains("\nerror: forged"), "{stderr}");
}

#[test]
fn names_of_files_are_printed_escaped() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("a\x1b[2J\nerror: forged.pth");
    std::fs::write(&weights, b"").unwrap();
    let stderr = refused(&weights, &tiny::SHAPE);
    assert!(is_safe_to_print(&stderr), "{stderr:?}");
    assert!(
        stderr.contains("not a checkpoint but an empty file"),
        "{stderr}"
    );
    assert!(!stderr.contains("\nerror: forged"), "{stderr}");
    let (_, stdout, stderr) = run(&["predict", weights.to_str().unwrap()]);
    assert!(
        is_safe_to_print(&stdout) && is_safe_to_print(&stderr),
        "{stdout:?} {stderr:?}"
    );
    assert!(!stderr.contains("\nerror: forged"), "{stderr}");
}

#[test]
fn numbers_of_classes_are_checked_before_labels_are_made() {
    let weights = path(tiny::CHECKPOINT);
    for classes in [
        "0",
        "100001",
        "20000000",
        "99999999999",
        "18446744073709551615",
    ] {
        let stderr = refused(&weights, &[tiny::SHAPE[0], "--num-classes", classes]);
        let expected = format!("`num_classes`: expected 1 to 100000, got {classes}");
        assert!(stderr.contains(&expected), "{stderr}");
    }
    for width in ["NaN", "inf", "1e308", "-1", "0", "8.001"] {
        let width = format!("--width-mult={width}");
        let stderr = refused(&weights, &[&width, tiny::SHAPE[1]]);
        assert!(
            stderr.contains("`width_mult`: expected 0.05 to 8, got "),
            "{stderr}"
        );
    }
    for opset in [
        "-9223372036854775808",
        "0",
        "12",
        "22",
        "9223372036854775807",
    ] {
        let opset = format!("--opset={opset}");
        let stderr = refused(&weights, &[tiny::SHAPE[0], tiny::SHAPE[1], &opset]);
        assert!(
            stderr.contains("`opset`: expected an ONNX opset from 13 to 21, got "),
            "{stderr}"
        );
    }
}

#[test]
fn weights_that_are_not_finite_are_refused_at_export_and_at_load() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("diverged.safetensors");
    let bias = Tensor::from_f32(&[10], &[f32::NAN; 10]).unwrap();
    write_checkpoint(&weights, &[("classifier.3.bias", bias)]);
    let stderr = refused(&weights, &tiny::SHAPE);
    assert!(
        stderr.contains("classifier.3.bias: 10 of 10 values are NaN or infinite"),
        "{stderr}"
    );

    let out = folder.path().join("tiny");
    tiny::export(&out);
    let onnx = out.join("model.onnx");
    let mut bytes = std::fs::read(&onnx).unwrap();
    let state = StateDict::read(&path(tiny::CHECKPOINT)).unwrap();
    let bias = state.get("classifier.3.bias").unwrap().bytes();
    let at = bytes
        .windows(bias.len())
        .position(|part| part == bias)
        .unwrap();
    bytes[at + 4..at + 8].copy_from_slice(&f32::INFINITY.to_le_bytes());
    std::fs::write(&onnx, bytes).unwrap();
    let manifest = out.join("model.toml");
    // Without hashes, as a hostile author would write the manifest.
    let text = std::fs::read_to_string(&manifest).unwrap();
    let kept = text.lines().filter(|line| !line.starts_with("sha256"));
    std::fs::write(&manifest, kept.collect::<Vec<_>>().join("\n")).unwrap();
    let coffee = path("photos/coffee.png");
    let args = [
        "predict",
        "--model",
        manifest.to_str().unwrap(),
        coffee.to_str().unwrap(),
    ];
    let (code, _, stderr) = run(&args);
    assert_eq!(code, Some(1), "{stderr}");
    let expected = "initializer `classifier.3.bias`: 1 of 10 values are NaN or infinite, the first is inf at [1]";
    assert!(
        stderr.contains("model.onnx") && stderr.contains(expected),
        "{stderr}"
    );
}

#[test]
fn files_that_are_not_checkpoints_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let cases = HashMap::from([
        (
            "pointer.pth",
            (
                &b"version https://git-lfs.github.com/spec/v1\n"[..],
                "git lfs pull",
            ),
        ),
        (
            "page.pth",
            (b"<!DOCTYPE html><title>Sign in</title>", "a web page"),
        ),
        (
            "index.json",
            (b"{\"weight_map\": {}}", "the index of a sharded checkpoint"),
        ),
        (
            "model.pth",
            (
                b"\x08\x08\x12\x07pytorch",
                "an ONNX file: it needs no export",
            ),
        ),
        (
            "weights.pth.gz",
            (b"\x1f\x8b\x08\0", "gzip data: unpack it"),
        ),
        ("weights.h5", (b"\x89HDF\r\n\x1a\n", "an HDF5 file")),
    ]);
    for (name, (bytes, expected)) in cases {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let stderr = refused(&file, &tiny::SHAPE);
        assert!(
            stderr.contains(expected) && stderr.contains(name),
            "{stderr}"
        );
    }
    let stderr = refused(folder.path(), &tiny::SHAPE);
    assert!(stderr.contains("a folder"), "{stderr}");
}
