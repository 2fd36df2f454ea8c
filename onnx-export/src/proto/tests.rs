//! Tests that decoding and encoding a file keeps every field of `onnx.proto`, and that other fields are rejected.

use std::collections::BTreeMap;

use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};

use super::*;
use crate::encoding::{field, nested, varint};

/// All messages of `onnx.proto` (ONNX IR version 14) with the numbers and types of their fields. A `*` marks a
/// repeated field, `text` is a string or bytes.
const ONNX: &str = "
Model: 1 int, 2 text, 3 text, 4 text, 5 int, 6 text, 7 Graph, 8 *Opset, 14 *Entry, 20 *Training, 25 *Function, 26 *Devices
Opset: 1 text, 2 int
Entry: 1 text, 2 text
Training: 1 Graph, 2 Graph, 3 *Entry, 4 *Entry
Function: 1 text, 4 *text, 5 *text, 6 *text, 7 *Node, 8 text, 9 *Opset, 10 text, 11 *Attribute, 12 *Value, 13 text, 14 *Entry
Devices: 1 text, 2 int, 3 *text
Graph: 1 *Node, 2 text, 5 *Tensor, 10 text, 11 *Value, 12 *Value, 13 *Value, 14 *Annotation, 15 *Sparse, 16 *Entry
Node: 1 *text, 2 *text, 3 text, 4 text, 5 *Attribute, 6 text, 7 text, 8 text, 9 *Entry, 10 *NodeDevices
NodeDevices: 1 text, 2 *Sharding, 3 int
Sharding: 1 text, 2 *int, 3 *Group, 4 *ShardedDim
Group: 1 int, 2 *int
ShardedDim: 1 int, 2 *Shard
Shard: 1 int, 2 text, 3 int
Attribute: 1 text, 2 float, 3 int, 4 text, 5 Tensor, 6 Graph, 7 *float, 8 *int, 9 *text, 10 *Tensor, 11 *Graph, 13 text, 14 Type, 15 *Type, 20 int, 21 text, 22 Sparse, 23 *Sparse
Tensor: 1 *int, 2 int, 3 Segment, 4 *float, 5 *int, 6 *text, 7 *int, 8 text, 9 text, 10 *double, 11 *int, 12 text, 13 *Entry, 14 int, 16 *Entry
Sparse: 1 Tensor, 2 Tensor, 3 *int
Segment: 1 int, 2 int
Value: 1 text, 2 Type, 3 text, 4 *Entry
Type: 1 Dense, 4 Inner, 5 Map, 6 text, 7 Opaque, 8 Dense, 9 Inner
Dense: 1 int, 2 Shape
Shape: 1 *Dim
Dim: 1 int, 2 text, 3 text
Inner: 1 Type
Map: 1 int, 2 Type
Opaque: 1 text, 2 text
Annotation: 1 text, 2 *Entry
";

/// The type of a field: `int`, `text`, `float`, `double` or the name of a message.
#[derive(Clone, Copy)]
struct Type {
    name: &'static str,
    is_list: bool,
}

impl Type {
    fn is_message(self) -> bool {
        self.name.starts_with(char::is_uppercase)
    }
}

/// Returns the fields of `message` in [`ONNX`] by number.
fn fields(message: &str) -> BTreeMap<u32, Type> {
    let mut lines = ONNX.lines().filter_map(|line| line.split_once(": "));
    let (_, fields) = lines.find(|(name, _)| *name == message).unwrap();
    let fields = fields.split(", ").map(|field| {
        let (number, kind) = field.split_once(' ').unwrap();
        let name = kind.trim_start_matches('*');
        let is_list = name != kind;
        (number.parse().unwrap(), Type { name, is_list })
    });
    fields.collect()
}

/// Returns the path of every field that holds no message, as field numbers from the outermost message on, and the
/// encoded field. A path ends at the second message of one type, which is left empty. Numbers in lists are `packed`.
fn leaves(message: &'static str, outer: &[&'static str], packed: bool) -> Vec<(Vec<u32>, Vec<u8>)> {
    let outer = [outer, &[message]].concat();
    let mut found = Vec::new();
    for (number, kind) in fields(message) {
        if kind.is_message() && !outer.contains(&kind.name) {
            for (mut path, leaf) in leaves(kind.name, &outer, packed) {
                path.insert(0, number);
                found.push((path, leaf));
            }
        } else {
            found.push((Vec::new(), leaf(number, kind, packed)));
        }
    }
    found
}

/// Returns an encoded field with one value, or with two if the field is a list.
fn leaf(number: u32, kind: Type, packed: bool) -> Vec<u8> {
    let (wire_type, values) = match kind.name {
        "int" => (0, vec![varint(5), varint(300)]),
        "float" => (5, [1.5_f32, -2.0].map(|v| v.to_le_bytes().to_vec()).into()),
        "double" => (1, [1.5_f64, -2.0].map(|v| v.to_le_bytes().to_vec()).into()),
        "text" => (
            2,
            [&b"\x04text"[..], b"\x02\x08\x01"]
                .map(<[u8]>::to_vec)
                .into(),
        ),
        _ => (2, vec![vec![0], vec![0]]),
    };
    let count = if kind.is_list { 2 } else { 1 };
    if packed && kind.is_list && wire_type != 2 {
        return field(number, &values.concat());
    }
    let key = varint(u64::from(number << 3 | wire_type));
    let values = values.iter().take(count);
    values
        .flat_map(|value| [&key[..], value].concat())
        .collect()
}

/// A message without regard to the order of its fields and the packing of numbers.
type Tree = BTreeMap<u32, Vec<Item>>;

#[derive(Debug, PartialEq)]
enum Item {
    Number(Vec<u8>),
    Text(Vec<u8>),
    Message(Tree),
}

fn tree(message: &str, mut bytes: &[u8]) -> Tree {
    let kinds = fields(message);
    let mut tree = Tree::new();
    while !bytes.is_empty() {
        let (number, wire_type) = decode_key(&mut bytes).unwrap();
        let kind = kinds[&number];
        let items = tree.entry(number).or_default();
        if wire_type != WireType::LengthDelimited {
            items.push(number_of(kind, &mut bytes));
            continue;
        }
        let length = decode_varint(&mut bytes).unwrap() as usize;
        let (mut content, rest) = bytes.split_at(length);
        bytes = rest;
        if kind.is_message() {
            items.push(Item::Message(self::tree(kind.name, content)));
        } else if kind.name == "text" {
            items.push(Item::Text(content.to_vec()));
        } else {
            while !content.is_empty() {
                items.push(number_of(kind, &mut content));
            }
        }
    }
    tree
}

/// Reads a number of the type `kind`.
fn number_of(kind: Type, bytes: &mut &[u8]) -> Item {
    let length = match kind.name {
        "int" => return Item::Number(varint(decode_varint(bytes).unwrap())),
        "float" => 4,
        _ => 8,
    };
    Item::Number(bytes.split_off(..length).unwrap().to_vec())
}

/// Decodes and encodes a file, and checks that no field is lost.
fn check(file: &[u8], what: &dyn std::fmt::Debug) {
    assert_eq!(reject_unknown_fields(file), Ok(()), "{what:?}");
    let again = ModelProto::decode(file).unwrap().encode_to_vec();
    assert_eq!(tree("Model", &again), tree("Model", file), "{what:?}");
}

#[test]
fn every_field_of_onnx_survives_alone() {
    for packed in [false, true] {
        let leaves = leaves("Model", &[], packed);
        assert!(leaves.len() > 500, "{}", leaves.len());
        for (path, leaf) in leaves {
            check(&nested(&path, leaf.clone()), &(path, leaf));
        }
    }
}

#[test]
fn all_fields_of_onnx_survive_in_one_file() {
    const GRAPH: u32 = 7;
    let (mut model, mut graph) = (Vec::new(), Vec::new());
    for (path, leaf) in leaves("Model", &[], false) {
        match path.split_first() {
            Some((&GRAPH, path)) => graph.extend(nested(path, leaf)),
            _ => model.extend(nested(&path, leaf)),
        }
    }
    model.extend(field(GRAPH, &graph));
    check(&model, &"all fields");
}

#[test]
fn fields_of_later_versions_survive_in_encoded_messages() {
    let paths: [&[u32]; 6] = [
        &[25],
        &[20, 1],
        &[7, 1, 5, 6, 1],
        &[7, 15, 1],
        &[7, 16],
        &[7, 11, 2, 4, 1],
    ];
    for path in paths {
        let file = nested(path, field(37, b"later"));
        assert_eq!(reject_unknown_fields(&file), Ok(()), "{path:?}");
        let again = ModelProto::decode(&file[..]).unwrap().encode_to_vec();
        assert_eq!(again, file, "{path:?}");
    }
}

#[test]
fn other_fields_are_rejected_with_their_path() {
    let places: [(&[u32], &str); 15] = [
        (&[], "the model"),
        (&[8], "opset_import[0]"),
        (&[14], "metadata_props[0]"),
        (&[7], "graph"),
        (&[7, 1], "graph.node[0]"),
        (&[7, 1, 5], "graph.node[0].attribute[0]"),
        (&[7, 1, 5, 5], "graph.node[0].attribute[0].t"),
        (&[7, 5], "graph.initializer[0]"),
        (&[7, 5, 13], "graph.initializer[0].external_data[0]"),
        (&[7, 11], "graph.input[0]"),
        (&[7, 12, 2], "graph.output[0].type"),
        (&[7, 13, 2, 1], "graph.value_info[0].type.tensor_type"),
        (&[7, 11, 2, 1, 2], "graph.input[0].type.tensor_type.shape"),
        (
            &[7, 11, 2, 1, 2, 1],
            "graph.input[0].type.tensor_type.shape.dim[0]",
        ),
        (
            &[7, 12, 2, 1, 2, 1],
            "graph.output[0].type.tensor_type.shape.dim[0]",
        ),
    ];
    // A field of each wire type, and a number of more than two bytes.
    let unknown = [
        (37, field(37, b"later")),
        (30, [varint(30 << 3), varint(1)].concat()),
        (31, [varint(31 << 3 | 5), vec![0; 4]].concat()),
        (32, [varint(32 << 3 | 1), vec![0; 8]].concat()),
        (100_000, field(100_000, b"")),
    ];
    for (numbers, path) in places {
        for (number, bytes) in &unknown {
            let expected = UnknownFieldError::Unknown {
                path: path.to_owned(),
                field: *number,
            };
            let file = nested(numbers, bytes.clone());
            assert_eq!(reject_unknown_fields(&file), Err(expected));
        }
    }
    let message = reject_unknown_fields(&field(37, b"")).unwrap_err();
    assert_eq!(
        message.to_string(),
        "field 37 of the model is unknown to this version of Sightline, and rewriting the file would lose it; \
         export the model without this field, or use a version of Sightline that knows it"
    );
}

#[test]
fn paths_have_the_names_of_nodes_attributes_and_tensors() {
    let unknown = field(37, b"");
    let pads = [field(5, &unknown), field(1, b"pads")].concat();
    let node = |name: &[u8]| {
        let attributes = [field(5, &field(1, b"group")), field(5, &pads)].concat();
        [field(3, name), attributes].concat()
    };
    let graph = |name: &[u8]| field(7, &[field(1, b""), field(1, &node(name))].concat());
    let path = |file: &[u8]| match reject_unknown_fields(file) {
        Err(UnknownFieldError::Unknown { path, .. }) => path,
        other => panic!("{other:?}"),
    };
    let of = |name| format!("graph.node[1] \"{name}\".attribute[1] \"pads\".t");
    assert_eq!(path(&graph(b"conv1")), of("conv1"));
    assert_eq!(path(&graph(b"\x1b[2J\n")), of("\\u001b[2J\\n"));
    assert!(path(&graph(&vec![b'x'; 200_000])).len() < 200);
}

#[test]
fn two_values_in_place_of_one_are_rejected() {
    let (size, name) = ([varint(1 << 3), varint(5)].concat(), field(2, b"height"));
    let dimension: &[u32] = &[7, 11, 2, 1, 2, 1];
    let cases: [(&[u32], Vec<u8>, u32); 5] = [
        (dimension, [&name[..], &size].concat(), 1),
        (dimension, [&size[..], &size].concat(), 1),
        (&[7, 11, 2], [field(1, b""), field(4, b"")].concat(), 4),
        (&[7, 1, 5], [field(6, b""), field(6, b"")].concat(), 6),
        (&[7, 5], [field(3, b""), field(3, b"")].concat(), 3),
    ];
    for (path, values, second) in cases {
        let result = reject_unknown_fields(&nested(path, values));
        assert!(
            matches!(result, Err(UnknownFieldError::TwoValues { field, .. }) if field == second),
            "{path:?}: {result:?}"
        );
    }
    assert!(matches!(
        reject_unknown_fields(b"not protobuf"),
        Err(UnknownFieldError::Malformed(_))
    ));
}
