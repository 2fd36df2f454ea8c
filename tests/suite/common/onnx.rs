//! Writes small ONNX models that the exporter would not write, as protobuf without a schema.

use std::fs;
use std::path::Path;

/// An encoded protobuf message.
#[derive(Clone, Default)]
pub struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn int(mut self, tag: u64, value: i64) -> Self {
        self.varint(tag << 3);
        self.varint(value as u64);
        self
    }

    /// Appends the field `tag` with `bytes` as its value: a text, byte string or message.
    pub fn bytes(mut self, tag: u64, bytes: &[u8]) -> Self {
        self.varint(tag << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// Returns the encoded message.
    pub fn encoded(self) -> Vec<u8> {
        self.0
    }

    fn text(self, tag: u64, text: &str) -> Self {
        self.bytes(tag, text.as_bytes())
    }

    fn all<'a>(self, tag: u64, parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let add = |message: Self, part: &Self| message.bytes(tag, &part.0);
        parts.into_iter().fold(self, add)
    }
}

/// Codes of ONNX's data types.
pub const FLOAT: i64 = 1;
pub const INT64: i64 = 7;
pub const BOOL: i64 = 9;

/// Returns a `ValueInfoProto` of the tensor `name`. A size of 0 stands for a dynamic axis.
pub fn value(name: &str, data_type: i64, shape: &[i64]) -> Message {
    let axis = |(index, size): (usize, &i64)| match size {
        0 => Message::default().text(2, &format!("axis_{index}")),
        size => Message::default().int(1, *size),
    };
    let axes: Vec<Message> = shape.iter().enumerate().map(axis).collect();
    let shape = Message::default().all(1, &axes);
    let tensor = Message::default().int(1, data_type).bytes(2, &shape.0);
    let kind = Message::default().bytes(1, &tensor.0);
    Message::default().text(1, name).bytes(2, &kind.0)
}

/// Returns a `TensorProto` of the constant `name`.
pub fn constant(name: &str, data_type: i64, shape: &[i64], elements: &[u8]) -> Message {
    let dims = shape.iter();
    let tensor = dims.fold(Message::default(), |message, size| message.int(1, *size));
    tensor.int(2, data_type).text(8, name).bytes(9, elements)
}

/// Returns a constant of data type float32.
pub fn floats(name: &str, shape: &[i64], values: &[f32]) -> Message {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    constant(name, FLOAT, shape, &bytes)
}

/// Returns a constant of data type int64.
pub fn integers(name: &str, shape: &[i64], values: &[i64]) -> Message {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    constant(name, INT64, shape, &bytes)
}

/// Returns a `NodeProto`. `inputs` and `outputs` are names, separated by spaces; `-` stands for an operand that is left
/// out.
pub fn node(op: &str, inputs: &str, outputs: &str, attributes: &[Message]) -> Message {
    let names = |message: Message, tag: u64, names: &str| {
        let names = names.split_whitespace();
        names.fold(message, |message, name| {
            message.text(tag, name.trim_matches('-'))
        })
    };
    let node = names(names(Message::default(), 1, inputs), 2, outputs);
    node.text(4, op).all(5, attributes)
}

/// Returns the attribute `name` with the integer `value`.
pub fn int(name: &str, value: i64) -> Message {
    Message::default().text(1, name).int(3, value).int(20, 2)
}

/// Returns the attribute `name` with the graph `value`.
pub fn graph_attribute(name: &str, value: &Message) -> Message {
    let attribute = Message::default().text(1, name);
    attribute.bytes(6, &value.0).int(20, 5)
}

/// Returns a `GraphProto`.
pub fn graph(
    nodes: &[Message],
    constants: &[Message],
    inputs: &[Message],
    outputs: &[Message],
) -> Message {
    let graph = Message::default().all(1, nodes).text(2, "graph");
    graph.all(5, constants).all(11, inputs).all(12, outputs)
}

/// Writes the classification model `name` of three classes into the folder `models/name`. Its network reads images of
/// 8x8 pixels with values in 0..1.
pub fn write_model(models: &Path, name: &str, graph: &Message) {
    let folder = models.join(name);
    fs::create_dir_all(&folder).unwrap();
    let opset = Message::default().text(1, "").int(2, 17);
    let model = Message::default().int(1, 8).bytes(7, &graph.0);
    fs::write(folder.join("model.onnx"), model.bytes(8, &opset.0).0).unwrap();
    fs::write(folder.join("labels.txt"), "one\ntwo\nthree\n").unwrap();
    let manifest = format!(
        r#"
        name = "{name}"
        task = "classification"
        description = "A network of a test"
        stages = [{{ role = "network", file = "model.onnx" }}]
        labels = "labels.txt"
        [preprocess]
        resize = {{ mode = "short_side", size = 8, filter = "bilinear" }}
        crop = 8
        mean = [0.0, 0.0, 0.0]
        std = [1.0, 1.0, 1.0]
        "#
    );
    fs::write(folder.join("model.toml"), manifest).unwrap();
}
