//! Exports a small checkpoint of the repository. The export takes a fraction of a second.

use std::path::Path;

use super::{path, run};

/// Path below `tests/` of a checkpoint of MobileNetV3-Small with 10 classes and a width multiplier of 0.25.
pub const CHECKPOINT: &str = "golden/mobilenet_v3_small-width_mult_0.25-num_classes_10.zip.pth";

/// Catalogue name of the network of [`CHECKPOINT`].
pub const NETWORK: &str = "mobilenet_v3_small";

/// Flags of `sightline export` that describe how [`CHECKPOINT`] differs from the catalogue's
/// network.
pub const SHAPE: [&str; 2] = ["--width-mult=0.25", "--num-classes=10"];

/// Returns the arguments with which `sightline` exports [`CHECKPOINT`] into the model folder `out`.
pub fn export_arguments(out: &Path) -> Vec<String> {
    let weights = path(CHECKPOINT);
    let paths = [weights.to_str().unwrap(), out.to_str().unwrap()];
    let fixed = ["export", NETWORK, SHAPE[0], SHAPE[1]];
    let all = [&fixed[..], &["--weights", paths[0], "-o", paths[1]]].concat();
    all.into_iter().map(str::to_owned).collect()
}

/// Exports [`CHECKPOINT`] into the model folder `out` and returns the command's standard output.
pub fn export(out: &Path) -> String {
    let (code, stdout, stderr) = run(&export_arguments(out));
    assert_eq!(code, Some(0), "{stderr}");
    stdout
}
