//! What the routes that take pictures have in common: parameters, the body, the deadline.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::response::Response;
use tokio::time::timeout_at;

use super::extract::{Framing, discard, framing, read_images, refuse};
use super::params::Params;
use super::problem::Problem;
use crate::app::App;
use crate::error::ServeError;
use crate::image::Orientation;
use crate::manifest::Task;
use crate::pipeline::{self, Answer, Finish, Images};
use crate::registry::LoadedModel;

/// What a task adds to the parameters that all share, and how it answers.
pub(super) trait TaskRoute: Sized + Send + Sync {
    /// The task.
    const TASK: Task;
    /// Its parameters beside `model` and `orientation`, as an error lists them.
    const PARAMETERS: &'static str;
    /// The pipeline's last step.
    type Finish: Finish;

    /// Takes the task's own parameters.
    fn parse(
        params: &mut Params,
        headers: &HeaderMap,
        model: &LoadedModel,
    ) -> Result<Self, ServeError>;

    /// What the pipeline is to do.
    fn finish(&self) -> Self::Finish;

    /// Whether the answer is one image, which is that of one picture.
    fn is_image(&self) -> bool {
        false
    }

    /// Puts an answer into bytes.
    fn respond(&self, answer: AnswerOf<Self>) -> Result<Response, Problem>;
}

/// The pipeline's answer to a task.
pub(super) type AnswerOf<T> = Answer<<<T as TaskRoute>::Finish as Finish>::Answer>;

/// Refuses several pictures where the answer is one image.
fn one_picture(images: &Images) -> Result<(), ServeError> {
    match images.pictures.len() {
        0 | 1 => Ok(()),
        several => Err(ServeError::BadParameter {
            field: "accept".to_owned(),
            expected: "application/json for several pictures".to_owned(),
            got: format!("an image for {several} pictures"),
        }),
    }
}

/// Checks, reads and answers a request within its deadline.
pub(super) async fn handle<T: TaskRoute>(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let deadline = Instant::now() + app.limits.request_timeout;
    let (parts, mut body) = request.into_parts();
    let checked = match Checked::<T>::new(&app, &parts) {
        Ok(checked) => checked,
        Err(error) => {
            refuse(&parts.headers, &mut body).await;
            return Err(error.into());
        }
    };
    let answer = checked.answer(&app, parts, &mut body, deadline);
    let Ok(answer) = timeout_at(deadline.into(), answer).await else {
        discard(&mut body).await;
        let limit = app.limits.request_timeout;
        return Err(Problem::from(ServeError::DeadlinePassed { limit }).of(&checked.model));
    };
    let answer = answer.map_err(|error| Problem::from(error).of(&checked.model))?;
    checked.task.respond(answer)
}

/// All of a request but its body, which is not read for one that is refused anyway.
struct Checked<T> {
    model: Arc<LoadedModel>,
    orientation: Orientation,
    framing: Framing,
    task: T,
}

impl<T: TaskRoute> Checked<T> {
    fn new(app: &App, parts: &Parts) -> Result<Self, ServeError> {
        let registry = app.registry()?;
        let mut params = Params::parse(&parts.uri)?;
        let model = params.take("model")?;
        let orientation = params.orientation()?;
        let model = registry.for_task(T::TASK, model.as_deref())?;
        let task = T::parse(&mut params, &parts.headers, &model)?;
        params.finish(&format!("model, {}, orientation", T::PARAMETERS))?;
        Ok(Self {
            model,
            orientation,
            framing: framing(&parts.headers)?,
            task,
        })
    }

    async fn answer(
        &self,
        app: &App,
        parts: Parts,
        body: &mut Body,
        deadline: Instant,
    ) -> Result<AnswerOf<T>, ServeError> {
        let images = read_images(app, self.framing, parts, body).await?;
        if self.task.is_image() {
            one_picture(&images)?;
        }
        let request = pipeline::Request {
            model: Arc::clone(&self.model),
            orientation: self.orientation,
            images,
        };
        pipeline::answer(app, request, self.task.finish(), deadline).await
    }
}
