use prost::Message as _;

use super::*;
use crate::encoding::{field, nested, varint};
use crate::proto::{GraphProto, ModelProto, StringStringEntryProto, TensorProto};

/// Returns the encoded tensor `name` with the `data_location` EXTERNAL and the location of a file.
fn external(name: &str) -> Vec<u8> {
    let location = StringStringEntryProto {
        key: "location".to_owned(),
        value: "etc/passwd".to_owned(),
    };
    TensorProto {
        name: name.to_owned(),
        data_location: 1,
        external_data: vec![location],
        ..TensorProto::default()
    }
    .encode_to_vec()
}

#[test]
fn external_tensors_are_found_wherever_a_file_can_have_them() {
    let places: &[(&str, &[u32])] = &[
        ("initializer", &[7, 5]),
        ("values of a sparse initializer", &[7, 15, 1]),
        ("indices of a sparse initializer", &[7, 15, 2]),
        ("attribute `t`", &[7, 1, 5, 5]),
        ("attribute `tensors`", &[7, 1, 5, 10]),
        ("attribute `sparse_tensor`", &[7, 1, 5, 22, 1]),
        ("attribute `sparse_tensors`", &[7, 1, 5, 23, 2]),
        ("initializer of a subgraph", &[7, 1, 5, 6, 5]),
        ("initializer of one of several subgraphs", &[7, 1, 5, 11, 5]),
        (
            "attribute in two subgraphs",
            &[7, 1, 5, 6, 1, 5, 11, 1, 5, 5],
        ),
        ("node of a function", &[25, 7, 5, 5]),
        ("subgraph in a function", &[25, 7, 5, 6, 5]),
        ("default of a function's attribute", &[25, 11, 5]),
        ("training: initialization", &[20, 1, 5]),
        ("training: algorithm", &[20, 2, 1, 5, 5]),
    ];
    for (place, numbers) in places {
        let file = nested(numbers, external("w"));
        let message = reject_external_data(&file).unwrap_err().to_string();
        assert!(
            message.starts_with("the tensor `w` has its elements in another file"),
            "{place}: {message}"
        );
        let inside = TensorProto {
            name: "w".to_owned(),
            raw_data: external("not a message, but the elements of a tensor"),
            ..TensorProto::default()
        };
        let file = nested(numbers, inside.encode_to_vec());
        assert_eq!(reject_external_data(&file), Ok(()), "{place}");
    }
}

#[test]
fn a_location_without_the_flag_and_the_flag_without_a_location_are_external() {
    let flag = |value: u64| [varint(14 << 3), varint(value)].concat();
    let cases = [
        (field(13, b""), true),
        (flag(1), true),
        (flag(2), true),
        // Readers keep the lower 32 bits of an enum.
        (flag((1 << 32) + 1), true),
        (flag(u64::MAX), true),
        ([flag(1), flag(0)].concat(), true),
        (field(14, &[1]), true),
        (flag(0), false),
        (Vec::new(), false),
    ];
    for (tensor, expected) in cases {
        let result = reject_external_data(&nested(&[7, 5], tensor.clone()));
        assert_eq!(result.is_err(), expected, "{tensor:02x?}: {result:?}");
    }
}

#[test]
fn unknown_fields_hide_nothing() {
    let unknown = [
        field(999, b"junk"),
        // Wire types 0, 5 and 1.
        [varint(998 << 3), varint(u64::MAX)].concat(),
        [varint(997 << 3 | 5), vec![0xFF; 4]].concat(),
        [varint(996 << 3 | 1), vec![0xFF; 8]].concat(),
        // The field number of the graph, with the wire type of an integer.
        [varint(7 << 3), varint(5)].concat(),
    ]
    .concat();
    let tensor = [&unknown[..], &external("w"), &unknown].concat();
    let graph = [&unknown[..], &field(5, &tensor)].concat();
    // Readers merge the parts of a message that is repeated.
    let file = [unknown, field(7, b""), field(7, &graph)].concat();
    assert!(matches!(
        reject_external_data(&file),
        Err(ExternalDataError::External { .. })
    ));
}

#[test]
fn ambiguous_and_malformed_encodings_are_rejected() {
    let beyond = varint((1 << 32) + (7 << 3 | 2));
    let cases: &[(&str, Vec<u8>)] = &[
        ("not protobuf", b"not protobuf".to_vec()),
        ("a key of 33 bits", [beyond, vec![0]].concat()),
        ("field number 0", vec![0x02, 0x00]),
        ("a group", vec![0x3B, 0x3C]),
        ("the end of a group", vec![0x3C]),
        ("a wire type that does not exist", vec![0x3E]),
        ("a length beyond the end", vec![0x3A, 0x05, 0x00]),
        ("a length of 2^63", [vec![0x3A], varint(1 << 63)].concat()),
        (
            "an integer of 11 bytes",
            [vec![0x08], vec![0x80; 10], vec![0]].concat(),
        ),
        ("an integer without an end", vec![0x08, 0x80]),
        ("a truncated fixed value", vec![0x0D, 0, 0]),
        ("a truncated tensor", nested(&[7, 5], vec![0x4A, 0x05])),
    ];
    for (what, file) in cases {
        let result = reject_external_data(file);
        assert!(
            matches!(result, Err(ExternalDataError::Malformed { .. })),
            "{what}: {result:?}"
        );
    }
}

#[test]
fn nesting_is_bounded() {
    let subgraphs = |count: usize| {
        let numbers = [vec![7], [1, 5, 6].repeat(count), vec![5]].concat();
        nested(&numbers, external("w"))
    };
    assert!(matches!(
        reject_external_data(&subgraphs(32)),
        Err(ExternalDataError::External { .. })
    ));
    for count in [34, 1_000] {
        let result = reject_external_data(&subgraphs(count));
        assert_eq!(result, Err(ExternalDataError::TooDeep), "{count}");
    }
}

#[test]
fn errors_name_the_tensor_in_one_short_line() {
    let named = |name: &str| [field(1, name.as_bytes()), field(5, &external(""))].concat();
    let cases = [
        (
            nested(&[7, 5], external("\u{1b}[2Jw\n")),
            "the tensor `\\u001b[2Jw\\n` has",
        ),
        (
            nested(&[7, 1, 5], named("value")),
            "a tensor in the attribute `value` has",
        ),
        (nested(&[7, 5], external("")), "a tensor without a name has"),
    ];
    for (file, expected) in cases {
        let message = reject_external_data(&file).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
        assert!(message.contains("external_data=False"), "{message}");
    }
    let long = nested(&[7, 5], external(&"w".repeat(200_000)));
    let message = reject_external_data(&long).unwrap_err().to_string();
    assert!(message.len() < 600, "{}", message.len());
}

#[test]
fn files_of_this_crate_pass() {
    let tensor = TensorProto {
        name: "w".to_owned(),
        dims: vec![2, -1],
        raw_data: vec![0xFF; 8],
        ..TensorProto::default()
    };
    let graph = GraphProto {
        initializer: vec![tensor],
        ..GraphProto::default()
    };
    let file = ModelProto {
        ir_version: 8,
        graph: Some(graph),
        ..ModelProto::default()
    };
    assert_eq!(reject_external_data(&file.encode_to_vec()), Ok(()));
    assert_eq!(reject_external_data(b""), Ok(()));
}

#[test]
fn files_with_very_many_fields_are_rejected() {
    // A node without content has two bytes, but takes 200 bytes when it is decoded.
    let nodes = |count| field(7, &field(1, &[]).repeat(count));
    assert_eq!(reject_external_data(&nodes(MAX_FIELDS - 1)), Ok(()));
    let error = reject_external_data(&nodes(MAX_FIELDS));
    assert_eq!(error, Err(ExternalDataError::TooManyFields));
}
