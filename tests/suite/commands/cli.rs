//! Checks the subcommands of `sightline`, their output, errors and exit codes.

use std::io::{Read as _, Write as _};

use crate::common::{self, Server, path, photo, predicted, run, tiny};
use onnx_export::weights::StateDict;
use serde_json::Value;

fn file(name: &str) -> String {
    path(name).to_str().unwrap().to_owned()
}

#[test]
fn help_is_printed_and_wrong_arguments_are_rejected() {
    let (code, stdout, _) = run(&["--help"]);
    assert_eq!(code, Some(0));
    for command in [
        "serve",
        "export",
        "predict",
        "models",
        "healthcheck",
        "bench",
        "eval",
    ] {
        assert!(stdout.contains(&format!("\n  {command}")), "{stdout}");
        let (code, help, stderr) = run(&[command, "--help"]);
        assert_eq!(code, Some(0), "{command}: {stderr}");
        assert!(
            help.contains("Usage: sightline") && help.contains("--log"),
            "{help}"
        );
    }
    let (code, stdout, _) = run(&["--version"]);
    assert_eq!(code, Some(0));
    assert_eq!(
        stdout.trim(),
        format!("sightline {}", env!("CARGO_PKG_VERSION"))
    );
    let wrong: [&[&str]; 4] = [&["srve"], &["predict"], &["export", "resnet18"], &[]];
    for args in wrong {
        assert_eq!(run(args).0, Some(2), "{args:?}");
    }
}

#[test]
fn predict_prints_the_classes_of_each_image() {
    let (chelsea, bad) = (
        file("photos/chelsea.png"),
        file("golden/images/truncated.jpg"),
    );
    let (code, stdout, stderr) = run(&["predict", &chelsea]);
    assert_eq!(code, Some(0), "{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 6, "{stdout}");
    assert_eq!(lines[0], chelsea);
    let cats = ["tabby", "tiger cat", "Egyptian cat"];
    assert!(cats.iter().any(|cat| lines[1].contains(cat)), "{stdout}");

    let coffee = file("photos/coffee.png");
    let args = ["predict", "--json", "--top-k", "2", &bad, &coffee];
    let (code, stdout, stderr) = run(&args);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("truncated.jpg") && stderr.contains("damaged JPEG"),
        "{stderr}"
    );
    assert!(stderr.contains("1 of 2 images"), "{stderr}");
    let answer: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(answer["image"], coffee);
    assert_eq!(answer["model"], "efficientnet_lite0");
    assert_eq!(answer["variant"], "fp32");
    assert_eq!(answer["predictions"].as_array().unwrap().len(), 2);
    assert_eq!(answer["predictions"][0]["label"], "espresso");

    for (args, expected) in [
        (vec!["predict", "/nowhere.png"], "/nowhere.png"),
        (vec!["predict", "--top-k", "0", &coffee], "`--top-k`"),
        (
            vec!["predict", "--model", "resnet50", &coffee],
            "sightline export resnet50",
        ),
        (
            vec!["predict", "--model", "mobilnet_v3_small", &coffee],
            "did you mean `mobilenet_v3_small`?",
        ),
        (
            vec!["predict", "--model", "vgg16", &coffee],
            "no model of this name; see `sightline models`",
        ),
        (
            vec!["serve", "--model", "eficientnet_lite0"],
            "did you mean `efficientnet_lite0`?",
        ),
    ] {
        let (code, _, stderr) = run(&args);
        // The models of a server are part of its configuration.
        let wrong = if args[0] == "serve" { 64 } else { 1 };
        assert_eq!(code, Some(wrong), "{args:?}");
        assert!(stderr.contains(expected), "{args:?}: {stderr}");
    }
}

#[test]
fn models_lists_the_catalogue() {
    let (code, stdout, stderr) = run(&["models"]);
    assert_eq!(code, Some(0), "{stderr}");
    let head: Vec<&str> = stdout.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head[..3], ["MODEL", "HERE", "VARIANTS"]);
    assert!(stdout.lines().all(|line| line.chars().count() <= 100));
    let (code, json, _) = run(&["models", "--json"]);
    assert_eq!(code, Some(0));
    let rows: Vec<Value> = serde_json::from_str(&json).unwrap();
    for name in [
        "efficientnet_lite0",
        "mobilenet_v2",
        "mobilenet_v3_large",
        "mobilenet_v3_small",
        "resnet18",
        "resnet50",
    ] {
        assert!(rows.iter().any(|row| row["name"] == name), "{name}");
        assert!(stdout.contains(name), "{name}");
    }
    let built_in = rows
        .iter()
        .find(|row| row["name"] == "efficientnet_lite0")
        .unwrap();
    assert_eq!(built_in["here"], "built in");
    assert_eq!(built_in["parameters"], 4_652_008);
    assert_eq!(built_in["variants"], serde_json::json!(["fp32", "int8"]));
}

#[test]
fn models_shows_one_model_and_its_url() {
    let url = "https://download.pytorch.org/models/resnet50-11ad3fa6.pth";
    let (code, stdout, _) = run(&["models", "resnet50", "--url"]);
    assert_eq!((code, stdout), (Some(0), format!("{url}\n")));
    let (code, stdout, stderr) = run(&["models", "resnet50"]);
    assert_eq!(code, Some(0), "{stderr}");
    for text in [
        url,
        "IMAGENET1K_V1",
        "classification, POST /v1/classify",
        "not installed",
    ] {
        assert!(stdout.contains(text), "{text}: {stdout}");
    }
    let (_, json, _) = run(&["models", "resnet50", "--json"]);
    let rows: Vec<Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(rows.len(), 2);
    for (args, code, expected) in [
        (
            &["models", "efficientnet_lite0", "--url"][..],
            1,
            "no official checkpoint",
        ),
        (&["models", "resnte50"], 1, "did you mean `resnet50`?"),
        (&["models", "--url"], 2, "<NAME>"),
    ] {
        let (got, _, stderr) = run(args);
        assert_eq!(got, Some(code), "{args:?}");
        assert!(stderr.contains(expected), "{args:?}: {stderr}");
    }
}

/// Runs `sightline export NAME --weights WEIGHTS ARGS... -o OUT`. Returns exit code, stdout and stderr.
fn export(name: &str, weights: &str, args: &[&str], out: &str) -> (Option<i32>, String, String) {
    let mut all = vec!["export", name, "--weights", weights, "-o", out];
    all.extend_from_slice(args);
    run(&all)
}

#[test]
fn an_exported_checkpoint_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let models = directory.path().to_str().unwrap();
    let out = format!("{models}/tiny");
    let stdout = tiny::export(out.as_ref());
    assert!(stdout.contains("sightline serve --model"), "{stdout}");
    let mut written: Vec<_> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    written.sort();
    assert_eq!(written, ["labels.txt", "model.onnx", "model.toml"]);

    let (_, json, _) = run(&["models", "--json", "--models", models]);
    let rows: Vec<Value> = serde_json::from_str(&json).unwrap();
    assert!(
        rows.iter()
            .any(|row| row["name"] == "tiny" && row["weights"] == "your own")
    );

    let with_built_in = "tiny,efficientnet_lite0,efficientnet_lite0@int8";
    let server = Server::start(&["--models", models, "--model", with_built_in]);
    let listed = server.get("/v1/models").json();
    let names: Vec<_> = listed["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["name"])
        .collect();
    assert_eq!(names, ["tiny", "efficientnet_lite0", "efficientnet_lite0"]);
    // A request without a model name uses the first named model that has the task of the route.
    let coffee = photo("coffee_500x375.jpg");
    let answer = server.classify("?top_k=100", &coffee);
    assert_eq!(answer.json()["model"], "tiny");
    let results = answer.results();
    let predictions = results[0]["predictions"].as_array().unwrap();
    assert_eq!(predictions.len(), 10);
    let mut classes: Vec<_> = predictions
        .iter()
        .map(|p| p["class_id"].as_u64().unwrap())
        .collect();
    classes.sort_unstable();
    assert_eq!(classes, (0..10).collect::<Vec<_>>());
    assert!(
        predictions
            .iter()
            .all(|p| p["label"] == format!("class {}", p["class_id"]))
    );
    let built_in = server.classify("?model=efficientnet_lite0", &coffee);
    assert_eq!(built_in.labels(), ["espresso"]);
    let problem = server.classify("?model=other", &coffee).json();
    let expected = "tiny@fp32, efficientnet_lite0@fp32, efficientnet_lite0@int8";
    assert_eq!(problem["expected"], expected);

    drop(server);

    // The same checkpoint in other file formats yields equal scores, and similar scores if the
    // weights are stored in half precision.
    let expected = scores(&format!("{out}/model.toml"));
    for (container, tolerance) in [("checkpoint", 0.0), ("legacy", 0.0), ("fp16", 1e-3)] {
        let weights = file(&tiny::CHECKPOINT.replace("zip", container));
        let out = format!("{models}/{container}");
        let (code, _, stderr) = export(tiny::NETWORK, &weights, &tiny::SHAPE, &out);
        assert_eq!(code, Some(0), "{container}: {stderr}");
        for (got, expected) in scores(&format!("{out}/model.toml")).iter().zip(&expected) {
            assert!(
                (got - expected).abs() <= tolerance,
                "{container}: score {got}, expected {expected}"
            );
        }
    }
}

/// Runs `sightline predict --model MODEL` on a photograph and returns the scores of all 10 classes,
/// ordered by class index.
fn scores(model: &str) -> Vec<f64> {
    let predictions = predicted(model, &path("photos/chelsea.png"));
    let mut predictions = predictions.as_array().unwrap().clone();
    assert_eq!(predictions.len(), 10);
    predictions.sort_by_key(|p| p["class_id"].as_u64());
    predictions
        .iter()
        .map(|p| p["score"].as_f64().unwrap())
        .collect()
}

#[test]
fn failed_exports_name_the_reason_and_leave_no_files() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let out = out.to_str().unwrap();
    let weights = file(tiny::CHECKPOINT);
    let bytes = common::read(tiny::CHECKPOINT);
    let cut = directory.path().join("cut.pth");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let text = file("golden/images/text.txt");
    let quarter = "--width-mult=0.25";
    let cases: [(&str, &str, &[&str], &[&str]); 9] = [
        (
            "mobilenet_v3_small",
            &weights,
            &[quarter],
            &["try --num-classes 10", "classifier"],
        ),
        (
            "mobilenet_v3_small",
            &weights,
            &["--num-classes=10"],
            &["has shape", "expected"],
        ),
        ("mobilenet_v2", &weights, &[], &["missing", "unexpected"]),
        (
            "resnet18",
            &weights,
            &["--num-classes=10"],
            &["missing", "unexpected", "conv1.weight"],
        ),
        (
            "resnet18",
            &weights,
            &[quarter],
            &["`--width-mult` does not apply to resnet18"],
        ),
        (
            "resnet19",
            &weights,
            &[],
            &["resnet19", "did you mean `resnet18`?", "sightline models"],
        ),
        (
            "mobilenet_v3_small",
            cut.to_str().unwrap(),
            &[quarter, "--num-classes=10"],
            &["cannot read the checkpoint", "cut.pth"],
        ),
        (
            "mobilenet_v3_small",
            &text,
            &[],
            &["cannot read the checkpoint", "text.txt"],
        ),
        ("mobilenet_v3_small", "/nowhere.pth", &[], &["/nowhere.pth"]),
    ];
    for (name, weights, args, expected) in cases {
        let (code, stdout, stderr) = export(name, weights, args, out);
        assert_eq!(
            (code, stdout.as_str()),
            (Some(1), ""),
            "{name} {args:?}: {stderr}"
        );
        for text in expected {
            assert!(
                stderr.contains(text),
                "{name} {args:?}: no `{text}` in {stderr}"
            );
        }
        let left = std::fs::read_dir(out).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{name} {args:?}");
    }
}

/// Writes the tensors of [`tiny::CHECKPOINT`] with other names as the safetensors file `to`.
fn rename_tensors(to: &str, rename: impl Fn(&str) -> String) {
    let state = StateDict::read(&path(tiny::CHECKPOINT)).unwrap();
    let tensors = state
        .iter()
        .map(|(name, tensor)| (rename(name), tensor.clone()));
    let state = StateDict::from_tensors(tensors.collect());
    std::fs::write(to, state.to_safetensors().unwrap()).unwrap();
}

#[test]
fn checkpoints_of_other_trainers_are_exported_or_explained() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (lightning, out) = (at("lightning.safetensors"), at("birds"));
    rename_tensors(&lightning, |name| format!("model.{name}"));
    let (code, stdout, stderr) = export(tiny::NETWORK, &lightning, &tiny::SHAPE, &out);
    assert_eq!(code, Some(0), "{stderr}");
    let note = "lightning.safetensors: removed the prefix `model.` from the names of the tensors\n";
    assert!(stdout.contains(note), "{stdout}");
    tiny::export(at("plain").as_ref());
    assert_eq!(scores(&out), scores(&at("plain")));

    let nested = at("nested.safetensors");
    rename_tensors(&nested, |name| {
        name.replace("classifier.3.", "classifier.3.1.")
    });
    let full = at("full.safetensors");
    common::checkpoint::write("mobilenet_v3_small", 12, full.as_ref());
    let weights = file(tiny::CHECKPOINT);
    let cases: [(&str, &str, &[&str], String); 3] = [
        (
            tiny::NETWORK,
            &nested,
            &tiny::SHAPE,
            "`classifier.3` is named `classifier.3.1`, so it is part of a Sequential in the checkpoint; if the other \
             modules of the Sequential do nothing in inference, as Dropout, rename the tensors in Python: \
             torch.save({k.replace(\"classifier.3.1.\", \"classifier.3.\"): v for k, v in \
             model.state_dict().items()}, \"weights.pth\")\n"
                .to_owned(),
        ),
        (
            "mobilenet_v3_large",
            &full,
            &["--num-classes=12"],
            format!(
                "these weights fit mobilenet_v3_small: sightline export mobilenet_v3_small --weights {full} \
                 --num-classes 12 -o {}\n",
                at("failed")
            ),
        ),
        (
            "mobilenet_v3_large",
            &weights,
            &[],
            "(the tensors have the names of mobilenet_v3_small, but other shapes)".to_owned(),
        ),
    ];
    for (name, weights, args, expected) in cases {
        let (code, stdout, stderr) = export(name, weights, args, &at("failed"));
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        assert!(stderr.contains(&expected), "{expected}: {stderr}");
        // A remedy needs no list of tensors.
        assert_eq!(
            stderr.lines().count() == 1,
            expected.ends_with('\n'),
            "{stderr}"
        );
    }
}

#[test]
fn healthcheck_exits_with_0_or_1() {
    let server = Server::start(&[]);
    let url = server.url("");
    let ready = server.get("/health/ready").json();
    assert_eq!(ready["address"], server.address.to_string());
    let instance = ready["instance"].as_str().unwrap();
    assert_eq!(instance.len(), 8);
    let version = env!("CARGO_PKG_VERSION");
    let (code, stdout, stderr) = run(&["healthcheck", "--url", &url]);
    let expected = format!("ready {url}, version {version}, instance {instance}\n");
    assert_eq!((code, stdout), (Some(0), expected), "{stderr}");
    let (code, ..) = run(&["healthcheck", "--url", &format!("{url}/")]);
    assert_eq!(code, Some(0));
    // The log says which process is ready.
    let event = server.printed(" ready address=");
    assert!(
        event.contains(instance) && event.contains(version),
        "{event}"
    );
    assert_eq!(server.get("/health/live").json()["instance"], instance);
    // A second server at the same address learns who uses it.
    let address = server.address.to_string();
    let (code, _, stderr) = run(&["serve", "--listen", &address]);
    assert_eq!(code, Some(1), "{stderr}");
    let used = format!("in use by another Sightline (version {version}, instance {instance})");
    assert!(
        stderr.contains(&used) && stderr.contains("--listen"),
        "{stderr}"
    );
    let (code, stdout, _) = run(&["doctor", "--listen", &address]);
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("in use by another Sightline"), "{stdout}");
    let admin = ["serve", "--listen", "0", "--admin-listen", &address];
    let (_, _, stderr) = run(&admin);
    assert!(stderr.contains("with --admin-listen"), "{stderr}");
    drop(server);
    let (code, _, stderr) = run(&["healthcheck", "--url", &url]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("is not ready"), "{stderr}");
    let (code, _, stderr) = run(&["healthcheck", "--url", "localhost"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("such as http://127.0.0.1:8080"), "{stderr}");
}

#[test]
fn another_program_at_the_address_is_not_a_server_that_is_ready() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in other.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let response = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
            let _ = stream.write_all(response.as_bytes());
        }
    });
    let (code, _, stderr) = run(&["healthcheck", "--listen", &address]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("is not from Sightline"), "{stderr}");
    let (code, _, stderr) = run(&["serve", "--listen", &address]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("in use by another program"), "{stderr}");
}
