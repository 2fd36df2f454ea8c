//! `GET /metrics`, in the format that the client accepts.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, VARY};
use axum::response::IntoResponse;
use bytes::Bytes;
use tokio::sync::Mutex;

use super::accept::negotiate;
use super::problem::Problem;
use crate::app::App;
use crate::metrics::Exposition;

/// The latest page in each format.
///
/// One page of a format is rendered at a time, and requests that wait for it share the next one. Many scrapes at the
/// same time, which any client can send, therefore take the time and the memory of few.
#[derive(Debug, Default)]
pub struct Pages([Arc<Mutex<Option<Page>>>; Exposition::OFFERS.len()]);

#[derive(Debug)]
struct Page {
    started: Instant,
    body: Bytes,
}

impl Pages {
    /// Returns a page whose rendering starts after this call. It is rendered on a thread of its own, neither on one
    /// that serves sockets nor on the image pool, which may be busy for seconds.
    async fn render(&self, app: Arc<App>, exposition: Exposition) -> Result<Bytes, Problem> {
        let arrived = Instant::now();
        let mut latest = Arc::clone(&self.0[exposition as usize]).lock_owned().await;
        if let Some(page) = &*latest
            && page.started >= arrived
        {
            return Ok(page.body.clone());
        }
        // The lock is held until the page is rendered, even if the client disconnects.
        let render = move || -> Result<Bytes, fmt::Error> {
            let started = Instant::now();
            let body = Bytes::from(app.metrics.render(exposition)?);
            *latest = Some(Page {
                started,
                body: body.clone(),
            });
            Ok(body)
        };
        let rendered = tokio::task::spawn_blocking(render).await;
        let rendered = rendered
            .map_err(|error| Problem::internal(format!("cannot render metrics: {error}")))?;
        rendered.map_err(|_| {
            Problem::internal("cannot render metrics: a value exceeds the range of the format")
        })
    }
}

/// Returns the metrics. A client that accepts none of the formats gets the default one, as from other exporters.
pub(super) async fn page(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let exposition = negotiate(&headers, &Exposition::OFFERS).unwrap_or(Exposition::Text);
    let page = app.pages.render(Arc::clone(&app), exposition).await?;
    let headers = [(CONTENT_TYPE, exposition.media_type()), (VARY, "accept")];
    Ok((headers, page))
}
