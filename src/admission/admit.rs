//! Admission of the head of a request.

use std::sync::Arc;

use super::{Admission, Deadline, Watch};
use crate::app::App;
use crate::error::ServeError;
use crate::registry::{Entry, LoadState};

/// Checks the head of a request, and that the queue can take it, before the body is read. `find` checks the head and
/// returns it with its model. Waits until the model is loaded if it is loaded on first use, but not longer than until
/// `deadline`; the request then has its full time again, because the body is not read meanwhile. `watch` learns the
/// model as soon as it is known, so that metrics can name it if a later check fails.
///
/// # Errors
/// Those of `find`, of [`crate::registry::Registry::load`] and of [`Admission::new`], and [`ServeError::DeadlinePassed`].
pub async fn admit<T>(
    app: &App,
    deadline: Deadline,
    watch: &mut Watch<'_>,
    find: impl Fn() -> Result<(T, Arc<Entry>), ServeError>,
) -> Result<(T, Admission), ServeError> {
    loop {
        let (head, entry) = find()?;
        watch.set_model(Arc::clone(&entry));
        entry.touch();
        let (loaded, deadline) = if let Some(loaded) = entry.model() {
            (loaded, deadline)
        } else {
            // While the server leaves, requests wait for a load that has begun, but none begins.
            let registry = match entry.state() {
                LoadState::Loading | LoadState::Loaded => app.registry()?,
                _ => app.ready()?,
            };
            match deadline.bound(registry.load(&entry)).await {
                Ok(loaded) => (loaded, Deadline::after(app.limits.request_timeout)),
                Err(error) if registry.snapshot().contains(&entry) => return Err(error),
                // The model was replaced meanwhile: the request is for the new one.
                Err(_) => {
                    deadline.check()?;
                    continue;
                }
            }
        };
        let mut admission = Admission::new(app, loaded, deadline)?;
        watch.follow(&mut admission);
        return Ok((head, admission));
    }
}
