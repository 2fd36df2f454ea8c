//! Reads what an ONNX file states about its network: inputs, outputs, operators, and texts.
//!
//! The file is from an unknown author, and nothing in it is executed. The reader walks over the
//! encoded file, skips the elements of tensors, and keeps a bounded number of short texts.
//!
//! Not here: shapes that the file does not state, and the judgment whether a network can be served.

mod nodes;
mod port;

use std::collections::{BTreeMap, HashSet};

use thiserror::Error;

use crate::wire::{ProtobufError, Reader, Value};
pub use nodes::MAX_OPERATORS;
pub use port::{Axis, Port, TensorType, data_type_name};

/// Maximum number of characters of a text that a [`Summary`] keeps.
const MAX_TEXT: usize = 256;
/// Maximum number of texts in [`Summary::texts`].
const MAX_TEXTS: usize = 64;
/// Maximum number of characters of a description or metadata value in [`Summary::texts`].
const MAX_DESCRIPTION: usize = 4096;
/// Maximum number of operator sets in [`Summary::opsets`].
const MAX_OPSETS: usize = 64;
/// Maximum number of inputs and of outputs in a [`Summary`].
const MAX_PORTS: usize = 1 << 16;

/// What an ONNX file states about its network. Texts are not escaped, and are cut to 256 characters, or to 4096 in `texts`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Version of the ONNX IR specification.
    pub ir_version: i64,
    /// Name and version of the tool that wrote the file; empty if the file does not state it.
    pub producer: String,
    /// Domain and version of each operator set; the domain of ONNX's own operators is empty.
    pub opsets: Vec<(String, i64)>,
    /// Number of elements of all initializers, except those of data type int64, bool and string,
    /// which hold shapes and options rather than weights.
    pub parameters: u64,
    /// Inputs of the network, without those that are initializers.
    pub inputs: Vec<Port>,
    /// Outputs of the network.
    pub outputs: Vec<Port>,
    /// Number of nodes by operator, with the domain before the operator unless it is ONNX's own.
    /// At most [`MAX_OPERATORS`] operators.
    pub operators: BTreeMap<String, u64>,
    /// Number of nodes of the main graph.
    pub nodes: u64,
    /// Names, descriptions and metadata in which exporters describe the input, by the place where
    /// they are in the file: `(place, text)`.
    pub texts: Vec<(String, String)>,
}

/// The reason why a file has no [`Summary`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SummaryError {
    /// The bytes are not a protobuf message.
    #[error(transparent)]
    Malformed(#[from] ProtobufError),
    /// The file has no graph.
    #[error("not an ONNX file: expected a graph with nodes and outputs, got none")]
    NoGraph,
}

impl Summary {
    /// Reads the ONNX file `model`.
    ///
    /// # Errors
    /// [`SummaryError`] if the bytes are not a protobuf message with a graph. Damage inside of the
    /// graph is not an error: what follows the damage is missing from the summary.
    pub fn read(model: &[u8]) -> Result<Self, SummaryError> {
        let mut summary = Self::default();
        let mut version = String::new();
        let mut fields = Reader::new(model);
        while let Some((number, value)) = fields.next_field()? {
            match (number, value) {
                (1, Value::Varint(version)) => summary.ir_version = version.cast_signed(),
                (2, Value::Bytes(text)) => summary.producer = name(text),
                (3, Value::Bytes(text)) => version = name(text),
                (6, Value::Bytes(text)) => summary.add_text("the model's description", text),
                (8, Value::Bytes(opset)) => summary.add_opset(opset),
                (14, Value::Bytes(entry)) => summary.add_metadata(entry),
                _ => {}
            }
        }
        if !version.is_empty() {
            summary.producer = format!("{} {version}", summary.producer);
        }
        summary.read_graph(Reader::new(model));
        if summary.outputs.is_empty() || summary.nodes == 0 {
            return Err(SummaryError::NoGraph);
        }
        Ok(summary)
    }

    /// Reads the graph. Protobuf merges several messages of a field that has one message, so all
    /// graphs of the file are one.
    fn read_graph(&mut self, model: Reader<'_>) {
        let ports = |number| {
            let graphs = model.messages(7);
            let messages = graphs.flat_map(move |graph| graph.messages(number));
            messages.map(Port::read).take(MAX_PORTS)
        };
        self.inputs = ports(11).collect();
        self.outputs = ports(12).collect();
        for graph in model.messages(7) {
            for text in graph.messages(10) {
                self.add_text("the graph's description", text);
            }
        }
        self.read_initializers(model);
        for input in &self.inputs {
            if self.texts.len() < MAX_TEXTS {
                let place = format!("the input `{}`", crate::text::shown(&input.name));
                self.texts.push((place.clone(), input.name.clone()));
                self.texts.push((place, input.description.clone()));
            }
        }
        self.read_nodes(model);
    }

    /// Counts the parameters, and removes the inputs that are initializers: until version 3 of the
    /// IR, each initializer is an input, too.
    fn read_initializers(&mut self, model: Reader<'_>) {
        let mut initialized = HashSet::new();
        {
            let inputs: HashSet<&str> = self.inputs.iter().map(|i| i.name.as_str()).collect();
            for tensor in model.messages(7).flat_map(|graph| graph.messages(5)) {
                let (tensor_name, elements) = initializer(tensor);
                self.parameters = self.parameters.saturating_add(elements);
                if let Some(input) = inputs.get(tensor_name.as_str()) {
                    initialized.insert((*input).to_owned());
                }
            }
        }
        self.inputs
            .retain(|input| !initialized.contains(&input.name));
    }

    fn add_opset(&mut self, opset: Reader<'_>) {
        let (mut domain, mut version) = (String::new(), 0);
        for field in opset.fields() {
            match field {
                (1, Value::Bytes(text)) => domain = name(text),
                (2, Value::Varint(value)) => version = value.cast_signed(),
                _ => {}
            }
        }
        if self.opsets.len() < MAX_OPSETS {
            self.opsets.push((domain, version));
        }
    }

    fn add_metadata(&mut self, entry: Reader<'_>) {
        let key = entry.messages(1).last().map(name).unwrap_or_default();
        let place = format!("the metadata entry `{}`", crate::text::shown(&key));
        if let Some(value) = entry.messages(2).last() {
            self.add_text(&place, value);
        }
    }

    fn add_text(&mut self, place: &str, content: Reader<'_>) {
        if self.texts.len() < MAX_TEXTS {
            self.texts
                .push((place.to_owned(), text(content, MAX_DESCRIPTION)));
        }
    }
}

/// Returns the name of an initializer and its number of elements, which is 0 for data types that
/// hold no weights.
fn initializer(tensor: Reader<'_>) -> (String, u64) {
    let (mut elements, mut data_type, mut tensor_name) = (1_u64, 0, String::new());
    for field in tensor.fields() {
        match field {
            (1, Value::Varint(size)) => elements = elements.saturating_mul(size),
            (1, Value::Bytes(mut sizes)) => {
                while let Ok(size) = sizes.varint() {
                    elements = elements.saturating_mul(size);
                }
            }
            (2, Value::Varint(code)) => data_type = code,
            (8, Value::Bytes(content)) => tensor_name = name(content),
            _ => {}
        }
    }
    // `TensorProto.DataType`: int64 7, string 8, bool 9.
    let holds_weights = !matches!(data_type, 7..=9);
    (tensor_name, if holds_weights { elements } else { 0 })
}

/// Returns the text of a field, cut to [`MAX_TEXT`] characters.
fn name(content: Reader<'_>) -> String {
    text(content, MAX_TEXT)
}

/// Returns the text of a field, cut to `most` characters.
fn text(content: Reader<'_>, most: usize) -> String {
    let bytes = content.rest();
    // A character has at most 4 bytes, so the rest of a long text is not looked at.
    let bytes = &bytes[..bytes.len().min(4 * most)];
    let text = String::from_utf8_lossy(bytes);
    crate::text::cut(&text, most).to_owned()
}

#[cfg(test)]
mod tests;
