//! The Open Inference Protocol over HTTP: the routes under `/v2`.
//!
//! Handlers translate between JSON or binary messages and [`crate::inference`]. What is *not* here: the checks of tensors,
//! and status codes; errors are those of every route, in the form that clients of the protocol read ([`errors`]).

mod describe;
mod elements;
pub(super) mod errors;
mod infer;
mod message;
mod repository;
mod values;
mod write;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path};
#[cfg(any(test, feature = "fuzzing"))]
use axum::http::HeaderMap;
use axum::http::HeaderName;
use axum::http::request::Parts;
use axum::routing::{get, post};
#[cfg(any(test, feature = "fuzzing"))]
use bytes::Bytes;

use super::problem::Problem;
use super::{Route, control};
use crate::app::App;
use crate::error::ServeError;
use crate::inference::Target;
#[cfg(any(test, feature = "fuzzing"))]
use crate::inference::{self, DataType, TensorData};
use crate::parameters::cut;
use crate::registry::Snapshot;

/// Header with the number of bytes of JSON at the start of a body whose remainder is binary.
pub(super) const HEADER_LENGTH: HeaderName =
    HeaderName::from_static("inference-header-content-length");

/// Paths of the routes that load and unload models.
const CONTROL: [&str; 2] = [
    "/v2/repository/models/{model}/load",
    "/v2/repository/models/{model}/unload",
];

/// Returns the routes of the public listener.
pub(super) fn routes() -> Vec<Route> {
    let mut routes = vec![
        ("/v2", get(describe::server)),
        ("/v2/health/live", get(describe::live)),
        ("/v2/health/ready", get(describe::ready)),
        ("/v2/models", get(describe::list)),
        ("/v2/models/stats", get(describe::all_statistics)),
        ("/v2/models/{model}", get(describe::metadata)),
        ("/v2/models/{model}/ready", get(describe::model_ready)),
        ("/v2/models/{model}/config", get(describe::config)),
        ("/v2/models/{model}/stats", get(describe::statistics)),
        ("/v2/models/{model}/infer", post(infer::infer)),
        (
            "/v2/models/{model}/versions/{version}",
            get(describe::metadata),
        ),
        (
            "/v2/models/{model}/versions/{version}/ready",
            get(describe::model_ready),
        ),
        (
            "/v2/models/{model}/versions/{version}/config",
            get(describe::config),
        ),
        (
            "/v2/models/{model}/versions/{version}/stats",
            get(describe::statistics),
        ),
        (
            "/v2/models/{model}/versions/{version}/infer",
            post(infer::infer),
        ),
        index(),
    ];
    // A client that asks the wrong listener is told so.
    routes.extend(CONTROL.map(|path| (path, post(control::elsewhere))));
    routes
}

/// Returns the routes of the admin listener: the index of the repository, and the control of models.
pub(super) fn admin_routes() -> [Route; 3] {
    let [load, unload] = CONTROL;
    [
        index(),
        (load, post(repository::load)),
        (unload, post(repository::unload)),
    ]
}

fn index() -> Route {
    ("/v2/repository/index", post(repository::index))
}

/// Reads the message in `body`, as the handler of inference requests does, and the elements of its tensors. Returns the
/// number of bytes of all elements.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn read_message(headers: &HeaderMap, body: &Bytes) -> Result<usize, ServeError> {
    let header = match message::framing(headers)? {
        message::Framing::Json => None,
        message::Framing::Binary { header } => Some(header),
        message::Framing::Tensor => return Ok(body.len()),
    };
    let mut bytes = 0;
    for input in message::parse(body.clone(), header)?.inputs {
        elements::memory(&input)?;
        let tensor = elements::read(input)?;
        bytes += match tensor.data {
            TensorData::Raw(data) if tensor.datatype == DataType::Bytes => {
                let count = inference::elements("shape", &tensor.shape)?;
                let parts = inference::split_elements("data", &data, count as usize)?;
                parts.iter().map(Bytes::len).sum()
            }
            TensorData::Raw(data) => data.len(),
            TensorData::Elements(parts) => parts.iter().map(Bytes::len).sum(),
        };
    }
    Ok(bytes)
}

/// Returns whether `path` is one of a route of the protocol.
pub(super) fn contains(path: &str) -> bool {
    let rest = path.strip_prefix("/v2");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Returns whether requests to `path` have the method POST, for an error message.
pub(super) fn is_posted(path: &str) -> bool {
    let ends = ["/infer", "/index", "/load", "/unload"];
    contains(path) && ends.iter().any(|end| path.ends_with(end))
}

/// The model and the version in the path of a request.
pub(super) struct Named {
    model: String,
    version: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        type Pairs = Path<Vec<(String, String)>>;
        let pairs: Result<Pairs, PathRejection> = Path::from_request_parts(parts, state).await;
        let Ok(Path(pairs)) = pairs else {
            return Err(ServeError::BadParameter {
                field: "model".to_owned(),
                expected: "percent-encoded UTF-8".to_owned(),
                got: cut(parts.uri.path()),
            }
            .into());
        };
        let take = |name: &str| {
            let found = pairs.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone())
        };
        Ok(Self {
            model: take("model").unwrap_or_default(),
            version: take("version"),
        })
    }
}

impl Named {
    /// Returns the served variant and the face that the path names.
    fn find(&self, snapshot: &Snapshot) -> Result<Target, ServeError> {
        Target::find(snapshot, &self.model, self.version.as_deref())
    }

    /// Returns the served variant that the path names, and the models that are served.
    fn target(&self, app: &App) -> Result<(Target, Arc<Snapshot>), ServeError> {
        let snapshot = app.registry()?.snapshot();
        Ok((self.find(&snapshot)?, snapshot))
    }
}
