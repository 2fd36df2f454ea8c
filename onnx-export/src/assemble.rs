//! Builds whole networks: turns an architecture and a checkpoint into a model.

use std::collections::BTreeMap;

use crate::architecture::{Architecture, FasterRcnnHead, Head};
use crate::classification;
use crate::detection::{self, Detector, FusedOptions, OutputNames};
use crate::error::{BuildError, argument};
use crate::graph::{Graph, Loader, Scope, Value};
use crate::model::{DEFAULT_OPSET, Model};
use crate::segmentation::{MaskHead, Segmenter, masks};
use crate::stages::{Role, Stages};
use crate::state_error::StateDictError;
use crate::weights::StateDict;

/// Builds the network `architecture` with the weights of the checkpoint `state`.
///
/// The network reads normalized images, `images` `[batch, 3, height, width] f32`. All outputs are
/// f32. A is the number of anchors at each location, `<i>` the index of a level (0 is the finest),
/// `h` and `w` the height and width of its feature map, and R the number of regions of all levels:
///
/// | network | outputs |
/// |---|---|
/// | classification | `logits` `[batch, num_classes]` |
/// | segmentation | `out` `[batch, num_classes, h, w]`, not upsampled to the size of the images |
/// | segmentation, if `aux` of the head is true | also `aux` `[batch, num_classes, h, w]` of the auxiliary head, with an `h` and `w` of its own |
/// | `RetinaNet`, `SSDlite` | `cls_logits_<i>` `[batch, A * num_classes, h, w]`, `bbox_regression_<i>` `[batch, A * 4, h, w]` |
/// | Faster R-CNN, first stage | `rpn_objectness_<i>` `[batch, A, h, w]`, `rpn_deltas_<i>` `[batch, A * 4, h, w]`, `feature_<i>` `[batch, 256, h, w]` |
/// | Faster R-CNN, second stage | `class_logits` `[R, num_classes]`, `box_regression` `[R, num_classes * 4]`, in the order of the levels |
///
/// The second stage of Faster R-CNN reads `feature_<i>`, `rois_<i>` `[R_i, 4] f32` (x1, y1, x2, y2
/// in pixels of the padded image) and `batch_indices_<i>` `[R_i] i64`, the index in the batch of
/// the image of each region. `R_i` may be 0.
///
/// If the checkpoint of a network with the head `deeplabv3` or `fcn` has tensors of an auxiliary
/// head, their names and shapes are checked even if `aux` is false.
///
/// # Errors
/// [`BuildError::Argument`] if `opset` or an argument of `architecture` is out of range,
/// [`BuildError::StateDict`] if tensors of the checkpoint are missing, unexpected or misshapen.
pub fn build(
    name: &str,
    architecture: &Architecture,
    state: &StateDict,
    opset: i64,
) -> Result<Model, BuildError> {
    let has_aux = state.names().any(|name| name.starts_with(AUX_PREFIX));
    assemble(name, architecture, state, opset, |graph, loader| {
        network(graph, loader, architecture, has_aux)
    })
}

/// Builds a detector as one graph that includes postprocessing (thresholds and suppression), in
/// standard ONNX operators.
///
/// The network reads one normalized, resized and padded image, `images`
/// `[1, 3, height, width] f32`. Faster R-CNN and `RetinaNet` also read `image_size` `[2] i64`:
/// height and width of the resized image before padding. The network writes `boxes` `[D, 4] f32`
/// (x1, y1, x2, y2 in pixels of the resized image), `labels` `[D] i64` and `scores` `[D] f32`,
/// ordered by descending score.
///
/// The detections are those of native postprocessing that orders its steps as torchvision does,
/// except where rounding decides whether an overlap exceeds the threshold, or in which order
/// detections with almost equal scores are returned. Boxes and scores that are NaN or infinite are
/// not filtered out.
///
/// # Errors
/// The errors of [`build`], and [`BuildError::Argument`] if `architecture` is not a detector, or if
/// `options` lacks `proposals` for Faster R-CNN or `fixed_size` for `SSDlite`.
pub fn build_fused(
    name: &str,
    architecture: &Architecture,
    options: &FusedOptions,
    state: &StateDict,
    opset: i64,
) -> Result<Model, BuildError> {
    assemble(name, architecture, state, opset, |graph, loader| {
        detection::fused(graph, &loader.root(), architecture, options)?;
        Ok(None)
    })
}

/// Builds a model whose first graph is filled by `add`. If `add` returns a second graph, it becomes the stage
/// [`Role::BoxHead`].
fn assemble(
    name: &str,
    architecture: &Architecture,
    state: &StateDict,
    opset: i64,
    add: impl FnOnce(&mut Graph, &Loader<'_>) -> Result<Option<Graph>, BuildError>,
) -> Result<Model, BuildError> {
    architecture.check()?;
    let loader = Loader::new(state);
    let mut graph = Graph::new(opset);
    let box_head = add(&mut graph, &loader)?;
    let stages = Stages::new(graph);
    let stages = match box_head {
        Some(graph) => stages.with(Role::BoxHead, graph),
        None => stages,
    };
    loader.finish_stages(name, stages)
}

/// Returns the name and shape of every tensor that a checkpoint of `architecture` must have.
///
/// # Errors
/// [`BuildError::Argument`] if an argument of `architecture` is out of range.
pub fn tensor_shapes(
    architecture: &Architecture,
) -> Result<BTreeMap<String, Vec<usize>>, BuildError> {
    architecture.check()?;
    let empty = StateDict::from_tensors(BTreeMap::new());
    let loader = Loader::new(&empty);
    let mut graph = Graph::new(DEFAULT_OPSET);
    let _ = network(&mut graph, &loader, architecture, false)?;
    Ok(loader.into_shapes())
}

/// Compares the names and shapes of the tensors in `state` with those of `architecture`, without
/// reading values. Only the tensors whose names start with `prefix` belong to the network. Returns
/// the differences, and the shape of every tensor of the architecture by its name.
pub(crate) fn compare(
    state: &StateDict,
    prefix: &str,
    architecture: &Architecture,
) -> Result<(StateDictError, BTreeMap<String, Vec<usize>>), BuildError> {
    architecture.check()?;
    let aux = format!("{prefix}{AUX_PREFIX}");
    let has_aux = state.names().any(|name| name.starts_with(&aux));
    let loader = Loader::comparing(state, prefix);
    let mut graph = Graph::new(DEFAULT_OPSET);
    let _ = network(&mut graph, &loader, architecture, has_aux)?;
    Ok(loader.into_comparison())
}

/// Prefix of the names of the tensors of a segmentation network's auxiliary head.
const AUX_PREFIX: &str = "aux_classifier.";

/// Adds the whole network, from its input to its outputs. Returns the graph of the second stage, or
/// `None` if the network has only one. The tensors of an auxiliary head are read if the head of the
/// architecture has `aux` set, or if the checkpoint has them (`has_aux`).
fn network(
    g: &mut Graph,
    loader: &Loader<'_>,
    architecture: &Architecture,
    has_aux: bool,
) -> Result<Option<Graph>, BuildError> {
    let Architecture {
        num_classes,
        backbone,
        head,
    } = architecture;
    let (root, images) = (loader.root(), g.image_input("images"));
    let trunk = backbone.trunk();
    let (head, aux) = match head {
        Head::Classifier => {
            let logits = classification::logits(g, &root, images, trunk, *num_classes)?;
            g.output(logits, "logits");
            return Ok(None);
        }
        Head::Lraspp { inter_channels } => {
            let channels = *inter_channels;
            (MaskHead::Lraspp { channels }, None)
        }
        Head::Deeplabv3 { aux } => (MaskHead::Deeplabv3, Some(*aux)),
        Head::Fcn { aux } => (MaskHead::Fcn, Some(*aux)),
        Head::FasterRcnn(_) | Head::Retinanet(_) | Head::Ssdlite(_) => {
            return detector(g, &root, images, architecture);
        }
    };
    let network = Segmenter {
        trunk,
        head,
        num_classes: *num_classes,
        aux: aux.is_some_and(|wanted| wanted || has_aux),
    };
    let masks = masks(g, &root, images, &network)?;
    g.output(masks.out, "out");
    if let (Some(true), Some(value)) = (aux, masks.aux) {
        g.output(value, "aux");
    }
    Ok(None)
}

/// Adds a detection network, which reads `images`, and its outputs. Returns the graph of the second
/// stage, or `None` if the network has only one.
fn detector(
    g: &mut Graph,
    root: &Scope<'_>,
    images: Value,
    architecture: &Architecture,
) -> Result<Option<Graph>, BuildError> {
    let Architecture {
        num_classes,
        backbone,
        head,
    } = architecture;
    let (trunk, num_classes) = (backbone.trunk(), *num_classes);
    let levels = match head {
        Head::FasterRcnn(head) => {
            let network = Detector {
                trunk,
                head,
                num_classes,
            };
            return two_stages(g, root, images, &network).map(Some);
        }
        Head::Retinanet(head) => {
            let network = Detector {
                trunk,
                head,
                num_classes,
            };
            detection::retinanet(g, root, images, &network)?
        }
        Head::Ssdlite(head) => {
            let network = Detector {
                trunk,
                head,
                num_classes,
            };
            detection::ssdlite(g, root, images, &network)?
        }
        other => return Err(argument("head", "a detection head", &other.name()).into()),
    };
    let names = OutputNames {
        scores: "cls_logits",
        boxes: "bbox_regression",
    };
    detection::output_levels(g, &levels, names);
    Ok(None)
}

/// Adds the first stage of Faster R-CNN and its outputs to `g`, and returns the graph of the second
/// stage.
fn two_stages(
    g: &mut Graph,
    root: &Scope<'_>,
    images: Value,
    network: &Detector<'_, FasterRcnnHead>,
) -> Result<Graph, BuildError> {
    let first = detection::proposals(g, root, images, network)?;
    let names = OutputNames {
        scores: "rpn_objectness",
        boxes: "rpn_deltas",
    };
    detection::output_levels(g, &first.levels, names);
    for (index, map) in first.maps.into_iter().enumerate() {
        g.output(map, &format!("feature_{index}"));
    }
    let mut second = Graph::new(g.opset());
    detection::box_head(&mut second, root, network.head, network.num_classes)?;
    Ok(second)
}
