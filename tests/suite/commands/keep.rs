//! Checks what `export` keeps of a model that it replaces, and how stale int8 variants are treated.

use std::fs;
use std::path::Path;

use crate::common::quantizing::text;
use crate::common::{self, Server, path, photo, run, tiny};
use sightline::manifest::sha256;

/// Exports the checkpoint of [`tiny`] in half precision, so with other weights, into the model
/// folder `out`. Returns exit code, stdout and stderr.
fn export_other(out: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let weights = path(&tiny::CHECKPOINT.replace("zip.pth", "fp16.pth"));
    let mut all = vec!["export", tiny::NETWORK, tiny::SHAPE[0]];
    if !args.contains(&"--labels") {
        all.push(tiny::SHAPE[1]);
    }
    all.extend(["--weights", text(&weights), "-o", text(out)]);
    all.extend_from_slice(args);
    run(&all)
}

/// Returns stdout of an export that must succeed.
fn exported(out: &Path, args: &[&str]) -> String {
    let (code, stdout, stderr) = export_other(out, args);
    assert_eq!(code, Some(0), "{stderr}");
    stdout
}

/// Returns stderr of an export that must fail and change nothing in the folder `out`.
fn rejected(out: &Path, args: &[&str]) -> String {
    let before = common::quantizing::contents(out);
    let (code, stdout, stderr) = export_other(out, args);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert_eq!(common::quantizing::contents(out), before);
    stderr
}

/// Runs `sightline predict --model MODEL` and returns the exit code and stderr.
fn predict(model: &str) -> (Option<i32>, String) {
    let image = path("photos/coffee_500x375.jpg");
    let (code, _, stderr) = run(&["predict", "--model", model, text(&image)]);
    (code, stderr)
}

/// Replaces `from`, which must be there, in the file at `path`.
fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from}: {text}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn an_export_keeps_the_edits_of_the_manifest_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let birds = directory.path().join("birds");
    tiny::export(&birds);
    let manifest = birds.join("model.toml");
    // Nothing was edited, so nothing is said.
    assert!(!exported(&birds, &[]).contains("kept"));
    tiny::export(&birds);
    edit(&manifest, "crop = 224", "crop = 192 # our lens");
    edit(
        &manifest,
        "[batching]",
        "# Two cores.\n[batching]\nmax_batch_size = 8",
    );
    edit(
        &manifest,
        "name = \"birds\"",
        "# Garden.\nname = \"robins\"",
    );
    let edited = fs::read_to_string(&manifest).unwrap();
    let stdout = exported(&birds, &[]);
    for line in [
        "kept `preprocess`: crop = 192 (new: 224)",
        "kept `batching`: max_batch_size = 8 (new: none)",
        "kept `name`: \"robins\" (new: \"birds\")",
        "--force replaces what was kept",
    ] {
        assert!(stdout.contains(line), "{line}: {stdout}");
    }
    assert_eq!(stdout.matches(" kept `").count(), 3, "{stdout}");
    let now = fs::read_to_string(&manifest).unwrap();
    let hash = sha256(&fs::read(birds.join("model.onnx")).unwrap());
    assert!(now.contains(&hash) && now.contains("fp16.pth"), "{now}");
    // Only hashes and the file name of the checkpoint change.
    let other = |text: &str| {
        let lines = text
            .lines()
            .filter(|line| !line.contains("sha256 =") && !line.contains(".pth"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(other(&now), other(&edited));
    assert_eq!(predict(text(&birds)).0, Some(0));

    let stdout = exported(&birds, &["--as", "wrens"]);
    assert!(!stdout.contains("kept `name`"), "{stdout}");
    let now = fs::read_to_string(&manifest).unwrap();
    assert!(now.contains("# Garden.\nname = \"wrens\""), "{now}");

    fs::write(&manifest, edited.replace("crop = 192", "crop = 500")).unwrap();
    let stderr = rejected(&birds, &[]);
    assert!(
        stderr.contains("`preprocess.crop`") && stderr.contains("--force"),
        "{stderr}"
    );
    let stdout = exported(&birds, &["--force"]);
    assert!(!stdout.contains("kept"), "{stdout}");
    let now = fs::read_to_string(&manifest).unwrap();
    assert!(now.contains("crop = 224") && !now.contains('#'), "{now}");
}

#[test]
fn edited_labels_are_kept_if_their_number_fits() {
    let directory = tempfile::tempdir().unwrap();
    let birds = directory.path().join("birds");
    tiny::export(&birds);
    let labels = birds.join("labels.txt");
    let own: Vec<String> = (0..10).map(|class| format!("bird {class}")).collect();
    let own = own.join("\n") + "\n";
    fs::write(&labels, &own).unwrap();
    let stdout = exported(&birds, &[]);
    assert!(stdout.contains("labels.txt: kept 10 labels"), "{stdout}");
    assert_eq!(fs::read_to_string(&labels).unwrap(), own);

    // The labels of `--labels` are the user's choice.
    let given = directory.path().join("given.txt");
    fs::write(&given, own.replace("bird", "wren")).unwrap();
    let stdout = exported(&birds, &["--labels", text(&given)]);
    assert!(!stdout.contains("kept"), "{stdout}");
    assert!(fs::read_to_string(&labels).unwrap().starts_with("wren 0\n"));

    fs::write(&labels, "wren\nrobin\n").unwrap();
    let stderr = rejected(&birds, &[]);
    for part in ["has 2 labels", "has 10 classes", "--labels", "--force"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    // Labels that an export has written for another number of classes are no edit.
    fs::write(&labels, "class 0\nclass 1\n").unwrap();
    exported(&birds, &[]);
    assert!(fs::read_to_string(&labels).unwrap().ends_with("class 9\n"));
    fs::write(&labels, "wren\nrobin\n").unwrap();
    exported(&birds, &["--force"]);
    assert!(
        fs::read_to_string(&labels)
            .unwrap()
            .starts_with("class 0\n")
    );
}

#[test]
fn another_network_is_replaced_by_force_only() {
    let directory = tempfile::tempdir().unwrap();
    let birds = directory.path().join("birds");
    tiny::export(&birds);
    let manifest = birds.join("model.toml");
    let written = fs::read_to_string(&manifest).unwrap();
    let own = "name = \"own\"\ntask = \"classification\"\ndescription = \"own\"\nlabels = \"labels.txt\"\n\
               stages = [{ role = \"network\", file = \"model.onnx\" }]\n[preprocess]\n\
               resize = { mode = \"short_side\", size = 256, filter = \"bilinear\" }\n\
               mean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n";
    let wide = written.replace("width_mult = 0.25", "width_mult = 1.0");
    assert_ne!(wide, written);
    let cases = [
        (
            wide,
            "another network, mobilenet_v3_small instead of mobilenet_v3 with the head classifier \
             (`architecture.backbone.width_mult` is 1.0 there and 0.25 here)",
        ),
        (own.to_owned(), "an ONNX file without `architecture`"),
        ("name = ".to_owned(), "cannot keep the settings of"),
        (written.replace("crop", "cropp"), "unknown field `cropp`"),
    ];
    for (text, expected) in cases {
        fs::write(&manifest, &text).unwrap();
        let stderr = rejected(&birds, &[]);
        for part in [expected, "--force"] {
            assert!(stderr.contains(part), "{part}: {stderr}");
        }
    }
    exported(&birds, &["--force"]);
    assert_eq!(predict(text(&birds)).0, Some(0));
}

#[test]
fn an_int8_variant_of_other_weights_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let birds = directory.path().join("birds");
    tiny::export(&birds);
    let (manifest, int8) = (birds.join("model.toml"), birds.join("model.int8.onnx"));
    fs::copy(birds.join("model.onnx"), &int8).unwrap();
    let variant = "\n# Made in May.\n[variants.int8]\nprecision = \"int8\"\n\
                   stages = [{ role = \"network\", file = \"model.int8.onnx\" }]\n";
    let written = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, written + variant).unwrap();
    let reference = format!("{}@int8", text(&birds));
    // A manifest without the hash loads.
    assert_eq!(predict(&reference).0, Some(0));

    // The same checkpoint again.
    let stdout = tiny::export(&birds);
    assert!(
        stdout.contains("kept `variants.int8`, which was made from the same weights"),
        "{stdout}"
    );
    assert_eq!(predict(&reference).0, Some(0));

    let stdout = exported(&birds, &[]);
    let remedy = format!("sightline quantize {} --calibration DIR", text(&manifest));
    for part in ["`variants.int8` is stale", "is not served", &remedy] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
    assert!(int8.exists());
    let now = fs::read_to_string(&manifest).unwrap();
    assert!(now.contains(variant.trim()), "{now}");
    let (code, stderr) = predict(&reference);
    assert_eq!(code, Some(1), "{stderr}");
    for part in ["made from other weights", &remedy] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    assert_eq!(predict(text(&birds)).0, Some(0));
    let server = Server::start(&["--models", text(directory.path()), "--precision=int8"]);
    let answer = server.classify("?model=birds", &photo("coffee_500x375.jpg"));
    assert_eq!(answer.json()["variant"], "fp32");
    assert_eq!(
        server
            .classify("?model=birds@int8", &photo("coffee_500x375.jpg"))
            .status,
        404
    );
    drop(server);
    let (code, _, stderr) = run(&["serve", "--listen", "127.0.0.1:0", "--model", &reference]);
    assert_eq!(code, Some(64), "{stderr}");
    assert!(stderr.contains(&remedy), "{stderr}");

    // The first weights again.
    tiny::export(&birds);
    assert_eq!(predict(&reference).0, Some(0));
    let stdout = exported(&birds, &["--force"]);
    assert!(
        stdout.contains("no longer used: model.int8.onnx"),
        "{stdout}"
    );
}

#[test]
fn an_fp32_variant_of_other_weights_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let birds = directory.path().join("birds");
    tiny::export(&birds);
    let manifest = birds.join("model.toml");
    fs::copy(birds.join("model.onnx"), birds.join("own.onnx")).unwrap();
    let hash = sha256(&fs::read(birds.join("model.onnx")).unwrap());
    let variant = format!(
        "\n[variants.own]\nstages = [{{ role = \"network\", file = \"own.onnx\" }}]\n\
         source_sha256 = [\"{}\"]\n",
        hash.to_uppercase()
    );
    let written = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, written + &variant).unwrap();
    let reference = format!("{}@own", text(&birds));
    let stdout = tiny::export(&birds);
    assert!(stdout.contains("from the same weights"), "{stdout}");
    assert_eq!(predict(&reference).0, Some(0));
    let stdout = exported(&birds, &[]);
    assert!(
        stdout.contains("`variants.own` is stale") && stdout.contains("make its ONNX files"),
        "{stdout}"
    );
    assert_eq!(predict(&reference).0, Some(1));
}

#[test]
fn an_edit_during_an_export_is_not_lost() {
    let directory = tempfile::tempdir().unwrap();
    let birds = directory.path().join("birds");
    tiny::export(&birds);
    let manifest = birds.join("model.toml");
    let lock = fs::File::open(&birds).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut export = common::sightline(&tiny::export_arguments(&birds));
    let (out, err) = (
        directory.path().join("stdout"),
        directory.path().join("stderr"),
    );
    export.stdout(fs::File::create(&out).unwrap());
    export.stderr(fs::File::create(&err).unwrap());
    let mut export = export.spawn().unwrap();
    // The export has read the manifest when it waits for the lock.
    common::eventually("the export waits", || {
        fs::read_to_string(&err)
            .unwrap()
            .contains("waiting for another process")
    });
    edit(&manifest, "crop = 224", "crop = 192");
    drop(lock);
    assert!(common::command::wait(&mut export, common::PATIENCE).success());
    let stdout = fs::read_to_string(&out).unwrap();
    assert!(stdout.contains("crop = 192 (new: 224)"), "{stdout}");
    assert!(
        fs::read_to_string(&manifest)
            .unwrap()
            .contains("crop = 192")
    );
}
