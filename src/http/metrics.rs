//! `GET /metrics`, in the format that the client accepts.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, VARY};
use axum::response::IntoResponse;

use super::accept::negotiate;
use super::problem::Problem;
use crate::app::App;
use crate::metrics::Exposition;

/// Renders the metrics on a thread of their own, neither on one that serves sockets nor on the image pool, which may
/// be busy for seconds. A client that accepts none of the formats gets the default one, as from other exporters.
pub(super) async fn page(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let exposition = negotiate(&headers, &Exposition::OFFERS).unwrap_or(Exposition::Text);
    let page = tokio::task::spawn_blocking(move || app.metrics.render(exposition)).await;
    let page =
        page.map_err(|error| Problem::internal(format!("cannot render metrics: {error}")))?;
    let page = page.map_err(|_| {
        Problem::internal("cannot render metrics: a value exceeds the range of the format")
    })?;
    let headers = [(CONTENT_TYPE, exposition.media_type()), (VARY, "accept")];
    Ok((headers, page))
}
