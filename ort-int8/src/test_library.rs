//! Loads ONNX Runtime's library in tests.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ort::environment::Environment;

/// The ONNX Runtime environment that all tests share, because ONNX Runtime allows one environment
/// per process.
static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();

/// Returns the environment of ONNX Runtime's library, which the first call loads from
/// `ORT_DYLIB_PATH`. If this variable is not set or empty, the library is the one that
/// `scripts/fetch-onnxruntime.sh` fetches to `.cache/onnxruntime/`.
pub(crate) fn load() -> Environment {
    let environment = ENVIRONMENT.get_or_init(|| {
        let cached = "../.cache/onnxruntime/libonnxruntime.so";
        let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join(cached);
        let named = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty());
        let path = named.map_or(cached, PathBuf::from);
        let builder = ort::init_from(&path);
        builder.unwrap().with_telemetry(false).build().unwrap()
    });
    environment.clone()
}
