//! A server with a model for each task.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::{eventually, repository};

const DETECTOR: &str = "ssdlite320_mobilenet_v3_large";
const SEGMENTER: &str = "lraspp_mobilenet_v3_large";

/// A running server. Dropping the value ends it.
pub struct Server {
    child: Child,
    /// URL of the public listener, without a slash at the end.
    pub origin: String,
    /// URL of the admin listener, without a slash at the end.
    pub admin: String,
    _models: TempDir,
}

impl Server {
    /// Starts a server with the built-in classification network, a detector with trained weights if there are any
    /// (`SIGHTLINE_TEST_SHARED`) or else with generated ones, and a segmentation network with generated weights. `args`
    /// are further flags of `serve`.
    pub fn start(args: &[&str]) -> Self {
        let models = tempfile::tempdir().unwrap();
        let trained = std::env::var_os("SIGHTLINE_TEST_SHARED").map(PathBuf::from);
        let trained = trained
            .map(|shared| shared.join(format!("weights/{DETECTOR}.pth")))
            .filter(|file| file.exists());
        let weights = trained.unwrap_or_else(|| generated(DETECTOR, models.path()));
        let detector = export(DETECTOR, &weights, models.path());
        let segmenter = export(
            SEGMENTER,
            &generated(SEGMENTER, models.path()),
            models.path(),
        );
        let mut command = sightline();
        command.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--model",
            "efficientnet_lite0",
        ]);
        command
            .arg("--model")
            .arg(detector)
            .arg("--model")
            .arg(segmenter)
            .args(args);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut address = |before: &str| loop {
            let mut line = String::new();
            assert_ne!(
                stdout.read_line(&mut line).unwrap(),
                0,
                "the server ended before it printed: {before}"
            );
            if let Some((_, address)) = line.split_once(before) {
                return address.trim().to_owned();
            }
        };
        let (origin, admin) = (address("listening on "), address("health and metrics on "));
        std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        let server = Self {
            child,
            origin,
            admin,
            _models: models,
        };
        eventually("the server is ready", || {
            ureq::get(format!("{}/health/ready", server.origin))
                .call()
                .ok()
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command `sightline`: the release build, or the binary that `SIGHTLINE_TEST_BINARY` names.
fn sightline() -> Command {
    let named = std::env::var_os("SIGHTLINE_TEST_BINARY").map(PathBuf::from);
    let program = named.unwrap_or_else(|| repository("target/release/sightline"));
    assert!(
        program.exists(),
        "{} does not exist: run `make browser-test`",
        program.display()
    );
    Command::new(program)
}

/// Writes a checkpoint of `network` with generated weights.
fn generated(network: &str, folder: &Path) -> PathBuf {
    let file = folder.join(format!("{network}.safetensors"));
    run(Command::new("python3")
        .arg(repository("scripts/formula-checkpoint.py"))
        .arg(network)
        .arg(&file));
    file
}

/// Exports `network` and returns the path of its manifest.
fn export(network: &str, weights: &Path, folder: &Path) -> PathBuf {
    let output = folder.join(network);
    run(sightline()
        .args(["export", network, "--weights"])
        .arg(weights)
        .arg("-o")
        .arg(&output));
    output
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
