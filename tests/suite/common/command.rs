//! Runs the `sightline` binary and other commands with a time limit.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::PATIENCE;

/// Returns the command `sightline ARGS...`. The command inherits no `SIGHTLINE_*` variables, and
/// uses the ONNX Runtime library in `.cache/onnxruntime` if that exists and `ORT_DYLIB_PATH` is not
/// set. The binary is the one that Cargo has built for the test, or the file that the variable
/// `SIGHTLINE_TEST_BINARY` names.
pub fn sightline<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let binary = std::env::var_os("SIGHTLINE_TEST_BINARY");
    let binary = binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_sightline").into());
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SIGHTLINE_") {
            command.env_remove(name);
        }
    }
    let cached = ".cache/onnxruntime/libonnxruntime.so";
    let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join(cached);
    if std::env::var_os("ORT_DYLIB_PATH").is_none() && cached.is_file() {
        command.env("ORT_DYLIB_PATH", cached);
    }
    // Tests must not find models that the developer installed.
    command.env("XDG_DATA_HOME", "/nonexistent");
    // Without these variables no start-up cache is written, so that tests do not depend on earlier ones.
    command.env_remove("XDG_CACHE_HOME").env_remove("HOME");
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs `sightline ARGS...` and returns its exit code, stdout and stderr. If the command takes
/// longer than [`PATIENCE`], kills the process and panics.
pub fn run<S: AsRef<OsStr>>(args: &[S]) -> (Option<i32>, String, String) {
    finish(sightline(args))
}

/// Runs `sightline predict --json --top-k=10 --model MODEL IMAGE` and returns the predictions.
pub fn predicted(model: &str, image: &Path) -> Value {
    let args: [&OsStr; 6] = [
        "predict".as_ref(),
        "--json".as_ref(),
        "--top-k=10".as_ref(),
        "--model".as_ref(),
        model.as_ref(),
        image.as_os_str(),
    ];
    let (code, stdout, stderr) = run(&args);
    assert_eq!(code, Some(0), "{model}: {stderr}");
    let mut result: Value = serde_json::from_str(&stdout).unwrap();
    result["predictions"].take()
}

/// Exports the checkpoint `weights` of the catalogue's `network` into the model folder `out`.
pub fn export(network: &str, weights: &Path, out: &Path) {
    let args: [&OsStr; 6] = [
        "export".as_ref(),
        network.as_ref(),
        "--weights".as_ref(),
        weights.as_os_str(),
        "-o".as_ref(),
        out.as_os_str(),
    ];
    let (code, _, error) = run(&args);
    assert_eq!(code, Some(0), "{error}");
}

/// Runs `sightline ARGS...` as [`run`] does, with the time limit `patience` instead of
/// [`PATIENCE`].
pub fn run_within<S: AsRef<OsStr>>(
    args: &[S],
    patience: Duration,
) -> (Option<i32>, String, String) {
    finish_within(sightline(args), patience)
}

/// Runs `command` and returns its exit code, stdout and stderr. If the command takes longer than
/// [`PATIENCE`], kills the process and panics.
pub fn finish(command: Command) -> (Option<i32>, String, String) {
    finish_within(command, PATIENCE)
}

fn finish_within(mut command: Command, patience: Duration) -> (Option<i32>, String, String) {
    let spawned = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.unwrap();
    let stdout = drain(child.stdout.take().unwrap());
    let stderr = drain(child.stderr.take().unwrap());
    let status = wait(&mut child, patience);
    (
        status.code(),
        stdout.join().unwrap(),
        stderr.join().unwrap(),
    )
}

/// Starts a thread that reads `from` to its end and returns what it has read as text.
fn drain(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits until a process exits and returns its status. If the process runs longer than `patience`,
/// kills it and panics.
pub fn wait(child: &mut Child, patience: Duration) -> ExitStatus {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("the process did not end within {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
