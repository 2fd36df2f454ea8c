//! The messages on the wire: the numbers of their fields, and bytes that are not copied.

use bytes::Bytes;
use open_inference::infer_parameter::ParameterChoice;
use open_inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use open_inference::model_infer_response::InferOutputTensor;
use open_inference::{
    DESCRIPTORS, InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
    SERVICE,
};
use prost::Message;

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter {
        parameter_choice: Some(choice),
    }
}

fn request() -> ModelInferRequest {
    ModelInferRequest {
        model_name: "m".to_owned(),
        model_version: "1".to_owned(),
        id: "7".to_owned(),
        parameters: [
            (
                "priority".to_owned(),
                parameter(ParameterChoice::Uint64Param(1)),
            ),
            (
                "timeout".to_owned(),
                parameter(ParameterChoice::Int64Param(-1)),
            ),
        ]
        .into(),
        inputs: vec![InferInputTensor {
            name: "image".to_owned(),
            datatype: "BYTES".to_owned(),
            shape: vec![1, -1],
            parameters: [("b".to_owned(), parameter(ParameterChoice::BoolParam(true)))].into(),
            contents: Some(InferTensorContents {
                fp32_contents: vec![0.5],
                bytes_contents: vec![Bytes::from_static(b"x")],
                ..InferTensorContents::default()
            }),
        }],
        outputs: vec![InferRequestedOutputTensor {
            name: "scores".to_owned(),
            parameters: [(
                "d".to_owned(),
                parameter(ParameterChoice::DoubleParam(0.25)),
            )]
            .into(),
        }],
        raw_input_contents: vec![Bytes::from_static(b"raw")],
    }
}

#[test]
fn requests_and_responses_survive_the_wire() {
    let request = request();
    assert_eq!(
        ModelInferRequest::decode(&*request.encode_to_vec()).unwrap(),
        request
    );
    let response = ModelInferResponse {
        model_name: "m".to_owned(),
        model_version: "1".to_owned(),
        id: "7".to_owned(),
        outputs: vec![InferOutputTensor {
            name: "scores".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1, 1000],
            ..InferOutputTensor::default()
        }],
        raw_output_contents: vec![Bytes::from_static(&[0; 16])],
        ..ModelInferResponse::default()
    };
    assert_eq!(
        ModelInferResponse::decode(&*response.encode_to_vec()).unwrap(),
        response
    );
}

/// The bytes follow from the numbers of the protocol, written by hand: a key is `number << 3 | wire type`.
#[test]
fn fields_have_the_numbers_of_the_protocol() {
    let wire = [
        &[0x0a, 1, b'm'][..],
        &[0x12, 1, b'1'],
        &[0x1a, 1, b'7'],
        // parameters: the entry "p" with int64_param 5.
        &[0x22, 7, 0x0a, 1, b'p', 0x12, 2, 0x10, 5],
        // inputs: name, datatype, shape [2] and contents with fp32_contents [1.0].
        &[0x2a, 17, 0x0a, 1, b'i', 0x12, 1, b't', 0x1a, 1, 2],
        &[0x2a, 6, 0x32, 4, 0, 0, 0x80, 0x3f],
        // outputs: the name.
        &[0x32, 3, 0x0a, 1, b'o'],
        &[0x3a, 2, 0xff, 0xfe],
    ]
    .concat();
    let request = ModelInferRequest::decode(&*wire).unwrap();
    assert_eq!(request.model_name, "m");
    assert_eq!(request.model_version, "1");
    assert_eq!(request.id, "7");
    let value = request.parameters["p"].parameter_choice.clone();
    assert_eq!(value, Some(ParameterChoice::Int64Param(5)));
    let input = &request.inputs[0];
    assert_eq!((&*input.name, &*input.datatype), ("i", "t"));
    assert_eq!(input.shape, [2]);
    let contents = input.contents.as_ref().unwrap();
    assert_eq!(contents.fp32_contents, [1.0]);
    assert_eq!(request.outputs[0].name, "o");
    assert_eq!(request.raw_input_contents, [&b"\xff\xfe"[..]]);
}

#[test]
fn raw_elements_share_the_memory_of_the_message() {
    let message = Bytes::from(
        ModelInferRequest {
            raw_input_contents: vec![Bytes::from(vec![7; 4096])],
            ..ModelInferRequest::default()
        }
        .encode_to_vec(),
    );
    let memory = message.as_ptr_range();
    let request = ModelInferRequest::decode(message.clone()).unwrap();
    assert!(memory.contains(&request.raw_input_contents[0].as_ptr()));
}

#[test]
fn the_descriptors_have_the_service() {
    let name = SERVICE.rsplit('.').next().unwrap();
    let found = DESCRIPTORS
        .windows(name.len())
        .any(|part| part == name.as_bytes());
    assert!(found);
}
