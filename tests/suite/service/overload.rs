//! Checks how the server behaves under overload, with expired deadlines and slow clients, and at
//! shutdown, and that a failed start names the reason.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;

use crate::common::{self, Server, agent, eventually, finish, photo, run, tiny, without_sha256};

#[test]
fn a_full_queue_is_rejected_with_429_and_drains() {
    let server = Server::start(&[
        "--max-queue-size",
        "1",
        "--instances",
        "1",
        "--max-batch-size",
        "1",
    ]);
    let coffee = photo("coffee_500x375.jpg");
    let replies: Vec<_> = std::thread::scope(|scope| {
        let client = || {
            (0..6)
                .map(|_| server.classify("", &coffee))
                .collect::<Vec<_>>()
        };
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(client)).collect();
        let replies = clients.into_iter().map(|client| client.join().unwrap());
        replies.flatten().collect()
    });
    let (answered, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|r| r.status == 200);
    assert!(!answered.is_empty() && !refused.is_empty());
    for reply in &answered {
        assert_eq!(reply.labels(), ["espresso"]);
    }
    for reply in &refused {
        assert_eq!((reply.status, reply.code().as_str()), (429, "queue_full"));
        let seconds: u64 = reply.header("retry-after").parse().unwrap();
        assert!((1..60).contains(&seconds), "{seconds}");
    }
    let counted = rejected(&server, "queue_full");
    assert_eq!(counted, refused.len() as f64);
    assert_eq!(server.metric("sightline_queue_depth"), 0.0);
    assert_eq!(server.classify("", &coffee).labels(), ["espresso"]);
}

#[test]
fn a_passed_deadline_fails_with_408_or_504() {
    let server = Server::start(&["--request-timeout-ms", "1"]);
    let reply = server.classify("", &photo("astronaut.png"));
    // Whether 1 ms passes before or after the body has arrived depends on the machine.
    let expected = [(408, "body_timeout"), (504, "deadline_passed")];
    let got = (reply.status, &*reply.code());
    assert!(expected.contains(&got), "{got:?}");
    assert_eq!(rejected(&server, "deadline"), 1.0);
    assert_eq!(server.get("/health/ready").status, 200);
    eventually("the image left the queue", || {
        server.metric("sightline_queue_depth") == 0.0
    });
}

/// Returns how many requests for the built-in model the metric `sightline_rejected_total` counts
/// for `reason`.
fn rejected(server: &Server, reason: &str) -> f64 {
    let model = r#"model="efficientnet_lite0",variant="fp32""#;
    server.metric(&format!(
        r#"sightline_rejected_total{{reason="{reason}",{model}}}"#
    ))
}

/// Opens a connection and sends a request whose body is only the first `part` bytes of `image`.
fn half_request(server: &Server, image: &[u8], part: usize) -> TcpStream {
    let mut stream = server.connect();
    let length = image.len();
    write!(
        stream,
        "POST /v1/classify HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: image/png\r\ncontent-length: {length}\r\n\r\n"
    )
    .unwrap();
    stream.write_all(&image[..part]).unwrap();
    stream
}

#[test]
fn slow_clients_do_not_block_others_and_hold_bounded_memory() {
    let server = Server::start(&[
        "--max-body-bytes",
        "900000",
        "--body-memory-bytes",
        "900000",
    ]);
    let (slow, small, middle) = (
        photo("astronaut.png"),
        photo("coffee_500x375.jpg"),
        photo("chelsea.png"),
    );
    let most = slow.len() - 1000;
    let mut stream = half_request(&server, &slow, most);
    eventually("the slow body is in memory", || {
        server.metric(r#"sightline_budget_bytes{kind="bodies",state="used"}"#) >= most as f64
    });
    // While the slow body is in memory, a body that fits into the remaining memory budget is
    // accepted, and a larger body is rejected.
    let started = Instant::now();
    assert_eq!(server.classify("", &small).labels(), ["espresso"]);
    assert!(started.elapsed().as_secs() < 5);
    let reply = server.classify("", &middle);
    assert_eq!((reply.status, reply.code().as_str()), (429, "body_memory"));
    assert_eq!(reply.header("retry-after"), "1");
    assert_eq!(rejected(&server, "body_memory"), 1.0);
    // After the slow request has finished, its memory is released and the larger body is accepted.
    stream.write_all(&slow[most..]).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert_eq!(server.classify("", &middle).status, 200);
    // The memory of a client that closed its connection is released too.
    drop(half_request(&server, &slow, 1000));
    eventually("the memory is released", || {
        server.classify("", &middle).status == 200
    });
    // Idle connections do not count toward the memory budget.
    let _idle: Vec<_> = (0..20).map(|_| server.connect()).collect();
    assert_eq!(server.classify("", &middle).status, 200);
}

#[test]
fn requests_in_flight_finish_after_sigterm() {
    let server = Server::start(&[]);
    let image = photo("coffee.png");
    let mut streams: Vec<_> = (0..3)
        .map(|_| half_request(&server, &image, 5000))
        .collect();
    eventually("the requests are in flight", || {
        server.metric("sightline_in_flight") == 4.0
    });
    server.terminate();
    // Each probe uses a new connection, since a draining server closes idle connections.
    let ready = || agent().get(server.url("/health/ready")).call();
    eventually("the server is draining", || {
        ready().is_ok_and(|reply| reply.status() == 503)
    });
    let mut refused = agent()
        .post(server.url("/v1/classify"))
        .send(&image)
        .unwrap();
    let problem = refused.body_mut().read_to_string().unwrap();
    assert!(problem.contains("\"draining\""), "{problem}");
    for stream in &mut streams {
        stream.write_all(&image[5000..]).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.contains("espresso"), "{answer}");
    }
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.ends_with("stopped\n"), "{log}");
}

/// Checks that the server reads a rejected request's body to the end. The body exceeds the socket
/// buffers: if the server closed the connection with unread data, the connection would be reset
/// before the client could read the response.
#[test]
fn clients_that_are_still_sending_receive_the_rejection() {
    let server = Server::start(&["--max-body-bytes", "20000000"]);
    let body = vec![b'x'; 20_000_000];
    let large = vec![b'x'; 20_000_001];
    for _ in 0..3 {
        assert_eq!(server.classify("?top_k=0", &body).code(), "bad_parameter");
        let reply = server.post("/v1/classify", "text/plain", &body);
        assert_eq!(reply.code(), "unsupported_media_type");
        assert_eq!(server.classify("", &large).code(), "body_too_large");
        // The connection can be reused, since the server read the bodies to the end.
        assert_eq!(server.get("/health/live").status, 200);
    }
}

#[test]
fn a_shutdown_ends_after_its_grace_period() {
    let server = Server::start(&["--shutdown-grace-ms", "100"]);
    let _stuck = half_request(&server, &photo("coffee.png"), 5000);
    eventually("the request is in flight", || {
        server.metric("sightline_in_flight") == 2.0
    });
    server.terminate();
    let (code, log) = server.wait();
    assert_eq!(code, Some(1), "{log}");
    assert!(
        log.contains("requests were still in flight after the grace period of 100 ms"),
        "{log}"
    );
}

#[test]
fn a_model_that_cannot_be_loaded_fails_the_start() {
    let directory = tempfile::tempdir().unwrap();
    tiny::export(&directory.path().join("tiny"));
    let models = directory.path().to_str().unwrap();
    let file = |name: &str| directory.path().join("tiny").join(name);
    let fails = |expected: &str| {
        let (code, log) = Server::launch(&["--models", models]).wait();
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains(expected) && log.contains("tiny"), "{log}");
        assert!(!log.contains("panicked"), "{log}");
    };
    let labels = std::fs::read_to_string(file("labels.txt")).unwrap();
    std::fs::write(file("labels.txt"), "one\ntwo\n").unwrap();
    fails("10 classes");
    std::fs::write(file("labels.txt"), labels).unwrap();
    let onnx = std::fs::read(file("model.onnx")).unwrap();
    std::fs::write(file("model.onnx"), b"another model").unwrap();
    fails("correct or remove `stages.sha256`");
    let manifest = std::fs::read_to_string(file("model.toml")).unwrap();
    std::fs::write(file("model.toml"), without_sha256(&manifest)).unwrap();
    for bytes in [&onnx[..onnx.len() / 2], b"not a model", b""] {
        std::fs::write(file("model.onnx"), bytes).unwrap();
        fails("error: cannot load model `tiny@fp32`");
    }
    let rejected = |args: &[&str], expected: &str| {
        let (code, _, stderr) = run(&[&["serve", "--listen", "127.0.0.1:0"], args].concat());
        assert_eq!(code, Some(64), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    };
    std::fs::remove_file(file("model.onnx")).unwrap();
    rejected(&["--models", models], "tiny/model.onnx");
    std::fs::write(file("model.toml"), "name = 7").unwrap();
    rejected(&["--models", models], "model.toml");
    rejected(&["--model", "resnet50"], "sightline export resnet50");
}

#[test]
fn a_failed_start_names_the_reason() {
    let server = Server::start(&[]);
    let address = server.address.to_string();
    let (code, _, stderr) = run(&["serve", "--listen", &address]);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains(&format!("cannot listen on {address}")),
        "{stderr}"
    );
    drop(server);

    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("sightline.toml");
    for (text, expected) in [
        ("max_imagse = 1", "max_imagse"),
        ("max_images = ", "sightline.toml"),
        ("max_images = 0", "`max_images`: expected 1 to 1024, got 0"),
        ("listen = \"nowhere\"", "listen"),
    ] {
        std::fs::write(&config, text).unwrap();
        let (code, _, stderr) = run(&["serve", "--config", config.to_str().unwrap()]);
        assert_eq!(code, Some(64), "{text}: {stderr}");
        assert!(stderr.contains(expected), "{text}: {stderr}");
    }
    std::fs::remove_file(&config).unwrap();
    let (code, _, stderr) = run(&["serve", "--config", config.to_str().unwrap()]);
    assert_eq!(code, Some(64), "{stderr}");
    let (code, _, stderr) = run(&["serve", "--threads", "0"]);
    assert_eq!(code, Some(64), "{stderr}");
    let (code, _, stderr) = run(&["serve", "--thread", "1"]);
    assert_eq!(code, Some(2), "{stderr}");
    no_library(directory.path());
}

fn no_library(empty: &Path) {
    let (code, _, stderr) = run(&["serve", "--onnxruntime", "/nowhere/libonnxruntime.so"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("/nowhere/libonnxruntime.so"), "{stderr}");
    let text = common::path("golden/images/text.txt");
    let (code, _, stderr) = run(&["serve", "--onnxruntime", text.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("text.txt"), "{stderr}");

    let system = [
        "/usr/local/lib",
        "/usr/lib",
        "/usr/lib64",
        "/usr/lib/x86_64-linux-gnu",
    ];
    if system
        .iter()
        .any(|folder| Path::new(folder).join("libonnxruntime.so").is_file())
    {
        return;
    }
    // The folder of the build is in a checkout, which has a library.
    let copy = empty.join("sightline");
    std::fs::copy(env!("CARGO_BIN_EXE_sightline"), &copy).unwrap();
    // Others may have written what is in the working directory.
    let hostile = empty.join(".cache/onnxruntime");
    std::fs::create_dir_all(&hostile).unwrap();
    std::fs::write(hostile.join("libonnxruntime.so"), "hostile").unwrap();
    let mut command = std::process::Command::new(&copy);
    command.arg("serve").stdin(std::process::Stdio::null());
    command.env_remove("ORT_DYLIB_PATH").current_dir(empty);
    let (code, _, stderr) = finish(command);
    assert_eq!(code, Some(1));
    let beside = empty.canonicalize().unwrap().join("libonnxruntime.so");
    for place in [beside.to_str().unwrap(), "/usr/local/lib"] {
        assert!(stderr.contains(place), "{place} in {stderr}");
    }
    assert!(!stderr.contains(hostile.to_str().unwrap()), "{stderr}");
    assert!(stderr.contains("run `make onnxruntime`"), "{stderr}");
}
