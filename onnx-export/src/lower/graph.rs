//! A graph while its nodes are replaced.

use std::collections::{HashMap, HashSet};

use super::DOMAIN;
use crate::proto::{FLOAT, GraphProto, INT32, NodeProto, TensorProto, UINT8};
use crate::quantize::Affine;

/// The nodes of a graph, who reads what, and its constants.
pub(super) struct Lowering {
    pub(super) nodes: Vec<Option<NodeProto>>,
    producers: HashMap<String, usize>,
    outputs: HashSet<String>,
    /// Where in the graph's initializers.
    constants: HashMap<String, usize>,
    /// The rest of it.
    graph: GraphProto,
}

impl Lowering {
    pub(super) fn new(mut graph: GraphProto) -> Self {
        let nodes: Vec<NodeProto> = std::mem::take(&mut graph.node);
        let outputs = graph.output.iter().map(|output| output.name.clone());
        let constants = graph.initializer.iter().enumerate();
        let producers = nodes.iter().enumerate();
        let producers = producers
            .flat_map(|(index, node)| node.output.iter().map(move |name| (name.clone(), index)));
        Self {
            producers: producers.collect(),
            outputs: outputs.collect(),
            constants: constants
                .map(|(index, tensor)| (tensor.name.clone(), index))
                .collect(),
            nodes: nodes.into_iter().map(Some).collect(),
            graph,
        }
    }

    /// The node that computes a value, if it is an `op`, and its index.
    pub(super) fn producer(&self, value: &str, op: &str) -> Option<(usize, &NodeProto)> {
        let index = *self.producers.get(value)?;
        let node = self.nodes[index].as_ref()?;
        (node.op_type == op).then_some((index, node))
    }

    /// The node that alone reads a value, which is no output of the graph.
    pub(super) fn sole_reader(&self, value: &str) -> Option<usize> {
        let nodes = self.nodes.iter().enumerate();
        let mut readers = nodes.filter(|(_, node)| {
            node.as_ref()
                .is_some_and(|node| node.input.iter().any(|name| name == value))
        });
        let (index, _) = readers.next()?;
        (readers.next().is_none() && !self.outputs.contains(value)).then_some(index)
    }

    /// What two scalar constants say.
    pub(super) fn affine(&self, scale: &str, zero_point: &str) -> Option<Affine> {
        let scale = self.floats(scale)?;
        let zero_point = self.bytes(zero_point, UINT8)?;
        match (scale.as_slice(), zero_point) {
            (&[scale], &[zero_point]) => Some(Affine { scale, zero_point }),
            _ => None,
        }
    }

    /// The numbers of an f32 constant.
    pub(super) fn floats(&self, name: &str) -> Option<Vec<f32>> {
        let bytes = self.bytes(name, FLOAT)?.as_chunks::<4>().0.iter();
        Some(bytes.map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// The numbers of an i32 constant.
    pub(super) fn whole_numbers(&self, name: &str) -> Option<Vec<i32>> {
        let bytes = self.bytes(name, INT32)?.as_chunks::<4>().0.iter();
        Some(bytes.map(|bytes| i32::from_le_bytes(*bytes)).collect())
    }

    /// The shape of a constant of this type.
    pub(super) fn shape(&self, name: &str, data_type: i32) -> Option<&[i64]> {
        let tensor = self.constant(name)?;
        (tensor.data_type == data_type).then_some(&tensor.dims)
    }

    /// The bytes of a constant of this type, where they are in the file and fill its shape.
    pub(super) fn bytes(&self, name: &str, data_type: i32) -> Option<&[u8]> {
        let tensor = self.constant(name)?;
        let sizes = tensor.dims.iter().map(|size| usize::try_from(*size).ok());
        let numbers = sizes
            .chain([Some(size_of(data_type))])
            .try_fold(1_usize, |product, size| product.checked_mul(size?));
        let fits = tensor.data_type == data_type
            && tensor.data_location == 0
            && numbers == Some(tensor.raw_data.len());
        fits.then_some(&tensor.raw_data)
    }

    fn constant(&self, name: &str) -> Option<&TensorProto> {
        self.graph.initializer.get(*self.constants.get(name)?)
    }

    /// Adds a constant, and gives its name, which no other value has.
    pub(super) fn add(&mut self, name: &str, data_type: i32, raw_data: Vec<u8>) -> String {
        let name = format!("{DOMAIN}:{name}");
        self.graph.initializer.push(TensorProto {
            name: name.clone(),
            data_type,
            dims: vec![(raw_data.len() / size_of(data_type)) as i64],
            raw_data,
            ..TensorProto::default()
        });
        name
    }

    /// Takes a node out if nothing reads what it computes.
    pub(super) fn take_unread(&mut self, index: usize) {
        let nodes = self.nodes.iter().flatten();
        let mut read = nodes.flat_map(|node| &node.input).chain(&self.outputs);
        let outputs = self.nodes[index].as_ref().map(|node| &node.output);
        if outputs.is_some_and(|outputs| !read.any(|name| outputs.contains(name))) {
            self.nodes[index] = None;
        }
    }

    /// Takes a node out.
    pub(super) fn take(&mut self, index: usize) -> Option<NodeProto> {
        self.nodes[index].take()
    }

    /// Puts an operator of Sightline's where `index` is.
    pub(super) fn put(&mut self, index: usize, node: NodeProto) {
        self.nodes[index] = Some(NodeProto {
            domain: DOMAIN.to_owned(),
            ..node
        });
    }

    /// The graph, with the constants that its nodes read.
    pub(super) fn finish(mut self) -> GraphProto {
        self.graph.node = self.nodes.into_iter().flatten().collect();
        self.graph.drop_unread_constants();
        self.graph
    }
}

/// Bytes of a number.
fn size_of(data_type: i32) -> usize {
    if matches!(data_type, FLOAT | INT32) {
        4
    } else {
        1
    }
}
