//! `POST /v1/vision/detection` of `DeepStack` and `CodeProject.AI`, which home camera systems such as Frigate call.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;

use crate::app::App;
use crate::error::ServeError;
use crate::geometry::BoxXyxy;
use crate::http::extract::{Fields, Form};
use crate::http::respond::{Finished, respond_as};
use crate::http::task::{self, ResponseOf, TaskRoute};
use crate::image::ImageSize;
use crate::manifest::Task;
use crate::parameters::{Params, bad};
use crate::pipeline::{self, Detected};
use crate::postprocess::detect::DetectOptions;
use crate::store::ModelSource;

/// Lowest confidence of a returned detection unless the client sets `min_confidence`. Frigate ignores lower ones.
const DEFAULT_CONFIDENCE: f32 = 0.4;
/// The form field with the lowest confidence.
const CONFIDENCE: &str = "min_confidence";

/// The form that clients send. The field `api_key` is ignored: a key of this server is sent in a header.
const FORM: Form = Form {
    images: &["image"],
    texts: &[CONFIDENCE, "api_key"],
};

/// The JSON response.
#[derive(Serialize)]
struct Body<'a> {
    success: bool,
    predictions: Vec<Prediction<'a>>,
}

/// One detection. Corners are whole pixels of the image.
#[derive(Serialize)]
struct Prediction<'a> {
    label: &'a str,
    confidence: f32,
    x_min: u32,
    y_min: u32,
    x_max: u32,
    y_max: u32,
}

/// The JSON response to a request that failed.
#[derive(Serialize)]
struct Failure<'a> {
    success: bool,
    error: &'a str,
    code: u16,
}

/// `POST /v1/vision/detection`: the objects in the image of a form, best first, by the default detection model.
pub(super) async fn detect(state: State<Arc<App>>, request: Request) -> Response {
    match task::handle::<DeepStack>(state, request).await {
        Ok(response) => response,
        Err(problem) => {
            let detail = problem.detail().to_owned();
            let failure = Failure {
                success: false,
                error: &detail,
                code: problem.status().as_u16(),
            };
            super::error(problem, &failure)
        }
    }
}

/// The options of a request.
struct DeepStack {
    min_confidence: f32,
}

impl TaskRoute for DeepStack {
    const TASK: Task = Task::Detection;
    const PARAMETERS: &'static [&'static str] = &[];
    const FORM: Form = FORM;
    const MAX_IMAGES: usize = 1;
    type Postprocess = pipeline::Detect;

    fn parse(_: &mut Params, _: &HeaderMap, _: &ModelSource) -> Result<Self, ServeError> {
        Ok(Self {
            min_confidence: DEFAULT_CONFIDENCE,
        })
    }

    fn complete(&mut self, fields: &Fields) -> Result<(), ServeError> {
        let given = fields.iter().find(|(name, _)| *name == CONFIDENCE);
        if let Some((_, text)) = given {
            let share = text.trim().parse().ok();
            let share = share.filter(|share| (0.0..=1.0).contains(share));
            let expected = "a number from 0 to 1";
            self.min_confidence = share.ok_or_else(|| bad(CONFIDENCE, expected, text))?;
        }
        Ok(())
    }

    fn postprocess(&self) -> pipeline::Detect {
        pipeline::Detect {
            options: DetectOptions {
                score_threshold: self.min_confidence,
                ..DetectOptions::default()
            },
            drawn: None,
        }
    }

    fn respond(&self, response: ResponseOf<Self>) -> Result<Finished, ServeError> {
        let model = Arc::clone(&response.model);
        respond_as(response, |images| Body {
            success: true,
            predictions: predictions(images, &model.labels),
        })
    }
}

/// Returns the detections of all of `images`, in order.
fn predictions(images: Vec<Detected>, labels: &[String]) -> Vec<Prediction<'_>> {
    let detections = images.into_iter().flat_map(|image| {
        let size = image.image;
        let detections = image.detections.into_iter();
        detections.map(move |detection| (size, detection))
    });
    let prediction = |(size, detection): (ImageSize, crate::postprocess::detect::Detection)| {
        let [x_min, y_min, x_max, y_max] = corners(detection.bounding_box, size);
        Prediction {
            label: labels.get(detection.class_id).map_or("", String::as_str),
            confidence: detection.score,
            x_min,
            y_min,
            x_max,
            y_max,
        }
    };
    detections.map(prediction).collect()
}

/// Returns the left, upper, right and lower edge of `bounding_box` in whole pixels of an image of `size`.
fn corners(bounding_box: BoxXyxy, size: ImageSize) -> [u32; 4] {
    let BoxXyxy { x1, y1, x2, y2 } = bounding_box;
    let pixel = |edge: f32, most: u32| (edge.round().max(0.0) as u32).min(most);
    [
        pixel(x1, size.width),
        pixel(y1, size.height),
        pixel(x2, size.width),
        pixel(y2, size.height),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corners_are_pixels_of_the_image() {
        let size = ImageSize {
            width: 20,
            height: 10,
        };
        let edges = [-0.4, 0.5, 20.6, 9.4];
        assert_eq!(corners(edges.into(), size), [0, 1, 20, 9]);
    }

    #[test]
    fn the_confidence_is_a_share() {
        let complete = |text: &str| {
            let mut options = DeepStack {
                min_confidence: 0.4,
            };
            let fields = vec![("api_key", "x".to_owned()), (CONFIDENCE, text.to_owned())];
            options.complete(&fields).map(|()| options.min_confidence)
        };
        assert_eq!(complete("0.25").unwrap(), 0.25);
        for text in ["", "high", "-1", "1.5", "NaN"] {
            let error = complete(text).unwrap_err().to_string();
            assert!(error.starts_with("`min_confidence`: expected "), "{error}");
        }
    }
}
