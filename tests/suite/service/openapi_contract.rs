//! Checks that `openapi.yaml` and the server agree on routes, parameters, problem codes and the
//! properties of response bodies, and that the examples in `openapi.yaml` are valid.

use std::collections::BTreeSet;

use crate::common::{Server, checkpoint, photo};
use serde_json::Value;
use sightline::http::contract;
use sightline::manifest::Precision;

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

fn document() -> Value {
    serde_yaml_ng::from_str(include_str!("../../../openapi.yaml")).unwrap()
}

/// Returns the part of `document` that `value` refers to if `value` is a `$ref`, or else `value`.
fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).unwrap(),
        None => value,
    }
}

fn strings(list: &Value) -> BTreeSet<String> {
    let list = list.as_array().unwrap();
    list.iter()
        .map(|s| s.as_str().unwrap().to_owned())
        .collect()
}

/// Calls `visit` for `value` and for every value nested in `value`, with the nested value's JSON
/// pointer and content. `path` is the JSON pointer of `value`.
fn walk(value: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, value);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                walk(value, &format!("{path}/{}", key.replace('/', "~1")), visit);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                walk(value, &format!("{path}/{index}"), visit);
            }
        }
        _ => {}
    }
}

#[test]
fn the_document_is_consistent_and_lists_every_route_and_code() {
    let document = document();
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    walk(&document, "", &mut |path, value| {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let target = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(target).is_some(), "{path}: {reference}");
        }
    });

    let paths = document["paths"].as_object().unwrap().keys().cloned();
    let routes = contract::paths().into_iter().map(str::to_owned);
    assert_eq!(paths.collect::<BTreeSet<_>>(), routes.collect());

    let schemas = &document["components"]["schemas"];
    let precisions = [Precision::Fp32, Precision::Int8].map(|p| p.as_str().to_owned());
    let documented = strings(&schemas["Precision"]["enum"]);
    assert_eq!(documented, BTreeSet::from(precisions));
    let documented = strings(&schemas["ProblemCode"]["enum"]);
    let codes = contract::CODES.iter().map(|(code, _)| (*code).to_owned());
    assert_eq!(documented, codes.collect());
    examples(&document);
}

/// Checks the examples. The example of an error response must have a known problem code, the status
/// that belongs to the code, and the status under which the response is listed. The examples of
/// successful responses must have the properties of their schemas.
fn examples(document: &Value) {
    let mut seen = 0;
    walk(document, "", &mut |path, value| {
        let Some(example) = value.pointer("/content/application~1problem+json/example") else {
            return;
        };
        let code = example["code"].as_str().unwrap();
        let known = contract::CODES.iter().find(|(known, _)| *known == code);
        let expected = known.unwrap_or_else(|| panic!("{path}: no code {code}")).1;
        assert_eq!(example["status"], expected, "{path}");
        assert_eq!(
            example["type"],
            format!("urn:sightline:problem:{code}"),
            "{path}"
        );
        let status = example["status"].to_string();
        let named = path.rsplit('/').next().unwrap();
        assert!(
            named == status || path.contains("/components/"),
            "{path}: example for status {status}"
        );
        seen += 1;
    });
    assert!(seen >= 8, "only {seen} examples of errors");
    let answers = [
        (
            "/paths/~1v1~1classify/post/responses/200/content/application~1json/example",
            "ClassifyResponse",
        ),
        (
            "/paths/~1v1~1segment/post/responses/200/content/application~1json/example",
            "SegmentResponse",
        ),
        (
            "/paths/~1v1~1segment/post/responses/200/content/application~1json/example/results/0/mask",
            "Mask",
        ),
        (
            "/paths/~1v1~1detect/post/responses/200/content/application~1json/example",
            "DetectResponse",
        ),
        (
            "/paths/~1v1~1detect/post/responses/200/content/application~1json/example/results/0",
            "Detections",
        ),
        (
            "/paths/~1v1~1detect/post/responses/200/content/application~1json/example/results/0/detections/0",
            "Detection",
        ),
        (
            "/paths/~1v1~1detect/post/responses/200/content/application~1json/example/results/0/detections/0/box",
            "Box",
        ),
        ("/components/schemas/Model/example", "Model"),
    ];
    for (pointer, schema) in answers {
        has_shape(document, document.pointer(pointer).unwrap(), schema);
    }
}

/// Checks that `object` has exactly the properties that the schema named `schema` lists, and that
/// the schema requires all its properties.
fn has_shape(document: &Value, object: &Value, schema: &str) {
    let schema = &document["components"]["schemas"][schema];
    let keys: BTreeSet<String> = object.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, strings(&schema["required"]));
    let properties = schema["properties"].as_object().unwrap().keys().cloned();
    assert_eq!(keys, properties.collect());
}

#[test]
fn the_server_does_what_the_document_says() {
    let (server, document) = (Server::start(&[]), document());
    let served = server.get("/openapi.yaml");
    assert_eq!(served.text(), include_str!("../../../openapi.yaml"));

    for (path, item) in document["paths"].as_object().unwrap() {
        let concrete = path.replace("{model}", "efficientnet_lite0");
        let concrete = concrete.replace("{version}", "1");
        let file = if path.starts_with("/samples") {
            "cat.jpg"
        } else {
            "openapi.json"
        };
        let concrete = concrete.replace("{file}", file);
        for method in METHODS {
            let reply = server.request(&method.to_uppercase(), &concrete);
            let Some(operation) = item.get(method) else {
                let code = if path.starts_with("/v2") {
                    reply.open_inference_code()
                } else {
                    reply.code()
                };
                assert_eq!(code, "method_not_allowed", "{method} {path}");
                continue;
            };
            let status = reply.status.to_string();
            let response = resolve(&document, &operation["responses"][&status]);
            assert!(response.is_object(), "{method} {path}: {status}");
            let kind = reply.header("content-type").split(';').next().unwrap();
            assert!(
                response["content"][kind].is_object(),
                "{method} {path}: {kind}"
            );
            for header in response["headers"].as_object().unwrap().keys() {
                assert!(
                    !reply.header(header).is_empty(),
                    "{method} {path}: {header}"
                );
            }
        }
    }
    bodies(&server, &document);
    parameters(&server, &document);
}

fn bodies(server: &Server, document: &Value) {
    let json = &document["components"]["requestBodies"]["ImagesJson"]["content"];
    let examples = json["application/json"]["examples"].as_object().unwrap();
    for example in examples.values() {
        let body = example["value"].to_string();
        let reply = server.post("/v1/classify", "application/json", body.as_bytes());
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let answer = server.classify("", &photo("coffee_500x375.jpg")).json();
    has_shape(document, &answer, "ClassifyResponse");
    has_shape(
        document,
        &answer["results"][0]["predictions"][0],
        "Prediction",
    );
    let model = server.get("/v1/models").json()["models"][0].clone();
    has_shape(document, &model, "Model");
    has_shape(document, &model["input"], "ModelInput");
    preprocessing(document, &model["input"]["preprocess"]);
    has_shape(document, &model["batching"], "Batching");
    has_shape(document, &model["provenance"], "Provenance");
    let model = server.get("/v1/models/efficientnet_lite0").json();
    has_shape(document, &model, "ModelWithLabels");
}

/// Returns the entry of the parameter `name` under `POST route`, or `None` if the document does not
/// list the parameter there.
fn parameter<'a>(document: &'a Value, route: &str, name: &str) -> Option<&'a Value> {
    let list = document["paths"][route]["post"]["parameters"].as_array()?;
    let mut all = list.iter().map(|parameter| resolve(document, parameter));
    all.find(|parameter| parameter["name"] == name)
}

#[test]
fn every_parameter_is_described() {
    let document = document();
    for (route, names) in contract::parameters() {
        let listed = document["paths"][route]["post"]["parameters"].as_array();
        // The list also has the request id, a header, which is not in `names`.
        let listed = listed.unwrap().len() - 1;
        let apart = names.iter().filter(|name| **name == "classes").count();
        assert_eq!(listed, names.len() - apart, "{route}");
        for name in names {
            // The values of the parameter `classes` depend on the model, so `openapi.yaml` has the
            // parameter as a component that the route does not list.
            let described = match name {
                "classes" => Some(&document["components"]["parameters"]["Classes"]),
                name => parameter(&document, route, name),
            };
            let described = described.unwrap_or_else(|| panic!("{route}: `{name}` is not listed"));
            assert_eq!(described["name"], name);
            assert!(described["description"].is_string(), "{route}: {name}");
        }
    }
}

#[test]
fn a_detector_does_what_the_document_says() {
    let (document, directory) = (document(), tempfile::tempdir().unwrap());
    let network = "ssdlite320_mobilenet_v3_large";
    checkpoint::export(network, None, directory.path(), "coco");
    let server = Server::start(&["--models", directory.path().to_str().unwrap()]);
    let image = photo("coffee_500x375.jpg");
    let ask = |query: &str| {
        let path = format!("/v1/detect?{query}");
        server.post(&path, "image/jpeg", &image)
    };
    let answer = ask("").json();
    let (result, schemas) = (&answer["results"][0], &document["components"]["schemas"]);
    has_shape(&document, &answer, "DetectResponse");
    has_shape(&document, result, "Detections");
    has_shape(&document, &result["detections"][0], "Detection");
    has_shape(&document, &result["detections"][0]["box"], "Box");

    let model = server.get("/v1/models/coco").json();
    has_shape(&document, &model, "ModelWithLabels");
    for (field, schema) in [
        ("task", "Task"),
        ("route", "Route"),
        ("precision", "Precision"),
        ("state", "LoadState"),
    ] {
        assert!(strings(&schemas[schema]["enum"]).contains(model[field].as_str().unwrap()));
    }
    preprocessing(&document, &model["input"]["preprocess"]);

    let schema = |name: &str| &parameter(&document, "/v1/detect", name).unwrap()["schema"];
    assert_eq!(answer["results"], {
        let default = &schema("score_threshold")["default"];
        ask(&format!("score_threshold={default}")).json()["results"].clone()
    });
    for (name, below, above) in [
        ("score_threshold", "-0.01", "1.01"),
        ("iou_threshold", "-0.01", "1.01"),
        ("max_detections", "0", "1001"),
    ] {
        for bound in ["minimum", "maximum"] {
            let reply = ask(&format!("{name}={}", schema(name)[bound]));
            assert_eq!(reply.status, 200, "{name} {bound}");
        }
        for value in [below, above] {
            assert_eq!(
                ask(&format!("{name}={value}")).status,
                400,
                "{name} {value}"
            );
        }
    }
    let example = &document["components"]["parameters"]["Classes"]["example"];
    let classes = example.as_str().unwrap().replace(' ', "%20");
    assert_eq!(ask(&format!("classes={classes}")).status, 200);
    let content = &document["paths"]["/v1/detect"]["post"]["responses"]["200"]["content"];
    for kind in ["image/png", "image/jpeg"] {
        assert!(content[kind].is_object());
        let reply = server.post_accepting("/v1/detect?annotate=true", kind, &image);
        assert_eq!(reply.header("content-type"), kind);
    }
}

/// Checks `shown`, the object `preprocess` of a model in `/v1/models`: it must have only properties
/// of its schema, and its `resize` exactly the properties that the schema requires for the resize
/// mode.
fn preprocessing(document: &Value, shown: &Value) {
    let schema = &document["components"]["schemas"]["ModelInput"]["properties"]["preprocess"];
    let properties = schema["properties"].as_object().unwrap();
    for name in shown.as_object().unwrap().keys() {
        assert!(properties.contains_key(name), "{name} has no schema");
    }
    let modes = properties["resize"]["oneOf"].as_array().unwrap();
    let resize = &shown["resize"];
    let mode = modes
        .iter()
        .find(|mode| mode["properties"]["mode"]["const"] == resize["mode"])
        .unwrap();
    let keys: BTreeSet<String> = resize.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, strings(&mode["required"]));
}

/// Checks that the server applies the documented default and bounds of `top_k` and the documented
/// values of `orientation` and `decode`, and that the documented default of each limit is the server's.
fn parameters(server: &Server, document: &Value) {
    let image = photo("coffee_500x375.jpg");
    let schema = |name: &str| &parameter(document, "/v1/classify", name).unwrap()["schema"];
    let top_k = |name: &str| schema("top_k")[name].as_u64().unwrap();
    let default = server.classify("", &image).results();
    let count = default[0]["predictions"].as_array().unwrap().len() as u64;
    assert_eq!(count, top_k("default"));
    for (value, status) in [
        (top_k("minimum"), 200),
        (top_k("minimum") - 1, 400),
        (top_k("maximum"), 200),
        (top_k("maximum") + 1, 400),
    ] {
        let reply = server.classify(&format!("?top_k={value}"), &image);
        assert_eq!(reply.status, status, "{value}");
    }
    for name in ["orientation", "decode"] {
        for word in strings(&schema(name)["enum"]) {
            let reply = server.classify(&format!("?{name}={word}"), &image);
            assert_eq!(reply.status, 200, "{name}={word}");
        }
    }
    let limits = sightline::app::Limits::default();
    let text = document["info"]["description"].as_str().unwrap();
    for (flag, limit) in [
        ("--max-body-bytes", limits.max_body_bytes as u64),
        ("`--max-pixels`", limits.max_pixels),
        ("--max-pixels-per-byte", limits.max_pixels_per_byte),
        ("--max-images", limits.max_images as u64),
        ("--body-memory-bytes", sightline::memory::BODY_BYTES),
        ("--response-memory-bytes", sightline::memory::RESPONSE_BYTES),
        (
            "--request-timeout-ms",
            limits.request_timeout.as_millis() as u64,
        ),
    ] {
        let row = text.lines().find(|line| line.contains(flag)).unwrap();
        assert!(
            row.contains(&format!("| {limit} ")) || row.contains(&format!("| {limit} |")),
            "{row}"
        );
    }
}
