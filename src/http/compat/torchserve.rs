//! `/predictions/{model}` and `/ping` of `TorchServe`, with the results of its handlers `image_classifier` and
//! `object_detector`.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{OriginalUri, Path, Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::json;

use crate::admission::Watch;
use crate::app::App;
use crate::error::ServeError;
use crate::geometry::BoxXyxy;
use crate::http::body::refuse;
use crate::http::extract::Form;
use crate::http::models::decoded;
use crate::http::problem::Problem;
use crate::http::respond::{Finished, respond_as};
use crate::http::task::{self, NamedModel, ResponseOf, TaskRoute};
use crate::manifest::Task;
use crate::parameters::Params;
use crate::pipeline;
use crate::postprocess::classify::Prediction;
use crate::postprocess::detect::{DetectOptions, Detection};
use crate::store::ModelSource;

/// Number of classes that `image_classifier` returns.
const TOP_K: usize = 5;
/// Lowest score of a detection that `object_detector` returns.
const SCORE_THRESHOLD: f32 = 0.5;

/// The form that clients send.
const FORM: Form = Form {
    images: &["data", "body"],
    texts: &[],
};

/// `GET /ping`: whether the server is ready.
pub(super) async fn ping(State(app): State<Arc<App>>) -> Response {
    match app
        .ready()
        .and_then(|ready| ready.snapshot().check_workers())
    {
        Ok(_) => Json(json!({ "status": "Healthy" })).into_response(),
        Err(error) => {
            let body = json!({ "status": "Unhealthy" });
            super::error(error.into(), &body)
        }
    }
}

/// `POST` and `PUT /predictions/{model}`: the result for one image, which is the body or the part `data` of a form.
pub(super) async fn predict(
    state: State<Arc<App>>,
    OriginalUri(uri): OriginalUri,
    name: Result<Path<String>, PathRejection>,
    mut request: Request,
) -> Response {
    let named = decoded(name, &uri).and_then(|name| Ok((task_of(&state.0, &name)?, name)));
    let (task, name) = match named {
        Ok(named) => named,
        Err(error) => return failure(rejected(&state.0, request, error).await),
    };
    request.extensions_mut().insert(NamedModel(name));
    let handled = match task {
        Task::Detection => task::handle::<Detector>(state, request).await,
        // A model of another task is rejected by the handler.
        Task::Classification | Task::Segmentation => {
            task::handle::<Classifier>(state, request).await
        }
    };
    handled.unwrap_or_else(failure)
}

/// Returns the problem of a request that fails with `error` before its model is known, and drops its body.
async fn rejected(app: &App, request: Request, error: ServeError) -> Problem {
    let problem = task::failed(app, Watch::new(&app.metrics), error).await;
    let (parts, mut body) = request.into_parts();
    refuse(&parts.headers, &mut body).await;
    problem
}

fn task_of(app: &App, name: &str) -> Result<Task, ServeError> {
    let snapshot = app.registry()?.snapshot();
    Ok(snapshot.named(name)?.source().manifest.task)
}

/// Returns the response for `problem` in `TorchServe`'s form.
fn failure(problem: Problem) -> Response {
    let body = json!({
        "code": problem.status().as_u16(),
        "type": problem.code.as_str(),
        "message": problem.detail(),
    });
    super::error(problem, &body)
}

/// `image_classifier`: the scores of the most probable classes by label.
struct Classifier;

impl TaskRoute for Classifier {
    const TASK: Task = Task::Classification;
    const PARAMETERS: &'static [&'static str] = &[];
    const FORM: Form = FORM;
    const MAX_IMAGES: usize = 1;
    type Postprocess = pipeline::Classify;

    fn parse(_: &mut Params, _: &HeaderMap, _: &ModelSource) -> Result<Self, ServeError> {
        Ok(Self)
    }

    fn postprocess(&self) -> pipeline::Classify {
        pipeline::Classify { top_k: TOP_K }
    }

    fn respond(&self, response: ResponseOf<Self>) -> Result<Finished, ServeError> {
        respond_as(response, |images| {
            Scores(images.into_iter().flatten().collect())
        })
    }
}

/// Predictions as an object, best first.
struct Scores(Vec<Prediction>);

impl Serialize for Scores {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut written = HashSet::new();
        for prediction in &self.0 {
            // Classes can share a label, but an object has each key once.
            if written.insert(&prediction.label) {
                map.serialize_entry(&prediction.label, &prediction.score)?;
            }
        }
        map.end()
    }
}

/// `object_detector`: the boxes and scores of the detections.
struct Detector;

impl TaskRoute for Detector {
    const TASK: Task = Task::Detection;
    const PARAMETERS: &'static [&'static str] = &[];
    const FORM: Form = FORM;
    const MAX_IMAGES: usize = 1;
    type Postprocess = pipeline::Detect;

    fn parse(_: &mut Params, _: &HeaderMap, _: &ModelSource) -> Result<Self, ServeError> {
        Ok(Self)
    }

    fn postprocess(&self) -> pipeline::Detect {
        pipeline::Detect {
            options: DetectOptions {
                score_threshold: SCORE_THRESHOLD,
                ..DetectOptions::default()
            },
            drawn: None,
        }
    }

    fn respond(&self, response: ResponseOf<Self>) -> Result<Finished, ServeError> {
        let model = Arc::clone(&response.model);
        respond_as(response, |images| {
            let detections = images.into_iter().flat_map(|image| image.detections);
            let labeled = |detection: Detection| Labeled {
                label: model
                    .labels
                    .get(detection.class_id)
                    .map_or("", String::as_str),
                detection,
            };
            detections.map(labeled).collect::<Vec<_>>()
        })
    }
}

/// A detection as `{"LABEL": [x1, y1, x2, y2], "score": SCORE}`.
struct Labeled<'a> {
    label: &'a str,
    detection: Detection,
}

impl Serialize for Labeled<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let BoxXyxy { x1, y1, x2, y2 } = self.detection.bounding_box;
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry(self.label, &[x1, y1, x2, y2])?;
        map.serialize_entry("score", &self.detection.score)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_have_the_form_of_torchserve() {
        let prediction = |label: &str, score| Prediction {
            class_id: 0,
            label: label.to_owned(),
            score,
        };
        let scores = Scores(vec![
            prediction("tabby", 0.5),
            prediction("crane", 0.25),
            prediction("crane", 0.125),
        ]);
        let text = serde_json::to_string(&scores).unwrap();
        assert_eq!(text, r#"{"tabby":0.5,"crane":0.25}"#);
        let labeled = Labeled {
            label: "person",
            detection: Detection {
                class_id: 1,
                score: 0.75,
                bounding_box: [1.0, 2.0, 3.5, 4.0].into(),
            },
        };
        let text = serde_json::to_string(&labeled).unwrap();
        assert_eq!(text, r#"{"person":[1.0,2.0,3.5,4.0],"score":0.75}"#);
    }
}
