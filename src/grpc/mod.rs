//! The gRPC interface: the Open Inference Protocol, probes and reflection. This file lists every method, and `layers`
//! adds the layers around the methods.
//!
//! Calls arrive on the listeners of [`crate::http::server`], which limit them as they limit requests of HTTP/2: the same
//! TLS, API keys, memory, deadlines, metrics and traces. What is *not* here: tensors, and what the protocol means; see
//! [`crate::inference`].

mod body;
mod call;
mod convert;
mod describe;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod health;
mod infer;
mod layers;
mod service;
mod status;
mod stream;
mod timeout;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use open_inference::SERVICE;
use open_inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use open_inference::limits::MAX_SMALL_BYTES;
use tonic::codec::CompressionEncoding;
use tonic_health::pb::health_server::HealthServer;
use tower::{Service, ServiceExt as _};

use crate::app::App;
use crate::error::ServeError;
use crate::http::problem::Problem;
use service::Inference;

/// Whether clients of this listener may load and unload models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// They may.
    Allowed,
    /// Only those of the admin listener may. Without one, those of gRPC may if they need an API key.
    Elsewhere,
}

/// Every method of the inference service.
const METHODS: [&str; 12] = [
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "ModelStreamInfer",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
];

/// Methods whose messages have tensors.
const WITH_TENSORS: [&str; 2] = ["ModelInfer", "ModelStreamInfer"];

/// Returns the router of the gRPC listeners, with its layers. A request that is no call gets a problem document.
pub fn router(app: &Arc<App>, control: Control) -> Router {
    let inference = GrpcInferenceServiceServer::new(Inference::new(Arc::clone(app), control));
    // Responses are not compressed: most clients accept that without asking for it, and it costs more than it saves.
    let tensors = inference
        .clone()
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Deflate)
        .max_decoding_message_size(app.limits.max_body_bytes);
    // Some of the other methods need no key, and none needs a large message or a decompressor.
    let small = inference.max_decoding_message_size(MAX_SMALL_BYTES);
    let mut methods = Router::new();
    for method in METHODS {
        let service = if WITH_TENSORS.contains(&method) {
            &tensors
        } else {
            &small
        };
        methods = add(methods, &format!("/{SERVICE}/{method}"), service.clone());
    }
    let health = HealthServer::new(health::Probes::new(Arc::clone(app)));
    let health = health.max_decoding_message_size(health::MAX_BYTES);
    for method in ["Check", "Watch"] {
        let path = format!("/grpc.health.v1.Health/{method}");
        methods = add(methods, &path, health.clone());
    }
    methods = add_reflection(methods);
    layers::surround(methods.fallback(unimplemented), app)
}

/// Returns the router of requests that arrive without TLS on a gRPC listener with TLS: it rejects all of them, before an
/// API key is read.
pub fn tls_required_router(app: &Arc<App>) -> Router {
    let rejected = async || Problem::from(ServeError::HttpsRequired).into_response();
    layers::surround_rejected(Router::new().fallback(rejected), app)
}

/// Adds the method `path` of `service`.
fn add<S>(methods: Router<Arc<App>>, path: &str, service: S) -> Router<Arc<App>>
where
    S: Service<axum::http::Request<tonic::body::Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Response: IntoResponse,
    S::Future: Send + 'static,
{
    let service = service.map_request(|request: Request| request.map(tonic::body::Body::new));
    methods.route_service(path, service)
}

/// Adds reflection, in the version of current clients and in that of older ones.
fn add_reflection(methods: Router<Arc<App>>) -> Router<Arc<App>> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(open_inference::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let path =
        |version| format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
    match (builder().build_v1(), builder().build_v1alpha()) {
        (Ok(v1), Ok(alpha)) => {
            let methods = add(
                methods,
                &path("v1"),
                v1.max_decoding_message_size(MAX_SMALL_BYTES),
            );
            let alpha = alpha.max_decoding_message_size(MAX_SMALL_BYTES);
            add(methods, &path("v1alpha"), alpha)
        }
        // The descriptors are part of the binary, and a test reads them.
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "reflection disabled: the descriptors cannot be read");
            methods
        }
    }
}

async fn unimplemented(request: Request) -> Problem {
    let path = onnx_export::text::cut(request.uri().path(), 64).to_owned();
    ServeError::NoMethod { path }.into()
}
