//! `POST /v1/detect`.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::http::HeaderMap;
use serde::Serialize;

use super::accept::negotiate;
use super::params::{Params, bad};
use super::respond::{Finished, respond, respond_image};
use super::task::{ResponseOf, TaskRoute};
use crate::draw::DrawnFormat;
use crate::error::ServeError;
use crate::manifest::Task;
use crate::pipeline::{self, Detected};
use crate::postprocess::detect::{DetectOptions, LabeledDetection};
use crate::store::ModelSource;

/// Lowest score of a returned detection unless the client sets `score_threshold`.
const DEFAULT_SCORE_THRESHOLD: f64 = 0.5;
/// Largest `max_detections` that a client may set if the response is JSON.
const MAX_DETECTIONS: usize = 1_000;
/// Maximum number of detections that are drawn into an image. It applies to `max_detections` of the
/// client and to the setting of the model.
const MAX_DRAWN_DETECTIONS: usize = 300;

/// The JSON result for one image.
#[derive(Debug, Serialize)]
struct DetectedBody<'a> {
    width: u32,
    height: u32,
    detections: Vec<LabeledDetection<'a>>,
}

impl<'a> DetectedBody<'a> {
    fn new(detected: &Detected, labels: &'a [String]) -> Self {
        let detections = detected.detections.iter();
        Self {
            width: detected.image.width,
            height: detected.image.height,
            detections: detections
                .map(|detection| detection.labeled(labels))
                .collect(),
        }
    }
}

/// The options of a detection request, whose response has labeled boxes or is the image with the
/// boxes drawn in.
pub(super) struct Detect {
    options: DetectOptions,
    drawn: Option<DrawnFormat>,
}

impl TaskRoute for Detect {
    const TASK: Task = Task::Detection;
    const PARAMETERS: &'static [&'static str] = &[
        "score_threshold",
        "iou_threshold",
        "max_detections",
        "classes",
        "annotate",
    ];
    type Postprocess = pipeline::Detect;

    fn parse(
        params: &mut Params,
        headers: &HeaderMap,
        model: &ModelSource,
    ) -> Result<Self, ServeError> {
        let score = params.share("score_threshold")?;
        let drawn = drawn(params, headers)?;
        let options = DetectOptions {
            score_threshold: score.unwrap_or(DEFAULT_SCORE_THRESHOLD) as f32,
            iou_threshold: params.share("iou_threshold")?,
            max_detections: max_detections(params, drawn.is_some(), model)?,
            classes: params
                .take("classes")?
                .map(|names| classes(&names, &model.labels))
                .transpose()?,
        };
        Ok(Self { options, drawn })
    }

    fn postprocess(&self) -> pipeline::Detect {
        pipeline::Detect {
            options: self.options.clone(),
            drawn: self.drawn,
        }
    }

    fn image_response(&self) -> Option<&'static str> {
        self.drawn.map(|_| "`annotate=true`")
    }

    fn respond(&self, mut response: ResponseOf<Self>) -> Result<Finished, ServeError> {
        let Some(format) = self.drawn else {
            let model = Arc::clone(&response.model);
            return respond(response, |detected| {
                DetectedBody::new(&detected, &model.labels)
            });
        };
        let drawn = response.results.pop().and_then(|detected| detected.drawn);
        let drawn = drawn.ok_or(ServeError::Internal("the pipeline drew no image"))?;
        respond_image(response, format.media_type(), drawn)
    }
}

/// Returns the file format of the drawn image, or `None` unless the client sets `annotate=true`.
fn drawn(params: &mut Params, headers: &HeaderMap) -> Result<Option<DrawnFormat>, ServeError> {
    if params.flag("annotate")? {
        return Ok(Some(negotiate(headers, &DrawnFormat::OFFERS)?));
    }
    negotiate(headers, &[("application/json", None)])
}

/// Returns the maximum number of detections per image. Returns `None` if the response is JSON and
/// the client does not set `max_detections`; then the setting of the model applies.
fn max_detections(
    params: &mut Params,
    drawn: bool,
    model: &ModelSource,
) -> Result<Option<usize>, ServeError> {
    if !drawn {
        return params.optional_integer("max_detections", 1..=MAX_DETECTIONS);
    }
    let chosen = params.optional_integer("max_detections", 1..=MAX_DRAWN_DETECTIONS)?;
    let own = model.manifest.detection.as_ref();
    let own = own.map_or(MAX_DRAWN_DETECTIONS, |detection| detection.max_detections);
    Ok(chosen.or(Some(own.min(MAX_DRAWN_DETECTIONS))))
}

/// Returns the ids of the classes whose labels are listed in `names`, separated by commas. A label
/// that several classes share selects all of these classes.
pub(super) fn classes(names: &str, labels: &[String]) -> Result<BTreeSet<usize>, ServeError> {
    let mut chosen = BTreeSet::new();
    for name in names.split(',').map(str::trim) {
        // `N/A` is the label of unused class ids in COCO, so it selects no class.
        let named = labels.iter().enumerate();
        let named = named.filter(|(_, label)| *label == name && name != "N/A");
        let mut ids = named.map(|(id, _)| id).peekable();
        if ids.peek().is_none() {
            return Err(bad(
                "classes",
                "labels of the model (GET /v1/models/NAME), separated by commas",
                name,
            ));
        }
        chosen.extend(ids);
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
        let ids = |names| classes(names, &labels).map(|set| set.into_iter().collect::<Vec<_>>());
        assert_eq!(ids("traffic light, person").unwrap(), [1, 3]);
        assert_eq!(ids("cup").unwrap(), [4, 5]);
        for names in ["", "N/A", "person,", "Person", "person,cat"] {
            let error = ids(names).unwrap_err().to_string();
            assert!(
                error.starts_with("`classes`: expected labels"),
                "{names}: {error}"
            );
        }
    }
}
