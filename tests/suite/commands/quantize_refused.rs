//! Checks that `sightline quantize` leaves no files if it rejects its input or cannot write its
//! output.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::onnx::Message;
use crate::common::quantizing::{Folder, command, contents, names, text};
use crate::common::{finish, path, photo, run};
use onnx_export::quantize::{Network, Range, Recipe, Target};

/// A command that must be rejected: model, calibration folder, further flags, and text that the
/// error must contain.
type Rejected<'a> = (&'a Path, &'a Path, &'a [&'a str], &'a str);

/// Checks that each command fails with its error and writes nothing. A command without `-o` whose
/// model is a path is run a second time with `-o`.
fn check_rejected(folder: &Folder, cases: &[Rejected<'_>]) {
    let out = folder.at("out");
    for (model, calibration, args, expected) in cases {
        let before = contents(model);
        let elsewhere: &[&str] = &["-o", text(&out)];
        let has_no_place = model.is_relative();
        let places = if has_no_place || args.contains(&"-o") {
            vec![&[][..]]
        } else {
            vec![&[][..], elsewhere]
        };
        for place in places {
            let (code, stdout, stderr) =
                finish(command(model, calibration, &[args, place].concat()));
            let shown = format!("{} {args:?}: {stdout}{stderr}", model.display());
            assert!(matches!(code, Some(1 | 2)), "{shown}");
            assert!(stderr.contains(expected), "no `{expected}`: {shown}");
            assert!(stdout.is_empty() && !stderr.contains("panicked"), "{shown}");
            assert_eq!(contents(model), before, "{shown}");
            assert!(!out.exists(), "{shown}");
        }
    }
}

#[test]
fn invalid_photographs_and_flags_are_rejected() {
    let folder = Folder::new();
    let (m, p) = (&*folder.at("tiny"), &*path("photos"));
    let empty = folder.at("empty");
    fs::create_dir(&empty).unwrap();
    let notes = folder.file("others/notes.txt", "no image");
    folder.file("others/empty.jpg", "");
    let whole = photo("coffee_500x375.jpg");
    folder.file("damaged/a.jpg", &whole[..whole.len() / 2]);
    folder.file("damaged/b.jpg", &whole);
    let (nowhere, others, damaged) = (
        folder.at("nowhere"),
        folder.at("others"),
        folder.at("damaged"),
    );
    let unreadable = "cannot read the calibration folder";
    let cases: [Rejected<'_>; 15] = [
        (m, &nowhere, &[], unreadable),
        (m, &notes, &[], unreadable),
        (m, &empty, &[], "holds no photographs (0 other files)"),
        (m, &others, &[], "holds no photographs (2 other files)"),
        (
            m,
            p,
            &["--images=6"],
            "holds 5 photographs, but `--images` is 6",
        ),
        (
            m,
            p,
            &["--images=18446744073709551615"],
            "holds 5 photographs",
        ),
        (
            m,
            p,
            &["--images=0"],
            "`--images`: expected at least 1, got 0",
        ),
        (m, &damaged, &[], "a.jpg: damaged JPEG"),
        (
            m,
            p,
            &["--min-cosine=1.1"],
            "`--min-cosine`: expected 0 to 1, got 1.1",
        ),
        (m, p, &["--max-float=NaN"], "`--max-float`: expected 0 to 1"),
        (
            m,
            p,
            &["--min-agreement=97"],
            "`--min-agreement`: expected 0 to 1",
        ),
        (
            m,
            p,
            &["--percentile=49"],
            "`--percentile`: expected 50 to 100",
        ),
        (m, p, &["--method=best"], "minmax, percentile, entropy, mse"),
        (m, p, &["--target=neon"], "auto, vnni, avx2"),
        (m, p, &["--images=-1"], "invalid digit"),
    ];
    check_rejected(&folder, &cases);
    let (code, _, stderr) = run(&["quantize", text(m)]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("--calibration <DIR>"), "{stderr}");
}

#[test]
fn models_that_cannot_be_quantized_are_rejected() {
    let folder = Folder::new();
    let (tiny, photos) = (folder.at("tiny"), path("photos"));
    let int8 = folder.changed("int8", |graph| *graph = in_int8(graph));
    let nonsense = folder.changed("nonsense", |graph| *graph = b"graph".to_vec());
    let cut = folder.changed("cut", |graph| graph.truncate(graph.len() / 2));
    // Appends an empty `FunctionProto` to the ONNX file (field 25 of `ModelProto`, wire type 2,
    // length 0).
    let functions = folder.changed("functions", |graph| graph.extend([0xCA, 0x01, 0x00]));
    // Appends a graph with a node that has the field 37. Protobuf merges the graphs of a file.
    let inner = Message::default().bytes(37, b"later").encoded();
    let inner = Message::default().bytes(1, &inner).encoded();
    let graph_of_later = Message::default().bytes(7, &inner).encoded();
    let later = folder.changed("later", |graph| graph.extend(graph_of_later));
    let variant = PathBuf::from(format!("{}@int8", tiny.display()));
    let nowhere = folder.at("nowhere");
    let (built_in, unknown) = (Path::new("efficientnet_lite0"), Path::new("resnet50"));
    let below = folder.at("tiny/model.onnx/out");
    let below: &[&str] = &["-o", text(&below)];
    let p = &*photos;
    let cases: [Rejected<'_>; 10] = [
        (
            &int8,
            p,
            &[],
            "int8/model.onnx: the network is quantized already",
        ),
        (&nonsense, p, &[], "nonsense/model.onnx: not an ONNX file"),
        (&cut, p, &[], "cut/model.onnx: not an ONNX file"),
        (
            &later,
            p,
            &[],
            "later/model.onnx: field 37 of graph.node[0] is unknown to this version of Sightline",
        ),
        (
            &functions,
            p,
            &[],
            "the file defines functions; expected a file without functions",
        ),
        (&variant, p, &[], "the variant must be one of fp32"),
        (&nowhere, p, &[], "nowhere"),
        (&tiny, p, below, "Not a directory"),
        (
            built_in,
            p,
            &[],
            "efficientnet_lite0 is built in and has no folder: set the output path with -o",
        ),
        (unknown, p, &[], "sightline export resnet50"),
    ];
    check_rejected(&folder, &cases);

    // A variant cannot be quantized; the error names the model to quantize instead.
    let manifest = fs::read_to_string(tiny.join("model.toml")).unwrap();
    let smaller =
        "[variants.240.resize]\nmode = \"short_side\"\nsize = 240\nfilter = \"bilinear\"\n";
    folder.file("tiny/model.toml", manifest + smaller);
    let variant = PathBuf::from(format!("{}@240", tiny.display()));
    let case: Rejected<'_> = (&variant, p, &[], "is a variant: quantize tiny itself");
    check_rejected(&folder, &[case]);
}

/// Quantizes an ONNX graph for VNNI with the activation range -4 to 4 for every value. Returns the
/// int8 graph as ONNX bytes.
fn in_int8(graph: &[u8]) -> Vec<u8> {
    let network = Network::read(graph).unwrap();
    let range = Range {
        min: -4.0,
        max: 4.0,
    };
    let values = network.values().into_iter();
    let recipe = Recipe {
        ranges: values.map(|value| (value, range)).collect(),
        ..Recipe::default()
    };
    network.quantize(&recipe, Target::Vnni).unwrap()
}

#[test]
fn a_full_device_leaves_no_part_of_a_model() {
    let folder = Folder::new();
    // `ulimit -f` below lets the command write files of at most 1500 KiB, which only the manifest
    // exceeds.
    let manifest = fs::read_to_string(folder.at("tiny/model.toml")).unwrap();
    let long = format!("description = \"{}", "x".repeat(2_000_000));
    folder.file(
        "tiny/model.toml",
        manifest.replacen("description = \"", &long, 1),
    );
    let before = contents(&folder.at("tiny"));
    let out = folder.at("out");
    let photos = path("photos");
    let args = ["--images=1", "--method=minmax", "--force", "-o", text(&out)];
    let quantize = command(&folder.at("tiny"), &photos, &args);
    let mut limited = Command::new("bash");
    limited.args(["-c", "ulimit -f 1500; trap '' XFSZ; exec \"$@\"", "bash"]);
    limited
        .arg(quantize.get_program())
        .args(quantize.get_args());
    for (name, value) in quantize.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    let (code, _, stderr) = finish(limited);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("cannot write") && stderr.contains("model.toml"),
        "{stderr}"
    );
    assert_eq!(names(&out), [""; 0]);
    assert_eq!(contents(&folder.at("tiny")), before);

    // The command must also fail if a folder has the name of an output file.
    fs::create_dir_all(out.join("model.int8.json")).unwrap();
    folder.file("tiny/labels.txt", "x\n".repeat(10));
    let (code, _, stderr) = finish(command(&folder.at("tiny"), &photos, &args));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("model.int8.json: a folder has this name"),
        "{stderr}"
    );
    assert_eq!(names(&out), ["model.int8.json"]);
}
