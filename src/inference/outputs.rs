//! The choice of the outputs of a request, and their assembly into tensors with the batch as first axis.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::answer::ImageResult;
use super::face::Face;
use super::run::RequestedOutput;
use super::tensor::{DataType, OutputTensor};
use super::{assemble, describe};
use crate::error::ServeError;
use crate::manifest::Task;
use crate::parameters::{bad, cut};
use crate::registry::{LoadedModel, OutputSpec};

/// Part of the result of a task that is one output tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// `[N, K] f32`: classes or detections, best first.
    Scores,
    /// `[N, K]` names of classes.
    Labels,
    /// `[N, K] i64`: indices of classes.
    ClassIds,
    /// `[N, K, 4] f32`: the corners x1, y1, x2, y2 in pixels.
    Boxes,
    /// `[N, 1] i64`: number of detections of each image; others are padding.
    Counts,
    /// `[N, H, W] u8`: class of each pixel.
    Mask,
    /// `[N, 2] i64`: height and width of each mask in pixels; others are padding.
    MaskSizes,
}

impl Part {
    /// Returns the parts of the result of `task`, in the order of the response.
    pub(super) fn of(task: Task) -> &'static [Self] {
        match task {
            Task::Classification => &[Self::Scores, Self::Labels, Self::ClassIds],
            Task::Detection => &[
                Self::Boxes,
                Self::Scores,
                Self::Labels,
                Self::ClassIds,
                Self::Counts,
            ],
            Task::Segmentation => &[Self::Mask, Self::MaskSizes],
        }
    }

    /// Returns the name of the output tensor.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Scores => "scores",
            Self::Labels => "labels",
            Self::ClassIds => "class_ids",
            Self::Boxes => "boxes",
            Self::Counts => "counts",
            Self::Mask => "mask",
            Self::MaskSizes => "mask_sizes",
        }
    }

    /// Returns the data type of the output tensor.
    pub(super) fn datatype(self) -> DataType {
        match self {
            Self::Scores | Self::Boxes => DataType::Fp32,
            Self::Labels => DataType::Bytes,
            Self::ClassIds | Self::Counts | Self::MaskSizes => DataType::Int64,
            Self::Mask => DataType::Uint8,
        }
    }

    /// Returns the sizes of the axes of the output tensor for one image; -1 for those that vary.
    pub(super) fn axes(self) -> &'static [i64] {
        match self {
            Self::Scores | Self::Labels | Self::ClassIds => &[-1],
            Self::Boxes => &[-1, 4],
            Self::Counts => &[1],
            Self::Mask => &[-1, -1],
            Self::MaskSizes => &[2],
        }
    }
}

/// Where the elements of an output come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The network's output at this position among those that the request wants.
    Raw(usize),
    /// The result of the task.
    Task(Part),
}

/// One output of the response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) name: String,
    pub(super) origin: Origin,
    /// Number of classes that the client wants as text instead of values. `None` for values.
    pub(super) classes: Option<usize>,
}

/// The outputs of the response, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) outputs: Vec<Chosen>,
    /// Names of the network's outputs that are wanted.
    pub(super) raw: Vec<Arc<str>>,
}

impl Plan {
    /// Chooses the outputs that a request to `face` names: of the task and of the network, where an output of the face
    /// has precedence over one of the same name of the other. If it names none, all outputs of the face are chosen.
    ///
    /// # Errors
    /// [`ServeError::BadParameter`] if an output does not exist, is named twice, or cannot be returned as classes.
    pub(super) fn new(
        model: &LoadedModel,
        face: Face,
        requested: Vec<RequestedOutput>,
    ) -> Result<Self, ServeError> {
        let mut plan = Self::default();
        if requested.is_empty() {
            for name in describe::output_names(model, face) {
                plan.add(model, face, RequestedOutput::new(name))?;
            }
            return Ok(plan);
        }
        let mut names = BTreeSet::new();
        for (index, output) in requested.into_iter().enumerate() {
            if !names.insert(output.name.clone()) {
                let field = format!("outputs[{index}].name");
                return Err(bad(&field, "every output once", &output.name));
            }
            plan.add(model, face, output)?;
        }
        Ok(plan)
    }

    /// Returns whether a part of the task's result is wanted.
    pub(super) fn wants_task(&self) -> bool {
        let outputs = self.outputs.iter();
        let mut tasks = outputs.filter(|output| matches!(output.origin, Origin::Task(_)));
        tasks.next().is_some()
    }

    /// Returns the largest number of classes that are wanted as text, or 0 if none are.
    pub(super) fn most_classes(&self) -> usize {
        let classes = self.outputs.iter().filter_map(|output| output.classes);
        classes.max().unwrap_or_default()
    }

    fn add(
        &mut self,
        model: &LoadedModel,
        face: Face,
        output: RequestedOutput,
    ) -> Result<(), ServeError> {
        let RequestedOutput { name, classes } = output;
        let raw = model.outputs.iter().find(|spec| *spec.name == *name);
        let parts = Part::of(model.manifest.task).iter();
        let part = parts.copied().find(|part| part.name() == name);
        let part = part.filter(|_| face == Face::Image || raw.is_none());
        let classifies = match (part, raw) {
            (Some(part), _) => part == Part::Scores && model.manifest.task == Task::Classification,
            (None, Some(raw)) => is_scores(raw),
            (None, None) => return Err(unknown(model, &name)),
        };
        if classes.is_some() && !classifies {
            let expected = "no `classification`, because the output has no score per class";
            return Err(bad(&cut(&name), expected, "classification"));
        }
        let origin = match (part, raw) {
            (Some(part), _) => Origin::Task(part),
            (None, raw) => {
                self.raw.extend(raw.map(|raw| Arc::clone(&raw.name)));
                Origin::Raw(self.raw.len().saturating_sub(1))
            }
        };
        self.outputs.push(Chosen {
            name,
            origin,
            classes,
        });
        Ok(())
    }

    /// Returns the output tensors of the images `results`. `reserve` gets the number of bytes of large ones before they are
    /// allocated. A classification has at most `top_k` classes, apart from those as text.
    ///
    /// # Errors
    /// Those of `reserve`, and [`ServeError::Internal`] if the network's outputs for the images cannot be combined.
    pub(super) fn tensors(
        self,
        model: &LoadedModel,
        (mut results, top_k): (Vec<ImageResult>, usize),
        reserve: &mut dyn FnMut(u64) -> Result<(), ServeError>,
    ) -> Result<Vec<OutputTensor>, ServeError> {
        let mut tensors = Vec::with_capacity(self.outputs.len());
        for Chosen {
            name,
            origin,
            classes,
        } in self.outputs
        {
            tensors.push(match (origin, classes) {
                (Origin::Raw(at), Some(most)) => {
                    assemble::raw_classes(&name, &results, (at, most), &model.labels)?
                }
                (Origin::Raw(at), None) => assemble::raw(&name, &results, at, reserve)?,
                (Origin::Task(_), Some(most)) => assemble::classes(&name, &results, most),
                (Origin::Task(Part::Mask), None) => assemble::mask(&name, &mut results, reserve)?,
                (Origin::Task(part), None) => {
                    assemble::part(part, &results, (&model.labels, top_k))
                }
            });
        }
        Ok(tensors)
    }
}

/// Returns whether a network's output is one value per class.
fn is_scores(spec: &OutputSpec) -> bool {
    spec.shape.len() == 1 && DataType::of(spec.data_type) == DataType::Fp32
}

/// Returns the error for an output that `model` does not have.
fn unknown(model: &LoadedModel, name: &str) -> ServeError {
    let raw = model.outputs.iter().map(|spec| &*spec.name);
    let parts = Part::of(model.manifest.task).iter().map(|part| part.name());
    let names: Vec<&str> = parts.chain(raw).take(20).collect();
    bad(
        "outputs",
        &format!("outputs among {}", names.join(", ")),
        name,
    )
}
