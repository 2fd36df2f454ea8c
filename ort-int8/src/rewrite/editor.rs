//! [`GraphEditor`]: an ONNX graph whose nodes can be found, removed and replaced.

use std::collections::{HashMap, HashSet};

use onnx_export::proto::{FLOAT, GraphProto, INT32, NodeProto, TensorProto, UINT8};
use onnx_export::quantize::Affine;

use super::DOMAIN;

/// An ONNX graph whose nodes and initializers can be found by the name of a value. Nodes are
/// identified by an index, which stays valid if other nodes are removed.
pub(super) struct GraphEditor {
    nodes: Vec<Option<NodeProto>>,
    /// Index in `nodes` of the node that writes a value, by the name of the value.
    producers: HashMap<String, usize>,
    outputs: HashSet<String>,
    /// Index in `graph.initializer` of an initializer, by the name of the initializer.
    initializers: HashMap<String, usize>,
    /// The graph without its nodes, which were moved to `nodes`.
    graph: GraphProto,
}

impl GraphEditor {
    pub(super) fn new(mut graph: GraphProto) -> Self {
        let nodes: Vec<NodeProto> = std::mem::take(&mut graph.node);
        let outputs = graph.output.iter().map(|output| output.name.clone());
        let initializers = graph.initializer.iter().enumerate();
        let producers = nodes.iter().enumerate();
        let producers = producers
            .flat_map(|(index, node)| node.output.iter().map(move |name| (name.clone(), index)));
        Self {
            producers: producers.collect(),
            outputs: outputs.collect(),
            initializers: initializers
                .map(|(index, tensor)| (tensor.name.clone(), index))
                .collect(),
            nodes: nodes.into_iter().map(Some).collect(),
            graph,
        }
    }

    /// Returns the number of nodes, removed ones included.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Returns the node at `index`. `None` if it was removed.
    pub(super) fn node(&self, index: usize) -> Option<&NodeProto> {
        self.nodes[index].as_ref()
    }

    /// Returns the node that writes `value`, with its index. `None` if no node writes `value`, if
    /// the operator type of that node is not `op`, or if the node was removed.
    pub(super) fn producer(&self, value: &str, op: &str) -> Option<(usize, &NodeProto)> {
        let index = *self.producers.get(value)?;
        let node = self.node(index)?;
        (node.op_type == op).then_some((index, node))
    }

    /// Returns the node that writes `value`. `None` if no node writes it or the node was removed.
    pub(super) fn writer(&self, value: &str) -> Option<&NodeProto> {
        self.node(*self.producers.get(value)?)
    }

    /// Returns the index of the only node that reads `value`. `None` if no node or several nodes
    /// read `value`, or if `value` is an output of the graph.
    pub(super) fn sole_reader(&self, value: &str) -> Option<usize> {
        let nodes = self.nodes.iter().enumerate();
        let mut readers = nodes.filter(|(_, node)| {
            node.as_ref()
                .is_some_and(|node| node.input.iter().any(|name| name == value))
        });
        let (index, _) = readers.next()?;
        (readers.next().is_none() && !self.outputs.contains(value)).then_some(index)
    }

    /// Returns the first node that reads `value` and fulfills `condition`. `None` if there is none.
    pub(super) fn reader(
        &self,
        value: &str,
        condition: impl Fn(&NodeProto) -> bool,
    ) -> Option<&NodeProto> {
        let mut nodes = self.nodes.iter().flatten();
        nodes.find(|node| node.input.iter().any(|name| name == value) && condition(node))
    }

    /// Returns the scale and zero point in the initializers named `scale` and `zero_point`. `None`
    /// unless `scale` has exactly one f32 element and `zero_point` exactly one uint8 element.
    pub(super) fn affine(&self, scale: &str, zero_point: &str) -> Option<Affine> {
        let scale = self.f32_values(scale)?;
        let zero_point = self.bytes(zero_point, UINT8)?;
        match (scale.as_slice(), zero_point) {
            (&[scale], &[zero_point]) => Some(Affine { scale, zero_point }),
            _ => None,
        }
    }

    /// Returns the elements of the f32 initializer `name`. `None` if [`GraphEditor::bytes`] returns
    /// `None` for this name and f32.
    pub(super) fn f32_values(&self, name: &str) -> Option<Vec<f32>> {
        let chunks = self.bytes(name, FLOAT)?.as_chunks::<4>().0.iter();
        Some(chunks.map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// Returns the elements of the int32 initializer `name`. `None` if [`GraphEditor::bytes`]
    /// returns `None` for this name and int32.
    pub(super) fn i32_values(&self, name: &str) -> Option<Vec<i32>> {
        let chunks = self.bytes(name, INT32)?.as_chunks::<4>().0.iter();
        Some(chunks.map(|bytes| i32::from_le_bytes(*bytes)).collect())
    }

    /// Returns the shape of the initializer `name`. `None` if no initializer has this name and this
    /// ONNX data type.
    pub(super) fn shape(&self, name: &str, data_type: i32) -> Option<&[i64]> {
        let tensor = self.initializer(name)?;
        (tensor.data_type == data_type).then_some(&tensor.dims)
    }

    /// Returns the little-endian bytes of the initializer `name`. `None` if no initializer has this
    /// name and this ONNX data type, or if its `raw_data` does not hold exactly the elements of its
    /// shape.
    pub(super) fn bytes(&self, name: &str, data_type: i32) -> Option<&[u8]> {
        let tensor = self.initializer(name)?;
        let sizes = tensor.dims.iter().map(|size| usize::try_from(*size).ok());
        let length = sizes
            .chain([Some(size_of(data_type))])
            .try_fold(1_usize, |product, size| product.checked_mul(size?));
        let is_complete = tensor.data_type == data_type
            && tensor.data_location == 0
            && length == Some(tensor.raw_data.len());
        is_complete.then_some(&tensor.raw_data)
    }

    fn initializer(&self, name: &str) -> Option<&TensorProto> {
        self.graph.initializer.get(*self.initializers.get(name)?)
    }

    /// Adds a one-dimensional initializer and returns its name, `name` prefixed with [`DOMAIN`].
    /// The caller makes sure that no other initializer is added with this `name`.
    pub(super) fn add_initializer(
        &mut self,
        name: &str,
        data_type: i32,
        raw_data: Vec<u8>,
    ) -> String {
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

    /// Removes the node at `index` if none of the node's outputs is read by another node or is an
    /// output of the graph.
    pub(super) fn remove_if_unread(&mut self, index: usize) {
        let nodes = self.nodes.iter().flatten();
        let mut read = nodes.flat_map(|node| &node.input).chain(&self.outputs);
        let outputs = self.nodes[index].as_ref().map(|node| &node.output);
        if outputs.is_some_and(|outputs| !read.any(|name| outputs.contains(name))) {
            self.nodes[index] = None;
        }
    }

    /// Removes the node at `index` and returns it. `None` if it was removed before.
    pub(super) fn remove(&mut self, index: usize) -> Option<NodeProto> {
        self.nodes[index].take()
    }

    /// Replaces the node at `index` with `node`, an operator of this crate, and sets the domain of
    /// `node` to [`DOMAIN`].
    pub(super) fn replace(&mut self, index: usize, node: NodeProto) {
        self.replace_standard(
            index,
            NodeProto {
                domain: DOMAIN.to_owned(),
                ..node
            },
        );
    }

    /// Replaces the node at `index` with `node`, an operator of ONNX Runtime.
    pub(super) fn replace_standard(&mut self, index: usize, node: NodeProto) {
        for name in &node.output {
            self.producers.insert(name.clone(), index);
        }
        self.nodes[index] = Some(node);
    }

    /// Returns the edited graph, without the initializers that no node reads any more.
    pub(super) fn finish(mut self) -> GraphProto {
        self.graph.node = self.nodes.into_iter().flatten().collect();
        self.graph.drop_unread_initializers();
        self.graph
    }
}

/// Returns the size in bytes of one element of an ONNX data type. Correct only for f32, int32,
/// uint8 and int8, the data types of the initializers that this crate reads and writes.
fn size_of(data_type: i32) -> usize {
    if matches!(data_type, FLOAT | INT32) {
        4
    } else {
        1
    }
}
