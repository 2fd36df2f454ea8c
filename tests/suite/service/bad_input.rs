//! Checks that the server rejects invalid images, bodies and parameters with the documented status
//! and problem code, accepts unusual but valid images, still serves requests after each rejection,
//! and uses little memory.

use std::io::{Read, Write};

use crate::common::{self, Server, form, json_body, odd, photo};

/// Limit for the server's peak memory in bytes, far below the memory for images of the size that
/// the headers of `huge.png` and `huge.jpg` state.
const MOST_MEMORY: u64 = 600 << 20;

fn still_serves(server: &Server, after: &str) {
    let labels = server
        .classify("?top_k=1", &photo("coffee_500x375.jpg"))
        .labels();
    assert_eq!(labels, ["espresso"], "after {after}");
}

#[test]
fn invalid_images_bodies_and_parameters_are_rejected() {
    let server = Server::start(&[]);
    images(&server);
    bodies(&server);
    parameters(&server);
    let peak = server.memory("VmHWM");
    assert!(peak < MOST_MEMORY, "{} MiB", peak >> 20);
}

fn images(server: &Server) {
    for (name, status, code) in [
        ("truncated.jpg", 422, "damaged_image"),
        ("truncated_end.jpg", 422, "damaged_image"),
        ("truncated_progressive.jpg", 422, "damaged_image"),
        ("truncated.png", 422, "damaged_image"),
        ("truncated.webp", 422, "damaged_image"),
        ("truncated_lossless.webp", 422, "damaged_image"),
        ("truncated.gif", 422, "damaged_image"),
        ("truncated.bmp", 422, "damaged_image"),
        ("huge.png", 413, "too_many_pixels"),
        ("huge.jpg", 413, "too_many_pixels"),
        ("text.txt", 415, "unknown_image_format"),
        ("picture.svg", 415, "unknown_image_format"),
        ("make.py", 415, "unknown_image_format"),
        ("empty", 400, "no_image"),
    ] {
        let reply = server.classify("", &odd(name));
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{name}"
        );
        let field = if code == "no_image" {
            "body"
        } else {
            "images[0]"
        };
        assert_eq!(reply.json()["field"], field, "{name}");
        still_serves(server, name);
        // The error of a request with several images names the invalid image.
        let good = odd("baseline.jpg");
        let bad = odd(name);
        let reply = server.post(
            "/v1/classify",
            "application/json",
            &json_body(&[&good, &bad, &good]),
        );
        assert_eq!(reply.json()["field"], "images[1]", "{name}");
        let code = if code == "no_image" {
            "empty_image"
        } else {
            code
        };
        assert_eq!(reply.code(), code, "{name}");
    }
    for entry in std::fs::read_dir(common::path("golden/images")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let bad = [
            "truncated",
            "huge",
            "empty",
            "text",
            "picture",
            "make.",
            "expected",
        ];
        if bad.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let reply = server.classify("", &odd(&name));
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
    }
    // Files in unusual formats are also listed by name, so that the test fails if a file is
    // missing. All show the scene of `rgb.png` and must get one of its classes.
    for name in [
        "animated.gif",
        "animated.webp",
        "cmyk.jpg",
        "rgb16.png",
        "palette.png",
    ] {
        let best = &server.classify("", &odd(name)).results()[0]["predictions"][0];
        let plain = &server.classify("", &odd("rgb.png")).results()[0]["predictions"];
        let plain: Vec<_> = plain
            .as_array()
            .unwrap()
            .iter()
            .map(|p| &p["label"])
            .collect();
        assert!(
            plain.contains(&&best["label"]),
            "{name}: best class {best}, expected one of {plain:?}"
        );
    }
}

#[expect(clippy::too_many_lines, reason = "one long table of cases")]
fn bodies(server: &Server) {
    let coffee = photo("coffee_500x375.jpg");
    let json = "application/json";
    let (form_type, unnamed) = form(&[("picture", &coffee)]);
    let (_, no_parts) = form(&[]);
    let (_, empty_part) = form(&[("image", b"")]);
    let (_, good) = form(&[("image", &coffee)]);
    let (_, many) = form(&[("image", b"x" as &[u8]); 33]);
    let many_json = json_body(&[b"x" as &[u8]; 33]);
    let cut = &good[..good.len() - 40];
    let cases: [(&str, &str, &[u8], u16, &str); 27] = [
        ("not JSON", json, b"{", 400, "bad_body"),
        ("no body", json, b"", 400, "bad_body"),
        ("an array", json, b"[]", 400, "bad_body"),
        ("a string", json, br#""images""#, 400, "bad_body"),
        ("null", json, b"null", 400, "bad_body"),
        ("no images", json, b"{}", 400, "bad_body"),
        ("null images", json, br#"{"images":null}"#, 400, "bad_body"),
        ("an object", json, br#"{"images":{}}"#, 400, "bad_body"),
        ("strings", json, br#"{"images":["AQI="]}"#, 400, "bad_body"),
        ("no data", json, br#"{"images":[{}]}"#, 400, "bad_body"),
        (
            "a number",
            json,
            br#"{"images":[{"data":7}]}"#,
            400,
            "bad_body",
        ),
        (
            "unknown field",
            json,
            br#"{"images":[],"top_k":1}"#,
            400,
            "bad_body",
        ),
        (
            "twice",
            json,
            br#"{"images":[],"images":[]}"#,
            400,
            "bad_body",
        ),
        (
            "not UTF-8",
            json,
            b"{\"images\":[{\"data\":\"\xff\"}]}",
            400,
            "bad_body",
        ),
        (
            "not base64",
            json,
            br#"{"images":[{"data":"%%%%"}]}"#,
            400,
            "bad_body",
        ),
        (
            "cut base64",
            json,
            br#"{"images":[{"data":"AQIDB"}]}"#,
            400,
            "bad_body",
        ),
        ("an empty list", json, br#"{"images":[]}"#, 400, "no_image"),
        (
            "empty data",
            json,
            br#"{"images":[{"data":""}]}"#,
            422,
            "empty_image",
        ),
        ("33 images", json, &many_json, 413, "too_many_images"),
        ("wrong part name", form_type, &unnamed, 400, "bad_body"),
        ("no parts", form_type, &no_parts, 400, "no_image"),
        ("an empty part", form_type, &empty_part, 422, "empty_image"),
        ("33 parts", form_type, &many, 413, "too_many_images"),
        ("a cut form", form_type, cut, 400, "bad_body"),
        ("no boundary", "multipart/form-data", &good, 400, "bad_body"),
        (
            "another type",
            "text/plain",
            &coffee,
            415,
            "unsupported_media_type",
        ),
        (
            "a web form",
            "application/x-www-form-urlencoded",
            &coffee,
            415,
            "unsupported_media_type",
        ),
    ];
    for (name, kind, body, status, code) in cases {
        let reply = server.post("/v1/classify", kind, body);
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{name}"
        );
    }
    let other_boundary = "multipart/form-data; boundary=elsewhere";
    let reply = server.post("/v1/classify", other_boundary, &good);
    assert_eq!(reply.code(), "bad_body", "{}", reply.text());
    still_serves(server, "bad bodies");
    interrupted(server);
}

/// Checks that the server survives three clients that interrupt a request: one closes its
/// connection in the middle of the body, one sends an invalid chunk, and one connects without
/// sending anything.
fn interrupted(server: &Server) {
    let head = "POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\n";
    let mut stream = server.connect();
    write!(stream, "{head}content-length: 1000\r\n\r\nhalf").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.is_empty() || answer.contains("body_interrupted"),
        "{answer}"
    );
    let mut stream = server.connect();
    write!(stream, "{head}transfer-encoding: chunked\r\n\r\nZZ\r\n").unwrap();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("400 Bad Request"), "{answer}");
    drop(server.connect());
    still_serves(server, "interrupted bodies");
}

fn parameters(server: &Server) {
    let coffee = photo("coffee_500x375.jpg");
    for (query, status, code, field) in [
        ("?model=resnet19", 404, "unknown_model", "model"),
        ("?model=", 404, "unknown_model", "model"),
        (
            "?model=efficientnet_lite0@int4",
            404,
            "unknown_model",
            "model",
        ),
        ("?model=../../etc/passwd", 404, "unknown_model", "model"),
        ("?model=a&model=b", 400, "bad_parameter", "model"),
        ("?top_k=0", 400, "bad_parameter", "top_k"),
        ("?top_k=-1", 400, "bad_parameter", "top_k"),
        ("?top_k=abc", 400, "bad_parameter", "top_k"),
        ("?top_k=", 400, "bad_parameter", "top_k"),
        ("?top_k=1.5", 400, "bad_parameter", "top_k"),
        ("?top_k=100001", 400, "bad_parameter", "top_k"),
        (
            "?top_k=99999999999999999999999",
            400,
            "bad_parameter",
            "top_k",
        ),
        ("?top_k=1&top_k=2", 400, "bad_parameter", "top_k"),
        ("?orientation=up", 400, "bad_parameter", "orientation"),
        ("?decode=faster", 400, "bad_parameter", "decode"),
        ("?topk=3", 400, "bad_parameter", "topk"),
        ("?TOP_K=3", 400, "bad_parameter", "TOP_K"),
    ] {
        let reply = server.classify(query, &coffee);
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{query}"
        );
        let problem = reply.json();
        assert_eq!(problem["field"], field, "{query}");
        assert!(
            problem["expected"].is_string() && problem["got"].is_string(),
            "{problem}"
        );
    }
    still_serves(server, "bad parameters");
}

#[test]
fn configured_limits_are_enforced() {
    let server = Server::start(&[
        "--max-body-bytes",
        "60000",
        "--max-pixels",
        "200000",
        "--max-images",
        "2",
        "--max-queue-size",
        "1",
    ]);
    let coffee = photo("coffee_500x375.jpg");
    assert!(coffee.len() < 60_000);

    let too_long = vec![b'x'; 60_001];
    let reply = server.classify("", &too_long);
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (413, "body_too_large")
    );
    assert!(reply.json()["expected"].as_str().unwrap().contains("60000"));
    // A body of exactly the maximum length is read, and then rejected because it is not an image.
    assert_eq!(server.classify("", &too_long[1..]).status, 415);

    let head = "POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\n";
    let mut stream = server.connect();
    write!(stream, "{head}transfer-encoding: chunked\r\n\r\n").unwrap();
    for _ in 0..8 {
        // The server may respond and close the connection before the last chunk.
        let _ = write!(stream, "2710\r\n{}\r\n", "x".repeat(10_000));
    }
    assert!(response(stream).starts_with("HTTP/1.1 413 "));
    // A client that waits for `100 Continue` before sending a body over the limit receives 413 instead.
    let mut stream = server.connect();
    write!(
        stream,
        "{head}content-length: 99999999999\r\nexpect: 100-continue\r\n\r\n"
    )
    .unwrap();
    assert!(response(stream).starts_with("HTTP/1.1 413 "));
    let mut stream = server.connect();
    write!(stream, "{head}content-length: 99999999999\r\n\r\nsome").unwrap();
    assert!(response(stream).starts_with("HTTP/1.1 413 "));
    still_serves(&server, "long bodies");

    // `rocket.jpg` exceeds the limit of 200,000 pixels, but also the limit for the body, so the
    // pixel limit is tested with `huge.png`.
    let wide = photo("rocket.jpg");
    assert!(wide.len() > 60_000);
    let reply = server.classify("", &odd("huge.png"));
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (413, "too_many_pixels")
    );
    assert!(
        reply.json()["expected"]
            .as_str()
            .unwrap()
            .contains("200000")
    );

    let small = odd("baseline.jpg");
    let (kind, body) = form(&[("image", &small[..]); 3]);
    assert_eq!(
        server.post("/v1/classify", kind, &body).code(),
        "too_many_images"
    );
    // A request may contain two images (`--max-images`), but the queue holds only one image. A
    // retry could not succeed, so the status is 413 instead of 429.
    let (kind, body) = form(&[("image", &small[..]); 2]);
    let reply = server.post("/v1/classify", kind, &body);
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (413, "too_many_images")
    );
    still_serves(&server, "many images");
    assert!(server.memory("VmHWM") < MOST_MEMORY);
}

/// Reads a response up to the end of its JSON body. Stops there, because the server may reset the
/// connection afterwards.
fn response(mut stream: std::net::TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..read]);
        if bytes.ends_with(b"}") {
            break;
        }
    }
    String::from_utf8(bytes).unwrap()
}
