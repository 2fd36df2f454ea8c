//! Runs two-stage detectors: a network that proposes regions, native code that selects regions
//! among the proposals, and the box head, a network that classifies each selected region.
//!
//! The feature maps stay in the memory of ONNX Runtime: outputs of the first network are inputs of
//! the box head.

use std::borrow::Cow;
use std::sync::Arc;

use ort::session::{SessionInputValue, SessionOutputs};

use super::onnx_runtime::{ArenaPolicy, BatchInput, view};
use super::wide::Sessions;
use super::{Engine, EngineError, Output, Outputs, StopRuns, Tensor, TensorView};
use crate::image::{ImageSize, PreparedImage};

/// Name of the output with the R selected regions of an image, `[R, 4] f32`: corners x1, y1, x2, y2
/// in pixels of the padded image.
pub const REGIONS: &str = "regions";
/// Name of the output of the box head with the logits of K classes for R regions, `[R, K] f32`.
pub const CLASS_LOGITS: &str = "class_logits";
/// Name of the output of the box head with box offsets per class, `[R, 4 * K] f32` for R regions
/// and K classes.
pub const BOX_REGRESSION: &str = "box_regression";

/// The proposal maps of one pyramid level for one image: objectness `[A, h, w]` and box offsets
/// `[4 * A, h, w]` of A anchors at each of h x w positions.
pub type ProposalMaps<'a> = (TensorView<'a>, TensorView<'a>);

/// A part of an image that the box head classifies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Region {
    /// Corners x1, y1, x2, y2 in pixels of the padded image.
    pub corners: [f32; 4],
    /// Index of the feature map that the region is pooled from.
    pub level: usize,
}

/// Selects the regions that the box head classifies from the proposals of the first network.
pub trait Propose: Send + Sync {
    /// Returns the selected regions of one image by descending score. `levels` holds the proposal
    /// maps of each pyramid level, `padded` is the size of the padded image in pixels, and
    /// `content` is the size of the image without padding.
    ///
    /// # Errors
    /// Returns a message if the shapes of the maps do not match the anchors of the detector.
    fn propose(
        &self,
        levels: &[ProposalMaps<'_>],
        padded: ImageSize,
        content: ImageSize,
    ) -> Result<Vec<Region>, String>;
}

/// The two sessions of a detector, owned by one worker.
pub struct TwoStageSession {
    features: Sessions,
    boxes: Sessions,
    /// Number of pyramid levels for which the first network outputs proposals.
    levels: usize,
    /// Number of feature maps that regions are pooled from.
    maps: usize,
    propose: Arc<dyn Propose>,
    memory: ArenaPolicy,
    /// Number of columns of the box head's outputs. `None` before its first run.
    widths: Option<Widths>,
}

/// Number of columns of [`CLASS_LOGITS`] and of [`BOX_REGRESSION`].
#[derive(Debug, Clone, Copy)]
struct Widths {
    logits: usize,
    offsets: usize,
}

impl TwoStageSession {
    /// Joins the sessions of a detector's first network, `features`, and its box head, `boxes`.
    ///
    /// # Errors
    /// [`EngineError::Signature`] if the first network outputs no proposals, or fewer feature maps
    /// than the box head reads.
    pub(super) fn new(
        features: Sessions,
        boxes: Sessions,
        propose: Arc<dyn Propose>,
    ) -> Result<Self, EngineError> {
        let outputs = features
            .own()
            .outputs()
            .iter()
            .map(ort::value::Outlet::name);
        let outputs: Vec<&str> = outputs.collect();
        let inputs = boxes.own().inputs().iter().map(ort::value::Outlet::name);
        let inputs: Vec<&str> = inputs.collect();
        let count = |names: &[&str], prefix: &str| {
            names.iter().filter(|name| name.starts_with(prefix)).count()
        };
        let levels = count(&outputs, "rpn_objectness_");
        let maps = count(&inputs, "rois_");
        let given = count(&outputs, "feature_");
        if levels == 0 || maps == 0 || given < maps {
            return Err(EngineError::Signature {
                what: "box head",
                expected: "at least one output `rpn_objectness_N` of the first network, and one \
                           output `feature_N` of it for each input `rois_N` of the box head",
                got: format!("{levels} `rpn_objectness_N`, {given} `feature_N`, {maps} `rois_N`"),
            });
        }
        Ok(Self {
            features,
            boxes,
            levels,
            maps,
            propose,
            memory: ArenaPolicy::new().map_err(EngineError::Load)?,
            widths: None,
        })
    }

    /// Runs both networks. Returns the selected regions, and what `read` returns for the outputs of the box head.
    ///
    /// If no region is selected, the box head does not run and the second result is `None`. But if
    /// `force` is true, the box head then runs on one synthetic region that covers the first image.
    pub(super) fn run_stages<T>(
        &mut self,
        batch: Vec<PreparedImage>,
        force: bool,
        read: impl FnOnce(&SessionOutputs<'_>) -> Result<T, EngineError>,
    ) -> Result<(Regions, Option<T>), EngineError> {
        let contents: Vec<ImageSize> = batch.iter().map(|image| image.content).collect();
        let padded = batch.first().map_or(EMPTY, |image| image.size);
        let options = self.memory.options(&batch);
        let pixels = batch.iter().map(|image| image.size.pixels()).sum();
        // Declared before the outputs, because an output can be the input itself.
        let input = BatchInput::new(batch);
        let (mut features, run) = self.features.begin(pixels);
        let outputs = features
            .run_with_options(ort::inputs![input.view()?], options)
            .map_err(EngineError::Run)?;
        run.succeeded();
        let mut chosen = Vec::with_capacity(contents.len());
        for (image, content) in contents.iter().enumerate() {
            let maps = proposal_maps(&outputs, self.levels, image, contents.len())?;
            let regions = self.propose.propose(&maps, padded, *content);
            chosen.push(regions.map_err(EngineError::Propose)?);
        }
        let mut regions = Regions::new(chosen, self.maps)?;
        let inputs = if regions.total() > 0 {
            regions.inputs(&outputs)?
        } else if force {
            Regions::new(vec![vec![whole(padded)]], self.maps)?.inputs(&outputs)?
        } else {
            // It is not guaranteed that ONNX Runtime accepts inputs without elements, so the box
            // head does not run.
            return Ok((regions, None));
        };
        let (mut boxes, run) = self.boxes.begin(regions.total().max(1) as u64);
        let heads = boxes.run_with_options(inputs, options);
        let heads = heads.map_err(EngineError::Run)?;
        run.succeeded();
        let read = read(&heads)?;
        Ok((regions, Some(read)))
    }
}

/// Placeholder for the image size of a batch without images.
const EMPTY: ImageSize = ImageSize {
    width: 0,
    height: 0,
};

/// Returns a region that covers an image of this size in pixels and is pooled from feature map 0.
fn whole(size: ImageSize) -> Region {
    Region {
        corners: [0.0, 0.0, size.width as f32, size.height as f32],
        level: 0,
    }
}

impl Engine for TwoStageSession {
    /// Returns the outputs [`REGIONS`], [`CLASS_LOGITS`] and [`BOX_REGRESSION`] of each image. If
    /// no region is selected in the first run, the box head runs on a synthetic region, so that the
    /// outputs of the box head are checked and its memory is allocated.
    fn run(&mut self, batch: Vec<PreparedImage>) -> Result<Vec<Outputs>, EngineError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let is_first = self.widths.is_none();
        let (regions, heads) = self.run_stages(batch, is_first, |heads| {
            let named = |name: &str| {
                let found = heads.get(name).ok_or(EngineError::Missing {
                    name: name.to_owned(),
                });
                Ok::<_, EngineError>(view(found?)?.to_tensor())
            };
            Ok([named(CLASS_LOGITS)?, named(BOX_REGRESSION)?])
        })?;
        let Some([mut logits, mut offsets]) = heads else {
            let widths = self.widths.unwrap_or(Widths {
                logits: 0,
                offsets: 0,
            });
            return Ok(regions.outputs(&[], &[], widths));
        };
        let rows = regions.total().max(1);
        let widths = Widths {
            logits: columns(&logits, rows)?,
            offsets: columns(&offsets, rows)?,
        };
        self.widths = Some(widths);
        if regions.total() == 0 {
            // No region was selected: the outputs belong to the synthetic region and are dropped.
            logits.data.clear();
            offsets.data.clear();
        }
        Ok(regions.outputs(&logits.data, &offsets.data, widths))
    }

    fn stop_handle(&self) -> Arc<dyn StopRuns> {
        self.memory.stop_handle()
    }
}

/// Returns the number of columns of `output`, an output of the box head.
///
/// # Errors
/// [`EngineError::Output`] if the shape of `output` is not `[rows, columns]`.
fn columns(output: &Tensor, rows: usize) -> Result<usize, EngineError> {
    match output.shape[..] {
        [count, columns] if count == rows => Ok(columns),
        _ => Err(EngineError::Output {
            count: rows,
            shape: output.shape.clone(),
        }),
    }
}

/// Returns the proposal maps of each of `levels` pyramid levels for image `index` of a batch of
/// `count` images.
fn proposal_maps<'a>(
    outputs: &'a SessionOutputs<'_>,
    levels: usize,
    index: usize,
    count: usize,
) -> Result<Vec<ProposalMaps<'a>>, EngineError> {
    let map = |name: String| {
        let value = outputs.get(&name).ok_or(EngineError::Missing { name })?;
        view(value)?.row(index, count)
    };
    (0..levels)
        .map(|level| {
            let objectness = map(format!("rpn_objectness_{level}"))?;
            Ok((objectness, map(format!("rpn_deltas_{level}"))?))
        })
        .collect()
}

/// The regions that are pooled from one feature map.
#[derive(Debug, Clone, Default)]
struct RegionList {
    /// Corners x1, y1, x2, y2 of all regions, one region after the other.
    corners: Vec<f32>,
    /// Index in the batch of each region's image.
    images: Vec<i64>,
}

/// The selected regions of a batch, grouped by feature map as the box head reads them, and the row
/// of each region in the outputs of the box head.
pub(super) struct Regions {
    /// Selected regions of each image.
    chosen: Vec<Vec<Region>>,
    /// Regions that are pooled from each feature map, with their images.
    lists: Vec<RegionList>,
    /// Row in the outputs of the box head, by image and by region within the image.
    rows: Vec<Vec<usize>>,
}

impl Regions {
    /// Groups the regions `chosen` for each image by feature map; `maps` is the number of feature maps.
    ///
    /// # Errors
    /// [`EngineError::Propose`] if a region names a feature map that does not exist.
    fn new(chosen: Vec<Vec<Region>>, maps: usize) -> Result<Self, EngineError> {
        let mut lists = vec![RegionList::default(); maps];
        for (image, regions) in chosen.iter().enumerate() {
            for region in regions {
                let Some(list) = lists.get_mut(region.level) else {
                    let text = format!(
                        "a region is assigned to feature map {}, expected one of 0..{maps}",
                        region.level
                    );
                    return Err(EngineError::Propose(text));
                };
                list.corners.extend(region.corners);
                list.images.push(image as i64);
            }
        }
        // The box head outputs the rows of one feature map after another. Within a feature map,
        // rows are in the order of the images, and of the regions within each image.
        let mut next = Vec::with_capacity(maps);
        let mut total = 0;
        for list in &lists {
            next.push(total);
            total += list.images.len();
        }
        let mut row = |region: &Region| {
            let row = next[region.level];
            next[region.level] += 1;
            row
        };
        let rows = chosen
            .iter()
            .map(|regions| regions.iter().map(&mut row).collect());
        let rows = rows.collect();
        Ok(Self {
            chosen,
            lists,
            rows,
        })
    }

    /// Returns the inputs of the box head: each feature map, the corners of its regions, and the index of each region's
    /// image. The feature maps are borrowed from `outputs`; the region lists are moved out of `self`.
    ///
    /// # Errors
    /// [`EngineError::Missing`] if `outputs` lacks a feature map.
    fn inputs<'v>(
        &mut self,
        outputs: &'v SessionOutputs<'_>,
    ) -> Result<Vec<(Cow<'static, str>, SessionInputValue<'v>)>, EngineError> {
        let mut inputs = Vec::with_capacity(3 * self.lists.len());
        for (map, list) in std::mem::take(&mut self.lists).into_iter().enumerate() {
            let name = format!("feature_{map}");
            let Some(feature) = outputs.get(&name) else {
                return Err(EngineError::Missing { name });
            };
            let count = list.images.len();
            let corners = ort::value::Tensor::from_array(([count, 4], list.corners));
            let images = ort::value::Tensor::from_array(([count], list.images));
            let corners = corners.map_err(EngineError::Run)?;
            let images = images.map_err(EngineError::Run)?;
            inputs.push((name.into(), feature.into()));
            inputs.push((format!("rois_{map}").into(), corners.into()));
            inputs.push((format!("batch_indices_{map}").into(), images.into()));
        }
        Ok(inputs)
    }

    /// Returns the number of selected regions in the whole batch.
    fn total(&self) -> usize {
        self.rows.iter().map(Vec::len).sum()
    }

    /// Returns the outputs of each image: its regions, and the rows of `logits` and `offsets`, the
    /// outputs of the box head, that belong to these regions.
    fn outputs(&self, logits: &[f32], offsets: &[f32], widths: Widths) -> Vec<Outputs> {
        let gather = |data: &[f32], rows: &[usize], width: usize| {
            let parts = rows.iter().flat_map(|row| &data[row * width..][..width]);
            Tensor {
                shape: vec![rows.len(), width],
                data: parts.copied().collect(),
            }
        };
        let images = self.chosen.iter().zip(&self.rows);
        images
            .map(|(regions, rows)| {
                let corners = Tensor {
                    shape: vec![regions.len(), 4],
                    data: regions.iter().flat_map(|region| region.corners).collect(),
                };
                Outputs::from_iter([
                    Output::f32(REGIONS, corners),
                    Output::f32(CLASS_LOGITS, gather(logits, rows, widths.logits)),
                    Output::f32(BOX_REGRESSION, gather(offsets, rows, widths.offsets)),
                ])
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_return_to_their_images() {
        let region = |x1: f32, level| Region {
            corners: [x1, 0.0, 9.0, 9.0],
            level,
        };
        let chosen = vec![
            vec![region(0.0, 1), region(1.0, 0)],
            vec![],
            vec![region(2.0, 0), region(3.0, 1), region(4.0, 0)],
        ];
        let regions = Regions::new(chosen, 2).unwrap();
        assert_eq!(regions.lists[0].images, [0, 2, 2]);
        assert_eq!(regions.lists[1].images, [0, 2]);
        let first = |list: usize| {
            let corners = regions.lists[list].corners.iter();
            corners.step_by(4).copied().collect::<Vec<_>>()
        };
        assert_eq!((first(0), first(1)), (vec![1.0, 2.0, 4.0], vec![0.0, 3.0]));
        // Each region has one logit, equal to its x1, so that the test can recognize its row.
        let logits: Vec<f32> = first(0).into_iter().chain(first(1)).collect();
        let widths = Widths {
            logits: 1,
            offsets: 1,
        };
        let outputs = regions.outputs(&logits, &logits, widths);
        let got = outputs
            .iter()
            .map(|outputs| &outputs.f32(CLASS_LOGITS).unwrap().data[..]);
        assert_eq!(
            got.collect::<Vec<_>>(),
            [&[0.0, 1.0][..], &[], &[2.0, 3.0, 4.0]]
        );
        assert!(Regions::new(vec![vec![region(0.0, 2)]], 2).is_err());
    }

    #[test]
    fn outputs_without_regions_keep_their_columns() {
        let regions = Regions::new(vec![vec![], vec![]], 3).unwrap();
        let widths = Widths {
            logits: 91,
            offsets: 364,
        };
        for outputs in regions.outputs(&[], &[], widths) {
            assert_eq!(outputs.f32(REGIONS).unwrap().shape, [0, 4]);
            assert_eq!(outputs.f32(CLASS_LOGITS).unwrap().shape, [0, 91]);
            assert_eq!(outputs.f32(BOX_REGRESSION).unwrap().shape, [0, 364]);
        }
    }
}
