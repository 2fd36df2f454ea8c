//! The finished model: a graph with its opset and what is known of its origin.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use prost::Message;

use crate::architecture::{Architecture, Backbone, Head};
use crate::check::argument;
use crate::classification;
use crate::detection::{self, FusedOptions};
use crate::error::BuildError;
use crate::graph::{Graph, Loader, Scope, Value};
use crate::proto::{ModelProto, OperatorSetIdProto, StringStringEntryProto, graph_proto};
use crate::segmentation::{MaskHead, masks};
use crate::stages::{Role, Stages};
use crate::weights::StateDict;

/// The ONNX opset that is written unless another is asked for.
pub const DEFAULT_OPSET: i64 = 17;
/// Opsets that can be written.
pub const OPSETS: RangeInclusive<i64> = 13..=21;

/// A network ready to be written.
#[derive(Debug)]
pub struct Model {
    /// The graphs of the stages. Only Faster R-CNN has a second one.
    pub stages: Stages<Graph>,
    /// Where it came from.
    pub info: ModelInfo,
}

/// What a model's file says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// The network's name.
    pub name: String,
    /// ONNX opset.
    pub opset: i64,
    /// SHA-256 of the checkpoint, 64 hexadecimal digits.
    pub checkpoint_sha256: String,
    /// Trained numbers in the checkpoint, buffers excluded.
    pub parameters: u64,
}

/// Builds the graph of `architecture` with the weights of `state`.
///
/// The network reads `images` `[batch, 3, height, width] f32`, normalised. It writes `logits`
/// `[batch, num_classes] f32`, or for segmentation `out` `[batch, num_classes, h, w] f32` at the
/// head's resolution, and `aux` where that is asked for.
///
/// A detector writes raw scores and corrections of every level, `A` anchors a point: `RetinaNet` and
/// `SSDlite` `cls_logits_<i>` `[batch, A * num_classes, h, w]` and `bbox_regression_<i>`
/// `[batch, A * 4, h, w]`; Faster R-CNN `rpn_objectness_<i>` `[batch, A, h, w]`, `rpn_deltas_<i>`
/// `[batch, A * 4, h, w]` and `feature_<i>` `[batch, 256, h, w]`. The latter's second graph reads
/// `feature_<i>`, `rois_<i>` `[R_i, 4] f32` (x1, y1, x2, y2 in pixels of the padded picture) and
/// `batch_indices_<i>` `[R_i] i64`, either possibly empty, and writes `class_logits`
/// `[R, num_classes]` and `box_regression` `[R, num_classes * 4]`, level after level.
///
/// An auxiliary head that the checkpoint has is checked as everything else, and left out of the
/// graph unless it is asked for.
///
/// # Errors
/// [`BuildError::Argument`] for an architecture or opset out of range, [`BuildError::StateDict`]
/// for a checkpoint of another network.
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

/// Builds a detector as one graph that includes thresholds and suppression, in ONNX's standard operators.
///
/// The network reads one normalized, resized and padded image, `images` `[1, 3, height, width] f32`, and,
/// unless `options.fixed_size` is set, `image_size` `[2] i64`: height and width of the resized image before
/// padding. It writes `boxes` `[D, 4] f32` (x1, y1, x2, y2 in pixels of the resized image), `labels` `[D] i64`
/// and `scores` `[D] f32`, ordered by descending score.
///
/// The results equal native post-processing in torchvision's order, except where rounding decides an overlap near
/// the threshold, or the order of equal scores. Values that are not finite are not filtered out.
///
/// # Errors
/// The errors of [`build`], and [`BuildError::Argument`] if `architecture` is not a detector or `options` lack
/// what its head needs.
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

/// A model of the graph that `add` builds, and of the second one that it may give.
fn assemble(
    name: &str,
    architecture: &Architecture,
    state: &StateDict,
    opset: i64,
    add: impl FnOnce(&mut Graph, &Loader<'_>) -> Result<Option<Graph>, BuildError>,
) -> Result<Model, BuildError> {
    if !OPSETS.contains(&opset) {
        return Err(argument("opset", "13 to 21", &opset).into());
    }
    architecture.check()?;
    let loader = Loader::new(state);
    let mut graph = Graph::new(opset);
    let box_head = add(&mut graph, &loader)?;
    graph.prune();
    let mut stages = Stages::new(graph);
    if let Some(mut graph) = box_head {
        graph.prune();
        stages = stages.with(Role::BoxHead, graph);
    }
    let parameters = loader.finish()?;
    Ok(Model {
        stages,
        info: ModelInfo {
            name: name.to_owned(),
            opset,
            checkpoint_sha256: state.sha256().to_owned(),
            parameters,
        },
    })
}

/// Name and shape of every tensor that a checkpoint of `architecture` holds.
///
/// # Errors
/// [`BuildError::Argument`] for an architecture out of range.
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

/// The tensors of the auxiliary head of a segmentation network.
const AUX_PREFIX: &str = "aux_classifier.";

/// Adds the whole network, from its input to its outputs; gives the graph of its second stage,
/// where it has one. An auxiliary head is loaded where the checkpoint has one or the architecture
/// asks for it.
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
    let (head, aux) = match head {
        Head::Classifier => {
            let logits = classification::logits(g, &root, images, backbone, *num_classes)?;
            g.output(logits, "logits");
            return Ok(None);
        }
        Head::Lraspp { inter_channels } => (MaskHead::Lraspp(*inter_channels), None),
        Head::Deeplabv3 { aux } => (MaskHead::Deeplabv3, Some(*aux)),
        Head::Fcn { aux } => (MaskHead::Fcn, Some(*aux)),
        Head::FasterRcnn(_) | Head::Retinanet(_) | Head::Ssdlite(_) => {
            return detector(g, &root, images, architecture);
        }
    };
    let load_aux = aux.is_some_and(|wanted| wanted || has_aux);
    let masks = masks(g, &root, images, (backbone, head), *num_classes, load_aux)?;
    g.output(masks.out, "out");
    if let (Some(true), Some(value)) = (aux, masks.aux) {
        g.output(value, "aux");
    }
    Ok(None)
}

/// [`network`] for the detection heads.
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
    let levels = match (head, backbone) {
        (Head::FasterRcnn(head), _) => {
            let (levels, maps) = detection::proposals(g, root, images, (backbone, head))?;
            detection::output_levels(g, &levels, ["rpn_objectness", "rpn_deltas"]);
            for (index, map) in maps.into_iter().enumerate() {
                g.output(map, &format!("feature_{index}"));
            }
            let mut second = Graph::new(g.opset());
            detection::box_head(&mut second, root, head, *num_classes)?;
            return Ok(Some(second));
        }
        (Head::Retinanet(head), _) => {
            detection::retinanet(g, root, images, (backbone, head), *num_classes)?
        }
        (Head::Ssdlite(head), Backbone::MobilenetV3(config)) => {
            detection::ssdlite(g, root, images, (config, head), *num_classes)?
        }
        _ => return Err(argument("head", "a detector on its backbone", &"another").into()),
    };
    detection::output_levels(g, &levels, ["cls_logits", "bbox_regression"]);
    Ok(None)
}

impl Model {
    /// Returns the first stage, which reads the image, as the bytes of an `.onnx` file.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.stage_bytes(Role::Network, self.stages.network())
    }

    /// Returns every stage as the bytes of an `.onnx` file.
    pub fn to_files(&self) -> Stages<Vec<u8>> {
        self.stages
            .as_ref()
            .map(|role, graph| self.stage_bytes(role, graph))
    }

    fn stage_bytes(&self, role: Role, graph: &Graph) -> Vec<u8> {
        let name = &self.info.name;
        match role {
            Role::Network => {
                let shape = graph.inputs().first();
                let shape = shape.map(|input| graph.show_shape(graph.shape(*input)));
                let input = format!("images {} f32, normalized", shape.unwrap_or_default());
                self.encode(graph, name, &input)
            }
            Role::BoxHead => {
                let input = "regions x1, y1, x2, y2 in pixels of the padded image";
                self.encode(graph, &format!("{name}_{role}"), input)
            }
        }
    }

    fn encode(&self, graph: &Graph, name: &str, input: &str) -> Vec<u8> {
        let info = &self.info;
        let entry = |key: &str, value: String| StringStringEntryProto {
            key: key.to_owned(),
            value,
        };
        let model = ModelProto {
            ir_version: ir_version(info.opset),
            producer_name: "sightline".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            doc_string: format!("{name} with batch norm folded; {input}"),
            graph: Some(graph_proto(graph, name)),
            opset_import: vec![OperatorSetIdProto {
                domain: String::new(),
                version: info.opset,
            }],
            metadata_props: vec![
                entry("checkpoint_sha256", info.checkpoint_sha256.clone()),
                entry("parameters", info.parameters.to_string()),
            ],
            ..ModelProto::default()
        };
        model.encode_to_vec()
    }
}

/// The IR version that came with an opset, so that runtimes of that age read the file.
/// Source: ONNX "Versioning", table of releases.
fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=14 => 7,
        15..=18 => 8,
        19..=20 => 9,
        _ => 10,
    }
}
