//! An HTTP client, a type for its responses, and functions that encode images as request bodies.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::ring;
use serde_json::Value;
use ureq::tls::TlsConfig;

use super::PATIENCE;

/// Content type of error responses (RFC 9457 problem documents).
pub const PROBLEM: &str = "application/problem+json";

/// Returns an HTTP client that uses no proxy, returns responses with error statuses instead of failing, and accepts every
/// certificate.
pub fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .tls_config(
            TlsConfig::builder()
                .disable_verification(true)
                .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
                .build(),
        )
        .proxy(None);
    config.build().into()
}

/// An HTTP response whose body has been read completely.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    headers: ureq::http::HeaderMap,
    /// The bytes of the response's body.
    pub body: Vec<u8>,
}

impl Reply {
    /// Reads a response completely. Panics if the connection fails.
    pub fn new(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Self {
        let mut response = response.unwrap();
        let body = response.body_mut().with_config().limit(128 << 20);
        let body = body.read_to_vec().unwrap();
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body,
        }
    }

    /// Returns the value of the header `name`, or an empty string if the response has no such header.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// Returns the response's body as text. Panics if the body is not UTF-8.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// Parses the response's body as JSON. Panics if the body is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Returns the `code` of the problem document in the response's body. Panics if the content
    /// type or another field of the document is wrong.
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

    /// Returns the `code` of an error of the Open Inference Protocol. Panics if it does not have the form that clients of
    /// the protocol read.
    pub fn open_inference_code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/json", "{self:?}");
        let error = self.json();
        assert!(!error["error"].as_str().unwrap().is_empty(), "{error}");
        assert_eq!(error["request_id"], self.header("x-request-id"), "{error}");
        error["code"].as_str().unwrap().to_owned()
    }

    /// Returns the array `results` of the response's body, which has one entry per image. Panics if
    /// the status is not 200.
    pub fn results(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()["results"].as_array().unwrap().clone()
    }

    /// Returns the label of the best class of each image in a classification response.
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

/// Reads the response to a request that needs headers of its own.
pub fn reply(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Reply {
    Reply::new(response)
}

/// Encodes `parts`, pairs of a field name and a file's bytes, as a multipart form. Returns the
/// content type and the body of the request.
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

/// Encodes image files in base64 as a JSON request body.
pub fn json_body(images: &[&[u8]]) -> Vec<u8> {
    let images: Vec<Value> = images
        .iter()
        .map(|bytes| serde_json::json!({ "data": STANDARD.encode(bytes) }))
        .collect();
    serde_json::json!({ "images": images })
        .to_string()
        .into_bytes()
}
