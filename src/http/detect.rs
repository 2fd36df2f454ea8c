//! `POST /v1/detect`.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;

use super::accept::negotiate;
use super::params::{Params, bad};
use super::problem::Problem;
use super::respond::{respond, respond_image};
use super::task::{AnswerOf, TaskRoute};
use crate::draw::DrawnFormat;
use crate::error::ServeError;
use crate::manifest::Task;
use crate::pipeline::{self, Detected};
use crate::postprocess::detect::{DetectOptions, LabelledDetection};
use crate::registry::LoadedModel;

/// Least score of an answer unless the client asks for another.
const DEFAULT_SCORE_THRESHOLD: f64 = 0.5;
/// More than any network proposes.
const MAX_DETECTIONS: usize = 100_000;

/// One picture's part of an answer in JSON.
#[derive(Debug, Serialize)]
struct DetectedBody<'a> {
    width: u32,
    height: u32,
    detections: Vec<LabelledDetection<'a>>,
}

impl<'a> DetectedBody<'a> {
    fn new(detected: &Detected, labels: &'a [String]) -> Self {
        let detections = detected.detections.iter();
        Self {
            width: detected.picture.width,
            height: detected.picture.height,
            detections: detections
                .map(|detection| detection.labelled(labels))
                .collect(),
        }
    }
}

/// Answers with labelled boxes.
pub(super) struct Detect {
    options: DetectOptions,
    drawn: Option<DrawnFormat>,
}

impl TaskRoute for Detect {
    const TASK: Task = Task::Detection;
    const PARAMETERS: &'static str =
        "score_threshold, iou_threshold, max_detections, classes, annotate";
    type Finish = pipeline::Detect;

    fn parse(
        params: &mut Params,
        headers: &HeaderMap,
        model: &LoadedModel,
    ) -> Result<Self, ServeError> {
        let score = params.share("score_threshold")?;
        let options = DetectOptions {
            score_threshold: score.unwrap_or(DEFAULT_SCORE_THRESHOLD) as f32,
            iou_threshold: params.share("iou_threshold")?,
            max_detections: params.optional_integer("max_detections", 1..=MAX_DETECTIONS)?,
            classes: params
                .take("classes")?
                .map(|names| classes(&names, &model.labels))
                .transpose()?,
        };
        Ok(Self {
            options,
            drawn: drawn(params, headers)?,
        })
    }

    fn finish(&self) -> pipeline::Detect {
        pipeline::Detect {
            options: self.options.clone(),
            drawn: self.drawn,
        }
    }

    fn is_image(&self) -> bool {
        self.drawn.is_some()
    }

    fn respond(&self, mut answer: AnswerOf<Self>) -> Result<Response, Problem> {
        let Some(format) = self.drawn else {
            let model = Arc::clone(&answer.model);
            return respond(answer, |detected| {
                DetectedBody::new(&detected, &model.labels)
            });
        };
        let drawn = answer.results.pop().and_then(|detected| detected.drawn);
        let drawn = drawn.ok_or_else(|| Problem::internal("no image was made".to_owned()))?;
        respond_image(answer, format.media_type(), drawn)
    }
}

/// Whether the picture is to be drawn, and as what.
fn drawn(params: &mut Params, headers: &HeaderMap) -> Result<Option<DrawnFormat>, ServeError> {
    if params.flag("annotate")? {
        return Ok(Some(negotiate(headers, &DrawnFormat::OFFERS)?));
    }
    negotiate(headers, &[("application/json", None)])
}

/// The numbers of the classes that `names` lists, separated by commas.
fn classes(names: &str, labels: &[String]) -> Result<BTreeSet<usize>, ServeError> {
    let mut chosen = BTreeSet::new();
    for name in names.split(',').map(str::trim) {
        // Gaps in COCO's numbering are no classes.
        let named = labels.iter().enumerate();
        let named = named.filter(|(_, label)| *label == name && name != "N/A");
        let mut numbers = named.map(|(number, _)| number).peekable();
        if numbers.peek().is_none() {
            return Err(bad(
                "classes",
                "labels of the model (GET /v1/models/NAME), separated by commas",
                name,
            ));
        }
        chosen.extend(numbers);
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_known_labels() {
        let labels = [
            "__background__",
            "person",
            "N/A",
            "traffic light",
            "cup",
            "cup",
        ];
        let labels = labels.map(str::to_owned);
        let numbers =
            |names| classes(names, &labels).map(|set| set.into_iter().collect::<Vec<_>>());
        assert_eq!(numbers("traffic light, person").unwrap(), [1, 3]);
        // Two classes of one name are both meant.
        assert_eq!(numbers("cup").unwrap(), [4, 5]);
        for names in ["", "N/A", "person,", "Person", "person,cat"] {
            let error = numbers(names).unwrap_err().to_string();
            assert!(
                error.starts_with("`classes`: expected labels"),
                "{names}: {error}"
            );
        }
    }
}
