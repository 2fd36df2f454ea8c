//! A checkpoint that exports in a fraction of a second.

use std::path::Path;

use super::{path, run};

/// A checkpoint of MobileNetV3-Small at a quarter of its width with 10 classes, below `tests/`.
pub const CHECKPOINT: &str = "golden/mobilenet_v3_small-width_mult_0.25-num_classes_10.zip.pth";

/// The network of the checkpoint.
pub const NETWORK: &str = "mobilenet_v3_small";

/// The flags that `export` needs for the checkpoint.
pub const SHAPE: [&str; 2] = ["--width-mult=0.25", "--num-classes=10"];

/// The arguments that export the checkpoint as the model folder `out`.
pub fn export_arguments(out: &Path) -> Vec<String> {
    let weights = path(CHECKPOINT);
    let paths = [weights.to_str().unwrap(), out.to_str().unwrap()];
    let fixed = ["export", NETWORK, SHAPE[0], SHAPE[1]];
    let all = [&fixed[..], &["--weights", paths[0], "-o", paths[1]]].concat();
    all.into_iter().map(str::to_owned).collect()
}

/// Exports the checkpoint as the model folder `out`, and returns what was printed.
pub fn export(out: &Path) -> String {
    let (code, stdout, stderr) = run(&export_arguments(out));
    assert_eq!(code, Some(0), "{stderr}");
    stdout
}
