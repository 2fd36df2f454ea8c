//! A finished network, its description, and its encoding as ONNX files.

mod encode;

use std::ops::RangeInclusive;

use prost::Message;

use crate::error::{BuildError, argument};
use crate::finite;
use crate::graph::{Graph, Loader};
use crate::proto::{ModelProto, OperatorSetIdProto, StringStringEntryProto};
use crate::stages::{Role, Stages};
use encode::graph_proto;

/// The ONNX opset that exports use by default.
pub const DEFAULT_OPSET: i64 = 17;
/// The ONNX opsets that can be written.
pub const OPSETS: RangeInclusive<i64> = 13..=21;

/// A network ready to be written to ONNX files. [`Loader::finish`](crate::graph::Loader::finish)
/// and [`build`](crate::build()) return it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Model {
    /// Graphs of the stages. Only Faster R-CNN has a second stage.
    pub stages: Stages<Graph>,
    /// Description that the header of each ONNX file stores.
    pub info: ModelInfo,
}

/// The description of a model in the header of its ONNX file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelInfo {
    /// Name of the network.
    pub name: String,
    /// Version of the ONNX opset that the nodes follow.
    pub opset: i64,
    /// SHA-256 of the checkpoint, 64 hexadecimal digits.
    pub checkpoint_sha256: String,
    /// Number of trained elements in the network; elements of buffers are not counted.
    pub parameters: u64,
    /// Program that the ONNX file names as its writer; by default the name and version of this
    /// crate.
    pub producer: Producer,
}

/// The program that an ONNX file names as its writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producer {
    /// Name of the program, ONNX's `producer_name`.
    pub name: String,
    /// Version of the program, ONNX's `producer_version`.
    pub version: String,
}

impl Default for Producer {
    /// Returns the name and version of this crate.
    fn default() -> Self {
        Self {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

impl ModelInfo {
    pub(crate) fn new(name: &str, opset: i64, checkpoint_sha256: String, parameters: u64) -> Self {
        Self {
            name: name.to_owned(),
            opset,
            checkpoint_sha256,
            parameters,
            producer: Producer::default(),
        }
    }
}

impl Loader<'_> {
    /// Ends loading and turns the graph that was built with this loader's weights into a model
    /// called `name`. Nodes and constants that no output depends on are removed.
    ///
    /// # Errors
    /// [`BuildError::StateDict`] with every missing, unexpected and misshapen tensor. Batch norm's
    /// `num_batches_tracked` counts training steps and is never unexpected.
    /// [`BuildError::Argument`] if the graph's opset is not in [`OPSETS`]. [`BuildError::NotFinite`]
    /// if folding made a weight infinite.
    pub fn finish(self, name: &str, graph: Graph) -> Result<Model, BuildError> {
        self.finish_stages(name, Stages::new(graph))
    }

    /// Ends loading and turns the graphs of a network with several stages into a model, as [`Loader::finish`]
    /// does for a single graph.
    ///
    /// # Errors
    /// As [`Loader::finish`], and [`BuildError::Argument`] if the stages have different opsets.
    pub fn finish_stages(self, name: &str, stages: Stages<Graph>) -> Result<Model, BuildError> {
        let opset = stages.network().opset();
        if stages.iter().any(|stage| stage.content.opset() != opset) {
            return Err(argument("opset", "one opset for all stages", &"different opsets").into());
        }
        if !OPSETS.contains(&opset) {
            return Err(argument("opset", "an ONNX opset from 13 to 21", &opset).into());
        }
        let checkpoint_sha256 = self.sha256().to_owned();
        let parameters = self.check()?;
        let stages = stages.try_map(|_, mut graph| {
            graph.prune();
            finite::check(&graph)?;
            Ok::<_, BuildError>(graph)
        })?;
        let info = ModelInfo::new(name, opset, checkpoint_sha256, parameters);
        Ok(Model { stages, info })
    }
}

impl Model {
    /// Returns the first stage, which reads the image, as the bytes of an `.onnx` file.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.stage_bytes(Role::Network, self.stages.network())
    }

    /// Returns each stage as the bytes of its own `.onnx` file.
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
            producer_name: info.producer.name.clone(),
            producer_version: info.producer.version.clone(),
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

/// Returns the version of ONNX's intermediate representation (IR) that was released with `opset`.
/// Every runtime that supports the opset can then read the file.
///
/// Source: ONNX "Versioning", table of releases.
fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=14 => 7,
        15..=18 => 8,
        19..=20 => 9,
        _ => 10,
    }
}
