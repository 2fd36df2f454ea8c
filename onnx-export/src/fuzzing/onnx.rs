//! Reads ONNX files as every command does, and quantizes them.

use std::collections::BTreeMap;

use prost::Message;

use super::check_message;
use crate::proto::ModelProto;
use crate::quantize::{Network, QuantizeError, Range, Recipe, Target};
use crate::{check_weights, read_initializers, reject_external_data};

/// Reads an ONNX file: searches for external data, checks that weights are finite, reads
/// initializers, and quantizes the network with several recipes. Returns whether the network can be
/// quantized.
///
/// # Panics
/// If a rewritten network is not an ONNX file without external data, or an error message is too
/// long or has control characters.
pub fn read_onnx(bytes: &[u8]) -> bool {
    if let Err(error) = check_weights(bytes) {
        check_message(&error.to_string());
    }
    // No command decodes a file that this check rejects.
    if let Err(error) = reject_external_data(bytes) {
        check_message(&error.to_string());
        return false;
    }
    match read_initializers(bytes, 1) {
        Ok(tensors) => {
            for tensor in tensors {
                let elements: i64 = tensor.shape.iter().product();
                assert_eq!(tensor.data.len() as i64, elements);
            }
        }
        Err(error) => check_message(&error.to_string()),
    }
    match Network::read(bytes) {
        Ok(network) => {
            check_statistics(&network);
            recipes(&network)
                .iter()
                .fold(false, |any, recipe| quantize(&network, recipe) | any)
        }
        Err(error) => {
            check_message(&error.to_string());
            false
        }
    }
}

/// Reads the networks that a calibration runs.
fn check_statistics(network: &Network) {
    let (observed, statistics) = network.observed();
    assert!(outputs(&observed) == statistics.len());
    let values: Vec<String> = network.values().into_iter().take(4).collect();
    assert!(outputs(&network.fetching(&values)) == values.len());
}

/// Returns recipes of the kinds that calibration and quantization-aware training produce: with
/// means of channels, with trained scales, and with the first layer kept in fp32.
fn recipes(network: &Network) -> [Recipe; 3] {
    let range = |(index, value): (usize, String)| {
        let max = [0.0, 6.0, 1e-3][index % 3];
        (value, Range { min: -3.0, max })
    };
    let ranges: BTreeMap<_, _> = network
        .values()
        .into_iter()
        .enumerate()
        .map(range)
        .collect();
    let channels = |layer: &crate::quantize::Layer| (layer.input.clone(), vec![0.5; 4]);
    let base = Recipe {
        scales: ranges.keys().map(|value| (value.clone(), 0.1)).collect(),
        channel_means: network.layers().iter().map(channels).collect(),
        ranges,
        ..Recipe::default()
    };
    let scales = |layer: &crate::quantize::Layer| (layer.weight.clone(), vec![0.01]);
    let trained = Recipe {
        trained: true,
        weight_scales: network.layers().iter().map(scales).collect(),
        ..base.clone()
    };
    let first = network.layers().iter().take(1);
    let partial = Recipe {
        float_layers: first.map(|layer| layer.name.clone()).collect(),
        scales: BTreeMap::new(),
        ..base.clone()
    };
    [base, trained, partial]
}

/// Quantizes the network for both kinds of CPU. Returns whether that succeeds.
fn quantize(network: &Network, recipe: &Recipe) -> bool {
    let results = network.layers().iter();
    let results = results.filter_map(|layer| network.result(layer, recipe));
    let values: Vec<String> = results.map(|result| result.int8).take(4).collect();
    let quantized = [
        network.quantize(recipe, Target::Vnni),
        network.quantize(recipe, Target::Avx2),
        network.quantize_fetching(recipe, Target::Vnni, &values),
    ];
    let mut succeeded = false;
    for (index, quantized) in quantized.into_iter().enumerate() {
        match quantized {
            Ok(bytes) => {
                let expected = [network.outputs().count(), values.len()][usize::from(index == 2)];
                assert_eq!(outputs(&bytes), expected);
                check_quantized(&bytes);
                succeeded = true;
            }
            Err(error) => check_message(&error.to_string()),
        }
    }
    succeeded
}

/// Returns the number of outputs of a network that was written by a rewriting.
fn outputs(bytes: &[u8]) -> usize {
    assert_eq!(reject_external_data(bytes), Ok(()));
    let model = ModelProto::decode(bytes);
    let Ok(ModelProto {
        graph: Some(graph), ..
    }) = model
    else {
        panic!("a rewritten network is no ONNX file: {model:?}");
    };
    graph.output.len()
}

/// Checks that an int8 network is recognized as quantized, or holds no quantized layer.
fn check_quantized(bytes: &[u8]) {
    match Network::read(bytes) {
        Ok(_) | Err(QuantizeError::Quantized { .. } | QuantizeError::NoLayers) => {}
        Err(error) => panic!("an int8 network cannot be read: {error}"),
    }
}
