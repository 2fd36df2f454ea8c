//! `POST /v1/detect`.

use std::sync::Arc;

use axum::http::HeaderMap;
use serde::Serialize;

use super::accept::negotiate;
use super::respond::{Finished, respond, respond_image};
use super::task::{ResponseOf, TaskRoute};
use crate::draw::{Drawing, DrawnFormat};
use crate::error::ServeError;
use crate::manifest::Task;
use crate::parameters::Params;
use crate::parameters::tasks::{MAX_DETECTIONS, detect_options, style};
use crate::pipeline::{self, Detected};
use crate::postprocess::detect::{DetectOptions, LabeledDetection};
use crate::store::ModelSource;

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
    drawn: Option<Drawing>,
}

impl TaskRoute for Detect {
    const TASK: Task = Task::Detection;
    const PARAMETERS: &'static [&'static str] = &[
        "score_threshold",
        "iou_threshold",
        "max_detections",
        "classes",
        "annotate",
        "palette",
        "line_width",
        "labels",
    ];
    type Postprocess = pipeline::Detect;

    fn parse(
        params: &mut Params,
        headers: &HeaderMap,
        model: &ModelSource,
    ) -> Result<Self, ServeError> {
        let drawn = drawn(params, headers)?;
        let options = DetectOptions {
            max_detections: max_detections(params, drawn.is_some(), model)?,
            ..detect_options(params, &model.labels)?
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
        let Some(Drawing { format, .. }) = self.drawn else {
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

/// Returns the file format and style of the drawn image, or `None` unless the client sets `annotate=true`.
fn drawn(params: &mut Params, headers: &HeaderMap) -> Result<Option<Drawing>, ServeError> {
    let annotate = params.flag("annotate")?;
    let style = style(params, annotate)?;
    if annotate {
        let format = negotiate(headers, &DrawnFormat::OFFERS)?;
        return Ok(Some(Drawing { format, style }));
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
        return params.optional_integer("max_detections", MAX_DETECTIONS);
    }
    let chosen = params.optional_integer("max_detections", 1..=MAX_DRAWN_DETECTIONS)?;
    let own = model.manifest.detection.as_ref();
    let own = own.map_or(MAX_DRAWN_DETECTIONS, |detection| detection.max_detections);
    Ok(chosen.or(Some(own.min(MAX_DRAWN_DETECTIONS))))
}
