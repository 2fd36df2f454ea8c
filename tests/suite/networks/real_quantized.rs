//! Checks the accuracy of networks with released weights in int8. The networks are calibrated on
//! some photographs and evaluated on other photographs.
//!
//! The weights and photographs cannot be published. If their folder (`SIGHTLINE_TEST_SHARED`, by default
//! `../shared/real`) does not exist, each test announces that it is skipped.

use crate::common;
use crate::reference;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::Server;
use crate::common::coco::{coco, detect};
use bytes::Bytes;
use onnx_export::quantize::{Network, Target};
use onnx_export::weights::StateDict;
use sightline::engine::{Arithmetic, Engine, OnnxRuntime};
use sightline::image::{DecodeOptions, Orientation, PreparedImage, Preprocessor, decode};
use sightline::quantize::{Goal, Progress, Subject, calibrate, cosine, search};
use sightline::registry::networks::Networks;
use sightline::store::{ModelSource, ModelStore};

/// A [`Progress`] that does not report the progress of calibration and search.
struct Silent;

impl Progress for Silent {
    fn start(&self, _: &str, _: usize) {}
    fn step(&self) {}
}

/// Returns the photographs in `folder` in two halves: those at even and at odd positions in the order of their names.
fn halves(folder: &Path) -> [Vec<PathBuf>; 2] {
    let files = std::fs::read_dir(folder).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let is_photograph = |file: &PathBuf| file.extension().is_some_and(|e| e != "csv");
    let mut files: Vec<PathBuf> = files.filter(is_photograph).collect();
    files.sort();
    let (even, odd): (Vec<_>, Vec<_>) =
        files.into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
    [even, odd].map(|half| half.into_iter().map(|(_, file)| file).collect())
}

/// Returns the photographs in `folder` in three thirds, by their positions in the order of their names.
fn thirds(folder: &Path) -> [Vec<PathBuf>; 3] {
    let [even, odd] = halves(folder);
    let mut files = [even, odd].concat();
    files.sort();
    let third = |n: usize| files.iter().skip(n).step_by(3).cloned().collect();
    [third(0), third(1), third(2)]
}

fn tensor(file: &Path, preprocessor: &Preprocessor) -> PreparedImage {
    let options = DecodeOptions {
        max_pixels: 1 << 26,
        orientation: Orientation::Apply,
    };
    let pixels = decode(&std::fs::read(file).unwrap(), &options).unwrap();
    preprocessor.run(&pixels).unwrap()
}

/// Runs `sightline ARGS...` and returns its standard output. Panics if the command fails or takes
/// more than 5 minutes.
fn sightline(args: &[&str]) -> String {
    let (code, stdout, stderr) = common::run_within(args, Duration::from_mins(5));
    assert_eq!(code, Some(0), "{args:?}: {stderr}");
    stdout
}

/// Quantizes the model `name` for `target` with the folder `photographs` for calibration, and
/// writes the result to `models/name`. The model is exported from the checkpoint `weights` first,
/// or is built in if `weights` is `None`. Returns the report that the command prints.
fn quantized(
    models: &Path,
    name: &str,
    weights: Option<&Path>,
    photographs: &Path,
    target: &str,
) -> String {
    let out = models.join(name);
    let out = out.to_str().unwrap();
    let mut model = name;
    if let Some(weights) = weights {
        common::export(name, weights, out.as_ref());
        model = out;
    }
    let calibration = photographs.to_str().unwrap();
    let common = ["quantize", model, "--calibration", calibration, "-o", out];
    // With `--force`, the command accepts an int8 model that is slower than fp32: the speed depends
    // on the machine and is not tested.
    let text = sightline(&[&common[..], &["--target", target, "--force"]].concat());
    let report = std::fs::read(models.join(name).join("model.int8.report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    for network in report["networks"].as_array().unwrap() {
        let held_out = |key: &str| network["held_out"][key].as_f64().unwrap();
        let (cosine, kept) = (held_out("cosine"), held_out("kept_variation"));
        assert!(cosine > 0.98 && (0.8..1.25).contains(&kept), "{text}");
    }
    text
}

/// Returns a temporary folder with copies of `files`.
fn folder_of(files: &[PathBuf]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        std::fs::copy(file, folder.path().join(file.file_name().unwrap())).unwrap();
    }
    folder
}

fn best(scores: &[f32]) -> usize {
    let scores = scores.iter().enumerate();
    scores.max_by(|(_, a), (_, b)| a.total_cmp(b)).unwrap().0
}

/// Runs the model in `folder` in fp32 and in int8. Returns for how many of the `photographs` fp32
/// and int8 have the same best class.
fn same_top1(folder: &Path, photographs: &[PathBuf], runtime: &OnnxRuntime) -> usize {
    let folder = folder.to_str().unwrap();
    let find = |reference: &str| {
        let reference = format!("{folder}/{reference}").parse().unwrap();
        ModelStore::new(None).find(&reference).unwrap()
    };
    let engine = |source: &ModelSource| {
        Networks::prepare(source, None, runtime)
            .unwrap()
            .engine()
            .unwrap()
    };
    let float = find("model.toml");
    let preprocessor = Preprocessor::new(&float.manifest.preprocess);
    let int8 = ModelSource {
        // `None` loads the int8 file as it is, even if the file targets another CPU.
        requantize: None,
        ..find("model.toml@int8")
    };
    let (mut float, mut int8) = (engine(&float), engine(&int8));
    let class = |engine: &mut Box<dyn Engine>, file: &PathBuf| {
        let image = tensor(file, &preprocessor);
        let outputs = engine.run(vec![image]).unwrap();
        best(&outputs[0].f32("logits").unwrap().data)
    };
    let same = photographs
        .iter()
        .filter(|file| class(&mut float, file) == class(&mut int8, file));
    same.count()
}

/// Checks, for both CPU targets, that at least 98 of 100 photographs have the same best class in
/// int8 as in fp32. The classifier is quantized with two thirds of the photographs, 53 of which
/// calibrate it and 13 of which the command holds out, and is evaluated on the other third.
///
/// Each third is evaluated once, since one third alone may hold several photographs whose two best
/// fp32 scores are equal.
fn classifier_agrees(test: &str, name: &str, weights: Option<&str>) {
    let Some(shared) = reference::real_data(test) else {
        return;
    };
    let thirds = thirds(&shared.join("imagenet"));
    let weights = weights.map(|file| shared.join(file));
    for target in ["vnni", "avx2"] {
        // 8-bit weights (for VNNI) run in simulated arithmetic, since sums of their products would
        // overflow in the kernels of a CPU without VNNI.
        let runtime = reference::runtime().with_arithmetic(match target {
            "vnni" => Arithmetic::Simulated,
            _ => Arithmetic::Kernels,
        });
        let (mut same, mut judged) = (0, 0);
        for (n, others) in thirds.iter().enumerate() {
            let calibration = [&thirds[(n + 1) % 3][..], &thirds[(n + 2) % 3]].concat();
            let (models, photographs) = (tempfile::tempdir().unwrap(), folder_of(&calibration));
            let (models, photographs) = (models.path(), photographs.path());
            let report = quantized(models, name, weights.as_deref(), photographs, target);
            print!("{report}");
            let kept = same_top1(&models.join(name), others, &runtime);
            println!(
                "{name} for {target}: same best class as fp32 in {kept} of {} photographs",
                others.len()
            );
            (same, judged) = (same + kept, judged + others.len());
            let size = |file: &str| {
                let file = models.join(name).join(file);
                std::fs::metadata(file).unwrap().len() as f64
            };
            let ratio = size("model.int8.onnx") / size("model.onnx");
            assert!(ratio <= 0.2805, "int8 size / fp32 size: {ratio}");
        }
        println!("{name} for {target}: same best class in {same} of {judged} photographs");
        assert!(judged == 100 && same >= 98, "{same} of {judged}");
    }
}

#[test]
fn efficientnet_lite0_keeps_its_best_classes_in_int8() {
    classifier_agrees(
        "efficientnet_lite0_keeps_its_best_classes_in_int8",
        "efficientnet_lite0",
        None,
    );
}

#[test]
fn mobilenet_v2_keeps_its_best_classes_in_int8() {
    let weights = Some("weights/mobilenet_v2.pth");
    classifier_agrees(
        "mobilenet_v2_keeps_its_best_classes_in_int8",
        "mobilenet_v2",
        weights,
    );
}

/// Checks that the features of an int8 backbone with released weights have a mean cosine similarity
/// to the fp32 features of at least 0.97. For comparison, naive quantization of this network
/// reaches only 0.42.
#[test]
fn a_released_mobilenet_v3_trunk_keeps_its_features_in_int8() {
    let test = "a_released_mobilenet_v3_trunk_keeps_its_features_in_int8";
    let Some(shared) = reference::real_data(test) else {
        return;
    };
    let file = shared.join("weights/mobilenet_v3_small-features.pth");
    let manifest = sightline::catalogue::manifest("mobilenet_v3_small")
        .unwrap()
        .unwrap();
    let float = Bytes::from(reference::trunk::pooled(
        &StateDict::read(&file).unwrap(),
        &manifest,
    ));
    let preprocessor = Preprocessor::new(&manifest.preprocess);
    let [calibration, judged] = halves(&shared.join("imagenet")).map(|half| {
        half.iter()
            .map(|file| tensor(file, &preprocessor))
            .collect::<Vec<_>>()
    });
    let runtime = reference::runtime();
    let subject = Subject {
        runtime: runtime.clone(),
        network: Network::read(&float).unwrap(),
        first: None,
    };
    let statistics = calibrate(&subject, &calibration, &Silent).unwrap();
    for (target, arithmetic) in [
        (Target::Vnni, Arithmetic::Simulated),
        (Target::Avx2, Arithmetic::Kernels),
    ] {
        let goal = Goal {
            target,
            cosine: 0.9975,
            max_float: 0.2,
            method: None,
        };
        let choice = search(&subject, &statistics, &calibration[..16], goal, &Silent).unwrap();
        let int8 = subject.network.quantize(&choice.recipe, target).unwrap();
        let mut float = subject.probe(&float, Arithmetic::Kernels).unwrap();
        let mut int8 = subject.probe(&int8, arithmetic).unwrap();
        let mut cosines = judged.iter().map(|image| {
            let one = float.run(image.clone()).unwrap().unwrap();
            cosine(
                &one[0].data,
                &int8.run(image.clone()).unwrap().unwrap()[0].data,
            )
        });
        let mean = cosines.by_ref().sum::<f64>() / judged.len() as f64;
        let share = 1.0 - choice.float_share;
        println!(
            "{} {}: mean cosine similarity {mean:.4}, share of multiplications in int8 {share:.3}",
            target.as_str(),
            choice.method
        );
        println!("  fp32 layers: {:?}", choice.recipe.float_layers);
        assert!(share >= 0.8, "share of int8 multiplications {share}");
        assert!(mean >= 0.97, "mean cosine similarity {mean}");
    }
}

#[test]
fn ssdlite_keeps_its_average_precision_in_int8() {
    let test = "ssdlite_keeps_its_average_precision_in_int8";
    let name = "ssdlite320_mobilenet_v3_large";
    let Some(shared) = reference::real_data(test) else {
        return;
    };
    let models = tempfile::tempdir().unwrap();
    let weights = shared.join(format!("weights/{name}.pth"));
    let photographs = shared.join("coco/images");
    // The photographs for calibration are not among the photographs that are evaluated.
    let calibration = shared.join("imagenet");
    let report = quantized(models.path(), name, Some(&weights), &calibration, "auto");
    print!("{report}");
    let server = Server::start(&["--models", models.path().to_str().unwrap()]);
    let mut written = Vec::new();
    for file in std::fs::read_dir(&photographs).unwrap() {
        let file = file.unwrap().path();
        let got = detect(
            &server,
            &format!("{name}@int8"),
            &std::fs::read(&file).unwrap(),
        );
        let file = file.file_name().unwrap().to_str().unwrap().to_owned();
        written.extend(got.iter().map(|object| coco(&file, object)));
    }
    if let Some(precision) =
        reference::average_precision(test, &shared.join("coco/instances.json"), &written)
    {
        println!("{name}@int8: average precision {precision:.4}, in fp32 0.2774");
        assert!(precision >= 0.265, "{precision}");
    }
}
