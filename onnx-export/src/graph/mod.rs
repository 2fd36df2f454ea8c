//! The graph under construction: values with known shapes, nodes, and weights.
//!
//! What is *not* here: which ops exist ([`ops`] has a method for each), where weights come from
//! ([`Loader`]), and protobuf (the private `proto` module).

mod dim;
mod loader;
pub mod ops;

use std::collections::HashMap;
use std::fmt::Write as _;

pub(crate) use dim::Dims;
pub use dim::{Dim, Symbol, Window};
pub use loader::{Loader, Mismatch, Scope, StateDictError};

/// The shape of a value, outermost axis first.
pub type Shape = Vec<Dim>;

/// A value of a [`Graph`]: an input, a weight or the output of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Value(u32);

/// What is known of a value.
#[derive(Debug, Clone)]
pub struct ValueInfo {
    /// Its ONNX name.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// The type of its elements.
    pub element: Element,
    /// Path of the module that made it, as in the state dict.
    scope: String,
}

/// The type of a value's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// FLOAT.
    F32,
    /// INT64.
    I64,
    /// BOOL: what comparisons give.
    Bool,
}

/// A node attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attr {
    /// FLOAT.
    Float(f32),
    /// INT.
    Int(i64),
    /// INTS.
    Ints(Vec<i64>),
    /// STRING.
    Text(&'static str),
}

/// One operator call.
#[derive(Debug, Clone)]
pub struct Node {
    /// The ONNX operator.
    pub op: &'static str,
    /// Its path-like name, such as `/features/0/0/Conv`.
    pub name: String,
    /// Operands in the operator's order.
    pub inputs: Vec<Value>,
    /// The results.
    pub outputs: Vec<Value>,
    /// Attributes by name.
    pub attrs: Vec<(&'static str, Attr)>,
}

/// A constant tensor.
#[derive(Debug, Clone)]
pub struct Initializer {
    /// The value that holds it.
    pub value: Value,
    /// Its elements.
    pub data: Data,
}

/// The elements of a constant, in C order.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// FLOAT: weights.
    F32(Vec<f32>),
    /// INT64: axes and sizes.
    I64(Vec<i64>),
}

/// A graph whose shapes are checked as nodes are added.
#[derive(Debug)]
pub struct Graph {
    opset: i64,
    dims: Dims,
    values: Vec<ValueInfo>,
    nodes: Vec<Node>,
    initializers: Vec<Initializer>,
    inputs: Vec<Value>,
    outputs: Vec<Value>,
    constants: HashMap<String, Value>,
    names: HashMap<String, u32>,
}

impl Graph {
    /// An empty graph whose nodes are those of the given opset.
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

    /// Adds the network's picture input, `[N, 3, H, W] f32` with every axis but the channels dynamic.
    pub fn image_input(&mut self, name: &str) -> Value {
        let [batch, height, width] = ["batch", "height", "width"].map(|axis| self.axis(axis));
        self.input(
            name,
            vec![batch, Dim::Fixed(3), height, width],
            Element::F32,
        )
    }

    /// Adds an input of the network.
    pub fn input(&mut self, name: &str, shape: Shape, element: Element) -> Value {
        let value = self.value(name, "", shape);
        self.values[value.0 as usize].element = element;
        self.inputs.push(value);
        value
    }

    /// The size `name`, known when the graph runs; the same size for the same name.
    pub fn axis(&mut self, name: &str) -> Dim {
        self.dims.input(name)
    }

    /// Makes `value` an output of the network under the name `name`.
    pub fn output(&mut self, value: Value, name: &str) {
        let unique = self.unique(name);
        self.values[value.0 as usize].name = unique;
        self.outputs.push(value);
    }

    /// The opset of its nodes.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    /// Name and shape of a value.
    pub fn info(&self, value: Value) -> &ValueInfo {
        &self.values[value.0 as usize]
    }

    /// The shape of a value.
    pub fn shape(&self, value: Value) -> &[Dim] {
        &self.info(value).shape
    }

    /// Nodes in the order they were added, which is a topological one.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Constant tensors in the order they were added.
    pub fn initializers(&self) -> &[Initializer] {
        &self.initializers
    }

    /// The network's inputs.
    pub fn inputs(&self) -> &[Value] {
        &self.inputs
    }

    /// The network's outputs.
    pub fn outputs(&self) -> &[Value] {
        &self.outputs
    }

    /// A shape in words: `[batch, 16, ceil(height/2), ceil(width/2)]`.
    pub fn show_shape(&self, shape: &[Dim]) -> String {
        let axes: Vec<String> = shape.iter().map(|dim| self.show_dim(*dim)).collect();
        format!("[{}]", axes.join(", "))
    }

    /// A dimension in words, which is also its ONNX `dim_param` where it is dynamic.
    pub fn show_dim(&self, dim: Dim) -> String {
        match dim {
            Dim::Fixed(size) => size.to_string(),
            Dim::Dynamic(symbol) => self.dims.name(symbol),
        }
    }

    /// Removes the nodes and constants that no output needs.
    pub(crate) fn prune(&mut self) {
        let mut needed = vec![false; self.values.len()];
        for output in &self.outputs {
            needed[output.0 as usize] = true;
        }
        // Nodes are in topological order: backwards, a node's users come before it.
        for node in self.nodes.iter().rev() {
            if node.outputs.iter().any(|v| needed[v.0 as usize]) {
                for input in &node.inputs {
                    needed[input.0 as usize] = true;
                }
            }
        }
        self.nodes
            .retain(|node| node.outputs.iter().any(|v| needed[v.0 as usize]));
        self.initializers
            .retain(|initializer| needed[initializer.value.0 as usize]);
    }

    /// The graph as text, one node a line: operator, inputs, shape of the output.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let inputs: Vec<&str> = node
                .inputs
                .iter()
                .map(|v| self.info(*v).name.as_str())
                .collect();
            let shape = self.show_shape(self.shape(node.outputs[0]));
            let (name, op, inputs) = (&node.name, node.op, inputs.join(", "));
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name} = {op}({inputs}) {shape}");
        }
        text
    }

    /// Adds a weight under its state dict path, of the given shape in C order.
    fn weight(&mut self, path: &str, shape: &[usize], data: Vec<f32>) -> Value {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len(), "{path}");
        self.initializer(path, shape, Data::F32(data))
    }

    /// A scalar constant, one per distinct number.
    pub(crate) fn scalar(&mut self, number: f32) -> Value {
        self.constant(&format!("constant_{number}"), &[], Data::F32(vec![number]))
    }

    /// A table of numbers under a name of its own.
    pub(crate) fn table(&mut self, name: &str, shape: &[usize], numbers: Vec<f32>) -> Value {
        self.initializer(name, shape, Data::F32(numbers))
    }

    /// A scalar whole number, one per distinct number.
    pub(crate) fn whole(&mut self, number: i64) -> Value {
        self.constant(&format!("whole_{number}"), &[], Data::I64(vec![number]))
    }

    /// A list of whole numbers, one per distinct list and purpose.
    pub(crate) fn list(&mut self, purpose: &str, numbers: &[i64]) -> Value {
        let name = format!("{purpose}_{numbers:?}");
        self.constant(&name, &[numbers.len()], Data::I64(numbers.to_vec()))
    }

    /// An optional operand that is left out: ONNX writes it as an empty name.
    fn absent(&mut self) -> Value {
        if let Some(value) = self.values.iter().position(|info| info.name.is_empty()) {
            return Value(value as u32);
        }
        self.value("", "", vec![])
    }

    /// Constants are told apart by name, which says their value.
    fn constant(&mut self, name: &str, shape: &[usize], data: Data) -> Value {
        if let Some(value) = self.constants.get(name) {
            return *value;
        }
        let value = self.initializer(name, shape, data);
        self.constants.insert(name.to_owned(), value);
        value
    }

    fn initializer(&mut self, name: &str, shape: &[usize], data: Data) -> Value {
        let shape = shape.iter().map(|size| Dim::Fixed(*size)).collect();
        let value = self.value(name, "", shape);
        if matches!(data, Data::I64(_)) {
            self.values[value.0 as usize].element = Element::I64;
        }
        self.initializers.push(Initializer { value, data });
        value
    }

    /// Adds a node under `scope`; the caller has checked the shapes.
    fn node(
        &mut self,
        op: &'static str,
        scope: &str,
        inputs: Vec<Value>,
        shape: Shape,
        attrs: Vec<(&'static str, Attr)>,
    ) -> Value {
        self.node_of(op, scope, inputs, vec![(shape, Element::F32)], attrs)[0]
    }

    /// [`Graph::node`] with several outputs, or of another type than f32.
    fn node_of(
        &mut self,
        op: &'static str,
        scope: &str,
        inputs: Vec<Value>,
        outputs: Vec<(Shape, Element)>,
        attrs: Vec<(&'static str, Attr)>,
    ) -> Vec<Value> {
        let path = self.unique(&node_path(scope, op));
        let outputs = outputs.into_iter().map(|(shape, element)| {
            let output = self.value(&format!("{path}_output"), scope, shape);
            self.values[output.0 as usize].element = element;
            output
        });
        let outputs: Vec<Value> = outputs.collect();
        self.nodes.push(Node {
            op,
            name: path,
            inputs,
            outputs: outputs.clone(),
            attrs,
        });
        outputs
    }

    fn value(&mut self, name: &str, scope: &str, shape: Shape) -> Value {
        let name = self.unique(name);
        self.values.push(ValueInfo {
            name,
            shape,
            element: Element::F32,
            scope: scope.to_owned(),
        });
        Value((self.values.len() - 1) as u32)
    }

    fn scope_of(&self, value: Value) -> String {
        self.info(value).scope.clone()
    }

    /// `name`, or `name_1`, `name_2`, ... where it is taken: ONNX wants every name once.
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

/// `features.0.0` and `Conv` give `/features/0/0/Conv`.
fn node_path(scope: &str, op: &str) -> String {
    if scope.is_empty() {
        format!("/{op}")
    } else {
        format!("/{}/{op}", scope.replace('.', "/"))
    }
}
