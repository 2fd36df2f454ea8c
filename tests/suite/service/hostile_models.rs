//! Checks that models whose loading or runs never end, or take any amount of memory, do not harm the server and its
//! other models.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::hostile::{endless_above, network};
use crate::common::onnx::{FLOAT, INT64, Message, floats, int, integers, node, write_model};
use crate::common::{self, Server, eventually, photo, run};
use image::{ImageFormat, Rgb, RgbImage};

/// Returns a PNG file of one color.
fn png(gray: u8) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let image = RgbImage::from_pixel(16, 16, Rgb([gray; 3]));
    image.write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

/// Returns a network that allocates 64 TiB if the mean value of the images is above 0.9.
fn huge_tensor() -> Message {
    let work = [
        node("Greater", "mean threshold", "is_above", &[]),
        node("Cast", "is_above", "above", &[int("to", INT64)]),
        node("Mul", "above huge", "elements", &[]),
        node("Add", "elements one", "size", &[]),
        node("ConstantOfShape", "size", "tensor", &[]),
        node("ReduceSum", "tensor", "result", &[int("keepdims", 0)]),
    ];
    let constants = [
        floats("threshold", &[], &[0.9]),
        integers("huge", &[1], &[1 << 44]),
        integers("one", &[1], &[1]),
    ];
    network(&work, &constants)
}

/// Returns a network with a constant of 16 GiB.
fn huge_constant() -> Message {
    let work = [
        node("Expand", "one shape", "tensor", &[]),
        node("ReduceSum", "tensor", "result", &[int("keepdims", 0)]),
    ];
    let constants = [
        floats("one", &[1, 1], &[1.0]),
        integers("shape", &[2], &[1 << 16, 1 << 16]),
    ];
    network(&work, &constants)
}

/// Returns a network with constants that take hours to compute.
fn slow_constants() -> Message {
    let mut work = vec![node("Expand", "one shape", "matrix_0", &[])];
    for step in 0..100_000 {
        let inputs = format!("matrix_{step} matrix_{step}");
        work.push(node(
            "MatMul",
            &inputs,
            &format!("matrix_{}", step + 1),
            &[],
        ));
    }
    let last = "matrix_100000";
    work.push(node("ReduceMax", last, "result", &[int("keepdims", 0)]));
    let constants = [
        floats("one", &[1, 1], &[1e-3]),
        integers("shape", &[2], &[1000, 1000]),
    ];
    network(&work, &constants)
}

/// Returns a network that runs one operator for long if the mean value of the images is above 0.6: non-maximum
/// suppression of boxes that do not overlap, which compares every box with all others. The operator ignores the request
/// to stop the run. `boxes` is the number of boxes if the mean value is 1.
fn slow_operator(boxes: f32) -> Message {
    let work = [
        node("Sub", "mean dark", "above", &[]),
        node("Mul", "above scale", "product", &[]),
        node("Cast", "product", "rounded", &[int("to", INT64)]),
        node("Max", "rounded one", "count", &[]),
        node("Concat", "one count four", "boxes_shape", &[int("axis", 0)]),
        node("Concat", "one one count", "scores_shape", &[int("axis", 0)]),
        node("ConstantOfShape", "boxes_shape", "boxes", &[]),
        node("ConstantOfShape", "scores_shape", "scores", &[]),
        node("NonMaxSuppression", "boxes scores count", "selected", &[]),
        node("Cast", "selected", "indices", &[int("to", FLOAT)]),
        node("ReduceMax", "indices", "result", &[int("keepdims", 0)]),
    ];
    let constants = [
        floats("dark", &[], &[0.6]),
        floats("scale", &[], &[boxes / 0.4]),
        integers("one", &[1], &[1]),
        integers("four", &[1], &[4]),
    ];
    network(&work, &constants)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_run_that_never_ends_is_stopped_and_the_model_recovers() {
    let models = tempfile::tempdir().unwrap();
    write_model(models.path(), "looping", &endless_above(0.9));
    let server = Server::start(&[
        "--models",
        text(models.path()),
        "--model",
        "looping,efficientnet_lite0",
        "--request-timeout-ms",
        "2000",
        "--shutdown-grace-ms",
        "100",
    ]);
    let send = |gray: u8| server.classify("?model=looping", &png(gray));
    assert_eq!(send(128).status, 200);
    let coffee = photo("coffee_500x375.jpg");
    std::thread::scope(|scope| {
        let white = [scope.spawn(|| send(255)), scope.spawn(|| send(255))];
        while !white.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let reply = server.classify("?model=efficientnet_lite0", &coffee);
            assert_eq!(reply.labels(), ["espresso"]);
        }
        for reply in white.map(|thread| thread.join().unwrap()) {
            let got = (reply.status, reply.code());
            assert_eq!(got, (504, "deadline_passed".to_owned()));
        }
    });
    let failed = Instant::now();
    eventually("the model recovers", || send(128).status == 200);
    let recovered = failed.elapsed();
    assert!(recovered < Duration::from_secs(5), "{recovered:?}");
    let of_model = r#"{model="looping",variant="fp32"}"#;
    let metric = |name: &str| server.metric(&format!("{name}{of_model}"));
    // Another worker may have answered before the endless run was stopped.
    eventually("the endless run is stopped", || {
        metric("sightline_stopped_runs_total") >= 1.0
    });
    assert_eq!(metric("sightline_stuck_workers"), 0.0);
    // The other model is healthy, so the server stays ready, also before the test run.
    assert_eq!(server.get("/health/ready").status, 200);
    server.printed("run stopped at its time limit, the model is not ready");
    server.printed("test run succeeded, the worker continues");
    eventually("the model is ready", || {
        metric("sightline_model_ready") == 1.0
    });
    std::thread::scope(|scope| {
        scope.spawn(|| server.try_post("/v1/classify?model=looping", "image/png", &png(255)));
        eventually("the request is in flight", || {
            server.metric("sightline_in_flight") == 2.0
        });
        server.terminate();
    });
    let ended = Instant::now();
    let (code, log) = server.wait();
    assert!(ended.elapsed() < Duration::from_secs(1));
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("still in flight after the grace"), "{log}");
}

#[test]
fn a_stuck_worker_is_replaced_and_its_thread_ends_when_the_operator_returns() {
    let models = tempfile::tempdir().unwrap();
    write_model(models.path(), "slow", &slow_operator(220_000.0));
    let path = models.path().join("slow");
    let flags = ["--instances", "1", "--request-timeout-ms", "200"];
    let server = Server::start(&[&["--model", text(&path)], &flags[..]].concat());
    let metric = |name: &str| server.metric(&format!(r#"{name}model="slow",variant="fp32"}}"#));
    let stuck = || metric("sightline_stuck_workers{");
    let works = || server.classify("", &png(128)).status == 200;
    assert!(works());
    // Each image takes more than twice the time of the one before. A worker is stuck 3.2 s after its request arrived;
    // on the machine where the number of boxes was chosen, the first image takes 10 s.
    let mut recovered = None;
    for gray in [200, 225, 255] {
        assert_eq!(server.classify("", &png(gray)).code(), "deadline_passed");
        let failed = Instant::now();
        let mut unready = None;
        eventually("the next request succeeds", || {
            let probe = server.get("/health/ready");
            unready = (probe.status != 200).then_some(probe).or(unready.take());
            works()
        });
        if stuck() == 1.0 {
            recovered = Some((failed.elapsed(), unready));
            break;
        }
    }
    let (recovered, unready) = recovered.expect("a slower operator than this machine needs");
    assert!(recovered < Duration::from_secs(5), "{recovered:?}");
    let unready = unready.expect("the server is not ready before the worker is replaced");
    let got = (unready.status, unready.code());
    assert_eq!(got, (503, "model_stuck".to_owned()));
    assert_eq!(server.get("/health/ready").status, 200);
    assert!(metric(r#"sightline_worker_failures_total{kind="stuck","#) >= 1.0);
    assert!(metric("sightline_worker_restarts_total{") >= 1.0);
    assert_eq!(metric("sightline_model_ready{"), 1.0);
    eventually("the operator returns", || stuck() == 0.0);
    assert!(works());
    server.terminate();
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stuck worker returned"), "{log}");
}

#[test]
fn a_shutdown_does_not_wait_for_runs_without_a_request() {
    let models = tempfile::tempdir().unwrap();
    write_model(models.path(), "looping", &endless_above(0.9));
    let path = models.path().join("looping");
    let server = Server::start(&["--model", text(&path), "--request-timeout-ms", "200"]);
    let reply = server.classify("", &png(255));
    assert_eq!(reply.code(), "deadline_passed");
    let stopped = Instant::now();
    server.terminate();
    let (code, log) = server.wait();
    // The run would be stopped one second after the deadline.
    assert!(stopped.elapsed() < Duration::from_millis(700), "{log}");
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_huge_tensor_fails_its_request_only() {
    let models = tempfile::tempdir().unwrap();
    write_model(models.path(), "huge", &huge_tensor());
    let server = Server::start(&["--model", text(&models.path().join("huge"))]);
    for (gray, status) in [(128, 200), (255, 500), (128, 200)] {
        assert_eq!(server.classify("", &png(gray)).status, status);
    }
    let failures = r#"sightline_worker_failures_total{kind="error",model="huge",variant="fp32"}"#;
    assert_eq!(server.metric(failures), 1.0);
    assert_eq!(server.get("/health/ready").status, 200);
}

#[test]
fn loading_ends_at_its_limits() {
    let models = tempfile::tempdir().unwrap();
    let time = [
        "--load-timeout-ms=700",
        "did not finish within 700 ms: --load-timeout-ms",
    ];
    let memory = [
        "--load-memory-bytes=512MiB",
        "the limit of 536870912 bytes of memory: --load-memory-bytes",
    ];
    let cases = [
        ("endless_loop", endless_above(-1.0), time),
        ("slow_constants", slow_constants(), time),
        ("huge_constant", huge_constant(), memory),
    ];
    let image = common::path("photos/coffee_500x375.jpg");
    for (name, graph, [flag, expected]) in cases {
        write_model(models.path(), name, &graph);
        let folder = models.path().join(name);
        let serve = [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--model",
            text(&folder),
            flag,
        ];
        let predict = ["predict", "--model", text(&folder), flag, text(&image)];
        for args in [&serve[..], &predict] {
            let (code, _, stderr) = run(args);
            assert_eq!(code, Some(1), "{name}: {stderr}");
            let model = format!("error: cannot load model `{name}@fp32`: ");
            assert!(stderr.contains(&model), "{name}: {stderr}");
            assert!(stderr.contains(expected), "{name}: {stderr}");
        }
    }
}

#[test]
fn a_stop_ends_the_process_that_loads_a_model() {
    let models = tempfile::tempdir().unwrap();
    write_model(models.path(), "endless_loop", &endless_above(-1.0));
    let server = Server::launch(&["--models", text(models.path())]);
    let mut children = Vec::new();
    eventually("the model is being loaded", || {
        children = server.children();
        !children.is_empty()
    });
    assert_eq!(server.get("/health/ready").code(), "starting");
    server.terminate();
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log}");
    eventually("the process that loads the model has ended", || {
        let is_gone = |id: &u32| !Path::new(&format!("/proc/{id}/exe")).exists();
        children.iter().all(is_gone)
    });
}

/// Adds the variant `int8` to the model `models/name`. Its network never ends, which makes loading it endless.
fn add_endless_variant(models: &Path, name: &str) {
    write_model(models, "endless_loop", &endless_above(-1.0));
    let folder = models.join(name);
    std::fs::copy(
        models.join("endless_loop/model.onnx"),
        folder.join("model.int8.onnx"),
    )
    .unwrap();
    std::fs::remove_dir_all(models.join("endless_loop")).unwrap();
    let manifest = std::fs::read_to_string(folder.join("model.toml")).unwrap();
    let variant = "[variants.int8]\nprecision = \"int8\"\n\
        stages = [{ role = \"network\", file = \"model.int8.onnx\" }]\n";
    std::fs::write(folder.join("model.toml"), format!("{manifest}\n{variant}")).unwrap();
}

#[test]
fn a_variant_that_cannot_be_loaded_in_time_fails_and_does_not_delay_a_stop() {
    let models = tempfile::tempdir().unwrap();
    write_model(models.path(), "good", &endless_above(0.9));
    add_endless_variant(models.path(), "good");
    let flags = ["--models", text(models.path()), "--load-timeout-ms"];
    let server = Server::start(&[&flags[..], &["5000"]].concat());
    let failed = server.classify("?model=good@int8", &png(128));
    assert_eq!(
        (failed.status, failed.code().as_str()),
        (503, "model_load_failed")
    );
    assert_eq!(server.classify("?model=good", &png(128)).status, 200);
    server.terminate();
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("--load-timeout-ms raises this limit"), "{log}");

    let server = Server::start(&[&flags[..], &["600000"]].concat());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.classify("?model=good@int8", &png(128)));
        let mut children = Vec::new();
        eventually("the variant is being loaded", || {
            children = server.children();
            !children.is_empty()
        });
        assert_eq!(server.classify("?model=good", &png(128)).status, 200);
        assert_eq!(server.get("/health/ready").status, 200);
        server.terminate();
        let reply = waiting.join().unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (503, "draining"));
        eventually("the process that loads the variant has ended", || {
            let is_gone = |id: &u32| !Path::new(&format!("/proc/{id}/exe")).exists();
            children.iter().all(is_gone)
        });
    });
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log}");
}
