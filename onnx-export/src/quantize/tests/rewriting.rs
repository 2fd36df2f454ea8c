//! Tests of the int8 graphs of small networks.

use super::*;

/// Returns the scale of a value in the int8 graph.
fn scale(graph: &GraphProto, value: &str) -> f32 {
    f32_values(graph, &format!("{value}_s"))[0]
}

/// Returns the number of nodes of `graph` with the operator `op`.
fn count(graph: &GraphProto, op: &str) -> usize {
    graph.node.iter().filter(|node| node.op_type == op).count()
}

#[test]
fn a_small_network_node_by_node() {
    let mut b = Builder::new();
    let x = b.conv("stem", b.images, Conv::new(8, 3));
    let x = b.graph.relu(x);
    let x = b.conv("body", x, Conv::depthwise(8, 3));
    let x = b.hard_swish(x);
    let logits = b.classify(x);
    let network = b.finish(&[(logits, "logits")]);
    let graph = quantized(&network, &recipe(&network, &["/stem/Conv"]), Target::Vnni);
    let expected = "\
/stem/Conv_output = Conv(images)
/stem/Relu_output = Relu(/stem/Conv_output)
/stem/Relu_output_q = QuantizeLinear(/stem/Relu_output)
/stem/Relu_output_dq = DequantizeLinear(/stem/Relu_output_q)
body.weight_dq = DequantizeLinear()
/body/Conv_bias_dq = DequantizeLinear()
/body/Conv_output = Conv(/stem/Relu_output_dq, body.weight_dq, /body/Conv_bias_dq)
/body/Conv_output_q = QuantizeLinear(/body/Conv_output)
/body/Conv_output_dq = DequantizeLinear(/body/Conv_output_q)
/body/HardSigmoid_output_read = DequantizeLinear(/body/Conv_output_q)
/body/HardSigmoid_output = Concat(/body/HardSigmoid_output_read)
/body/HardSigmoid_output_q = QuantizeLinear(/body/HardSigmoid_output)
/body/HardSigmoid_output_dq = DequantizeLinear(/body/HardSigmoid_output_q)
/body/Mul_output = Mul(/body/Conv_output_dq, /body/HardSigmoid_output_dq)
/body/Mul_output_q = QuantizeLinear(/body/Mul_output)
/body/Mul_output_dq = DequantizeLinear(/body/Mul_output_q)
/body/ReduceMean_output = GlobalAveragePool(/body/Mul_output_dq)
/body/ReduceMean_output_q = QuantizeLinear(/body/ReduceMean_output)
/body/ReduceMean_output_dq = DequantizeLinear(/body/ReduceMean_output_q)
/body/Flatten_output = Flatten(/body/ReduceMean_output_dq)
/body/Flatten_output_q = QuantizeLinear(/body/Flatten_output)
/body/Flatten_output_dq = DequantizeLinear(/body/Flatten_output_q)
fc.weight_dq = DequantizeLinear()
/fc/Gemm_bias_dq = DequantizeLinear()
logits = Gemm(/body/Flatten_output_dq, fc.weight_dq, /fc/Gemm_bias_dq)
";
    assert_eq!(dump(&graph), expected);
    let shown: Vec<&str> = graph.output.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(shown, ["logits"]);

    // With every layer kept in fp32, the rewritten graph is the graph of the network itself.
    let all = ["/stem/Conv", "/body/Conv", "/fc/Gemm"];
    let float = quantized(&network, &recipe(&network, &all), Target::Vnni);
    assert_eq!(dump(&float), dump(network.graph()));
}

#[test]
fn trained_networks_compute_in_units_of_their_results() {
    let mut b = Builder::new();
    let x = b.conv("stem", b.images, Conv::new(8, 3));
    let swish = b.hard_swish(x);
    let x = b.conv("body", swish, Conv::depthwise(8, 3));
    let sum = b.graph.add(x, swish).unwrap();
    let sum = b.graph.relu(sum);
    let logits = b.classify(sum);
    let network = b.finish(&[(logits, "logits")]);
    let mut recipe = recipe(&network, &[]);
    recipe.trained = true;
    recipe.scales.insert("images".to_owned(), 0.25);
    let graph = quantized(&network, &recipe, Target::Vnni);
    let expected = "\
images_steps = Mul(images)
images_q = QuantizeLinear(images_steps)
images_dq = DequantizeLinear(images_q)
stem.weight_dq = DequantizeLinear()
/stem/Conv_bias_dq = DequantizeLinear()
/stem/Conv_output = Conv(images_dq, stem.weight_dq, /stem/Conv_bias_dq)
/stem/Conv_output_q = QuantizeLinear(/stem/Conv_output)
/stem/Conv_output_dq = DequantizeLinear(/stem/Conv_output_q)
/stem/Mul_output = HardSwish(/stem/Conv_output_dq)
/stem/Mul_output_q = QuantizeLinear(/stem/Mul_output)
/stem/Mul_output_dq = DequantizeLinear(/stem/Mul_output_q)
body.weight_dq = DequantizeLinear()
/body/Conv_bias_dq = DequantizeLinear()
/body/Conv_output = Conv(/stem/Mul_output_dq, body.weight_dq, /body/Conv_bias_dq)
/body/Conv_output_q = QuantizeLinear(/body/Conv_output)
/body/Add_output_operand_0 = DequantizeLinear(/body/Conv_output_q)
/body/Add_output_operand_1 = DequantizeLinear(/stem/Mul_output_q)
/body/Add_output = Sum(/body/Add_output_operand_0, /body/Add_output_operand_1)
/body/Relu_output = Relu(/body/Add_output)
/body/Relu_output_q = QuantizeLinear(/body/Relu_output)
/body/ReduceMean_output_operand_0 = DequantizeLinear(/body/Relu_output_q)
/body/ReduceMean_output = GlobalAveragePool(/body/ReduceMean_output_operand_0)
/body/ReduceMean_output_q = QuantizeLinear(/body/ReduceMean_output)
/body/ReduceMean_output_dq = DequantizeLinear(/body/ReduceMean_output_q)
/body/Flatten_output = Flatten(/body/ReduceMean_output_dq)
/body/Flatten_output_q = QuantizeLinear(/body/Flatten_output)
/body/Flatten_output_dq = DequantizeLinear(/body/Flatten_output_q)
fc.weight_dq = DequantizeLinear()
/fc/Gemm_bias_dq = DequantizeLinear()
logits = Gemm(/body/Flatten_output_dq, fc.weight_dq, /fc/Gemm_bias_dq)
";
    assert_eq!(dump(&graph), expected);
    assert_eq!(f32_values(&graph, "images_inverse"), [4.0]);
    assert_eq!(scale(&graph, "images"), 0.25);
}

#[test]
fn a_trained_hard_swish_is_rounded_once() {
    let float = ["/stem/Mul_output = HardSwish(/stem/Conv_output_dq)"];
    let floats = [
        "/stem/HardSigmoid_output = HardSigmoid(/stem/Conv_output_dq)",
        "/stem/Mul_output = Mul(/stem/Conv_output_dq, /stem/HardSigmoid_output)",
    ];
    for (opset, expected) in [(13, floats.as_slice()), (14, &float)] {
        let mut b = Builder::of_opset(opset);
        let x = b.conv("stem", b.images, Conv::new(8, 3));
        let x = b.hard_swish(x);
        let logits = b.classify(x);
        let network = b.finish(&[(logits, "logits")]);
        let mut recipe = recipe(&network, &[]);
        recipe.trained = true;
        let text = dump(&quantized(&network, &recipe, Target::Vnni));
        let after = "/stem/Mul_output_q = QuantizeLinear(/stem/Mul_output)";
        let expected = format!("{}\n{after}\n", expected.join("\n"));
        assert!(text.contains(&expected), "{opset}: {text}");
    }
}

#[test]
fn a_relu_of_another_range_is_not_scaled() {
    let mut b = Builder::new();
    let left = b.conv("left", b.images, Conv::new(8, 3));
    let right = b.conv("right", b.images, Conv::new(8, 3));
    let sum = b.graph.add(left, right).unwrap();
    let sum = b.graph.relu(sum);
    let logits = b.classify(sum);
    let network = b.finish(&[(logits, "logits")]);
    let mut recipe = recipe(&network, &[]);
    recipe.trained = true;
    for (max, sums) in [(4.0, 1), (3.0, 0)] {
        recipe.ranges.get_mut("/left/Relu_output").unwrap().max = max;
        let graph = quantized(&network, &recipe, Target::Vnni);
        assert_eq!(count(&graph, "Sum"), sums);
        assert_eq!(count(&graph, "Add"), 1 - sums);
    }
}

#[test]
fn weights_and_biases_are_multiples_of_their_scales() {
    let mut b = Builder::new();
    let x = b.conv("a", b.images, Conv::new(4, 3));
    let network = b.finish(&[(x, "out")]);
    let exact = network.weight("a.weight").unwrap().data.clone();
    let bias = network.weight("a.bias").unwrap().data.clone();
    for (target, limit) in [(Target::Vnni, 127), (Target::Avx2, 64)] {
        let graph = quantized(&network, &recipe(&network, &[]), target);
        let tensor = |name: &str| {
            let tensor = graph.initializer.iter().find(|tensor| tensor.name == name);
            tensor.unwrap().raw_data.clone()
        };
        let scales = f32_values(&graph, "a.weight_s");
        let rounded: Vec<i8> = tensor("a.weight_q")
            .into_iter()
            .map(|byte| i8::from_le_bytes([byte]))
            .collect();
        for (channel, (exact, rounded)) in exact.chunks(27).zip(rounded.chunks(27)).enumerate() {
            assert_eq!(rounded.iter().map(|q| q.abs()).max(), Some(limit));
            for (exact, q) in exact.iter().zip(rounded) {
                let error = (f32::from(*q) * scales[channel] - exact).abs();
                assert!(error <= scales[channel] * 0.500_01);
            }
        }
        let bias_scales = f32_values(&graph, "/a/Conv_bias_s");
        let input = scale(&graph, "images");
        let chunks = tensor("/a/Conv_bias_q");
        let chunks = chunks.as_chunks::<4>().0.iter();
        let biases: Vec<i32> = chunks.map(|bytes| i32::from_le_bytes(*bytes)).collect();
        for channel in 0..4 {
            assert_eq!(bias_scales[channel], scales[channel] * input);
            let error = (biases[channel] as f32 * bias_scales[channel] - bias[channel]).abs();
            assert!(error <= bias_scales[channel]);
        }
    }
}

#[test]
fn trained_scales_are_kept() {
    let mut b = Builder::new();
    let x = b.conv("a", b.images, Conv::new(2, 1));
    let network = b.finish(&[(x, "out")]);
    let mut recipe = recipe(&network, &[]);
    for (trained, expected) in [(vec![0.5], [0.5, 0.5]), (vec![0.25, 2.0], [0.25, 2.0])] {
        recipe.weight_scales.insert("a.weight".to_owned(), trained);
        let graph = quantized(&network, &recipe, Target::Vnni);
        assert_eq!(f32_values(&graph, "a.weight_s"), expected);
        // Weights for AVX2 have half the range of int8, so they need twice the scale.
        let graph = quantized(&network, &recipe, Target::Avx2);
        let doubled = expected.map(|scale| 2.0 * scale);
        assert_eq!(f32_values(&graph, "a.weight_s"), doubled);
    }
}

#[test]
fn outputs_that_nodes_read_keep_their_names() {
    for float in [
        &[][..],
        &["/a/Conv"],
        &["/b/Conv"],
        &["/c/Conv"],
        &["/b/Conv", "/c/Conv"],
    ] {
        let mut b = Builder::new();
        let x = b.conv("a", b.images, Conv::new(4, 3));
        let inside = b.conv("b", x, Conv::new(4, 3));
        let relu = b.graph.relu(inside);
        let last = b.conv("c", inside, Conv::new(4, 3));
        let network = b.finish(&[
            (last, "last"),
            (relu, "relu"),
            (inside, "inside"),
            (x, "first"),
        ]);
        let graph = quantized(&network, &recipe(&network, float), Target::Vnni);
        let names: Vec<&str> = graph.output.iter().map(|v| v.name.as_str()).collect();
        assert_eq!(names, ["last", "relu", "inside", "first"], "{float:?}");
        // The network's output keeps its name: an int8 layer's result is dequantized to that name.
        for (layer, output) in [
            ("/a/Conv", "first"),
            ("/b/Conv", "inside"),
            ("/c/Conv", "last"),
        ] {
            let writes = |node: &&NodeProto| node.output[0] == output;
            let writer = graph.node.iter().find(writes).unwrap();
            let expected = if float.contains(&layer) {
                "Conv"
            } else {
                "DequantizeLinear"
            };
            assert_eq!(writer.op_type, expected, "{float:?} {output}");
        }
    }
}

#[test]
fn an_fp32_layer_between_int8_layers_is_guarded() {
    let mut b = Builder::new();
    let x = b.conv("a", b.images, Conv::new(4, 3));
    let x = b.conv("b", x, Conv::new(4, 3));
    let x = b.graph.relu(x);
    let x = b.conv("c", x, Conv::new(4, 3));
    let network = b.finish(&[(x, "out")]);
    let guarded = quantized(&network, &recipe(&network, &["/b/Conv"]), Target::Vnni);
    assert_eq!(count(&guarded, "Max"), 1);
    let max = guarded
        .node
        .iter()
        .find(|node| node.op_type == "Max")
        .unwrap();
    assert_eq!(max.input[0], "/b/Relu_output");
    let relu = scale(&guarded, "/b/Relu_output");
    let least = f32_values(&guarded, &max.input[1])[0];
    assert!((least + 4.0).abs() <= relu, "{least}");
    // No guard is needed without an fp32 layer that reads an int8 value and whose result is
    // quantized.
    for float in [&[][..], &["/a/Conv"], &["/a/Conv", "/b/Conv"], &["/c/Conv"]] {
        let graph = quantized(&network, &recipe(&network, float), Target::Vnni);
        assert_eq!(count(&graph, "Max"), 0, "{float:?}");
    }
}

#[test]
fn an_fp32_max_pool_is_quantized_for_each_of_two_readers() {
    let mut b = Builder::new();
    let x = b.conv("stem", b.images, Conv::new(4, 3));
    let x = b.graph.relu(x);
    let pool = crate::graph::ops::MaxPool {
        kernel: 3,
        stride: 2,
        padding: 1,
    };
    let x = b.graph.max_pool(x, pool).unwrap();
    let left = b.conv("left", x, Conv::new(4, 3));
    let right = b.conv("right", x, Conv::new(4, 1));
    let sum = b.graph.add(left, right).unwrap();
    let network = b.finish(&[(sum, "out")]);
    let graph = quantized(&network, &recipe(&network, &["/stem/Conv"]), Target::Vnni);
    let pool = "/stem/MaxPool_output";
    let quantizers = graph
        .node
        .iter()
        .filter(|node| node.op_type == "QuantizeLinear");
    let of_pool: Vec<&str> = quantizers
        .filter(|node| node.input[0] == pool)
        .map(|node| node.input[1].as_str())
        .collect();
    assert_eq!(of_pool.len(), 2);
    let [first, second] = [0, 1].map(|form| f32_values(&graph, of_pool[form])[0]);
    assert_eq!(second, first.next_up());
    let reads = |layer: &str| {
        let node = graph.node.iter().find(|node| node.name == layer).unwrap();
        node.input[0].clone()
    };
    assert_ne!(reads("/left/Conv"), reads("/right/Conv"));
    // A MaxPool with only one int8 reader, and a MaxPool in int8, need only one quantized form.
    for float in [&["/stem/Conv", "/left/Conv"][..], &[]] {
        let graph = quantized(&network, &recipe(&network, float), Target::Vnni);
        let forms = graph
            .node
            .iter()
            .filter(|node| node.op_type == "QuantizeLinear" && node.output[0].starts_with(pool));
        assert_eq!(forms.count(), 1, "{float:?}");
    }
}

#[test]
fn results_are_behind_the_activations_of_a_layer() {
    let mut b = Builder::new();
    let x = b.conv("a", b.images, Conv::new(4, 3));
    let x = b.hard_swish(x);
    let x = b.conv("b", x, Conv::new(4, 3));
    let x = b.graph.relu(x);
    let logits = b.classify(x);
    let network = b.finish(&[(logits, "logits")]);
    let result = |float: &[&str]| -> Vec<Option<String>> {
        let recipe = recipe(&network, float);
        let layers = network.layers().iter();
        layers
            .map(|layer| Some(network.result(layer, &recipe)?.fp32))
            .collect()
    };
    let some = |name: &str| Some(name.to_owned());
    let [mul, relu] = [some("/a/Mul_output"), some("/b/Relu_output")];
    // The last layer has no result to compare, since the result of its Gemm is not quantized.
    assert_eq!(result(&[]), [mul.clone(), relu, None]);
    assert_eq!(result(&["/b/Conv"]), [mul, None, None]);

    let recipe = recipe(&network, &[]);
    let fetched: Vec<String> = network
        .layers()
        .iter()
        .filter_map(|layer| Some(network.result(layer, &recipe)?.int8))
        .collect();
    let bytes = network.quantize_fetching(&recipe, Target::Vnni, &fetched);
    let graph = ModelProto::decode(&bytes.unwrap()[..])
        .unwrap()
        .graph
        .unwrap();
    for name in &fetched {
        assert!(
            graph.node.iter().any(|node| node.output.contains(name)),
            "{name}"
        );
    }
}

/// Returns the network that results from `edit` on the graph of `network`.
fn edited(network: &Network, edit: impl FnOnce(&mut GraphProto)) -> Network {
    let mut graph = network.graph().clone();
    edit(&mut graph);
    Network::read(&network.with_graph(graph)).unwrap()
}

#[test]
fn a_relu_without_an_output_does_not_end_the_program() {
    let mut b = Builder::new();
    let x = b.conv("stem", b.images, Conv::new(8, 3));
    let sum = b.graph.add(x, x).unwrap();
    let logits = b.classify(sum);
    let network = b.finish(&[(logits, "logits")]);
    let network = edited(&network, |graph| {
        let sum = graph.node.iter().find(|node| node.op_type == "Add");
        let input = sum.unwrap().output.clone();
        graph.node.push(NodeProto {
            op_type: "Relu".to_owned(),
            input,
            ..NodeProto::default()
        });
    });
    let trained = Recipe {
        trained: true,
        ..recipe(&network, &[])
    };
    assert!(network.quantize(&trained, Target::Vnni).is_ok());
}

#[test]
fn an_input_must_not_have_the_name_of_an_added_constant() {
    let mut b = Builder::new();
    let x = b.conv("stem", b.images, Conv::new(8, 3));
    let logits = b.classify(x);
    let network = b.finish(&[(logits, "logits")]);
    let network = edited(&network, |graph| {
        let mut input = graph.input[0].clone();
        "stem.weight_q".clone_into(&mut input.name);
        graph.input.push(input);
    });
    let result = network.quantize(&recipe(&network, &[]), Target::Vnni);
    let error = result.unwrap_err().to_string();
    assert!(
        error.starts_with("input `stem.weight_q` has the name of a constant"),
        "{error}"
    );
}
