//! Checks what the server says to requests with the mistakes that people make first.

use crate::common::client::{Reply, form};
use crate::common::{Server, photo};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Returns the members `detail`, `field`, `expected` and `got` of a problem document with `code`.
fn problem(reply: &Reply, status: u16, code: &str) -> [String; 4] {
    assert_eq!((reply.status, reply.code().as_str()), (status, code));
    let document = reply.json();
    ["detail", "field", "expected", "got"]
        .map(|member| document[member].as_str().unwrap_or_default().to_owned())
}

#[test]
fn mistakes_are_named_with_the_remedy() {
    let server = Server::start(&[]);
    let photo = photo("coffee_500x375.jpg");
    part_names(&server, &photo);
    parameters(&server, &photo);
    bodies(&server);
    routes(&server);
}

fn part_names(server: &Server, photo: &[u8]) {
    for name in [
        "image", "images", "file", "files", "image[]", "images[]", "file[]", "files[]",
    ] {
        let (kind, body) = form(&[(name, photo), (name, photo)]);
        let reply = server.post("/v1/classify?top_k=1", kind, &body);
        assert_eq!(reply.labels(), ["espresso", "espresso"], "{name}");
    }
    for name in ["photo", "image[0]", "Image", ""] {
        let (kind, body) = form(&[(name, photo)]);
        let reply = server.post("/v1/classify", kind, &body);
        let [detail, field, expected, _] = problem(&reply, 400, "bad_body");
        assert_eq!(field, name);
        assert!(detail.ends_with("unknown part: images go into parts named `image`"));
        assert_eq!(
            expected,
            "one or more parts named `image` (or `images`, `file`, `files`)"
        );
    }
}

fn parameters(server: &Server, photo: &[u8]) {
    let reply = server.classify("?topk=3", photo);
    let [detail, field, expected, got] = problem(&reply, 400, "bad_parameter");
    assert_eq!(detail, "unknown parameter `topk`: did you mean `top_k`?");
    assert_eq!(
        [field, expected, got],
        ["topk", "model, orientation, decode, top_k", "topk"]
    );
    let reply = server.post("/v1/detect?model=efficientnet_lite0", "image/jpeg", photo);
    let [detail, field, expected, got] = problem(&reply, 404, "wrong_task");
    assert!(detail.contains("is a classification model, and this route serves detection models"));
    assert!(detail.ends_with("send the request to /v1/classify"));
    assert_eq!(
        [field.as_str(), expected.as_str()],
        ["model", "a detection model"]
    );
    assert!(got.starts_with("efficientnet_lite0"), "{got}");
    assert!(got.ends_with(", a classification model"), "{got}");
}

fn bodies(server: &Server) {
    let cases = [
        (r#"{"images":["abc"]}"#, "an object with the field `data`"),
        (r#""abc""#, "an object with the field `images`"),
        (r#"{"images":[{"data":7}]}"#, "expected a string"),
        (r#"{"images":{}}"#, "expected a sequence"),
    ];
    for (body, reason) in cases {
        let reply = server.post("/v1/classify", "application/json", body.as_bytes());
        let [detail, field, expected, _] = problem(&reply, 400, "bad_body");
        assert!(detail.contains(reason), "{detail}");
        assert!(
            !detail.contains("Json") && !detail.contains("struct"),
            "{detail}"
        );
        assert_eq!(
            [field.as_str(), expected.as_str()],
            ["body", r#"{"images": [{"data": "<base64>"}]}"#]
        );
    }
    // curl -F image=x.png sends the name of the file; curl -d @x.png removes the line ends of the file.
    let (kind, body) = form(&[("image", b"x.png")]);
    let reply = server.post("/v1/classify", kind, &body);
    let [detail, ..] = problem(&reply, 415, "unknown_image_format");
    assert!(detail.contains("curl -F image=@"), "{detail}");
    let mangled: Vec<u8> = PNG
        .iter()
        .copied()
        .filter(|b| !b"\r\n".contains(b))
        .collect();
    let reply = server.post("/v1/classify", "image/png", &mangled);
    let [detail, ..] = problem(&reply, 415, "unknown_image_format");
    assert!(detail.contains("curl --data-binary"), "{detail}");
}

fn routes(server: &Server) {
    let page = server.get("/").text();
    let address = server.url("/v1/classify");
    assert!(page.contains(&address), "{page}");
    let [detail, ..] = problem(&server.get("/v1/classify"), 405, "method_not_allowed");
    assert!(
        detail.ends_with("send an image with POST, for example with curl -F image=@photo.jpg"),
        "{detail}"
    );
    let reply = server.request("DELETE", "/v1/models");
    let [detail, ..] = problem(&reply, 405, "method_not_allowed");
    assert!(detail.ends_with("use GET"), "{detail}");
}
