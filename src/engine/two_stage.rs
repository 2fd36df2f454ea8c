//! Detectors in two stages: a network that proposes regions, native code that chooses among them,
//! and a network that looks into each.
//!
//! The feature maps never leave ONNX Runtime's memory: the first session's outputs are the second's
//! inputs.

use std::borrow::Cow;
use std::sync::Arc;

use ort::session::{Session, SessionInputValue, SessionOutputs};

use super::onnx_runtime::{ArenaPolicy, input_tensor, view};
use super::{Engine, EngineError, Tensor, TensorView};
use crate::image::{ImageSize, PreparedImage};

/// The maps of one level for one picture: objectness `[A, h, w]` and box deltas `[4 * A, h, w]`.
pub type ProposalMaps<'a> = (TensorView<'a>, TensorView<'a>);

/// A part of a picture that the second network looks into.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Region {
    /// Corners x1, y1, x2, y2 in pixels of the padded picture.
    pub corners: [f32; 4],
    /// The feature map that it is cut from.
    pub level: usize,
}

/// Chooses regions.
pub trait Propose: Send + Sync {
    /// The regions of one picture of size `content`, the best first, from its maps, which lie over
    /// the picture padded to `padded`.
    ///
    /// # Errors
    /// A text, if the maps are not what the network should give.
    fn propose(
        &self,
        levels: &[ProposalMaps<'_>],
        padded: ImageSize,
        content: ImageSize,
    ) -> Result<Vec<Region>, String>;
}

/// Two sessions and what is between them, owned by one worker.
pub struct TwoStageSession {
    features: Session,
    boxes: Session,
    /// Levels that propose, and feature maps that regions are cut from.
    levels: usize,
    maps: usize,
    propose: Arc<dyn Propose>,
    memory: ArenaPolicy,
}

impl TwoStageSession {
    /// Joins the sessions of a detector's two networks.
    ///
    /// # Errors
    /// [`EngineError::Signature`] if they do not fit each other.
    pub(super) fn new(
        features: Session,
        boxes: Session,
        propose: Arc<dyn Propose>,
    ) -> Result<Self, EngineError> {
        let count = |names: Vec<&str>, prefix: &str| {
            names.iter().filter(|name| name.starts_with(prefix)).count()
        };
        let outputs = || {
            features
                .outputs()
                .iter()
                .map(ort::value::Outlet::name)
                .collect()
        };
        let inputs = || {
            boxes
                .inputs()
                .iter()
                .map(ort::value::Outlet::name)
                .collect()
        };
        let (levels, maps) = (
            count(outputs(), "rpn_objectness_"),
            count(inputs(), "rois_"),
        );
        let given = count(outputs(), "feature_");
        if levels == 0 || maps == 0 || given < maps {
            return Err(EngineError::Signature {
                what: "box head",
                expected: "a feature map for each of its `rois_N`",
                got: format!("{levels} levels, {given} feature maps, {maps} lists of regions"),
            });
        }
        Ok(Self {
            features,
            boxes,
            levels,
            maps,
            propose,
            memory: ArenaPolicy::new().map_err(EngineError::Load)?,
        })
    }
}

/// The size of a batch without pictures.
const NOTHING: ImageSize = ImageSize {
    width: 0,
    height: 0,
};

impl TwoStageSession {
    /// Runs both networks; gives the regions, and what `read` makes of the second one's outputs
    /// where there are regions at all.
    pub(super) fn run_stages<T>(
        &mut self,
        batch: Vec<PreparedImage>,
        read: impl FnOnce(&SessionOutputs<'_>) -> Result<T, EngineError>,
    ) -> Result<(Regions, Option<T>), EngineError> {
        let contents: Vec<ImageSize> = batch.iter().map(|picture| picture.content).collect();
        let padded = batch.first().map_or(NOTHING, |picture| picture.size);
        let options = self.memory.options(&batch);
        let input = input_tensor(batch)?;
        let outputs = self
            .features
            .run_with_options(ort::inputs![input], options)
            .map_err(EngineError::Run)?;
        let mut chosen = Vec::with_capacity(contents.len());
        for (picture, content) in contents.iter().enumerate() {
            let maps = proposal_maps(&outputs, self.levels, (picture, contents.len()))?;
            let regions = self.propose.propose(&maps, padded, *content);
            chosen.push(regions.map_err(EngineError::Propose)?);
        }
        let mut regions = Regions::new(chosen, self.maps)?;
        if regions.rows.is_empty() {
            // There is nothing to look into, and not every runtime takes nothing.
            return Ok((regions, None));
        }
        let inputs = regions.inputs(&outputs)?;
        let heads = self.boxes.run(inputs).map_err(EngineError::Run)?;
        let read = read(&heads)?;
        Ok((regions, Some(read)))
    }
}

impl Engine for TwoStageSession {
    /// Of each picture: its regions `[R, 4]`, class logits `[R, K]` and box deltas `[R, 4 * K]`.
    fn run(&mut self, batch: Vec<PreparedImage>) -> Result<Vec<Vec<Tensor>>, EngineError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let (regions, heads) = self.run_stages(batch, |heads| {
            let named = |name: &str| {
                let found = heads.get(name).ok_or(EngineError::Missing {
                    name: name.to_owned(),
                });
                Ok::<_, EngineError>(view(found?)?.to_tensor())
            };
            Ok([named("class_logits")?, named("box_regression")?])
        })?;
        let Some([logits, deltas]) = heads else {
            return Ok(regions.answers(&[], &[]));
        };
        regions.check_rows(&logits)?;
        regions.check_rows(&deltas)?;
        Ok(regions.answers(&logits.data, &deltas.data))
    }
}

/// The maps of one picture of a batch.
fn proposal_maps<'a>(
    outputs: &'a SessionOutputs<'_>,
    levels: usize,
    (picture, count): (usize, usize),
) -> Result<Vec<ProposalMaps<'a>>, EngineError> {
    let map = |name: String| {
        let value = outputs.get(&name).ok_or(EngineError::Missing { name })?;
        view(value)?.row(picture, count)
    };
    (0..levels)
        .map(|level| {
            let objectness = map(format!("rpn_objectness_{level}"))?;
            Ok((objectness, map(format!("rpn_deltas_{level}"))?))
        })
        .collect()
}

/// The regions of a batch, put into lists by the map that they are cut from, as the box head takes
/// them, and the way back.
pub(super) struct Regions {
    /// Of each picture.
    chosen: Vec<Vec<Region>>,
    /// Of each map, corners one after the other, and the picture of each.
    lists: Vec<(Vec<f32>, Vec<i64>)>,
    /// Row of the box head's outputs, for each picture and region.
    rows: Vec<Vec<usize>>,
}

impl Regions {
    fn new(chosen: Vec<Vec<Region>>, maps: usize) -> Result<Self, EngineError> {
        let mut lists = vec![(Vec::new(), Vec::new()); maps];
        for (picture, regions) in chosen.iter().enumerate() {
            for region in regions {
                let Some((corners, pictures)) = lists.get_mut(region.level) else {
                    let text = format!("a region of map {} of {maps}", region.level);
                    return Err(EngineError::Propose(text));
                };
                corners.extend(region.corners);
                pictures.push(picture as i64);
            }
        }
        // Where each map's rows begin; they follow the order of pictures and regions within it.
        let mut next = Vec::with_capacity(maps);
        let mut total = 0;
        for (_, pictures) in &lists {
            next.push(total);
            total += pictures.len();
        }
        let mut row = |region: &Region| {
            let row = next[region.level];
            next[region.level] += 1;
            row
        };
        let rows = chosen
            .iter()
            .map(|regions| regions.iter().map(&mut row).collect());
        let rows = if total == 0 {
            Vec::new()
        } else {
            rows.collect()
        };
        Ok(Self {
            chosen,
            lists,
            rows,
        })
    }

    /// The box head's inputs, once: the lists are given away, the feature maps lent.
    fn inputs<'v>(
        &mut self,
        outputs: &'v SessionOutputs<'_>,
    ) -> Result<Vec<(Cow<'static, str>, SessionInputValue<'v>)>, EngineError> {
        let mut inputs = Vec::with_capacity(3 * self.lists.len());
        for (map, (corners, pictures)) in std::mem::take(&mut self.lists).into_iter().enumerate() {
            let name = format!("feature_{map}");
            let Some(feature) = outputs.get(&name) else {
                return Err(EngineError::Missing { name });
            };
            let count = pictures.len();
            let corners = ort::value::Tensor::from_array(([count, 4], corners));
            let pictures = ort::value::Tensor::from_array(([count], pictures));
            let (corners, pictures) = (
                corners.map_err(EngineError::Run)?,
                pictures.map_err(EngineError::Run)?,
            );
            inputs.push((name.into(), feature.into()));
            inputs.push((format!("rois_{map}").into(), corners.into()));
            inputs.push((format!("batch_indices_{map}").into(), pictures.into()));
        }
        Ok(inputs)
    }

    fn total(&self) -> usize {
        self.rows.iter().map(Vec::len).sum()
    }

    fn check_rows(&self, output: &Tensor) -> Result<(), EngineError> {
        let count = self.total();
        if output.shape.first() == Some(&count) && output.shape.len() == 2 {
            return Ok(());
        }
        Err(EngineError::Output {
            count,
            shape: output.shape.iter().map(|size| *size as i64).collect(),
        })
    }

    /// Of each picture its regions, and their rows of the two outputs in the order of the regions.
    fn answers(&self, logits: &[f32], deltas: &[f32]) -> Vec<Vec<Tensor>> {
        let width = |data: &[f32]| data.len().checked_div(self.total()).unwrap_or(0);
        let gather = |data: &[f32], rows: &[usize]| {
            let width = width(data);
            let parts = rows.iter().flat_map(|row| &data[row * width..][..width]);
            Tensor {
                shape: vec![rows.len(), width],
                data: parts.copied().collect(),
            }
        };
        let answer = |(picture, regions): (usize, &Vec<Region>)| {
            let rows = self
                .rows
                .get(picture)
                .map(Vec::as_slice)
                .unwrap_or_default();
            let corners = Tensor {
                shape: vec![regions.len(), 4],
                data: regions.iter().flat_map(|region| region.corners).collect(),
            };
            vec![corners, gather(logits, rows), gather(deltas, rows)]
        };
        self.chosen.iter().enumerate().map(answer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_find_their_way_back() {
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
        assert_eq!(regions.lists[0].1, [0, 2, 2]);
        assert_eq!(regions.lists[1].1, [0, 2]);
        let first = |list: usize| {
            regions.lists[list]
                .0
                .iter()
                .step_by(4)
                .copied()
                .collect::<Vec<_>>()
        };
        assert_eq!((first(0), first(1)), (vec![1.0, 2.0, 4.0], vec![0.0, 3.0]));
        // What the box head says of each region is that region's x1.
        let logits: Vec<f32> = first(0).into_iter().chain(first(1)).collect();
        let answers = regions.answers(&logits, &logits);
        let said: Vec<&[f32]> = answers
            .iter()
            .map(|answer| answer[1].data.as_slice())
            .collect();
        assert_eq!(said, [&[0.0, 1.0][..], &[], &[2.0, 3.0, 4.0]]);
        assert!(Regions::new(vec![vec![region(0.0, 2)]], 2).is_err());
    }

    #[test]
    fn no_regions_are_answers_without_rows() {
        let regions = Regions::new(vec![vec![], vec![]], 3).unwrap();
        let answers = regions.answers(&[], &[]);
        assert!(
            answers
                .iter()
                .all(|answer| answer[0].shape == [0, 4] && answer[1].data.is_empty())
        );
    }
}
