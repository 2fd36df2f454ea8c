//! An HTTP client and request bodies.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::PATIENCE;

/// The content type of problem documents.
pub const PROBLEM: &str = "application/problem+json";

/// A client that returns responses of every status and uses no proxy.
pub fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .proxy(None);
    config.build().into()
}

/// A response, read to its end.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    headers: ureq::http::HeaderMap,
    /// The bytes of the body.
    pub body: Vec<u8>,
}

impl Reply {
    pub(super) fn new(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Self {
        let mut response = response.unwrap();
        let body = response.body_mut().with_config().limit(128 << 20);
        let body = body.read_to_vec().unwrap();
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body,
        }
    }

    /// A header's value; empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of a problem document, whose other fields are checked.
    pub fn code(&self) -> String {
        assert_eq!(self.header("content-type"), PROBLEM, "{self:?}");
        let problem = self.json();
        let code = problem["code"].as_str().unwrap().to_owned();
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["type"], format!("urn:sightline:problem:{code}"));
        for text in ["title", "detail"] {
            assert!(!problem[text].as_str().unwrap().is_empty(), "{problem}");
        }
        code
    }

    /// The predictions for each image.
    pub fn results(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()["results"].as_array().unwrap().clone()
    }

    /// The best label for each image.
    pub fn labels(&self) -> Vec<String> {
        let best = |result: &Value| {
            result["predictions"][0]["label"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        self.results().iter().map(best).collect()
    }
}

/// Encodes `parts` (name and bytes) as a form: content type and body.
pub fn form(parts: &[(&str, &[u8])]) -> (&'static str, Vec<u8>) {
    let mut body = Vec::new();
    for (name, bytes) in parts {
        let head = format!(
            "--frontier\r\ncontent-disposition: form-data; name=\"{name}\"; filename=\"a\"\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--frontier--\r\n");
    ("multipart/form-data; boundary=frontier", body)
}

/// Encodes `images` as a JSON body.
pub fn json_body(images: &[&[u8]]) -> Vec<u8> {
    let images: Vec<Value> = images
        .iter()
        .map(|bytes| serde_json::json!({ "data": STANDARD.encode(bytes) }))
        .collect();
    serde_json::json!({ "images": images })
        .to_string()
        .into_bytes()
}
