//! A model's way from raw outputs to boxes, put together from its manifest.

use std::sync::Arc;

use onnx_export::architecture::{Anchors, Architecture, Head};

use super::{
    AnchorGenerator, BoxHead, Corners, DefaultBoxes, DetectError, DetectOptions, Detection,
    FeatureMap, HeadLevel, LevelMapper, RetinaNet, Rpn, Ssd, Thresholds, expect_count,
};
use crate::engine::{ProposalMaps, Propose, Region, Tensor};
use crate::image::{DetectorSizes, ImageSize, Preprocessor};
use crate::manifest::{Detection as Settings, ModelManifest, Rpn as RpnSettings};

/// A detector without its networks.
pub struct Detector {
    family: Family,
    num_classes: usize,
    preprocessor: Preprocessor,
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
    /// The detector that `manifest` describes; none for another task.
    ///
    /// # Errors
    /// [`DetectError`] if the manifest contradicts itself, which a checked one does not.
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
            preprocessor: Preprocessor::new(&manifest.preprocess),
        }))
    }

    /// What chooses the regions of a detector in two stages.
    pub fn proposer(&self) -> Option<Arc<dyn Propose>> {
        match &self.family {
            Family::FasterRcnn { proposer, .. } => Some(Arc::clone(proposer) as Arc<dyn Propose>),
            Family::RetinaNet(_) | Family::Ssd(_) => None,
        }
    }

    /// The objects of one picture of size `original`, best first, from what its engine gave for it.
    ///
    /// # Errors
    /// [`DetectError`] for outputs that do not fit the anchors, or a size without pixels.
    pub fn detect(
        &self,
        outputs: &[Tensor],
        original: ImageSize,
        options: &DetectOptions,
    ) -> Result<Vec<Detection>, DetectError> {
        let Preprocessor::Floats(transform) = &self.preprocessor else {
            return Err(DetectError::Preprocess);
        };
        let sizes = transform
            .sizes(original)
            .map_err(|_| DetectError::Preprocess)?;
        match &self.family {
            Family::FasterRcnn { head, .. } => self.second_stage(head, outputs, &sizes, options),
            Family::RetinaNet(net) => net.detect(&self.levels(outputs)?, &sizes, options),
            Family::Ssd(net) => net.detect(&self.levels(outputs)?, &sizes, options),
        }
    }

    /// Of what a two-stage engine gave: regions `[R, 4]`, class logits `[R, K]`, box deltas
    /// `[R, 4 * K]`.
    fn second_stage(
        &self,
        head: &BoxHead,
        outputs: &[Tensor],
        sizes: &DetectorSizes,
        options: &DetectOptions,
    ) -> Result<Vec<Detection>, DetectError> {
        let [regions, logits, deltas] = outputs else {
            return Err(DetectError::Count {
                what: "outputs",
                expected: 3,
                got: outputs.len(),
            });
        };
        let proposals = regions.data.as_chunks::<4>().0;
        if !proposals.is_empty() {
            let classes = logits.data.len() / proposals.len();
            expect_count("classes", classes, self.num_classes)?;
        }
        head.detect((&logits.data, &deltas.data), proposals, sizes, options)
    }

    /// Of what a network of one stage gave: the scores of every level, then the box deltas of every
    /// level.
    fn levels<'a>(&self, outputs: &'a [Tensor]) -> Result<Vec<HeadLevel<'a>>, DetectError> {
        let (scores, deltas) = outputs.split_at(outputs.len() / 2);
        expect_count("outputs", deltas.len(), scores.len())?;
        let pairs = scores.iter().zip(deltas);
        pairs
            .map(|(scores, deltas)| {
                let level = HeadLevel {
                    scores: feature_map(&scores.shape, &scores.data)?,
                    deltas: feature_map(&deltas.shape, &deltas.data)?,
                };
                let classes = level.classes(level.deltas.channels / 4)?;
                expect_count("classes", classes, self.num_classes)?;
                Ok(level)
            })
            .collect()
    }

    /// Checks what a network gave for one picture of size `original`, once, when it is loaded.
    ///
    /// # Errors
    /// [`DetectError`] for another number of labels than of classes, or as [`Detector::detect`].
    pub fn check(
        &self,
        outputs: &[Tensor],
        original: ImageSize,
        labels: usize,
    ) -> Result<(), DetectError> {
        expect_count("labels", labels, self.num_classes)?;
        let numbers = outputs.iter().flat_map(|output| &output.data);
        if !numbers.into_iter().all(|number| number.is_finite()) {
            return Err(DetectError::NotFinite);
        }
        self.detect(outputs, original, &DetectOptions::default())?;
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
    let numbers = |sizes: &Vec<u32>| sizes.iter().map(|size| *size as f32).collect();
    let sizes: Vec<Vec<f32>> = anchors.sizes.iter().map(numbers).collect();
    let ratios = anchors.aspect_ratios.iter().map(|ratio| *ratio as f32);
    AnchorGenerator::new(&sizes, &vec![ratios.collect(); sizes.len()])
}

/// The region proposal network's native half.
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
        let region = |corners: Corners| Region {
            corners,
            level: self.mapper.level(corners),
        };
        match proposals {
            Ok(proposals) => Ok(proposals.into_iter().map(region).collect()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// What the engine lends of one level.
fn head_level<'a>((scores, deltas): &ProposalMaps<'a>) -> Result<HeadLevel<'a>, DetectError> {
    Ok(HeadLevel {
        scores: feature_map(&scores.shape, scores.data)?,
        deltas: feature_map(&deltas.shape, deltas.data)?,
    })
}

fn feature_map<'a>(shape: &[usize], data: &'a [f32]) -> Result<FeatureMap<'a>, DetectError> {
    let [channels, height, width] = *shape else {
        return Err(DetectError::Count {
            what: "axes of a map",
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
