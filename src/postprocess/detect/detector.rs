//! A model's detection postprocessing, assembled from its manifest.

use std::sync::Arc;

use onnx_export::architecture::{Anchors, Architecture, Head};

use super::{
    AnchorGenerator, BoxHead, BoxHeadOutputs, BoxXyxy, DefaultBoxes, DetectError, DetectOptions,
    Detection, FeatureMap, HeadLevel, LevelMapper, RetinaNet, Rpn, Ssd, Thresholds, expect_count,
};
use crate::cancel::Cancel;
use crate::engine::{
    BOX_REGRESSION, CLASS_LOGITS, Outputs, ProposalMaps, Propose, REGIONS, Region,
};
use crate::image::{DetectorResize, DetectorSizes, ImageSize, Preprocessor};
use crate::manifest::{Detection as Settings, ModelManifest, Rpn as RpnSettings};

/// The postprocessing of a detection model.
pub struct Detector {
    family: Family,
    num_classes: usize,
    /// Computes the sizes of an image after the resize and the padding of the preprocessing. `None`
    /// if the manifest's resize is not a detector's (`bounded` or `fixed`).
    resize: Option<DetectorResize>,
}

enum Family {
    FasterRcnn {
        proposer: Arc<Proposer>,
        head: BoxHead,
    },
    RetinaNet(RetinaNet),
    Ssd(Ssd),
}

impl Detector {
    /// Returns the detector that `manifest` describes. `None` if the model is not a detector: its
    /// manifest has no `architecture` with a detection head, or no `[detection]` settings.
    ///
    /// # Errors
    /// [`DetectError`] if anchor sizes and aspect ratios have different numbers of levels, which
    /// the validation of a manifest rules out.
    pub fn of(manifest: &ModelManifest) -> Result<Option<Self>, DetectError> {
        let (
            Some(Architecture {
                num_classes, head, ..
            }),
            Some(settings),
        ) = (&manifest.architecture, &manifest.detection)
        else {
            return Ok(None);
        };
        let Some(family) = Family::new(head, settings)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            family,
            num_classes: *num_classes,
            resize: Preprocessor::new(&manifest.preprocess).detector_resize(),
        }))
    }

    /// Returns the selection of region proposals that runs between the two sessions of a two-stage
    /// detector. `None` for one-stage detectors.
    pub fn proposer(&self) -> Option<Arc<dyn Propose>> {
        match &self.family {
            Family::FasterRcnn { proposer, .. } => Some(Arc::clone(proposer) as Arc<dyn Propose>),
            Family::RetinaNet(_) | Family::Ssd(_) => None,
        }
    }

    /// Returns the most regions of one image that the second stage of a two-stage detector gets. `None` for one-stage
    /// detectors.
    pub fn most_regions(&self) -> Option<usize> {
        match &self.family {
            Family::FasterRcnn { proposer, .. } => Some(proposer.rpn.post_nms_top_n),
            Family::RetinaNet(_) | Family::Ssd(_) => None,
        }
    }

    /// Returns the detections of one image of size `original`, best first, from the engine's
    /// outputs. Boxes are in pixels of the original image.
    ///
    /// # Errors
    /// [`DetectError`] if the outputs do not fit the model's anchors, if the size of the resized
    /// image cannot be computed from `original`, or if the work is cancelled.
    pub fn detect(
        &self,
        outputs: &Outputs,
        original: ImageSize,
        options: &DetectOptions,
        cancel: &Cancel,
    ) -> Result<Vec<Detection>, DetectError> {
        let sizes = self.resize.and_then(|resize| resize.sizes(original).ok());
        let sizes = sizes.ok_or(DetectError::Preprocess)?;
        match &self.family {
            Family::FasterRcnn { head, .. } => {
                head.detect(&self.box_head(outputs)?, &sizes, options, cancel)
            }
            Family::RetinaNet(net) => net.detect(&self.levels(outputs)?, &sizes, options, cancel),
            Family::Ssd(net) => net.detect(&self.levels(outputs)?, &sizes, options, cancel),
        }
    }

    /// Returns views of a two-stage engine's outputs for `R` regions and `K` classes: regions
    /// `[R, 4]`, class logits `[R, K]`, box deltas `[R, 4 * K]`.
    fn box_head<'a>(&self, outputs: &'a Outputs) -> Result<BoxHeadOutputs<'a>, DetectError> {
        let regions = outputs.f32(REGIONS)?;
        let (logits, deltas) = (outputs.f32(CLASS_LOGITS)?, outputs.f32(BOX_REGRESSION)?);
        let classes = logits.shape.last().copied().unwrap_or_default();
        expect_count(
            "number of classes in the model's outputs",
            classes,
            self.num_classes,
        )?;
        Ok(BoxHeadOutputs {
            proposals: regions.data.as_chunks::<4>().0,
            class_logits: &logits.data,
            box_regression: &deltas.data,
        })
    }

    /// Returns the class scores and box deltas of each level of a one-stage network.
    fn levels<'a>(&self, outputs: &'a Outputs) -> Result<Vec<HeadLevel<'a>>, DetectError> {
        // A level has two outputs: class scores and box deltas. Rounding up counts a level that
        // lacks one of the two, so that the missing output is reported below.
        let levels = 0..outputs.len().div_ceil(2).max(1);
        levels
            .map(|level| {
                let scores = outputs.f32(&format!("cls_logits_{level}"))?;
                let deltas = outputs.f32(&format!("bbox_regression_{level}"))?;
                let level = HeadLevel {
                    scores: feature_map(&scores.shape, &scores.data)?,
                    deltas: feature_map(&deltas.shape, &deltas.data)?,
                };
                let classes = level.classes(level.deltas.channels / 4)?;
                expect_count(
                    "number of classes in the model's outputs",
                    classes,
                    self.num_classes,
                )?;
                Ok(level)
            })
            .collect()
    }

    /// Checks the engine's outputs for one test image of size `original` when a model is loaded.
    ///
    /// # Errors
    /// [`DetectError`] if `labels`, the number of lines in the label file, is not the number of
    /// classes, if an output is not finite, or if [`Detector::detect`] fails for the outputs.
    pub fn check(
        &self,
        outputs: &Outputs,
        original: ImageSize,
        labels: usize,
    ) -> Result<(), DetectError> {
        expect_count(
            "number of lines in the label file",
            labels,
            self.num_classes,
        )?;
        for output in outputs {
            let values = &output.as_f32()?.data;
            if !values.iter().all(|value| value.is_finite()) {
                return Err(DetectError::NotFinite);
            }
        }
        let options = DetectOptions::default();
        self.detect(outputs, original, &options, &Cancel::never())?;
        Ok(())
    }
}

impl Family {
    fn new(head: &Head, settings: &Settings) -> Result<Option<Self>, DetectError> {
        let thresholds = Thresholds {
            score: settings.score_threshold as f32,
            iou: settings.iou_threshold,
            max_detections: settings.max_detections,
        };
        let box_weights = settings.box_weights;
        let topk_candidates = settings.topk_candidates.unwrap_or(usize::MAX);
        Ok(match (head, &settings.rpn) {
            (Head::FasterRcnn(head), Some(rpn)) => Some(Self::FasterRcnn {
                proposer: Arc::new(Proposer::new(&head.anchors, &head.roi_strides, rpn)?),
                head: BoxHead {
                    box_weights,
                    thresholds,
                },
            }),
            (Head::Retinanet(head), _) => Some(Self::RetinaNet(RetinaNet {
                anchors: generator(&head.anchors)?,
                box_weights,
                topk_candidates,
                thresholds,
            })),
            (Head::Ssdlite(head), _) => {
                let boxes = &head.default_boxes;
                let ratios = &boxes.aspect_ratios;
                Some(Self::Ssd(Ssd {
                    boxes: DefaultBoxes::new(ratios, boxes.min_ratio, boxes.max_ratio),
                    box_weights,
                    topk_candidates,
                    thresholds,
                }))
            }
            _ => None,
        })
    }
}

fn generator(anchors: &Anchors) -> Result<AnchorGenerator, DetectError> {
    let to_f32 = |sizes: &Vec<u32>| sizes.iter().map(|size| *size as f32).collect();
    let sizes: Vec<Vec<f32>> = anchors.sizes.iter().map(to_f32).collect();
    let ratios = anchors.aspect_ratios.iter().map(|ratio| *ratio as f32);
    AnchorGenerator::new(&sizes, &vec![ratios.collect(); sizes.len()])
}

/// Selects the region proposals of a two-stage detector and assigns a feature map to each of them.
struct Proposer {
    rpn: Rpn,
    mapper: LevelMapper,
}

impl Proposer {
    fn new(anchors: &Anchors, strides: &[u32], rpn: &RpnSettings) -> Result<Self, DetectError> {
        Ok(Self {
            rpn: Rpn {
                anchors: generator(anchors)?,
                pre_nms_top_n: rpn.pre_nms_top_n,
                post_nms_top_n: rpn.post_nms_top_n,
                nms_threshold: rpn.iou_threshold,
                score_threshold: rpn.score_threshold as f32,
            },
            mapper: LevelMapper::from_strides(strides),
        })
    }
}

impl Propose for Proposer {
    fn propose(
        &self,
        levels: &[ProposalMaps<'_>],
        padded: ImageSize,
        content: ImageSize,
    ) -> Result<Vec<Region>, String> {
        let levels: Result<Vec<_>, _> = levels.iter().map(head_level).collect();
        let sizes = DetectorSizes {
            original: content,
            resized: content,
            padded,
        };
        let proposals = levels.and_then(|levels| self.rpn.propose(&levels, &sizes));
        let region = |proposal: BoxXyxy| Region {
            corners: proposal.to_array(),
            level: self.mapper.level(proposal),
        };
        match proposals {
            Ok(proposals) => Ok(proposals.into_iter().map(region).collect()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Wraps the objectness map and the box delta map that a region proposal network computed for one
/// feature map level.
fn head_level<'a>((scores, deltas): &ProposalMaps<'a>) -> Result<HeadLevel<'a>, DetectError> {
    Ok(HeadLevel {
        scores: feature_map(&scores.shape, scores.data)?,
        deltas: feature_map(&deltas.shape, deltas.data)?,
    })
}

fn feature_map<'a>(shape: &[usize], data: &'a [f32]) -> Result<FeatureMap<'a>, DetectError> {
    let [channels, height, width] = *shape else {
        return Err(DetectError::Count {
            what: "number of axes of a feature map",
            expected: 3,
            got: shape.len(),
        });
    };
    let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
    let size = ImageSize {
        width: side(width),
        height: side(height),
    };
    FeatureMap::new(data, channels, size)
}
