//! `POST /v1/embed`: pooled features of classification networks.

use crate::reference;
use std::collections::BTreeMap;
use std::path::Path;

use crate::common::{self, Server};
use onnx_export::formula;
use onnx_export::weights::StateDict;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use sightline::catalogue;
use sightline::quantize::cosine;

/// Returns the embedding in `result`, after checking its size.
fn embedding(result: &Value) -> Vec<f32> {
    let embedding: Vec<f32> = serde_json::from_value(result["embedding"].clone()).unwrap();
    assert_eq!(result["dimensions"], embedding.len());
    embedding
}

/// Returns the embedding of `image`. `query` is empty or starts with `?`.
fn embed(server: &Server, query: &str, image: &[u8]) -> Vec<f32> {
    let reply = server.post(
        &format!("/v1/embed{query}"),
        "application/octet-stream",
        image,
    );
    embedding(&reply.results().remove(0))
}

/// Writes a checkpoint of MobileNetV3-Small with the released trunk and a generated classifier, and exports it.
fn export_trunk(folder: &Path, out: &Path) {
    let manifest = catalogue::manifest("mobilenet_v3_small").unwrap().unwrap();
    let shapes = onnx_export::tensor_shapes(&manifest.architecture.unwrap()).unwrap();
    let generated = formula::state_dict(&shapes, &[]).unwrap();
    let released =
        StateDict::read(&folder.join("weights/mobilenet_v3_small-features.pth")).unwrap();
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for state in [&generated, &released] {
        for (name, tensor) in state.iter() {
            // Counters of batch norms are integers without axes, which exports do not need.
            if tensor.shape().is_empty() {
                continue;
            }
            let bytes = tensor.bytes().to_vec();
            tensors.insert(name.to_owned(), (tensor.shape().to_vec(), bytes));
        }
    }
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        (
            name,
            TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap(),
        )
    });
    let checkpoint = tempfile::Builder::new()
        .suffix(".safetensors")
        .tempfile()
        .unwrap();
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(checkpoint.path(), bytes).unwrap();
    common::export("mobilenet_v3_small", checkpoint.path(), out);
}

/// Returns the index of the other embedding that is most similar to that of `index`.
fn nearest(index: usize, embeddings: &[Vec<f32>]) -> usize {
    let others = (0..embeddings.len()).filter(|other| *other != index);
    let similarity = |other: usize| cosine(&embeddings[index], &embeddings[other]);
    others
        .max_by(|a, b| similarity(*a).total_cmp(&similarity(*b)))
        .unwrap()
}

#[test]
fn a_released_trunk_gives_torchvisions_features_and_neighbors() {
    let test = "a_released_trunk_gives_torchvisions_features_and_neighbors";
    let Some(folder) = reference::real_data(test) else {
        return;
    };
    let models = tempfile::tempdir().unwrap();
    export_trunk(&folder, &models.path().join("trunk"));
    let server = Server::start(&["--models", models.path().to_str().unwrap()]);
    let file = std::fs::read(folder.join("mobilenet_v3_small-features.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let values = tensors
        .tensor("features")
        .unwrap()
        .data()
        .as_chunks::<4>()
        .0;
    let values: Vec<f32> = values
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    let expected: Vec<Vec<f32>> = values.chunks(576).map(<[f32]>::to_vec).collect();
    let labels = std::fs::read_to_string(folder.join("imagenet/labels.csv")).unwrap();
    let files = labels
        .lines()
        .skip(1)
        .map(|line| line.split(',').next().unwrap());
    let got: Vec<Vec<f32>> = files
        .map(|file| {
            let photograph = std::fs::read(folder.join("imagenet").join(file)).unwrap();
            // torchvision's features were computed without applying the EXIF orientation.
            embed(&server, "?orientation=ignore", &photograph)
        })
        .collect();
    assert_eq!((got.len(), expected.len()), (100, 100));
    let mut largest = 0.0_f32;
    for (got, expected) in got.iter().zip(&expected) {
        assert_eq!(got.len(), 576);
        let differences = got.iter().zip(expected).map(|(a, b)| (a - b).abs());
        largest = differences.fold(largest, f32::max);
    }
    println!("{test}: largest difference {largest:.1e}");
    assert!(largest < 1e-4, "{largest}");
    for index in 0..got.len() {
        assert_eq!(nearest(index, &got), nearest(index, &expected), "{index}");
    }
}

#[test]
fn the_built_in_model_embeds_in_both_precisions() {
    let server = Server::start(&["--model", "efficientnet_lite0"]);
    let image = common::photo("chelsea.png");
    let features = embed(&server, "", &image);
    assert_eq!(features.len(), 1280);
    let unit = embed(&server, "?normalize=true", &image);
    let length: f32 = unit.iter().map(|value| value * value).sum();
    assert!((length - 1.0).abs() < 1e-5, "{length}");
    assert!(cosine(&features, &unit) > 0.999_999);
    let int8 = embed(&server, "?model=efficientnet_lite0@int8", &image);
    let similarity = cosine(&features, &int8);
    println!("cosine of int8 and fp32 embeddings: {similarity:.4}");
    assert!(similarity > 0.97, "{similarity}");
    // All bodies of the other routes, and batches.
    let other = common::photo("coffee.png");
    let (kind, body) = common::form(&[("image", &image), ("image", &other)]);
    let results = server.post("/v1/embed", kind, &body).results();
    assert_eq!(results.len(), 2);
    assert!(cosine(&embedding(&results[0]), &features) > 0.999_999);
    assert!(cosine(&embedding(&results[1]), &features) < 0.99);
    let json = common::json_body(&[&image[..]]);
    let results = server
        .post("/v1/embed", "application/json", &json)
        .results();
    assert!(cosine(&embedding(&results[0]), &features) > 0.999_999);
    let wrong = server.post("/v1/embed?normalise=true", "image/png", &image);
    assert_eq!((wrong.status, &*wrong.code()), (400, "bad_parameter"));
}

#[test]
fn every_classification_network_of_the_catalogue_has_an_embedding() {
    let dimensions = [
        ("mobilenet_v2", 1280),
        ("mobilenet_v3_large", 960),
        ("mobilenet_v3_small", 576),
        ("resnet18", 512),
        ("efficientnet_b0", 1280),
        ("convnext_tiny", 768),
    ];
    let models = tempfile::tempdir().unwrap();
    for (network, _) in dimensions {
        common::checkpoint::export(network, Some(&["a", "b"]), models.path(), network);
    }
    let server = Server::start(&["--models", models.path().to_str().unwrap()]);
    let image = common::photo("rocket.jpg");
    for (network, expected) in dimensions {
        let features = embed(&server, &format!("?model={network}"), &image);
        assert_eq!(features.len(), expected, "{network}");
    }
}
