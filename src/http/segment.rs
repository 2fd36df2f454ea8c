//! `POST /v1/segment`.

use axum::http::HeaderMap;
use serde::Serialize;

use super::accept::negotiate;
use super::respond::{Finished, respond, respond_image};
use super::task::{ResponseOf, TaskRoute};
use crate::draw::{Drawing, DrawnFormat};
use crate::error::ServeError;
use crate::manifest::Task;
use crate::parameters::{Params, bad, tasks};
use crate::pipeline::{self, MaskSize, Segmentation};
use crate::postprocess::segment::{ClassShare, EncodedMask, MaskEncoding};
use crate::store::ModelSource;

/// The JSON result for one image.
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
    /// Height and width of the mask in pixels.
    size: [u32; 2],
    /// The JSON fields `encoding` and `data` of the mask.
    #[serde(flatten)]
    mask: EncodedMask,
}

impl From<Segmentation> for Segmented {
    fn from(segmentation: Segmentation) -> Self {
        let Segmentation {
            image,
            size,
            classes,
            mask,
        } = segmentation;
        Self {
            width: image.width,
            height: image.height,
            classes,
            mask: mask.map(|mask| MaskBody {
                size: [size.height, size.width],
                mask,
            }),
        }
    }
}

/// The options of a segmentation request, whose response has the class of every pixel or is an
/// image file.
pub(super) struct Segment {
    encoding: MaskEncoding,
    size: MaskSize,
    /// Media type of the image file that is the response. `None` if the response is JSON.
    image: Option<&'static str>,
}

impl TaskRoute for Segment {
    const TASK: Task = Task::Segmentation;
    const PARAMETERS: &'static [&'static str] = &[
        "mask",
        "size",
        "annotate",
        "palette",
        "line_width",
        "labels",
    ];
    type Postprocess = pipeline::Segment;

    fn parse(
        params: &mut Params,
        headers: &HeaderMap,
        _: &ModelSource,
    ) -> Result<Self, ServeError> {
        let encodings = [
            ("png", MaskEncoding::Png),
            ("rle", MaskEncoding::Rle),
            ("none", MaskEncoding::None),
        ];
        let chosen = params.optional_choice("mask", &encodings)?;
        let encoding = chosen.unwrap_or(MaskEncoding::Png);
        let annotate = params.flag("annotate")?;
        let style = tasks::style(params, annotate)?;
        let word = |encoding| {
            let mut words = encodings.iter().filter(|(_, other)| *other == encoding);
            words.next().map_or("", |(word, _)| word)
        };
        let size = tasks::mask_size(params)?;
        if annotate {
            if let Some(chosen) = chosen {
                return Err(bad(
                    "mask",
                    "no `mask` with `annotate=true`, whose response is the drawn image",
                    word(chosen),
                ));
            }
            let format = negotiate(headers, &DrawnFormat::OFFERS)?;
            return Ok(Self {
                encoding: MaskEncoding::Drawn(Drawing { format, style }),
                size,
                image: Some(format.media_type()),
            });
        }
        let png = Some("image/png");
        let image = negotiate(headers, &[("application/json", None), ("image/png", png)])?;
        if image.is_some() && encoding != MaskEncoding::Png {
            return Err(bad(
                "mask",
                "png if the response is an image",
                word(encoding),
            ));
        }
        Ok(Self {
            encoding,
            size,
            image,
        })
    }

    fn postprocess(&self) -> pipeline::Segment {
        pipeline::Segment {
            size: self.size,
            encoding: self.encoding,
        }
    }

    fn image_response(&self) -> Option<&'static str> {
        self.image.map(|_| match self.encoding {
            MaskEncoding::Drawn(_) => "`annotate=true`",
            _ => "`accept: image/png`",
        })
    }

    fn respond(&self, mut response: ResponseOf<Self>) -> Result<Finished, ServeError> {
        let Some(media_type) = self.image else {
            return respond(response, Segmented::from);
        };
        let mask = response.results.pop().and_then(|result| result.mask);
        let file = mask.and_then(EncodedMask::into_file);
        let file = file.ok_or(ServeError::Internal("the pipeline returned no mask file"))?;
        respond_image(response, media_type, file)
    }
}
