//! A graph under construction: values with known shapes, nodes, and weights.
//!
//! [`ops`] contains the methods of [`Graph`] that add ONNX operators. [`Loader`] reads the weights
//! from a checkpoint and turns the finished graph into a [`Model`](crate::Model).
//!
//! [`layers`](crate::layers) builds layers from several operators; [`Model`](crate::Model) encodes a finished
//! graph as protobuf.

mod dim;
mod loader;
pub mod ops;
mod parts;
mod scope;

use std::collections::HashMap;

pub use crate::proto::Attr;
pub use crate::state_error::{Mismatch, StateDictError};
pub(crate) use dim::Dims;
pub use dim::{Dim, Symbol, Window};
pub use loader::Loader;
pub(crate) use parts::Attrs;
use parts::Output;
pub use parts::{Data, Element, Initializer, Node, Shape, Value, ValueInfo};
pub use scope::Scope;

/// An ONNX graph under construction. Each method that adds a node checks the shapes of its operands.
#[derive(Debug)]
pub struct Graph {
    opset: i64,
    dims: Dims,
    values: Vec<ValueInfo>,
    nodes: Vec<Node>,
    initializers: Vec<Initializer>,
    inputs: Vec<Value>,
    outputs: Vec<Value>,
    /// Constants that several nodes may read, by name.
    constants: HashMap<String, Value>,
    /// How often each name was requested. From the second request on, a number is appended to the
    /// name.
    names: HashMap<String, u32>,
}

impl Graph {
    /// Creates an empty graph whose nodes follow the ONNX opset `opset`.
    ///
    /// [`Loader::finish`] rejects opsets outside [`OPSETS`](crate::OPSETS).
    pub fn new(opset: i64) -> Self {
        Self {
            opset,
            dims: Dims::default(),
            values: Vec::new(),
            nodes: Vec::new(),
            initializers: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            constants: HashMap::new(),
            names: HashMap::new(),
        }
    }

    /// Adds the input of a network that reads images, `[batch, 3, height, width] f32`. Only the
    /// channel count is fixed.
    pub fn image_input(&mut self, name: &str) -> Value {
        let [batch, height, width] = ["batch", "height", "width"].map(|axis| self.axis(axis));
        let shape = vec![batch, Dim::Fixed(3), height, width];
        self.input(name, shape, Element::F32)
    }

    /// Adds an input of the network, called `name`.
    pub fn input(&mut self, name: &str, shape: Shape, element: Element) -> Value {
        let value = self.value(name, "", Output::new(shape, element));
        self.inputs.push(value);
        value
    }

    /// Returns the dynamic size called `name`, such as `batch`. Axes with the same name have the same size.
    pub fn axis(&mut self, name: &str) -> Dim {
        self.dims.input(name)
    }

    /// Makes `value` an output of the network, called `name`.
    ///
    /// The value is renamed. If it has a name that must stay, because it is an input, a constant or
    /// already an output, an `Identity` node is added and its result is renamed instead.
    pub fn output(&mut self, value: Value, name: &str) {
        let computed = self.nodes.iter().any(|node| node.outputs.contains(&value));
        let output = if computed && !self.outputs.contains(&value) {
            value
        } else {
            self.identity(value)
        };
        let unique = self.unique(name);
        self.values[output.index()].name = unique;
        self.outputs.push(output);
    }

    /// Returns the ONNX opset that the nodes follow.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    /// Returns the name, shape and data type of `value`.
    pub fn info(&self, value: Value) -> &ValueInfo {
        &self.values[value.index()]
    }

    /// Returns the shape of a value, outermost axis first.
    pub fn shape(&self, value: Value) -> &[Dim] {
        &self.info(value).shape
    }

    /// Returns the nodes in the order they were added, which is a topological order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns the constant tensors in the order they were added.
    pub fn initializers(&self) -> &[Initializer] {
        &self.initializers
    }

    /// Returns the network's inputs in the order they were added.
    pub fn inputs(&self) -> &[Value] {
        &self.inputs
    }

    /// Returns the network's outputs in the order they were added.
    pub fn outputs(&self) -> &[Value] {
        &self.outputs
    }

    /// Returns a shape as text, such as `[batch, 16, ceil(height/2), ceil(width/2)]`.
    pub fn show_shape(&self, shape: &[Dim]) -> String {
        let axes: Vec<String> = shape.iter().map(|dim| self.show_dim(*dim)).collect();
        format!("[{}]", axes.join(", "))
    }

    /// Returns the size of an axis as text, such as `16` or `ceil(height/2)`. ONNX files store the
    /// text of a dynamic size as `dim_param`.
    pub fn show_dim(&self, dim: Dim) -> String {
        match dim {
            Dim::Fixed(size) => size.to_string(),
            Dim::Dynamic(symbol) => self.dims.name(symbol),
        }
    }

    /// Removes the nodes and constants that no output depends on.
    pub(crate) fn prune(&mut self) {
        let mut needed = vec![false; self.values.len()];
        for output in &self.outputs {
            needed[output.index()] = true;
        }
        // In reverse topological order, all consumers of a node are visited before the node.
        for node in self.nodes.iter().rev() {
            if node.outputs.iter().any(|v| needed[v.index()]) {
                for input in &node.inputs {
                    needed[input.index()] = true;
                }
            }
        }
        self.nodes
            .retain(|node| node.outputs.iter().any(|v| needed[v.index()]));
        self.initializers
            .retain(|initializer| needed[initializer.value.index()]);
    }

    /// Returns a scalar f32 constant with the value `value`. Adds it to the graph if it is new.
    pub fn scalar(&mut self, value: f32) -> Value {
        self.constant(&format!("constant_{value}"), &[], Data::F32(vec![value]))
    }

    /// Returns a scalar i64 constant with the value `value`. Adds it to the graph if it is new.
    pub(crate) fn whole(&mut self, value: i64) -> Value {
        self.constant(&format!("whole_{value}"), &[], Data::I64(vec![value]))
    }

    /// Returns a constant `[values.len()] i64` with the elements `values`, whose name starts with
    /// `purpose`. Adds it to the graph if it is new.
    pub(crate) fn list(&mut self, purpose: &str, values: &[i64]) -> Value {
        let name = format!("{purpose}_{values:?}");
        self.constant(&name, &[values.len()], Data::I64(values.to_vec()))
    }

    /// Adds an f32 constant of shape `shape` called `name`. The caller must have checked that
    /// `values` has as many elements as `shape`.
    pub(crate) fn table(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Value {
        self.initializer(name, shape, Data::F32(values))
    }

    /// Returns the operand that stands for an optional operand that is left out. Its name in ONNX
    /// is empty.
    fn absent(&mut self) -> Value {
        if let Some(value) = self.values.iter().position(|info| info.name.is_empty()) {
            return Value(value as u32);
        }
        self.value("", "", Output::new(vec![], Element::F32))
    }

    /// Returns the constant called `name`. Adds it to the graph if it is new. The name must include
    /// the elements, so that equal names mean equal constants.
    fn constant(&mut self, name: &str, shape: &[usize], data: Data) -> Value {
        if let Some(value) = self.constants.get(name) {
            return *value;
        }
        let value = self.initializer(name, shape, data);
        self.constants.insert(name.to_owned(), value);
        value
    }

    fn initializer(&mut self, name: &str, shape: &[usize], data: Data) -> Value {
        debug_assert!(fills(shape, &data), "{name}: {shape:?}");
        let shape = shape.iter().map(|size| Dim::Fixed(*size)).collect();
        let value = self.value(name, "", Output::new(shape, data.element()));
        self.initializers.push(Initializer { value, data });
        value
    }

    fn identity(&mut self, value: Value) -> Value {
        let ValueInfo {
            shape,
            element,
            scope,
            ..
        } = self.info(value).clone();
        let output = Output::new(shape, element);
        self.node_of("Identity", &scope, vec![value], vec![output], vec![])[0]
    }

    /// Adds a node of the module `scope` with one f32 output of shape `shape`. The caller must have
    /// checked the shapes of `inputs`.
    fn node(
        &mut self,
        op: &'static str,
        scope: &str,
        inputs: Vec<Value>,
        shape: Shape,
        attrs: Attrs,
    ) -> Value {
        let output = Output::new(shape, Element::F32);
        self.node_of(op, scope, inputs, vec![output], attrs)[0]
    }

    /// Adds a node of the module `scope` with the given `outputs`. The caller must have checked the
    /// shapes of `inputs`.
    fn node_of(
        &mut self,
        op: &'static str,
        scope: &str,
        inputs: Vec<Value>,
        outputs: Vec<Output>,
        attrs: Attrs,
    ) -> Vec<Value> {
        let path = self.unique(&node_path(scope, op));
        let name = format!("{path}_output");
        let outputs = outputs.into_iter();
        let outputs: Vec<Value> = outputs.map(|out| self.value(&name, scope, out)).collect();
        self.nodes.push(Node {
            op,
            name: path,
            inputs,
            outputs: outputs.clone(),
            attrs,
        });
        outputs
    }

    fn value(&mut self, name: &str, scope: &str, output: Output) -> Value {
        let name = self.unique(name);
        let Output { shape, element } = output;
        self.values.push(ValueInfo {
            name,
            shape,
            element,
            scope: scope.to_owned(),
        });
        Value((self.values.len() - 1) as u32)
    }

    fn scope_of(&self, value: Value) -> String {
        self.info(value).scope.clone()
    }

    /// Returns `name` if no value or node has this name yet, and `name_1`, `name_2` and so on if
    /// one does, because ONNX names are unique in a graph.
    fn unique(&mut self, name: &str) -> String {
        let count = self.names.entry(name.to_owned()).or_insert(0);
        *count += 1;
        match *count {
            1 => name.to_owned(),
            n => {
                let next = format!("{name}_{}", n - 1);
                self.unique(&next)
            }
        }
    }
}

/// Returns whether `data` has as many elements as a tensor of shape `shape`.
fn fills(shape: &[usize], data: &Data) -> bool {
    let elements = match data {
        Data::F32(values) => values.len(),
        Data::I64(values) => values.len(),
    };
    shape.iter().product::<usize>() == elements
}

/// Returns the name of a node with operator `op` in module `scope`: `/features/0/0/Conv` for `Conv`
/// in `features.0.0`.
fn node_path(scope: &str, op: &str) -> String {
    if scope.is_empty() {
        format!("/{op}")
    } else {
        format!("/{}/{op}", scope.replace('.', "/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_that_is_also_an_output_keeps_its_name() {
        let mut g = Graph::new(17);
        let x = g.image_input("images");
        let y = g.relu(x);
        g.output(x, "copy");
        g.output(y, "first");
        g.output(y, "second");
        let names = |values: &[Value]| -> Vec<String> {
            values.iter().map(|v| g.info(*v).name.clone()).collect()
        };
        assert_eq!(names(g.inputs()), ["images"]);
        assert_eq!(names(g.outputs()), ["copy", "first", "second"]);
    }
}
