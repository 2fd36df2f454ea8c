//! Checks that the server's detections in real photographs, with released weights, match
//! torchvision's detections.
//!
//! The weights and photographs cannot be published. If their folder (`SIGHTLINE_TEST_SHARED`, by default
//! `../shared/real`) does not exist, the test announces that it is skipped.

use crate::common;
use std::collections::BTreeMap;
use std::path::Path;

use crate::common::Server;
use crate::common::coco::{Object, coco, detect};
use crate::reference::{self, average_precision, iou, matched};
use serde::Deserialize;
use serde_json::Value;

const NETWORK: &str = "ssdlite320_mobilenet_v3_large";
/// Score above which a detection of torchvision must have a matching detection of the server.
const SURE: f32 = 0.3;

#[derive(Deserialize)]
struct Expected {
    class_id: u64,
    score: f32,
    r#box: [f32; 4],
}

/// Exports the released checkpoint of [`NETWORK`] and starts a server with the exported model.
/// Returns the server and its models directory.
fn server(folder: &Path) -> (Server, tempfile::TempDir) {
    let models = tempfile::tempdir().unwrap();
    let weights = folder.join(format!("weights/{NETWORK}.pth"));
    common::export(NETWORK, weights.as_ref(), &models.path().join(NETWORK));
    let server = Server::start(&["--models", models.path().to_str().unwrap()]);
    (server, models)
}

/// Returns those detections of torchvision whose score is above [`SURE`].
fn sure(expected: Vec<Expected>) -> Vec<Object> {
    let object = |expected: Expected| Object {
        class_id: expected.class_id,
        score: expected.score,
        corners: expected.r#box,
    };
    let objects = expected.into_iter().map(object);
    objects.filter(|object| object.score > SURE).collect()
}

#[test]
fn ssdlite_gives_torchvisions_detections() {
    let Some(folder) = reference::real_data("ssdlite_gives_torchvisions_detections") else {
        return;
    };
    let text = std::fs::read_to_string(folder.join("torchvision.json")).unwrap();
    let answers: Value = serde_json::from_str(&text).unwrap();
    let answers = &answers[NETWORK];
    let expected: BTreeMap<String, Vec<Expected>> =
        serde_json::from_value(answers["detections_by_file"].clone()).unwrap();
    assert_eq!(expected.len(), 64);
    let (server, _models) = server(&folder);
    let (mut found, mut all, mut written) = (0, 0, Vec::new());
    for (file, expected) in expected {
        let photograph = std::fs::read(folder.join("coco/images").join(&file)).unwrap();
        let got = detect(&server, NETWORK, &photograph);
        let sure = sure(expected);
        all += sure.len();
        found += matched(&got, &sure, |a, b| {
            a.class_id == b.class_id
                && iou(a.corners, b.corners) > 0.98
                && (a.score - b.score).abs() < 0.02
        });
        written.extend(got.iter().map(|object| coco(&file, object)));
    }
    println!("{NETWORK}: {found} of torchvision's {all} detections above {SURE} have a match");
    assert!(all > 100 && found * 100 >= 98 * all, "{found} of {all}");
    let instances = folder.join("coco/instances.json");
    if let Some(precision) = average_precision(
        "ssdlite_gives_torchvisions_detections",
        &instances,
        &written,
    ) {
        let published = answers["AP"].as_f64().unwrap();
        println!("{NETWORK}: average precision {precision:.4}, torchvision's {published:.4}");
        assert!((precision - published).abs() < 0.003, "{precision}");
    }
}
