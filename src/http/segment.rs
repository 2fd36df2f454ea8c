//! `POST /v1/segment`.

use axum::http::HeaderMap;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};

use super::accept::negotiate;
use super::params::Params;
use super::problem::Problem;
use super::respond::{respond, respond_image};
use super::task::{AnswerOf, TaskRoute};
use crate::draw::DrawnFormat;
use crate::error::ServeError;
use crate::manifest::Task;
use crate::pipeline::{self, EncodedMask, MaskFormat, MaskSize, SegmentView, Segmentation};
use crate::postprocess::segment::{ClassShare, RleMask};
use crate::registry::LoadedModel;

/// One picture's part of an answer in JSON.
#[derive(Debug, Serialize)]
struct Segmented {
    width: u32,
    height: u32,
    classes: Vec<ClassShare>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mask: Option<MaskBody>,
}

#[derive(Debug, Serialize)]
struct MaskBody {
    encoding: &'static str,
    /// Height and width.
    size: [u32; 2],
    data: MaskData,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum MaskData {
    Base64(#[serde(serialize_with = "as_base64")] Vec<u8>),
    Runs(Vec<RleMask>),
}

fn as_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

impl From<Segmentation> for Segmented {
    fn from(segmentation: Segmentation) -> Self {
        let Segmentation {
            picture,
            size,
            classes,
            mask,
        } = segmentation;
        let mask = match mask {
            EncodedMask::Image(bytes) => Some(("png", MaskData::Base64(bytes))),
            EncodedMask::Rle(runs) => Some(("rle", MaskData::Runs(runs))),
            EncodedMask::None => None,
        };
        Self {
            width: picture.width,
            height: picture.height,
            classes,
            mask: mask.map(|(encoding, data)| MaskBody {
                encoding,
                size: [size.height, size.width],
                data,
            }),
        }
    }
}

/// In which form an answer goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// JSON with each mask inside.
    Json(MaskFormat),
    /// The mask alone, as a palette PNG.
    Mask,
    /// The picture with the mask drawn in.
    Drawn(DrawnFormat),
}

impl Form {
    /// What `annotate`, `mask` and the `Accept` header ask for together.
    fn parse(params: &mut Params, headers: &HeaderMap) -> Result<Self, ServeError> {
        let formats = [
            ("png", MaskFormat::Png),
            ("rle", MaskFormat::Rle),
            ("none", MaskFormat::None),
        ];
        let format = params.choice("mask", &formats, MaskFormat::Png)?;
        if params.flag("annotate")? {
            return Ok(Self::Drawn(negotiate(headers, &DrawnFormat::OFFERS)?));
        }
        let offers = [
            ("application/json", Self::Json(format)),
            ("image/png", Self::Mask),
        ];
        match negotiate(headers, &offers)? {
            Self::Mask if format != MaskFormat::Png => Err(ServeError::BadParameter {
                field: "mask".to_owned(),
                expected: "png where an image is asked for".to_owned(),
                got: match format {
                    MaskFormat::Rle => "rle".to_owned(),
                    _ => "none".to_owned(),
                },
            }),
            form => Ok(form),
        }
    }

    fn view(self) -> SegmentView {
        match self {
            Self::Json(format) => SegmentView::Mask(format),
            Self::Mask => SegmentView::Mask(MaskFormat::Png),
            Self::Drawn(format) => SegmentView::Drawn(format),
        }
    }

    /// The media type of an answer that is an image.
    fn image(self) -> Option<&'static str> {
        match self {
            Self::Json(_) => None,
            Self::Mask => Some("image/png"),
            Self::Drawn(format) => Some(format.media_type()),
        }
    }
}

/// Answers with the class of every pixel.
pub(super) struct Segment {
    form: Form,
    size: MaskSize,
}

impl TaskRoute for Segment {
    const TASK: Task = Task::Segmentation;
    const PARAMETERS: &'static str = "mask, size, annotate";
    type Finish = pipeline::Segment;

    fn parse(
        params: &mut Params,
        headers: &HeaderMap,
        _: &LoadedModel,
    ) -> Result<Self, ServeError> {
        let form = Form::parse(params, headers)?;
        let sizes = [("input", MaskSize::Input), ("logits", MaskSize::Logits)];
        let size = params.choice("size", &sizes, MaskSize::Input)?;
        Ok(Self { form, size })
    }

    fn finish(&self) -> pipeline::Segment {
        pipeline::Segment {
            size: self.size,
            view: self.form.view(),
        }
    }

    fn is_image(&self) -> bool {
        self.form.image().is_some()
    }

    fn respond(&self, mut answer: AnswerOf<Self>) -> Result<Response, Problem> {
        let Some(media_type) = self.form.image() else {
            return respond(answer, Segmented::from);
        };
        let mask = answer.results.pop().map(|segmentation| segmentation.mask);
        let Some(EncodedMask::Image(bytes)) = mask else {
            return Err(Problem::internal("no image was made".to_owned()));
        };
        respond_image(answer, media_type, bytes)
    }
}
