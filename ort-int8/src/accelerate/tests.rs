//! Tests of `accelerate` on small graphs, in ONNX Runtime.

use onnx_export::graph::Attr;
use onnx_export::proto::{
    AttributeProto, DimensionProto, FLOAT, GraphProto, INT8, INT32, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, UINT8, ValueInfoProto,
};

use super::*;
use crate::kernels::Isa;
use crate::test_library;

fn tensor(name: &str, data_type: i32, dims: &[i64], raw_data: Vec<u8>) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        data_type,
        dims: dims.to_vec(),
        raw_data,
        ..TensorProto::default()
    }
}

fn scale(name: &str, scale: f32) -> TensorProto {
    tensor(name, FLOAT, &[], scale.to_le_bytes().to_vec())
}

fn node(domain: &str, op: &str, inputs: &str, output: &str) -> NodeProto {
    NodeProto {
        op_type: op.to_owned(),
        domain: domain.to_owned(),
        name: output.to_owned(),
        input: inputs.split(' ').map(str::to_owned).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

fn value(name: &str, dims: &[Option<i64>]) -> ValueInfoProto {
    let dim = dims.iter().enumerate().map(|(axis, size)| DimensionProto {
        dim_value: *size,
        dim_param: size.is_none().then(|| format!("{name}_{axis}")),
        ..DimensionProto::default()
    });
    let tensor_type = TensorTypeProto {
        elem_type: FLOAT,
        shape: Some(TensorShapeProto { dim: dim.collect() }),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            tensor_type: Some(tensor_type),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

/// Returns an optimized int8 graph of quantization, a pointwise convolution, a hard swish, and
/// dequantization. `dims` is the shape of the graph's input; `None` is a dynamic size.
fn graph(dims: &[Option<i64>]) -> ModelProto {
    let mut gate = node("com.microsoft", "QLinearConcat", "g z conv r z", "gate");
    gate.attribute = vec![AttributeProto::new("axis", &Attr::Int(1))];
    let graph = GraphProto {
        name: "small".to_owned(),
        node: vec![
            node("", "QuantizeLinear", "images s z", "x"),
            node("", "QLinearConv", "x s z w ws wz s z", "conv"),
            gate,
            node(
                "com.microsoft",
                "QLinearMul",
                "conv s z gate g z s z",
                "swish",
            ),
            node("", "DequantizeLinear", "swish s z", "out"),
        ],
        initializer: vec![
            scale("s", 0.02),
            scale("g", 1.0 / 255.0),
            scale("r", 0.02 / 6.0),
            tensor("z", UINT8, &[], vec![150]),
            tensor("w", INT8, &[8, 3, 1, 1], (0..24).map(|i| i * 5).collect()),
            scale("ws", 0.01),
            tensor("wz", INT8, &[], vec![0]),
        ],
        input: vec![value("images", dims)],
        output: vec![value("out", &[None; 4])],
        ..GraphProto::default()
    };
    let opset = |domain: &str, version| OperatorSetIdProto {
        domain: domain.to_owned(),
        version,
    };
    ModelProto {
        ir_version: 8,
        graph: Some(graph),
        opset_import: vec![opset("", 17), opset("com.microsoft", 1)],
        ..ModelProto::default()
    }
}

/// Maximum number of elements of a compared input: slightly more than an image of 1224 x 1224
/// pixels with three channels has.
const MAX_INPUT: usize = 3 * 1_500_000;
const DYNAMIC: [Option<i64>; 4] = [None, Some(3), None, None];

fn builder() -> ort::Result<SessionBuilder> {
    let builder = Session::builder(&test_library::load())?;
    Ok(builder.with_intra_threads(1)?)
}

fn accelerated(model: &ModelProto) -> Result<Option<Accelerated>, AccelerateError> {
    accelerate(&model.encode_to_vec(), MAX_INPUT, builder)
}

#[test]
fn a_hard_swish_is_replaced_and_compared() {
    let accelerated = accelerated(&graph(&DYNAMIC)).unwrap().unwrap();
    assert_eq!(accelerated.operator_count, 1);
    let model = ModelProto::decode(&accelerated.model[..]).unwrap();
    let operators = model.graph.unwrap().node;
    assert!(operators.iter().any(|node| node.op_type == "Lookup"));
}

#[test]
fn fully_connected_layers_are_replaced_and_compared() {
    let mut model = graph(&DYNAMIC);
    let graph = model.graph.as_mut().unwrap();
    let gemm = |inputs, output| {
        let mut gemm = node("com.microsoft", "QGemm", inputs, output);
        gemm.attribute = vec![AttributeProto::new("transB", &Attr::Int(1))];
        gemm
    };
    let mut pool = node(
        "com.microsoft",
        "QLinearGlobalAveragePool",
        "swish s z s z",
        "pool",
    );
    pool.attribute = vec![AttributeProto::new("channels_last", &Attr::Int(0))];
    let layers = [
        pool,
        node("", "Flatten", "pool", "features"),
        gemm("features s z w1 s1 z1 b1 s z", "hidden"),
        gemm("hidden s z w2 s2 z2 b2", "out"),
    ];
    graph.node.splice(4.., layers);
    for (layer, inputs, outputs) in [(1, 8, 40), (2, 40, 72)] {
        let name = |name: &str| format!("{name}{layer}");
        let weights = (0..inputs * outputs).map(|index| (index * 37 % 251) as u8);
        let scales = (0..outputs).flat_map(|index| (0.001 + index as f32 * 1e-4).to_le_bytes());
        let bias = (0..outputs).flat_map(|index| (index as i32 * 99 - 2000).to_le_bytes());
        let (rows, columns) = (outputs as i64, inputs as i64);
        graph.initializer.extend([
            tensor(&name("w"), INT8, &[rows, columns], weights.collect()),
            tensor(&name("s"), FLOAT, &[rows], scales.collect()),
            tensor(&name("z"), INT8, &[rows], vec![0; outputs]),
            tensor(&name("b"), INT32, &[rows], bias.collect()),
        ]);
    }
    graph.output = vec![value("out", &[None, Some(72)])];
    let accelerated = accelerated(&model).unwrap().unwrap();
    let count = if Isa::detect().is_avx512() { 3 } else { 1 };
    assert_eq!(accelerated.operator_count, count);
    // No rows, a few, and as many as two threads share.
    for rows in [0, 1, 2, 5, 8, 8000] {
        let results = [&model.encode_to_vec(), &accelerated.model].map(|model| {
            let builder = builder().unwrap();
            let builder = builder
                .with_operators(crate::operators(2).unwrap())
                .unwrap();
            let builder = builder.with_intra_threads(2).unwrap();
            let builder = builder.with_optimization_level(GraphOptimizationLevel::Disable);
            let mut session = builder.unwrap().commit_from_memory(model).unwrap();
            let values: Vec<f32> = uniform(3).take(rows * 3 * 4).collect();
            let images = Tensor::from_array(([rows, 3, 2, 2], values)).unwrap();
            let outputs = session.run([SessionInputValue::from(images)]).unwrap();
            let (shape, values) = outputs[0].try_extract_tensor::<f32>().unwrap();
            let bits: Vec<u32> = values.iter().map(|value| value.to_bits()).collect();
            (shape.to_vec(), bits)
        });
        assert!(results[0] == results[1], "{rows}");
    }
}

#[test]
fn fp32_models_are_not_changed() {
    let mut model = graph(&DYNAMIC);
    let graph = model.graph.as_mut().unwrap();
    graph.node = vec![node("", "Relu", "images", "out")];
    assert_eq!(accelerated(&model).unwrap(), None);
}

#[test]
fn different_results_are_an_error() {
    test_library::load();
    let mut other = graph(&DYNAMIC);
    let graph = other.graph.as_mut().unwrap();
    graph.initializer[4].raw_data[0] = 99;
    let session = |model: &ModelProto| {
        let mut builder = builder().unwrap();
        builder.commit_from_memory(&model.encode_to_vec()).unwrap()
    };
    let error = compare(session(&self::graph(&DYNAMIC)), session(&other), MAX_INPUT).unwrap_err();
    let expected = "for an input of shape [1, 3, 128, 128]";
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn inputs_of_fixed_size_are_compared_in_that_size() {
    let fixed = [Some(1), Some(3), Some(5), Some(7)];
    assert!(accelerated(&graph(&fixed)).unwrap().is_some());
    let session = builder()
        .unwrap()
        .commit_from_memory(&graph(&fixed).encode_to_vec());
    assert_eq!(sample_shape(&session.unwrap(), SAMPLES[1]), [1, 3, 5, 7]);
    let large = accelerated(&graph(&[Some(1), Some(3), Some(2000), Some(2000)])).unwrap_err();
    assert!(
        matches!(large, AccelerateError::LargeInput { .. }),
        "{large}"
    );
}

#[test]
fn bytes_that_are_not_onnx_are_an_error() {
    let error = accelerate(b"\xff\xff", MAX_INPUT, builder).unwrap_err();
    assert!(matches!(error, AccelerateError::Read(_)), "{error}");
}
